//! What needs an operator's eye, in words that say what to do. Pure.

use serde::{Deserialize, Serialize};

use super::history::Sample;
use super::peers::StandingInfo;
use super::status::StatusInfo;

/// Over which it is looked back, where what matters is what happened lately.
pub(super) const LATELY_MS: u64 = 60_000;
/// Of the requests of that time, above which it is more than a warning that some failed: one in so many.
const FAILED_ONE_IN: u64 = 20;

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConcernInfo {
    pub(crate) severity: SeverityInfo,
    /// What it is and what to do, as sentences.
    pub(crate) text: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SeverityInfo {
    /// Clients are not served as they should be, or bytes cannot be kept.
    Error,
    /// Clients are served.
    Warning,
    /// From a later version.
    #[serde(other)]
    Other,
}

/// What was in the last minute.
#[derive(Clone, Debug, Default)]
pub(super) struct Lately {
    pub(super) before: Sample,
    pub(super) now: Sample,
    /// Why the last request that failed did, if that is known.
    pub(super) last_failure: Option<Box<str>>,
    /// Found in the last hour.
    pub(super) bad_blocks: u64,
}

/// Of a node that is otherwise as `status` says.
pub(super) fn concerns(status: &StatusInfo, lately: &Lately) -> Vec<ConcernInfo> {
    let Lately { before, now, last_failure, bad_blocks } = lately;
    let mut found = Vec::new();
    let mut concern = |severity, text: String| found.push(ConcernInfo { severity, text });
    let store = &status.store;
    match store.slabs_out_of_service {
        0 => {}
        slabs => concern(
            SeverityInfo::Error,
            format!(
                "The store has lost {slabs} of its slabs to the disk: they take nothing new until the next start. Look at \
                 the log and the disk, then restart darter."
            ),
        ),
    }
    let requests = (before.requests, now.requests);
    let failed = requests.1.failed.saturating_sub(requests.0.failed);
    if failed > 0 {
        let answered = [
            (requests.0.hit, requests.1.hit),
            (requests.0.fetched, requests.1.fetched),
            (requests.0.passed, requests.1.passed),
        ];
        let answered: u64 = answered.iter().map(|(before, now)| now.saturating_sub(*before)).sum();
        let is_much = failed.saturating_mul(FAILED_ONE_IN) > answered;
        let why = last_failure.as_deref().map(|why| format!(", the last one because {why}"));
        concern(
            if is_much { SeverityInfo::Error } else { SeverityInfo::Warning },
            format!(
                "{failed} of {} requests of the last minute failed{}.",
                answered.saturating_add(failed),
                why.unwrap_or_default()
            ),
        );
    }
    match status.node.as_ref().map(|node| node.standing) {
        Some(StandingInfo::Joining) => concern(
            SeverityInfo::Warning,
            "This node has reached no seed of its cluster and goes to registries by itself. Are cluster.join and the ports \
             right? The log says more."
                .into(),
        ),
        Some(StandingInfo::Leaving) => {
            concern(SeverityInfo::Warning, "This node leaves its cluster: it is about to stop.".into());
        }
        _ => {}
    }
    let shed = now.shed.saturating_sub(before.shed);
    if shed > 0 {
        concern(
            SeverityInfo::Warning,
            format!(
                "{shed} connections were turned away in the last minute: {} may be open. More open files or memory allow more.",
                status.connections.max
            ),
        );
    }
    if now.unkept_bytes > before.unkept_bytes {
        concern(
            SeverityInfo::Warning,
            "Some of what was served in the last minute was not kept: the disk is slower than the network, or the store is \
             full of pinned contents."
                .into(),
        );
    }
    if *bad_blocks > 0 {
        concern(
            SeverityInfo::Warning,
            format!(
                "In the last hour {bad_blocks} blocks on the disk were not what was written. They were dropped and are \
                 fetched again when they are wanted; if there are more and more, the disk fails."
            ),
        );
    }
    found.sort_by_key(|concern| concern.severity);
    found
}

#[cfg(test)]
mod tests {
    use super::super::api::ScrubInfo;
    use super::super::status::{BytesInfo, ConnectionsInfo, FetchesInfo, HeldInfo, OwnInfo, RequestsInfo};
    use super::*;
    use crate::admin::peers::RoleInfo;

    fn well() -> StatusInfo {
        StatusInfo {
            version: String::new(),
            io: "ring".into(),
            at_ms: 100_000,
            node: None,
            concerns: Vec::new(),
            store: HeldInfo::default(),
            scrub: ScrubInfo { on: true, round: None, last: None },
            bytes: BytesInfo::default(),
            requests: RequestsInfo::default(),
            connections: ConnectionsInfo::default(),
            fetches: FetchesInfo::default(),
        }
    }

    fn after(requests: RequestsInfo) -> Sample {
        Sample { requests, ..Sample::default() }
    }

    /// Severities, and a word that each text has.
    fn check(status: &StatusInfo, now: &Sample, expected: &[(SeverityInfo, &str)]) {
        let (last_failure, bad_blocks) = (Some("it is down".into()), now.bad_blocks);
        let lately = Lately { now: *now, last_failure, bad_blocks, ..Lately::default() };
        let found = concerns(status, &lately);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (concern, (severity, word)) in found.iter().zip(expected) {
            assert_eq!(concern.severity, *severity, "{concern:?}");
            assert!(concern.text.contains(word), "{concern:?}");
        }
    }

    #[test]
    fn a_healthy_node_is_no_concern() {
        let served = RequestsInfo { hit: 5, fetched: 5, passed: 5, refused: 5, failed: 0 };
        check(&well(), &after(served), &[]);
    }

    #[test]
    fn few_failures_are_a_warning_and_many_an_error() {
        let requests = |hit, failed| after(RequestsInfo { hit, failed, ..RequestsInfo::default() });
        check(
            &well(),
            &requests(100, 1),
            &[(
                SeverityInfo::Warning,
                "1 of 101 requests of the last minute failed, the last one because it is down.",
            )],
        );
        check(&well(), &requests(19, 1), &[(SeverityInfo::Error, "1 of 20 requests")]);
        // Nothing is said of a reason that nobody knows.
        let found = concerns(&well(), &Lately { now: requests(19, 1), ..Lately::default() });
        assert_eq!(found[0].text, "1 of 20 requests of the last minute failed.");
    }

    #[test]
    fn what_is_worst_stands_first() {
        let mut status = well();
        status.node = Some(OwnInfo {
            id: "a".repeat(64),
            role: RoleInfo::Peer,
            address: ([10, 0, 0, 1], 65000).into(),
            zone: String::new(),
            standing: StandingInfo::Joining,
            seeds: 0,
            connected: 0,
        });
        status.store.slabs_out_of_service = 1;
        let now = Sample { shed: 3, unkept_bytes: 1, bad_blocks: 2, ..Sample::default() };
        let expected = [
            (SeverityInfo::Error, "slabs"),
            (SeverityInfo::Warning, "cluster.join"),
            (SeverityInfo::Warning, "3 connections"),
            (SeverityInfo::Warning, "not kept"),
            (SeverityInfo::Warning, "2 blocks"),
        ];
        check(&status, &now, &expected);
    }

    #[test]
    fn what_is_long_past_is_not_told() {
        let long_ago = after(RequestsInfo { failed: 7, ..RequestsInfo::default() });
        let lately = Lately { before: long_ago, now: long_ago, ..Lately::default() };
        let mut status = well();
        status.store.bad_blocks = 9;
        assert_eq!(concerns(&status, &lately), []);
    }
}
