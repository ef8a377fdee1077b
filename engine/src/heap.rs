//! Samples of who has allocated what of the heap, for a profile of it.
//!
//! [`SampledHeap`] is the system's allocator with one question before each call: is anybody sampling? Until [`start`] nobody is,
//! and the question is all that it costs. From then on each thread lets an allocation be a sample after so many bytes, on average
//! [`SAMPLED_EVERY_BYTES`] and by chance, so that no rhythm of the daemon's hides one from it. A sample is counted for the stack
//! that it was made from, and kept in mind until it is freed; [`stacks`] tells what each stack has allocated and what it has not
//! freed. What is freed is looked for only where a filter of counters says that it may be a sample.
//!
//! All of it is in tables of fixed size, which are no memory until they are used, since an allocator cannot allocate. A sample for
//! which there is no place is counted as lost. Allocations of C libraries, and mappings, are not seen.
//!
//! Deliberately elsewhere: names, scaling up, and the form of a profile.
#![allow(unsafe_code, reason = "an allocator; each block names its invariant")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Of allocated bytes; as Go's runtime and tcmalloc have it.
pub const SAMPLED_EVERY_BYTES: u64 = 512 << 10;
/// Of a stack, from its innermost frame on. What is farther out is not seen.
pub const FRAMES_MAX: usize = 64;
/// Different stacks that allocated a sample: 2 MiB with their addresses.
const STACKS_MAX: usize = 4 << 10;
/// Places for samples that are not freed yet, of which three in four are used: 6 GiB of heap.
const LIVE_PLACES: usize = 16 << 10;
const LIVE_MAX: usize = LIVE_PLACES / 4 * 3;
/// Counters of the filter: at the most one in five is not zero.
const FILTER_BITS: u32 = 16;

/// The system's allocator, sampled: for `#[global_allocator]`.
#[derive(Debug)]
pub struct SampledHeap;

/// What was allocated from one stack since sampling began. Only what was sampled is counted: each allocation of `n` bytes was with a
/// probability of 1 − e^(−n / [`SAMPLED_EVERY_BYTES`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeapStack {
    addresses: [u64; FRAMES_MAX],
    frames: usize,
    /// All of them.
    pub allocated: Amount,
    /// Those of them that were freed since.
    pub freed: Amount,
}

/// Sampled allocations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub objects: u64,
    /// Their sizes together.
    pub bytes: u64,
}

/// What sampling has seen so far.
#[derive(Debug, Default)]
pub struct HeapSamples {
    /// In no order.
    pub stacks: Vec<HeapStack>,
    /// Samples for which there was no place.
    pub lost: u64,
}

/// Somebody wants samples.
static ON: AtomicBool = AtomicBool::new(false);
static TABLES: Mutex<Tables> = Mutex::new(Tables::EMPTY);
/// How many live samples each address's hash has; at 255 a counter stays there.
static FILTER: [AtomicU8; 1 << FILTER_BITS] = [const { AtomicU8::new(0) }; 1 << FILTER_BITS];

thread_local! {
    /// Neither is dropped at a thread's end, so that they can be used to the very last allocation.
    static NEXT: Cell<Next> = const { Cell::new(Next { bytes: 0, random: 0 }) };
}

/// When the thread's next sample comes.
#[derive(Clone, Copy)]
struct Next {
    bytes: i64,
    /// 0: nothing has been drawn yet.
    random: u64,
}

/// Begins to sample; it does not end.
pub fn start() {
    ON.store(true, Ordering::Relaxed);
}

/// What is allocated by this thread meanwhile is no sample: profiles are not to be about themselves.
pub fn unseen<T>(work: impl FnOnce() -> T) -> T {
    let before = NEXT.with(|next| next.replace(Next { bytes: i64::MAX, random: 1 }));
    let outcome = work();
    NEXT.with(|next| next.set(before));
    outcome
}

