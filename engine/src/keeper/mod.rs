//! The thread that evicts, makes room, and makes records durable.
//!
//! One pass does, in this order:
//!
//! 0. give up what was in slabs that have failed since;
//! 1. evict, if little room is left, until twice the low water mark is free;
//! 2. write the records that release slots, sync, and give those slots back: nothing on disk speaks for their
//!    old tenants any more;
//! 3. sync the slabs that were written to, write the records of contents and of new blocks, sync: they are
//!    durable.
//!
//! Steps 1 and 2 run as soon as room is wanted, step 3 at most every half second or when someone waits for it.
//! All of it is blocking I/O (a sync takes 1–7 ms and more) and none of it runs on a shard. Nothing else writes
//! records, so this thread alone knows their places.

mod evictor;
mod queue;

use std::collections::{BTreeMap, BTreeSet};

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::clock;
use crate::content::Content;
use crate::content_id::ContentId;
use crate::format::{Session, SlotRecord};
use crate::page_tables::{self, PAGE_TABLES_BYTES_MAX};
use crate::records::Records;
use crate::slot::{SlotIndex, SlotState};
use crate::store::{FlushError, Inner};

pub(crate) use queue::KeeperQueue;

use evictor::Evictor;
use queue::Written;

const COMMIT_EVERY: Duration = Duration::from_millis(500);
const EXPIRE_EVERY: Duration = Duration::from_secs(10);
/// Pieces evicted while the locks of the room and of the content table are held.
const EVICTED_PER_LOCK: usize = 64;
/// Pause of the search for evictable pieces after it found none.
const REST: Duration = Duration::from_millis(50);
/// Free places in the content table below which contents are dropped, and how many of it are looked at at a time.
const PLACES_KEPT_FREE: usize = 16;
const PLACES_PER_LOCK: usize = 4096;
/// Released slots whose leases still live are looked at so often.
const LEASED_RETRY: Duration = Duration::from_millis(20);

/// The thread's own state.
pub(crate) struct Keeper {
    inner: Arc<Inner>,
    records: Records,
    /// Released slots that are not free yet: leased, or their record is not durable.
    releasing: Vec<SlotIndex>,
    /// Set by the first record that could not be written: what is on disk stays as it is from then on.
    failed: Option<FlushError>,
    /// Slots whose records were written and not synced: they may be on disk, and may not.
    unsure: BTreeSet<SlotIndex>,
    /// Nothing could be evicted a moment ago: no search before then.
    rest_until: Option<Duration>,
    /// Slabs whose pieces were given up because they failed.
    given_up_slabs: BTreeSet<u32>,
    committed_at: Duration,
    expired_at: Duration,
}

impl Keeper {
    /// `releasing`: slots that the records give to contents that are not there.
    pub(crate) fn new(inner: Arc<Inner>, records: Records, releasing: Vec<SlotIndex>) -> Self {
        let now = clock::elapsed();
        Self {
            inner,
            records,
            releasing,
            failed: None,
            unsure: BTreeSet::new(),
            rest_until: None,
            given_up_slabs: BTreeSet::new(),
            committed_at: now,
            expired_at: now,
        }
    }

    pub(crate) fn run(&mut self) {
        lower_priority();
        loop {
            let timeout = if self.releasing.is_empty() { COMMIT_EVERY } else { LEASED_RETRY };
            self.inner.keeper.wait(timeout);
            if !self.pass() {
                return;
            }
        }
    }

    /// One pass over what is to be done now. False after the last one: the store is closed.
    pub(crate) fn pass(&mut self) -> bool {
        let mut news = self.inner.keeper.news();
        let stop = news.stop;
        let room_wanted = news.room_wanted.take().unwrap_or(0);
        news.slab_failed = false;
        let commit = stop || !news.flushes.is_empty() || is_over(self.committed_at, COMMIT_EVERY);
        let batch = commit.then(|| Batch {
            written: std::mem::take(&mut news.written),
            contents: std::mem::take(&mut news.contents),
            flushes: std::mem::take(&mut news.flushes),
        });
        drop(news);
        self.give_up_failed_slabs(commit);
        self.make_places();
        let released = std::mem::take(&mut self.inner.keeper.news().released);
        self.releasing.extend(released);
        self.make_room(room_wanted);
        self.settle_released();
        if let Some(batch) = batch {
            self.commit(batch);
            self.committed_at = clock::elapsed();
        }
        if is_over(self.expired_at, EXPIRE_EVERY) {
            self.expire();
            page_tables::bound(&self.inner.slabs, PAGE_TABLES_BYTES_MAX);
            self.expired_at = clock::elapsed();
        }
        if stop {
            self.stop();
        }
        !stop
    }

