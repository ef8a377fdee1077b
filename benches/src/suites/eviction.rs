//! What the eviction keeps: hit ratios of its queues beside LRU and beside the best choice there is, by accesses that
//! come again with their seed. Nothing here is timed.

use std::collections::{BTreeMap, BinaryHeap, HashMap};

use darter_engine::PIECE_BYTES;
use darter_engine::eviction::{Candidate, Resident, Residents, S3Fifo, SlotIndex};

use crate::measure::Measure;
use crate::report::Table;
use crate::rounds::Round;
use crate::setting::{SEED, Setting};
use crate::side::Side;
use crate::trace::{SMALL_READS, Trace};

/// Touches that the store counts of a piece.
const HEAT_MAX: u8 = 3;
const ACCESSES: usize = 2_000_000;
const QUICK_ACCESSES: usize = 100_000;
const PIECES: usize = 100_000;
const IMAGES: usize = 200;
/// After so many accesses comes a scan of a tenth as many pieces, never asked for again.
const SCAN_EVERY: usize = 100_000;
/// Every so many boots somebody pulls an image that nobody boots.
const PULL_EVERY: usize = 10;

/// One table.
pub(crate) fn run(setting: &Setting) -> anyhow::Result<Vec<Table>> {
    let accesses = if setting.quick { QUICK_ACCESSES } else { ACCESSES };
    let trace = Trace::boots()?.into_iter().find(|trace| trace.name == SMALL_READS);
    let mut table = Table::new(
        "Eviction",
        format!(
            "Hit ratios of the engine's queues, driven piece by piece. Zipf: {accesses} accesses to {PIECES} pieces; with \
             scans: after every {SCAN_EVERY} a tenth as many pieces that never come again. Boots: the pieces of nydusd \
             2.1.1's boot, of one of {IMAGES} images by Zipf (1.0) each time, and after every {PULL_EVERY} boots a whole \
             image that never comes again. The cache holds the part of all pieces that is named."
        ),
        &[Measure::HitPart],
    );
    let workloads = [
        ("Zipf 0.8", zipf(accesses, 0.8, false), PIECES),
        ("Zipf 1.0", zipf(accesses, 1.0, false), PIECES),
        ("Zipf 0.8 with scans", zipf(accesses, 0.8, true), PIECES),
        ("Zipf 1.0 with scans", zipf(accesses, 1.0, true), PIECES),
        boots(accesses, &trace.ok_or_else(|| anyhow::anyhow!("{SMALL_READS} is not there"))?),
    ];
    for (name, keys, all) in workloads {
        for percent in [1, 10, 30] {
            let slots = (all * percent / 100).max(64);
            let case = format!("{name}, {percent} %");
            eprintln!("  {case}");
            let hit_part =
                |hits: usize| Round::default().with(Measure::HitPart, hits as f64 / keys.len() as f64);
            table.add(&*case, Side::S3Fifo, hit_part(queues(&keys, slots)));
            table.add(&*case, Side::Lru, hit_part(lru(&keys, slots)));
            table.add(&*case, Side::Belady, hit_part(belady(&keys, slots)));
        }
    }
    Ok(vec![table])
}

/// A number below the length of `sums`, by its part of the last sum.
fn pick(sums: &[f64], random: &mut fastrand::Rng) -> usize {
    let at = random.f64() * sums.last().copied().unwrap_or_default();
    sums.partition_point(|sum| *sum <= at).min(sums.len().saturating_sub(1))
}

/// The sums of 1/rank^exponent.
fn zipf_sums(count: usize, exponent: f64) -> Vec<f64> {
    let weights = (1..=count).map(|rank| (rank as f64).powf(-exponent));
    weights
        .scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        })
        .collect()
}

fn zipf(accesses: usize, exponent: f64, scans: bool) -> Vec<u64> {
    let sums = zipf_sums(PIECES, exponent);
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut scanned = PIECES as u64;
    let mut keys = Vec::with_capacity(accesses);
    while keys.len() < accesses {
        keys.push(pick(&sums, &mut random) as u64);
        if scans && keys.len() % SCAN_EVERY == 0 {
            keys.extend(scanned..scanned + SCAN_EVERY as u64 / 10);
            scanned += SCAN_EVERY as u64 / 10;
        }
    }
    keys
}

/// Accesses, and how many pieces the images' boots have together. A piece is wanted once in a boot: the store counts one
/// touch a minute.
fn boots(accesses: usize, trace: &Trace) -> (&'static str, Vec<u64>, usize) {
    let piece = |offset: u64| offset / u64::from(PIECE_BYTES);
    let mut seen = std::collections::HashSet::new();
    let touched = trace.reads.iter().flat_map(|read| piece(read.range.start)..=piece(read.range.end - 1));
    let boot: Vec<u64> = touched.filter(|piece| seen.insert(*piece)).collect();
    let image_pieces = trace.blob_bytes().div_ceil(u64::from(PIECE_BYTES));
    let sums = zipf_sums(IMAGES, 1.0);
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut keys = Vec::with_capacity(accesses);
    let mut pulled = IMAGES as u64 * image_pieces;
    for number in 1.. {
        if keys.len() >= accesses {
            break;
        }
        let image = pick(&sums, &mut random) as u64 * image_pieces;
        keys.extend(boot.iter().map(|piece| image + piece));
        if number % PULL_EVERY == 0 {
            keys.extend(pulled..pulled + image_pieces);
            pulled += image_pieces;
        }
    }
    ("Boots with pulls", keys, IMAGES * boot.len())
}

