//! Room in the store: which slots are free, who gets them, and who has them reserved.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Inner, Store};
use crate::clock;
use crate::content::Content;
use crate::eviction::{Resident, S3Fifo};
use crate::free_slots::FreeSlots;
use crate::layout::{BlockRun, PieceIndex};
use crate::slot::{Leases, SlotIndex, Tenant};

/// How long a fetch waits for the keeper to make room before its bytes are served unkept.
const ROOM_WAIT_MS: u64 = 250;

/// No slots are free and none could be freed in time: serve the bytes unkept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no room in the store: all slots are in use or pinned")]
pub struct NoRoom;

/// Free slots and the queues of eviction; one short lock.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) free: FreeSlots,
    pub(crate) queues: S3Fifo,
}

impl Store {
    /// Slots for all of the run's pieces, at once or not at all, leased until the reservation is dropped. Waits
    /// for the keeper to make room, a quarter of a second at most, holding nothing.
    pub async fn reserve(&self, content: &Arc<Content>, run: BlockRun) -> Result<Reservation, NoRoom> {
        let deadline = tokio::time::Instant::now() + Duration::from_millis(ROOM_WAIT_MS);
        loop {
            // Without any slab in service there is nothing to wait for.
            if !self.inner.slabs.iter().any(|slab| slab.in_service()) {
                self.inner.counters.refused_reservations.fetch_add(1, Ordering::Relaxed);
                return Err(NoRoom);
            }
            let made = self.inner.room_made.notified();
            if let Some(reservation) = self.inner.try_reserve(content, run) {
                return Ok(reservation);
            }
            self.inner.keeper.want_room(run.pieces().count());
            if content.is_gone() || tokio::time::timeout_at(deadline, made).await.is_err() {
                self.inner.counters.refused_reservations.fetch_add(1, Ordering::Relaxed);
                return Err(NoRoom);
            }
        }
    }
}

/// Leased slots for the pieces of a run.
#[derive(Debug)]
pub struct Reservation {
    pub(super) inner: Arc<Inner>,
    pub(super) content: Arc<Content>,
    pub(super) slots: BTreeMap<PieceIndex, SlotIndex>,
    leases: Vec<Leases>,
}

impl Reservation {
    /// The content that the slots are for.
    pub fn content(&self) -> &Arc<Content> {
        &self.content
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.leases.clear();
        // A slot into which nothing came would stay empty until it is evicted.
        for slot in self.slots.values() {
            if self.inner.slots.presence(*slot) == 0 && self.inner.slots.release_unleased(*slot) {
                self.inner.forget_tenant(*slot);
                self.inner.keeper.released(*slot);
            }
        }
    }
}

impl Inner {
    pub(crate) fn try_reserve(
        self: &Arc<Self>,
        content: &Arc<Content>,
        run: BlockRun,
    ) -> Option<Reservation> {
        let minute = clock::process_minute();
        let mut reservation = Reservation {
            inner: self.clone(),
            content: content.clone(),
            slots: BTreeMap::new(),
            leases: vec![],
        };
        let mut room = self.room();
        if content.is_gone() {
            return None;
        }
        let mut wanted = Vec::new();
        for piece in run.pieces() {
            let seen = content.slot_of(piece).filter(|slot| !self.slab_of(*slot).has_failed());
            let held = seen.and_then(|slot| Some((slot, content.lease(piece, slot, &self.slots)?)));
            match held {
                Some((slot, lease)) => {
                    reservation.slots.insert(piece, slot);
                    reservation.leases.push(lease);
                }
                None => wanted.push(piece),
            }
        }
        let taken = room.free.take(wanted.len() as u32);
        if room.free.len() < self.low_water() {
            self.keeper.want_room(0);
        }
        let taken = taken?;
        for (piece, slot) in wanted.into_iter().zip(taken) {
            let tenant = Tenant { content: content.place, piece: piece.number() };
            reservation.leases.push(self.slots.occupy(slot, tenant, minute));
            reservation.slots.insert(piece, slot);
            content.set_slot(piece, slot);
            let resident = Resident { slot, generation: self.slots.word(slot).generation };
            room.queues.insert(resident, piece_key(content, piece.number()));
        }
        drop(room);
        Some(reservation)
    }

    /// Free slots below which the keeper evicts: 2 %, and room for some requests.
    pub(crate) fn low_water(&self) -> u32 {
        let slots = self.slots.len();
        (slots / 50).max(64).min(slots / 4)
    }
}

/// Spread key of a piece for the ghosts of eviction.
pub(crate) fn piece_key(content: &Content, piece: u32) -> u64 {
    content.id().spread() ^ u64::from(piece).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