    /// Evicts until twice the low water mark, and what is wanted, is free or about to be.
    fn make_room(&mut self, wanted: usize) {
        if self.rest_until.is_some_and(|rest_until| clock::elapsed() < rest_until) {
            return;
        }
        self.rest_until = None;
        let inner = &self.inner;
        let low = inner.low_water() as usize;
        // What is leased may stay so for long: only what can be given back soon counts as coming.
        let leased = |slot: &SlotIndex| inner.slots.word(*slot).leases > 0;
        let releasing = self.releasing.iter().filter(|slot| !leased(slot)).count();
        let free = inner.room().free.len() as usize;
        if free + releasing >= low + wanted {
            return;
        }
        let mut missing = 2 * low + wanted - free - releasing;
        while missing > 0 {
            let mut room = inner.room();
            room.queues.prune(inner.slots.len(), |resident| inner.is_held(resident));
            let evictor = Evictor {
                inner,
                places: inner.index.places(),
                bound: self.failed.is_some().then_some(&self.unsure),
                evicted: Default::default(),
            };
            // Readers and fetches meet these locks: they are held for a few pieces at a time.
            room.queues.evict(missing.min(EVICTED_PER_LOCK), &evictor);
            let evicted = evictor.evicted.into_inner();
            if evicted.is_empty() {
                self.rest_until = Some(clock::elapsed() + REST);
                return;
            }
            missing = missing.saturating_sub(evicted.len());
            inner.counters.evicted_pieces.fetch_add(evicted.len() as u64, Ordering::Relaxed);
            self.releasing.extend(evicted);
        }
    }

    /// Drops contents that were not used for longest when few places in their table are left, so that a shard that
    /// wants one need not look for it.
    fn make_places(&self) {
        let index = &self.inner.index;
        if index.places().free() >= PLACES_KEPT_FREE {
            return;
        }
        let mut oldest: Vec<Arc<Content>> = Vec::new();
        let table = self.inner.geometry.contents() as usize;
        for first in (0..table).step_by(PLACES_PER_LOCK) {
            let places = index.places();
            oldest.extend(
                places.some(first..first + PLACES_PER_LOCK).filter(|content| content.may_go()).cloned(),
            );
            drop(places);
            oldest.sort_by_key(|content| content.rank_to_go(1));
            oldest.truncate(PLACES_KEPT_FREE);
        }
        oldest.iter().for_each(|content| self.inner.drop_content(content));
    }

    /// Makes the release of slots durable and gives back those that nobody leases.
    fn settle_released(&mut self) {
        if self.releasing.is_empty() {
            return;
        }
        if self.failed.is_some() {
            // Slots that keep their tenants on disk must not be reused, nor those that perhaps do.
            self.releasing.retain(|slot| self.inner.slots.durable(*slot) == 0 && !self.unsure.contains(slot));
        }
        let recorded: Vec<SlotIndex> =
            self.releasing.iter().copied().filter(|slot| self.inner.slots.durable(*slot) != 0).collect();
        if !recorded.is_empty()
            && let Err(error) = self.write_releases(&recorded)
        {
            self.fail(&error);
            return;
        }
        let inner = &self.inner;
        let mut room = inner.room();
        let mut freed = false;
        self.releasing.retain(|slot| {
            let vacated = inner.slots.vacate(*slot);
            if vacated && inner.slab_of(*slot).in_service() {
                room.free.insert(*slot);
                freed = true;
            }
            !vacated
        });
        drop(room);
        if freed {
            self.inner.room_made.notify_waiters();
        }
    }

    fn write_releases(&mut self, slots: &[SlotIndex]) -> std::io::Result<()> {
        for slot in slots {
            let word = self.inner.slots.word(*slot);
            debug_assert_eq!(word.state, SlotState::Releasing);
            self.records.write_slot(SlotRecord {
                index: slot.0,
                sequence: 0,
                tenure: 0,
                content: 0,
                id: ContentId::from_bytes([0; 32]),
                piece: 0,
                generation: word.generation,
                held: false,
                presence: 0,
                crc32: Default::default(),
                blake3: Default::default(),
            })?;
        }
        self.records.sync()?;
        slots.iter().for_each(|slot| self.inner.slots.forget_durable(*slot));
        Ok(())
    }

    fn commit(&mut self, batch: Batch) {
        let result = match &self.failed {
            Some(failed) => Err(failed.clone()),
            None if batch.written.is_empty() && batch.contents.is_empty() => Ok(()),
            None => self.write_batch(&batch).map_err(|error| self.fail(&error)),
        };
        for flush in batch.flushes {
            let _ = flush.send(result.clone());
        }
        // Where records cannot be written, places are given back all the same: nothing on disk changes.
        for content in batch.contents.values().filter(|content| content.is_gone()) {
            self.inner.index.vacate(content);
        }
    }

