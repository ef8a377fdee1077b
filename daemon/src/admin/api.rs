//! What the admin API says, in JSON: written by the daemon, read by the commands.
//!
//! Lengths are in bytes, times in Unix seconds. A name that is here stays; more may come.

use serde::{Deserialize, Serialize};

use super::cells::CellsInfo;
use crate::config::{self, Change, Changes};
use crate::reload::Reloaded;

/// Where the API begins.
pub(crate) const ROOT: &str = "/api/v1";
/// A head of answers that are not the admin port's own but those of a registry, or of the front in its place.
pub(crate) const PASSED_ON: &str = "x-darter-passed-on";
/// Contents of one page where the request does not say.
pub(crate) const PAGE_DEFAULT: usize = 100;
/// Contents of one page at most, but for copies of its last content under further registries.
pub(crate) const PAGE_MAX: usize = 1000;
/// The same where each comes with its cells: every piece of it is looked at.
pub(crate) const CELLS_PAGE_MAX: usize = 200;

/// `GET /api/v1/store`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoreInfo {
    pub(crate) version: String,
    /// `ring` or `pool`.
    pub(crate) io: String,
    pub(crate) capacity_bytes: u64,
    pub(crate) used_bytes: u64,
    pub(crate) contents: u64,
    pub(crate) leases: u64,
    pub(crate) buffer_bytes: u64,
    /// From here on: since the daemon's start.
    pub(crate) evicted_pieces: u64,
    pub(crate) blocks_checked: u64,
    pub(crate) checks_failed: u64,
    pub(crate) hot_reads: u64,
    pub(crate) cold_reads: u64,
    pub(crate) refused_reservations: u64,
    pub(crate) written_bytes: u64,
    /// By the scrub, and by verifications.
    pub(crate) scrubbed_blocks: u64,
    /// Bad on the disk; their pieces were dropped.
    pub(crate) scrubbed_bad_blocks: u64,
    /// Whole contents that were others than their digests say, and are removed.
    pub(crate) scrubbed_wrong_digests: u64,
    pub(crate) scrub: ScrubInfo,
}

/// How far the scrub is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ScrubInfo {
    /// False where `storage.scrub.rate` is 0.
    pub(crate) on: bool,
    /// Under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) round: Option<ScrubRoundInfo>,
    /// The last whole round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<ScrubEndInfo>,
}

/// A round under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ScrubRoundInfo {
    pub(crate) begun_at: u64,
    /// Because the daemon had not been stopped in order.
    pub(crate) after_unclean_stop: bool,
    /// Where it is: the content's place in the table of records, and the piece.
    pub(crate) place: u32,
    pub(crate) piece: u32,
    pub(crate) checked_blocks: u64,
    pub(crate) bad_blocks: u64,
}

/// A round that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ScrubEndInfo {
    pub(crate) ended_at: u64,
    pub(crate) checked_blocks: u64,
    pub(crate) bad_blocks: u64,
}

/// `GET /api/v1/contents`, in the order of the ids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) contents: Vec<ContentInfo>,
    /// Ask again with `after` set to this for the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
}

/// `GET /api/v1/contents/ID`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContentInfo {
    /// `sha256:…` of the bytes, or `url:…` of the name of a content that no digest names.
    pub(crate) id: String,
    pub(crate) length_bytes: u64,
    pub(crate) held_bytes: u64,
    /// Of the whole content; a piece has 256 KiB.
    pub(crate) pieces: u32,
    /// Of which something is here.
    pub(crate) held_pieces: u32,
    /// That are here in full and are found again after a crash.
    pub(crate) durable_pieces: u32,
    pub(crate) verification: VerificationInfo,
    /// Bytes of the whole digest that are hashed, while it is pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hashed_bytes: Option<u64>,
    pub(crate) media_type: String,
    /// That the bytes came from.
    pub(crate) registry: String,
    /// Served under every registry, because its digest was right.
    pub(crate) shared: bool,
    pub(crate) pinned: bool,
    pub(crate) created_at: u64,
    /// To within some minutes.
    pub(crate) used_at: u64,
    /// If asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cells: Option<CellsInfo>,
}

/// How far the bytes are proved to be those of the digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum VerificationInfo {
    /// The whole digest was right.
    Passed,
    /// Not all bytes have come or been hashed.
    Pending,
    /// The whole digest was wrong.
    Wrong,
    /// No digest names it.
    Unprovable,
}

/// `DELETE /api/v1/contents/ID`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Removed {
    pub(crate) id: String,
    /// That were held.
    pub(crate) removed_bytes: u64,
}

/// `POST /api/v1/contents/ID/verify`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct VerifiedInfo {
    pub(crate) id: String,
    /// A block has 64 KiB.
    pub(crate) checked_blocks: u32,
    /// Not what was written, or unreadable: their pieces are dropped, and fetched again when they are wanted.
    pub(crate) bad_blocks: u32,
    pub(crate) absent_blocks: u32,
    pub(crate) digest: DigestInfo,
}

/// What a verification says of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DigestInfo {
    /// It is the content that its name says.
    Right,
    /// It is another; it has been removed.
    Wrong,
    /// Not all of it is here, or no digest names it.
    Unknown,
}

/// `POST /api/v1/reload`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ReloadedInfo {
    /// That was read; none if the daemon was started without one.
    pub(crate) file: Option<String>,
    /// Holds now.
    pub(crate) taken_up: Vec<ChangeInfo>,
    /// Goes on as it was, until the next start.
    pub(crate) need_restart: Vec<ChangeInfo>,
    pub(crate) warnings: Vec<String>,
}

/// A key whose value is another than before; of a list, the list as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ChangeInfo {
    pub(crate) key: String,
    pub(crate) old: String,
    pub(crate) new: String,
}

impl ReloadedInfo {
    pub(super) fn new(file: Option<String>, Reloaded { changes, warnings }: Reloaded) -> Self {
        let infos = |changes: Vec<Change>| changes.into_iter().map(ChangeInfo::from).collect();
        let Changes { at_once, at_restart } = changes;
        Self { file, taken_up: infos(at_once), need_restart: infos(at_restart), warnings }
    }
}

impl From<Change> for ChangeInfo {
    fn from(Change { key, old, new }: Change) -> Self {
        Self { key, old, new }
    }
}

/// The body of a refusal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Refused {
    pub(crate) error: Problem,
}

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// Of a configuration that is not taken up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) problems: Vec<ConfigProblem>,
}

/// One wrong key or value of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConfigProblem {
    /// `FILE:LINE`, or the flag.
    pub(crate) place: String,
    /// Empty when the file is no YAML.
    pub(crate) key: String,
    /// What is wrong, and what is allowed.
    pub(crate) text: String,
}

impl From<&config::Problem> for ConfigProblem {
    fn from(problem: &config::Problem) -> Self {
        Self { place: problem.source.to_string(), key: problem.key.clone(), text: problem.text.clone() }
    }
}

/// What a program may act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Code {
    NotFound,
    /// No id, or a configuration that is not right.
    BadRequest,
    Ambiguous,
    MethodNotAllowed,
    /// The guard of state-changing calls.
    Forbidden,
    /// It wants a token from another machine.
    Unauthorized,
    Busy,
    Failed,
    /// From a later version.
    #[serde(other)]
    Other,
}
