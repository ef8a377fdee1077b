//! What a caller wants of the cluster, and what it is given.

use std::sync::Arc;

use darter_engine::{BlockIndex, BlockRun, Content, HashedBlock, RegistryScope};

use crate::wire::{Errand, Refused};

/// Blocks of a content that are wanted from the cluster.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The content, as this node's store has it.
    pub content: Arc<Content>,
    /// The registry of the client's request: what is not verified as a whole is asked for as this registry's bytes.
    pub registry: RegistryScope,
    /// Which blocks, no block twice; those that this node holds already are brought again.
    pub runs: Vec<BlockRun>,
    /// Nobody waits for a certain block: they may come in any order, and behind what somebody waits for.
    pub bulk: bool,
    /// The client's request, with which the owner goes to the origin.
    pub errand: Errand,
}

/// What has become of some of the [`Wanted`] blocks. Of each block one thing is said, and then the channel ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Pulled {
    /// It is here, in a buffer of the store's pool, and has the digest that a seed attests. Who gets it stores it and
    /// says so ([`crate::cluster::Cluster::stored`]).
    Block(BlockIndex, HashedBlock),
    /// The cluster does not have these, and nobody else brings them: this node owns them, or the owner has no room, or
    /// cannot be reached.
    GoToOrigin(BlockRun),
    /// Nothing more comes of all that was wanted: the origin's verdict on the errand, or bytes that are wrong.
    Refused(Refused),
}
