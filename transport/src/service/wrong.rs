//! Contents whose bytes have turned out to be wrong, for a minute: bounded.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use darter_engine::{ContentId, Scope};

/// How long a content is refused after its digest was wrong.
pub(super) const WRONG_FOR: Duration = Duration::from_secs(60);
/// Contents that are remembered; of more than that the oldest are forgotten.
const CONTENTS_MAX: usize = 1024;

/// What is wrong.
#[derive(Debug, Default)]
pub(super) struct WrongContents {
    since: Mutex<HashMap<(ContentId, Scope), Instant>>,
}

impl WrongContents {
    /// The bytes of a content are wrong.
    pub(super) fn note(&self, content: ContentId, scope: Scope, now: Instant) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.len() >= CONTENTS_MAX {
            since.retain(|_, noted| now.saturating_duration_since(*noted) < WRONG_FOR);
        }
        if since.len() >= CONTENTS_MAX
            && let Some(oldest) = since.iter().min_by_key(|(_, noted)| **noted).map(|(key, _)| *key)
        {
            since.remove(&oldest);
        }
        since.insert((content, scope), now);
    }

    /// Whether they were, within the last minute.
    pub(super) fn is_wrong(&self, content: &ContentId, scope: Scope, now: Instant) -> bool {
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.get(&(*content, scope)).is_some_and(|noted| now.saturating_duration_since(*noted) < WRONG_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_for_a_minute_and_bounded() {
        let (wrong, now) = (WrongContents::default(), Instant::now());
        let content = |number: u32| ContentId::of_name(&number.to_string());
        wrong.note(content(0), Scope::Verified, now);
        assert!(wrong.is_wrong(&content(0), Scope::Verified, now + Duration::from_secs(59)));
        assert!(!wrong.is_wrong(&content(0), Scope::Verified, now + WRONG_FOR));
        for number in 1..3000 {
            wrong.note(content(number), Scope::Verified, now + Duration::from_millis(number.into()));
        }
        assert_eq!(wrong.since.lock().unwrap().len(), CONTENTS_MAX);
        assert!(wrong.is_wrong(&content(2999), Scope::Verified, now + Duration::from_secs(3)));
        assert!(!wrong.is_wrong(&content(0), Scope::Verified, now + Duration::from_secs(3)));
    }
}
