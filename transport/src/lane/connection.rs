//! A connection to another node, and the halves of its streams, whichever lane they are on.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quinn::VarInt;

use super::error::LaneError;
use super::tcp::{TcpLane, TcpRecv, TcpSend};
use super::{LaneKind, MESSAGE_BYTES_MAX};
use crate::identity::Member;

/// A connection whose two sides have taken each other's certificate. Clones are the same connection; it is closed
/// when the last one and the last stream of it is dropped.
#[derive(Clone, Debug)]
pub struct Connection {
    lane: Lane,
    remote: SocketAddr,
    member: Member,
}

/// What has moved on a connection since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Traffic {
    /// Datagrams that have come.
    pub received: u64,
    /// Frames that have gone out and that the other side must acknowledge, repeated ones each time.
    pub sent: u64,
}

#[derive(Clone, Debug)]
pub(super) enum Lane {
    Quic(quinn::Connection),
    Tcp(Arc<TcpLane>),
}

impl Connection {
    pub(super) fn new(lane: Lane, remote: SocketAddr, member: Member) -> Self {
        // A socket for both versions of IP shows IPv4 addresses in the form of IPv6.
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        Self { lane, remote, member }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn member(&self) -> Member {
        self.member
    }

    /// Where that is.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// On which lane.
    #[must_use]
    pub fn kind(&self) -> LaneKind {
        match self.lane {
            Lane::Quic(_) => LaneKind::Quic,
            Lane::Tcp(_) => LaneKind::Tcp,
        }
    }

    /// Opens a stream; waits while [`STREAMS_MAX`](super::STREAMS_MAX) of ours are open. The other side learns of it
    /// with the first byte.
    ///
    /// # Errors
    /// The connection is over.
    pub async fn open(&self) -> Result<(SendHalf, RecvHalf), LaneError> {
        self.lane.open().await
    }

    /// The next stream that the other side opens.
    ///
    /// # Errors
    /// The connection is over.
    pub async fn accept(&self) -> Result<(SendHalf, RecvHalf), LaneError> {
        self.lane.accept().await
    }

    /// Closes it. The other side is told `code` and, for people, at most 256 bytes of `reason`, if it can be: while data or
    /// the end of a stream waits for the path, quinn keeps that back, and the other side finds out that the connection is
    /// forgotten. So a stream is best dropped after its connection is closed.
    pub fn close(&self, code: u32, reason: &str) {
        self.lane.close(code, reason);
    }

    /// What has moved on it so far. `None` on TCP: there the kernel knows what is acknowledged, and says so in its time.
    #[must_use]
    pub fn traffic(&self) -> Option<Traffic> {
        let Lane::Quic(quic) = &self.lane else { return None };
        let quinn::ConnectionStats { udp_rx, frame_tx, .. } = quic.stats();
        let windows = frame_tx.max_data + frame_tx.max_stream_data + frame_tx.max_streams_bidi;
        let ends = frame_tx.reset_stream + frame_tx.stop_sending;
        Some(Traffic { received: udp_rx.datagrams, sent: frame_tx.stream + frame_tx.ping + windows + ends })
    }

    /// What quinn counts, for tests.
    #[cfg(test)]
    pub(super) fn quic_stats(&self) -> Option<quinn::ConnectionStats> {
        match &self.lane {
            Lane::Quic(quic) => Some(quic.stats()),
            Lane::Tcp(_) => None,
        }
    }

    /// Waits for the end, and says why.
    pub async fn closed(&self) -> LaneError {
        match &self.lane {
            Lane::Quic(quic) => quic.closed().await.into(),
            Lane::Tcp(tcp) => tcp.closed().await,
        }
    }
}

impl Lane {
    pub(super) async fn open(&self) -> Result<(SendHalf, RecvHalf), LaneError> {
        Ok(match self {
            Self::Quic(quic) => {
                let (send, recv) = quic.open_bi().await?;
                (SendHalf::Quic(send), RecvHalf::new(Incoming::Quic(recv)))
            }
            Self::Tcp(tcp) => {
                let (send, recv) = tcp.open().await?;
                (SendHalf::Tcp(send), RecvHalf::new(Incoming::Tcp(recv)))
            }
        })
    }

