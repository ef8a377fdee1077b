//! How long a client that means well waits, beside whatever else goes on.

use std::time::{Duration, Instant};

use crate::{Blob, Daemon};

const REQUESTS: usize = 2000;
const RANGE_BYTES: u64 = 128 << 10;

/// How long 99 of 100 reads of 128 KiB take at most, each over a connection of its own. To be printed: a machine that
/// runs many tests at once says nothing that could be asserted.
///
/// # Panics
/// When one is not served, or with a wrong byte.
pub fn p99(daemon: &Daemon, blob: &Blob) -> Duration {
    let mut random = fastrand::Rng::with_seed(3);
    let mut times: Vec<Duration> = (0..REQUESTS)
        .map(|_| {
            let start = random.u64(..blob.len() - RANGE_BYTES);
            let asked = Instant::now();
            blob.read(&mut daemon.client(), start..start + RANGE_BYTES).expect("a good client is served");
            asked.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() * 99 / 100]
}
