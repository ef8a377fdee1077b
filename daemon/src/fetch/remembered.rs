//! Contents of which something was true lately: bounded in number and in time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::demand::FetchKey;

/// Contents that one memory holds.
const REMEMBERED_MAX: usize = 4096;

/// Contents of which something was true lately.
#[derive(Debug)]
pub(super) struct Remembered {
    since: HashMap<FetchKey, Instant>,
    lasts: Duration,
}

impl Remembered {
    pub(super) fn new(lasts: Duration) -> Self {
        Self { since: HashMap::new(), lasts }
    }

    pub(super) fn contains(&self, key: &FetchKey) -> bool {
        self.since.get(key).is_some_and(|since| since.elapsed() < self.lasts)
    }

    /// When all places are taken by fresh ones, the new one is not remembered.
    pub(super) fn insert(&mut self, key: FetchKey) {
        if self.since.len() >= REMEMBERED_MAX {
            let lasts = self.lasts;
            self.since.retain(|_, since| since.elapsed() < lasts);
        }
        if self.since.len() < REMEMBERED_MAX {
            self.since.insert(key, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darter_engine::{ContentId, Naming, RegistryScope};

    fn key(number: u32) -> FetchKey {
        let id = ContentId::of_name(&number.to_string());
        FetchKey { id, scope: RegistryScope::of_origin("http://registry"), naming: Naming::Digest }
    }

    #[test]
    fn what_is_remembered_is_forgotten_in_time_and_takes_a_bounded_room() {
        let mut long = Remembered::new(Duration::from_secs(60));
        (0..=REMEMBERED_MAX as u32).for_each(|number| long.insert(key(number)));
        assert!(long.contains(&key(0)));
        assert!(!long.contains(&key(REMEMBERED_MAX as u32)), "there was no room for it");
        let mut short = Remembered::new(Duration::ZERO);
        short.insert(key(1));
        assert!(!short.contains(&key(1)));
    }
}
