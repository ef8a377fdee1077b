//! The life of a slot, and the leases that keep it from being reused.
//!
//! One atomic word holds generation, state and number of leases:
//!
//! ```text
//!            occupy                 release                 vacate
//!   Free ───────────────▶ Held ───────────────▶ Releasing ───────────▶ Free
//!        generation + 1         no new leases              the last lease is gone and the record
//!                                                          that frees the slot is durable
//! ```
//!
//! A reader takes a lease and *then* reads the content's piece table again: if the piece is still in this slot,
//! the slot cannot have changed hands before, and the lease keeps it from doing so.

use std::fmt;
use std::ops::Range;

use crate::from_disk::FromDisk;
use crate::layout::{BLOCKS_PER_PIECE, BlockIndex};
use crate::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
use crate::sync::{Arc, IS_PLAIN};

/// Number of a slot in its store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlotIndex(pub u32);

/// A slot is in exactly one of these states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SlotState {
    /// Nobody's.
    Free,
    /// Holds a piece.
    Held,
    /// Its piece is given up; leases may still live.
    Releasing,
}

/// What the word says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotWord {
    pub(crate) generation: u32,
    pub(crate) state: SlotState,
    pub(crate) leases: u32,
}

const LEASE_BITS: u32 = 30;
const LEASES_MAX: u32 = (1 << LEASE_BITS) - 1;

impl SlotWord {
    fn pack(self) -> u64 {
        let state = match self.state {
            SlotState::Free => 0,
            SlotState::Held => 1,
            SlotState::Releasing => 2,
        };
        u64::from(self.generation) << 32 | state << LEASE_BITS | u64::from(self.leases)
    }

    fn unpack(word: u64) -> Self {
        let state = match word >> LEASE_BITS & 3 {
            0 => SlotState::Free,
            1 => SlotState::Held,
            _ => SlotState::Releasing,
        };
        Self { generation: (word >> 32) as u32, state, leases: word as u32 & LEASES_MAX }
    }
}

/// In memory for each slot: 40 bytes.
#[derive(Debug)]
struct Slot {
    word: AtomicU64,
    /// Place of the content's record.
    content: AtomicU32,
    piece: AtomicU32,
    crc32: [AtomicU32; BLOCKS_PER_PIECE as usize],
    /// Second (28 bits) in which the blocks of the mask (4 bits) were last checked.
    checked: AtomicU32,
    /// Low nibble: blocks present. High nibble: blocks whose presence is durable.
    blocks: AtomicU8,
    /// Low nibble: how often the piece was wanted again, up to [`HEAT_MAX`]. High nibble: blocks that are being
    /// written.
    heat: AtomicU8,
    /// Minute of the last touch that counted.
    touched_minute: AtomicU16,
}

const _: () = assert!(!IS_PLAIN || size_of::<Slot>() == 40, "the index is bounded to 256 MB per TB");
const _: () = assert!(BLOCKS_PER_PIECE == 4, "presence and durability share one byte");

const HEAT_MAX: u8 = 3;

/// Who lives in a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tenant {
    /// Place of the content's record.
    pub(crate) content: u32,
    pub(crate) piece: u32,
}

/// All slots of a store; cheap to clone.
#[derive(Clone)]
pub(crate) struct SlotTable {
    shared: Arc<Shared>,
}

struct Shared {
    slots: Box<[Slot]>,
    lent: AtomicU64,
    from_disk: FromDisk,
}

impl fmt::Debug for SlotTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotTable({} slots)", self.shared.slots.len())
    }
}

impl SlotTable {
    pub(crate) fn new(slots: u32) -> Self {
        let slot = |_| Slot {
            word: AtomicU64::new(0),
            content: AtomicU32::new(u32::MAX),
            piece: AtomicU32::new(0),
            crc32: Default::default(),
            checked: AtomicU32::new(0),
            blocks: AtomicU8::new(0),
            heat: AtomicU8::new(0),
            touched_minute: AtomicU16::new(0),
        };
        let slots = (0..slots).map(slot).collect();
        Self { shared: Arc::new(Shared { slots, lent: AtomicU64::new(0), from_disk: FromDisk::new() }) }
    }

    fn slot(&self, slot: SlotIndex) -> &Slot {
        &self.shared.slots[slot.0 as usize]
    }

