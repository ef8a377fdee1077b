//! Why a connection or a stream is at its end.

use std::fmt;
use std::net::SocketAddr;

use rustls::AlertDescription;

use super::LaneKind;
use super::mux::Violation;
use crate::identity::Refusal;

/// What went wrong, by what can be done about it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LaneError {
    /// This node does not take the other's certificate. Trying again does not help before somebody acts.
    #[error("this node refuses the other one: {0}")]
    Refused(Refusal),
    /// The other node does not take this one's. Trying again does not help before somebody acts.
    #[error("the other node refuses this one: {0}")]
    RefusedBy(Refusal),
    /// The other side has closed the connection, and says why.
    #[error("the other node closed the connection ({code}): {reason}")]
    Closed {
        /// A number of the protocol above.
        code: u32,
        /// For people.
        reason: String,
    },
    /// This side has closed it.
    #[error("this node closed the connection")]
    ClosedHere,
    /// The other side gave up this one stream.
    #[error("the other node gave up the stream ({0})")]
    Reset(u32),
    /// The other side wants no more of this one stream.
    #[error("the other node wants no more of the stream ({0})")]
    Stopped(u32),
    /// Nothing came for too long: a dead node or a blocked path.
    #[error("no answer in time")]
    TimedOut,
    /// The path or the system failed.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The other side broke the rules of the lane; the connection is closed.
    #[error("the other node broke the rules: {0}")]
    Violation(#[from] Violation),
    /// A stream ended inside a message.
    #[error("the stream ended inside a message")]
    CutShort,
    /// A message longer than any may be.
    #[error("a message of {bytes} bytes, where at most {max} may be")]
    MessageTooLong {
        /// What its head says.
        bytes: usize,
        /// What is taken.
        max: usize,
    },
    /// A message whose head means nothing, as the codec says.
    #[error("a message that is none: {0}")]
    Malformed(String),
}

impl LaneError {
    /// Whether nothing will change before somebody changes a file or a clock.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::RefusedBy(_))
    }

    /// The meaning of an error of TLS, in a handshake on TCP.
    pub(super) fn of_tls(error: &rustls::Error) -> Self {
        if let rustls::Error::AlertReceived(alert) = error {
            return Refusal::from_alert(*alert)
                .map_or_else(|| Self::Lost(error.to_string()), Self::RefusedBy);
        }
        Refusal::from_tls(error).map_or_else(|| Self::Lost(error.to_string()), Self::Refused)
    }

    /// The meaning of an error of a TCP socket, TLS inside or not.
    pub(super) fn of_io(error: &std::io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(tls) => Self::of_tls(tls),
            None if error.kind() == std::io::ErrorKind::TimedOut => Self::TimedOut,
            None => Self::Lost(error.to_string()),
        }
    }
}

impl From<quinn::ConnectionError> for LaneError {
    fn from(error: quinn::ConnectionError) -> Self {
        use quinn::ConnectionError as Quic;
        match error {
            Quic::VersionMismatch => Self::Refused(Refusal::Version),
            Quic::TransportError(ref broken) => match refusal_of(u64::from(broken.code)) {
                Some(refusal) => Self::Refused(refusal),
                None => Self::Lost(error.to_string()),
            },
            Quic::ConnectionClosed(ref close) => match refusal_of(u64::from(close.error_code)) {
                Some(refusal) => Self::RefusedBy(refusal),
                None => Self::Lost(error.to_string()),
            },
            Quic::ApplicationClosed(close) => {
                Self::Closed { code: code_of(close.error_code), reason: printable(&close.reason) }
            }
            Quic::Reset => Self::Lost("the other node has forgotten it, as after a restart".into()),
            Quic::TimedOut => Self::TimedOut,
            Quic::LocallyClosed => Self::ClosedHere,
            Quic::CidsExhausted => Self::Lost(error.to_string()),
        }
    }
}

impl From<quinn::ReadError> for LaneError {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::Reset(code) => Self::Reset(code_of(code)),
            quinn::ReadError::ConnectionLost(lost) => lost.into(),
            other => Self::Lost(other.to_string()),
        }
    }
}

impl From<quinn::WriteError> for LaneError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::Stopped(code) => Self::Stopped(code_of(code)),
            quinn::WriteError::ConnectionLost(lost) => lost.into(),
            other => Self::Lost(other.to_string()),
        }
    }
}

/// A reason as it came from another node, in a form that can be logged.
pub(super) fn printable(reason: &[u8]) -> String {
    String::from_utf8_lossy(reason).chars().filter(|character| !character.is_control()).take(256).collect()
}

/// RFC 9001, section 4.8: an alert of TLS is the error 0x0100 and its number.
fn refusal_of(quic_code: u64) -> Option<Refusal> {
    let alert = quic_code.checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok())?;
    Refusal::from_alert(AlertDescription::from(alert))
}

/// Codes of this protocol have 32 bits; another one is nobody's.
fn code_of(code: quinn::VarInt) -> u32 {
    u32::try_from(code.into_inner()).unwrap_or(u32::MAX)
}

/// A node could not be reached, on any of the lanes that were tried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectError {
    /// Which node.
    pub remote: SocketAddr,
    /// What happened on each lane, in the order in which they ended. Never empty.
    pub attempts: Vec<(LaneKind, LaneError)>,
}

impl ConnectError {
    /// Whether a certificate was refused: then nothing will change before somebody changes a file or a clock.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.attempts.iter().any(|(_, error)| error.is_refusal())
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot connect to node {}", self.remote)?;
        self.attempts.iter().try_for_each(|(lane, error)| write!(f, "; {lane}: {error}"))
    }
}

impl std::error::Error for ConnectError {}
