//! A profile of the heap: what was allocated since the start and what of it is there, by the stacks that allocated it.

use std::time::{SystemTime, UNIX_EPOCH};

use darter_engine::heap::{self, Amount, SAMPLED_EVERY_BYTES};
use darter_engine::sampler::give_back_heap;

use super::cpu::{NoProfile, in_ns};
use super::modules::Modules;
use super::places::{Places, comment};
use super::pprof::{Kind, Profile, Stack};

/// As Go's heap profile has them.
const KINDS: [Kind; 4] = [
    ("alloc_objects", "count"),
    ("alloc_space", "bytes"),
    ("inuse_objects", "count"),
    ("inuse_space", "bytes"),
];

/// The profile as of now, as `go tool pprof` reads it, compressed. Blocks for as long as names take to be found: seconds in a debug
/// build.
pub(super) fn take() -> Result<Vec<u8>, NoProfile> {
    let begun_at_ns = in_ns(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    let samples = heap::stacks();
    let taken = Modules::of_this_process().map_err(NoProfile::Maps).map(|modules| {
        let mut places = Places::new(&modules);
        let stacks = samples.stacks.iter().map(|stack| {
            let (allocated, in_use) = (stack.allocated, stack.in_use());
            Stack {
                thread: String::new(),
                values: [scaled(allocated), scaled(in_use)].into_iter().flatten().collect(),
                places: places.of(stack.addresses()),
            }
        });
        Profile {
            kinds: KINDS.to_vec(),
            begun_at_ns,
            duration_ns: 0,
            period: (("space", "bytes"), SAMPLED_EVERY_BYTES),
            stacks: stacks.collect(),
            places: places.all,
            mappings: modules.mappings.clone(),
            comment: comment(samples.lost),
        }
        .compressed()
    });
    // As after a profile of processor time.
    backtrace::clear_symbol_cache();
    drop(samples);
    give_back_heap();
    taken
}

/// What the samples stand for: as many objects, and bytes, as were allocated to have so many sampled.
fn scaled(sampled: Amount) -> [u64; 2] {
    if sampled.objects == 0 {
        return [0, 0];
    }
    let size = sampled.bytes as f64 / sampled.objects as f64;
    let part = -f64::exp_m1(-size / SAMPLED_EVERY_BYTES as f64);
    // An allocation of no bytes is never sampled, nor is there one.
    let scale = if part > 0.0 { 1.0 / part } else { 1.0 };
    [sampled.objects, sampled.bytes].map(|amount| (amount as f64 * scale).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_stand_for_what_was_not_sampled() {
        let of = |objects, bytes| scaled(Amount { objects, bytes });
        assert_eq!(of(0, 0), [0, 0]);
        // A small one stands for what is allocated between two samples, a large one for itself.
        let [objects, bytes] = of(1, 1 << 10);
        assert_eq!((objects, bytes >> 10), (513, 512));
        assert_eq!(of(3, 300 << 20), [3, 300 << 20]);
    }
}