    pub(crate) fn word(&self, slot: SlotIndex) -> SlotWord {
        SlotWord::unpack(self.slot(slot).word.load(Ordering::Acquire))
    }

    /// Changes the word as `change` says, unless it says no. Returns the word before.
    fn update(&self, slot: SlotIndex, change: impl Fn(SlotWord) -> Option<SlotWord>) -> Option<SlotWord> {
        self.slot(slot)
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                change(SlotWord::unpack(word)).map(SlotWord::pack)
            })
            .ok()
            .map(SlotWord::unpack)
    }

    /// Free → Held with one lease, in a new generation.
    pub(crate) fn occupy(&self, index: SlotIndex, tenant: Tenant, minute: u16) -> Leases {
        let slot = self.slot(index);
        debug_assert_eq!(self.word(index).state, SlotState::Free);
        slot.content.store(tenant.content, Ordering::Relaxed);
        slot.piece.store(tenant.piece, Ordering::Relaxed);
        slot.blocks.store(0, Ordering::Relaxed);
        slot.checked.store(0, Ordering::Relaxed);
        slot.heat.store(0, Ordering::Relaxed);
        slot.touched_minute.store(minute, Ordering::Relaxed);
        self.update(index, |word| {
            Some(SlotWord { generation: word.generation.wrapping_add(1), state: SlotState::Held, leases: 1 })
        });
        Leases::of(self, index)
    }

    /// At start: a slot that its record says is held.
    pub(crate) fn restore(&self, index: SlotIndex, generation: u32, restored: &Restored) {
        let slot = self.slot(index);
        slot.content.store(restored.tenant.content, Ordering::Relaxed);
        slot.piece.store(restored.tenant.piece, Ordering::Relaxed);
        for (sum, restored) in slot.crc32.iter().zip(restored.crc32) {
            sum.store(restored, Ordering::Relaxed);
        }
        slot.blocks.store(restored.presence << 4 | restored.presence, Ordering::Relaxed);
        let word = SlotWord { generation, state: SlotState::Held, leases: 0 };
        slot.word.store(word.pack(), Ordering::Release);
    }

    /// At start: a slot whose record speaks of a content that is not there. It is free once that record is
    /// overwritten, so that no later content can adopt its bytes.
    pub(crate) fn restore_releasing(&self, index: SlotIndex, generation: u32) {
        self.slot(index).blocks.store(0xf0, Ordering::Relaxed);
        let word = SlotWord { generation, state: SlotState::Releasing, leases: 0 };
        self.slot(index).word.store(word.pack(), Ordering::Release);
    }

    /// At start: a free slot goes on counting generations where its record left off.
    pub(crate) fn restore_free(&self, index: SlotIndex, generation: u32) {
        let word = SlotWord { generation, state: SlotState::Free, leases: 0 };
        self.slot(index).word.store(word.pack(), Ordering::Release);
    }

    /// One more lease, if the slot is held. The caller must then read its piece table again.
    pub(crate) fn lease(&self, index: SlotIndex) -> Option<Leases> {
        self.update(index, |word| {
            (word.state == SlotState::Held && word.leases < LEASES_MAX)
                .then(|| SlotWord { leases: word.leases + 1, ..word })
        })?;
        Some(Leases::of(self, index))
    }

    /// Held → Releasing, whoever holds leases.
    pub(crate) fn release(&self, index: SlotIndex) -> bool {
        self.update(index, |word| {
            (word.state == SlotState::Held).then_some(SlotWord { state: SlotState::Releasing, ..word })
        })
        .is_some()
    }

    /// Held → Releasing, only if nobody holds a lease.
    pub(crate) fn release_unleased(&self, index: SlotIndex) -> bool {
        self.update(index, |word| {
            (word.state == SlotState::Held && word.leases == 0)
                .then_some(SlotWord { state: SlotState::Releasing, ..word })
        })
        .is_some()
    }

    /// Releasing → Free, once the last lease is gone. The record that frees the slot must be durable.
    pub(crate) fn vacate(&self, index: SlotIndex) -> bool {
        let vacated = self.update(index, |word| {
            (word.state == SlotState::Releasing && word.leases == 0)
                .then_some(SlotWord { state: SlotState::Free, ..word })
        });
        // Not before: while a lease lives its blocks are there, and a writer with a reservation must not write them
        // again beneath whoever is lent them.
        if vacated.is_some() {
            self.slot(index).blocks.store(0, Ordering::Relaxed);
        }
        vacated.is_some()
    }

    pub(crate) fn tenant(&self, index: SlotIndex) -> Tenant {
        let slot = self.slot(index);
        Tenant { content: slot.content.load(Ordering::Relaxed), piece: slot.piece.load(Ordering::Relaxed) }
    }

    /// Bits of the blocks that are here.
    pub(crate) fn presence(&self, index: SlotIndex) -> u8 {
        self.slot(index).blocks.load(Ordering::Acquire) & 0x0f
    }

    /// Bits of the blocks that are found again after a crash.
    pub(crate) fn durable(&self, index: SlotIndex) -> u8 {
        self.slot(index).blocks.load(Ordering::Acquire) >> 4
    }

    /// Claims a block for one writer. False if it is here already, or another writes it: two writers could leave
    /// other bytes than were checked.
    pub(crate) fn claim(&self, index: SlotIndex, block: BlockIndex) -> bool {
        let bit = 0x10 << block.in_piece();
        let claimed = self.slot(index).heat.fetch_or(bit, Ordering::AcqRel) & bit == 0;
        if claimed && self.presence(index) & 1 << block.in_piece() != 0 {
            self.disclaim(index, block);
            return false;
        }
        claimed
    }

    pub(crate) fn disclaim(&self, index: SlotIndex, block: BlockIndex) {
        self.slot(index).heat.fetch_and(!(0x10 << block.in_piece()), Ordering::AcqRel);
    }

    /// Publishes a block that was written: checksum first, then the bit that readers look for.
    pub(crate) fn publish(&self, index: SlotIndex, block: BlockIndex, crc32: u32) {
        let slot = self.slot(index);
        slot.crc32[block.in_piece() as usize].store(crc32, Ordering::Relaxed);
        slot.blocks.fetch_or(1 << block.in_piece(), Ordering::Release);
    }

    /// The presence bits of a durable record, for as long as the slot keeps its generation.
    pub(crate) fn mark_durable(&self, index: SlotIndex, presence: u8) {
        self.slot(index).blocks.fetch_or(presence << 4, Ordering::Release);
    }

    /// The record that releases the slot is durable.
    pub(crate) fn forget_durable(&self, index: SlotIndex) {
        self.slot(index).blocks.fetch_and(0x0f, Ordering::Release);
    }

    pub(crate) fn crc32(&self, index: SlotIndex, block: BlockIndex) -> u32 {
        self.slot(index).crc32[block.in_piece() as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn crc32s(&self, index: SlotIndex) -> [u32; BLOCKS_PER_PIECE as usize] {
        std::array::from_fn(|block| self.slot(index).crc32[block].load(Ordering::Relaxed))
    }

    /// Whether the block was checked in this second of the clock.
    pub(crate) fn checked_lately(&self, index: SlotIndex, block: BlockIndex, second: u32) -> bool {
        let checked = self.slot(index).checked.load(Ordering::Relaxed);
        checked >> 4 == second & CHECKED_SECONDS && checked & 1 << block.in_piece() != 0
    }

    /// Notes that the block was found right in this second, unless its pages may just now come from the disk. A lost race
    /// costs one more check.
    pub(crate) fn note_checked(&self, index: SlotIndex, block: BlockIndex, second: u32) {
        let checked = &self.slot(index).checked;
        let before = checked.load(Ordering::Relaxed);
        let same_second = before >> 4 == second & CHECKED_SECONDS;
        let mask = 1 << block.in_piece() | if same_second { before & 0x0f } else { 0 };
        checked.store((second & CHECKED_SECONDS) << 4 | mask, Ordering::Relaxed);
        // A read that begins counts itself and then forgets; here is noted and then looked: one of the two sees the other.
        fence(Ordering::SeqCst);
        if self.shared.from_disk.has(index.0) {
            self.forget_checked(index);
        }
    }

    /// Pages of these slots come from the disk from now on: that they were right before says nothing about them. Until the
    /// answer is dropped each look at them checks.
    pub(crate) fn read_from_disk(&self, leases: &Leases) -> DiskRead {
        let slots = leases.first.0..leases.first.0 + leases.count;
        self.shared.from_disk.begin(&slots);
        fence(Ordering::SeqCst);
        slots.clone().for_each(|slot| self.forget_checked(SlotIndex(slot)));
        DiskRead { table: self.clone(), slots }
    }

    fn forget_checked(&self, index: SlotIndex) {
        self.slot(index).checked.fetch_and(!0x0f, Ordering::Relaxed);
    }

    /// The piece was wanted. Within one boot half of the pieces are touched twice, so one touch counts per
    /// minute; the minute of arrival counts as touched.
    pub(crate) fn touch(&self, index: SlotIndex, minute: u16) {
        let slot = self.slot(index);
        if slot.touched_minute.swap(minute, Ordering::Relaxed) != minute {
            let hotter = |heat: u8| (heat & 0x0f < HEAT_MAX).then_some(heat + 1);
            let _ = slot.heat.fetch_update(Ordering::Relaxed, Ordering::Relaxed, hotter);
        }
    }

    pub(crate) fn heat(&self, index: SlotIndex) -> u8 {
        self.slot(index).heat.load(Ordering::Relaxed) & 0x0f
    }

    pub(crate) fn set_heat(&self, index: SlotIndex, heat: u8) {
        let changed = |before: u8| Some(before & 0xf0 | heat.min(HEAT_MAX));
        let _ = self.slot(index).heat.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
    }

    /// Leases alive now, over all slots.
    pub(crate) fn leases(&self) -> u64 {
        self.shared.lent.load(Ordering::Relaxed)
    }

    pub(crate) fn len(&self) -> u32 {
        self.shared.slots.len() as u32
    }
}

const CHECKED_SECONDS: u32 = (1 << 28) - 1;

/// A read of some slots from the disk, for as long as it may be under way.
pub(crate) struct DiskRead {
    table: SlotTable,
    slots: Range<u32>,
}

impl Drop for DiskRead {
    fn drop(&mut self) {
        self.table.shared.from_disk.end(&self.slots);
    }
}

/// What a slot record says of a held slot.
pub(crate) struct Restored {
    pub(crate) tenant: Tenant,
    pub(crate) presence: u8,
    pub(crate) crc32: [u32; BLOCKS_PER_PIECE as usize],
}

/// One lease on each of some neighbouring slots; given back when dropped.
pub(crate) struct Leases {
    table: Option<SlotTable>,
    first: SlotIndex,
    count: u32,
}

impl Leases {
    fn of(table: &SlotTable, slot: SlotIndex) -> Self {
        table.shared.lent.fetch_add(1, Ordering::Relaxed);
        Self { table: Some(table.clone()), first: slot, count: 1 }
    }

    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { table: None, first: SlotIndex(0), count: 0 }
    }

    pub(crate) fn first(&self) -> SlotIndex {
        self.first
    }

    /// Joins the lease on the slot behind these, or gives it back.
    pub(crate) fn extend(&mut self, mut next: Leases) -> Result<(), Leases> {
        let adjacent = self.first.0 + self.count == next.first.0;
        if !adjacent || self.table.is_none() || next.table.is_none() {
            return Err(next);
        }
        self.count += next.count;
        next.table = None;
        Ok(())
    }
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Leases({}+{})", self.first.0, self.count)
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        let Some(table) = self.table.take() else { return };
        for slot in self.first.0..self.first.0 + self.count {
            let before = table.update(SlotIndex(slot), |word| {
                word.leases.checked_sub(1).map(|leases| SlotWord { leases, ..word })
            });
            debug_assert!(before.is_some(), "a lease was given back twice");
        }
        table.shared.lent.fetch_sub(u64::from(self.count), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Layout;

    const TENANT: Tenant = Tenant { content: 1, piece: 2 };
    const SLOT: SlotIndex = SlotIndex(3);

    #[test]
    fn a_leased_slot_is_neither_evicted_nor_vacated() {
        let table = SlotTable::new(8);
        let lease = table.occupy(SLOT, TENANT, 0);
        assert!(!table.release_unleased(SLOT));
        assert!(table.release(SLOT));
        assert!(table.lease(SLOT).is_none(), "no new lease on what is being released");
        assert!(!table.vacate(SLOT));
        drop(lease);
        assert!(table.vacate(SLOT));
        assert_eq!(table.word(SLOT), SlotWord { generation: 1, state: SlotState::Free, leases: 0 });
        assert_eq!(table.leases(), 0);
    }

    #[test]
    fn neighbouring_leases_join_and_are_all_given_back() {
        let table = SlotTable::new(8);
        let mut leases = table.occupy(SlotIndex(3), TENANT, 0);
        leases.extend(table.occupy(SlotIndex(4), TENANT, 0)).unwrap();
        let apart = leases.extend(table.occupy(SlotIndex(6), TENANT, 0)).unwrap_err();
        assert_eq!(table.leases(), 3);
        drop((leases, apart));
        assert_eq!(table.leases(), 0);
        assert!([3, 4, 6].iter().all(|slot| table.word(SlotIndex(*slot)).leases == 0));
    }

    #[test]
    fn a_check_counts_for_its_blocks_and_for_a_second() {
        let table = SlotTable::new(8);
        let layout = Layout::new(1 << 20).unwrap();
        let (first, second) = (layout.block(0).unwrap(), layout.block(1).unwrap());
        table.note_checked(SLOT, first, 100);
        assert!(table.checked_lately(SLOT, first, 100));
        assert!(!table.checked_lately(SLOT, first, 101));
        assert!(!table.checked_lately(SLOT, second, 100));
        table.note_checked(SLOT, second, 101);
        assert!(!table.checked_lately(SLOT, first, 101), "an older second's checks are forgotten");
    }

    /// Two reads from the disk had begun, and the block was checked before the second of them got to it.
    #[test]
    fn no_check_counts_while_the_slot_is_read_from_the_disk() {
        let table = SlotTable::new(8);
        let block = Layout::new(1 << 20).unwrap().block(0).unwrap();
        let leases = table.occupy(SLOT, TENANT, 0);
        table.note_checked(SLOT, block, 100);
        let reads = [table.read_from_disk(&leases), table.read_from_disk(&leases)];
        assert!(!table.checked_lately(SLOT, block, 100));
        for read in reads {
            table.note_checked(SLOT, block, 100);
            assert!(!table.checked_lately(SLOT, block, 100));
            drop(read);
        }
        table.note_checked(SLOT, block, 100);
        assert!(table.checked_lately(SLOT, block, 100));
    }

    #[test]
    fn a_block_has_one_writer() {
        let table = SlotTable::new(8);
        let block = Layout::new(1 << 20).unwrap().block(1).unwrap();
        drop(table.occupy(SLOT, TENANT, 0));
        assert!(table.claim(SLOT, block) && !table.claim(SLOT, block));
        table.touch(SLOT, 1);
        assert_eq!(table.heat(SLOT), 1, "a claim is no heat");
        table.publish(SLOT, block, 7);
        table.disclaim(SLOT, block);
        assert!(!table.claim(SLOT, block), "a present block is never written again");
    }

    /// A slot whose last lease had not gone was once cleared by the attempt to give it back, and a writer with an old
    /// reservation wrote beneath a reader.
    #[test]
    fn what_is_lent_is_not_written_again_when_its_slot_is_to_be_given_back() {
        let table = SlotTable::new(8);
        let block = Layout::new(1 << 20).unwrap().block(1).unwrap();
        let lease = table.occupy(SLOT, TENANT, 0);
        assert!(table.claim(SLOT, block));
        table.publish(SLOT, block, 7);
        table.disclaim(SLOT, block);
        assert!(table.release(SLOT) && !table.vacate(SLOT));
        assert!(!table.claim(SLOT, block));
        drop(lease);
        assert!(table.vacate(SLOT));
        assert_eq!(table.presence(SLOT), 0);
    }

    #[test]
    fn one_touch_counts_per_minute() {
        let table = SlotTable::new(8);
        drop(table.occupy(SLOT, TENANT, 7));
        table.touch(SLOT, 7);
        assert_eq!(table.heat(SLOT), 0, "the minute of arrival");
        table.touch(SLOT, 8);
        table.touch(SLOT, 8);
        assert_eq!(table.heat(SLOT), 1);
    }
}
