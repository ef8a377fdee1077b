//! `darter_shard_longest_poll_seconds`, as it stands in the metrics.

use anyhow::{Context, ensure};

use crate::measure::Measure;
use crate::rounds::Round;

const BUCKET: &str = "darter_shard_longest_poll_seconds_bucket{le=\"";

/// Windows by the longest poll in them: upper bounds, rising, and how many windows were below each.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Polls(Vec<(f64, u64)>);

impl Polls {
    /// Reads the text of the metrics.
    pub(crate) fn of(metrics: &str) -> anyhow::Result<Self> {
        let buckets = metrics.lines().filter_map(|line| line.strip_prefix(BUCKET)).map(|rest| {
            let (bound, count) = rest.split_once("\"} ").context("a bucket has a bound and a count")?;
            Ok((bound.replace("+Inf", "inf").parse()?, count.trim().parse()?))
        });
        let buckets = buckets.collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(!buckets.is_empty(), "this darter does not tell its longest polls");
        Ok(Self(buckets))
    }

    /// What has come since an earlier reading.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let buckets = self.0.iter().zip(&before.0);
        Self(buckets.map(|((bound, now), (_, before))| (*bound, now - before)).collect())
    }

    /// The bound that 99 of 100 windows did not exceed.
    pub(crate) fn round(&self) -> Round {
        let all = self.0.last().map_or(0, |(_, windows)| *windows);
        let bucket = self.0.iter().find(|(_, windows)| *windows as f64 >= 0.99 * all as f64);
        Round::default().with(Measure::LongestPollP99S, bucket.map_or(f64::NAN, |(bound, _)| *bound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn polls(counts: [u64; 3]) -> Polls {
        let bounds = ["0.001", "0.002", "+Inf"];
        let line = |(bound, count)| format!("{BUCKET}{bound}\"}} {count}\n");
        Polls::of(&bounds.into_iter().zip(counts).map(line).collect::<String>()).unwrap()
    }

    #[test]
    fn the_bucket_of_99_in_100_windows() {
        let check = |counts, expected| {
            assert_eq!(polls(counts).round().value(Measure::LongestPollP99S), Some(expected), "{counts:?}");
        };
        check([99, 100, 100], 0.001);
        check([98, 99, 100], 0.002);
        check([98, 98, 100], f64::INFINITY);
        assert_eq!(polls([5, 7, 9]).since(&polls([1, 2, 3])), polls([4, 5, 6]));
        assert!(Polls::of("other 1\n").is_err());
    }
}