    pub(super) async fn accept(&self) -> Result<(SendHalf, RecvHalf), LaneError> {
        Ok(match self {
            Self::Quic(quic) => {
                let (send, recv) = quic.accept_bi().await?;
                (SendHalf::Quic(send), RecvHalf::new(Incoming::Quic(recv)))
            }
            Self::Tcp(tcp) => {
                let (send, recv) = tcp.accept_stream().await?;
                (SendHalf::Tcp(send), RecvHalf::new(Incoming::Tcp(recv)))
            }
        })
    }

    pub(super) fn close(&self, code: u32, reason: &str) {
        match self {
            Self::Quic(quic) => quic.close(VarInt::from_u32(code), reason.as_bytes()),
            Self::Tcp(tcp) => tcp.close(code, reason),
        }
    }
}

/// The direction from here to there. Dropped before [`finish`](Self::finish), it is given up with code 0.
#[derive(Debug)]
pub enum SendHalf {
    /// On QUIC.
    #[doc(hidden)]
    Quic(quinn::SendStream),
    /// On TCP.
    #[doc(hidden)]
    #[expect(private_interfaces, reason = "made and matched in this module only")]
    Tcp(TcpSend),
}

impl SendHalf {
    /// Sends all of it, in order and without a copy of ours; waits where the receiver is slow.
    ///
    /// # Errors
    /// The other side wants no more, or the connection is over.
    pub async fn write(&mut self, data: Bytes) -> Result<(), LaneError> {
        match self {
            Self::Quic(send) => Ok(send.write_chunk(data).await?),
            Self::Tcp(send) => send.write(data).await,
        }
    }

    /// Nothing more will come; what was written goes out.
    pub fn finish(&mut self) {
        match self {
            // A second time, or after the other side has stopped it, there is nothing to do.
            Self::Quic(send) => _ = send.finish(),
            Self::Tcp(send) => send.end(None),
        }
    }

    /// Waits, after [`finish`](Self::finish), until nothing of what was written is held here any more.
    ///
    /// # Errors
    /// The other side wants no more, or the connection is over.
    pub async fn drained(&mut self) -> Result<(), LaneError> {
        match self {
            Self::Quic(send) => match send.stopped().await {
                Ok(None) => Ok(()),
                Ok(Some(code)) => Err(quinn::WriteError::Stopped(code).into()),
                Err(quinn::StoppedError::ConnectionLost(lost)) => Err(lost.into()),
                Err(other) => Err(LaneError::Lost(other.to_string())),
            },
            Self::Tcp(send) => send.drained().await,
        }
    }

    /// Gives up; what has not gone out is thrown away.
    pub fn reset(&mut self, code: u32) {
        match self {
            Self::Quic(send) => _ = send.reset(VarInt::from_u32(code)),
            Self::Tcp(send) => send.end(Some(code)),
        }
    }
}

/// The direction from there to here. Dropped before its end, it is stopped with code 0.
#[derive(Debug)]
pub struct RecvHalf {
    incoming: Incoming,
    /// What was read in order: where bulk data begins.
    read_bytes: u64,
}

#[derive(Debug)]
enum Incoming {
    Quic(quinn::RecvStream),
    Tcp(TcpRecv),
}

/// A part of bulk data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Received {
    /// Bytes between the last message and this part.
    pub offset: u64,
    /// The part.
    pub bytes: Bytes,
}

impl RecvHalf {
    fn new(incoming: Incoming) -> Self {
        Self { incoming, read_bytes: 0 }
    }

