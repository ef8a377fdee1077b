//! Bodies of answers.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::LocalBoxStream;
use http_body::{Body, Frame, SizeHint};

/// The body of an answer of the front.
pub enum AnswerBody {
    /// All of it is in hand.
    Parts(VecDeque<Bytes>),
    /// It comes piece by piece; an error ends the connection before the body's announced end.
    Stream {
        /// What comes.
        parts: LocalBoxStream<'static, Result<Bytes, BodyError>>,
        /// Bytes that are still to come, if that is known.
        left_bytes: Option<u64>,
    },
}

/// The rest of a body cannot be had. The connection is closed cleanly, short of the announced length.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BodyError(pub String);

impl AnswerBody {
    /// Nothing.
    pub fn empty() -> Self {
        Self::Parts(VecDeque::new())
    }

    /// One part.
    pub fn full(bytes: Bytes) -> Self {
        Self::Parts([bytes].into())
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Parts(parts) => Poll::Ready(parts.pop_front().map(|part| Ok(Frame::data(part)))),
            Self::Stream { parts, left_bytes } => parts.as_mut().poll_next(context).map(|part| {
                Some(part?.map(|part| {
                    if let Some(left) = left_bytes {
                        *left = left.saturating_sub(part.len() as u64);
                    }
                    Frame::data(part)
                }))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Parts(parts) => parts.is_empty(),
            Self::Stream { left_bytes, .. } => *left_bytes == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Parts(parts) => SizeHint::with_exact(parts.iter().map(|part| part.len() as u64).sum()),
            Self::Stream { left_bytes, .. } => {
                left_bytes.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}

impl std::fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AnswerBody({:?})", self.size_hint())
    }
}
