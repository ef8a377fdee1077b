//! Whoever reads and writes on a store, step by step.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::disk::Disk;
use super::rng::Rng;
use super::samples::{HONEST, LIAR, SAMPLES, Sample};
use super::shape::{RECORDS, SLABS, SLOTS, SLOTS_PER_SLAB, slab_file};
use super::temper::Temper;
use crate::clock;
use crate::content::Content;
use crate::content_id::RegistryScope;
use crate::format::{CONTENT_RECORD_BYTES, Copy, SLOT_RECORD_BYTES};
use crate::hashed_block::HashedBlock;
use crate::layout::{BlockRun, PIECE_BYTES};
use crate::store::{FlushError, ReadError, Reservation, Store, Touch, WriteError};

type Task<T> = Pin<Box<dyn Future<Output = T>>>;

/// Whoever reads and writes, with what they hold.
pub(super) struct Clients {
    store: Store,
    disk: Disk,
    pub(super) rng: Rng,
    temper: Temper,
    pub(super) now: Duration,
    steps: u64,
    writing: Vec<(Brought, Task<Result<(), WriteError>>)>,
    reading: Vec<Reading>,
    reserved: Vec<Arc<Reservation>>,
    known: Vec<Arc<Content>>,
    held: Vec<Vec<Bytes>>,
    flushes: Vec<Flush>,
    pub(super) gone: BTreeSet<u64>,
    newest_tenure: u64,
    /// By tenure: when it was set, and to what.
    pins: BTreeMap<u64, (u64, bool)>,
    pub(super) durable_pins: BTreeMap<u64, bool>,
    pub(super) writes: u64,
    pub(super) reads: u64,
    pub(super) violation: Option<String>,
    /// Nobody comes any more.
    pub(super) left: bool,
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
    pub(super) fn new(store: Store, disk: Disk, rng: Rng, temper: Temper, now: Duration) -> Self {
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
    pub(super) fn leave(&mut self) {
        self.left = true;
        self.writing.clear();
        self.reading.clear();
        self.reserved.clear();
        self.known.clear();
        self.held.clear();
        self.flushes.clear();
    }

    pub(super) fn step(&mut self) {
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
        let blocks =
            run.blocks().map(|block| HashedBlock::new(sample.block(registry, block).clone())).collect();
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
                store.read_copied(&content, scope, run, Touch::Ignored).await
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
