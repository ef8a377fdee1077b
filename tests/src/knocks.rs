//! Connections that are made without a pause, to see whether somebody is away for a moment.

use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::{SetAtEnd, pause};

/// Between one connection and the next.
const PAUSE: Duration = Duration::from_millis(5);

/// What became of them.
#[derive(Debug, Default)]
pub struct Knocks {
    made: AtomicU32,
    refused: AtomicU32,
}

impl Knocks {
    /// Connects by each of these again and again, until the work is done.
    ///
    /// # Panics
    /// When a connection fails in another way than by being refused, and when the work does.
    pub fn during(
        connect: &[&(dyn Fn() -> io::Result<TcpStream> + Sync)],
        work: impl FnOnce(&Knocks),
    ) -> Knocks {
        let (knocks, over) = (Knocks::default(), AtomicBool::new(false));
        thread::scope(|scope| {
            let _at_end = SetAtEnd(&over);
            for connect in connect {
                scope.spawn(|| {
                    while !over.load(Ordering::SeqCst) {
                        knocks.knock(connect());
                        pause(PAUSE);
                    }
                });
            }
            work(&knocks);
        });
        knocks
    }

    fn knock(&self, connected: io::Result<TcpStream>) {
        match connected {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => &self.refused,
            connected => {
                connected.expect("it is near");
                &self.made
            }
        }
        .fetch_add(1, Ordering::SeqCst);
    }

    /// How many connections there were.
    pub fn made(&self) -> u32 {
        self.made.load(Ordering::SeqCst)
    }

    /// How many times nobody listened.
    pub fn refused(&self) -> u32 {
        self.refused.load(Ordering::SeqCst)
    }
}
