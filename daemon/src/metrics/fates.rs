//! What became of requests, for people to look at.

use super::answers::Source;
use super::status::Status;

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// Answered, and all of it was in the store.
    Hit,
    /// Answered, and something had to be fetched, from other nodes or a registry.
    Fetched,
    /// Handed to the registry and its answer back, whatever that was.
    Passed,
    /// Refused: the request, or what the registry says of it, is the reason.
    Refused,
    /// Not answered, for trouble of this node, of the cluster or of the registry.
    Failed,
}

/// How many requests had which fate since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Fates {
    pub(crate) hit: u64,
    pub(crate) fetched: u64,
    pub(crate) passed: u64,
    pub(crate) refused: u64,
    pub(crate) failed: u64,
}

impl Fate {
    /// `None` for a ping.
    pub(crate) fn of(source: Source, code: u16) -> Option<Self> {
        Self::of_status(source, Status::of(code))
    }

    pub(super) fn of_status(source: Source, status: Status) -> Option<Self> {
        Some(match (source, status.class()) {
            (_, 5) => Self::Failed,
            // A client that is told to bring a token, or that there is no such tag, has what it asked for.
            (Source::Pass, _) => Self::Passed,
            (_, 4) => Self::Refused,
            (Source::Cache, _) => Self::Hit,
            (Source::Peers | Source::Origin, _) => Self::Fetched,
            (Source::Own, _) => return None,
        })
    }
}

impl Fates {
    pub(super) fn add(&mut self, fate: Fate, count: u64) {
        *match fate {
            Fate::Hit => &mut self.hit,
            Fate::Fetched => &mut self.fetched,
            Fate::Passed => &mut self.passed,
            Fate::Refused => &mut self.refused,
            Fate::Failed => &mut self.failed,
        } += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fate_is_by_whose_the_answer_is() {
        let check =
            |source, code, expected| assert_eq!(Fate::of(source, code), expected, "{source:?} {code}");
        check(Source::Cache, 206, Some(Fate::Hit));
        check(Source::Origin, 206, Some(Fate::Fetched));
        check(Source::Peers, 299, Some(Fate::Fetched));
        check(Source::Pass, 401, Some(Fate::Passed));
        check(Source::Pass, 599, Some(Fate::Failed));
        check(Source::Origin, 403, Some(Fate::Refused));
        check(Source::Cache, 416, Some(Fate::Refused));
        check(Source::Own, 503, Some(Fate::Failed));
        check(Source::Own, 200, None);
    }
}
