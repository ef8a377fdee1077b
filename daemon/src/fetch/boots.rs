//! Boots under way at this node: contents that clients read lazily, all shards' together.
//!
//! A boot reads in single steps, and only who has seen one knows what comes next. So what it reads is noted until the
//! cluster says how an earlier boot went, and then that is followed: see [`Boot`]. Each boot has a task at
//! the shard that owns the content's fetch ([`Owner::accompany`](super::Owner)); reads come from all shards.
//!
//! A hit must cost nothing: whether a content may be one of these is a look at one counter.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use darter_engine::{BlockIndex, BlockRun, ContentId, Layout};
use darter_transport::boot::{Boot, RECORDED_MIN_BLOCKS};
use darter_transport::boot_list::BootList;

use super::demand::FetchKey;
use super::remembered::Remembered;

/// Boots under way at a node. A list and what follows it take 0.4 MiB at most, and usually a hundredth of that.
const BOOTS_MAX: usize = 128;
/// A content's boot is over for so long: what a program reads when it has started is no other boot.
const OVER_FOR: Duration = Duration::from_secs(600);
/// Counters by which it is seen whether a content is being booted from; a power of two.
const COUNTERS: usize = 1024;

/// The boots of a node.
#[derive(Debug)]
pub(crate) struct Boots {
    /// There is a cluster to ask.
    on: AtomicBool,
    counters: Box<[AtomicU32; COUNTERS]>,
    under_way: Mutex<UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    boots: HashMap<FetchKey, Boot>,
    over: Remembered,
}

impl Boots {
    /// None; none begins before [`Self::turn_on`].
    pub(super) fn new() -> Self {
        Self {
            on: AtomicBool::new(false),
            counters: Box::new([const { AtomicU32::new(0) }; COUNTERS]),
            under_way: Mutex::new(UnderWay { boots: HashMap::new(), over: Remembered::new(OVER_FOR) }),
        }
    }

    /// From now on what is read lazily is a boot.
    pub(super) fn turn_on(&self) {
        self.on.store(true, Ordering::Relaxed);
    }

    /// Whether a boot from this content may be under way; false for nearly all of which none is.
    pub(super) fn may_be_under_way(&self, id: &ContentId) -> bool {
        self.counter(id).load(Ordering::Relaxed) != 0
    }

    /// A boot begins, if there is none of this content and there was none lately.
    pub(super) fn begin(&self, key: FetchKey, layout: Layout, now: Instant) -> bool {
        // Of less no list is made, and no list says anything that one request does not.
        let is_long_enough = layout.block_count() >= RECORDED_MIN_BLOCKS;
        if !is_long_enough || !self.on.load(Ordering::Relaxed) {
            return false;
        }
        let mut under_way = self.under_way();
        let is_new = !under_way.boots.contains_key(&key) && !under_way.over.contains(&key);
        let begins = is_new && under_way.boots.len() < BOOTS_MAX;
        if begins {
            under_way.boots.insert(key, Boot::begin(layout, now));
            self.counter(&key.id).fetch_add(1, Ordering::Relaxed);
        }
        begins
    }

    /// A client reads these: what is to be brought ahead of it.
    pub(super) fn read(&self, key: &FetchKey, run: BlockRun, now: Instant) -> Vec<BlockIndex> {
        let mut under_way = self.under_way();
        under_way.boots.get_mut(key).map_or_else(Vec::new, |boot| boot.read(run, now))
    }

    /// What the cluster knows of such a boot: what is to be brought ahead of the client; `None` if it knows nothing.
    pub(super) fn recalled(&self, key: &FetchKey, list: &BootList) -> Option<Vec<BlockIndex>> {
        let mut under_way = self.under_way();
        let boot = under_way.boots.get_mut(key)?;
        let ahead = boot.recalled(list);
        boot.follows().then_some(ahead)
    }

