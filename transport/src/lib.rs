//! How Darter's nodes find each other and move pieces between them.
#![forbid(unsafe_code)]
pub mod block_set;
pub mod boot_list;
pub mod chance;
pub mod download;
pub mod node;
pub mod ownership;
pub mod schedule;
pub mod span;
pub mod tracker;
pub mod wire;
