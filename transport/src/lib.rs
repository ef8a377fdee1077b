//! How Darter's nodes find each other and move pieces between them.
//!
//! The crate holds the peer protocol, the order of seeds and the choice of parents. It depends on `darter-engine` for
//! contents and blocks and knows no HTTP: the daemon joins both.
//!
//! Where a block request goes:
//!
//! ```text
//!   node that wants a block                        owner of the block's plot (ownership)
//!   ───────────────────────                        ─────────────────────────────────────
//!   download   what to ask of whom next
//!      │  Want ───────────────────────────────▶  schedule   send it? or name who has it?
//!      │                                             │ asks the map:
//!      │  ◀── Attested, Blocks  (two copies) ────    tracker    who holds which blocks
//!      │  ◀── Holders  (the others) ─────────────
//!      │
//!      │  Take ──▶ a parent ── Blocks ──▶ right? ── kept, passed on, told: Have, Holds
//! ```
//!
//! What a newcomer should read, in this order: `docs/peer-protocol.md`; [`span`] for the units; [`wire`] for the
//! messages; [`ownership`], [`tracker`] and [`schedule`] for the seed's side; [`download`] and [`boot_list`] for the
//! node's. `tests/simulation.rs` plays all of these together, ten thousand nodes at a time.
//!
//! All of that is pure: no sockets, no clock, no tasks. Time comes in as an `Instant`, chance as a seeded [`chance`].
//! Beneath it are [`identity`], who is a seed and who a peer, by mutual TLS always; and [`lane`], QUIC, and TLS on TCP
//! where UDP is blocked: the only part with sockets.
//!
//! The shell above them: [`mesh`], who this node is connected to; [`membership`] and [`seeds`], who the seeds are;
//! [`service`], what a node answers; [`pull`], what it takes of others; and [`cluster`], all of it as the daemon sees it.
#![forbid(unsafe_code)]

mod announce;
mod asking;
pub mod attestations;
pub mod block_set;
pub mod boot;
pub mod boot_list;
pub mod chance;
pub mod cluster;
pub mod download;
pub mod exchange;
pub mod identity;
pub mod lane;
pub mod limits;
pub mod membership;
pub mod mesh;
mod message_stream;
pub mod node;
pub mod ownership;
pub mod peers;
pub mod pull;
pub mod schedule;
pub mod seeds;
pub mod service;
pub mod session;
mod shared;
pub mod span;
mod spreading;
pub mod tracker;
pub mod wire;