    /// Whether the boot is over; then it is forgotten, and this is what the owner of the content is to be told.
    pub(super) fn end_if_over(&self, key: &FetchKey, now: Instant) -> Option<Option<BootList>> {
        let mut under_way = self.under_way();
        if under_way.boots.get(key).is_some_and(|boot| !boot.is_over(now)) {
            return None;
        }
        let list = under_way.boots.remove(key).map(|boot| {
            self.counter(&key.id).fetch_sub(1, Ordering::Relaxed);
            under_way.over.insert(*key);
            boot.end()
        });
        Some(list.flatten())
    }

    /// The boot was not taken up.
    pub(super) fn give_up(&self, key: &FetchKey) {
        if self.under_way().boots.remove(key).is_some() {
            self.counter(&key.id).fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn counter(&self, id: &ContentId) -> &AtomicU32 {
        &self.counters[id.spread() as usize % COUNTERS]
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darter_engine::{Naming, RegistryScope};
    use darter_transport::boot::RESTS;
    use darter_transport::wire::{BootRun, List};

    fn key(number: u32) -> FetchKey {
        let id = ContentId::of_name(&number.to_string());
        FetchKey { id, scope: RegistryScope::of_origin("http://registry"), naming: Naming::Digest }
    }

    fn layout() -> Layout {
        Layout::new(1000 << 16).unwrap()
    }

    fn run(first: u32, count: u32) -> BlockRun {
        layout().run(first, first + count).unwrap()
    }

    fn on() -> Boots {
        let boots = Boots::new();
        boots.turn_on();
        boots
    }

    #[test]
    fn without_a_cluster_nothing_is_noted() {
        let boots = Boots::new();
        assert!(!boots.begin(key(1), layout(), Instant::now()));
        assert!(!boots.may_be_under_way(&key(1).id));
    }

    #[test]
    fn a_boot_is_told_once_and_not_begun_again_soon() {
        let (boots, now) = (on(), Instant::now());
        assert!(boots.begin(key(1), layout(), now) && !boots.begin(key(1), layout(), now));
        assert!(boots.may_be_under_way(&key(1).id));
        boots.read(&key(1), run(0, 20), now);
        assert_eq!(boots.recalled(&key(1), &List::default()), None);
        assert!(boots.end_if_over(&key(1), now).is_none());
        let list = boots.end_if_over(&key(1), now + RESTS).unwrap().unwrap();
        assert_eq!(list, List::first_of([BootRun { first: 0, count: 20 }]));
        assert!(!boots.may_be_under_way(&key(1).id));
        assert!(!boots.begin(key(1), layout(), now));
        assert_eq!(boots.end_if_over(&key(1), now), Some(None));
    }

    #[test]
    fn what_another_boot_read_is_brought_ahead() {
        let (boots, now) = (on(), Instant::now());
        boots.begin(key(1), layout(), now);
        boots.read(&key(1), run(900, 1), now);
        let list = List::first_of([BootRun { first: 900, count: 2 }, BootRun { first: 0, count: 9 }]);
        assert_eq!(boots.recalled(&key(1), &list), Some(Vec::new()), "it must begin alike first");
        let ahead = boots.read(&key(1), run(901, 1), now);
        assert_eq!(ahead, run(0, 9).blocks().collect::<Vec<_>>());
        assert!(boots.read(&key(2), run(0, 1), now).is_empty());
    }

    #[test]
    fn what_is_read_at_once_is_no_boot() {
        let small = |blocks: u32| Layout::new(u64::from(blocks) << 16).unwrap();
        assert!(!on().begin(key(1), small(RECORDED_MIN_BLOCKS - 1), Instant::now()));
        assert!(on().begin(key(1), small(RECORDED_MIN_BLOCKS), Instant::now()));
    }

    #[test]
    fn there_are_not_too_many() {
        let (boots, now) = (on(), Instant::now());
        for number in 0..BOOTS_MAX as u32 {
            assert!(boots.begin(key(number), layout(), now));
        }
        assert!(!boots.begin(key(9999), layout(), now));
        boots.give_up(&key(3));
        assert!(boots.begin(key(9999), layout(), now));
    }
}
