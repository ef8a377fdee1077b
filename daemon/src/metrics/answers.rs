//! What one shard has answered: counted without a lock, a look-up or an allocation, since every local hit comes by.
//!
//! Each shard has its own, so that shards do not take cache lines from each other; a scrape adds them up.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::givers::{Giver, Givers};
use super::latencies::{Latencies, Sum};
use super::status::Status;

/// Where an answer's bytes came from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// They were in the store when they were asked for.
    Cache,
    /// Other nodes sent them.
    Peers,
    /// A registry sent them.
    Origin,
    /// Passed through, past the store.
    Pass,
    /// The daemon's own refusal or trouble.
    Own,
}

impl Source {
    const ALL: [Self; 5] = [Self::Cache, Self::Peers, Self::Origin, Self::Pass, Self::Own];

    fn name(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Peers => "peers",
            Self::Origin => "origin",
            Self::Pass => "pass",
            Self::Own => "own",
        }
    }

    /// The statuses that are told from the beginning, so that the first one counts as an increase.
    fn usual(self) -> &'static [u16] {
        match self {
            Self::Cache | Self::Peers | Self::Origin => &[200, 206],
            Self::Pass => &[200],
            Self::Own => &[502, 503],
        }
    }
}

impl From<Giver> for Source {
    fn from(giver: Giver) -> Self {
        match giver {
            Giver::Peers => Self::Peers,
            Giver::Origin => Self::Origin,
        }
    }
}

/// Why a request is refused that might have been answered at another time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Shed {
    /// Queues, buffers or places are taken.
    Busy,
    /// Heads of all connections take too much.
    Heads,
}

impl Shed {
    const ALL: [Self; 2] = [Self::Busy, Self::Heads];

    fn name(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Heads => "heads",
        }
    }
}

/// Of one shard.
#[derive(Debug)]
pub struct Answers {
    by_source: [OfSource; Source::ALL.len()],
    shed: [AtomicU64; Shed::ALL.len()],
    pub(crate) givers: Arc<Givers>,
}

#[derive(Debug, Default)]
struct OfSource {
    by_status: [AtomicU64; Status::COUNT],
    body_bytes: AtomicU64,
    head: Latencies,
    whole: Latencies,
}

impl Answers {
    /// A request was answered, its head after `elapsed`.
    pub(crate) fn answered(&self, source: Source, status: u16, elapsed: Duration) {
        let of_source = &self.by_source[source as usize];
        of_source.by_status[Status::of(status).index()].fetch_add(1, Ordering::Relaxed);
        of_source.head.observe(elapsed);
    }

    /// All of an answer has gone out, `elapsed` after its request had come.
    pub(crate) fn ended(&self, source: Source, elapsed: Duration) {
        self.by_source[source as usize].whole.observe(elapsed);
    }

