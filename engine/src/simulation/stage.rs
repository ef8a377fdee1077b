//! The store and those on it, as the disk calls them while somebody waits for it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::clients::Clients;
use super::disk::{Director, Disk};
use super::promises::{Promise, Promises};
use super::samples::Sample;
use super::shape::SLOTS;
use crate::content_id::RegistryScope;
use crate::slot::{SlotIndex, SlotState};
use crate::store::Store;

/// A store, its disk and its clients.
pub(super) struct Stage {
    pub(super) store: Store,
    pub(super) disk: Disk,
    pub(super) clients: RefCell<Clients>,
    /// What was promised when the power went.
    pub(super) promises: RefCell<Option<Promises>>,
}

impl Director for Stage {
    fn interleave(&self) {
        let Ok(mut clients) = self.clients.try_borrow_mut() else { return };
        if clients.left {
            return;
        }
        for _ in 0..=clients.rng.below(3) {
            if !self.disk.has_crashed() {
                clients.step();
            }
        }
    }

    fn before_crash(&self) {
        *self.promises.borrow_mut() = Some(self.promised());
    }
}

impl Stage {
    pub(super) fn promised(&self) -> Promises {
        let mut promises = Promises::default();
        let pins = self.clients.try_borrow().ok();
        if let Some(clients) = &pins {
            promises.gone.clone_from(&clients.gone);
        }
        for content in self.store.contents() {
            let Some(sample) = Sample::of(&content.id()) else { continue };
            let slots = &self.store.inner.slots;
            let pieces: Vec<_> = content
                .slots()
                .map(|(piece, slot)| (piece, slot, slots.durable(slot)))
                .filter(|(_, _, durable)| *durable != 0)
                .collect();
            let registry = content.registry();
            let by_name = self.store.find(&content.id(), RegistryScope::of_origin(&registry));
            let found_by_name = by_name.is_some_and(|by_name| Arc::ptr_eq(&by_name, &content));
            let pinned = pins.as_ref().and_then(|clients| clients.durable_pins.get(&content.tenure).copied());
            if !pieces.is_empty() {
                let promise =
                    Promise { sample, place: content.place, registry, found_by_name, pinned, pieces };
                promises.contents.insert(content.tenure, promise);
            }
        }
        promises
    }

    /// Slots with blocks that are here and not durable: generation and blocks.
    pub(super) fn not_durable(&self) -> BTreeMap<u32, (u32, u8)> {
        let slots = &self.store.inner.slots;
        let blocks = |slot: u32| {
            let slot = SlotIndex(slot);
            let blocks = slots.presence(slot) & !slots.durable(slot);
            let word = slots.word(slot);
            (blocks != 0 && word.state == SlotState::Held).then_some((slot.0, (word.generation, blocks)))
        };
        (0..SLOTS).filter_map(blocks).collect()
    }

    /// No slot is in two tables, and none that is free is in one.
    pub(super) fn check_tenants(&self) -> Result<(), String> {
        let inner = &self.store.inner;
        let mut owners = [None; SLOTS as usize];
        let places = inner.index.places();
        for content in places.contents() {
            for (piece, slot) in content.slots() {
                let word = inner.slots.word(slot);
                let what = || format!("piece {piece} of tenure {} in {slot:?}", content.tenure);
                if let Some(other) = owners[slot.0 as usize].replace((content.tenure, piece)) {
                    return Err(format!("{}: the slot is {other:?}'s too", what()));
                }
                let tenant = inner.slots.tenant(slot);
                if word.state != SlotState::Held || (tenant.content, tenant.piece) != (content.place, piece) {
                    return Err(format!("{}: the slot has {tenant:?} and is {word:?}", what()));
                }
                if content.is_gone() {
                    return Err(format!("{}: the content is gone", what()));
                }
            }
        }
        drop(places);
        let room = inner.room();
        for slot in (0..SLOTS).filter(|slot| room.free.contains(*slot)) {
            let word = inner.slots.word(SlotIndex(slot));
            if word.state != SlotState::Free || word.leases != 0 || owners[slot as usize].is_some() {
                return Err(format!("slot {slot} is free to be taken and is {word:?}"));
            }
        }
        Ok(())
    }
}