/// What has been sampled since the start. Takes a few milliseconds at the most, for which threads that sample wait.
#[must_use]
pub fn stacks() -> HeapSamples {
    // Nothing may be allocated under the lock, for it might be a sample: so the place for all comes first.
    let mut stacks = Vec::with_capacity(STACKS_MAX);
    let tables = tables();
    stacks.extend_from_slice(&tables.stacks[..tables.stack_count]);
    let lost = tables.lost;
    drop(tables);
    HeapSamples { stacks, lost }
}

impl HeapStack {
    const EMPTY: Self = Self {
        addresses: [0; FRAMES_MAX],
        frames: 0,
        allocated: Amount { objects: 0, bytes: 0 },
        freed: Amount { objects: 0, bytes: 0 },
    };

    /// Within the call of each caller, innermost first: the allocator's, then that of whoever allocates.
    #[must_use]
    pub fn addresses(&self) -> &[u64] {
        &self.addresses[..self.frames]
    }

    /// What has not been freed yet.
    #[must_use]
    pub fn in_use(&self) -> Amount {
        let (allocated, freed) = (self.allocated, self.freed);
        Amount { objects: allocated.objects - freed.objects, bytes: allocated.bytes - freed.bytes }
    }

    /// The stack of this thread now, from the caller of [`sample`] on.
    #[inline(always)]
    fn here() -> Self {
        let (mut stack, mut is_outside) = (Self::EMPTY, false);
        // SAFETY: what must be kept from happening at once is the loading of the names' library on Windows; the walk itself only
        // reads tables and this thread's stack. It allocates nothing.
        unsafe {
            backtrace::trace_unsynchronized(|frame| {
                if is_outside {
                    // The address is that after the call.
                    stack.addresses[stack.frames] = (frame.ip().addr() as u64).saturating_sub(1);
                    stack.frames += 1;
                }
                is_outside |= frame.symbol_address().addr() == sample as fn(usize, u64) as usize;
                stack.frames < FRAMES_MAX
            });
        }
        stack
    }
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

// SAFETY: every call is passed on to the system's allocator as it came, and its answer back as it is.
unsafe impl GlobalAlloc for SampledHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        let memory = unsafe { System.alloc(layout) };
        allocated(memory, layout.size());
        memory
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let memory = unsafe { System.alloc_zeroed(layout) };
        allocated(memory, layout.size());
        memory
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // Before another thread can have the same address.
        freed(memory);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Of one that then cannot grow nothing is known any more; that is the process's end in nearly all cases.
        freed(memory);
        // SAFETY: as above.
        let memory = unsafe { System.realloc(memory, layout, size) };
        allocated(memory, size);
        memory
    }
}

#[inline]
fn allocated(memory: *mut u8, size: usize) {
    if ON.load(Ordering::Relaxed) && !memory.is_null() && is_sample(size) {
        sample(memory.addr(), size as u64);
    }
}

#[inline]
fn freed(memory: *mut u8) {
    if ON.load(Ordering::Relaxed) && filter(memory.addr()).load(Ordering::Relaxed) > 0 {
        // The thread that sampled it handed it to whoever frees it, so what it counted is seen.
        forget(memory.addr());
    }
}

#[inline]
fn is_sample(size: usize) -> bool {
    NEXT.with(|next| {
        let Next { bytes, random } = next.get();
        let left = bytes.saturating_sub(i64::try_from(size).unwrap_or(i64::MAX));
        if left >= 0 && random != 0 {
            next.set(Next { bytes: left, random });
            return false;
        }
        draw(next);
        // The first time, nothing has been waited for.
        random != 0
    })
}

/// Draws how many bytes later the next sample comes: on average [`SAMPLED_EVERY_BYTES`], and at each byte as likely as at every
/// other.
#[cold]
fn draw(next: &Cell<Next>) {
    // Xorshift (Marsaglia, 2003), from the address of the thread's own cell.
    let mut random = match next.get().random {
        0 => std::ptr::from_ref(next).addr() as u64 | 1,
        random => random,
    };
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    let part = (random >> 11) as f64 / (1_u64 << 53) as f64;
    let bytes = -(1.0 - part).ln() * SAMPLED_EVERY_BYTES as f64;
    next.set(Next { bytes: bytes as i64, random });
}

