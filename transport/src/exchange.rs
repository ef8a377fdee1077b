//! One stream as messages: a request, then answers, then the end.
//!
//! Messages and the bare bytes of blocks follow one another, so a stream is read in order; what a lost packet holds
//! back is one stream's. The rules of the protocol that need no knowledge of contents are kept here: who may say what,
//! what is no message, what is passed over, how long somebody may take nothing.

use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use darter_engine::buffer::BlockBuffer;

use crate::identity::Member;
use crate::lane::{LaneError, RecvHalf, SendHalf};
use crate::message_stream::{MessageReceiver, MessageSender};
use crate::session::{Line, Place};
use crate::wire::{Code, Message, Refused};

/// A stream. Dropped before [`finish`](Self::finish) it is given up, which the other side is told.
#[derive(Debug)]
pub struct Exchange {
    line: Rc<Line>,
    send: MessageSender,
    recv: MessageReceiver,
    _place: Place,
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
    /// A message of a later version. The stream has been given up; the connection stands.
    #[error("the other node sent a message of the unknown kind {0:#06x}")]
    Unknown(u16),
    /// The other side takes nothing.
    #[error("the other node took nothing for too long")]
    Stalled,
    /// The other side owes an answer and has said nothing at all for too long. The connection has been closed.
    #[error("the other node has gone silent")]
    Silent,
    /// A call was dropped half way, or blocks that were announced were not read.
    #[error("the stream was left in the middle of a message or block")]
    Torn,
}

impl ExchangeError {
    /// What the other side said of it, or was told: [`Code::Other`] of 0 where nothing was said.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Lane(
                LaneError::Reset(code) | LaneError::Stopped(code) | LaneError::Closed { code, .. },
            ) => code_of(*code),
            Self::Lane(_) | Self::Silent | Self::Torn => Code::Other(0),
            Self::Malformed(_) => Code::Malformed,
            Self::Forbidden(_) => Code::Forbidden,
            Self::Unknown(_) => Code::Unknown,
            Self::Stalled => Code::Busy,
        }
    }
}

/// A code that ended a stream or connection.
pub(crate) fn code_of(number: u32) -> Code {
    u16::try_from(number).map_or(Code::Other(u16::MAX), Code::from_number)
}

impl Exchange {
    pub(crate) fn new(line: Rc<Line>, halves: (SendHalf, RecvHalf), place: Place) -> Self {
        let role = line.connection.member().role;
        let (send, recv) = (MessageSender::new(halves.0), MessageReceiver::new(halves.1, role));
        Self { line, send, recv, _place: place }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn from(&self) -> Member {
        self.line.connection.member()
    }

    /// Sends a message. Dropped half way, the stream is of no use any more.
    ///
    /// # Errors
    /// The stream is at its end, or the other side takes nothing.
    pub async fn send(&mut self, message: impl Into<Message>) -> Result<(), ExchangeError> {
        self.send.write(message.into().encode()).await
    }

    /// Announces and sends the blocks of these places, 1 to [`RUN_BLOCKS_MAX`](crate::wire::RUN_BLOCKS_MAX): whole, in
    /// order, in slices of any cut.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_blocks(&mut self, places: Range<u32>, bytes: Vec<Bytes>) -> Result<(), ExchangeError> {
        self.send.announce_blocks(places).await?;
        for part in bytes {
            let part_bytes = part.len();
            self.send.write(part).await?;
            self.line.sent(part_bytes);
        }
        Ok(())
    }

    /// The next message; `None` at the end of the stream. May be dropped while it waits, and called again. After
    /// `Blocks`, whose [places](crate::wire::Blocks::places) are some, each block has to be read before.
    ///
    /// # Errors
    /// See [`ExchangeError`]. After an error the stream is of no use.
    pub async fn next(&mut self) -> Result<Option<Message>, ExchangeError> {
        let next = self.recv.next().await;
        match &next {
            Err(error @ (ExchangeError::Malformed(_) | ExchangeError::Forbidden(_))) => {
                self.line.close(error.code(), &error.to_string());
            }
            Err(ExchangeError::Unknown(_)) => self.give_up(Code::Unknown),
            _ => {}
        }
        next
    }

    /// The next block after a `Blocks` message, `bytes` long, in a buffer of the pool. Dropped half way, the stream is
    /// of no use any more.
    ///
    /// # Errors
    /// The stream ended before, or as [`next`](Self::next).
    pub async fn read_block(&mut self, buffer: BlockBuffer, bytes: u32) -> Result<Bytes, ExchangeError> {
        let block = self.recv.read_block(buffer, bytes).await?;
        self.line.received(block.len());
        Ok(block)
    }

    /// Says why nothing comes, and ends the stream.
    pub async fn refuse(mut self, refused: Refused) {
        // Who has gone meanwhile needs no answer.
        if self.send(refused).await.is_ok() {
            self.finish();
        }
    }

    /// Nothing more comes from here. What was sent goes out, even when the exchange is dropped.
    pub fn finish(&mut self) {
        self.send.finish();
    }

    /// Ends the stream and waits until the other side has all that was sent. Somebody who takes nothing would else keep
    /// in memory what he asked for: blocks are to be sent with this at their end.
    ///
    /// # Errors
    /// The other side does not take it; it has been given up.
    pub async fn done(mut self) -> Result<(), ExchangeError> {
        self.finish();
        let drained = self.send.drained().await;
        if drained.is_err() {
            self.give_up(Code::Busy);
        }
        drained
    }

    /// Ends both directions at once and says why.
    pub(crate) fn give_up(&mut self, code: Code) {
        self.send.reset(code);
        self.recv.stop(code);
    }
}
