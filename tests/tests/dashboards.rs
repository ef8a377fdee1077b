//! An operator copies the alert rules and the dashboard of `deploy/`: a real Prometheus that scrapes a real cluster
//! understands each query, and finds what it is about.

use std::collections::BTreeSet;
use std::time::Duration;

use darter_tests::need::need;
use darter_tests::{Daemon, Origin, Prometheus, Secrets, deployed, wait_until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
/// A rate needs two scrapes; on a busy machine they are seconds apart.
const RATE_INTERVAL: &str = "30s";

struct Watched {
    prometheus: Prometheus,
    _origin: Origin,
    _nodes: [Daemon; 2],
}

/// A seed and a peer that have read from the registry, from each other and from their stores, scraped before and after.
fn watched() -> Watched {
    let (origin, secrets) = (Origin::start(), Secrets::init());
    let seed = secrets.seed().origin(&origin).shards(2).start();
    let address = seed.peers()["node"]["address"].as_str().expect("an address").to_owned();
    let peer = secrets.peer(&address).origin(&origin).shards(2).start();
    let joined = || peer.metrics().sum("darter_cluster_joined") == 1.0;
    wait_until(PATIENCE, joined, || "the peer does not join".to_owned());
    let prometheus = Prometheus::start(&[seed.admin(), peer.admin()]);
    let scraped = |at_least: usize| {
        let scrapes = || {
            let query = "min(count_over_time(darter_build_info[1h]))";
            let series = prometheus.query(query).expect("a right query");
            let value = series.first().and_then(|first| first["value"][1].as_str()?.parse().ok());
            value.is_some_and(|scrapes: usize| scrapes >= at_least)
                && prometheus.query("darter_build_info").is_ok_and(|nodes| nodes.len() == 2)
        };
        wait_until(PATIENCE, scrapes, || {
            format!("{at_least} scrapes do not come: {:?}", prometheus.targets())
        });
    };
    scraped(1);
    let blob = origin.blob(1, 8 << 20);
    for node in [&seed, &peer, &seed, &peer] {
        blob.read(&mut node.client(), blob.whole()).expect("a whole answer");
        blob.read(&mut node.client(), 100..200_000).expect("a whole answer");
    }
    // Whatever is under way may count once more after its end.
    let so_far = prometheus.query("max(count_over_time(darter_build_info[1h]))").expect("a right query");
    let so_far: usize = so_far[0]["value"][1].as_str().and_then(|count| count.parse().ok()).expect("a count");
    scraped(so_far + 2);
    Watched { prometheus, _origin: origin, _nodes: [seed, peer] }
}

#[test]
fn each_query_finds_what_it_is_about() {
    if !need("each_query_finds_what_it_is_about", &[Prometheus::NEED]) {
        return;
    }
    let Watched { prometheus, .. } = &watched();
    for target in prometheus.targets() {
        assert_eq!(target["health"], "up", "{target}");
    }
    check_dashboard(prometheus);
    check_rules(prometheus);
}

fn check_dashboard(prometheus: &Prometheus) {
    let dashboard: Value = serde_json::from_str(&deployed("grafana/darter.json", &[])).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let (mut queries, mut ids) = (0, BTreeSet::new());
    for panel in panels {
        let title = panel["title"].as_str().unwrap_or_default();
        assert!(ids.insert(panel["id"].as_u64()), "two panels have the id of {title:?}");
        if panel["type"] == "row" {
            continue;
        }
        assert!(panel["description"].as_str().is_some_and(|what| !what.is_empty()), "{title:?} says nothing");
        let targets = panel["targets"].as_array().expect("a panel has queries");
        for target in targets {
            let expression = target["expr"].as_str().expect("a query");
            let filled = expression.replace("$__rate_interval", RATE_INTERVAL).replace("$instance", ".*");
            assert!(!filled.contains('$'), "{title:?}: a variable that is not filled in: {filled}");
            let series =
                prometheus.query(&filled).unwrap_or_else(|error| panic!("{title:?}: {filled}: {error}"));
            assert!(!series.is_empty(), "{title:?} shows nothing: {filled}");
            for label in braced(target["legendFormat"].as_str().unwrap_or_default()) {
                let has = series.iter().all(|series| series["metric"].get(&label).is_some());
                assert!(has, "{title:?} names its lines by {label}, which is not there: {filled}");
            }
            check_names(prometheus, &filled);
            queries += 1;
        }
    }
    assert!(queries >= 40, "{queries} queries are not all");
    // Where traffic was, there is something to see.
    let (cached, gone) = ("darter_body_bytes_total{source=\"cache\"}", "darter_peer_sent_bytes_total");
    for metric in [cached, gone, "darter_origin_bytes_total", "darter_answer_seconds_count{source=\"peers\"}"]
    {
        let moved = prometheus.query(&format!("sum({metric}) > 0")).expect("a right query");
        assert_eq!(moved.len(), 1, "nothing was counted in {metric}");
    }
}

fn check_rules(prometheus: &Prometheus) {
    let mut last = Vec::new();
    let evaluated = || {
        last = prometheus.rules();
        !last.is_empty() && last.iter().all(|rule| rule["health"] != "unknown")
    };
    wait_until(PATIENCE, evaluated, || "the rules are not evaluated".to_owned());
    assert!(last.len() >= 10, "{} rules are not all", last.len());
    for rule in &last {
        let name = rule["name"].as_str().expect("a rule has a name");
        assert_eq!(rule["health"], "ok", "{rule}");
        let severity = rule["labels"]["severity"].as_str().unwrap_or_default();
        assert!(["critical", "warning", "info"].contains(&severity), "{name} is {severity:?}");
        for annotation in ["summary", "action"] {
            let text = rule["annotations"][annotation].as_str().unwrap_or_default();
            assert!(text.len() > 20, "{name} has no {annotation}");
        }
        // One that is to hold for minutes may be pending on a machine that stands still.
        assert_ne!(rule["state"], "firing", "nothing is wrong, and {name} says so");
        let expression = rule["query"].as_str().expect("a rule has a query");
        prometheus.query(expression).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(check_names(prometheus, expression) > 0, "{name} is about nothing of ours: {expression}");
    }
}

/// Each metric of an expression is there, with each label that it is chosen by. How many there are.
fn check_names(prometheus: &Prometheus, expression: &str) -> usize {
    let is_of_name = |char: char| char.is_ascii_alphanumeric() || char == '_';
    let mut rest = expression;
    let mut found = 0;
    while let Some(at) = rest.find(|char: char| char.is_ascii_alphabetic()) {
        let word = &rest[at..];
        let end = word.find(|char| !is_of_name(char)).unwrap_or(word.len());
        let (name, after) = word.split_at(end);
        rest = after;
        if !name.starts_with("darter_") && name != "up" {
            continue;
        }
        let chosen =
            after.strip_prefix('{').and_then(|inside| inside.split_once('}')).map(|(inside, _)| inside);
        // Values may have commas and equals signs in them: what stands outside of quotes does not.
        let outside = chosen.into_iter().flat_map(|chosen| chosen.split('"').step_by(2));
        let labels =
            outside.map(|part| part.trim_matches([',', ' ', '=', '~', '!'])).filter(|part| !part.is_empty());
        let labels: Vec<String> = labels.map(|label| format!("{label}!=\"\"")).collect();
        let series = prometheus.query(&format!("{name}{{{}}}", labels.join(",")));
        assert!(series.is_ok_and(|series| !series.is_empty()), "no {name} with {labels:?}: {expression}");
        rest = chosen.map_or(after, |chosen| &after[chosen.len() + 2..]);
        found += 1;
    }
    found
}

/// What stands in `{{…}}`.
fn braced(text: &str) -> Vec<String> {
    text.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0.to_owned())).collect()
}
