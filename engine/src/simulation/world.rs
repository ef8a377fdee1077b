//! A small store through its lives: each begins on what the one before has left.

use std::cell::RefCell;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::clients::Clients;
use super::disk::{Disk, set_director};
use super::lived::Lived;
use super::promises::Promises;
use super::recovered::Recovered;
use super::rng::Rng;
use super::shape::{RECORDS, SLABS, SLOTS, SLOTS_PER_SLAB, STORE_ID, slab_file};
use super::stage::Stage;
use super::temper::Temper;
use crate::clock;
use crate::device::Device;
use crate::directory::Directory;
use crate::format::{Geometry, HEADER_BYTES, Header, SESSION_OFFSET, Session};
use crate::keeper::Keeper;
use crate::layout::PIECE_BYTES;
use crate::ring::Backend;
use crate::slab::Slab;
use crate::slot::{SlotIndex, SlotState};
use crate::store::{Store, StoreOptions};

/// What went wrong in a world, and how it came to that.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) what: String,
    pub(super) trace: Vec<String>,
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

impl World {
    fn new(seed: u64, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let geometry = Geometry::tiny(SLOTS, 20 + rng.below(16) as u32, SLOTS_PER_SLAB);
        let (temper, odds) = Temper::by_chance(&mut rng);
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
        Recovered::new(&store, &self.disk).check(promises, &mut self.lived)?;
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
}
