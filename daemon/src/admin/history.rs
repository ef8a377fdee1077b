//! `GET /api/v1/history`: what has moved in each of the last seconds, so that who looks for the first time sees what
//! was before. Pure, but for the time that it is told.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::status::{BytesInfo, RequestsInfo};

/// Samples that are kept: five minutes of steps, with both ends.
const SAMPLES_MAX: usize = 301;
/// Between two samples.
pub(super) const EVERY_MS: u64 = 1000;
/// Over which bad blocks are looked back: they come one by one, and seldom.
const BAD_BLOCKS_LATELY_MS: u64 = 3_600_000;
/// Between two sums of bad blocks that are kept.
const BAD_BLOCKS_EVERY_MS: u64 = 60_000;
const BAD_BLOCKS_SUMS_MAX: usize = (BAD_BLOCKS_LATELY_MS / BAD_BLOCKS_EVERY_MS) as usize + 1;

/// What had moved since the start, at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// Since the start.
    pub(super) at_ms: u64,
    pub(super) bytes: BytesInfo,
    pub(super) requests: RequestsInfo,
    pub(super) unkept_bytes: u64,
    /// Connections.
    pub(super) shed: u64,
    /// On the disk.
    pub(super) bad_blocks: u64,
}

/// The latest samples, in their order.
#[derive(Debug, Default)]
pub(super) struct History {
    samples: VecDeque<Sample>,
    /// When, and how many there had been since the start; of each minute one.
    bad_blocks: VecDeque<(u64, u64)>,
}

/// `GET /api/v1/history`: for each second the bytes or requests of that second. All lists are of one length.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct HistoryInfo {
    /// When each second ended, in milliseconds since the daemon's start.
    pub(crate) at_ms: Vec<u64>,
    /// To clients, from the store.
    pub(crate) cache_bytes: Vec<u64>,
    /// To clients, just come from the network.
    pub(crate) fetched_bytes: Vec<u64>,
    /// From other nodes.
    pub(crate) peers_bytes: Vec<u64>,
    /// From registries.
    pub(crate) origin_bytes: Vec<u64>,
    /// To other nodes.
    pub(crate) given_bytes: Vec<u64>,
    /// All of whose answers was in the store.
    pub(crate) hit_requests: Vec<u64>,
    /// For whose answers something had to be fetched.
    pub(crate) fetched_requests: Vec<u64>,
    pub(crate) failed_requests: Vec<u64>,
}

impl History {
    pub(super) fn note(&mut self, sample: Sample) {
        if self.samples.len() >= SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        let last_ms = self.bad_blocks.back().map(|(at_ms, _)| *at_ms);
        if last_ms.is_none_or(|last_ms| sample.at_ms.saturating_sub(last_ms) >= BAD_BLOCKS_EVERY_MS) {
            if self.bad_blocks.len() >= BAD_BLOCKS_SUMS_MAX {
                self.bad_blocks.pop_front();
            }
            self.bad_blocks.push_back((sample.at_ms, sample.bad_blocks));
        }
    }

    /// How many bad blocks were found in the last hour, to within a minute.
    pub(super) fn bad_blocks_lately(&self, now: &Sample) -> u64 {
        let is_old = |at_ms: u64| now.at_ms.saturating_sub(at_ms) >= BAD_BLOCKS_LATELY_MS;
        let before = self.bad_blocks.iter().rev().find(|(at_ms, _)| is_old(*at_ms));
        // Since the start, if that was later.
        now.bad_blocks.saturating_sub(before.map_or(0, |(_, sum)| *sum))
    }

    /// The latest one that is at least so old, or else the first.
    pub(super) fn before(&self, now_ms: u64, age_ms: u64) -> Sample {
        let old = |sample: &&Sample| now_ms.saturating_sub(sample.at_ms) >= age_ms;
        self.samples.iter().rev().find(old).or(self.samples.front()).copied().unwrap_or_default()
    }

    pub(super) fn info(&self) -> HistoryInfo {
        let mut info = HistoryInfo::default();
        for (before, now) in self.samples.iter().zip(self.samples.iter().skip(1)) {
            // The thread may have had other things to do: then a step is longer.
            let elapsed_ms = now.at_ms.saturating_sub(before.at_ms).max(1);
            let per_s = |before: u64, now: u64| {
                let moved = u128::from(now.saturating_sub(before)) * 1000 / u128::from(elapsed_ms);
                u64::try_from(moved).unwrap_or(u64::MAX)
            };
            let (bytes, requests) = ((before.bytes, now.bytes), (before.requests, now.requests));
            info.at_ms.push(now.at_ms);
            info.cache_bytes.push(per_s(bytes.0.cache, bytes.1.cache));
            info.fetched_bytes.push(per_s(bytes.0.fetched, bytes.1.fetched));
            info.peers_bytes.push(per_s(bytes.0.peers, bytes.1.peers));
            info.origin_bytes.push(per_s(bytes.0.origin, bytes.1.origin));
            info.given_bytes.push(per_s(bytes.0.given, bytes.1.given));
            info.hit_requests.push(per_s(requests.0.hit, requests.1.hit));
            info.fetched_requests.push(per_s(requests.0.fetched, requests.1.fetched));
            info.failed_requests.push(per_s(requests.0.failed, requests.1.failed));
        }
        info
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_ms: u64, cache: u64) -> Sample {
        Sample { at_ms, bytes: BytesInfo { cache, ..BytesInfo::default() }, ..Sample::default() }
    }

    #[test]
    fn steps_are_by_their_own_length() {
        let mut history = History::default();
        [sample(0, 5), sample(1000, 15), sample(3000, 35)]
            .into_iter()
            .for_each(|sample| history.note(sample));
        let info = history.info();
        assert_eq!((info.at_ms, info.cache_bytes), (vec![1000, 3000], vec![10, 10]));
        assert_eq!(info.failed_requests, [0, 0]);
    }

    #[test]
    fn bad_blocks_are_looked_back_for_over_an_hour() {
        let mut history = History::default();
        let at = |minute: u64, bad_blocks| Sample { at_ms: minute * 60_000, bad_blocks, ..Sample::default() };
        // Before the first sample.
        history.note(at(0, 2));
        assert_eq!(history.bad_blocks_lately(&at(1, 2)), 2);
        for minute in 1..200 {
            (0..3).for_each(|_| history.note(at(minute, if minute < 100 { 2 } else { 7 })));
        }
        assert_eq!(history.bad_blocks.len(), BAD_BLOCKS_SUMS_MAX);
        assert_eq!(history.bad_blocks_lately(&at(199, 7)), 0);
        assert_eq!(history.bad_blocks_lately(&at(199, 8)), 1);
        let mut history = History::default();
        (0..130).for_each(|minute| history.note(at(minute, if minute < 100 { 2 } else { 7 })));
        assert_eq!(history.bad_blocks_lately(&at(130, 7)), 5);
    }

    #[test]
    fn it_is_bounded_and_knows_what_was_before() {
        let mut history = History::default();
        assert_eq!(history.before(9000, 1000), Sample::default());
        (0..1000).for_each(|second| history.note(sample(second * 1000, second)));
        assert_eq!(history.info().at_ms.len(), 300);
        assert_eq!(history.before(999_000, 60_000).bytes.cache, 939);
        assert_eq!(history.before(999_000, 3_600_000).bytes.cache, 699, "the first that is known");
    }
}