    fn write_batch(&mut self, batch: &Batch) -> std::io::Result<()> {
        let held = self.synced_blocks(batch);
        let places = self.inner.index.places();
        let mut contents: BTreeMap<u32, Arc<Content>> = BTreeMap::new();
        for (place, content) in &batch.contents {
            match places.content(*place).filter(|current| current.tenure != content.tenure) {
                None => contents.insert(*place, content.clone()),
                // The place of a dropped content has a new one already, whose record is to stand where the old one's
                // does. Now, though it has nothing to say yet: what is gone would come back after a crash, and be in
                // the way of a later content of its name.
                Some(current) if !current.recorded.load(Ordering::Relaxed) => {
                    contents.insert(*place, current.clone())
                }
                Some(_) => None,
            };
        }
        let tenants: Vec<Arc<Content>> = held
            .iter()
            .filter_map(|(slot, _)| places.content(self.inner.slots.tenant(*slot).content).cloned())
            .collect();
        drop(places);
        for content in tenants {
            if !content.recorded.load(Ordering::Relaxed) {
                contents.entry(content.place).or_insert(content);
            }
        }
        // A verdict that was taken back must be on disk before the bytes that took it back: in both places, so that no
        // damage to one of them gives it back.
        let fell: Vec<_> =
            contents.values().filter(|content| content.has_lost_its_verdict()).cloned().collect();
        let all: Vec<_> = contents.into_values().collect();
        for contents in [all, fell] {
            self.write_contents(&contents)?;
        }
        let mut durable = Vec::with_capacity(held.len());
        for (slot, written) in held {
            if let Some(record) = self.slot_record(slot, written) {
                durable.push((slot, record.presence));
                self.unsure.insert(slot);
                self.records.write_slot(record)?;
            }
        }
        self.records.sync()?;
        self.unsure.clear();
        for (slot, presence) in durable {
            // Only this thread vacates slots, so the generation is still the record's.
            self.inner.slots.mark_durable(slot, presence);
        }
        Ok(())
    }

    fn write_contents(&mut self, contents: &[Arc<Content>]) -> std::io::Result<()> {
        if contents.is_empty() {
            return Ok(());
        }
        for content in contents {
            self.records.write_content(|sequence| content.record(sequence))?;
            content.recorded.store(true, Ordering::Relaxed);
        }
        self.records.sync()
    }

