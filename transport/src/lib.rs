//! How Darter's nodes find each other and move pieces between them.
//!
//! The crate holds the peer protocol, the membership of seeds and the choice of parents. It depends on
//! `darter-engine` for pieces and knows no HTTP: the daemon joins both.
//!
//! * `identity`: seed and peer certificates from a shared secret or from files; mutual TLS always.
//! * `lane`: QUIC, and TLS on TCP where UDP is blocked; the only part with sockets.
#![forbid(unsafe_code)]

pub mod identity;
pub mod lane;
pub mod node;
