//! What a start has made of the records: all that was promised, and nothing that is not there.

use std::sync::Arc;

use super::blamed::Blamed;
use super::disk::Disk;
use super::lived::Lived;
use super::promises::Promises;
use super::samples::{HONEST, Sample};
use super::shape::slab_file;
use crate::content::Content;
use crate::content_id::{RegistryScope, Scope};
use crate::store::Store;

/// A store that has just been opened.
pub(super) struct Recovered<'a> {
    store: &'a Store,
    disk: &'a Disk,
    blamed: Blamed,
}

impl<'a> Recovered<'a> {
    pub(super) fn new(store: &'a Store, disk: &'a Disk) -> Self {
        Self { store, disk, blamed: Blamed::find(disk, store.inner.geometry) }
    }

    /// Counts what it looks at.
    pub(super) fn check(&self, promises: &Promises, lived: &mut Lived) -> Result<(), String> {
        let Self { store, blamed, .. } = self;
        let inner = &store.inner;
        for content in store.contents() {
            let blame = blamed.places.contains(&content.place) || blamed.ids.contains(&content.id());
            if promises.gone.contains(&content.tenure) && !blame {
                return Err(format!("tenure {} was removed for good and is back", content.tenure));
            }
        }
        for (tenure, promise) in &promises.contents {
            lived.promised_pieces += promise.pieces.len() as u64;
            let found = inner.index.places().content(promise.place).cloned();
            let found = found.filter(|content| content.tenure == *tenure);
            if blamed.excuses(promise) {
                lived.excused_pieces += promise.pieces.len() as u64;
                continue;
            }
            let name = promise.sample.name();
            let Some(content) = found else {
                return Err(format!("{name} of tenure {tenure} was durable and is not found"));
            };
            let registry = RegistryScope::of_origin(&promise.registry);
            if promise.found_by_name && content.registry() == promise.registry {
                // A verified one whose removal was not durable may be back, and is as good.
                let by_name = store.find(&promise.sample.id, registry);
                let as_good = |by_name: Arc<Content>| {
                    Arc::ptr_eq(&by_name, &content) || by_name.scope() == Scope::Verified
                };
                if !by_name.is_some_and(as_good) {
                    return Err(format!(
                        "{name} of tenure {tenure} was durable and is not found by its name"
                    ));
                }
            }
            if promise.pinned.is_some_and(|pinned| pinned != content.pinned()) {
                return Err(format!("{name} of tenure {tenure}: its pin is not as it was made durable"));
            }
            for (number, slot, durable) in &promise.pieces {
                if blamed.slots.contains(&slot.0) {
                    lived.excused_pieces += 1;
                    continue;
                }
                let piece = content.layout().piece(*number);
                let there = piece.and_then(|piece| content.slot_of(piece));
                if there != Some(*slot) {
                    return Err(format!(
                        "piece {number} of {name}, tenure {tenure}, was durable in {slot:?} and is found in {there:?}"
                    ));
                }
                let present = inner.slots.presence(*slot);
                if present & durable != *durable {
                    return Err(format!(
                        "piece {number} of {name}, tenure {tenure}: blocks {durable:04b} were durable, {present:04b} are found"
                    ));
                }
            }
        }
        self.check_believed(lived)
    }

    /// What the records say is there is there.
    fn check_believed(&self, lived: &mut Lived) -> Result<(), String> {
        let Self { store, disk, blamed } = self;
        let inner = &store.inner;
        for content in store.contents() {
            let sample = Sample::of(&content.id()).ok_or("a content that nobody made")?;
            let layout = content.layout();
            for (number, slot) in content.slots() {
                let presence = inner.slots.presence(slot);
                let blocks = layout.whole().into_iter().flat_map(|run| run.blocks());
                let blocks = blocks.filter(|block| block.piece().number() == number);
                for block in blocks.filter(|block| presence & 1 << block.in_piece() != 0) {
                    lived.recovered_blocks += 1;
                    let start = inner.geometry.offset_in_slab(slot.0) + (u64::from(block.in_piece()) << 16);
                    let range = start..start + u64::from(layout.block_bytes(block));
                    let file = slab_file(inner.geometry.slab_of(slot.0));
                    let bytes = disk.peek(file, range.clone());
                    let right = crc32fast::hash(&bytes) == inner.slots.crc32(slot, block);
                    let blame = disk.is_to_blame(file, &range)
                        || blamed.slots.contains(&slot.0)
                        || blamed.places.contains(&content.place);
                    let what = || format!("block {} of {}, in {slot:?},", block.number(), sample.name());
                    if !right && !blame {
                        return Err(format!("{} is believed to be there and is not", what()));
                    }
                    let registry = match content.scope() {
                        Scope::Verified => RegistryScope::of_origin(HONEST),
                        Scope::Registry(registry) => registry,
                    };
                    if right && !sample.may_be(registry, block, &bytes) {
                        return Err(format!("{} passes its check and has other bytes", what()));
                    }
                }
            }
        }
        Ok(())
    }
}