/// The engine's queues over slots of one piece each.
fn queues(keys: &[u64], slots: usize) -> usize {
    struct Cache {
        /// Key and heat of each slot.
        held: std::cell::RefCell<Vec<(u64, u8)>>,
        evicted: std::cell::Cell<Option<SlotIndex>>,
    }
    impl Residents for Cache {
        fn candidate(&self, resident: Resident) -> Candidate {
            let (key, heat) = self.held.borrow()[resident.slot.0 as usize];
            Candidate::Evictable { heat, key: spread(key) }
        }
        fn cool(&self, resident: Resident, heat: u8) {
            self.held.borrow_mut()[resident.slot.0 as usize].1 = heat;
        }
        fn evict(&self, resident: Resident) -> bool {
            self.evicted.set(Some(resident.slot));
            true
        }
    }
    let cache = Cache { held: Vec::with_capacity(slots).into(), evicted: None.into() };
    let mut queues = S3Fifo::new(slots as u32);
    let mut places: HashMap<u64, SlotIndex> = HashMap::with_capacity(slots);
    let mut hits = 0;
    for &key in keys {
        if let Some(slot) = places.get(&key) {
            let heat = &mut cache.held.borrow_mut()[slot.0 as usize].1;
            *heat = (*heat + 1).min(HEAT_MAX);
            hits += 1;
            continue;
        }
        let slot = if places.len() < slots {
            cache.held.borrow_mut().push((key, 0));
            SlotIndex(places.len() as u32)
        } else {
            queues.evict(1, &cache);
            let slot = cache.evicted.take().expect("nothing is leased or pinned");
            let (gone, _) = std::mem::replace(&mut cache.held.borrow_mut()[slot.0 as usize], (key, 0));
            places.remove(&gone);
            slot
        };
        places.insert(key, slot);
        queues.insert(Resident { slot, generation: 0 }, spread(key));
    }
    hits
}

/// As the store's own key of a piece: bits that say nothing.
fn spread(key: u64) -> u64 {
    key.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

fn lru(keys: &[u64], slots: usize) -> usize {
    let mut used: HashMap<u64, usize> = HashMap::with_capacity(slots);
    let mut by_age: BTreeMap<usize, u64> = BTreeMap::new();
    let mut hits = 0;
    for (now, &key) in keys.iter().enumerate() {
        if let Some(before) = used.insert(key, now) {
            by_age.remove(&before);
            hits += 1;
        } else if used.len() > slots
            && let Some((_, oldest)) = by_age.pop_first()
        {
            used.remove(&oldest);
        }
        by_age.insert(now, key);
    }
    hits
}

/// What is wanted again last goes. A piece that is wanted later than all that is held is not kept at all.
fn belady(keys: &[u64], slots: usize) -> usize {
    let mut next = vec![usize::MAX; keys.len()];
    let mut later: HashMap<u64, usize> = HashMap::new();
    for (now, &key) in keys.iter().enumerate().rev() {
        next[now] = later.insert(key, now).unwrap_or(usize::MAX);
    }
    let mut held: HashMap<u64, usize> = HashMap::with_capacity(slots);
    let mut latest: BinaryHeap<(usize, u64)> = BinaryHeap::new();
    let mut hits = 0;
    for (now, &key) in keys.iter().enumerate() {
        hits += usize::from(held.insert(key, next[now]).is_some());
        latest.push((next[now], key));
        while held.len() > slots {
            let Some((when, key)) = latest.pop() else { break };
            // An entry of an earlier access says nothing any more.
            if held.get(&key) == Some(&when) {
                held.remove(&key);
            }
        }
    }
    hits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_sequences() {
        let round_and_round: Vec<u64> = (0..10).flat_map(|_| 0..4).collect();
        assert_eq!(lru(&round_and_round, 3), 0, "the one that goes is always the next one");
        assert_eq!(lru(&round_and_round, 4), 36);
        assert_eq!(belady(&round_and_round, 4), 36);
        // Of three places two stay, and each round brings two hits and now and then a third.
        assert!((18..=27).contains(&belady(&round_and_round, 3)));
        assert_eq!(belady(&[1, 2, 1, 3, 1, 2, 4, 2], 1), 3, "1, 1 and the last 2");
        assert_eq!(queues(&round_and_round, 64), 36);
    }

    #[test]
    fn nobody_is_better_than_who_knows_the_future() {
        for scans in [false, true] {
            let keys = zipf(300_000, 0.8, scans);
            let (best, ours) = (belady(&keys, 5_000), queues(&keys, 5_000));
            assert!(ours < best && lru(&keys, 5_000) < best);
            assert!(ours > best / 2, "{ours} of {best}");
        }
    }
}
