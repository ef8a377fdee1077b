//! What the head of an origin's answer means: a line with the status, the length of the body or `-`, and what was
//! asked, as `FIRST LAST` or `-BYTES`; then lines of headers.
//!
//! Bytes are believed only where the head says one thing: a part begins where it was asked for, lies within the
//! content, and is as long as the body.
#![no_main]

use darter::origin::Ask;
use darter::origin::answer_head::AnswerHead;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (line, lines) = text.split_once('\n').unwrap_or((text, ""));
    let words: Vec<&str> = line.split(' ').collect();
    let [status, body, asked @ ..] = &words[..] else { return };
    let Ok(status) = status.parse::<StatusCode>() else { return };
    let body_bytes = body.parse::<u64>().ok();
    let ask = match asked {
        [suffix] => {
            suffix.strip_prefix('-').and_then(|bytes| Some(Ask::Suffix { bytes: bytes.parse().ok()? }))
        }
        [first, last] => {
            first.parse().ok().zip(last.parse().ok()).map(|(first, last)| Ask::Span { first, last })
        }
        _ => None,
    };
    let Some(ask) = ask else { return };
    let mut headers = HeaderMap::new();
    for (name, value) in lines.lines().filter_map(|line| line.split_once(':')) {
        let value = HeaderValue::from_bytes(value.trim().as_bytes());
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value) {
            headers.append(name, value);
        }
    }
    let Ok(head) = AnswerHead::read(ask, status, &headers, body_bytes) else { return };
    match head {
        AnswerHead::Bytes { bytes, length_bytes, is_part } => {
            assert!(bytes.start <= bytes.end && bytes.end <= length_bytes);
            assert!(body_bytes.is_none_or(|body| body == bytes.end - bytes.start));
            assert!(headers.get(header::CONTENT_ENCODING).is_none_or(|value| {
                value.as_bytes().eq_ignore_ascii_case(b"identity") || value.to_str().is_err()
            }));
            match ask {
                _ if !is_part => assert_eq!(bytes, 0..length_bytes),
                Ask::Span { first, .. } => assert_eq!(bytes.start, first),
                Ask::Suffix { bytes: suffix } => assert_eq!(bytes.start, length_bytes.saturating_sub(suffix)),
            }
        }
        AnswerHead::NoLength => assert_eq!((status, body_bytes), (StatusCode::OK, None)),
        AnswerHead::Unsatisfied { .. } => assert_eq!(status, StatusCode::RANGE_NOT_SATISFIABLE),
        AnswerHead::Verdict => assert!(!status.is_success() && !status.is_informational()),
    }
});
