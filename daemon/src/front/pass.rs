//! Requests that go past the store: what is no content, and contents that cannot be kept.

use std::sync::Arc;

use bytes::Bytes;
use darter_engine::ContentId;
use futures_util::StreamExt;
use futures_util::stream::LocalBoxStream;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use hyper::body::Incoming;

use super::body::{AnswerBody, BodyError};
use super::trouble::Trouble;
use crate::digest::OffShardSha256;
use crate::fetch::FetchError;
use crate::metrics::{Answers, Source};
use crate::origin::{Origin, Target};

/// Sends a request on and its answer back.
pub(super) async fn pass(
    origin: &Origin,
    answers: &Arc<Answers>,
    target: &Target,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Trouble> {
    let method = request.method().clone();
    let answer = if request.body().is_end_stream() {
        origin.pass(target, method).await
    } else {
        origin.pass_with_body(target, method, reqwest::Body::wrap(request.into_body())).await
    };
    Ok(relay(answers, answer.map_err(FetchError::from)?, None))
}

/// A content named by its digest that the store cannot hold, streamed. A whole one keeps its last bytes back until
/// the digest is right.
pub(super) async fn pass_by_digest(
    origin: &Origin,
    answers: &Arc<Answers>,
    target: &Target,
    id: ContentId,
) -> Result<Response<AnswerBody>, Trouble> {
    let answer = origin.pass(target, Method::GET).await.map_err(FetchError::from)?;
    let gate = match answer.status() {
        StatusCode::OK => Some(Gate { id, digest: OffShardSha256::start().ok_or(Trouble::Busy)? }),
        status if status.is_server_error() => {
            let reason = format!("it answered {status}");
            let registry = target.registry().to_string();
            return Err(FetchError::from(crate::origin::OriginError::Unreachable { registry, reason }).into());
        }
        _ => None,
    };
    Ok(relay(answers, answer, gate))
}

/// What must hold before the last bytes of a body go out.
struct Gate {
    id: ContentId,
    digest: OffShardSha256,
}

fn relay(answers: &Arc<Answers>, answer: reqwest::Response, gate: Option<Gate>) -> Response<AnswerBody> {
    let mut relayed = Response::new(());
    *relayed.status_mut() = answer.status();
    *relayed.headers_mut() = crate::origin::end_to_end(answer.headers());
    let length = answer.headers().get(header::CONTENT_LENGTH).cloned();
    let left_bytes = answer.content_length();
    if let Some(length) = length {
        relayed.headers_mut().insert(header::CONTENT_LENGTH, length);
    }
    relayed.headers_mut().insert(header::VIA, HeaderValue::from_static("1.1 darter"));
    let answers = answers.clone();
    let counted = answer.bytes_stream().map(move |part| {
        let part = part.map_err(|error| BodyError(error.to_string()))?;
        answers.body(Source::Pass, part.len());
        Ok(part)
    });
    let parts = match gate {
        Some(gate) => gated(counted.boxed_local(), gate),
        None => counted.boxed_local(),
    };
    relayed.map(|()| AnswerBody::Stream { parts, left_bytes })
}

/// Holds each part back until the next one has come, and the last one until the digest is right.
fn gated(
    parts: LocalBoxStream<'static, Result<Bytes, BodyError>>,
    gate: Gate,
) -> LocalBoxStream<'static, Result<Bytes, BodyError>> {
    struct Held {
        parts: LocalBoxStream<'static, Result<Bytes, BodyError>>,
        last: Option<Bytes>,
        gate: Option<Gate>,
        request: tracing::Span,
    }
    let held = Held { parts, last: None, gate: Some(gate), request: tracing::Span::current() };
    futures_util::stream::try_unfold(held, async |mut held: Held| {
        loop {
            let Some(gate) = &mut held.gate else { return Ok(None) };
            if let Some(part) = held.parts.next().await.transpose()? {
                gate.digest.update(part.clone()).await;
                if let Some(ready) = held.last.replace(part) {
                    return Ok(Some((ready, held)));
                }
                continue;
            }
            let Some(Gate { id, digest }) = held.gate.take() else { return Ok(None) };
            if digest.finish().await != Some(*id.as_bytes()) {
                tracing::error!(parent: &held.request, content = %id, "the registry's bytes are not those of the digest");
                return Err(BodyError("the digest is wrong".into()));
            }
            return Ok(held.last.take().map(|last| (last, held)));
        }
    })
    .boxed_local()
}
