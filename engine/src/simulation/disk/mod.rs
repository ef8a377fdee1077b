//! A disk by seed, with the page cache before it.
//!
//! Each file is there twice: what reads find (`view`: the page cache, and the disk where a page is not in it) and what
//! a loss of power leaves (`disk`). A write changes the view and waits among the unsynced; a sync that succeeds brings
//! those that were there when it began to the disk. A crash brings any part of them there, sector by sector and in any
//! order, and so it does with writes that are still in flight. After a sync that fails any part of them is there, and
//! the rest counts as written: the next sync succeeds, and the page cache may forget it at any time.
//!
//! Faults are by chance. What the disk itself did to bytes at rest, or to a read, is noted exactly: that and nothing
//! else excuses what is lost.
//!
//! A blocking call is where others get their turn ([`Director::interleave`]): while the keeper waits for a sync,
//! clients go on.

mod director;
mod file;
mod memory;
mod operation;
mod simulated_file;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;

use self::director::director;
use self::file::{FileState, Unsynced};
use self::operation::{InFlight, Outcome, Ticket, Work};
use super::rng::Rng;

pub(super) use self::director::{Director, set_director};
pub(crate) use self::operation::{read, write};
pub(crate) use self::simulated_file::SimulatedFile;

const PAGE_BYTES: usize = 4096;

/// How often the disk does what it should not, in 1000.
#[derive(Clone, Debug, Default)]
pub(super) struct Odds {
    pub(super) sync_fails: u32,
    pub(super) write_fails: u32,
    pub(super) read_fails: u32,
    pub(super) read_flips: u32,
    pub(super) mapping_fails: u32,
    /// Of blocking calls during which others get a turn.
    pub(super) interleaves: u32,
}

/// The disk; cheap to clone.
#[derive(Clone)]
pub(super) struct Disk {
    state: Arc<Mutex<State>>,
}