/// Not inlined, so that stacks have a frame of it.
#[cold]
#[inline(never)]
fn sample(address: usize, bytes: u64) {
    let stack = HeapStack::here();
    if tables().insert(address, bytes, &stack) {
        let count = |count: u8| Some(count.saturating_add(1));
        let _ = filter(address).fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
    }
}

#[cold]
fn forget(address: usize) {
    if tables().remove(address) {
        let count = |count: u8| (count < u8::MAX).then(|| count.saturating_sub(1));
        let _ = filter(address).fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
    }
}

/// No panic can happen while it is held, and no allocation.
fn tables() -> MutexGuard<'static, Tables> {
    TABLES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn filter(address: usize) -> &'static AtomicU8 {
    &FILTER[(spread(address as u64) >> (u64::BITS - FILTER_BITS)) as usize]
}

/// Neighbours in memory come far from each other: Fibonacci hashing.
fn spread(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The stacks, and the samples that are not freed yet.
struct Tables {
    stacks: [HeapStack; STACKS_MAX],
    stack_count: usize,
    /// By hash, one after its hash; 0: none. The number of a stack plus one.
    stack_places: [u32; 2 * STACKS_MAX],
    live: [Live; LIVE_PLACES],
    live_count: usize,
    lost: u64,
}

/// A sample that is not freed yet; the address 0 is of none.
#[derive(Clone, Copy)]
struct Live {
    address: usize,
    bytes: u64,
    stack: u32,
}

impl Live {
    const NONE: Self = Self { address: 0, bytes: 0, stack: 0 };
}

impl Tables {
    const EMPTY: Self = Self {
        stacks: [HeapStack::EMPTY; STACKS_MAX],
        stack_count: 0,
        stack_places: [0; 2 * STACKS_MAX],
        live: [Live::NONE; LIVE_PLACES],
        live_count: 0,
        lost: 0,
    };

    /// False when there is no place for it.
    fn insert(&mut self, address: usize, bytes: u64, stack: &HeapStack) -> bool {
        let known = (self.live_count < LIVE_MAX).then(|| self.stack(stack)).flatten();
        let Some(number) = known else {
            self.lost += 1;
            return false;
        };
        let mut place = home(address);
        while self.live[place].address != 0 {
            place = after(place);
        }
        self.live[place] = Live { address, bytes, stack: number };
        self.live_count += 1;
        self.stacks[number as usize].allocated.add(bytes);
        true
    }

    /// The number of that stack, which is new or not.
    fn stack(&mut self, stack: &HeapStack) -> Option<u32> {
        let hash = stack.addresses().iter().fold(0, |hash, address| spread(hash ^ *address));
        let mut place = (hash >> 32) as usize % self.stack_places.len();
        while let Some(number) = self.stack_places[place].checked_sub(1) {
            if self.stacks[number as usize].addresses() == stack.addresses() {
                return Some(number);
            }
            place = (place + 1) % self.stack_places.len();
        }
        if self.stack_count == STACKS_MAX {
            return None;
        }
        let number = self.stack_count as u32;
        self.stacks[self.stack_count] = *stack;
        self.stack_count += 1;
        self.stack_places[place] = number + 1;
        Some(number)
    }

    /// False when it is no sample.
    fn remove(&mut self, address: usize) -> bool {
        let mut hole = home(address);
        while self.live[hole].address != address {
            if self.live[hole].address == 0 {
                return false;
            }
            hole = after(hole);
        }
        let Live { bytes, stack, .. } = self.live[hole];
        self.stacks[stack as usize].freed.add(bytes);
        self.live_count -= 1;
        // Those behind that could not have their own places move up, so that none is behind a hole.
        let mut place = after(hole);
        while self.live[place].address != 0 {
            let from_home = place.wrapping_sub(home(self.live[place].address)) % LIVE_PLACES;
            if from_home >= place.wrapping_sub(hole) % LIVE_PLACES {
                self.live[hole] = self.live[place];
                hole = place;
            }
            place = after(place);
        }
        self.live[hole] = Live::NONE;
        true
    }
}

/// Where an address is in the table, unless that place is another's.
fn home(address: usize) -> usize {
    (spread(address as u64) >> 40) as usize % LIVE_PLACES
}

fn after(place: usize) -> usize {
    (place + 1) % LIVE_PLACES
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn empty() -> Box<Tables> {
        // SAFETY: all zeros is the empty one; on a test's stack it would not find room.
        unsafe { Box::<Tables>::new_zeroed().assume_init() }
    }

    fn of(address: u64) -> HeapStack {
        let mut stack = HeapStack { frames: 2, ..HeapStack::EMPTY };
        stack.addresses[..2].copy_from_slice(&[address, 7]);
        stack
    }

    #[test]
    fn samples_beyond_the_places_are_lost_and_no_more() {
        let mut tables = empty();
        for address in 1..=LIVE_MAX + 5 {
            assert_eq!(tables.insert(address << 4, 10, &of(1)), address <= LIVE_MAX);
        }
        assert_eq!((tables.live_count, tables.lost, tables.stack_count), (LIVE_MAX, 5, 1));
        for address in 1..=LIVE_MAX + 5 {
            assert_eq!(tables.remove(address << 4), address <= LIVE_MAX);
        }
        assert!(tables.live.iter().all(|live| live.address == 0));
        let all = Amount { objects: LIVE_MAX as u64, bytes: 10 * LIVE_MAX as u64 };
        assert_eq!((tables.stacks[0].allocated, tables.stacks[0].freed), (all, all));
    }

    #[test]
    fn stacks_beyond_the_places_are_lost_and_no_more() {
        let mut tables = empty();
        for stack in 0..STACKS_MAX as u64 + 3 {
            let held = tables.insert(16, 1, &of(stack)) && tables.remove(16);
            assert_eq!(held, stack < STACKS_MAX as u64);
        }
        assert!(tables.insert(16, 1, &of(9)), "one that is known has its place");
        assert_eq!((tables.stack_count, tables.lost), (STACKS_MAX, 3));
        assert_eq!(tables.stacks[9].allocated, Amount { objects: 2, bytes: 2 });
    }

    proptest! {
        /// Whatever comes and goes, in whatever order: the table knows what a map would.
        #[test]
        fn what_is_not_freed_is_known(steps in prop::collection::vec((0_usize..300, 1_u64..100), 0..2_000)) {
            // Places that many addresses want: their homes are next to each other.
            let mut homes: Vec<usize> = (1..200_000).map(|number| number << 4).filter(|at| home(*at) < 40).collect();
            homes.truncate(300);
            let (mut tables, mut model) = (empty(), HashMap::new());
            for (at, bytes) in steps {
                let address = homes[at % homes.len()];
                match model.remove(&address) {
                    Some(_) => prop_assert!(tables.remove(address)),
                    None => {
                        prop_assert!(!tables.remove(address));
                        prop_assert!(tables.insert(address, bytes, &of(bytes % 3)));
                        model.insert(address, bytes);
                    }
                }
            }
            let stacks = &tables.stacks[..tables.stack_count];
            let left = stacks.iter().map(|stack| stack.allocated.bytes - stack.freed.bytes).sum::<u64>();
            prop_assert_eq!(left, model.values().sum::<u64>());
            prop_assert_eq!(tables.live_count, model.len());
            for address in model.into_keys() {
                prop_assert!(tables.remove(address));
            }
        }
    }

    #[test]
    fn on_average_one_in_so_many_bytes_is_a_sample() {
        const BYTES: usize = 1_000;
        let wanted = 2_000 * SAMPLED_EVERY_BYTES as usize / BYTES;
        let samples = (0..wanted).filter(|_| is_sample(BYTES)).count();
        // Five standard deviations of a Poisson distribution.
        assert!((1_776..2_224).contains(&samples), "{samples} of 2000");
        assert!(is_sample(usize::MAX), "what is so large is one");
    }
}
