//! Connections between nodes: the only part of this crate that has sockets.
//!
//! A [`Connection`] carries at most [`STREAMS_MAX`] streams that each side opens; a stream goes both ways, and what
//! its receiver does not take stays with its sender. There are two lanes, alike in all that is above them:
//!
//! * **QUIC** (`quic`), one socket per shard on a shared port; `steering` brings each packet to its shard.
//! * **TLS on TCP** (`tcp`), where UDP is blocked; `mux` makes streams of it.
//!
//! [`Endpoint`] is one shard's part of them: it accepts and it connects, and gives out a connection only when both
//! sides have taken each other's certificate.
//!
//! Not here: what the bytes mean. A lane knows that a message has a head of fixed length and a limit; the codec is
//! `wire`'s.

mod clamp;
mod connection;
mod endpoint;
mod error;
mod mux;
mod quic;
mod steering;
mod tcp;
#[cfg(test)]
pub(crate) mod tests;

use std::time::Duration;

pub use clamp::PacketCounts;
pub use connection::{Connection, Received, RecvHalf, SendHalf, Traffic};
pub use endpoint::{Endpoint, Lanes};
pub use error::{ConnectError, LaneError};
pub use mux::{Mux, MuxError, Violation};
pub use steering::{BindError, SOCKET_BUFFER_BYTES, ShardSockets, bind};

/// Streams that one side may have open at a time.
pub const STREAMS_MAX: u32 = 128;
/// Bytes that a stream's sender may be ahead of its receiver.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// The same for all streams of a connection together: three streams that nobody reads, or what is under way on 10 Gbit/s and
/// 2 ms. 64 nodes that all send as much as they may to a seed that reads nothing of it fill 192 MiB there; honest ones send
/// requests, which are read at once.
pub const CONNECTION_WINDOW_BYTES: u32 = 3 << 20;
/// The longest message, head and all, that [`RecvHalf::read_message`] takes.
pub const MESSAGE_BYTES_MAX: usize = 128 << 10;
/// Handshakes of incoming connections that one shard has under way on each lane. Beyond half of them a QUIC client has to show
/// first that its address is its own.
pub const HANDSHAKES_MAX: usize = 64;
/// How long a handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// When nothing has come for so long, a connection is given up.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// When nothing has been sent for so long, something is, so that the connection is not given up.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long a QUIC handshake may be silent before TCP is tried beside it.
pub const QUIC_PATIENCE: Duration = Duration::from_secs(1);

/// One of the two lanes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LaneKind {
    /// QUIC on UDP.
    Quic,
    /// TLS on TCP.
    Tcp,
}

impl std::fmt::Display for LaneKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Quic => "QUIC",
            Self::Tcp => "TCP",
        })
    }
}
