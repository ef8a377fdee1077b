//! `GET /api/v1/requests`: what the front has answered lately, but for plain hits.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::front::recent::{Note, Recent};
use crate::metrics::Fate;

/// `GET /api/v1/requests`, in their order; at most 128.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LatestInfo {
    pub(crate) requests: Vec<RequestInfo>,
    /// Ask again with `after` set to this for what comes next.
    pub(crate) last: u64,
}

/// A request of a client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RequestInfo {
    /// Counts up from 1 at the daemon's start.
    pub(crate) number: u64,
    /// When the head of its answer was made, in Unix milliseconds.
    pub(crate) at_unix_ms: u64,
    pub(crate) fate: FateInfo,
    pub(crate) method: String,
    /// Without the query, at most 300 characters.
    pub(crate) path: String,
    /// That it is about, as `https://HOST[:PORT]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) registry: Option<String>,
    pub(crate) status: u16,
    /// Milliseconds from the request to the head of its answer.
    pub(crate) head_after_ms: f64,
    /// Of the answer's body, if its head says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) body_bytes: Option<u64>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trouble: Option<String>,
    /// Its `X-Request-Id`: its client's, or the one that the front has made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request_id: Option<String>,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FateInfo {
    /// All of the answer was in the store. These are counted and not listed.
    Hit,
    /// Something had to be fetched, from other nodes or a registry.
    Fetched,
    /// The registry's own answer was handed through.
    Passed,
    /// For a reason in the request, or for what the registry says of it.
    Refused,
    /// For trouble of this node, the cluster or a registry.
    Failed,
    /// From a later version.
    #[serde(other)]
    Other,
}

impl LatestInfo {
    /// Those behind that number.
    pub(super) fn of(recent: &Recent, after: u64) -> Self {
        let requests: Vec<_> = recent.after(after).into_iter().map(RequestInfo::from).collect();
        let last = requests.last().map_or_else(|| recent.last_number(), |request| request.number);
        Self { requests, last }
    }
}

impl From<Note> for RequestInfo {
    fn from(note: Note) -> Self {
        let at = note.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            number: note.number,
            at_unix_ms: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
            fate: match note.fate {
                Fate::Hit => FateInfo::Hit,
                Fate::Fetched => FateInfo::Fetched,
                Fate::Passed => FateInfo::Passed,
                Fate::Refused => FateInfo::Refused,
                Fate::Failed => FateInfo::Failed,
            },
            method: note.question.method.into(),
            path: note.question.path.into(),
            registry: note.question.registry.map(String::from),
            status: note.status.as_u16(),
            head_after_ms: note.head_after.as_secs_f64() * 1e3,
            body_bytes: note.body_bytes,
            trouble: note.trouble.map(String::from),
            request_id: note.request_id.map(String::from),
        }
    }
}
