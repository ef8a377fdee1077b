//! Anybody on the node may connect to the front and send what they like.
//!
//! What is no request is refused with a 4xx or a 5xx, or its connection ends in order; what two readers of it might
//! understand differently reaches the registry as one thing or not at all; and whatever came, the next client is
//! served.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use darter_tests::{Blob, Client, Daemon, End, Io, Origin, Raw, RawAnswer, Request, on_both_io, pause};

on_both_io!(
    what_is_no_request_is_refused,
    a_head_has_a_limit,
    two_lengths_are_one_request_or_none,
    ranges_of_all_sorts_cost_one_answer,
    pipelined_requests_are_answered_in_their_order,
    paths_stay_paths_of_the_registry,
    a_body_is_not_waited_for_where_none_is_wanted,
    an_answer_that_breaks_off_ends_in_order,
    a_client_that_leaves_at_any_moment_costs_nothing,
);

const BLOB_BYTES: u64 = (2 << 20) + 77;

struct Scene {
    origin: Origin,
    blob: Blob,
    daemon: Daemon,
}

impl Scene {
    fn new(io: Io) -> Scene {
        let origin = Origin::start();
        let blob = origin.blob(1, BLOB_BYTES);
        let daemon = Daemon::builder().over(io).registry(&origin.url()).prefetch(false).start();
        Scene { origin, blob, daemon }
    }

    fn raw(&self) -> Raw {
        Raw::connect(self.daemon.front())
    }

    /// All answers to these bytes, which make the front end the connection: by what they say, or by what they are.
    fn answers(&self, bytes: impl AsRef<[u8]>) -> Vec<RawAnswer> {
        self.raw().ask(bytes)
    }

    /// The last request of a connection.
    fn last_get(&self, headers: &str) -> String {
        self.get(&format!("Connection: close\r\n{headers}"))
    }

    fn get(&self, headers: &str) -> String {
        format!("GET {} HTTP/1.1\r\nHost: a\r\n{headers}\r\n", self.blob.target())
    }

    /// Whatever was sent before: a client that means well is served.
    fn check_still_serves(&mut self) {
        assert!(self.daemon.running(), "the daemon has ended");
        let range = 100_000..300_000;
        self.blob.read(&mut self.daemon.client(), range).expect("a whole answer");
    }
}

