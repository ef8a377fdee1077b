//! How Darter's nodes find each other and move pieces between them.
//!
//! The crate holds the peer protocol, the membership of seeds and the choice of parents. It depends on
//! `darter-engine` for pieces and knows no HTTP: the daemon joins both.
//!
//! A node runs alone today, as its own seed, so there is no code here yet. What will be here:
//!
//! * `identity`: seed and peer certificates from a shared secret or from files; mutual TLS always.
//! * `protocol`: messages and state machines as pure code, after the prose in `docs/peer-protocol.md`.
//! * `membership`: which seeds live; the owner and the deputy of a content.
//! * `schedule`: which block from which parent, a pure function of what is known.
//! * `lane`: QUIC, and TLS on TCP where UDP is blocked; the only part with sockets.
#![forbid(unsafe_code)]
