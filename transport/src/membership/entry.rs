//! A seed as the membership knows it: who, where, and in which of its lives.

use bytes::BytesMut;

use crate::node::NodeId;
use crate::wire::{self, Malformed, Reader, Wire};

/// A seed in one of its lives. Whoever says something new of itself, comes back after it was taken for dead, or starts
/// again, does so in a later life; others believe the latest one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The node, its weight, and whether it owns.
    pub seed: wire::Seed,
    /// Milliseconds since 1970 when it began, or one more than the life before where the clock stood still or went back.
    pub life: u64,
    /// It goes: the last thing that it says.
    pub leaving: bool,
}

impl Entry {
    pub(super) fn id(&self) -> &NodeId {
        &self.seed.node.id
    }

    fn bytes(&self) -> BytesMut {
        let mut bytes = BytesMut::with_capacity(128);
        self.put(&mut bytes);
        bytes
    }
}

impl Wire for Entry {
    fn put(&self, to: &mut BytesMut) {
        self.seed.put(to);
        self.life.put(to);
        self.leaving.put(to);
    }

    fn take(from: &mut Reader, field: &'static str) -> Result<Self, Malformed> {
        Ok(Self {
            seed: Wire::take(from, field)?,
            life: Wire::take(from, field)?,
            leaving: Wire::take(from, field)?,
        })
    }
}

impl foca::Identity for Entry {
    type Addr = NodeId;

    /// [`super::Membership`] begins new lives itself, and not as often as another seed pleases.
    fn renew(&self) -> Option<Self> {
        None
    }

    fn addr(&self) -> NodeId {
        *self.id()
    }

    /// The later life. Two that differ in one life are a lie of somebody; all have to believe the same one until the
    /// seed itself contradicts.
    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.life.cmp(&adversary.life).then_with(|| self.bytes().cmp(&adversary.bytes())).is_gt()
    }
}