fn what_is_no_request_is_refused(io: Io) {
    let mut scene = Scene::new(io);
    let mut random = fastrand::Rng::with_seed(7);
    let garbage: Vec<u8> = (0..20_000).map(|_| random.u8(..)).collect();
    let cases: [(&str, &[u8]); 18] = [
        ("HTTP/0.9", b"GET /\r\n\r\n"),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("HTTP/3", b"GET / HTTP/3.0\r\n\r\n"),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on\r\n\r\n"),
        ("garbage", &garbage),
        ("zeroes", &[0; 1000]),
        ("a folded header", b"GET /v2/ HTTP/1.1\r\nHost: a\r\nX: 1\r\n  2\r\n\r\n"),
        ("a header without a name", b"GET /v2/ HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n"),
        ("a blank before the colon", b"GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length : 1\r\n\r\n"),
        ("NUL in a header", b"GET /v2/ HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
        ("NUL in the path", b"GET /v2/\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a bare CR", b"GET /v2/ HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n"),
        ("no method", b" /v2/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a length below zero", b"GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n"),
        ("a length with a sign", b"GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n"),
        (
            "a length beyond all",
            b"GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        ),
        ("another encoding", b"POST /v2/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, x\r\n\r\n"),
        ("two hosts in one", b"GET http:///v2/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ];
    for (what, bytes) in cases {
        for answer in scene.answers(bytes) {
            assert!((400..600).contains(&answer.status), "{what}: {}", answer.head);
        }
    }
    // Requests, but none that a mirror can have an answer of its own to.
    for request in [
        "CONNECT registry.example:443 HTTP/1.1\r\nHost: registry.example:443\r\nConnection: close\r\n\r\n",
        "TRACE /v2/ HTTP/1.1\r\nHost: a\r\nAuthorization: secret\r\nConnection: close\r\n\r\n",
        "GET ftp://a/b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET http://u:p@127.0.0.1:1/v2/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET http://[::1]:1/v2/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ] {
        let answers = scene.answers(request);
        assert_eq!(answers.len(), 1, "{request}");
        assert!((400..600).contains(&answers[0].status), "{request}: {}", answers[0].head);
        assert!(!String::from_utf8_lossy(&answers[0].body).contains("secret"), "{request}");
    }
    // A bare LF ends a line too, as RFC 9112 allows; whatever it is taken for, it is one request.
    assert!(scene.answers("GET /server/ping HTTP/1.1\nHost: a\nConnection: close\n\n").len() <= 1);
    scene.check_still_serves();
}

fn a_head_has_a_limit(io: Io) {
    let mut scene = Scene::new(io);
    let long = |bytes: usize| format!("X: {}\r\n", "y".repeat(bytes));
    assert_eq!(
        scene.answers(scene.last_get(&long(16 << 10)))[0].status,
        200,
        "two tokens of 8 KiB are no attack"
    );
    let many = |count: usize| "X: y\r\n".repeat(count);
    for (what, head) in [
        ("a value of 1 MiB", scene.get(&long(1 << 20))),
        ("1 MiB of lines", scene.get(&many((1 << 20) / 6))),
        ("too many lines", scene.get(&many(1000))),
        ("a path of 1 MiB", format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1 << 20))),
        ("a method of 1 MiB", "A".repeat(1 << 20)),
    ] {
        // Nothing of what the client still sends makes its answer a reset.
        let answers = scene.raw().ask(head);
        let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        assert!(matches!(statuses[..], [400 | 414 | 431]), "{what}: {statuses:?}");
    }
    scene.check_still_serves();
}

/// A request that one server takes for one and another for two.
fn two_lengths_are_one_request_or_none(io: Io) {
    let mut scene = Scene::new(io);
    let hidden = "GET /v2/hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    let chunks = format!("0\r\n\r\n{hidden}");
    let length = chunks.len();
    for lengths in [
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
        format!("Content-Length: {length}\r\nContent-Length: 5\r\n"),
        format!("Content-Length: {length}, 5\r\n"),
        format!("Transfer-Encoding: identity\r\nContent-Length: {length}\r\n"),
        format!("Transfer-Encoding:\x0bchunked\r\nContent-Length: {length}\r\n"),
        format!("Transfer-Encoding: xchunked\r\nContent-Length: {length}\r\n"),
    ] {
        for method in ["POST", "GET"] {
            scene.origin.forget();
            let request = format!(
                "{method} /v2/shown HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lengths}\r\n{chunks}"
            );
            let answers = scene.answers(&request);
            assert!(answers.len() <= 1, "{lengths}: {} answers", answers.len());
            let asked = scene.origin.registry().requests();
            let targets: Vec<&str> = asked.iter().map(|asked| asked.target.as_str()).collect();
            assert!(targets.len() <= 1 && !targets.contains(&"/v2/hidden"), "{lengths}: {targets:?}");
        }
    }
    scene.check_still_serves();
}

fn ranges_of_all_sorts_cost_one_answer(io: Io) {
    let mut scene = Scene::new(io);
    let many: Vec<String> = (0..2500).map(|at| format!("{at}-{}", at + 1)).collect();
    let overlapping = vec!["0-"; 5000];
    let largest = u64::MAX;
    for range in [
        format!("bytes={}", many.join(",")),
        format!("bytes={}", overlapping.join(",")),
        format!("bytes={}", ",".repeat(20_000)),
        format!("bytes=0-{}", "9".repeat(20_000)),
        format!("bytes=-{largest}"),
        format!("bytes={largest}-{largest}"),
        format!("bytes={largest}-0"),
        "bytes=5-2".into(),
        "bytes=--1".into(),
        "bytes=0-0,-1".into(),
        "bits=0-7".into(),
        "bytes".into(),
    ] {
        let shown = &range[..range.len().min(40)];
        let answers = scene.answers(scene.last_get(&format!("Range: {range}\r\n")));
        assert_eq!(answers.len(), 1, "{shown}");
        let answer = &answers[0];
        assert!(matches!(answer.status, 200 | 206 | 416), "{shown}: {}", answer.head);
        assert!(answer.whole && answer.body.len() as u64 <= BLOB_BYTES, "{shown}");
        if answer.status == 200 {
            assert!(answer.body == scene.blob.bytes(scene.blob.whole()), "{shown}");
        }
    }
    assert!(scene.origin.blob_bytes() <= 2 * BLOB_BYTES, "{} bytes were paid", scene.origin.blob_bytes());
    scene.check_still_serves();
}

fn pipelined_requests_are_answered_in_their_order(io: Io) {
    let mut scene = Scene::new(io);
    // Cold and hot ones, a refusal and a ping between them: the quick ones may not overtake.
    let mut requests = String::new();
    let ranges: Vec<_> = (0..60).map(|at| at * 34_000..at * 34_000 + 1000 + at).collect();
    for range in &ranges {
        requests += &scene.get(&format!("Range: bytes={}-{}\r\n", range.start, range.end - 1));
        requests += "GET /server/ping HTTP/1.1\r\nHost: a\r\n\r\n";
        requests += "HEAD /v2/absent/manifests/none HTTP/1.1\r\nHost: a\r\n\r\n";
    }
    requests += "GET /server/ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let mut raw = scene.raw();
    raw.send(&requests);
    let (bytes, end) = raw.read_to_end();
    assert_eq!(end, End::Closed);
    // A HEAD has a length and no body, so the answers are taken one by one.
    let mut rest = &bytes[..];
    let mut next = |with_body: bool| {
        let end = rest.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
        let mut answer = RawAnswer::all_of(&rest[..end]).remove(0);
        let body_bytes = answer.header("Content-Length").map_or(0, |length| length.parse().expect("digits"));
        let body_bytes = if with_body { body_bytes } else { 0 };
        answer.body = rest[end..end + body_bytes].to_vec();
        rest = &rest[end + body_bytes..];
        answer
    };
    for range in ranges {
        let part = next(true);
        assert_eq!(part.status, 206, "{range:?}: {}", part.head);
        assert!(part.body == scene.blob.bytes(range.clone()), "{range:?}");
        assert_eq!(next(true).body, b"pong\n", "{range:?}");
        assert_eq!(next(false).status, 404, "{range:?}");
    }
    assert_eq!(next(true).body, b"pong\n");
    assert!(rest.is_empty());
    scene.check_still_serves();
}

fn paths_stay_paths_of_the_registry(io: Io) {
    let mut scene = Scene::new(io);
    let digest = scene.blob.target().rsplit('/').next().expect("a target has a digest").to_owned();
    for path in [
        "/../../../../etc/passwd".to_owned(),
        "/v2/../../etc/passwd".into(),
        "/v2/%2e%2e/%2e%2e/etc/passwd".into(),
        "/v2/..%2f..%2fetc%2fpasswd".into(),
        "/v2/..%5c..%5cetc".into(),
        "/v2/%00/blobs/".to_owned() + &digest,
        "/v2/a/blobs/".to_owned() + &digest + "%00",
        "/v2/a/blobs/..%2f".to_owned() + &digest,
        format!("/v2/a/blobs/{digest}/../../../x"),
        format!("/v2/a%2fblobs%2f{digest}"),
        "//127.0.0.1:1/v2/".into(),
        "/\\127.0.0.1:1/v2/".into(),
        "/v2/a/blobs/sha256:../../../../tmp/x".into(),
        "/v2/a/blobs/sha256:".to_owned() + &"0".repeat(63) + "/",
        "/%ff%fe".into(),
    ] {
        let answers = scene.answers(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
        for answer in answers {
            assert!((400..600).contains(&answer.status), "{path}: {}", answer.head);
            assert!(!answer.body.starts_with(b"root:"), "{path}");
        }
    }
    assert_eq!(files_outside_of(&scene.daemon), Vec::<String>::new());
    scene.check_still_serves();
}

/// Regular files that the daemon has open and that are neither its own, nor the system's libraries.
fn files_outside_of(daemon: &Daemon) -> Vec<String> {
    let mut outside = daemon.open_files();
    let own = [daemon.data_dir(), Path::new("/dev"), Path::new("/proc")];
    outside.retain(|file| file.is_absolute() && !own.iter().any(|own| file.starts_with(own)));
    let log = daemon.log_path();
    outside.retain(|file| *file != log);
    outside.into_iter().map(|file| file.display().to_string()).collect()
}

fn a_body_is_not_waited_for_where_none_is_wanted(io: Io) {
    let mut scene = Scene::new(io);
    // On GET, in both framings, of any length; with a question that waits for a go-ahead.
    for (headers, body) in [
        ("Content-Length: 5\r\n", "hello"),
        ("Content-Length: 1000000000\r\n", "hello"),
        ("Content-Length: 1000000000\r\nExpect: 100-continue\r\n", ""),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"),
        ("Transfer-Encoding: chunked\r\n", "ffffffffffffffff\r\n"),
        ("Transfer-Encoding: chunked\r\n", "zz\r\n"),
    ] {
        let mut raw = scene.raw();
        raw.send(scene.last_get(&format!("Range: bytes=10-19\r\n{headers}")) + body);
        let answer = &raw.answers()[0];
        assert!(matches!(answer.status, 206 | 400), "{headers}: {}", answer.head);
        if answer.status == 206 {
            assert_eq!(answer.body, scene.blob.bytes(10..20), "{headers}");
        }
    }
    // A body that never ends is sent until the front ends: it neither keeps nor resets.
    let mut raw = scene.raw();
    raw.send(scene.last_get("Range: bytes=10-19\r\nTransfer-Encoding: chunked\r\n"));
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let mut sent = 0;
    while raw.try_send(&chunk).is_ok() {
        sent += chunk.len();
        assert!(sent < 1 << 30, "the front takes a body without an end");
    }
    scene.check_still_serves();
}

fn an_answer_that_breaks_off_ends_in_order(io: Io) {
    use darter::demo::registry::Faults;
    let mut scene = Scene::new(io);
    // The digest of the whole is wrong, so its last block is not sent.
    scene.origin.faults(Faults { flip_byte_at: Some(1_000_000), ..Faults::default() });
    let mut raw = scene.raw();
    // Pipelined requests that nobody reads any more would make a hasty end a reset.
    let pings = "GET /server/ping HTTP/1.1\r\nHost: a\r\n\r\n".repeat(20_000);
    let sent = raw.try_send(scene.get("") + &pings);
    assert!(sent.is_ok() || sent.is_err_and(|error| error.kind() == ErrorKind::BrokenPipe));
    let (bytes, end) = raw.read_to_end();
    assert_eq!(end, End::Closed, "after {} bytes", bytes.len());
    let answer = &RawAnswer::all_of(&bytes)[0];
    assert!(answer.status == 502 || !answer.whole, "{}", answer.head);
    scene.origin.faults(Faults::default());
    let other = scene.origin.blob(2, BLOB_BYTES);
    scene.blob = other;
    scene.check_still_serves();
}

fn a_client_that_leaves_at_any_moment_costs_nothing(io: Io) {
    let mut scene = Scene::new(io);
    let mut random = fastrand::Rng::with_seed(11);
    let request = scene.get("");
    for _ in 0..200 {
        let mut raw = scene.raw();
        raw.send(&request[..random.usize(1..=request.len())]);
        if random.bool() {
            raw.end();
        }
        if random.bool() {
            pause(Duration::from_micros(random.u64(0..3000)));
        }
    }
    scene.check_still_serves();
    let open = || scene.daemon.metrics().sum("darter_connections");
    let ended = || open() <= 1.0;
    darter_tests::wait_until(Duration::from_secs(60), ended, || format!("{} connections stay", open()));
    let leases = || scene.daemon.metrics().sum("darter_cache_leases") == 0.0;
    darter_tests::wait_until(Duration::from_secs(60), leases, || "leases stay".to_owned());
    let answer = Client::new(scene.daemon.front()).fetch(&Request::get("/server/ping"));
    assert_eq!(answer.expect("the front answers").status(), 200);
}
