//! How Darter's nodes find each other and move pieces between them.
#![forbid(unsafe_code)]
pub mod block_set;
pub mod chance;
pub mod node;
pub mod span;
pub mod wire;
