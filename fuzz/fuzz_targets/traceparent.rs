//! `traceparent` of a client's head or of another node's errand: the value.
//!
//! What is believed is written out again as version 0, with the same trace and span, and read as the same.
#![no_main]

use darter::trace::context::TraceContext;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &[u8]| {
    let Some(context) = TraceContext::parse(value) else { return };
    let written = context.to_string();
    assert_eq!((written.len(), &written.as_bytes()[2..53]), (55, &value[2..53]));
    assert_eq!(TraceContext::parse(written.as_bytes()), Some(context));
});
