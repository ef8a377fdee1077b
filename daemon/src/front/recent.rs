//! What the front has answered lately, for people to look at.
//!
//! All requests are counted by what became of them. Those that were no plain hit are remembered too, the latest
//! [`NOTES_MAX`] of them: a hit takes no lock here and allocates nothing, and by their number hits would push out all
//! that is worth reading.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http::StatusCode;

use crate::metrics::Source;

/// Requests that are remembered.
pub(crate) const NOTES_MAX: usize = 128;
/// Characters of a path, or of what went wrong, that are remembered.
const TEXT_CHARS_MAX: usize = 300;

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

impl Fate {
    /// `None` for a ping.
    fn of(source: Source, status: StatusCode) -> Option<Self> {
        Some(match source {
            _ if status.is_server_error() => Self::Failed,
            // A client that is told to bring a token, or that there is no such tag, has what it asked for.
            Source::Pass => Self::Passed,
            _ if status.is_client_error() => Self::Refused,
            Source::Cache => Self::Hit,
            Source::Peers | Source::Origin => Self::Fetched,
            Source::Own => return None,
        })
    }
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

/// A request that was no plain hit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Note {
    /// Counts up from 1.
    pub(crate) number: u64,
    pub(crate) at: SystemTime,
    pub(crate) fate: Fate,
    pub(crate) asked: Asked,
    pub(crate) status: StatusCode,
    /// From the request to the head of its answer.
    pub(crate) head_after: Duration,
    /// Length of the body as the head says it.
    pub(crate) body_bytes: Option<u64>,
    /// What went wrong.
    pub(crate) trouble: Option<Box<str>>,
}

/// What was asked, without the query: there may be a signature in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Asked {
    pub(crate) method: Box<str>,
    pub(crate) path: Box<str>,
    /// As `scheme://host[:port]`, if the request got so far.
    pub(crate) registry: Option<Box<str>>,
}

impl Asked {
    pub(super) fn new(method: &str, path: &str) -> Self {
        Self { method: cut(method), path: cut(path), registry: None }
    }
}

/// How a request was answered.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) source: Source,
    pub(super) status: StatusCode,
    pub(super) head_after: Duration,
    pub(super) body_bytes: Option<u64>,
    pub(super) trouble: Option<String>,
}

/// Of all shards together.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    hit: AtomicU64,
    fetched: AtomicU64,
    passed: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    latest: VecDeque<Note>,
    last_number: u64,
}

impl Recent {
    /// Counts a request. Takes no lock.
    pub(super) fn count(&self, source: Source, status: StatusCode) {
        let Some(fate) = Fate::of(source, status) else { return };
        let counter = match fate {
            Fate::Hit => &self.hit,
            Fate::Fetched => &self.fetched,
            Fate::Passed => &self.passed,
            Fate::Refused => &self.refused,
            Fate::Failed => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Remembers one that was no plain hit. It has been counted.
    pub(super) fn note(&self, asked: Asked, told: Told) {
        let Told { source, status, head_after, body_bytes, trouble } = told;
        let Some(fate) = Fate::of(source, status).filter(|fate| *fate != Fate::Hit) else { return };
        let trouble = trouble.as_deref().map(cut);
        let mut notes = self.notes();
        let at = SystemTime::now();
        notes.last_number += 1;
        let number = notes.last_number;
        if notes.latest.len() >= NOTES_MAX {
            notes.latest.pop_front();
        }
        notes.latest.push_back(Note { number, at, fate, asked, status, head_after, body_bytes, trouble });
    }

    /// How many there were.
    pub(crate) fn fates(&self) -> Fates {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Fates {
            hit: now(&self.hit),
            fetched: now(&self.fetched),
            passed: now(&self.passed),
            refused: now(&self.refused),
            failed: now(&self.failed),
        }
    }

    /// What went wrong with the last one that failed, if that is remembered.
    pub(crate) fn last_failure(&self) -> Option<Box<str>> {
        let notes = self.notes();
        notes.latest.iter().rev().find(|note| note.fate == Fate::Failed)?.trouble.clone()
    }

    /// The number of the latest that is remembered; 0 if none is.
    pub(crate) fn last_number(&self) -> u64 {
        self.notes().last_number
    }

    /// The remembered ones behind that number, in their order.
    pub(crate) fn after(&self, number: u64) -> Vec<Note> {
        self.notes().latest.iter().filter(|note| note.number > number).cloned().collect()
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cut(text: &str) -> Box<str> {
    let end = text.char_indices().nth(TEXT_CHARS_MAX).map_or(text.len(), |(at, _)| at);
    text[..end].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(source: Source, status: u16) -> Told {
        let status = StatusCode::from_u16(status).unwrap();
        Told { source, status, head_after: Duration::ZERO, body_bytes: None, trouble: None }
    }

    fn note(recent: &Recent, source: Source, status: u16, path: &str) {
        let told = told(source, status);
        recent.count(source, told.status);
        recent.note(Asked::new("GET", path), told);
    }

    #[test]
    fn hits_are_counted_and_the_rest_is_remembered() {
        let recent = Recent::default();
        note(&recent, Source::Cache, 206, "/hit");
        note(&recent, Source::Origin, 206, "/fetched");
        note(&recent, Source::Pass, 401, "/token");
        note(&recent, Source::Origin, 403, "/secret");
        note(&recent, Source::Cache, 416, "/beyond");
        note(&recent, Source::Own, 503, "/late");
        note(&recent, Source::Own, 200, "/server/ping");
        assert_eq!(recent.fates(), Fates { hit: 1, fetched: 1, passed: 1, refused: 2, failed: 1 });
        let seen: Vec<_> = recent.after(0).into_iter().map(|note| (note.number, note.asked.path)).collect();
        let expected = ["/fetched", "/token", "/secret", "/beyond", "/late"];
        assert_eq!(seen, (1..).zip(expected.map(Box::from)).collect::<Vec<_>>());
        assert_eq!(recent.after(4).len(), 1);
        assert_eq!((recent.last_number(), recent.last_failure()), (5, None));
        let trouble = Some("the registry is down".to_owned());
        recent.note(Asked::new("GET", "/down"), Told { trouble, ..told(Source::Own, 502) });
        note(&recent, Source::Origin, 404, "/none");
        assert_eq!(recent.last_failure().as_deref(), Some("the registry is down"));
    }

    #[test]
    fn requests_without_end_take_a_bounded_place() {
        let recent = Recent::default();
        let long = "/é".repeat(10_000);
        for _ in 0..NOTES_MAX + 5 {
            note(&recent, Source::Pass, 200, &long);
        }
        let notes = recent.after(0);
        assert_eq!((notes.len(), notes[0].number), (NOTES_MAX, 6));
        assert!(notes.iter().all(|note| note.asked.path.chars().count() == TEXT_CHARS_MAX));
    }
}
