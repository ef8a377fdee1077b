//! The two directions of a stream, as messages: what exchanges and the control stream have in common.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use darter_engine::buffer::BlockBuffer;
use tokio::time::timeout;

use crate::exchange::ExchangeError;
use crate::lane::{LaneError, RecvHalf, SendHalf};
use crate::node::Role;
use crate::wire::{Blocks, Code, Decoded, FrameHead, FrameReader, Message, RUN_BLOCKS_MAX};

/// How long the other side may take nothing of what is sent to it. A link of 1 Mbit/s takes [`WRITE_BYTES_MAX`] in half a
/// second; on a stream among a hundred others it may wait for its turn.
pub(crate) const SEND_PATIENCE: Duration = Duration::from_secs(20);
/// What is handed to the lane at a time, so that patience is per so many bytes.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// From here to there.
#[derive(Debug)]
pub(crate) struct MessageSender {
    half: SendHalf,
    /// A write was begun and has not ended.
    torn: bool,
}

impl MessageSender {
    pub(crate) fn new(half: SendHalf) -> Self {
        Self { half, torn: false }
    }

    pub(crate) async fn write(&mut self, mut bytes: Bytes) -> Result<(), ExchangeError> {
        if std::mem::replace(&mut self.torn, true) {
            return Err(ExchangeError::Torn);
        }
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(WRITE_BYTES_MAX));
            let written = timeout(SEND_PATIENCE, self.half.write(part)).await;
            written.map_err(|_| ExchangeError::Stalled)??;
        }
        self.torn = false;
        Ok(())
    }

    /// Says that the bytes of these blocks follow.
    pub(crate) async fn announce_blocks(&mut self, places: Range<u32>) -> Result<(), ExchangeError> {
        let (first, count) = (places.start as u16, places.len() as u16);
        debug_assert!((1..=RUN_BLOCKS_MAX as usize).contains(&places.len()), "{places:?}");
        self.write(Message::from(Blocks { first, count }).encode()).await
    }

    pub(crate) fn finish(&mut self) {
        // What is torn must not look whole.
        if !self.torn {
            self.half.finish();
        }
    }

    pub(crate) fn reset(&mut self, code: Code) {
        self.half.reset(code.number().into());
    }

    pub(crate) async fn drained(&mut self) -> Result<(), ExchangeError> {
        let drained = timeout(SEND_PATIENCE, self.half.drained()).await;
        drained.map_err(|_| ExchangeError::Stalled)?.map_err(ExchangeError::from)
    }
}

/// From there to here.
#[derive(Debug)]
pub(crate) struct MessageReceiver {
    half: RecvHalf,
    frames: FrameReader,
    from: Role,
    /// Blocks that were announced and not read.
    blocks_due: u32,
    /// A read of a block was begun and has not ended.
    torn: bool,
}

impl MessageReceiver {
    pub(crate) fn new(half: RecvHalf, from: Role) -> Self {
        Self { half, frames: FrameReader::default(), from, blocks_due: 0, torn: false }
    }

    /// The next message that this node knows. Nothing is lost when it is dropped while it waits.
    pub(crate) async fn next(&mut self) -> Result<Option<Message>, ExchangeError> {
        if self.torn || self.blocks_due > 0 {
            return Err(ExchangeError::Torn);
        }
        loop {
            let Some((head, payload)) = self.frame().await? else { return Ok(None) };
            let malformed = |error: crate::wire::Malformed| ExchangeError::Malformed(error.to_string());
            match Message::decode(head, payload).map_err(malformed)? {
                Decoded::PassedOver => tokio::task::consume_budget().await,
                Decoded::Unknown(kind) => return Err(ExchangeError::Unknown(kind)),
                Decoded::Message(message) if !message.may_come_from(self.from) => {
                    return Err(ExchangeError::Forbidden(message.name()));
                }
                Decoded::Message(Message::Blocks(blocks)) => {
                    let places = blocks.places();
                    let places = places.ok_or(ExchangeError::Malformed(format!("{blocks:?}")))?;
                    self.blocks_due = places.len() as u32;
                    return Ok(Some(blocks.into()));
                }
                Decoded::Message(message) => return Ok(Some(message)),
            }
        }
    }

    /// The next frame, whatever it is.
    pub(crate) async fn frame(&mut self) -> Result<Option<(FrameHead, Bytes)>, ExchangeError> {
        loop {
            let Some(part) = self.half.read(self.frames.missing_bytes()).await? else {
                return if self.frames.is_between_frames() {
                    Ok(None)
                } else {
                    Err(LaneError::CutShort.into())
                };
            };
            match self.frames.take(part) {
                Ok(None) => {}
                Ok(frame) => return Ok(frame),
                Err(error) => return Err(ExchangeError::Malformed(error.to_string())),
            }
        }
    }

    pub(crate) async fn read_block(
        &mut self,
        mut buffer: BlockBuffer,
        bytes: u32,
    ) -> Result<Bytes, ExchangeError> {
        let mut left = buffer.as_mut_slice().get_mut(..bytes as usize).ok_or(ExchangeError::Torn)?;
        if self.torn || self.blocks_due == 0 {
            return Err(ExchangeError::Torn);
        }
        self.torn = true;
        while !left.is_empty() {
            let filled = self.half.read_into(left).await?.ok_or(LaneError::CutShort)?;
            left = &mut left[filled..];
        }
        self.torn = false;
        self.blocks_due -= 1;
        Ok(buffer.freeze(bytes as usize))
    }

    pub(crate) fn stop(&mut self, code: Code) {
        self.half.stop(code.number().into());
    }
}
