//! Bodies of answers.
//!
//! Parts that are in hand go out together, as one [`Batch`]: the connection's own buffer is small, so that what a
//! client sends and what it does not take cost little, and a write is as long as if it were large.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use futures_util::stream::LocalBoxStream;
use http_body::{Body, Frame, SizeHint};

/// Bytes from which on a batch goes out.
const BATCH_BYTES: usize = 1 << 20;

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

    /// Bytes that are still to come, if that is known.
    pub(super) fn length(&self) -> Option<u64> {
        self.size_hint().exact()
    }

    /// One part.
    pub fn full(bytes: Bytes) -> Self {
        Self::Parts([bytes].into())
    }
}

/// Parts of a body that are written together.
#[derive(Debug, Default)]
pub struct Batch {
    parts: VecDeque<Bytes>,
    left_bytes: usize,
}

impl Batch {
    fn push(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.left_bytes += part.len();
            self.parts.push_back(part);
        }
    }
}

impl Buf for Batch {
    fn remaining(&self) -> usize {
        self.left_bytes
    }

    fn chunk(&self) -> &[u8] {
        self.parts.front().map_or(&[], |part| part)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let filled = slices.iter_mut().zip(&self.parts).map(|(slice, part)| *slice = IoSlice::new(part));
        filled.count()
    }

    fn advance(&mut self, bytes: usize) {
        assert!(bytes <= self.left_bytes, "{bytes} of {} bytes", self.left_bytes);
        self.left_bytes -= bytes;
        let mut bytes = bytes;
        while let Some(part) = self.parts.front_mut() {
            if part.len() > bytes {
                return part.advance(bytes);
            }
            bytes -= part.len();
            self.parts.pop_front();
        }
    }
}

impl Body for AnswerBody {
    type Data = Batch;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Batch>, BodyError>>> {
        let mut batch = Batch::default();
        match self.get_mut() {
            Self::Parts(parts) => {
                while batch.left_bytes < BATCH_BYTES
                    && let Some(part) = parts.pop_front()
                {
                    batch.push(part);
                }
            }
            Self::Stream { parts, left_bytes } => {
                while batch.left_bytes < BATCH_BYTES && *left_bytes != Some(0) {
                    // What is in hand goes out before the trouble behind it is told, and without waiting for more.
                    let part = match parts.as_mut().poll_next(context) {
                        Poll::Ready(Some(Ok(part))) => part,
                        Poll::Ready(None) => {
                            *left_bytes = Some(0);
                            break;
                        }
                        Poll::Ready(Some(Err(error))) if batch.left_bytes == 0 => {
                            return Poll::Ready(Some(Err(error)));
                        }
                        Poll::Ready(Some(Err(error))) => {
                            *parts = futures_util::stream::once(async { Err(error) }).boxed_local();
                            break;
                        }
                        Poll::Pending if batch.left_bytes == 0 => return Poll::Pending,
                        Poll::Pending => break,
                    };
                    if let Some(left) = left_bytes {
                        *left = left.saturating_sub(part.len() as u64);
                    }
                    batch.push(part);
                }
            }
        }
        Poll::Ready((batch.left_bytes > 0).then(|| Ok(Frame::data(batch))))
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
