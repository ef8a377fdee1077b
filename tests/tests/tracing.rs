//! An operator looks for where the time of one request has gone: its spans of all nodes at a collector, under one trace,
//! and its name in logs and answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use darter_tests::gate::{Gate, GateOptions, Kind, Reply};
use darter_tests::{Builder, Daemon, Origin, Request, Secrets, pause, wait_until};
use http::Method;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than a span waits for others.
const EXPORTED_BY_THEN: Duration = Duration::from_secs(4);

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

/// A collector, which keeps what it is sent.
struct Collector(Gate);

/// A span, and whose it is.
#[derive(Clone, Debug)]
struct Seen {
    service: String,
    span: Span,
}

impl Collector {
    fn start() -> Self {
        Self::answering(200)
    }

    fn answering(status: u16) -> Self {
        let answer = move |_: &_| Some(Reply { status, headers: Vec::new(), body: String::new() });
        Self(Gate::with(GateOptions { guard: Some(Arc::new(answer)), ..GateOptions::default() }))
    }

    /// The environment and the configuration of a node that sends here.
    fn of(&self, node: Builder, service: &str, ratio: f64) -> Builder {
        let config = format!("tracing: {{endpoint: '{}', sampleRatio: {ratio}}}\n", self.0.url());
        node.env("OTEL_SERVICE_NAME", service).config(&config)
    }

    fn spans(&self) -> Vec<Seen> {
        let mut spans = Vec::new();
        for seen in self.0.seen() {
            let asked = seen.asked;
            assert_eq!((&asked.method, &*asked.target), (&Method::POST, "/v1/traces"));
            assert_eq!(asked.header("content-type"), Some("application/x-protobuf"));
            let export = ExportTraceServiceRequest::decode(asked.body).expect("OTLP");
            for of_one in export.resource_spans {
                let resource = of_one.resource.expect("whose they are");
                let service = text(&resource.attributes, "service.name");
                assert!(!text(&resource.attributes, "service.instance.id").is_empty());
                for span in of_one.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    assert!(0 < span.start_time_unix_nano, "{span:?}");
                    assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
                    spans.push(Seen { service: service.clone(), span });
                }
            }
        }
        spans
    }

    /// Waits until there is a span for each of these, as service and name.
    fn wait_for(&self, expected: &[(&str, &str)]) -> Vec<Seen> {
        let is_there = |seen: &[Seen], (service, name): &(&str, &str)| {
            seen.iter().any(|seen| seen.service == *service && seen.span.name == *name)
        };
        let all = || expected.iter().all(|expected| is_there(&self.spans(), expected));
        wait_until(PATIENCE, all, || format!("{expected:?} are not all among {}", listed(&self.spans())));
        self.spans()
    }
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let value =
        attributes.iter().find(|attribute| attribute.key == key).and_then(|found| found.value.clone());
    match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(flag)) => flag.to_string(),
        None => String::new(),
        other => panic!("{key} is {other:?}"),
    }
}

