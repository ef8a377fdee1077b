//! What a node counts is what has happened: an operator's hit ratio, registry's bill and latencies are made of it.

use std::time::Duration;

use darter_tests::{Daemon, Io, Metrics, Origin, Request, on_both_io, wait_until};

on_both_io!(bytes_and_requests_are_told_by_where_they_came_from, refusals_are_told_by_whose_they_are);

const PATIENCE: Duration = Duration::from_secs(30);

fn count(metrics: &Metrics, name: &str, labels: &[(&str, &str)]) -> u64 {
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    metrics.sum_where(name, &labels.iter().map(String::as_str).collect::<Vec<_>>()) as u64
}

fn body(metrics: &Metrics, source: &str) -> u64 {
    count(metrics, "darter_body_bytes_total", &[("source", source)])
}

fn bytes_and_requests_are_told_by_where_they_came_from(io: Io) {
    // A machine that stands still for seconds makes a 503 of an answer, and a hit of its repetition: then again, with
    // another daemon.
    let counted = (0..10).any(|_| is_counted(io));
    assert!(counted, "no daemon had its answers in time");
}

/// False if an answer was not in time.
fn is_counted(io: Io) -> bool {
    let origin = Origin::start();
    let (lazy, whole) = (origin.blob(1, 16 << 20), origin.blob(2, (24 << 20) + 12_345));
    let daemon = Daemon::builder().over(io).origin(&origin).prefetch(false).start();
    let mut client = daemon.client();
    // In the middle of blocks, which are brought whole: four of them. Then the same, then two of them and two others.
    // A long reader has blocks brought ahead, and they are none that were here but for the first.
    let (first, second, block) = (199_900, 131_072, 65_536);
    let reads = [
        (lazy.get_range(100..200_000), first, 0),
        (lazy.get_range(100..200_000), 0, first),
        (lazy.get_range(131_072..393_216), second, second),
        (whole.get_range(0..1000), 1000, 0),
        (whole.get(), whole.len() - block, block),
        (whole.get(), 0, whole.len()),
    ];
    let (mut absent, mut here) = (0, 0);
    for (request, of_registry, of_store) in reads {
        let answer = client.fetch(&request).expect("a whole answer");
        if answer.status() == 503 {
            return false;
        }
        (absent, here) = (absent + of_registry, here + of_store);
        // A reader has the network's bytes a moment before the store does; until then the next one finds them absent.
        let is_kept = || daemon.metrics().sum("darter_buffers_bytes") == 0.0;
        wait_until(PATIENCE, is_kept, || "what was read is still on its way to the store".to_owned());
        let metrics = daemon.metrics();
        assert_eq!((body(&metrics, "origin"), body(&metrics, "cache")), (absent, here), "after {request:?}");
    }
    let metrics = daemon.metrics();
    assert_eq!((body(&metrics, "peers"), body(&metrics, "pass")), (0, 0));
    let requests =
        |source, status| count(&metrics, "darter_requests_total", &[("source", source), ("status", status)]);
    assert_eq!(requests("origin", "206"), 3);
    // One of them began with what was here.
    assert_eq!([requests("cache", "206"), requests("cache", "200")], [1, 2]);
    let heads = |source| count(&metrics, "darter_answer_head_seconds_count", &[("source", source)]);
    assert_eq!((heads("origin"), heads("cache")), (3, 3));
    // A client has the last byte a moment before it is noted that it was sent. What was here was not all of that one.
    let ended = |source| count(&daemon.metrics(), "darter_answer_seconds_count", &[("source", source)]);
    let all_ended = || (ended("origin"), ended("cache")) == (4, 2);
    wait_until(PATIENCE, all_ended, || format!("{} and {} answers ended", ended("origin"), ended("cache")));

    let told = |path: &str| -> serde_json::Value {
        let answer = daemon.admin_client().fetch(&Request::get(path)).expect("the node answers");
        serde_json::from_slice(&answer.body).expect("JSON")
    };
    let fates = || told("/api/v1/status")["requests"].clone();
    let of_all = serde_json::json!({ "hit": 2, "fetched": 4, "passed": 0, "refused": 0, "failed": 0 });
    wait_until(PATIENCE, || fates() == of_all, || format!("{} is not {of_all}", fates()));
    let latest = told("/api/v1/requests");
    let listed: Vec<_> = latest["requests"].as_array().expect("a list").iter().collect();
    assert!(listed.len() == 4 && listed.iter().all(|request| request["fate"] == "fetched"), "{latest}");

    origin.wait_until_quiet();
    let metrics = daemon.metrics();
    let asked = count(&metrics, "darter_origin_requests_total", &[("outcome", "bytes"), ("status", "206")]);
    let sent = count(&metrics, "darter_registry_requests_total", &[("method", "GET"), ("status", "206")]);
    assert!(asked > 0 && sent >= asked, "{asked} of {sent}");
    let named = [("registry", &origin.url()[..])];
    assert_eq!(
        count(&metrics, "darter_origin_bytes_total", &named),
        origin.blob_bytes(),
        "the registry's bill"
    );
    assert_eq!(count(&metrics, "darter_origin_transfers", &[]), 0, "nothing is under way");
    true
}

fn refusals_are_told_by_whose_they_are(io: Io) {
    let origin = Origin::start();
    let daemon =
        Daemon::builder().over(io).origin(&origin).allow_registry("127.0.0.1:1").prefetch(false).start();
    let nothing = format!("/v2/no/such/blobs/sha256:{}", "0".repeat(64));
    let status = |request: &Request| daemon.client().fetch(request).expect("an answer").status();
    assert_eq!(status(&Request::get(&nothing)), 404);
    let nowhere = Request::get(&nothing).header("X-Dragonfly-Registry", "http://127.0.0.1:1");
    assert_eq!(status(&nowhere), 502);
    let metrics = daemon.metrics();
    let requests =
        |source, status| count(&metrics, "darter_requests_total", &[("source", source), ("status", status)]);
    assert_eq!((requests("origin", "404"), requests("own", "502"), requests("own", "404")), (1, 1, 0));
    let asked = |outcome, status| {
        count(&metrics, "darter_origin_requests_total", &[("outcome", outcome), ("status", status)])
    };
    assert_eq!(asked("refused", "404"), 1);
    assert!(asked("unreachable", "none") >= 1, "nobody answers there");
    let lost = [("registry", "http://127.0.0.1:1"), ("status", "none")];
    assert!(count(&metrics, "darter_registry_requests_total", &lost) >= 1, "a listed one has a name");
    assert_eq!(count(&metrics, "darter_requests_shed_total", &[]), 0, "no limit was reached");
}
