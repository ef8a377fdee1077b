//! `Content-Range` of an origin's answer: the field's value.
//!
//! What is believed is a range that is not empty and not beyond its own length; written out again it is read as the
//! same.
#![no_main]

use darter::origin::content_range::ContentRange;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &str| {
    let Some(range) = ContentRange::parse(value) else { return };
    let text = match &range {
        ContentRange::Part { bytes, length_bytes } => {
            assert!(bytes.start < bytes.end);
            let last = bytes.end - 1;
            match length_bytes {
                Some(length) => {
                    assert!(bytes.end <= *length);
                    format!("bytes {}-{last}/{length}", bytes.start)
                }
                None => format!("bytes {}-{last}/*", bytes.start),
            }
        }
        ContentRange::Unsatisfied { length_bytes } => format!("bytes */{length_bytes}"),
    };
    assert_eq!(ContentRange::parse(&text), Some(range));
});
