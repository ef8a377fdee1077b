//! The head of a request that a connection answers by itself leaves nothing open.
#![no_main]

use darter::front::head::PlainGet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(get) = PlainGet::read(bytes) else { return };
    let head = &bytes[..get.head_bytes];
    assert!(head.starts_with(b"GET ") && head.ends_with(b"\r\n\r\n"));
    let ends = head.windows(4).filter(|window| *window == b"\r\n\r\n").count();
    assert_eq!(ends, 1, "an empty line within the head");
    let lines = head.iter().filter(|byte| **byte == b'\n').count();
    let breaks = head.windows(2).filter(|window| *window == b"\r\n").count();
    assert_eq!(lines, breaks, "a line that ends in LF alone");
    assert_eq!(lines, get.headers.len() + 2, "a line that is no field");
    for name in ["content-length", "transfer-encoding", "upgrade", "expect"] {
        assert!(!get.headers.contains_key(name), "{name}");
    }
    let range = get.range.clone().map(|range| &head[range]);
    assert_eq!(range, get.headers.get("range").map(|value| value.as_bytes()));
    assert!(get.headers.get_all("range").iter().count() <= 1);
    // What follows changes nothing.
    assert_eq!(PlainGet::read(head).as_ref(), Some(&get));
});
