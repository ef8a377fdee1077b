//! A small store, its clients, and their lives.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::disk::{Director, Disk, Odds, set_director};
use super::rng::Rng;
use super::samples::{HONEST, LIAR, SAMPLES, Sample};
use crate::clock;
use crate::content::Content;
use crate::content_id::{RegistryScope, Scope};
use crate::device::Device;
use crate::directory::Directory;
use crate::format::{
    CONTENT_RECORD_BYTES, ContentRecord, Copy, Geometry, HEADER_BYTES, Header, SESSION_OFFSET,
    SLOT_RECORD_BYTES, Session, SlotRecord,
};
use crate::keeper::Keeper;
use crate::layout::{BlockRun, PIECE_BYTES};
use crate::ring::Backend;
use crate::slab::Slab;
use crate::slot::{SlotIndex, SlotState};
use crate::store::{FlushError, ReadError, Reservation, Store, StoreOptions, WriteError};

const SLOTS_PER_SLAB: u32 = 8;
const SLABS: u32 = 2;
const SLOTS: u32 = SLOTS_PER_SLAB * SLABS;
const RECORDS: usize = 0;
const STORE_ID: u64 = 0x5eed;

/// File of a slab.
fn slab_file(slab: u32) -> usize {
    slab as usize + 1
}

/// What went wrong in a world, and how it came to that.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) what: String,
    pub(super) trace: Vec<String>,
}

/// What worlds did, so that one knows that they do something.
#[derive(Clone, Debug, Default)]
pub(super) struct Lived {
    pub(super) steps: u64,
    pub(super) lives: u64,
    pub(super) crashes: u64,
    pub(super) writes: u64,
    pub(super) reads: u64,
    pub(super) evictions: u64,
    pub(super) failed_syncs: u64,
    pub(super) promised_pieces: u64,
    pub(super) excused_pieces: u64,
    pub(super) recovered_blocks: u64,
}

impl Lived {
    pub(super) fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.lives += other.lives;
        self.crashes += other.crashes;
        self.writes += other.writes;
        self.reads += other.reads;
        self.evictions += other.evictions;
        self.failed_syncs += other.failed_syncs;
        self.promised_pieces += other.promised_pieces;
        self.excused_pieces += other.excused_pieces;
        self.recovered_blocks += other.recovered_blocks;
    }

    /// Whether all that is to be looked at happens.
    pub(super) fn means_something(&self) -> bool {
        let all = [
            self.crashes,
            self.writes,
            self.reads,
            self.evictions,
            self.failed_syncs,
            self.promised_pieces,
            self.recovered_blocks,
        ];
        all.iter().all(|count| *count > self.lives / 50) && self.excused_pieces < self.promised_pieces / 4
    }
}

/// Runs a seed's world to its end.
pub(super) fn run(seed: u64, traced: bool) -> Result<Lived, Failure> {
    let (result, trace) = run_traced(seed, traced);
    result.map_err(|what| Failure { what, trace })
}

/// All that happens in a seed's world.
pub(super) fn trace_of(seed: u64) -> Vec<String> {
    run_traced(seed, true).1
}

fn run_traced(seed: u64, traced: bool) -> (Result<Lived, String>, Vec<String>) {
    let mut world = World::new(seed, traced);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    set_director(None);
    clock::simulated::set(None);
    let result = result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(format!(
            "a panic: {}",
            text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("of another kind")
        ))
    });
    (result, world.disk.take_trace())
}

struct World {
    rng: Rng,
    disk: Disk,
    header: Header,
    temper: Temper,
    lived: Lived,
    now: Duration,
}

/// What kind of world this is.
#[derive(Clone, Debug)]
struct Temper {
    ttl: Option<Duration>,
    /// Writes of the liar, in 1000.
    lies: u32,
    /// Bits that flip at rest, bad sectors, and files that are cut short, per 1000 steps.
    flips: u32,
    bad_sectors: u32,
    cuts: u32,
    lives: usize,
    calm: bool,
}

