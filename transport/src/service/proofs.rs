//! What the registry has said of who may read what: asked once for all who ask alike, repeated for as long as it lasts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use darter_engine::ContentId;
use tokio::sync::watch;

use super::board::ErrandKey;
use crate::wire::{Proof, Refused};

/// Answers that are remembered or awaited.
const PROOFS_MAX: usize = 8192;
/// Bytes of the verdicts of all of them.
const VERDICT_BYTES_MAX: usize = 4 << 20;
/// No answer is repeated for longer, whatever the registry says.
const LASTS_MAX: Duration = Duration::from_secs(3600);

type Answer = Option<Result<Proof, Refused>>;

/// The answers, by content and errand.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<Key, Entry>,
    verdict_bytes: usize,
}

/// A content, and the errand of who asks.
pub(super) type Key = (ContentId, ErrandKey);

#[derive(Debug)]
enum Entry {
    Asked(watch::Receiver<Answer>),
    Known(Proof, Instant),
}

/// What to do about a request.
#[derive(Debug)]
pub(super) enum Asking {
    /// It is known, and lasts so long still.
    Known(Proof),
    /// Somebody is asking.
    Wait(watch::Receiver<Answer>),
    /// The caller is to ask the registry, and to say what came of it.
    Ask(Asker),
    /// Too much is being asked.
    Full,
}

/// Who asks the registry. Dropped without an answer, the others ask for themselves.
#[derive(Debug)]
pub(super) struct Asker {
    proofs: Arc<Proofs>,
    key: Key,
    answer: watch::Sender<Answer>,
}

