//! The head of a request that the connection may answer by itself: pure.
//!
//! Such a request is a GET that leaves nothing open: of HTTP/1.1, its head whole and to the letter of RFC 9112, without
//! a body, and its connection stays. Everything else is hyper's, which reads the same bytes: so what two readers could
//! understand in two ways is understood by one of them only.

use std::ops::Range;

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

/// Fields beyond which a head is hyper's.
const FIELDS_MAX: usize = 64;

/// A plain GET, at the beginning of the bytes that were read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlainGet {
    /// What is asked for.
    pub uri: Uri,
    /// All fields.
    pub headers: HeaderMap,
    /// Length of the head, with the empty line at its end. There is no body.
    pub head_bytes: usize,
    /// Where in the head the value of `Range` is, if there is one.
    pub range: Option<Range<usize>>,
}

impl PlainGet {
    /// `None` if the bytes do not begin with a whole head of such a request.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        if !bytes.starts_with(b"GET ") {
            return None;
        }
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        let Ok(httparse::Status::Complete(head_bytes)) = request.parse(bytes) else { return None };
        if request.version != Some(1) || !ends_lines_in_full(&bytes[..head_bytes]) {
            return None;
        }
        let uri = request.path?.parse().ok()?;
        let mut headers = HeaderMap::with_capacity(request.headers.len());
        let mut range = None;
        for field in request.headers {
            let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
            match name {
                header::CONTENT_LENGTH
                | header::TRANSFER_ENCODING
                | header::TRAILER
                | header::UPGRADE
                | header::EXPECT => return None,
                header::CONNECTION if !field.value.eq_ignore_ascii_case(b"keep-alive") => return None,
                header::RANGE => {
                    let start = (field.value.as_ptr() as usize).checked_sub(bytes.as_ptr() as usize)?;
                    if range.replace(start..start + field.value.len()).is_some() {
                        return None;
                    }
                }
                _ => {}
            }
            headers.append(name, HeaderValue::from_bytes(field.value).ok()?);
        }
        Some(Self { uri, headers, head_bytes, range })
    }
}

/// Whether every line ends in CR LF. Parsers that take LF alone see other lines than those that do not.
fn ends_lines_in_full(head: &[u8]) -> bool {
    let is_full = |(at, byte): (usize, &u8)| *byte != b'\n' || at > 0 && head[at - 1] == b'\r';
    head.ends_with(b"\r\n\r\n") && head.iter().enumerate().all(is_full)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use http::{Method, Request, Response, Version};
    use http_body_util::{BodyExt, Empty};
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// The first request that hyper makes of bytes, if any: and how many bytes its body has.
    fn hypers(bytes: &[u8]) -> Option<(Request<()>, usize)> {
        let seen = Arc::new(Mutex::new(None));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(1 << 20);
            client.write_all(bytes).await.unwrap();
            client.shutdown().await.unwrap();
            let seeing = seen.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let seeing = seeing.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.map_or(usize::MAX, |body| body.to_bytes().len());
                    let mut seen = seeing.lock().unwrap();
                    seen.get_or_insert((Request::from_parts(head, ()), body));
                    Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                }
            });
            // Else the end behind the bytes would end the answer.
            let _ = hyper::server::conn::http1::Builder::new()
                .half_close(true)
                .serve_connection(TokioIo::new(server), service)
                .await;
        });
        seen.lock().unwrap().take()
    }

    /// What is plain to us is the same to hyper.
    fn check(bytes: &[u8], is_plain: bool) {
        let ours = PlainGet::read(bytes);
        assert_eq!(ours.is_some(), is_plain, "{:?}", String::from_utf8_lossy(bytes));
        agree(bytes, ours);
    }

    fn agree(bytes: &[u8], ours: Option<PlainGet>) {
        let Some(ours) = ours else { return };
        let (theirs, body_bytes) = hypers(bytes).expect("hyper sees a request too");
        assert_eq!((theirs.method(), theirs.version(), body_bytes), (&Method::GET, Version::HTTP_11, 0));
        assert_eq!((theirs.uri(), theirs.headers()), (&ours.uri, &ours.headers));
        let range = ours.range.map(|range| &bytes[range]);
        assert_eq!(range, theirs.headers().get(header::RANGE).map(HeaderValue::as_bytes));
        // Where the head ends is where the next one begins.
        let alone = PlainGet::read(&bytes[..ours.head_bytes]).expect("the head alone");
        assert_eq!(alone.head_bytes, ours.head_bytes);
        assert!(hypers(&bytes[..ours.head_bytes - 1]).is_none(), "hyper sees a shorter head");
    }

    #[test]
    fn what_nydusd_and_containerd_send_is_plain() {
        check(
            b"GET /v2/a/blobs/sha256:00?ns=docker.io HTTP/1.1\r\nHost: x\r\nRange:  bytes=1-2 \r\n\r\n",
            true,
        );
        check(b"GET / HTTP/1.1\r\n\r\n", true);
        check(b"GET http://r:5000/v2/a HTTP/1.1\r\nConnection: Keep-Alive\r\nA: \xff\r\n\r\nGET /", true);
    }

    #[test]
    fn what_could_be_understood_in_two_ways_is_not() {
        let with = |lines: &str| check(format!("GET / HTTP/1.1\r\n{lines}\r\n\r\n").as_bytes(), false);
        with("Content-Length: 5\r\nTransfer-Encoding: chunked");
        with("Content-Length: 0");
        with("Transfer-Encoding: chunked");
        with("Transfer-Encoding: \x0bchunked");
        with("A: b\r\n c");
        with("A: b\n\r\nB: c");
        with("A: b\nContent-Type: x");
        with("A : b");
        with("Connection: close");
        with("Connection: keep-alive\r\nConnection: close");
        with("Connection: x-private");
        with("Upgrade: h2c");
        with("Expect: 100-continue");
        with("Range: bytes=0-1\r\nRange: bytes=2-3");
        with("Range: bytes=0-1\r\nrange: bytes=2-3");
        with(&"A: b\r\n".repeat(FIELDS_MAX + 1));
    }

    #[test]
    fn what_is_no_whole_get_of_this_version_is_not() {
        for bytes in [
            &b""[..],
            b"GET",
            b"GET / HTTP/1.1\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\n\r",
            b"GET / HTTP/1.1\n\n",
            b"\r\nGET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.0\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET  / HTTP/1.1\r\n\r\n",
            b"get / HTTP/1.1\r\n\r\n",
            b"HEAD / HTTP/1.1\r\n\r\n",
            b"POST / HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ] {
            check(bytes, false);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_as_hyper_reads_them(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "GET ", "/", "/v2/a/blobs/x", " HTTP/1.1", " HTTP/1.0", "\r\n", "\n", "\r", " ", "\t", ":", ",",
                    "Host: x", "Range: bytes=0-1", "Content-Length: 1", "Content-Length: 0", "Connection: close",
                    "Connection: keep-alive", "Transfer-Encoding: chunked", "transfer-encoding:", "A", "?", "\0",
                    "http://h", "\r\n\r\n", "0\r\n\r\n", "é",
                ]),
                0..12,
            ),
            is_request: bool,
        ) {
            let beginning = if is_request { "GET / HTTP/1.1\r\n" } else { "" };
            let bytes = [beginning.as_bytes(), parts.concat().as_bytes(), b"\r\n\r\n"].concat();
            agree(&bytes, PlainGet::read(&bytes));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let _ = PlainGet::read(&bytes);
            let _ = PlainGet::read(&[b"GET / HTTP/1.1\r\n", &bytes[..], b"\r\n\r\n"].concat());
        }
    }
}
