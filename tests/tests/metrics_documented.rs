//! An operator writes queries by `docs/metrics.md`: each metric is there as documented, and none is there that is not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use darter_tests::{Daemon, Origin, Request};

/// Units that OpenMetrics knows; all others are words for people.
const UNITS: [&str; 2] = ["bytes", "seconds"];

#[derive(Clone, PartialEq, Eq, Debug)]
struct Metric {
    kind: String,
    /// One of [`UNITS`], or nothing.
    unit: String,
    labels: BTreeSet<String>,
}

#[test]
fn the_table_is_what_a_daemon_tells() {
    let documented = documented();
    let origin = Origin::start();
    let blob = origin.blob(1, 1 << 20);
    let daemon = Daemon::builder().origin(&origin).start();
    let before = told(&scrape(&daemon));
    blob.read(&mut daemon.client(), blob.whole()).expect("a whole answer");
    let after = told(&scrape(&daemon));
    // From the first scrape on: else an alert has nothing to compare with, and what comes later is undocumented.
    assert_eq!(before, after);
    for (name, metric) in &documented {
        assert_eq!(after.get(name), Some(metric), "what docs/metrics.md says of {name} is not what is told");
    }
    for (name, metric) in &after {
        assert_eq!(documented.get(name), Some(metric), "{name} is told and not in docs/metrics.md");
    }
}

/// By the names of their samples, as queries have them.
fn documented() -> BTreeMap<String, Metric> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = fs::read_to_string(file).expect("the table can be read");
    let mut metrics = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `darter_")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [names, kind, unit, labels, _] = cells[..] else { panic!("not five cells: {line}") };
        let unit = UNITS.iter().find(|known| **known == unit).copied().unwrap_or_default();
        let metric = Metric { kind: kind.into(), unit: unit.into(), labels: quoted(labels).collect() };
        for name in quoted(names) {
            let before = metrics.insert(name.clone(), metric.clone());
            assert!(before.is_none(), "{name} stands there twice");
        }
    }
    assert!(metrics.len() > 40, "{} metrics are not all: {metrics:?}", metrics.len());
    metrics
}

fn quoted(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned)
}

fn scrape(daemon: &Daemon) -> String {
    let answer = daemon.admin_client().fetch(&Request::get("/metrics")).expect("/metrics answers");
    String::from_utf8(answer.body).expect("text")
}

fn told(text: &str) -> BTreeMap<String, Metric> {
    let comments = |what: &str| -> BTreeMap<&str, &str> {
        let prefix = format!("# {what} ");
        let lines = text.lines().filter_map(|line| line.strip_prefix(&prefix));
        lines
            .map(|line| line.split_once(' ').unwrap_or_else(|| panic!("{what} of nothing: {line}")))
            .collect()
    };
    let (kinds, units, helps) = (comments("TYPE"), comments("UNIT"), comments("HELP"));
    let metric = |(name, kind): (&&str, &&str)| {
        assert!(helps.get(name).is_some_and(|help| help.len() > 5), "{name} has no words for people");
        let unit = units.get(name).copied().unwrap_or_default();
        assert!(unit.is_empty() || UNITS.contains(&unit) && name.ends_with(unit), "{name} in {unit}");
        let sample = match *kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => (*name).to_owned(),
        };
        let metric = Metric { kind: (*kind).into(), unit: unit.into(), labels: labels(text, &sample) };
        (sample, metric)
    };
    kinds.iter().map(metric).collect()
}

/// The names of labels on samples of a metric, but for the bounds of buckets.
fn labels(text: &str, sample: &str) -> BTreeSet<String> {
    let of_metric = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(sample)?;
        let rest =
            ["_bucket", "_sum", "_count"].iter().find_map(|part| rest.strip_prefix(part)).unwrap_or(rest);
        (rest.starts_with('{') || rest.starts_with(' ')).then_some(rest)
    });
    let mut has_samples = false;
    let mut names = BTreeSet::new();
    for rest in of_metric {
        has_samples = true;
        // Values of ours have no quotes in them: what stands between an even number of them is no value.
        let outside = rest.split('"').step_by(2);
        names.extend(
            outside.filter_map(|part| Some(part.strip_suffix('=')?.rsplit(['{', ',']).next()?.to_owned())),
        );
    }
    assert!(has_samples, "{sample} has no samples");
    names.remove("le");
    names
}
