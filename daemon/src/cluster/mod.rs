//! This node as a part of a cluster: what the daemon lends to the transport, and what it tells other nodes.
//!
//! The protocol and all that is in it are `darter-transport`'s. Here is what needs files, names and registries: the
//! node's [`identity`], where seeds are ([`join`]), and the owner's side of clients' requests. Where a block comes from is
//! decided in [`crate::fetch`].

pub(crate) mod errand;
pub mod identity;
pub mod join;
#[cfg(test)]
mod name_server;
mod names;
mod owner_side;
mod part;
#[cfg(test)]
pub(crate) mod pem;
pub(crate) mod verdict;

pub use names::Names;
pub(crate) use names::look_up;
pub(crate) use owner_side::OwnerSide;
pub use part::NoPart;
pub(crate) use part::{NodePart, ShardPart};