impl World {
    fn new(seed: u64, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let geometry = Geometry::tiny(SLOTS, 20 + rng.below(16) as u32, SLOTS_PER_SLAB);
        let mut odds = Odds { interleaves: [0, 100, 500, 900][rng.below(4)], ..Odds::default() };
        let mut temper = Temper {
            ttl: rng.chance(150).then_some(Duration::from_secs(600)),
            lies: [0, 100, 400][rng.below(3)],
            flips: 0,
            bad_sectors: 0,
            cuts: 0,
            lives: 2 + rng.below(4),
            calm: true,
        };
        // Most worlds have one trouble beside loss of power: with several at a time each excuses too much.
        match rng.below(8) {
            0 | 1 => {}
            2 => odds.sync_fails = 150,
            3 => (temper.flips, temper.lies) = (60, 200),
            4 => (odds.read_fails, odds.read_flips) = (20, 20),
            5 => (odds.write_fails, temper.bad_sectors) = (30, 30),
            6 => (odds.mapping_fails, temper.cuts) = (10, 8),
            _ => {
                odds = Odds {
                    sync_fails: 30,
                    write_fails: 10,
                    read_fails: 5,
                    read_flips: 5,
                    mapping_fails: 2,
                    ..odds
                };
                (temper.flips, temper.bad_sectors, temper.cuts) = (10, 10, 2);
            }
        }
        temper.calm = odds.sync_fails + odds.write_fails + odds.read_fails + odds.read_flips == 0
            && odds.mapping_fails + temper.flips + temper.bad_sectors + temper.cuts == 0;
        let slab_bytes = u64::from(SLOTS_PER_SLAB) * u64::from(PIECE_BYTES);
        let lengths = [geometry.records_bytes(), slab_bytes, slab_bytes];
        let disk = Disk::new(rng.next(), odds.clone(), &lengths, traced);
        disk.note(|| format!("world: {} places of contents, {odds:?}, {temper:?}", geometry.contents()));
        Self {
            rng,
            disk,
            header: Header { geometry, store_id: STORE_ID, made_at_s: 0 },
            temper,
            lived: Lived::default(),
            now: Duration::ZERO,
        }
    }

    fn run(&mut self) -> Result<Lived, String> {
        clock::simulated::set(Some(self.now));
        let mut promises = Promises::default();
        for life in 0..self.temper.lives {
            self.disk.note(|| format!("--- life {life}"));
            promises = self.live(&promises)?;
        }
        Ok(self.lived.clone())
    }

    fn open(&self) -> std::io::Result<(Store, Keeper)> {
        let device = Device::Simulated(self.disk.file(RECORDS));
        let mut page = [0; HEADER_BYTES];
        let session = device.read_exact_at(&mut page, SESSION_OFFSET);
        let session = session.map_or(Session::InUse, |()| Session::decode(&page, STORE_ID));
        let slab = |slab| Arc::new(Slab::simulated(self.disk.file(slab_file(slab))));
        let directory = Directory {
            header: self.header,
            session,
            records: device,
            slabs: (0..SLABS).map(slab).collect(),
            warning: None,
            lock: File::open("/dev/null")?,
        };
        let options = StoreOptions {
            data_dir: "/".into(),
            capacity_bytes: None,
            backend: Backend::Simulated,
            pool_blocks: 24,
            ttl: self.temper.ttl,
        };
        Store::restored(directory, &options)
    }