    /// Syncs the slabs of a batch. A slab whose sync fails loses every slot of the batch that is on it.
    fn synced_blocks<'a>(&self, batch: &'a Batch) -> Vec<(SlotIndex, &'a Written)> {
        let mut by_slab: BTreeMap<u32, Vec<(SlotIndex, &Written)>> = BTreeMap::new();
        for (slot, written) in &batch.written {
            by_slab.entry(self.inner.geometry.slab_of(*slot)).or_default().push((SlotIndex(*slot), written));
        }
        let mut held = Vec::with_capacity(batch.written.len());
        for (number, slots) in by_slab {
            let slab = &self.inner.slabs[number as usize];
            match slab.file().sync_data() {
                Ok(()) if slab.in_service() => held.extend(slots),
                Ok(()) => {}
                Err(error) => {
                    tracing::error!(
                        slab = number, %error, pieces = slots.len(),
                        "a slab cannot be synced: what was written to it since the last sync is dropped, and it takes no more"
                    );
                    self.retire_slab(number, slots.iter().map(|(slot, _)| *slot));
                }
            }
        }
        held
    }

    fn retire_slab(&self, slab: u32, unsynced: impl Iterator<Item = SlotIndex>) {
        self.inner.slabs[slab as usize].take_out_of_service();
        let later: Vec<SlotIndex> = {
            let geometry = self.inner.geometry;
            let mut news = self.inner.keeper.news();
            let on_it: Vec<u32> =
                news.written.keys().copied().filter(|slot| geometry.slab_of(*slot) == slab).collect();
            on_it.into_iter().filter_map(|slot| news.written.remove(&slot).map(|_| SlotIndex(slot))).collect()
        };
        unsynced.chain(later).for_each(|slot| self.inner.give_up(slot));
        self.take_free_slots(slab);
    }

    /// Nothing new is put into that slab any more.
    fn take_free_slots(&self, slab: u32) {
        let mut room = self.inner.room();
        self.slots_of_slab(slab).for_each(|slot| room.free.remove(slot));
    }

    fn slots_of_slab(&self, slab: u32) -> impl Iterator<Item = SlotIndex> + use<> {
        self.inner.geometry.slots_in_slab(slab).map(SlotIndex)
    }

    /// Gives up all pieces of slabs whose files have gone from beneath them. Readers that meet one before give it up
    /// themselves; this is for the rest, and for the records. `look`: find out about those that nobody has met.
    fn give_up_failed_slabs(&mut self, look: bool) {
        for (number, slab) in (0u32..).zip(&self.inner.slabs) {
            let failed = if look { !slab.is_whole() } else { slab.has_failed() };
            if !failed || self.given_up_slabs.contains(&number) {
                continue;
            }
            let sealed = slab.seal();
            // First the free ones: then nobody can be given one whose piece would stay.
            self.take_free_slots(number);
            let held = self
                .slots_of_slab(number)
                .filter(|slot| self.inner.slots.word(*slot).state == SlotState::Held);
            let pieces = held.map(|slot| self.inner.give_up(slot)).count();
            tracing::error!(
                file = format!("slab-{number:05}"),
                pieces,
                "a slab was cut short beneath the daemon, or a page of it cannot be read: its pieces are dropped and \
                 fetched again, and it takes no more until the next start; find out what changed the file, or whether \
                 the disk fails, and restart darter, which makes the file whole again"
            );
            if let Err(error) = sealed {
                tracing::error!(%error, "what clients were lent of that slab could not be taken back");
            }
            self.given_up_slabs.insert(number);
        }
    }

    /// The record of a slot with its new blocks; `None` if the slot has lost its piece since.
    fn slot_record(&self, slot: SlotIndex, written: &Written) -> Option<SlotRecord> {
        let slots = &self.inner.slots;
        let word = slots.word(slot);
        if word.state != SlotState::Held || word.generation != written.generation {
            return None;
        }
        let tenant = slots.tenant(slot);
        let content = self.inner.index.places().content(tenant.content).cloned()?;
        // Someone may just be taking the piece away, and the place may have a new content already.
        let piece = content.layout().piece(tenant.piece)?;
        if content.slot_of(piece) != Some(slot) {
            return None;
        }
        let mut blake3 = written.blake3;
        let before = slots.durable(slot);
        if before != 0 {
            // BLAKE3 is not kept in memory (128 bytes a slot): the record has that of the earlier blocks.
            // Where it cannot be read, the record stays as it is: the new blocks are fetched again after a crash.
            let Ok(Some(record)) = self.records.read_slot(slot.0) else { return None };
            for (block, hash) in blake3.iter_mut().enumerate() {
                if written.presence & 1 << block == 0 {
                    *hash = record.blake3[block];
                }
            }
        }
        Some(SlotRecord {
            index: slot.0,
            sequence: 0,
            tenure: content.tenure,
            content: tenant.content,
            id: content.id(),
            piece: tenant.piece,
            generation: word.generation,
            held: true,
            presence: before | written.presence,
            crc32: slots.crc32s(slot),
            blake3,
        })
    }

    /// Removes what was not used for the configured time.
    fn expire(&self) {
        let Some(ttl) = self.inner.ttl else { return };
        let oldest = clock::unix_s().saturating_sub(ttl.as_secs());
        let expired: Vec<_> = self
            .inner
            .index
            .places()
            .contents()
            .filter(|content| !content.pinned() && !content.is_gone() && content.used_at_s() < oldest)
            .cloned()
            .collect();
        expired.iter().for_each(|content| self.inner.remove(content));
    }

    fn fail(&mut self, error: &std::io::Error) -> FlushError {
        tracing::error!(%error, "records cannot be written: the cache goes on, but is not found after a restart");
        let failed = FlushError(error.to_string());
        self.failed = Some(failed.clone());
        failed
    }

    fn stop(&mut self) {
        let left = {
            let mut news = self.inner.keeper.news();
            news.closed = true;
            std::mem::take(&mut news.flushes)
        };
        self.commit(Batch { written: BTreeMap::new(), contents: BTreeMap::new(), flushes: left });
        if self.failed.is_none() {
            let session = Session::Stopped { sequence: self.records.sequence() };
            if let Err(error) = self.records.write_session(session) {
                tracing::warn!(%error, "the clean stop could not be noted");
            }
        }
    }
}

/// What one commit makes durable.
struct Batch {
    written: BTreeMap<u32, Written>,
    contents: BTreeMap<u32, Arc<Content>>,
    flushes: Vec<oneshot::Sender<Result<(), FlushError>>>,
}

/// Whether so much time has passed since.
fn is_over(since: Duration, wanted: Duration) -> bool {
    clock::elapsed().saturating_sub(since) >= wanted
}

/// Background threads yield to the shards.
pub(crate) fn lower_priority() {
    const NICENESS: i32 = 10;
    // On Linux a thread's niceness is its own.
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "a background thread runs at normal priority");
    }
}
