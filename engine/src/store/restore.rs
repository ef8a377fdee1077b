//! What the records of an earlier run say, taken over at start.

use std::sync::Arc;

use super::Room;
use crate::content::Content;
use crate::eviction::Resident;
use crate::index::Index;
use crate::records::Records;
use crate::slot::{Restored, SlotIndex, SlotTable, Tenant};

/// What of the records is not taken over, and is to be overwritten.
pub(super) struct Restoration {
    /// Slots that they give to contents that are not there.
    pub(super) orphans: Vec<SlotIndex>,
    /// Contents that are gone.
    pub(super) refused: Vec<Arc<Content>>,
}

/// Takes over what the records say.
pub(super) fn restore(
    records: &mut Records,
    slots: &SlotTable,
    index: &Index,
    room: &mut Room,
) -> Restoration {
    let mut orphans = Vec::new();
    let mut refused = Vec::new();
    let mut known = vec![false; slots.len() as usize];
    records.load(
        |record| {
            index.note_tenure(record.tenure);
            if record.live
                && let Some(content) = Content::restore(record)
            {
                refused.extend(index.restore(Arc::new(content)));
            }
        },
        |record| {
            let slot = SlotIndex(record.index);
            known[record.index as usize] = true;
            index.note_tenure(record.tenure);
            if !record.held {
                slots.restore_free(slot, record.generation);
                room.free.insert(slot);
                return;
            }
            let content = index.places().content(record.content).cloned();
            let its_own =
                |content: &Arc<Content>| content.tenure == record.tenure && content.id() == record.id;
            let tenancy = content.filter(its_own).and_then(|content| {
                let piece = content.layout().piece(record.piece)?;
                let presence = record.presence & content.layout().full_presence(piece);
                (presence != 0 && content.slot_of(piece).is_none()).then_some((content, piece, presence))
            });
            let Some((content, piece, presence)) = tenancy else {
                slots.restore_releasing(slot, record.generation);
                orphans.push(slot);
                return;
            };
            let tenant = Tenant { content: record.content, piece: record.piece };
            let restored = Restored { tenant, presence, crc32: record.crc32 };
            slots.restore(slot, record.generation, &restored);
            content.set_slot(piece, slot);
            room.queues.restore(Resident { slot, generation: record.generation });
        },
    );
    (0u32..).zip(known).filter(|(_, known)| !known).for_each(|(slot, _)| room.free.insert(SlotIndex(slot)));
    Restoration { orphans, refused }
}