    /// From one start to the end of that life. Returns what the next one must find.
    fn live(&mut self, promises: &Promises) -> Result<Promises, String> {
        self.lived.lives += 1;
        // The power may go in the middle of a start too.
        if self.rng.chance(100) {
            self.disk.crash_in(self.rng.below(12) as u64);
        }
        let Ok((store, mut keeper)) = self.open() else {
            // Refused; the next start finds what was there before.
            if self.disk.has_crashed() {
                self.disk.restart();
            } else {
                self.disk.reopen();
            }
            return Ok(promises.clone());
        };
        if self.disk.has_crashed() {
            drop((store, keeper));
            self.lived.crashes += 1;
            self.disk.restart();
            return Ok(promises.clone());
        }
        self.check_recovered(&store, promises)?;
        let stage = Rc::new(Stage {
            store: store.clone(),
            disk: self.disk.clone(),
            clients: RefCell::new(Clients::new(
                store.clone(),
                self.disk.clone(),
                Rng::new(self.rng.next()),
                self.temper.clone(),
                self.now,
            )),
            promises: RefCell::default(),
        });
        set_director(Some(stage.clone()));
        if self.rng.chance(500) {
            self.disk.crash_in(self.rng.below(120) as u64);
        }
        let steps = 20 + self.rng.below(100);
        for _ in 0..steps {
            self.lived.steps += 1;
            if self.rng.chance(150) {
                self.pass(&stage, &mut keeper)?;
            } else {
                stage.clients.borrow_mut().step();
            }
            self.check_step(&stage)?;
            if self.disk.has_crashed() {
                break;
            }
        }
        let ended = self.end(&stage, &mut keeper);
        set_director(None);
        let clients = stage.clients.borrow();
        self.now = clients.now;
        self.lived.writes += clients.writes;
        self.lived.reads += clients.reads;
        self.lived.evictions += store.stats().evicted_pieces;
        ended
    }

    fn pass(&mut self, stage: &Stage, keeper: &mut Keeper) -> Result<(), String> {
        self.disk.note(|| "keeper: a pass".into());
        let at_stake = stage.not_durable();
        keeper.pass();
        for (file, lost) in self.disk.take_failed_syncs() {
            self.lived.failed_syncs += 1;
            let Some(slab) = file.checked_sub(1) else { continue };
            let inner = &stage.store.inner;
            if inner.slabs[slab].in_service() {
                return Err(format!("slab {slab} is in service after a failed sync"));
            }
            for slot in inner.geometry.slots_in_slab(slab as u32).map(SlotIndex) {
                if inner.room().free.contains(slot.0) {
                    return Err(format!("{slot:?} of a slab out of service is free to be taken"));
                }
                let Some((generation, blocks)) = at_stake.get(&slot.0) else { continue };
                let word = inner.slots.word(slot);
                let start = inner.geometry.offset_in_slab(slot.0);
                let hit = (0..4u64).any(|block| {
                    let at = start + (block << 16);
                    blocks & 1 << block != 0 && lost.iter().any(|lost| lost.contains(&at))
                });
                if hit && word.state == SlotState::Held && word.generation == *generation {
                    return Err(format!("{slot:?} was not synced and is held after a failed sync"));
                }
            }
        }
        Ok(())
    }

    /// One of the ways in which a life ends.
    fn end(&mut self, stage: &Rc<Stage>, keeper: &mut Keeper) -> Result<Promises, String> {
        if !self.disk.has_crashed() {
            match self.rng.below(4) {
                0 => return self.stop(stage, keeper),
                1 => {
                    self.disk.note(|| "killed".into());
                    let promises = stage.promised();
                    set_director(None);
                    // What the kernel has begun it ends, or not.
                    while self.disk.operations_in_flight() > 0 && self.rng.chance(800) {
                        self.disk.complete_one();
                    }
                    stage.clients.borrow_mut().leave();
                    self.disk.reopen();
                    return Ok(promises);
                }
                _ => self.disk.crash(),
            }
        }
        self.lived.crashes += 1;
        let promises = stage.promises.take().unwrap_or_default();
        set_director(None);
        stage.clients.borrow_mut().leave();
        self.disk.restart();
        Ok(promises)
    }

