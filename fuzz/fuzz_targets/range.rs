//! `Range` of a request: 8 bytes of content length, then the field's value.
//!
//! Whatever is asked, the answer lies inside the content; and an understood range, written in its plainest form, is
//! understood as the same.
#![no_main]

use darter::front::range::{Resolved, Wanted};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, &str)| {
    let (length_bytes, value) = input;
    let wanted = Wanted::parse(Some(value));
    assert_eq!(Wanted::parse(plainest(wanted).as_deref()), wanted);
    match wanted.resolve(length_bytes) {
        Resolved::Whole => assert_eq!(wanted, Wanted::Whole),
        Resolved::Part(part) => {
            assert!(part.start < part.end && part.end <= length_bytes, "{part:?} of {length_bytes}");
            match wanted {
                Wanted::Whole => panic!("the whole content is no part of it"),
                Wanted::Span { first, last } => assert!(part.start == first && part.end - 1 <= last),
                Wanted::From { first } => assert_eq!(part, first..length_bytes),
                Wanted::Suffix { bytes } => {
                    assert_eq!((part.end, part.end - part.start), (length_bytes, bytes.min(length_bytes)));
                }
            }
        }
        Resolved::Unsatisfiable => assert!(match wanted {
            Wanted::Whole => false,
            Wanted::Span { first, .. } | Wanted::From { first } => first >= length_bytes,
            Wanted::Suffix { bytes } => bytes == 0 || length_bytes == 0,
        }),
    }
});

fn plainest(wanted: Wanted) -> Option<String> {
    match wanted {
        Wanted::Whole => None,
        Wanted::Span { first, last } => Some(format!("bytes={first}-{last}")),
        Wanted::From { first } => Some(format!("bytes={first}-")),
        Wanted::Suffix { bytes } => Some(format!("bytes=-{bytes}")),
    }
}
