//! What the head of an origin's answer says of its body: pure.

use std::ops::Range;

use http::{HeaderMap, StatusCode, header};

use super::Ask;
use super::content_range::ContentRange;

/// A head that makes sense.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AnswerHead {
    /// Bytes of a blob.
    Bytes {
        /// Those that the body promises.
        bytes: Range<u64>,
        /// Length of the whole blob.
        length_bytes: u64,
        /// An answer to a range with that part; else the whole, from its beginning.
        is_part: bool,
    },
    /// A success without a length.
    NoLength,
    /// The range is beyond the end of a blob of this length.
    Unsatisfied {
        /// Length of the blob.
        length_bytes: u64,
    },
    /// Not a success: the body is the origin's word to the client.
    Verdict,
}

impl AnswerHead {
    /// Reads status and headers of an answer to `ask`. `body_bytes` is the body's length, where it is told.
    ///
    /// # Errors
    /// What makes no sense, for the message about it.
    pub fn read(
        ask: Ask,
        status: StatusCode,
        headers: &HeaderMap,
        body_bytes: Option<u64>,
    ) -> Result<Self, String> {
        let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let encoding = text(header::CONTENT_ENCODING).unwrap_or("identity");
        if status.is_success() && !encoding.eq_ignore_ascii_case("identity") {
            return Err(format!("the body is encoded as {encoding}, which was not asked for"));
        }
        let content_range = text(header::CONTENT_RANGE);
        match (status, content_range.and_then(ContentRange::parse)) {
            (StatusCode::OK, _) => Ok(body_bytes.map_or(Self::NoLength, |length_bytes| Self::Bytes {
                bytes: 0..length_bytes,
                length_bytes,
                is_part: false,
            })),
            (StatusCode::PARTIAL_CONTENT, Some(ContentRange::Part { bytes, length_bytes: Some(length) })) => {
                Self::part(ask, bytes, length, body_bytes)
            }
            (StatusCode::PARTIAL_CONTENT, _) => {
                Err(format!("206 with {:?}", content_range.unwrap_or("no Content-Range")))
            }
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(ContentRange::Unsatisfied { length_bytes })) => {
                Ok(Self::Unsatisfied { length_bytes })
            }
            // Neither bytes nor a verdict that a client could understand.
            (status, _) if status.is_success() || status.is_informational() || status.as_u16() >= 600 => {
                Err(format!("{status} to a request for a blob"))
            }
            _ => Ok(Self::Verdict),
        }
    }

    fn part(ask: Ask, bytes: Range<u64>, length_bytes: u64, body_bytes: Option<u64>) -> Result<Self, String> {
        let promised = bytes.end - bytes.start;
        if let Some(length) = body_bytes.filter(|length| *length != promised) {
            return Err(format!("a body of {length} bytes for a range of {promised}"));
        }
        let asked_from = match ask {
            Ask::Span { first, .. } => first,
            Ask::Suffix { bytes } => length_bytes.saturating_sub(bytes),
        };
        if bytes.start != asked_from {
            return Err(format!("bytes from {} on to a request for {ask:?}", bytes.start));
        }
        Ok(Self::Bytes { bytes, length_bytes, is_part: true })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const ASK: Ask = Ask::Span { first: 10, last: 19 };

    fn read(
        ask: Ask,
        status: u16,
        range: &'static str,
        body_bytes: Option<u64>,
    ) -> Result<AnswerHead, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_RANGE, HeaderValue::from_static(range));
        AnswerHead::read(ask, StatusCode::from_u16(status).unwrap(), &headers, body_bytes)
    }

    #[test]
    fn what_registries_send() {
        let bytes = |bytes, is_part| Ok(AnswerHead::Bytes { bytes, length_bytes: 100, is_part });
        assert_eq!(read(ASK, 206, "bytes 10-19/100", Some(10)), bytes(10..20, true));
        assert_eq!(
            read(ASK, 206, "bytes 10-15/100", None),
            bytes(10..16, true),
            "less than asked for, in chunks"
        );
        assert_eq!(read(Ask::Suffix { bytes: 30 }, 206, "bytes 70-99/100", Some(30)), bytes(70..100, true));
        assert_eq!(read(Ask::Suffix { bytes: 300 }, 206, "bytes 0-99/100", Some(100)), bytes(0..100, true));
        assert_eq!(read(ASK, 200, "", Some(100)), bytes(0..100, false));
        assert_eq!(read(ASK, 200, "", None), Ok(AnswerHead::NoLength));
        assert_eq!(read(ASK, 416, "bytes */5", Some(0)), Ok(AnswerHead::Unsatisfied { length_bytes: 5 }));
        assert_eq!(read(ASK, 416, "", Some(0)), Ok(AnswerHead::Verdict));
        assert_eq!(read(ASK, 404, "", Some(0)), Ok(AnswerHead::Verdict));
    }

    #[test]
    fn what_makes_no_sense() {
        for (status, range, body_bytes) in [
            (206, "bytes 11-19/100", Some(9)),
            (206, "bytes 9-19/100", Some(11)),
            (206, "bytes 10-19/100", Some(11)),
            (206, "bytes 10-19/*", Some(10)),
            (206, "", Some(10)),
            (204, "", None),
            (101, "", None),
            (999, "", None),
        ] {
            assert!(read(ASK, status, range, body_bytes).is_err(), "{status} {range} {body_bytes:?}");
        }
    }

    #[test]
    fn an_encoded_body_is_none_of_the_blob() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(AnswerHead::read(ASK, StatusCode::OK, &headers, Some(100)).is_err());
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("Identity"));
        assert!(AnswerHead::read(ASK, StatusCode::OK, &headers, Some(100)).is_ok());
    }
}