    /// A clean stop, after which nothing of anybody is left.
    fn stop(&mut self, stage: &Rc<Stage>, keeper: &mut Keeper) -> Result<Promises, String> {
        self.disk.note(|| "stops cleanly".into());
        stage.clients.borrow_mut().leave();
        while self.disk.operations_in_flight() > 0 {
            self.disk.complete_one();
        }
        let inner = &stage.store.inner;
        let (leases, buffers) = (inner.slots.leases(), stage.store.pool().in_use());
        if !self.disk.has_crashed() && (leases, buffers) != (0, 0) {
            return Err(format!("{leases} leases and {buffers} buffers are left when all clients are gone"));
        }
        // What one pass drops, the next one gives back.
        const PASSES_TO_REST: usize = 3;
        for _ in 0..PASSES_TO_REST {
            self.pass(stage, keeper)?;
        }
        let releasing = |slot: &SlotIndex| inner.slots.word(*slot).state == SlotState::Releasing;
        if self.temper.calm
            && !self.disk.has_crashed()
            && let Some(slot) = (0..SLOTS).map(SlotIndex).find(releasing)
        {
            return Err(format!("{slot:?} is not given back by a keeper that has nothing else to do"));
        }
        inner.keeper.stop();
        self.pass(stage, keeper)?;
        self.check_step(stage)?;
        if self.disk.has_crashed() {
            self.lived.crashes += 1;
            self.disk.restart();
            return Ok(stage.promises.take().unwrap_or_default());
        }
        for slot in (0..SLOTS).map(SlotIndex).filter(|_| self.temper.calm) {
            let word = inner.slots.word(slot);
            let (present, durable) = (inner.slots.presence(slot), inner.slots.durable(slot));
            if word.state == SlotState::Held && present != durable {
                return Err(format!(
                    "{slot:?} has blocks {present:04b} and only {durable:04b} durable at a clean stop"
                ));
            }
            if word.state != SlotState::Releasing
                && (word.state == SlotState::Free) != inner.room().free.contains(slot.0)
            {
                return Err(format!("{slot:?} is lost: {word:?}"));
            }
        }
        let promises = stage.promised();
        if self.rng.chance(500) {
            self.disk.crash();
            self.disk.restart();
        } else {
            self.disk.reopen();
        }
        Ok(promises)
    }

    fn check_step(&self, stage: &Stage) -> Result<(), String> {
        if let Some(violation) = self.disk.violation() {
            return Err(violation);
        }
        if let Some(violation) = stage.clients.borrow_mut().violation.take() {
            return Err(violation);
        }
        stage.check_tenants()
    }

