//! Boot lists of contents, as nodes have sent them: bounded, the one that was used longest ago goes first.
//!
//! The first list of a content stays: a later boot follows it anyway, and a node that lies about its boot costs the
//! others a prefetch in vain, no more.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use darter_engine::ContentId;

use super::Books;
use crate::boot_list::BootList;
use crate::wire::BootRun;

/// Runs of all lists together: 16 MiB.
const RUNS_MAX: usize = 2 << 20;
/// Lists.
const LISTS_MAX: usize = 16_384;

const _: () = assert!(RUNS_MAX * size_of::<BootRun>() <= 16 << 20);
const _: () = assert!(RUNS_MAX >= crate::wire::BOOT_RUNS_MAX, "one list has room");

/// What is remembered of boots.
#[derive(Debug, Default)]
pub(super) struct Boots {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    lists: HashMap<ContentId, (BootList, u64)>,
    runs: usize,
    clock: u64,
}

impl Boots {
    /// A node has booted. An empty list says nothing.
    pub(super) fn booted(&self, content: ContentId, list: BootList) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if list.is_empty() || inner.lists.contains_key(&content) {
            return;
        }
        inner.make_room(list.len());
        inner.clock += 1;
        inner.runs += list.len();
        let now = inner.clock;
        inner.lists.insert(content, (list, now));
    }

    /// How a boot reads this; empty if nobody has said.
    pub(super) fn recall(&self, content: &ContentId) -> BootList {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clock += 1;
        let now = inner.clock;
        let found = inner.lists.get_mut(content).map(|(list, used)| {
            *used = now;
            list.clone()
        });
        found.unwrap_or_default()
    }
}

impl Books {
    /// How a boot reads this, as nodes have told this one; empty if none has.
    pub(crate) fn recall(&self, content: &ContentId) -> BootList {
        self.boots.recall(content)
    }

    /// A node has booted from this.
    pub(crate) fn booted(&self, content: ContentId, list: BootList) {
        self.boots.booted(content, list);
    }
}

impl Inner {
    /// Drops an eighth of the lists, at least one, as often as it takes.
    fn make_room(&mut self, runs: usize) {
        while self.runs + runs > RUNS_MAX || self.lists.len() >= LISTS_MAX {
            let mut by_age: Vec<(u64, ContentId)> =
                self.lists.iter().map(|(content, (_, used))| (*used, *content)).collect();
            by_age.sort_unstable();
            for (_, content) in by_age.iter().take(by_age.len().div_ceil(8)) {
                self.runs -= self.lists.remove(content).map_or(0, |(list, _)| list.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{BOOT_RUNS_MAX, List};

    fn content(number: u32) -> ContentId {
        ContentId::of_name(&number.to_string())
    }

    fn list(runs: usize) -> BootList {
        List::first_of(vec![BootRun { first: runs as u32, count: 1 }; runs])
    }

    #[test]
    fn the_first_list_stays() {
        let boots = Boots::default();
        boots.booted(content(1), list(0));
        boots.booted(content(1), list(3));
        boots.booted(content(1), list(4));
        assert_eq!((boots.recall(&content(1)).len(), boots.recall(&content(2)).len()), (3, 0));
    }

    #[test]
    fn a_flood_of_lists_is_bounded_and_what_is_used_stays() {
        let boots = Boots::default();
        boots.booted(content(0), list(7));
        for number in 1..1000 {
            boots.booted(content(number), list(BOOT_RUNS_MAX));
            assert!(boots.inner.lock().unwrap().runs <= RUNS_MAX);
            assert_eq!(boots.recall(&content(0)).len(), 7);
        }
        for number in 1000..1000 + 2 * LISTS_MAX as u32 {
            boots.booted(content(number), list(1));
            assert!(boots.inner.lock().unwrap().lists.len() <= LISTS_MAX);
        }
        let inner = boots.inner.lock().unwrap();
        assert_eq!(inner.runs, inner.lists.values().map(|(list, _)| list.len()).sum::<usize>());
    }
}
