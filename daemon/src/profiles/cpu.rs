//! A profile of processor time is taken: samples are unwound and counted as they come, and named at the end.
//!
//! On a thread of its own, which sleeps most of the time; the shards notice no more than a signal now and then.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use darter_engine::sampler::{Sampler, SamplerError, give_back_heap};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::modules::Modules;
use super::pprof::{Named, Place, Profile, Stack};

/// Samples do not wait for longer.
const TAKE_EVERY: Duration = Duration::from_millis(10);
/// Different stacks of a profile. Of at most 128 addresses each: 16 MiB.
const STACKS_MAX: usize = 16 << 10;

/// For how long, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) duration: Duration,
    /// Samples in a second of processor time.
    pub(super) hz: u32,
}

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoProfile {
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    #[error("what this process has mapped cannot be read: {0}")]
    Maps(io::Error),
    #[error("nobody waits for it any more")]
    Left,
}

/// What has been seen.
#[derive(Default)]
struct Seen {
    /// How often each stack of each thread.
    stacks: HashMap<(u32, Vec<u64>), u64>,
    threads: HashMap<u32, String>,
    /// For want of room.
    dropped: u64,
}

/// Takes one, and returns it as `go tool pprof` reads it, compressed. Blocks for that long; ends early when `left` says that
/// nobody waits.
pub(super) fn take(asked: Asked, left: &AtomicBool) -> Result<Vec<u8>, NoProfile> {
    let taken = take_and_name(asked, left);
    // Symbols of a whole binary are large, and the next profile is far.
    backtrace::clear_symbol_cache();
    give_back_heap();
    taken
}

fn take_and_name(asked: Asked, left: &AtomicBool) -> Result<Vec<u8>, NoProfile> {
    // Before the first sample, since this is work.
    let mut modules = Modules::of_this_process().map_err(NoProfile::Maps)?;
    let begun_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut seen = Seen::default();
    let (begun, mut sampler) = (Instant::now(), Sampler::start(asked.hz)?);
    let mut missed = 0;
    while begun.elapsed() < asked.duration {
        if left.load(Ordering::Relaxed) {
            return Err(NoProfile::Left);
        }
        #[expect(clippy::disallowed_methods, reason = "a profile has a thread of its own")]
        thread::sleep(TAKE_EVERY);
        sampler.take(|sample| seen.count(sample.thread, modules.unwind(sample)));
        missed = sampler.missed();
    }
    drop(sampler);
    let period_ns = 1_000_000_000 / u64::from(asked.hz);
    let (begun_at_ns, duration_ns) = (in_ns(begun_at), in_ns(begun.elapsed()));
    let profile = Profile { begun_at_ns, duration_ns, period_ns, ..seen.named(&modules, missed) };
    let mut compressed = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to a Vec does not fail.
    let _ = compressed.write_all(&profile.encoded());
    Ok(compressed.finish().unwrap_or_default())
}

fn in_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Seen {
    fn count(&mut self, thread: u32, addresses: Vec<u64>) {
        self.threads.entry(thread).or_insert_with(|| thread_name(thread));
        let room = self.stacks.len() < STACKS_MAX;
        match self.stacks.get_mut(&(thread, addresses.clone())) {
            Some(count) => *count += 1,
            None if room => {
                self.stacks.insert((thread, addresses), 1);
            }
            None => self.dropped += 1,
        }
    }

    /// With the names of functions where this binary has symbols.
    fn named(self, modules: &Modules, missed: u64) -> Profile {
        let mut places = Vec::new();
        let mut known: HashMap<u64, usize> = HashMap::new();
        let mut stacks = Vec::with_capacity(self.stacks.len());
        for ((thread, addresses), count) in self.stacks {
            let numbers = addresses.into_iter().map(|address| {
                *known.entry(address).or_insert_with(|| {
                    let mapping = modules.mapping(address);
                    places.push(Place { address, mapping, functions: functions(address) });
                    places.len() - 1
                })
            });
            let places = numbers.collect();
            let thread = self.threads.get(&thread).cloned().unwrap_or_default();
            stacks.push(Stack { thread, count, places });
        }
        let lost = missed + self.dropped;
        let comment =
            format!("darter {}; {lost} samples for which there was no room", env!("CARGO_PKG_VERSION"));
        Profile { mappings: modules.mappings.clone(), places, stacks, comment, ..Profile::default() }
    }
}

/// Innermost first; the last one is the function that the others were inlined into.
fn functions(address: u64) -> Vec<Named> {
    let mut functions = Vec::new();
    let address = std::ptr::without_provenance_mut(usize::try_from(address).unwrap_or(0));
    backtrace::resolve(address, |symbol| {
        let Some(name) = symbol.name() else { return };
        let file = symbol.filename().map(|file| file.display().to_string()).unwrap_or_default();
        functions.push(Named {
            // Without the hash.
            name: format!("{name:#}"),
            file,
            line: symbol.lineno().unwrap_or(0),
        });
    });
    functions
}

/// What the thread is called now; one that has ended has only its number.
fn thread_name(thread: u32) -> String {
    match fs::read_to_string(format!("/proc/self/task/{thread}/comm")) {
        Ok(name) => name.trim_end().to_owned(),
        Err(_) => thread.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_counted_and_have_a_bound() {
        let mut seen = Seen::default();
        for address in 0..STACKS_MAX as u64 + 3 {
            seen.count(1, vec![address]);
        }
        seen.count(1, vec![0]);
        assert_eq!((seen.stacks.len(), seen.dropped), (STACKS_MAX, 3));
        assert_eq!(seen.stacks[&(1, vec![0])], 2);
    }

    #[inline(never)]
    fn a_function_of_this_test() -> u64 {
        std::hint::black_box(7)
    }

    #[test]
    fn a_function_has_its_name() {
        let address = a_function_of_this_test as fn() -> u64 as usize as u64 + 1;
        assert_eq!(a_function_of_this_test(), 7);
        let names: Vec<_> = functions(address).into_iter().map(|function| function.name).collect();
        assert!(names.iter().any(|name| name.ends_with("a_function_of_this_test")), "{names:?}");
    }
}
