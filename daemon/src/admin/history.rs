//! `GET /api/v1/history`: what has moved in each of the last seconds, so that who looks for the first time sees what
//! was before. Pure, but for the time that it is told.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::status::{BytesInfo, RequestsInfo};

/// Samples that are kept: five minutes of steps, with both ends.
const SAMPLES_MAX: usize = 301;
/// Between two samples.
pub(super) const EVERY_MS: u64 = 1000;

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
}

/// The latest samples, in their order.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Sample>);

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
    /// All of which was in the store.
    pub(crate) hit_requests: Vec<u64>,
    /// Of which something had to be fetched.
    pub(crate) fetched_requests: Vec<u64>,
    pub(crate) failed_requests: Vec<u64>,
}

impl History {
    pub(super) fn note(&mut self, sample: Sample) {
        if self.0.len() >= SAMPLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// The latest one that is at least so old, or else the first.
    pub(super) fn before(&self, now_ms: u64, age_ms: u64) -> Sample {
        let old = |sample: &&Sample| now_ms.saturating_sub(sample.at_ms) >= age_ms;
        self.0.iter().rev().find(old).or(self.0.front()).copied().unwrap_or_default()
    }

    pub(super) fn info(&self) -> HistoryInfo {
        let mut info = HistoryInfo::default();
        for (before, now) in self.0.iter().zip(self.0.iter().skip(1)) {
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
    fn it_is_bounded_and_knows_what_was_before() {
        let mut history = History::default();
        assert_eq!(history.before(9000, 1000), Sample::default());
        (0..1000).for_each(|second| history.note(sample(second * 1000, second)));
        assert_eq!(history.info().at_ms.len(), 300);
        assert_eq!(history.before(999_000, 60_000).bytes.cache, 939);
        assert_eq!(history.before(999_000, 3_600_000).bytes.cache, 699, "the first that is known");
    }
}
