//! A node that others have named as a holder of blocks, as this one knows it.

use super::link::Link;
use crate::block_set::BlockSet;
use crate::node::NodeId;
use crate::wire::Load;

#[derive(Debug)]
pub(super) struct Parent {
    pub(super) id: NodeId,
    pub(super) near: bool,
    pub(super) held: BlockSet,
    /// What it is about to have; few have anything, so it is kept apart.
    pub(super) coming: Option<Box<BlockSet>>,
    pub(super) load: Load,
    pub(super) link: Link,
    pub(super) wrong: bool,
    /// Busy when it was asked, less what it has sent, since parents were last let go.
    pub(super) refusals: i32,
    /// Which naming was the last that had it.
    pub(super) named_last: u32,
}

impl Parent {
    /// How little is known for it, where another one has failed: least of one that has brought blocks; more of one that the
    /// owner named with its last word, for it knows what others complain of.
    pub(super) fn doubt(&self, namings: u32) -> u8 {
        match (self.link.is_proven(), self.named_last == namings) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        }
    }

    pub(super) fn coming(&self) -> &BlockSet {
        static NOTHING: BlockSet = BlockSet::EMPTY;
        self.coming.as_deref().unwrap_or(&NOTHING)
    }
}
