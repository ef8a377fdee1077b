//! What the scenarios share: starting and stopping the daemon, a client that sees every byte and header,
//! recorded traces, and what a test may require of the machine.
//!
//! A scenario is a file in `tests/tests/`. It talks to the real binary over real sockets and counts at the
//! registry what a read has cost. Nothing here reaches into the daemon.
#![forbid(unsafe_code)]

pub mod cli;
mod client;
mod daemon;
mod metrics;
mod mount;
pub mod need;
pub mod nydus;
mod origin;
mod snapshot;
mod trace;
mod wait;

pub use client::{Answer, AnswerHead, Client, Reading, Request};
pub use daemon::{Builder, Daemon, Io, built};
pub use metrics::Metrics;
pub use mount::Mounted;
pub use origin::{BLOCK_BYTES, Blob, Origin};
pub use snapshot::Snapshot;
pub use trace::Trace;
pub use wait::{pause, wait_until};
