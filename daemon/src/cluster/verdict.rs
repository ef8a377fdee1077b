//! A registry's refusal as the owner tells it to other nodes, for the clients that asked alike.

use bytes::Bytes;
use darter_transport::wire;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use crate::origin::Verdict;

/// Lines of a head that are taken from another node.
const HEADERS_MAX: usize = 64;

#[derive(Serialize, Deserialize)]
struct Packed {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

/// For the wire. Of a body that is no text or does not fit, and of heads that do not fit, only the status stays.
pub(crate) fn pack(verdict: &Verdict) -> wire::Verdict {
    let text = |(name, value): (&HeaderName, &HeaderValue)| {
        Some((name.to_string(), value.to_str().ok()?.to_owned()))
    };
    let status = verdict.status.as_u16();
    let headers: Vec<_> = verdict.headers.iter().filter_map(text).take(HEADERS_MAX).collect();
    let body = std::str::from_utf8(&verdict.body).unwrap_or_default().to_owned();
    let fit = |packed: &Packed| wire::Verdict::new(Bytes::from(serde_json::to_vec(packed).ok()?));
    let mut packed = Packed { status, headers, body };
    if let Some(fits) = fit(&packed) {
        return fits;
    }
    packed.body.clear();
    fit(&packed)
        .or_else(|| fit(&Packed { status, headers: Vec::new(), body: String::new() }))
        .unwrap_or_default()
}

/// `None` where it is no refusal.
pub(crate) fn unpack(verdict: &wire::Verdict) -> Option<Verdict> {
    let packed: Packed = serde_json::from_slice(verdict).ok()?;
    let status = StatusCode::from_u16(packed.status).ok().filter(|status| !status.is_success())?;
    let mut headers = HeaderMap::new();
    for (name, value) in packed.headers.into_iter().take(HEADERS_MAX) {
        headers.append(HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?);
    }
    Some(Verdict { status, headers, body: packed.body.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: u16, body: &str) -> Verdict {
        let mut headers = HeaderMap::new();
        headers.insert("www-authenticate", HeaderValue::from_static("Bearer realm=\"https://r/token\""));
        Verdict {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    #[test]
    fn a_refusal_reaches_other_nodes_as_it_is() {
        let told = verdict(401, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#);
        let read = unpack(&pack(&told)).unwrap();
        assert_eq!((read.status, read.headers, read.body), (told.status, told.headers, told.body));
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let read = unpack(&pack(&verdict(403, &"x".repeat(wire::VERDICT_BYTES_MAX)))).unwrap();
        assert_eq!((read.status.as_u16(), read.headers.len(), read.body.len()), (403, 1, 0));
    }

    #[test]
    fn a_success_is_no_refusal() {
        let told =
            wire::Verdict::new(Bytes::from_static(br#"{"status":200,"headers":[],"body":""}"#)).unwrap();
        assert!(unpack(&told).is_none());
        assert!(unpack(&wire::Verdict::default()).is_none());
    }
}
