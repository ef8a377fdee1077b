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

use super::fates::{Fate, Fates};
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

    pub(crate) fn name(self) -> &'static str {
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
    begun: Begun,
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

/// Answers that began with what was in the store and were not at their end with it.
#[derive(Debug, Default)]
struct Begun {
    by_status: [AtomicU64; Status::COUNT],
    /// Those that have ended or were cut, and had all from the store.
    hit: AtomicU64,
    /// And those that had not.
    fetched: AtomicU64,
}

impl Answers {
    /// A request was answered, with a head of that status; whose the rest is, is known.
    pub(crate) fn answered(&self, source: Source, status: u16) {
        self.by_source[source as usize].by_status[Status::of(status).index()].fetch_add(1, Ordering::Relaxed);
    }

    /// A request begins to be answered from the store; whether all of it is there is told by [`Self::settled`].
    pub(crate) fn begun(&self, status: u16) {
        self.begun.by_status[Status::of(status).index()].fetch_add(1, Ordering::Relaxed);
    }

    /// One that was begun has ended or was cut, and so much is known of where it came from.
    pub(crate) fn settled(&self, source: Source) {
        let settled = if source == Source::Cache { &self.begun.hit } else { &self.begun.fetched };
        settled.fetch_add(1, Ordering::Relaxed);
    }

    /// The head of an answer was there after `elapsed`.
    pub(crate) fn head_after(&self, source: Source, elapsed: Duration) {
        self.by_source[source as usize].head.observe(elapsed);
    }

    /// All of an answer has gone out, and came from there, `elapsed` after its request had come.
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
            "From the end of a request's head to that of its answer, with which the first bytes go; from the cache, only where \
             nobody was asked before",
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
        let answers = Answers {
            by_source: Default::default(),
            begun: Begun::default(),
            shed: Default::default(),
            givers: self.givers.clone(),
        };
        let answers = Arc::new(answers);
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).push(answers.clone());
        answers
    }

    pub(super) fn givers(&self) -> &Arc<Givers> {
        &self.givers
    }

    /// What became of all requests; of answers that are under way and begin in the store, nothing yet.
    pub(super) fn fates(&self) -> Fates {
        let mut fates = Fates::default();
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        for shard in &*shards {
            for (source, status) in
                Source::ALL.into_iter().flat_map(|source| Status::all().map(move |status| (source, status)))
            {
                let count =
                    shard.by_source[source as usize].by_status[status.index()].load(Ordering::Relaxed);
                if let Some(fate) = Fate::of_status(source, status) {
                    fates.add(fate, count);
                }
            }
            fates.add(Fate::Hit, shard.begun.hit.load(Ordering::Relaxed));
            fates.add(Fate::Fetched, shard.begun.fetched.load(Ordering::Relaxed));
        }
        fates
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
            let mut count = self.all.sum(|shard| &shard.by_source[source as usize].by_status[status.index()]);
            if source == Source::Cache {
                count += self.all.sum(|shard| &shard.begun.by_status[status.index()]);
            }
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
            shard.answered(Source::Cache, 206);
            shard.head_after(Source::Cache, Duration::from_micros(70));
            shard.body(Source::Peers, 5);
            shard.ended(Source::Cache, Duration::from_millis(2));
        }
        shards[1].answered(Source::Origin, 418);
        shards[0].begun(206);
        shards[0].shed(Shed::Heads);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "requests_total{source=\"cache\",status=\"206\"} 3",
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

    #[test]
    fn an_answer_that_begins_in_the_store_has_its_fate_at_its_end() {
        let all = AllAnswers::default();
        let shards = [all.of_a_shard(), all.of_a_shard()];
        shards[0].answered(Source::Cache, 206);
        shards[1].answered(Source::Own, 503);
        (0..3).for_each(|_| shards[1].begun(200));
        let known = Fates { hit: 1, failed: 1, ..Fates::default() };
        assert_eq!(all.fates(), known, "of the others nothing yet");
        shards[1].settled(Source::Cache);
        shards[1].settled(Source::Peers);
        shards[1].settled(Source::Origin);
        assert_eq!(all.fates(), Fates { hit: 2, fetched: 2, ..known });
    }
}
