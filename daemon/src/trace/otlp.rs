//! Spans as OTLP has them (OpenTelemetry Protocol 1.x, `opentelemetry/proto/collector/trace/v1/trace_service.proto`), in
//! Protobuf: of each message the fields that are used. `tests/tests/tracing.rs` reads them by OpenTelemetry's own messages.

use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use super::span::{Kind, Record, Value};

/// Whose spans these are: `service.name` and the like.
pub(super) type Resource = Vec<(String, String)>;

/// The body of one export.
pub(super) fn encode(resource: &Resource, records: &[Record]) -> Vec<u8> {
    let text = |key: &str, text: &str| KeyValue { key: key.into(), value: Some(AnyValue::of(&text.into())) };
    let scope = Scope { name: "darter".into(), version: env!("CARGO_PKG_VERSION").into() };
    let scope = ScopeSpans { scope: Some(scope), spans: records.iter().map(Span::from).collect() };
    let attributes = resource.iter().map(|(key, value)| text(key, value)).collect();
    let all = ResourceSpans { resource: Some(ResourceMessage { attributes }), scopes: vec![scope] };
    Request { resources: vec![all] }.encode_to_vec()
}

#[derive(Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<ResourceSpans>,
}

#[derive(Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<ResourceMessage>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<ScopeSpans>,
}

#[derive(Message)]
struct ResourceMessage {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_ns: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_ns: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Message)]
struct AnyValue {
    #[prost(oneof = "Any", tags = "1, 2, 3")]
    value: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Any {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Flag(bool),
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// `STATUS_CODE_ERROR`.
const FAILED: i32 = 2;
/// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK` and `SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK`: whether the parent is another process's.
const KNOWS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

impl AnyValue {
    fn of(value: &Value) -> Self {
        let value = match value {
            Value::Text(text) => Any::Text(text.to_string()),
            Value::Flag(flag) => Any::Flag(*flag),
            Value::Number(number) => Any::Number(*number),
        };
        Self { value: Some(value) }
    }
}

impl From<&Record> for Span {
    fn from(record: &Record) -> Self {
        let attribute = |(key, value): &(&str, Value)| KeyValue {
            key: (*key).to_owned(),
            value: Some(AnyValue::of(value)),
        };
        let remote = if record.has_remote_parent { IS_REMOTE } else { 0 };
        Self {
            trace_id: record.context.trace.get().to_be_bytes().to_vec(),
            span_id: record.context.span.get().to_be_bytes().to_vec(),
            parent_span_id: record.parent.map_or_else(Vec::new, |parent| parent.get().to_be_bytes().to_vec()),
            name: record.name.to_string(),
            kind: match record.kind {
                Kind::Internal => 1,
                Kind::Server => 2,
                Kind::Client => 3,
            },
            start_time_unix_ns: unix_ns(record.started),
            end_time_unix_ns: unix_ns(record.started + record.took),
            attributes: record.attributes.iter().map(attribute).collect(),
            status: record.error.as_ref().map(|why| Status { message: why.to_string(), code: FAILED }),
            flags: u32::from(record.context.flags()) | KNOWS_REMOTE | remote,
        }
    }
}

fn unix_ns(time: SystemTime) -> u64 {
    let age = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)
}
