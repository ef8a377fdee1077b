//! What the scenarios share: starting and stopping the daemon, a client that sees every byte and header,
//! recorded traces, registries and container runtimes of others, and what a test may require of the machine.
//!
//! A scenario is a file in `tests/tests/`. It talks to the real binary over real sockets and counts at the
//! registry what a read has cost. Nothing here reaches into the daemon.
#![forbid(unsafe_code)]

pub mod browser;
pub mod burglar;
mod cgroup;
pub mod cli;
mod client;
mod container;
mod containerd;
mod crashes;
mod daemon;
mod debian_package;
mod debian_registry;
mod deployed;
mod disk;
mod fate;
pub mod gate;
mod getter;
mod held_up;
mod helm;
mod holdings;
mod image;
pub mod intruder;
mod knocks;
mod latency;
mod metrics;
mod mount;
pub mod need;
pub mod net;
pub mod nydus;
pub mod one_answer;
mod origin;
mod process;
mod prometheus;
mod raw;
mod relay;
mod rot;
mod scripted;
mod secrets;
mod skopeo;
mod snapshot;
mod systemd;
mod throttle;
pub mod token_registry;
mod trace;
mod wait;
pub mod yaml;

pub use cgroup::MemoryCgroup;
pub use client::{Answer, AnswerHead, Client, Reading, Request};
pub use container::{Container, Mount};
pub use containerd::Containerd;
pub use crashes::Crashes;
pub use daemon::{Builder, Daemon, Io, built, free_address};
pub use debian_package::DebianPackage;
pub use debian_registry::DebianRegistry;
pub use deployed::deployed;
pub use disk::{DISK, Disk, FileSystem, Journal};
pub use fate::Fate;
pub use getter::Getter;
pub use held_up::HeldUp;
pub use helm::{Helm, Rendered};
pub use holdings::{Held, Holdings};
pub use image::{Document, Image};
pub use knocks::Knocks;
pub use latency::p99;
pub use metrics::Metrics;
pub use mount::Mounted;
pub use origin::{BLOCK_BYTES, Blob, Origin};
pub use prometheus::Prometheus;
pub use raw::{End, Raw, RawAnswer};
pub use relay::Relay;
pub use rot::rot;
pub use scripted::{Asked, Scripted, Step};
pub use secrets::Secrets;
pub use skopeo::Skopeo;
pub use snapshot::Snapshot;
pub use systemd::Systemd;
pub use throttle::Throttle;
pub use trace::Trace;
pub use wait::{SetAtEnd, pause, wait_until};
