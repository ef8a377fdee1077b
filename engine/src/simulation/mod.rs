//! The store on a disk that does everything that a disk may do, by seed.
//!
//! What runs is the engine itself: the write path, the keeper's passes, records, eviction, the hasher, and what a start
//! makes of the records. It runs on one thread, stepped by chance: [`disk`] tears, drops, delays and reorders what is
//! not synced, fails and flips; [`clients`] read and write; [`world`] ends lives by loss of power at any operation, by a
//! kill or by a clean stop, begins the next one on what is left, and checks after each step that
//!
//! 1. a block is served only if its bytes are right, and other registries' unverified bytes never are;
//! 2. what was reported durable is found after a crash, unless the disk itself damaged it;
//! 3. what recovery believes in is on the disk, unless the disk itself damaged it;
//! 4. no slot has two tenants: nothing is written where bytes are lent, no free slot is held, no slot is in two tables;
//! 5. a failed sync of a slab gives up what was written since the last good one and takes the slab out of service;
//! 6. nothing panics, and in the end no lease and no buffer is left.
//!
//! A seed that fails is printed with the command that runs it again and with what happened. `docs/testing.md` says how
//! to run many.

mod blamed;
mod clients;
mod disk;
mod lived;
mod promises;
mod recovered;
mod rng;
mod samples;
mod shape;
mod stage;
mod temper;
mod world;

pub(crate) use disk::{SimulatedFile, read, write};

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lived::Lived;
use world::Failure;

/// Seeds of one run of the tests.
const SEEDS: u64 = 10_000;
const SEEDS_VARIABLE: &str = "DARTER_SIMULATE_SEEDS";
const SEED_VARIABLE: &str = "DARTER_SIMULATE_SEED";

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}

/// Runs the seeds on all cores. The first that fails ends the run.
fn run_all(first: u64, count: u64) -> (u64, Lived, Option<u64>) {
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let (ran, lived, failing) = (AtomicU64::new(0), Mutex::new(Lived::default()), Mutex::new(None::<u64>));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut sum = Lived::default();
                while !failed.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    let seed = first.wrapping_add(number);
                    ran.fetch_add(1, Ordering::Relaxed);
                    match world::run(seed, false) {
                        Ok(lived) => sum.add(&lived),
                        Err(_) => {
                            failed.store(true, Ordering::Relaxed);
                            failing.lock().unwrap().get_or_insert(seed);
                        }
                    }
                }
                lived.lock().unwrap().add(&sum);
            });
        }
    });
    (ran.into_inner(), lived.into_inner().unwrap(), failing.into_inner().unwrap())
}

/// Runs a seed again with its trace, and ends the test with it.
fn tell(seed: u64, failure: &Failure) -> ! {
    for line in &failure.trace {
        eprintln!("{line}");
    }
    panic!(
        "seed {seed}: {}\nrun it again with\n    {SEED_VARIABLE}={seed} cargo test -p darter-engine --lib simulation::any_seed -- --nocapture",
        failure.what
    );
}

fn check(seed: u64) {
    if let Err(failure) = world::run(seed, true) {
        tell(seed, &failure);
    }
}

/// Other seeds each time, of a base that is printed.
#[test]
fn any_seed() {
    if let Some(seed) = number_from(SEED_VARIABLE) {
        match world::run(seed, true) {
            Ok(lived) => eprintln!("seed {seed} is well: {lived:?}"),
            Err(failure) => tell(seed, &failure),
        }
        return;
    }
    let count = number_from(SEEDS_VARIABLE).unwrap_or(SEEDS);
    let base = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) >> 1;
    let start = std::time::Instant::now();
    let (ran, lived, failing) = run_all(base, count);
    eprintln!("{ran} seeds from {base} in {:.1} s: {lived:?}", start.elapsed().as_secs_f64());
    if let Some(seed) = failing {
        check(seed);
        panic!("seed {seed} failed once and not again: something in it is not by seed");
    }
    assert!(count < SEEDS || lived.means_something(), "the simulation does too little: {lived:?}");
}

/// Seeds that found something once, and some that every run has in common.
#[test]
fn seeds_that_failed_once() {
    // Each failed when its rule was broken again.
    const FAILED_ONCE: [u64; 7] = [
        // A dropped content is back.
        9_197_798_629_570_517_989,
        // Records from the page cache after a failed sync.
        4_090_134_357_838_157_874,
        // A slot whose record is perhaps on disk goes to another.
        7_106_330_548_381_221_205,
        // A verdict is given back by a place that could be read.
        982_900_738_378_068_703,
        // Written beneath a reader.
        7_660_275_890_016_417_671,
        // A content that a start refused comes back.
        6_622_670_666_658_302_032,
        // A block is checked while two reads are under way, and the second brings other bytes.
        1_106_210_085_549_790_160,
    ];
    FAILED_ONCE.into_iter().chain(0..100).for_each(check);
}

/// What a seed does, it does again.
#[test]
fn a_seed_is_one_run() {
    for seed in [1, 2, 3, 4, 5] {
        assert_eq!(world::trace_of(seed), world::trace_of(seed), "seed {seed}");
    }
}