    /// The next message: a head of `N` bytes, of which `decode` says what it means and how many bytes follow it.
    /// `None` when the stream ended before it. Not to be called after [`read_bulk`](Self::read_bulk).
    ///
    /// # Errors
    /// The head means nothing or promises more than [`MESSAGE_BYTES_MAX`]; the stream ended inside the message or was
    /// given up; the connection is over. Nothing was allocated for what was only promised.
    pub async fn read_message<const N: usize, Head, E: std::fmt::Display>(
        &mut self,
        decode: impl FnOnce([u8; N]) -> Result<(Head, usize), E>,
    ) -> Result<Option<(Head, Bytes)>, LaneError> {
        let Some(head) = self.read_exact(N).await? else { return Ok(None) };
        let head = <[u8; N]>::try_from(&head[..]).map_err(|_| LaneError::CutShort)?;
        let (head, bytes) = decode(head).map_err(|error| LaneError::Malformed(error.to_string()))?;
        if bytes > MESSAGE_BYTES_MAX - N {
            return Err(LaneError::MessageTooLong { bytes, max: MESSAGE_BYTES_MAX - N });
        }
        let payload = self.read_exact(bytes).await?;
        payload.map(|payload| (head, payload)).ok_or(LaneError::CutShort).map(Some)
    }

    /// What comes next, in order: at least one byte and at most `bytes_max`; `None` at the end of the stream. Nothing is
    /// lost when this is dropped while it waits. Not to be called after [`read_bulk`](Self::read_bulk).
    ///
    /// # Errors
    /// The stream was given up or the connection is over.
    pub async fn read(&mut self, bytes_max: usize) -> Result<Option<Bytes>, LaneError> {
        let part = match &mut self.incoming {
            Incoming::Quic(recv) => recv.read_chunk(bytes_max, true).await?.map(|chunk| chunk.bytes),
            Incoming::Tcp(recv) => recv.read(bytes_max).await?.map(|(_, part)| part),
        };
        self.read_bytes += part.as_ref().map_or(0, |part| part.len() as u64);
        Ok(part)
    }

    /// Fills the front of `into` with what comes next, in order, at least one byte; how many. `None` at the end of the stream. On
    /// QUIC that is all that is here and fits, on TCP one frame or a part of it. To be preferred to [`read`](Self::read) where
    /// much comes: on QUIC the packets that are here cost one look at the connection, not one each.
    ///
    /// # Errors
    /// The stream was given up or the connection is over.
    pub async fn read_into(&mut self, into: &mut [u8]) -> Result<Option<usize>, LaneError> {
        let filled = match &mut self.incoming {
            Incoming::Quic(recv) => recv.read(into).await?,
            Incoming::Tcp(recv) => recv.read(into.len()).await?.map(|(_, part)| {
                into[..part.len()].copy_from_slice(&part);
                part.len()
            }),
        };
        self.read_bytes += filled.unwrap_or(0) as u64;
        Ok(filled)
    }

    /// Bulk data, at most `bytes_max` of it, in the order in which it came: on QUIC a lost packet holds back nothing
    /// but itself. `None` at the end of the stream, when all has come.
    ///
    /// # Errors
    /// The stream was given up or the connection is over.
    pub async fn read_bulk(&mut self, bytes_max: usize) -> Result<Option<Received>, LaneError> {
        let part = match &mut self.incoming {
            Incoming::Quic(recv) => {
                recv.read_chunk(bytes_max, false).await?.map(|chunk| (chunk.offset, chunk.bytes))
            }
            Incoming::Tcp(recv) => recv.read(bytes_max).await?,
        };
        Ok(part.map(|(offset, bytes)| Received { offset: offset - self.read_bytes, bytes }))
    }

    /// Wants no more; the other side is told `code`.
    pub fn stop(&mut self, code: u32) {
        match &mut self.incoming {
            Incoming::Quic(recv) => _ = recv.stop(VarInt::from_u32(code)),
            Incoming::Tcp(recv) => recv.stop(code),
        }
    }

    /// Exactly so many bytes; `None` when the stream ended before the first of them.
    async fn read_exact(&mut self, bytes: usize) -> Result<Option<Bytes>, LaneError> {
        let mut gathered = BytesMut::new();
        while gathered.len() < bytes {
            let Some(part) = self.read(bytes - gathered.len()).await? else {
                return if gathered.is_empty() { Ok(None) } else { Err(LaneError::CutShort) };
            };
            if part.len() == bytes {
                return Ok(Some(part));
            }
            gathered.extend_from_slice(&part);
        }
        Ok(Some(gathered.freeze()))
    }
}
