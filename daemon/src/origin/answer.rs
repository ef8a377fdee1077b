//! What an origin's answer to a request for bytes of a blob means.

use std::ops::Range;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::LocalBoxStream;
use http::{HeaderMap, StatusCode, header};
use tokio::sync::OwnedSemaphorePermit;

use super::answer_head::AnswerHead;
use super::{Ask, OriginError, innermost};
use crate::config::Registry;
use crate::trace::Span;

/// Longest body of a refusal that is passed on.
const VERDICT_BODY_BYTES_MAX: usize = 64 * 1024;

/// Longest validator that is taken for one: what a record of the store has room for.
const VALIDATOR_BYTES_MAX: usize = 120;

/// The origin's own decision: passed to the client as it is.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Not a success.
    pub status: StatusCode,
    /// `WWW-Authenticate`, `Retry-After`, `Content-Type` and the like.
    pub headers: HeaderMap,
    /// At most 64 KiB of the body.
    pub body: Bytes,
}

/// An answer that makes sense.
#[derive(Debug)]
pub enum BlobAnswer {
    /// Bytes of a blob of known length; they may be more than was asked for, and begin earlier.
    Bytes(BlobStream),
    /// A success without a length.
    NoLength,
    /// The range is beyond the end of a blob of this length.
    Unsatisfied {
        /// Length of the blob.
        length_bytes: u64,
    },
    /// Not a success.
    Verdict(Verdict),
}

/// A body with its place in the blob.
pub struct BlobStream {
    /// The bytes that the body promises.
    pub bytes: Range<u64>,
    /// Length of the whole blob.
    pub length_bytes: u64,
    /// An answer to a range with that part; else the whole, from its beginning.
    pub is_part: bool,
    /// As the registry named it; may be empty.
    pub media_type: String,
    /// A strong `ETag`, else `Last-Modified`; may be empty.
    pub validator: String,
    registry: String,
    body: LocalBoxStream<'static, reqwest::Result<Bytes>>,
    /// Given back when the body is dropped.
    _permit: Option<OwnedSemaphorePermit>,
    /// Ends with the body.
    span: Span,
}

impl BlobAnswer {
    pub(super) async fn read(
        registry: &Registry,
        ask: Ask,
        response: reqwest::Response,
    ) -> Result<Self, OriginError> {
        let head = AnswerHead::read(ask, response.status(), response.headers(), response.content_length());
        let head = head.map_err(|reason| OriginError::Unusable { registry: registry.to_string(), reason })?;
        let (bytes, length_bytes, is_part) = match head {
            AnswerHead::Bytes { bytes, length_bytes, is_part } => (bytes, length_bytes, is_part),
            AnswerHead::NoLength => return Ok(Self::NoLength),
            AnswerHead::Unsatisfied { length_bytes } => return Ok(Self::Unsatisfied { length_bytes }),
            AnswerHead::Verdict => return Ok(Self::Verdict(Verdict::read(response).await)),
        };
        let media_type = response.headers().get(header::CONTENT_TYPE);
        let media_type = media_type.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let validator = validator_of(response.headers());
        let body = response.bytes_stream().boxed_local();
        let registry = registry.to_string();
        Ok(Self::Bytes(BlobStream {
            bytes,
            length_bytes,
            is_part,
            media_type,
            validator,
            registry,
            body,
            _permit: None,
            span: Span::default(),
        }))
    }
}

/// What tells versions of a URL's content apart byte by byte (RFC 9110, section 8.8): weak tags do not.
fn validator_of(headers: &HeaderMap) -> String {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let strong = text(header::ETAG).filter(|tag| tag.starts_with('"'));
    let validator = strong.or_else(|| text(header::LAST_MODIFIED));
    validator.filter(|validator| validator.len() <= VALIDATOR_BYTES_MAX).unwrap_or_default().to_owned()
}

impl BlobStream {
    /// Gives the permit back when the body is dropped.
    pub(crate) fn hold(&mut self, permit: OwnedSemaphorePermit) {
        self._permit = Some(permit);
    }

    /// The request as it is recorded lasts as long as its body.
    pub(super) fn is_read_in(&mut self, span: Span) {
        self.span = span;
    }

    /// Of nothing.
    #[cfg(test)]
    pub(crate) fn empty() -> Self {
        Self {
            bytes: 0..0,
            length_bytes: 0,
            is_part: false,
            media_type: String::new(),
            validator: String::new(),
            registry: String::new(),
            body: futures_util::stream::empty().boxed_local(),
            _permit: None,
            span: Span::default(),
        }
    }

    /// The next bytes; `None` at the end of the body, which may come before the promised end.
    ///
    /// # Errors
    /// The connection broke or fell silent.
    pub async fn next(&mut self) -> Result<Option<Bytes>, OriginError> {
        let next = self.body.next().await.transpose().map_err(|error| OriginError::Unreachable {
            registry: self.registry.clone(),
            reason: innermost(&error),
        });
        match &next {
            Ok(part) => self.span.add("http.response.body.size", part.as_ref().map_or(0, Bytes::len) as u64),
            Err(error) => self.span.fail(error),
        }
        next
    }
}

impl std::fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobStream({:?} of {})", self.bytes, self.length_bytes)
    }
}

impl Verdict {
    /// Whether it is about who asks for what, and not about how the registry does.
    pub fn is_final(&self) -> bool {
        !self.status.is_server_error()
            && !self.status.is_redirection()
            && self.status != StatusCode::TOO_MANY_REQUESTS
    }

    /// The head of a refusal, as the answer to a HEAD is.
    pub(crate) fn without_body(status: StatusCode, headers: &HeaderMap) -> Self {
        let mut headers = headers.clone();
        headers.remove(header::CONTENT_TYPE);
        Self { status, headers, body: Bytes::new() }
    }

    /// Reads a refusal with what of its body may be passed on.
    async fn read(response: reqwest::Response) -> Self {
        let status = response.status();
        let mut headers = super::target::end_to_end(response.headers());
        headers.remove(header::CONTENT_LENGTH);
        let mut body = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(Ok(chunk)) = stream.next().await {
            let room = VERDICT_BODY_BYTES_MAX - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if body.len() == VERDICT_BODY_BYTES_MAX {
                break;
            }
        }
        Self { status, headers, body: body.into() }
    }
}
