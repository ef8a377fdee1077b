//! What the front has answered lately, for people to look at.
//!
//! Those requests are remembered that were no plain hits, the latest [`NOTES_MAX`] of them: a hit takes no lock here and
//! allocates nothing, and by their number hits would push out all that is worth reading. How many there were of all is
//! counted by the shards ([`Fates`](crate::metrics::Fates)).

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::StatusCode;

use crate::config::Registry;
use crate::metrics::{Fate, Source};

/// Requests that are remembered.
pub(crate) const NOTES_MAX: usize = 128;
/// Characters of a path, or of what went wrong, that are remembered.
const TEXT_CHARS_MAX: usize = 300;

/// A request that was no plain hit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Note {
    /// Counts up from 1.
    pub(crate) number: u64,
    pub(crate) at: SystemTime,
    pub(crate) fate: Fate,
    pub(crate) question: Question,
    pub(crate) status: StatusCode,
    /// From the request to the head of its answer.
    pub(crate) head_after: Duration,
    /// Length of the body as the head says it.
    pub(crate) body_bytes: Option<u64>,
    /// What went wrong.
    pub(crate) trouble: Option<Box<str>>,
    /// Its name in logs and in its answer, if it has one.
    pub(crate) request_id: Option<Box<str>>,
}

/// What was asked, without the query: there may be a signature in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Question {
    pub(crate) method: Box<str>,
    pub(crate) path: Box<str>,
    /// As `scheme://host[:port]`, if the request got so far.
    pub(crate) registry: Option<Box<str>>,
}

impl Question {
    pub(super) fn new(method: &str, path: &str, registry: Option<&Registry>) -> Self {
        let registry = registry.map(|registry| registry.to_string().into());
        Self { method: cut(method), path: cut(path), registry }
    }
}

/// How a request was answered.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) source: Source,
    pub(super) status: StatusCode,
    pub(super) head_after: Duration,
    pub(super) body_bytes: Option<u64>,
    pub(super) trouble: Option<String>,
    pub(super) request_id: Option<Box<str>>,
}

/// Of all shards together.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<Notes>);

#[derive(Debug, Default)]
struct Notes {
    latest: VecDeque<Note>,
    last_number: u64,
    /// By itself, since others may push it out of the latest: when it was, and why if that is known.
    last_failure: Option<(Instant, Option<Box<str>>)>,
}

impl Recent {
    /// Remembers a request that was no plain hit.
    pub(super) fn note(&self, question: Question, fate: Fate, reply: Reply) {
        let Reply { source, status, head_after, body_bytes, trouble, request_id } = reply;
        let trouble = trouble.as_deref().map(cut);
        let mut notes = self.notes();
        let at = SystemTime::now();
        notes.last_number += 1;
        let number = notes.last_number;
        if fate == Fate::Failed {
            let of_registry = || format!("the registry's own answer was {status}").into();
            let why = trouble.clone().or_else(|| (source == Source::Pass).then(of_registry));
            notes.last_failure = Some((Instant::now(), why));
        }
        if notes.latest.len() >= NOTES_MAX {
            notes.latest.pop_front();
        }
        notes.latest.push_back(Note {
            number,
            at,
            fate,
            question,
            status,
            head_after,
            body_bytes,
            trouble,
            request_id,
        });
    }

    /// Why the last request that failed did, if that is known and was within that time.
    pub(crate) fn failed_within(&self, time: Duration) -> Option<Box<str>> {
        let notes = self.notes();
        let (at, why) = notes.last_failure.as_ref()?;
        why.clone().filter(|_| at.elapsed() <= time)
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cut(text: &str) -> Box<str> {
    let end = text.char_indices().nth(TEXT_CHARS_MAX).map_or(text.len(), |(at, _)| at);
    text[..end].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn note(recent: &Recent, source: Source, status: u16, path: &str, trouble: Option<&str>) {
        let fate = Fate::of(source, status).expect("no ping");
        let status = StatusCode::from_u16(status).unwrap();
        let trouble = trouble.map(str::to_owned);
        let reply =
            Reply { source, status, head_after: Duration::ZERO, body_bytes: None, trouble, request_id: None };
        recent.note(Question::new("GET", path, None), fate, reply);
    }

    #[test]
    fn what_was_no_hit_is_remembered() {
        let recent = Recent::default();
        note(&recent, Source::Origin, 206, "/fetched", None);
        note(&recent, Source::Origin, 403, "/secret", Some("it is a secret"));
        let seen: Vec<_> =
            recent.after(0).into_iter().map(|note| (note.number, note.fate, note.question.path)).collect();
        assert_eq!(seen, [(1, Fate::Fetched, "/fetched".into()), (2, Fate::Refused, "/secret".into())]);
        assert_eq!((recent.after(1).len(), recent.last_number()), (1, 2));
    }

    #[test]
    fn the_last_failure_outlives_what_comes_behind_it() {
        let recent = Recent::default();
        assert_eq!(recent.failed_within(LONG), None);
        note(&recent, Source::Own, 502, "/down", Some("the registry is down"));
        for _ in 0..NOTES_MAX {
            note(&recent, Source::Origin, 404, "/none", Some("there is no such thing"));
        }
        assert!(recent.after(0).iter().all(|note| note.fate != Fate::Failed));
        assert_eq!(recent.failed_within(LONG).as_deref(), Some("the registry is down"));
        assert_eq!(recent.failed_within(Duration::ZERO), None, "that is long ago");
        note(&recent, Source::Pass, 503, "/passed", None);
        let of_registry = "the registry's own answer was 503 Service Unavailable";
        assert_eq!(recent.failed_within(LONG).as_deref(), Some(of_registry));
        // Whose trouble that was nobody knows.
        note(&recent, Source::Cache, 500, "/odd", None);
        assert_eq!(recent.failed_within(LONG), None);
    }

    #[test]
    fn requests_without_end_take_a_bounded_place() {
        let recent = Recent::default();
        let long = "/é".repeat(10_000);
        for _ in 0..NOTES_MAX + 5 {
            note(&recent, Source::Pass, 200, &long, None);
        }
        let notes = recent.after(0);
        assert_eq!((notes.len(), notes[0].number), (NOTES_MAX, 6));
        assert!(notes.iter().all(|note| note.question.path.chars().count() == TEXT_CHARS_MAX));
    }
}
