//! What the daemon brings to its cluster: the node's identity, and where the seeds are.
//!
//! The protocol and all that is in it are `darter-transport`'s. Here is what needs files and names.

pub mod identity;
pub mod join;
#[cfg(test)]
mod name_server;
mod names;
#[cfg(test)]
pub(crate) mod pem;

pub use names::Names;