impl Seen {
    fn attribute(&self, key: &str) -> String {
        text(&self.span.attributes, key)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn listed(seen: &[Seen]) -> String {
    let line = |Seen { service, span }: &Seen| {
        let (id, parent) = (hex(&span.span_id), hex(&span.parent_span_id));
        let attributes: BTreeMap<_, _> = span
            .attributes
            .iter()
            .map(|found| (found.key.clone(), text(&span.attributes, &found.key)))
            .collect();
        format!("{service} {:?} {id} below {parent} {attributes:?}\n", span.name)
    };
    seen.iter().map(line).collect()
}

/// A registry that notes what it is asked, with a blob of some pieces in it.
fn registry() -> (Origin, Gate) {
    let origin = Origin::start();
    let gate = Gate::before(origin.address());
    (origin, gate)
}

#[test]
fn a_cold_request_is_one_trace_of_two_nodes() {
    let ((origin, gate), collector, secrets) = (registry(), Collector::start(), Secrets::init());
    let seed = collector.of(secrets.seed(), "seed", 0.0).registry(&gate.url()).prefetch(false).start();
    let at = seed.peers()["node"]["address"].as_str().expect("an address").to_owned();
    let peer = collector.of(secrets.peer(&at), "peer", 0.0).registry(&gate.url()).start();
    wait_until(PATIENCE, || peer.peers()["standing"] == "joined", || "the peer has not joined".into());
    let blob = origin.blob(1, MIB);
    let target = format!("{}?signature=secret", blob.target());
    let request = Request::get(target)
        .range(0..MIB)
        .header("traceparent", traceparent("01"))
        .header("tracestate", "vendor=1")
        .header("X-Request-Id", "boot-7");
    let answer = peer.client().fetch(&request).expect("the front answers");
    assert_eq!((answer.status(), answer.header("x-request-id")), (206, Some("boot-7")));
    assert!(answer.body == blob.bytes(0..MIB));

    let front = ("peer", "GET /v2/{name}/blobs/{digest}");
    let owner = ("seed", "bring for a node");
    let seen = collector.wait_for(&[front, ("peer", "fetch"), ("peer", "pull"), owner, ("seed", "GET")]);
    assert!(seen.iter().all(|seen| hex(&seen.span.trace_id) == TRACE), "one trace: {}", listed(&seen));
    let parent = |child: &Seen| seen.iter().find(|seen| seen.span.span_id == child.span.parent_span_id);
    // From a registry's request that brought blocks up to the client.
    let chain = |from: &Seen| {
        let mut chain = vec![from.clone()];
        while let Some(above) = parent(chain.last().expect("it has one")) {
            chain.push(above.clone());
        }
        chain
    };
    let names = |chain: &[Seen]| -> Vec<(String, String)> {
        chain.iter().map(|seen| (seen.service.clone(), seen.span.name.clone())).collect()
    };
    let expected = [("seed", "GET"), owner, ("peer", "pull"), ("peer", "fetch"), front];
    let expected = expected.map(|(service, name)| (service.to_owned(), name.to_owned()));
    let chains: Vec<_> = seen.iter().map(chain).collect();
    let found = chains.iter().find(|chain| names(chain) == expected);
    let [origin_span, _, pull, fetch, front] =
        &found.unwrap_or_else(|| panic!("no such chain in {}", listed(&seen)))[..]
    else {
        panic!("five are five")
    };
    // All others lead there as well.
    for chain in &chains {
        let top = &chain.last().expect("it has one").span;
        assert_eq!(
            (hex(&top.parent_span_id), &top.span_id),
            (PARENT.into(), &front.span.span_id),
            "{chain:?}"
        );
    }
    assert_eq!(front.span.kind, SpanKind::Server as i32);
    assert_eq!(front.attribute("http.request.method"), "GET");
    assert_eq!(front.attribute("http.response.status_code"), "206");
    assert_eq!(front.attribute("http.response.body.size"), MIB.to_string());
    assert_eq!(front.attribute("darter.source"), "peers");
    assert_eq!(front.attribute("darter.request.id"), "boot-7");
    assert_eq!(front.attribute("url.path"), blob.target());
    let digest = blob.digest().replace("sha256:", "");
    assert_eq!(
        (fetch.attribute("darter.content"), fetch.span.kind),
        (digest.clone(), SpanKind::Internal as i32)
    );
    assert!(fetch.attribute("darter.blocks").parse::<u64>().expect("a number") > 0);
    let node = seed.peers()["node"]["id"].as_str().expect("its name").to_owned();
    assert_eq!(pull.attribute("darter.content"), digest);
    // As in logs: the beginning of its name.
    assert!(pull.attribute("darter.node").len() == 12 && node.starts_with(&pull.attribute("darter.node")));
    assert_eq!(origin_span.span.kind, SpanKind::Client as i32);
    assert_eq!(origin_span.attribute("server.address"), gate.address().ip().to_string());
    assert_eq!(origin_span.attribute("url.full"), format!("{}{}", gate.url(), blob.target()));
    assert!(origin_span.attribute("http.request.header.range").starts_with("bytes="));
    let everything = format!("{seen:?}");
    assert!(!everything.contains("secret") && !everything.contains("signature"), "{everything}");

    // Each request that the registry saw is a span, and was told so.
    let asked = gate.seen_of(&Method::GET, Kind::Blob);
    assert!(!asked.is_empty());
    for asked in asked {
        let told = asked.asked.header("traceparent").expect("it is told").to_owned();
        let parent = told.strip_prefix(&format!("00-{TRACE}-")).and_then(|rest| rest.strip_suffix("-01"));
        let parent = parent.unwrap_or_else(|| panic!("{told}"));
        assert!(
            seen.iter().any(|seen| hex(&seen.span.span_id) == parent && seen.service == "seed"),
            "{told}"
        );
        assert_eq!(asked.asked.header("tracestate"), Some("vendor=1"));
    }
    let fate = "darter_trace_spans_total";
    assert!(peer.metrics().sum_where(fate, &["fate=\"exported\""]) >= 3.0);
    assert_eq!(peer.metrics().sum_where(fate, &["fate=\"dropped\""]), 0.0);
}

#[test]
fn what_nobody_samples_is_not_recorded() {
    let ((origin, gate), collector) = (registry(), Collector::start());
    let none = collector.of(Daemon::builder().registry(&gate.url()), "none", 0.0).start();
    let all = collector.of(Daemon::builder().registry(&gate.url()), "all", 1.0).start();
    for (number, node) in [(1, &none), (2, &all)] {
        let blob = origin.blob(number, MIB);
        let request = blob.get().header("traceparent", traceparent("00"));
        assert_eq!(node.client().fetch(&request).expect("the front answers").status(), 200);
    }
    let told = gate.seen_of(&Method::GET, Kind::Blob);
    assert!(
        told.iter().all(|seen| seen.asked.header("traceparent") == Some(&traceparent("00"))),
        "as it came"
    );
    let blob = origin.blob(3, MIB);
    gate.forget();
    blob.read(&mut none.client(), blob.whole()).expect("the blob can be read");
    assert!(
        gate.seen().iter().all(|seen| seen.asked.header("traceparent").is_none()),
        "nobody has begun one"
    );
    pause(EXPORTED_BY_THEN);
    assert!(collector.spans().is_empty(), "{}", listed(&collector.spans()));

    // With neither a parent nor a miss: once to bring it, and once as the connection itself answers.
    gate.forget();
    let mut client = all.client();
    blob.read(&mut client, blob.whole()).expect("the blob can be read");
    let told = gate.seen_of(&Method::GET, Kind::Blob);
    assert!(
        told.iter().all(|seen| seen.asked.header("traceparent").is_some()),
        "a configured registry is told"
    );
    blob.read(&mut client, 0..1000).expect("a part of the blob can be read");
    let name = "GET /v2/{name}/blobs/{digest}";
    let hits = || {
        let mut seen = collector.spans();
        seen.retain(|seen| seen.attribute("darter.source") == "cache");
        seen
    };
    wait_until(PATIENCE, || !hits().is_empty(), || listed(&collector.spans()));
    let (seen, hits) = (collector.spans(), hits());
    assert!(seen.iter().any(|seen| seen.span.name == name && seen.attribute("darter.source") == "origin"));
    assert_eq!(hits[0].attribute("http.response.status_code"), "206");
    assert!(seen.iter().all(|seen| seen.service == "all"), "{}", listed(&seen));
}

#[test]
fn a_collector_that_is_away_harms_nobody() {
    let ((origin, gate), mut collector) = (registry(), Collector::start());
    collector.0.close();
    let mut node = collector.of(Daemon::builder().registry(&gate.url()), "node", 1.0).start();
    let blob = origin.blob(1, MIB);
    blob.read(&mut node.client(), blob.whole()).expect("the blob can be read");
    let line = "spans are not exported";
    wait_until(PATIENCE, || node.log().contains(line), || node.log());
    // What was recorded meanwhile is not lost.
    blob.read(&mut node.client(), 0..77).expect("a part of the blob can be read");
    collector.0.open();
    let is_back = || collector.spans().iter().any(|seen| seen.attribute("http.response.body.size") == "77");
    wait_until(PATIENCE, is_back, || listed(&collector.spans()));
    assert_eq!(node.log().matches(line).count(), 1, "it is said once: {}", node.log());
    wait_until(PATIENCE, || node.log().contains("spans are exported again"), || node.log());

    // The last ones of a node that stops are flushed, and one that finds nobody stops all the same.
    blob.read(&mut node.client(), 0..78).expect("a part of the blob can be read");
    node.stop();
    let flushed = collector.spans().iter().any(|seen| seen.attribute("http.response.body.size") == "78");
    assert!(flushed, "{}", listed(&collector.spans()));
    collector.0.close();
    node.restart();
    blob.read(&mut node.client(), 0..79).expect("a part of the blob can be read");
    node.stop();
}

#[test]
fn what_a_collector_refuses_is_counted_and_not_sent_again() {
    let ((origin, gate), collector) = (registry(), Collector::answering(400));
    let node = collector.of(Daemon::builder().registry(&gate.url()), "node", 1.0).start();
    let blob = origin.blob(1, MIB);
    blob.read(&mut node.client(), blob.whole()).expect("the blob can be read");
    let refused = || node.metrics().sum_where("darter_trace_spans_total", &["fate=\"refused\""]);
    wait_until(PATIENCE, || refused() >= 1.0, || node.log());
    assert_eq!(node.log().matches("spans are not exported").count(), 1);
}

#[test]
fn a_request_has_a_name_in_its_answer_in_the_log_and_among_the_latest() {
    let (origin, gate) = registry();
    let node = Daemon::builder().registry(&gate.url()).start();
    let blob = origin.blob(1, MIB);
    let named = |id: &str| blob.get_range(0..100).header("X-Request-Id", id);
    let id_of = |request: &Request| {
        let answer = node.client().fetch(request).expect("the front answers");
        answer.header("x-request-id").map(str::to_owned)
    };
    // Fetched, and then a hit.
    for _ in 0..2 {
        assert_eq!(id_of(&named("a-7")).as_deref(), Some("a-7"));
    }
    for none in [named("a b"), named(&"x".repeat(65)), Request::get("/v2/")] {
        let made = id_of(&none).expect("it has one");
        assert!(made.len() == 16 && made.bytes().all(|byte| byte.is_ascii_hexdigit()), "{made}");
    }
    // The context of a client that traces goes on to the registry as it came, since this node records nothing.
    let other = origin.blob(2, MIB);
    let request = other.get().header("traceparent", traceparent("01")).header("tracestate", "a=b");
    assert_eq!(node.client().fetch(&request).expect("the front answers").status(), 200);
    let told = gate.seen_of(&Method::GET, Kind::Blob).pop().expect("it was asked").asked;
    assert_eq!(
        (told.header("traceparent"), told.header("tracestate")),
        (Some(&*traceparent("01")), Some("a=b"))
    );

    let refused = Request::get("/v2/x/blobs/y").header("X-Dragonfly-Registry", "http://127.0.0.1:1");
    let id = id_of(&refused).expect("an error has one");
    wait_until(PATIENCE, || node.log().contains(&id), || node.log());
    let log = node.log();
    let line = log.lines().find(|line| line.contains(&id)).expect("a line");
    assert!(line.contains("a request was refused") && line.contains("WARN"), "{line}");
    let latest = node.admin_client().fetch(&Request::get("/api/v1/requests")).expect("the API answers");
    let latest: serde_json::Value = serde_json::from_slice(&latest.body).expect("JSON");
    let requests = latest["requests"].as_array().expect("a list");
    let found = |id: &str| requests.iter().find(|request| request["request_id"] == id);
    assert_eq!(found("a-7").expect("it was fetched")["status"], 206, "{latest}");
    assert_eq!(found(&id).expect("it was refused")["status"], 502, "{latest}");
}

#[test]
fn a_registrys_own_name_of_a_request_is_kept() {
    let answer = |_: &_| {
        let headers = vec![("X-Request-Id", "of-the-registry".to_owned())];
        Some(Reply { status: 404, headers, body: String::new() })
    };
    let gate = Gate::with(GateOptions { guard: Some(Arc::new(answer)), ..GateOptions::default() });
    let node = Daemon::builder().registry(&gate.url()).start();
    let request = Request::get("/v2/a/tags/list").header("X-Request-Id", "of-the-client");
    let answer = node.client().fetch(&request).expect("the front answers");
    assert_eq!(answer.header("x-request-id"), Some("of-the-client"));
    assert_eq!(answer.header("x-registry-request-id"), Some("of-the-registry"));
}
