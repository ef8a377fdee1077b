//! One request on its way through this node, other nodes and registries, so that people find out where its time went.
//!
//! ```text
//!  a client's head ─ context ─▶ Tracer ── recorded? ─▶ Span ─▶ Trace, in the request's target
//!                                 ▲                                   │ the fetch, a question to the owner, a registry
//!     another node's errand ──────┘                                   ▼
//!                                                                   Span ─ ended ─▶ queue ─▶ Exporter ─▶ collector
//! ```
//!
//! Off unless a collector is configured. A request of which nothing is recorded carries one empty pointer, so that what is traced
//! costs those requests only that are recorded. Spans end when they are dropped; a bounded queue takes them to one task, and
//! what does not fit is dropped and counted: nobody ever waits for a collector.
//!
//! In no span: credentials, queries of URLs (there may be a signature in them), headers but for `Range`.
//!
//! Absent on purpose: spans inside the engine and the transport, and a general purpose library for them. What is
//! recorded are a handful of places that all have a [`Target`](crate::origin::Target), which carries the trace with it.

mod chance;
pub mod context;
mod exporter;
mod otlp;
mod request_id;
mod span;
mod tracer;

pub(crate) use exporter::Exporting;
pub use exporter::NoExporter;
pub(crate) use request_id::RequestId;
pub(crate) use span::{Kind, Span, Trace};
pub(crate) use tracer::Tracer;
