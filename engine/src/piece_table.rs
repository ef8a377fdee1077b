//! Which slots hold a content's pieces. Read without a lock.

use std::ops::Range;

use crate::layout::PieceIndex;
use crate::slot::{Leases, SlotIndex, SlotTable};
use crate::sync::atomic::{AtomicU32, Ordering};

const NO_SLOT: u32 = u32::MAX;

/// One entry for each piece, held or not.
#[derive(Debug)]
pub(crate) struct PieceTable {
    slots: Box<[AtomicU32]>,
    held: AtomicU32,
}

impl PieceTable {
    /// No piece is held.
    pub(crate) fn new(pieces: u32) -> Self {
        Self { slots: (0..pieces).map(|_| AtomicU32::new(NO_SLOT)).collect(), held: AtomicU32::new(0) }
    }

    /// How many pieces are held.
    pub(crate) fn held(&self) -> u32 {
        self.held.load(Ordering::Relaxed)
    }

    pub(crate) fn slot_of(&self, piece: PieceIndex) -> Option<SlotIndex> {
        let slot = self.slots[piece.number() as usize].load(Ordering::Acquire);
        (slot != NO_SLOT).then_some(SlotIndex(slot))
    }

    /// A lease on the slot in which the piece was seen: `None` if it has left it. The lease is taken and *then* the
    /// table is read again: before that the slot may have changed hands.
    pub(crate) fn lease(&self, piece: PieceIndex, slot: SlotIndex, slots: &SlotTable) -> Option<Leases> {
        let lease = slots.lease(slot)?;
        (self.slot_of(piece) == Some(slot)).then_some(lease)
    }

    /// Gives the piece its slot. Nobody else gives it one now.
    pub(crate) fn set(&self, piece: PieceIndex, slot: SlotIndex) {
        let before = self.slots[piece.number() as usize].swap(slot.0, Ordering::AcqRel);
        self.held.fetch_add(u32::from(before == NO_SLOT), Ordering::Relaxed);
    }

    /// The piece no longer lives in that slot. False if it did not.
    pub(crate) fn clear(&self, piece: u32, slot: SlotIndex) -> bool {
        let Some(entry) = self.slots.get(piece as usize) else { return false };
        let cleared = entry.compare_exchange(slot.0, NO_SLOT, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if cleared {
            self.held.fetch_sub(1, Ordering::Relaxed);
        }
        cleared
    }

    /// The slots that hold pieces of these numbers now; numbers beyond the last piece mean none.
    pub(crate) fn some(&self, pieces: Range<u32>) -> impl Iterator<Item = (u32, SlotIndex)> {
        let end = (pieces.end as usize).min(self.slots.len());
        let begin = (pieces.start as usize).min(end);
        (pieces.start..).zip(&self.slots[begin..end]).filter_map(|(piece, slot)| {
            let slot = slot.load(Ordering::Acquire);
            (slot != NO_SLOT).then_some((piece, SlotIndex(slot)))
        })
    }
}
