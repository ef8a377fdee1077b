//! Which piece goes when room is needed: S3-FIFO, as pure code.
//!
//! New pieces enter a small queue (a tenth of the slots). One that was wanted again by the time it reaches the
//! end moves to the main queue; the others go, and leave a mark among the ghosts: a piece that comes back while
//! its mark stands enters the main queue at once. So a scan passes through the small queue and leaves the main
//! one as it was. After Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023.
//!
//! Heat is counted elsewhere, without a lock, by readers; whether a slot may go at all (leases, pins) is
//! the caller's answer at the moment of choice.

use std::collections::VecDeque;

pub use crate::slot::SlotIndex;

/// A slot in one generation: an entry that outlived its generation is dropped when it comes up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resident {
    /// Where the piece lives.
    pub slot: SlotIndex,
    /// Since when.
    pub generation: u32,
}

/// What the caller says of a slot that came up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Candidate {
    /// No longer held in that generation: forget the entry.
    Gone,
    /// Leased or pinned: keep it.
    Kept,
    /// May go; wanted again so often since it was last looked at, and what its mark is.
    Evictable {
        /// Touches that counted.
        heat: u8,
        /// Spread hash of content and piece.
        key: u64,
    },
}

/// The slots and pieces that eviction asks about.
pub trait Residents {
    /// What is in the slot now.
    fn candidate(&self, resident: Resident) -> Candidate;
    /// The piece stays for another round with this heat.
    fn cool(&self, resident: Resident, heat: u8);
    /// The piece is chosen. False if someone has leased it since: it stays.
    fn evict(&self, resident: Resident) -> bool;
}

/// The queues.
#[derive(Debug)]
pub struct S3Fifo {
    small: VecDeque<Resident>,
    main: VecDeque<Resident>,
    ghosts: Ghosts,
    small_target: usize,
}

impl S3Fifo {
    /// For so many slots, all of them free.
    pub fn new(slots: u32) -> Self {
        Self {
            small: VecDeque::new(),
            main: VecDeque::with_capacity(slots as usize),
            ghosts: Ghosts::new(slots),
            small_target: slots as usize / 10,
        }
    }

    /// A piece has come in.
    pub fn insert(&mut self, resident: Resident, key: u64) {
        if self.ghosts.forget(key) {
            self.main.push_back(resident);
        } else {
            self.small.push_back(resident);
        }
    }

    /// At start: pieces of earlier runs have proved nothing yet, and are not new either.
    pub fn restore(&mut self, resident: Resident) {
        self.main.push_back(resident);
    }

    /// Evicts up to `wanted` pieces; fewer when all that is left is leased or pinned. Each entry is looked at a
    /// bounded number of times: once per level of heat.
    pub fn evict(&mut self, wanted: usize, residents: &impl Residents) -> usize {
        const LOOKS_PER_ENTRY: usize = 5;
        let mut small_looks = self.small.len() * 2;
        let mut main_looks = self.main.len() * LOOKS_PER_ENTRY;
        let mut evicted = 0;
        while evicted < wanted {
            let main_is_spent = self.main.is_empty() || main_looks == 0;
            let from_small = self.small.len() > self.small_target || main_is_spent;
            let small = from_small && small_looks > 0;
            let (queue, looks) = match small {
                true => (&mut self.small, &mut small_looks),
                false if main_is_spent => break,
                false => (&mut self.main, &mut main_looks),
            };
            *looks -= 1;
            let Some(resident) = queue.pop_front() else { continue };
            match residents.candidate(resident) {
                Candidate::Gone => {}
                Candidate::Kept => queue.push_back(resident),
                Candidate::Evictable { heat, .. } if heat > 0 => {
                    // A promotion starts afresh; a piece of the main queue cools by one each round.
                    residents.cool(resident, if small { 0 } else { heat - 1 });
                    self.main.push_back(resident);
                }
                Candidate::Evictable { key, .. } => {
                    if residents.evict(resident) {
                        evicted += 1;
                        if small {
                            self.ghosts.remember(key);
                        }
                    } else {
                        queue.push_back(resident);
                    }
                }
            }
        }
        evicted
    }

    /// Drops entries of pieces that went by another way than eviction, when they have become many.
    pub fn prune(&mut self, slots: u32, is_held: impl Fn(Resident) -> bool) {
        if self.small.len() + self.main.len() > 2 * slots as usize {
            self.small.retain(|resident| is_held(*resident));
            self.main.retain(|resident| is_held(*resident));
        }
    }
}

/// Marks of pieces that went from the small queue: a direct-mapped table, in which newer marks overwrite older
/// ones. A wrong hit promotes a piece early, no more.
#[derive(Debug)]
struct Ghosts {
    marks: Vec<u32>,
}

impl Ghosts {
    fn new(slots: u32) -> Self {
        Self { marks: vec![0; slots.max(1) as usize] }
    }

    fn place(&self, key: u64) -> (usize, u32) {
        // Mark 0 means none.
        ((key % self.marks.len() as u64) as usize, (key >> 32) as u32 | 1)
    }