    /// Of a store that has just been opened.
    fn check_recovered(&mut self, store: &Store, promises: &Promises) -> Result<(), String> {
        let blamed = Blamed::find(&self.disk, self.header.geometry);
        let inner = &store.inner;
        for content in store.contents() {
            let blame = blamed.places.contains(&content.place) || blamed.ids.contains(&content.id());
            if promises.gone.contains(&content.tenure) && !blame {
                return Err(format!("tenure {} was removed for good and is back", content.tenure));
            }
        }
        for (tenure, promise) in &promises.contents {
            self.lived.promised_pieces += promise.pieces.len() as u64;
            let found = inner.index.places().content(promise.place).cloned();
            let found = found.filter(|content| content.tenure == *tenure);
            if blamed.excuses(promise) {
                self.lived.excused_pieces += promise.pieces.len() as u64;
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
                    self.lived.excused_pieces += 1;
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
        self.check_believed(store, &blamed)
    }

    /// What the records say is there is there.
    fn check_believed(&mut self, store: &Store, blamed: &Blamed) -> Result<(), String> {
        let inner = &store.inner;
        for content in store.contents() {
            let sample = Sample::of(&content.id()).ok_or("a content that nobody made")?;
            let layout = content.layout();
            for (number, slot) in content.slots() {
                let presence = inner.slots.presence(slot);
                let blocks = layout.whole().into_iter().flat_map(|run| run.blocks());
                let blocks = blocks.filter(|block| block.piece().number() == number);
                for block in blocks.filter(|block| presence & 1 << block.in_piece() != 0) {
                    self.lived.recovered_blocks += 1;
                    let start = inner.geometry.offset_in_slab(slot.0) + (u64::from(block.in_piece()) << 16);
                    let range = start..start + u64::from(layout.block_bytes(block));
                    let file = slab_file(inner.geometry.slab_of(slot.0));
                    let bytes = self.disk.peek(file, range.clone());
                    let right = crc32fast::hash(&bytes) == inner.slots.crc32(slot, block);
                    let blame = self.disk.is_to_blame(file, &range)
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

impl Sample {
    fn name(&self) -> String {
        let number = SAMPLES.iter().position(|sample| sample.id == self.id);
        format!("content {}", number.unwrap_or(usize::MAX))
    }
}

/// What a loss of power must not take.
#[derive(Clone, Default)]
struct Promises {
    /// By tenure.
    contents: BTreeMap<u64, Promise>,
    /// Tenures that were over before a flush that succeeded.
    gone: BTreeSet<u64>,
}

#[derive(Clone)]
struct Promise {
    sample: &'static Sample,
    place: u32,
    registry: String,
    /// It is what a reader of its registry finds.
    found_by_name: bool,
    /// As the last flush made it durable, if it has not changed since.
    pinned: Option<bool>,
    /// Piece, slot and durable blocks.
    pieces: Vec<(u32, SlotIndex, u8)>,
}

/// Records that the disk itself damaged, or did not read at this start, and whom that touches.
#[derive(Default)]
struct Blamed {
    places: Vec<u32>,
    slots: Vec<u32>,
    /// An older record of the same name may have come back to life.
    ids: Vec<crate::ContentId>,
}

impl Blamed {
    fn find(disk: &Disk, geometry: Geometry) -> Self {
        let mut found = Self::default();
        if disk.is_well(RECORDS) {
            return found;
        }
        for place in 0..geometry.contents() {
            let ranges = [Copy::A, Copy::B].map(|copy| {
                let start = geometry.content_offset(copy, place);
                start..start + CONTENT_RECORD_BYTES as u64
            });
            if ranges.iter().any(|range| disk.is_to_blame(RECORDS, range)) {
                found.places.push(place);
                for range in ranges {
                    let bytes: [u8; CONTENT_RECORD_BYTES] = disk.peek(RECORDS, range).try_into().unwrap();
                    let record = ContentRecord::decode(&bytes, place, STORE_ID);
                    found.ids.extend(record.map(|record| record.id));
                }
            }
        }
        for slot in 0..geometry.slots() {
            let ranges = [Copy::A, Copy::B].map(|copy| {
                let start = geometry.slot_offset(copy, slot);
                start..start + SLOT_RECORD_BYTES as u64
            });
            if ranges.iter().any(|range| disk.is_to_blame(RECORDS, range)) {
                found.slots.push(slot);
                for range in ranges {
                    let bytes: [u8; SLOT_RECORD_BYTES] = disk.peek(RECORDS, range).try_into().unwrap();
                    let record = SlotRecord::decode(&bytes, slot, STORE_ID);
                    found.ids.extend(record.map(|record| record.id));
                }
            }
        }
        found
    }

    fn excuses(&self, promise: &Promise) -> bool {
        self.places.contains(&promise.place) || self.ids.contains(&promise.sample.id)
    }
}

/// The store and those on it, as the disk calls them.
struct Stage {
    store: Store,
    disk: Disk,
    clients: RefCell<Clients>,
    /// What was promised when the power went.
    promises: RefCell<Option<Promises>>,
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
    fn promised(&self) -> Promises {
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
    fn not_durable(&self) -> BTreeMap<u32, (u32, u8)> {
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
    fn check_tenants(&self) -> Result<(), String> {
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

type Task<T> = Pin<Box<dyn Future<Output = T>>>;

/// Whoever reads and writes, with what they hold.
struct Clients {
    store: Store,
    disk: Disk,
    rng: Rng,
    temper: Temper,
    now: Duration,
    steps: u64,
    writing: Vec<(Brought, Task<Result<(), WriteError>>)>,
    reading: Vec<Reading>,
    reserved: Vec<Arc<Reservation>>,
    known: Vec<Arc<Content>>,
    held: Vec<Vec<Bytes>>,
    flushes: Vec<Flush>,
    gone: BTreeSet<u64>,
    newest_tenure: u64,
    /// By tenure: when it was set, and to what.
    pins: BTreeMap<u64, (u64, bool)>,
    durable_pins: BTreeMap<u64, bool>,
    writes: u64,
    reads: u64,
    violation: Option<String>,
    /// Nobody comes any more.
    left: bool,
}

struct Flush {
    /// Step in which it was asked for.
    since: u64,
    /// Tenures that were over by then.
    gone: BTreeSet<u64>,
    done: oneshot::Receiver<Result<(), FlushError>>,
}

/// What a writer brings.
#[derive(Clone, Copy)]
struct Brought {
    sample: &'static Sample,
    run: BlockRun,
    tenure: u64,
    registry: &'static str,
}

impl fmt::Display for Brought {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sample, run, tenure, registry } = self;
        write!(f, "write blocks {:?} of {}, tenure {tenure}, from {registry}", numbers(*run), sample.name())
    }
}

struct Reading {
    sample: &'static Sample,
    registry: RegistryScope,
    run: BlockRun,
    task: Task<Result<Vec<Bytes>, ReadError>>,
}

impl Clients {
    fn new(store: Store, disk: Disk, rng: Rng, temper: Temper, now: Duration) -> Self {
        Self {
            store,
            disk,
            rng,
            temper,
            now,
            steps: 0,
            writing: Vec::new(),
            reading: Vec::new(),
            reserved: Vec::new(),
            known: Vec::new(),
            held: Vec::new(),
            flushes: Vec::new(),
            gone: BTreeSet::new(),
            newest_tenure: 0,
            pins: BTreeMap::new(),
            durable_pins: BTreeMap::new(),
            writes: 0,
            reads: 0,
            violation: None,
            left: false,
        }
    }

    /// All go, and let go of what they hold. What the kernel has begun goes on.
    fn leave(&mut self) {
        self.left = true;
        self.writing.clear();
        self.reading.clear();
        self.reserved.clear();
        self.known.clear();
        self.held.clear();
        self.flushes.clear();
    }

    fn step(&mut self) {
        self.steps += 1;
        match self.rng.below(100) {
            0..8 => self.let_time_pass(),
            8..34 => self.write(),
            34..54 => self.read(),
            54..72 => self.disk.complete_one(),
            72..79 => self.let_go(),
            79..87 => self.hash(),
            87..90 => self.flush(),
            90..92 => self.pin(),
            92..94 => self.remove(),
            94..97 => self.forget_cached(),
            _ => self.disk_suffers(),
        }
        self.poll();
    }

    fn note(&self, line: impl FnOnce() -> String) {
        self.disk.note(line);
    }

    fn let_time_pass(&mut self) {
        let ms = [5, 60, 500, 1_000, 11_000, 400_000][self.rng.below(6)];
        self.now += Duration::from_millis(ms);
        self.note(|| format!("{ms} ms pass"));
        clock::simulated::set(Some(self.now));
    }

    fn sample(&mut self) -> &'static Sample {
        let count = if self.rng.chance(550) { 4 } else { SAMPLES.len() };
        &SAMPLES[self.rng.below(count)]
    }

    fn registry(&mut self) -> &'static str {
        if self.rng.chance(self.temper.lies) { LIAR } else { HONEST }
    }

    fn run_of(&mut self, sample: &Sample) -> BlockRun {
        let blocks = sample.layout.block_count();
        let first = self.rng.below(blocks as usize) as u32;
        let end = if self.rng.chance(400) { blocks } else { first + 1 };
        sample.layout.run(first, end).unwrap()
    }

    fn content(&mut self, sample: &'static Sample, registry: &str) -> Option<Arc<Content>> {
        // Some hold on to a content that others have replaced.
        if self.rng.chance(150)
            && let Some(known) = self.known.iter().find(|known| known.id() == sample.id)
        {
            return Some(known.clone());
        }
        let found = self.store.create(&sample.spec(registry))?;
        self.newest_tenure = self.newest_tenure.max(found.tenure);
        if self.rng.chance(200) {
            self.known.push(found.clone());
        }
        Some(found)
    }

    fn write(&mut self) {
        let (sample, registry) = (self.sample(), self.registry());
        let run = self.run_of(sample);
        let Some(content) = self.content(sample, registry) else { return };
        let store = self.store.clone();
        let what = Brought { sample, run, tenure: content.tenure, registry };
        let reserved = self.reserved.iter().position(|reserved| Arc::ptr_eq(reserved.content(), &content));
        let reservation = match reserved.filter(|_| self.rng.chance(500)) {
            Some(reserved) => self.reserved[reserved].clone(),
            None => match self.store.inner.try_reserve(&content, run) {
                Some(reservation) => Arc::new(reservation),
                None => {
                    self.note(|| format!("{what}: no room"));
                    return self.store.inner.keeper.want_room(run.pieces().count());
                }
            },
        };
        self.note(|| what.to_string());
        if self.rng.chance(150) {
            self.reserved.push(reservation.clone());
        }
        let blocks = run.blocks().map(|block| sample.block(registry, block).clone()).collect();
        let task = async move { store.write(&reservation, run.first(), blocks, registry).await };
        self.writing.push((what, Box::pin(task)));
        self.writes += 1;
    }

    fn read(&mut self) {
        let (sample, registry) = (self.sample(), self.registry());
        let scope = RegistryScope::of_origin(registry);
        let run = self.run_of(sample);
        let known = self.known.iter().find(|known| known.id() == sample.id).cloned();
        let known = known.filter(|_| self.rng.chance(150));
        let Some(content) = known.or_else(|| self.store.find(&sample.id, scope)) else { return };
        let copied = self.rng.chance(250);
        let store = self.store.clone();
        self.note(|| {
            format!(
                "read blocks {:?} of {}, tenure {}, for {registry}",
                numbers(run),
                sample.name(),
                content.tenure
            )
        });
        let task = async move {
            if copied {
                store.read_copied(&content, scope, run).await
            } else {
                store.read(&content, scope, run).await
            }
        };
        self.reading.push(Reading { sample, registry: scope, run, task: Box::pin(task) });
    }

    fn let_go(&mut self) {
        let rng = &mut self.rng;
        match rng.below(4) {
            0 if !self.held.is_empty() => drop(self.held.swap_remove(rng.below(self.held.len()))),
            1 if !self.reserved.is_empty() => drop(self.reserved.swap_remove(rng.below(self.reserved.len()))),
            2 if !self.known.is_empty() => drop(self.known.swap_remove(rng.below(self.known.len()))),
            3 if !self.writing.is_empty() && rng.chance(300) => {
                let (what, task) = self.writing.swap_remove(rng.below(self.writing.len()));
                drop(task);
                self.note(|| format!("nobody waits any more for: {what}"));
            }
            3 if !self.reading.is_empty() => drop(self.reading.swap_remove(rng.below(self.reading.len()))),
            _ => {}
        }
    }

    fn hash(&mut self) {
        if let Some(content) = self.store.inner.hasher.try_next() {
            crate::hasher::turn(&self.store.inner, &content);
            self.note(|| format!("hasher: tenure {} is {:?}", content.tenure, content.verification()));
        }
    }

    fn flush(&mut self) {
        self.note(|| "flush".into());
        let live: BTreeSet<u64> = self.store.contents().iter().map(|content| content.tenure).collect();
        self.flushes.push(Flush {
            since: self.steps,
            gone: (0..self.newest_tenure).filter(|tenure| !live.contains(tenure)).collect(),
            done: self.store.inner.keeper.flush(),
        });
    }

    fn some_content(&mut self) -> Option<Arc<Content>> {
        let contents = self.store.contents();
        self.rng.pick(&contents).cloned()
    }

    fn pin(&mut self) {
        let Some(content) = self.some_content() else { return };
        // Few at a time: with all pinned nothing happens any more.
        let pinned = !content.pinned() && self.store.contents().iter().filter(|one| one.pinned()).count() < 2;
        self.note(|| format!("pin of tenure {} becomes {pinned}", content.tenure));
        self.store.set_pinned(&content, pinned);
        self.durable_pins.remove(&content.tenure);
        self.pins.insert(content.tenure, (self.steps, pinned));
    }

    fn remove(&mut self) {
        let Some(content) = self.some_content() else { return };
        self.note(|| format!("remove tenure {}", content.tenure));
        self.store.remove(&content);
    }

    fn forget_cached(&mut self) {
        if self.rng.chance(100) {
            return self.disk.forget_cached(RECORDS, 0..self.store.inner.geometry.records_bytes());
        }
        let slot = self.rng.below(SLOTS as usize) as u32;
        let start = self.store.inner.geometry.offset_in_slab(slot);
        let file = slab_file(self.store.inner.geometry.slab_of(slot));
        self.disk.forget_cached(file, start..start + u64::from(PIECE_BYTES));
    }

    /// What happens to a disk at rest.
    fn disk_suffers(&mut self) {
        let geometry = self.store.inner.geometry;
        // Mostly where something is.
        let content = self.some_content().filter(|_| self.rng.chance(700));
        let slots: Vec<_> = content.iter().flat_map(|content| content.slots()).collect();
        let slot = self.rng.pick(&slots).map(|(_, slot)| slot.0);
        let slot = slot.unwrap_or_else(|| self.rng.below(SLOTS as usize) as u32);
        let copy = if self.rng.chance(500) { Copy::A } else { Copy::B };
        let (file, at) = if self.rng.chance(400) {
            (slab_file(geometry.slab_of(slot)), geometry.offset_in_slab(slot) + self.rng.below(300) as u64)
        } else if self.rng.chance(400) {
            (RECORDS, geometry.slot_offset(copy, slot) + self.rng.below(SLOT_RECORD_BYTES) as u64)
        } else {
            let place = content.map(|content| content.place);
            let place = place.unwrap_or_else(|| self.rng.below(geometry.contents().min(8) as usize) as u32);
            (RECORDS, geometry.content_offset(copy, place) + self.rng.below(CONTENT_RECORD_BYTES) as u64)
        };
        // The share of steps that come here is 3 %.
        let per_step = |odds: u32| odds * 1000 / 30;
        if self.rng.chance(per_step(self.temper.flips)) {
            self.disk.flip(file, at);
        } else if self.rng.chance(per_step(self.temper.bad_sectors)) {
            self.disk.spoil(file, at);
        } else if self.rng.chance(per_step(self.temper.cuts)) {
            let slab = self.rng.below(SLABS as usize) as u32;
            self.disk
                .cut(slab_file(slab), self.rng.below(SLOTS_PER_SLAB as usize * PIECE_BYTES as usize) as u64);
        }
    }

    /// Lets all go on that can.
    fn poll(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        let mut writing = std::mem::take(&mut self.writing);
        writing.retain_mut(|(what, task)| match task.as_mut().poll(&mut context) {
            Poll::Pending => true,
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(error)) => {
                self.note(|| format!("{what}: {error}"));
                false
            }
        });
        self.writing.append(&mut writing);
        let mut reading = std::mem::take(&mut self.reading);
        reading.retain_mut(|reading| match reading.task.as_mut().poll(&mut context) {
            Poll::Pending => true,
            Poll::Ready(result) => {
                self.read_ends(reading, result);
                false
            }
        });
        self.reading.append(&mut reading);
        let mut flushes = std::mem::take(&mut self.flushes);
        flushes.retain_mut(|flush| match flush.done.try_recv() {
            Ok(Ok(())) => {
                self.gone.append(&mut flush.gone);
                for (tenure, (set, pinned)) in &self.pins {
                    if *set <= flush.since {
                        self.durable_pins.insert(*tenure, *pinned);
                    }
                }
                false
            }
            Ok(Err(_)) | Err(oneshot::error::TryRecvError::Closed) => false,
            Err(oneshot::error::TryRecvError::Empty) => true,
        });
        self.flushes.append(&mut flushes);
    }

    fn read_ends(&mut self, reading: &Reading, result: Result<Vec<Bytes>, ReadError>) {
        let Ok(bytes) = result else { return };
        if self.disk.has_crashed() {
            return;
        }
        self.reads += 1;
        let flat;
        let mut rest: &[u8] = match &bytes[..] {
            [one] => one,
            several => {
                flat = several.concat();
                &flat
            }
        };
        for block in reading.run.blocks() {
            let length = reading.sample.layout.block_bytes(block) as usize;
            let Some((of_block, others)) = rest.split_at_checked(length) else {
                self.violation = Some(format!("{}: a read is short", reading.sample.name()));
                return;
            };
            if !reading.sample.may_be(reading.registry, block, of_block) {
                self.violation = Some(format!(
                    "wrong bytes of block {} of {} are served",
                    block.number(),
                    reading.sample.name()
                ));
                return;
            }
            rest = others;
        }
        if self.rng.chance(500) {
            self.held.push(bytes);
        }
    }
}

fn numbers(run: BlockRun) -> std::ops::RangeInclusive<u32> {
    run.first().number()..=run.last().number()
}
