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
    /// Of the cluster, besides its seed.
    pub(super) peers: usize,
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
    RemoteHit,
    LocalHit,
    AfterKill,
    AllAtOnce,
    SeedKilled,
}

impl Step {
    /// In the order in which they are run.
    const ALL: [Self; 7] = [
        Self::Straight,
        Self::Cold,
        Self::RemoteHit,
        Self::LocalHit,
        Self::AfterKill,
        Self::AllAtOnce,
        Self::SeedKilled,
    ];

    /// Those that so many peers can show, in the order in which they are run: a remote hit needs two.
    pub(super) fn with(peers: usize) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |step| *step != Self::RemoteHit || peers > 1)
    }

    /// Which of the images is pulled: what nobody has read is another one.
    pub(super) fn image(self) -> usize {
        match self {
            Self::AllAtOnce => 1,
            Self::SeedKilled => 2,
            _ => 0,
        }
    }

    /// Which of the blobs is booted from, if the step boots.
    pub(super) fn boot_blob(self) -> Option<usize> {
        match self {
            Self::SeedKilled => None,
            Self::AllAtOnce => Some(1),
            _ => Some(0),
        }
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Straight => "straight from the registry",
            Self::Cold => "cold through darter",
            Self::RemoteHit => "remote peer hit",
            Self::LocalHit => "local hit",
            Self::AfterKill => "kill -9, restart, local hit",
            Self::AllAtOnce => "all peers at once",
            Self::SeedKilled => "all, the seed killed half way",
        }
    }
}

/// The measurements of a step.
#[derive(Clone, Debug, Serialize)]
pub(super) struct StepReport {
    pub(super) step: Step,
    /// How many read the same at the same time, each through a node of its own.
    pub(super) readers: usize,
    pub(super) pull: Pull,
    /// `None` where the step has none.
    pub(super) boot: Option<Boot>,
}

/// What the readers of a step together cost the registry.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Cost {
    #[serde(flatten)]
    pub(super) tally: Tally,
    /// Its body bytes as a multiple of what one reader reads.
    pub(super) multiple: f64,
}

impl Cost {
    pub(super) fn new(tally: Tally, content_bytes: u64) -> Self {
        Self { tally, multiple: tally.body_bytes as f64 / content_bytes.max(1) as f64 }
    }
}

/// All layers of the image, whole, by each reader; the time is that of the last one.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Pull {
    #[serde(rename = "time_s", serialize_with = "seconds")]
    pub(super) time: Duration,
    pub(super) origin: Cost,
    /// How much of the bytes, from 0 to 1, had arrived when the seed was killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) killed_at: Option<f64>,
}

/// All reads of the trace, by each reader.
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
    pub(super) origin: Cost,
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

    #[test]
    fn one_peer_has_no_other_to_hit() {
        assert!(Step::with(1).all(|step| step != Step::RemoteHit));
        assert_eq!(Step::with(1).count() + 1, Step::with(2).count());
    }

    #[test]
    fn what_the_registry_gave_twice_is_a_multiple_of_two() {
        let tally = Tally { requests: 3, body_bytes: 500 };
        assert_eq!(Cost::new(tally, 250).multiple, 2.0);
        assert_eq!(Cost::new(Tally { requests: 0, body_bytes: 0 }, 0).multiple, 0.0);
    }
}
