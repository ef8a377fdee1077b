//! What nodes say to each other, as bytes: the codec of `docs/peer-protocol.md`.
//!
//! Pure: bytes in, messages out. A message is a head of eight bytes ([`FrameHead`]) and its fields in order
//! ([`Message`]). The bytes of blocks follow a [`Blocks`] message bare, so that they go from slot to socket
//! without being framed. On TCP all of this is cut into the parts of [`crate::lane`].
//!
//! A decoder takes nothing on trust: every length has a limit that is a named constant and is checked before memory is
//! taken, and what it accepts is written again to the same bytes. Whether a sender may say a thing is
//! asked of [`Message::may_come_from`].

mod fields;
mod frame;
mod message;
mod refusal;
mod version;

pub(crate) use self::fields::Wire;
pub use self::fields::{BlockDigest, List, Malformed, Opaque, Reader, Text};
pub use self::frame::{FrameHead, FrameReader, HEAD_BYTES, MESSAGE_BYTES_MAX};
#[cfg(test)]
pub(crate) use self::message::tests;
pub use self::message::*;
pub use self::refusal::{Code, Reaction};
pub use self::version::{NoCommonVersion, OURS, Versions};