struct State {
    rng: Rng,
    odds: Odds,
    files: Vec<FileState>,
    in_flight: Vec<InFlight>,
    /// Tickets of operations that somebody waits for.
    waiting: BTreeSet<u64>,
    results: BTreeMap<u64, Outcome>,
    next_ticket: u64,
    /// Operations until the power goes.
    crash_in: Option<u64>,
    crashed: bool,
    /// Files, and what was not synced by then.
    failed_syncs: Vec<(usize, Vec<Range<u64>>)>,
    violation: Option<String>,
    trace: Option<Vec<String>>,
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl Disk {
    /// Files of zeros; the first is read at starts only.
    pub(super) fn new(seed: u64, odds: Odds, lengths: &[u64], traced: bool) -> Self {
        let file = |(number, length): (usize, &u64)| FileState::new(*length, number == 0);
        let files = lengths.iter().enumerate().map(file).collect();
        let state = State {
            rng: Rng::new(seed),
            odds,
            files,
            in_flight: Vec::new(),
            waiting: BTreeSet::new(),
            results: BTreeMap::new(),
            next_ticket: 0,
            crash_in: None,
            crashed: false,
            failed_syncs: Vec::new(),
            violation: None,
            trace: traced.then(Vec::new),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    pub(super) fn file(&self, number: usize) -> SimulatedFile {
        SimulatedFile { disk: self.clone(), number }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line to the trace, if there is one.
    pub(super) fn note(&self, line: impl FnOnce() -> String) {
        self.state().note(line);
    }

    pub(super) fn take_trace(&self) -> Vec<String> {
        self.state().trace.take().unwrap_or_default()
    }

    /// What the disk itself saw that must not be.
    pub(super) fn violation(&self) -> Option<String> {
        self.state().violation.clone()
    }

    pub(super) fn has_crashed(&self) -> bool {
        self.state().crashed
    }

    /// The power goes before the `operations`th operation from now.
    pub(super) fn crash_in(&self, operations: u64) {
        self.state().crash_in = Some(operations);
    }

    /// Files whose syncs have failed since it was asked last.
    pub(super) fn take_failed_syncs(&self) -> Vec<(usize, Vec<Range<u64>>)> {
        std::mem::take(&mut self.state().failed_syncs)
    }

    /// The power goes now, if it has not gone. What operations do from here on reaches nothing.
    pub(super) fn crash(&self) {
        if self.has_crashed() {
            return;
        }
        if let Some(director) = director() {
            director.before_crash();
        }
        let mut state = self.state();
        state.note(|| "power goes".into());
        state.crashed = true;
        let State { rng, files, in_flight, .. } = &mut *state;
        for operation in in_flight.iter() {
            if let Work::Write { bytes, .. } = &operation.work {
                let mut offset = operation.offset;
                for part in bytes {
                    files[operation.file].unsynced.push(Unsynced { offset, bytes: part.clone() });
                    offset += part.len() as u64;
                }
            }
        }
        for file in files {
            let unsynced = std::mem::take(&mut file.unsynced);
            // Often all or nothing of what is there: what lies between is the rest.
            let luck = [0, 1000, 500, 100, 900][rng.below(5)];
            unsynced.iter().for_each(|write| file.persist_in_part(write, luck, rng));
        }
    }

    /// A new life on what is left. What was written in the old one is dropped before.
    pub(super) fn restart(&self) {
        let (in_flight, results) = {
            let mut state = self.state();
            state.crashed = false;
            state.crash_in = None;
            for file in &mut state.files {
                file.restart();
            }
            (std::mem::take(&mut state.in_flight), std::mem::take(&mut state.results))
        };
        drop((in_flight, results));
    }

    /// A restart of the process alone: what was written is in the page cache still. What is in flight is not: a process
    /// ends, and its lock with it, when the kernel is done with its operations.
    pub(super) fn reopen(&self) {
        let left = {
            let state = &mut *self.state();
            state.crash_in = None;
            state.files.iter_mut().for_each(FileState::reopen);
            (std::mem::take(&mut state.in_flight), std::mem::take(&mut state.results))
        };
        drop(left);
    }

    /// Whether the disk damaged a byte of that range, or a read of it in this life.
    pub(super) fn is_to_blame(&self, file: usize, range: &Range<u64>) -> bool {
        let state = self.state();
        let file = &state.files[file];
        [&file.damaged, &file.bad, &file.misread].iter().any(|all| all.iter().any(|one| overlap(one, range)))
    }

    /// Whether the disk damaged nothing in that file, and read all of it.
    pub(super) fn is_well(&self, file: usize) -> bool {
        let state = self.state();
        let file = &state.files[file];
        file.damaged.is_empty() && file.bad.is_empty() && file.misread.is_empty()
    }

    /// What a read would find if no fault came in between.
    pub(super) fn peek(&self, file: usize, range: Range<u64>) -> Vec<u8> {
        self.state().files[file].view.bytes[range.start as usize..range.end as usize].to_vec()
    }

    pub(super) fn operations_in_flight(&self) -> usize {
        self.state().in_flight.len()
    }

    /// Ends one operation that is in flight.
    pub(super) fn complete_one(&self) {
        let InFlight { ticket, file, offset, work } = {
            let state = &mut *self.state();
            if state.in_flight.is_empty() {
                return;
            }
            state.in_flight.swap_remove(state.rng.below(state.in_flight.len()))
        };
        self.count_operation();
        let (outcome, guard) = match work {
            Work::Write { bytes, guard } => {
                (Outcome::Wrote(self.state().write_parts(file, offset, &bytes)), guard)
            }
            Work::Read { bytes, mut buffers, guard } => {
                let mut left = bytes;
                let mut at = offset;
                let mut result = Ok(());
                let mut state = self.state();
                for buffer in &mut buffers {
                    let part = left.min(buffer.as_ref().len());
                    result = result.and_then(|()| state.read(file, at, &mut buffer.as_mut_slice()[..part]));
                    left -= part;
                    at += part as u64;
                }
                (Outcome::Read(result.map(|()| buffers)), guard)
            }
        };
        let unheard = {
            let mut state = self.state();
            if state.waiting.remove(&ticket) { state.results.insert(ticket, outcome) } else { Some(outcome) }
        };
        drop((unheard, guard));
    }

    fn submit(&self, file: usize, offset: u64, work: Work) -> Ticket {
        let mut state = self.state();
        let ticket = state.next_ticket;
        let what = if matches!(work, Work::Write { .. }) { "write" } else { "read" };
        state.note(|| format!("  {what} {ticket} begins at {offset} of file {file}"));
        state.next_ticket += 1;
        state.in_flight.push(InFlight { ticket, file, offset, work });
        state.waiting.insert(ticket);
        Ticket { disk: self.clone(), number: ticket }
    }

    /// One operation begins: perhaps the power goes before it.
    fn count_operation(&self) {
        let crash = {
            let mut state = self.state();
            match &mut state.crash_in {
                Some(0) => true,
                Some(left) => {
                    *left -= 1;
                    false
                }
                None => false,
            }
        };
        if crash {
            self.crash();
        }
    }

    fn maybe_interleave(&self) {
        let turn = {
            let state = &mut *self.state();
            !state.crashed && state.rng.chance(state.odds.interleaves)
        };
        if turn && let Some(director) = director() {
            director.interleave();
        }
    }

    /// Pages that hold what the disk holds leave the page cache.
    pub(super) fn forget_cached(&self, file: usize, range: Range<u64>) {
        let mut state = self.state();
        state.note(|| format!("the page cache lets go of file {file} {range:?}"));
        state.files[file].forget_cached(range);
    }

    /// Flips a bit of what is on the disk there.
    pub(super) fn flip(&self, file: usize, at: u64) {
        let mut state = self.state();
        let bit = state.rng.below(8);
        state.note(|| format!("bit {bit} of byte {at} of file {file} flips"));
        let file = &mut state.files[file];
        file.disk.bytes[at as usize] ^= 1 << bit;
        file.disk.touch(at..at + 1);
        file.damaged.push(at..at + 1);
        let page = at as usize / PAGE_BYTES;
        if !file.cached[page] {
            file.refresh(page);
        }
    }

    /// That page cannot be read any more, until it is written as a whole.
    pub(super) fn spoil(&self, file: usize, at: u64) {
        let mut state = self.state();
        let first = at / PAGE_BYTES as u64 * PAGE_BYTES as u64;
        state.note(|| format!("the page at {first} of file {file} goes bad"));
        state.files[file].bad.push(first..first + PAGE_BYTES as u64);
    }

    /// Somebody cuts the file short.
    pub(super) fn cut(&self, file: usize, length: u64) {
        let mut state = self.state();
        state.note(|| format!("file {file} is cut to {length} bytes"));
        state.files[file].cut(length);
    }
}

impl State {
    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    fn write_parts(&mut self, file: usize, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        if self.crashed {
            return Ok(());
        }
        let fails = self.rng.chance(self.odds.write_fails);
        let until = if fails { self.rng.below(parts.len() + 1) } else { parts.len() };
        let mut at = offset;
        for bytes in &parts[..until] {
            let range = at..at + bytes.len() as u64;
            if self.files[file].needs_what_cannot_be_read(&range) {
                self.note(|| {
                    format!("  disk: a page of {range:?} of file {file} cannot be read for a write")
                });
                return Err(eio());
            }
            self.write(file, at, bytes.clone());
            at = range.end;
        }
        let bytes: usize = parts.iter().map(Bytes::len).sum();
        self.note(|| {
            format!("  disk: {bytes} bytes to file {file} at {offset}{}", if fails { " FAIL" } else { "" })
        });
        if fails { Err(eio()) } else { Ok(()) }
    }

    fn write(&mut self, number: usize, offset: u64, bytes: Bytes) {
        let file = &mut self.files[number];
        let range = offset..offset + bytes.len() as u64;
        file.lent.retain(|lent| lent.strong_count() > 0);
        let meets = |lent: &Weak<Range<u64>>| lent.upgrade().filter(|lent| overlap(lent, &range));
        if let Some(lent) = file.lent.iter().find_map(meets) {
            self.violation.get_or_insert_with(|| {
                format!("bytes {range:?} of file {number} are written while {lent:?} are lent to somebody")
            });
        }
        file.length = file.length.max(range.end);
        file.view.write(offset, &bytes);
        file.cached[pages(&range)].fill(true);
        file.unsynced.push(Unsynced { offset, bytes });
    }

    fn read(&mut self, number: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let range = offset..offset + buffer.len() as u64;
        let file = &mut self.files[number];
        if self.crashed {
            return Err(eio());
        }
        if range.end > file.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !file.cached[pages(&range)].iter().all(|cached| *cached) {
            if file.bad.iter().any(|bad| overlap(bad, &range)) {
                if buffer.len() <= PAGE_BYTES {
                    file.misread.push(range.clone());
                }
                self.note(|| format!("  disk: {range:?} of file {number} cannot be read"));
                return Err(eio());
            }
            if self.rng.chance(self.odds.read_fails) {
                // What is longer is asked for again, page by page.
                if buffer.len() <= PAGE_BYTES {
                    file.misread.push(range.clone());
                }
                self.note(|| format!("  disk: a read of {range:?} of file {number} fails once"));
                return Err(eio());
            }
            if self.rng.chance(self.odds.read_flips) {
                let at = offset + self.rng.below(buffer.len()) as u64;
                let page = at as usize / PAGE_BYTES;
                if !file.cached[page] {
                    file.misread.push(at..at + 1);
                    file.view.bytes[at as usize] ^= 1 << self.rng.below(8);
                    file.view.touch(at..at + 1);
                    self.note(|| format!("  disk: byte {at} of file {number} is read with a flipped bit"));
                }
            }
        }
        let file = &mut self.files[number];
        file.cached[pages(&range)].fill(true);
        buffer.copy_from_slice(&file.view.bytes[range.start as usize..range.end as usize]);
        Ok(())
    }

    /// Ends a sync that found so many unsynced writes when it began.
    fn sync(&mut self, number: usize, covered: usize) -> io::Result<()> {
        if self.crashed {
            return Ok(());
        }
        let fails = self.rng.chance(self.odds.sync_fails);
        let file = &mut self.files[number];
        let covered: Vec<Unsynced> = file.unsynced.drain(..covered.min(file.unsynced.len())).collect();
        if !fails {
            covered.iter().for_each(|write| file.persist(write));
            self.note(|| format!("  disk: file {number} is synced, {} writes", covered.len()));
            return Ok(());
        }
        let luck = [0, 500, 1000][self.rng.below(3)];
        covered.iter().for_each(|write| file.persist_in_part(write, luck, &mut self.rng));
        // Clean by the kernel's word: some of it is forgotten at once, some later.
        for write in &covered {
            let range = write.range();
            if self.rng.chance(500) {
                file.forget_cached(range);
            }
        }
        self.failed_syncs.push((number, covered.iter().map(Unsynced::range).collect()));
        self.note(|| format!("  disk: a sync of file {number} FAILS, {} writes", covered.len()));
        Err(eio())
    }
}

fn pages(range: &Range<u64>) -> Range<usize> {
    range.start as usize / PAGE_BYTES..(range.end as usize).div_ceil(PAGE_BYTES)
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}
