//! What became of a read: one of three fates, and no other is allowed.

use std::io::ErrorKind;
use std::ops::Range;

use crate::{Blob, Daemon, Request};

/// How a read of a blob ended. A wrong byte, a wrong length or a reset is none of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// All bytes came and were right.
    Right,
    /// An error before the head.
    Refused {
        /// The status.
        status: u16,
        /// Whether the daemon says that it is its own.
        own: bool,
    },
    /// The bytes that came were right; then the connection ended in order, before the last block.
    Cut,
}

impl Fate {
    /// Sends a request for that range of a blob, over a connection of its own, and compares what comes.
    ///
    /// # Panics
    /// When it ends in any other way.
    pub fn of(daemon: &Daemon, blob: &Blob, request: Request, range: Range<u64>) -> Fate {
        let mut client = daemon.client();
        let reading = client.send(&request).expect("the front answers");
        let head = reading.head();
        if !matches!(head.status, 200 | 206) {
            let (status, own) = (head.status, head.header("X-Dragonfly-Error-Type") == Some("proxy"));
            reading.finish().expect("a refusal is whole");
            return Fate::Refused { status, own };
        }
        match blob.check(reading, range) {
            Ok(()) => Fate::Right,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Fate::Cut,
            Err(error) => panic!("{request:?}: {error}"),
        }
    }
}
