//! One stream as messages.

use std::ops::Range;

use bytes::Bytes;
use darter_engine::buffer::BlockBuffer;

use crate::identity::Member;
use crate::lane::{Connection, LaneError, RecvHalf, SendHalf};
use crate::wire::{Code, Message, Refused};

/// A stream: a request, then answers, then the end. Dropped before [`finish`](Self::finish) it is given up, which the
/// other side is told.
#[derive(Debug)]
pub struct Exchange {
    from: Member,
    connection: Connection,
    send: SendHalf,
    recv: RecvHalf,
}

/// Why a stream says nothing more.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The stream or its connection is at its end.
    #[error(transparent)]
    Lane(#[from] LaneError),
    /// The other side sent what is no message, or has no place here. The connection has been closed.
    #[error("the other node sent what it may not: {0}")]
    Malformed(String),
    /// Its certificate does not allow the message. The connection has been closed.
    #[error("the other node is a peer and sent {0}, which only seeds may")]
    Forbidden(&'static str),
    /// A message of a later version: the stream is of no use.
    #[error("the other node sent a message of the unknown kind {0:#06x}")]
    Unknown(u16),
    /// The other side takes nothing.
    #[error("the other node took nothing for too long")]
    Stalled,
    /// A send or a read of a block was dropped half way.
    #[error("the stream was left in the middle of a block or message")]
    Torn,
}

impl ExchangeError {
    /// What the other side said of it, or is told.
    #[must_use]
    pub fn code(&self) -> Code {
        todo!()
    }
}

impl Exchange {
    /// Who is at the other end.
    #[must_use]
    pub fn from(&self) -> Member {
        self.from
    }

    /// Sends a message. Dropped half way, the stream is of no use any more.
    ///
    /// # Errors
    /// The stream is at its end, or the other side takes nothing.
    pub async fn send(&mut self, message: impl Into<Message>) -> Result<(), ExchangeError> {
        let _ = (message.into(), &self.send, &self.connection);
        todo!()
    }

    /// Announces and sends the blocks of these places, 1 to [`RUN_BLOCKS_MAX`](crate::wire::RUN_BLOCKS_MAX): whole, in
    /// order, in slices of any cut.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_blocks(&mut self, places: Range<u32>, bytes: Vec<Bytes>) -> Result<(), ExchangeError> {
        let _ = (places, bytes);
        todo!()
    }

    /// The next message; `None` at the end of the stream. May be dropped while it waits, and called again. After
    /// `Blocks` each block has to be read before.
    ///
    /// # Errors
    /// See [`ExchangeError`]. After an error the stream is of no use.
    pub async fn next(&mut self) -> Result<Option<Message>, ExchangeError> {
        let _ = &self.recv;
        todo!()
    }

    /// The next block after a `Blocks` message, `bytes` long, in a buffer of the pool. Dropped half way, the stream is
    /// of no use any more.
    ///
    /// # Errors
    /// The stream ended before, or as [`next`](Self::next).
    pub async fn read_block(&mut self, buffer: BlockBuffer, bytes: u32) -> Result<Bytes, ExchangeError> {
        let _ = (buffer, bytes);
        todo!()
    }

    /// Says why nothing comes, and ends the stream.
    pub async fn refuse(self, refused: Refused) {
        let _ = refused;
        todo!()
    }

    /// Nothing more comes from here. What was sent goes out, even when the exchange is dropped.
    pub fn finish(&mut self) {
        todo!()
    }

    /// Ends the stream and waits until the other side has all that was sent. Else somebody who takes nothing would keep
    /// what he asked for in memory: blocks are to be sent with this at their end.
    ///
    /// # Errors
    /// The other side does not take it; it has been given up.
    pub async fn done(mut self) -> Result<(), ExchangeError> {
        self.finish();
        todo!()
    }
}