impl Proofs {
    /// Is this known, or being asked?
    pub(super) fn look_up(self: &Arc<Self>, key: Key, now: Instant) -> Asking {
        let mut inner = self.inner();
        match inner.entries.get(&key) {
            Some(Entry::Known(proof, until)) if now < *until => {
                let lasts_s = until.saturating_duration_since(now).as_secs().max(1) as u32;
                return Asking::Known(Proof { lasts_s, ..proof.clone() });
            }
            Some(Entry::Asked(answer)) => return Asking::Wait(answer.clone()),
            Some(Entry::Known(..)) | None => {}
        }
        inner.remove(&key);
        if inner.entries.len() >= PROOFS_MAX {
            inner.forget_the_oldest(now);
        }
        if inner.entries.len() >= PROOFS_MAX {
            return Asking::Full;
        }
        let (answer, waiting) = watch::channel(None);
        inner.entries.insert(key, Entry::Asked(waiting));
        Asking::Ask(Asker { proofs: self.clone(), key, answer })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asker {
    /// The registry's answer. What is refused is told to those who wait, and not remembered.
    pub(super) fn answered(self, answer: &Result<Proof, Refused>, now: Instant) {
        let mut inner = self.proofs.inner();
        inner.remove(&self.key);
        if let Ok(proof) = answer
            && proof.lasts_s > 0
        {
            let lasts = Duration::from_secs(proof.lasts_s.into()).min(LASTS_MAX);
            if inner.verdict_bytes + proof.verdict.len() > VERDICT_BYTES_MAX {
                inner.forget_the_oldest(now);
            }
            if inner.verdict_bytes + proof.verdict.len() <= VERDICT_BYTES_MAX {
                inner.verdict_bytes += proof.verdict.len();
                inner.entries.insert(self.key, Entry::Known(proof.clone(), now + lasts));
            }
        }
        drop(inner);
        self.answer.send_replace(Some(answer.clone()));
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        let mut inner = self.proofs.inner();
        let is_mine = match inner.entries.get(&self.key) {
            Some(Entry::Asked(answer)) => answer.same_channel(&self.answer.subscribe()),
            _ => false,
        };
        if is_mine {
            inner.remove(&self.key);
        }
    }
}

impl Inner {
    fn remove(&mut self, key: &Key) {
        if let Some(Entry::Known(proof, _)) = self.entries.remove(key) {
            self.verdict_bytes -= proof.verdict.len();
        }
    }

    /// Forgets what is over, or else the eighth that is over first.
    fn forget_the_oldest(&mut self, now: Instant) {
        let known = self.entries.iter().filter_map(|(key, entry)| match entry {
            Entry::Known(_, until) => Some((*until, *key)),
            Entry::Asked(_) => None,
        });
        let mut by_end: Vec<(Instant, Key)> = known.collect();
        by_end.sort_unstable();
        let over = by_end.iter().filter(|(until, _)| *until <= now).count();
        for (_, key) in by_end.iter().take(over.max(by_end.len().div_ceil(8))) {
            self.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::refusal::because;
    use crate::wire::{Code, Opaque};

    fn key(number: u32) -> Key {
        (ContentId::of_name(&number.to_string()), [0; 32])
    }

    fn proof(lasts_s: u32, verdict_bytes: usize) -> Proof {
        let verdict = Opaque::new(vec![0; verdict_bytes].into()).unwrap();
        Proof { granted: verdict_bytes == 0, lasts_s, verdict }
    }

    fn asker(asking: Asking) -> Asker {
        match asking {
            Asking::Ask(asker) => asker,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_is_asked_once_and_repeated_for_as_long_as_it_lasts() {
        let (proofs, now) = (Arc::new(Proofs::default()), Instant::now());
        let first = asker(proofs.look_up(key(1), now));
        let Asking::Wait(waiting) = proofs.look_up(key(1), now) else { panic!("asked twice") };
        first.answered(&Ok(proof(300, 0)), now);
        assert_eq!(waiting.borrow().clone(), Some(Ok(proof(300, 0))));
        let later = now + Duration::from_secs(100);
        let Asking::Known(known) = proofs.look_up(key(1), later) else { panic!("asked again") };
        assert_eq!(known, proof(200, 0));
        asker(proofs.look_up(key(1), now + Duration::from_secs(300)));
    }

    #[test]
    fn trouble_is_told_and_not_remembered_and_who_goes_away_leaves_nothing() {
        let (proofs, now) = (Arc::new(Proofs::default()), Instant::now());
        let first = asker(proofs.look_up(key(1), now));
        let Asking::Wait(waiting) = proofs.look_up(key(1), now) else { panic!("asked twice") };
        first.answered(&Err(because(Code::OriginTrouble, "down")), now);
        assert!(matches!(&*waiting.borrow(), Some(Err(refused)) if refused.reason() == Code::OriginTrouble));
        let second = asker(proofs.look_up(key(1), now));
        let Asking::Wait(waiting) = proofs.look_up(key(1), now) else { panic!("asked twice") };
        drop(second);
        assert!(waiting.has_changed().is_err(), "nobody asks any more");
        drop(asker(proofs.look_up(key(1), now)));
    }

    #[test]
    fn a_flood_of_errands_is_bounded() {
        let (proofs, now) = (Arc::new(Proofs::default()), Instant::now());
        for number in 0..3 * PROOFS_MAX as u32 {
            let bytes = number as usize % crate::wire::VERDICT_BYTES_MAX;
            asker(proofs.look_up(key(number), now)).answered(&Ok(proof(u32::MAX, bytes)), now);
            let inner = proofs.inner();
            assert!(inner.entries.len() <= PROOFS_MAX && inner.verdict_bytes <= VERDICT_BYTES_MAX);
        }
        let of_entry = |entry: &Entry| match entry {
            Entry::Known(proof, _) => proof.verdict.len(),
            Entry::Asked(_) => 0,
        };
        let inner = proofs.inner();
        assert_eq!(inner.verdict_bytes, inner.entries.values().map(of_entry).sum::<usize>());
        drop(inner);
        let (proofs, mut asking) = (Arc::new(Proofs::default()), Vec::new());
        (0..PROOFS_MAX as u32).for_each(|number| asking.push(proofs.look_up(key(number), now)));
        assert!(matches!(proofs.look_up(key(u32::MAX), now), Asking::Full));
    }
}
