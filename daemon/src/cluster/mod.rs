//! This node as a part of a cluster: what the daemon lends to the transport, and what it tells other nodes.
//!
//! Where a block comes from is decided in [`crate::fetch`]; how it comes, in `darter-transport`.

pub(crate) mod errand;
mod owner_side;
pub(crate) mod verdict;

pub(crate) use owner_side::OwnerSide;
