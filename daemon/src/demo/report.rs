//! What the demo measured, as values; the chart and the JSON are two views of it.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::registry::Tally;

/// A whole run. Times are in seconds in its JSON.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) origin: Origin,
    pub(super) image: ImageFacts,
    pub(super) boot: BootFacts,
    /// How long darter took from its start after the kill -9 to its first answered ping.
    #[serde(rename = "restart_s", serialize_with = "seconds")]
    pub(super) restart: Duration,
    pub(super) steps: Vec<StepReport>,
}

/// How the registry was set up.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Origin {
    #[serde(rename = "latency_s", serialize_with = "seconds")]
    pub(super) latency: Duration,
    pub(super) bandwidth_bytes_per_s: Option<u64>,
    pub(super) redirect: bool,
}

/// What was pulled.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ImageFacts {
    pub(super) source: String,
    pub(super) layers: usize,
    pub(super) bytes: u64,
    /// How many layers are pulled at the same time.
    pub(super) parallel: usize,
}

/// What was booted.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct BootFacts {
    pub(super) blob_bytes: u64,
    pub(super) reads: usize,
    /// Bytes that the reads ask for.
    pub(super) bytes: u64,
    /// What the client spends on itself between the reads.
    #[serde(rename = "thinking_s", serialize_with = "seconds")]
    pub(super) thinking: Duration,
    pub(super) prefetch: bool,
}

/// Where the bytes come from in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Step {
    Straight,
    Cold,
    LocalHit,
    AfterKill,
}

impl Step {
    /// In the order in which they are run.
    pub(super) const ALL: [Self; 4] = [Self::Straight, Self::Cold, Self::LocalHit, Self::AfterKill];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Straight => "straight from the registry",
            Self::Cold => "cold through darter",
            Self::LocalHit => "local hit",
            Self::AfterKill => "kill -9, restart, local hit",
        }
    }
}

/// Both measurements of a step.
#[derive(Clone, Debug, Serialize)]
pub(super) struct StepReport {
    pub(super) step: Step,
    pub(super) pull: Pull,
    pub(super) boot: Boot,
}

/// All layers of the image, whole.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Pull {
    #[serde(rename = "time_s", serialize_with = "seconds")]
    pub(super) time: Duration,
    pub(super) origin: Tally,
}

/// All reads of the trace.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Boot {
    /// From the first read to the end of the last, with the client's thinking.
    #[serde(rename = "time_s", serialize_with = "seconds")]
    pub(super) time: Duration,
    /// The median time from a request to its last byte.
    #[serde(rename = "read_p50_s", serialize_with = "seconds")]
    pub(super) read_p50: Duration,
    /// Of 100 reads the slowest one.
    #[serde(rename = "read_p99_s", serialize_with = "seconds")]
    pub(super) read_p99: Duration,
    pub(super) origin: Tally,
}

/// The value below which `percent` of `sorted` lie (nearest rank); zero of nothing.
pub(super) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_nearest_rank() {
        let sorted: Vec<_> = (1..=10).map(Duration::from_secs).collect();
        let check = |percent, seconds| assert_eq!(percentile(&sorted, percent).as_secs(), seconds);
        check(50, 5);
        check(99, 10);
        check(100, 10);
        check(1, 1);
        assert_eq!(percentile(&[], 50), Duration::ZERO);
        assert_eq!(percentile(&sorted[..1], 50).as_secs(), 1);
    }
}
