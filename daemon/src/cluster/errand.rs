//! A client's request as one node tells another of it, so that the owner asks the registry with the client's own
//! credentials. To the peer protocol it is opaque.
//!
//! JSON, since it holds a dozen lines of text and is read once for a request; a newer node may add fields. The owner computes the
//! claim from it anew: what another node says about a credential proves nothing.

use bytes::Bytes;
use darter_transport::wire;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::{Deserialize, Serialize};

use crate::origin::Target;
use crate::trace::context::TraceContext;

/// Lines of a head that are taken from another node.
const HEADERS_MAX: usize = 128;
/// Names of filtered parameters.
const FILTER_MAX: usize = 64;

#[derive(Serialize, Deserialize)]
struct Packed {
    registry: String,
    path_and_query: String,
    headers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    filter: Vec<String>,
    /// What the owner does for it is a part of this, if that is recorded: as `traceparent` has it. The client's own is among
    /// the headers as well, and that is what a node knows that has not this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
}

/// What another node sent is no request.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the request that another node passed on cannot be read: {0}")]
pub(crate) struct Unreadable(String);

/// For the wire: empty where no client asks. `None` where it does not fit, or a header is not text: then this node asks the registry itself.
pub(crate) fn pack(target: &Target) -> Option<wire::Errand> {
    if target.is_nobodys() {
        return Some(wire::Errand::default());
    }
    let url = target.url();
    let path_and_query = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    // What is about this one answer is not the owner's business.
    let passed =
        |name: &HeaderName| !matches!(*name, header::RANGE | header::IF_RANGE | header::ACCEPT_ENCODING);
    let headers = target.headers().iter().filter(|(name, _)| passed(name));
    let headers = headers.map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())));
    let packed = Packed {
        registry: target.registry().to_string(),
        path_and_query,
        headers: headers.collect::<Option<_>>()?,
        filter: target.filter().to_vec(),
        trace: target.trace().context().map(|context| context.to_string()),
    };
    wire::Errand::new(Bytes::from(serde_json::to_vec(&packed).ok()?))
}

