//! How long things took, counted without a lock.
//!
//! prometheus-client's own histogram is one mutex for all shards; a local hit is to pay for neither.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, MetricEncoder, NoLabelSet};

/// Upper bounds of the buckets, in microseconds: from a hit to what a client of a slow registry still waits for.
const BOUNDS_US: [u64; 19] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];
/// And one for all that took longer.
const BUCKETS: usize = BOUNDS_US.len() + 1;

const _: () = {
    let mut at = 1;
    while at < BOUNDS_US.len() {
        assert!(BOUNDS_US[at - 1] < BOUNDS_US[at]);
        at += 1;
    }
};

/// One shard's.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

/// Those of all shards together.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Sum {
    buckets: [u64; BUCKETS],
    sum_ns: u64,
}

impl Latencies {
    pub(super) fn observe(&self, took: Duration) {
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound_us| bound_us * 1000 < took_ns);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(took_ns, Ordering::Relaxed);
    }
}

impl Sum {
    pub(super) fn add(&mut self, of_shard: &Latencies) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&of_shard.buckets) {
            *sum += bucket.load(Ordering::Relaxed);
        }
        self.sum_ns = self.sum_ns.wrapping_add(of_shard.sum_ns.load(Ordering::Relaxed));
    }

    pub(super) fn encode(
        &self,
        encoder: &mut MetricEncoder<'_>,
        labels: &impl EncodeLabelSet,
    ) -> fmt::Result {
        let bounds = BOUNDS_US.iter().map(|bound_us| *bound_us as f64 / 1e6).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.buckets).collect();
        let count = self.buckets.iter().sum();
        encoder.encode_family(labels)?.encode_histogram::<NoLabelSet>(
            self.sum_ns as f64 / 1e9,
            count,
            &buckets,
            None,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_in_the_bucket_of_its_bound() {
        let latencies = Latencies::default();
        for ns in [0, 50_000, 50_001, 60_000_000_000, 60_000_000_001, u64::MAX] {
            latencies.observe(Duration::from_nanos(ns));
        }
        let mut sum = Sum::default();
        sum.add(&latencies);
        let filled: Vec<_> = sum.buckets.iter().enumerate().filter(|(_, count)| **count > 0).collect();
        assert_eq!(filled, [(0, &2), (1, &1), (18, &1), (19, &2)]);
    }

    #[test]
    fn shards_are_one_sum() {
        let shards: [Latencies; 2] = Default::default();
        shards.iter().for_each(|shard| shard.observe(Duration::from_millis(3)));
        let mut sum = Sum::default();
        shards.iter().for_each(|shard| sum.add(shard));
        assert_eq!((sum.buckets[6], sum.sum_ns), (2, 6_000_000));
    }
}