    /// Bytes of an answer's body were handed to its connection.
    pub(crate) fn body(&self, source: Source, bytes: usize) {
        self.by_source[source as usize].body_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A request was refused.
    pub(crate) fn shed(&self, shed: Shed) {
        self.shed[shed as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Of all shards.
#[derive(Clone, Debug, Default)]
pub(super) struct AllAnswers {
    shards: Arc<Mutex<Vec<Arc<Answers>>>>,
    givers: Arc<Givers>,
}

impl AllAnswers {
    pub(super) fn register(&self, registry: &mut Registry) {
        let of = |what| Part { all: self.clone(), what };
        registry.register(
            "requests",
            "Requests answered by the front, by where the bytes came from",
            of(What::Requests),
        );
        registry.register_with_unit("body", "Body bytes of answers", Unit::Bytes, of(What::BodyBytes));
        registry.register_with_unit(
            "answer_head",
            "From the end of a request's head to that of its answer, with which the first bytes go",
            Unit::Seconds,
            of(What::Head),
        );
        registry.register_with_unit(
            "answer",
            "From the end of a request's head to the last byte of its answer; not of those that were cut short",
            Unit::Seconds,
            of(What::Whole),
        );
        registry.register(
            "requests_shed",
            "Requests that were refused because limits are reached",
            of(What::Shed),
        );
    }

    /// Of one shard more.
    pub(super) fn of_a_shard(&self) -> Arc<Answers> {
        let answers =
            Answers { by_source: Default::default(), shed: Default::default(), givers: self.givers.clone() };
        let answers = Arc::new(answers);
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).push(answers.clone());
        answers
    }

    pub(super) fn givers(&self) -> &Arc<Givers> {
        &self.givers
    }

    pub(super) fn body_bytes(&self, source: Source) -> u64 {
        self.sum(|shard| &shard.by_source[source as usize].body_bytes)
    }

    fn sum(&self, counter: impl Fn(&Answers) -> &AtomicU64) -> u64 {
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        shards.iter().map(|shard| counter(shard).load(Ordering::Relaxed)).sum()
    }

    fn latencies(&self, of_shard: impl Fn(&Answers) -> &Latencies) -> Sum {
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        shards.iter().fold(Sum::default(), |mut sum, shard| {
            sum.add(of_shard(shard));
            sum
        })
    }
}

/// One metric.
#[derive(Debug)]
struct Part {
    all: AllAnswers,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Requests,
    BodyBytes,
    Head,
    Whole,
    Shed,
}

impl EncodeMetric for Part {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        if let What::Shed = self.what {
            for shed in Shed::ALL {
                let count = self.all.sum(|shard| &shard.shed[shed as usize]);
                counter(&mut encoder, [("reason", shed.name())], count)?;
            }
            return Ok(());
        }
        for source in Source::ALL {
            let (of, labels) = (source as usize, [("source", source.name())]);
            match self.what {
                What::Requests => self.encode_requests(&mut encoder, source)?,
                // Of the few words of a refusal nobody keeps count.
                What::BodyBytes if source == Source::Own => {}
                What::BodyBytes => {
                    let bytes = self.all.sum(|shard| &shard.by_source[of].body_bytes);
                    counter(&mut encoder, labels, bytes)?;
                }
                What::Head => {
                    self.all.latencies(|shard| &shard.by_source[of].head).encode(&mut encoder, &labels)?;
                }
                What::Whole => {
                    self.all.latencies(|shard| &shard.by_source[of].whole).encode(&mut encoder, &labels)?;
                }
                What::Shed => {}
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        match self.what {
            What::Requests | What::BodyBytes | What::Shed => MetricType::Counter,
            What::Head | What::Whole => MetricType::Histogram,
        }
    }
}

impl Part {
    fn encode_requests(&self, encoder: &mut MetricEncoder<'_>, source: Source) -> fmt::Result {
        let usual = source.usual();
        for status in Status::all() {
            let count = self.all.sum(|shard| &shard.by_source[source as usize].by_status[status.index()]);
            if count > 0 || usual.iter().any(|code| Status::of(*code) == status) {
                let label = status.label();
                counter(encoder, [("source", source.name()), ("status", &label)], count)?;
            }
        }
        Ok(())
    }
}

fn counter<const N: usize>(
    encoder: &mut MetricEncoder<'_>,
    labels: [(&'static str, &str); N],
    count: u64,
) -> fmt::Result {
    encoder.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;

    #[test]
    fn what_shards_have_counted_is_told_as_one() {
        let (all, mut registry) = (AllAnswers::default(), Registry::default());
        all.register(&mut registry);
        let shards = [all.of_a_shard(), all.of_a_shard()];
        for shard in &shards {
            shard.answered(Source::Cache, 206, Duration::from_micros(70));
            shard.body(Source::Peers, 5);
            shard.ended(Source::Cache, Duration::from_millis(2));
        }
        shards[1].answered(Source::Origin, 418, Duration::from_secs(2));
        shards[0].shed(Shed::Heads);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "requests_total{source=\"cache\",status=\"206\"} 2",
            "requests_total{source=\"own\",status=\"503\"} 0",
            "requests_total{source=\"origin\",status=\"4xx\"} 1",
            "body_bytes_total{source=\"peers\"} 10",
            "answer_head_seconds_bucket{le=\"0.0001\",source=\"cache\"} 2",
            "answer_head_seconds_bucket{le=\"0.00005\",source=\"cache\"} 0",
            "answer_seconds_count{source=\"cache\"} 2",
            "requests_shed_total{reason=\"heads\"} 1",
        ] {
            assert!(text.lines().any(|told| told == line), "{line} is not in:\n{text}");
        }
        assert!(!text.contains("status=\"418\""), "{text}");
    }
}