/// What another node asks this one to ask of a registry, straight, and what that is a part of: nothing where that cannot be
/// read.
///
/// # Errors
/// It is no request, or leads elsewhere than to its registry.
pub(crate) fn unpack(errand: &wire::Errand) -> Result<(Target, Option<TraceContext>), Unreadable> {
    let packed: Packed = serde_json::from_slice(errand).map_err(|error| Unreadable(error.to_string()))?;
    let unreadable = |what: &str| Unreadable(what.to_owned());
    if packed.headers.len() > HEADERS_MAX || packed.filter.len() > FILTER_MAX {
        return Err(unreadable("it has too many lines"));
    }
    let mut headers = HeaderMap::with_capacity(packed.headers.len());
    for (name, value) in packed.headers {
        let name = HeaderName::try_from(name).map_err(|_| unreadable("a header has no name"))?;
        let mut value = HeaderValue::try_from(value).map_err(|_| unreadable("a header has no value"))?;
        value.set_sensitive(matches!(name, header::AUTHORIZATION | header::COOKIE));
        headers.append(name, value);
    }
    let told = packed.trace.map(|trace| TraceContext::parse(trace.as_bytes()));
    let trace = told.unwrap_or_else(|| TraceContext::of(&headers));
    let registry = packed.registry.parse().map_err(|_| unreadable("it names no registry"))?;
    let target = Target::new(registry, &packed.path_and_query, &headers, &packed.filter);
    Ok((target.ok_or_else(|| unreadable("its path is none"))?.straight(), trace))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::trace::Kind;

    fn target(path_and_query: &str, headers: &[(&'static str, &str)], filter: &[String]) -> Target {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::try_from(*value).unwrap()))
            .collect();
        Target::new("https://registry.example:5000".parse().unwrap(), path_and_query, &headers, filter)
            .unwrap()
    }

    #[test]
    fn the_owner_asks_what_the_client_asked_with_the_same_claim() {
        let filter = ["sig".to_owned(), "expires".to_owned()];
        let lines =
            [("authorization", "Bearer x"), ("cookie", "a=b"), ("accept", "*/*"), ("range", "bytes=0-1")];
        let asked = target("/v2/library/a/blobs/sha256:00?sig=1&b=%20", &lines, &filter);
        let (read, trace) = unpack(&pack(&asked).unwrap()).unwrap();
        assert_eq!(trace, None, "nothing is recorded");
        assert_eq!(read.url(), asked.url());
        assert_eq!(read.claim(), asked.claim());
        assert_eq!(read.scope(), asked.scope());
        assert!(read.is_straight() && !asked.is_straight());
        assert_eq!(read.headers().get("authorization"), asked.headers().get("authorization"));
        assert_eq!(read.headers().get("range"), None);
    }

    #[test]
    fn the_owner_knows_what_its_part_belongs_to() {
        const CLIENTS: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let (tracer, _ended) = crate::trace::Tracer::new(0.0, Default::default());
        let clients = TraceContext::parse(CLIENTS.as_bytes());
        let lines = [("traceparent", CLIENTS), ("tracestate", "a=b")];
        let asked = target("/v2/library/a/blobs/sha256:00", &lines, &[]);
        // This node records nothing, or is of a version that knows nothing of traces: the owner has the client's context.
        assert_eq!(unpack(&pack(&asked).unwrap()).unwrap().1, clients);
        let asked = asked.within(tracer.continued(clients).span("fetch", Kind::Internal).trace());
        let (read, trace) = unpack(&pack(&asked).unwrap()).unwrap();
        assert_eq!(
            (trace, trace.map(|trace| trace.trace)),
            (asked.trace().context(), clients.map(|it| it.trace))
        );
        assert_ne!(trace, clients, "the parent is this node's span");
        let line = |name| read.headers().get(name).and_then(|value| value.to_str().ok());
        assert_eq!((line("traceparent"), line("tracestate")), (Some(CLIENTS), Some("a=b")));
    }

    /// As nodes without traces wrote and read it.
    #[test]
    fn nodes_without_traces_are_understood_and_understand() {
        #[derive(Serialize, Deserialize)]
        struct Before {
            registry: String,
            path_and_query: String,
            headers: Vec<(String, String)>,
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            filter: Vec<String>,
        }
        let before = Before {
            registry: "https://registry.example:5000".into(),
            path_and_query: "/v2/a/blobs/b".into(),
            headers: vec![("accept".into(), "*/*".into())],
            filter: Vec::new(),
        };
        let errand = wire::Errand::new(Bytes::from(serde_json::to_vec(&before).unwrap())).unwrap();
        assert_eq!(unpack(&errand).unwrap().1, None);
        let (tracer, _ended) = crate::trace::Tracer::new(1.0, Default::default());
        let trace = tracer.request_without_context(std::time::Instant::now()).trace();
        let packed = pack(&target("/v2/a/blobs/b", &[("accept", "*/*")], &[]).within(trace)).unwrap();
        assert!(String::from_utf8_lossy(&packed).contains("\"trace\""));
        let read: Before = serde_json::from_slice(&packed).unwrap();
        assert_eq!(read.path_and_query, before.path_and_query);
    }

    #[test]
    fn a_part_of_nothing_that_can_be_read_is_a_part_of_nothing() {
        let json = r#"{"registry":"https://a","path_and_query":"/","headers":[],"trace":"00-nonsense"}"#;
        let (_, trace) = unpack(&wire::Errand::new(Bytes::from_static(json.as_bytes())).unwrap()).unwrap();
        assert_eq!(trace, None);
    }

    #[test]
    fn what_nobody_asks_for_names_nothing() {
        let nobodys = Target::of_nobody("https://registry.example:5000".parse().unwrap()).unwrap();
        assert!(nobodys.is_nobodys() && !target("/", &[], &[]).is_nobodys());
        let errand = pack(&nobodys).unwrap();
        assert!(errand.is_empty() && unpack(&errand).is_err());
    }

    #[test]
    fn what_does_not_fit_is_not_passed_on() {
        let long = "x".repeat(wire::ERRAND_BYTES_MAX);
        assert_eq!(pack(&target("/v2/a/blobs/b", &[("authorization", &long)], &[])), None);
    }

    #[test]
    fn nobody_is_led_to_another_registry() {
        let errand = |json: &str| wire::Errand::new(Bytes::copy_from_slice(json.as_bytes())).unwrap();
        for json in [
            r#"{"registry":"https://a","path_and_query":"//elsewhere/","headers":[]}"#,
            r#"{"registry":"file:///etc","path_and_query":"/","headers":[]}"#,
            r#"{"registry":"https://a","path_and_query":"/","headers":[["a b","c"]]}"#,
            r#"{"registry":"https://a","path_and_query":"/","headers":[["a","c\nd"]]}"#,
            "{}",
            "",
        ] {
            assert!(unpack(&errand(json)).is_err(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn what_another_node_sends_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = unpack(&wire::Errand::new(Bytes::from(bytes)).unwrap());
        }
    }
}