    fn remember(&mut self, key: u64) {
        let (place, mark) = self.place(key);
        self.marks[place] = mark;
    }

    fn forget(&mut self, key: u64) -> bool {
        let (place, mark) = self.place(key);
        let known = self.marks[place] == mark;
        if known {
            self.marks[place] = 0;
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::HashMap;

    /// A cache of unit pieces over the queues: key → (slot, heat).
    struct Cache {
        queues: S3Fifo,
        held: RefCell<HashMap<u64, (u32, u8)>>,
        by_slot: RefCell<HashMap<u32, u64>>,
        pinned: Vec<u64>,
        free: Vec<u32>,
    }

    fn spread(key: u64) -> u64 {
        key.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }

    impl Residents for Cache {
        fn candidate(&self, resident: Resident) -> Candidate {
            let Some(key) = self.by_slot.borrow().get(&resident.slot.0).copied() else {
                return Candidate::Gone;
            };
            if self.pinned.contains(&key) {
                return Candidate::Kept;
            }
            Candidate::Evictable { heat: self.held.borrow()[&key].1, key: spread(key) }
        }
        fn cool(&self, resident: Resident, heat: u8) {
            let key = self.by_slot.borrow()[&resident.slot.0];
            self.held.borrow_mut().get_mut(&key).unwrap().1 = heat;
        }
        fn evict(&self, resident: Resident) -> bool {
            let key = self.by_slot.borrow_mut().remove(&resident.slot.0).unwrap();
            self.held.borrow_mut().remove(&key);
            true
        }
    }

    impl Cache {
        fn new(slots: u32) -> Self {
            Self {
                queues: S3Fifo::new(slots),
                held: RefCell::default(),
                by_slot: RefCell::default(),
                pinned: vec![],
                free: (0..slots).collect(),
            }
        }

        /// Returns whether the key was there.
        fn want(&mut self, key: u64) -> bool {
            if let Some((_, heat)) = self.held.borrow_mut().get_mut(&key) {
                *heat = (*heat + 1).min(3);
                return true;
            }
            if self.free.is_empty() {
                let mut queues = std::mem::replace(&mut self.queues, S3Fifo::new(0));
                assert_eq!(queues.evict(1, self), 1);
                self.queues = queues;
                let used: Vec<u32> = self.by_slot.borrow().keys().copied().collect();
                self.free = (0..used.len() as u32 + 1).filter(|slot| !used.contains(slot)).collect();
            }
            let slot = self.free.pop().unwrap();
            self.held.borrow_mut().insert(key, (slot, 0));
            self.by_slot.borrow_mut().insert(slot, key);
            self.queues.insert(Resident { slot: SlotIndex(slot), generation: 0 }, spread(key));
            false
        }
    }

    #[test]
    fn a_scan_leaves_the_working_set_in_place() {
        let mut cache = Cache::new(100);
        for _ in 0..3 {
            (0..60).for_each(|key| _ = cache.want(key));
        }
        (1000..3000).for_each(|key| _ = cache.want(key));
        let kept = (0..60).filter(|key| cache.held.borrow().contains_key(key)).count();
        assert!(kept >= 55, "only {kept} of 60 survived a scan of 20 times the capacity");
    }

    #[test]
    fn what_is_pinned_stays() {
        let mut cache = Cache::new(20);
        cache.pinned = vec![3, 4];
        (0..500).for_each(|key| _ = cache.want(key));
        assert!(cache.held.borrow().contains_key(&3) && cache.held.borrow().contains_key(&4));
    }

    #[test]
    fn a_main_queue_full_of_pinned_pieces_does_not_shield_the_small_one() {
        let mut cache = Cache::new(100);
        (0..95).for_each(|key| _ = cache.want(key));
        (0..95).for_each(|key| _ = cache.want(key));
        cache.pinned = (0..95).collect();
        (1000..1100).for_each(|key| assert!(!cache.want(key)));
    }

    #[test]
    fn entries_of_pieces_that_went_another_way_do_not_pile_up() {
        let mut queues = S3Fifo::new(64);
        for generation in 0..10_000 {
            queues.insert(Resident { slot: SlotIndex(3), generation }, 1);
            queues.prune(64, |resident| resident.generation == generation);
        }
        assert!(queues.small.len() + queues.main.len() <= 129);
    }

    #[test]
    fn with_everything_pinned_the_search_ends() {
        let mut cache = Cache::new(20);
        (0..20).for_each(|key| _ = cache.want(key));
        cache.pinned = (0..20).collect();
        let mut queues = std::mem::replace(&mut cache.queues, S3Fifo::new(0));
        assert_eq!(queues.evict(1, &cache), 0);
    }

    #[test]
    fn a_piece_that_comes_back_soon_is_kept_longer() {
        let mut cache = Cache::new(50);
        (0..50).for_each(|key| _ = cache.want(key));
        (50..60).for_each(|key| _ = cache.want(key));
        let gone = (0..50).find(|key| !cache.held.borrow().contains_key(key)).unwrap();
        cache.want(gone);
        (100..140).for_each(|key| _ = cache.want(key));
        assert!(cache.held.borrow().contains_key(&gone));
    }
}
