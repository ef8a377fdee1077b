//! The store's slots as the eviction queues see them.

use std::collections::BTreeSet;
use std::sync::MutexGuard;

use crate::eviction::{Candidate, Resident, Residents};
use crate::index::Places;
use crate::slot::{SlotIndex, SlotState};
use crate::store::{Inner, piece_key};

/// The slots as eviction sees them.
pub(super) struct Evictor<'a> {
    pub(super) inner: &'a Inner,
    pub(super) places: MutexGuard<'a, Places>,
    /// Records cannot be written: a slot that has one must keep its tenant, and so must these, which may have one.
    pub(super) bound: Option<&'a BTreeSet<SlotIndex>>,
    pub(super) evicted: std::cell::RefCell<Vec<SlotIndex>>,
}

impl Residents for Evictor<'_> {
    fn candidate(&self, resident: Resident) -> Candidate {
        let word = self.inner.slots.word(resident.slot);
        if word.state != SlotState::Held || word.generation != resident.generation {
            return Candidate::Gone;
        }
        let tenant = self.inner.slots.tenant(resident.slot);
        let content = self.places.content(tenant.content);
        let bound = |unsure: &BTreeSet<SlotIndex>| {
            self.inner.slots.durable(resident.slot) != 0 || unsure.contains(&resident.slot)
        };
        let unreleasable = self.bound.is_some_and(bound);
        // A slab that takes no more has nothing to gain from an eviction: what was synced on it is still good.
        let in_vain = !self.inner.slab_of(resident.slot).in_service();
        if word.leases > 0 || unreleasable || in_vain || content.is_some_and(|content| content.pinned()) {
            return Candidate::Kept;
        }
        let heat = self.inner.slots.heat(resident.slot);
        Candidate::Evictable { heat, key: content.map_or(0, |content| piece_key(content, tenant.piece)) }
    }

    fn cool(&self, resident: Resident, heat: u8) {
        self.inner.slots.set_heat(resident.slot, heat);
    }

    fn evict(&self, resident: Resident) -> bool {
        if !self.inner.slots.release_unleased(resident.slot) {
            return false;
        }
        let tenant = self.inner.slots.tenant(resident.slot);
        if let Some(content) = self.places.content(tenant.content) {
            content.clear_slot(tenant.piece, resident.slot);
        }
        self.evicted.borrow_mut().push(resident.slot);
        true
    }
}
