//! The order in which a boot reads a content: recorded by the first nodes that boot an image, given to the next ones.
//!
//! A boot reads block after block, and each that is missing costs a way to the owner; only who has seen one knows what
//! comes next. A recorder notes the order of first touches as runs of neighbours. The list is bounded at
//! 64 KiB for a content ([`BOOT_RUNS_MAX`]); what a boot reads after that is not recorded.
//!
//! Whoever has a list follows the reader through it ([`Follower`]): as long as the reader touches what the list says,
//! the blocks ahead are wanted; a reader that does something else is not followed.

use std::collections::{HashMap, HashSet};

use darter_engine::{BlockIndex, BlockRun, Layout};

use crate::wire::{BOOT_RUNS_MAX, BootRun, List};

/// Blocks that a recorder remembers as touched, and that a follower brings: 1 GiB of a content, which takes a
/// link of 1 Gbit/s nine seconds. Whoever reads more is not starting.
const TOUCHED_MAX: usize = 16_384;
/// A follower is ahead of its reader by so many blocks at most: 4 MiB, 34 ms of a link of 1 Gbit/s.
const AHEAD_BLOCKS: usize = 64;
/// What it asks for at a time, unless the list ends: 1 MiB. A reader moves by single blocks, and each would be a request.
const CHUNK_BLOCKS: usize = 16;
/// A reader is followed once so many of its blocks are near each other on the list…
const BEGINS_ALIKE: usize = 2;
/// …and no longer when so many in a row are not on it.
const STRAYED: usize = 16;

const _: () = assert!(CHUNK_BLOCKS <= AHEAD_BLOCKS);

/// The runs of a boot, in their order.
pub type BootList = List<BootRun, BOOT_RUNS_MAX>;

/// Notes the order in which blocks of one content are first read.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    runs: Vec<BootRun>,
    touched: HashSet<u32>,
}

impl Recorder {
    /// Nothing was read yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Blocks are read. False once the list is full: the recorder can go.
    pub fn read(&mut self, run: BlockRun) -> bool {
        for block in run.blocks() {
            let number = block.number();
            if self.touched.contains(&number) {
                continue;
            }
            let full = self.runs.len() >= BOOT_RUNS_MAX;
            match self.runs.last_mut() {
                Some(last) if last.is_followed_by(number) => last.count += 1,
                _ if full => return false,
                _ => self.runs.push(BootRun { first: number, count: 1 }),
            }
            self.touched.insert(number);
            if self.touched.len() >= TOUCHED_MAX {
                return false;
            }
        }
        true
    }

    /// Whether the block was read.
    pub fn has(&self, block: BlockIndex) -> bool {
        self.touched.contains(&block.number())
    }

    /// The list so far.
    pub fn list(&self) -> BootList {
        List::first_of(self.runs.iter().cloned())
    }
}

impl BootRun {
    fn is_followed_by(&self, number: u32) -> bool {
        self.count < u16::MAX && u64::from(self.first) + u64::from(self.count) == u64::from(number)
    }
}

/// Walks with a reader through a list.
#[derive(Clone, Debug)]
pub struct Follower {
    /// The list's blocks, each once, as far as the content has them.
    order: Vec<BlockIndex>,
    /// Where each of them is in the order.
    places: HashMap<u32, usize>,
    /// Everything before this was asked for, or passed by.
    asked: usize,
    /// Where the reader was last.
    at: Option<usize>,
    alike: usize,
    strayed: usize,
}

impl Follower {
    /// Of a list that came from another node: what the content does not have is left out, and what is beyond 1 GiB.
    pub fn new(list: &[BootRun], layout: Layout) -> Self {
        let (mut order, mut places) = (Vec::new(), HashMap::new());
        'list: for run in list {
            for number in run.first..run.first.saturating_add(u32::from(run.count)) {
                let Some(block) = layout.block(number) else { break };
                if order.len() >= TOUCHED_MAX {
                    break 'list;
                }
                places.entry(number).or_insert_with(|| {
                    order.push(block);
                    order.len() - 1
                });
            }
        }
        Self { order, places, asked: 0, at: None, alike: 0, strayed: 0 }
    }

    /// A reader touches a block: the blocks to bring next, in their order. At most 64.
    pub fn read(&mut self, block: BlockIndex) -> &[BlockIndex] {
        let Some(at) = self.places.get(&block.number()).copied() else {
            self.strayed += 1;
            if self.strayed >= STRAYED {
                self.alike = 0;
            }
            return &[];
        };
        // Who jumps about on the list has to show again that it goes on as the list does.
        let is_near = self.at.is_some_and(|before| before.abs_diff(at) <= AHEAD_BLOCKS);
        self.alike = if is_near { self.alike + 1 } else { 1 };
        (self.at, self.strayed) = (Some(at), 0);
        if self.alike < BEGINS_ALIKE {
            return &[];
        }
        let end = (at + 1 + AHEAD_BLOCKS).min(self.order.len());
        // What the reader has passed needs no asking.
        let begin = self.asked.max(at + 1).min(end);
        if end - begin < CHUNK_BLOCKS && end < self.order.len() {
            return &[];
        }
        self.asked = self.asked.max(end);
        &self.order[begin..end]
    }

    /// Whether the reader has followed the list to its end, or the list is empty: nothing more will be asked for.
    pub fn is_done(&self) -> bool {
        self.asked >= self.order.len() && self.at.map_or(0, |at| at + 1) >= self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layout() -> Layout {
        Layout::new(100_000 * 65_536).unwrap()
    }

    fn run(first: u32, count: u32) -> BlockRun {
        layout().run(first, first + count).unwrap()
    }

    fn numbers(blocks: &[BlockIndex]) -> Vec<u32> {
        blocks.iter().map(|block| block.number()).collect()
    }

    #[test]
    fn the_order_of_first_touches_is_recorded_in_runs() {
        let mut recorder = Recorder::new();
        for (first, count) in [(90, 2), (0, 1), (1, 3), (2, 1), (91, 2)] {
            assert!(recorder.read(run(first, count)));
        }
        let runs: Vec<(u32, u16)> = recorder.list().iter().map(|run| (run.first, run.count)).collect();
        assert_eq!(runs, [(90, 2), (0, 4), (92, 1)]);
    }

    #[test]
    fn a_boot_that_reads_all_over_fills_the_list_and_no_more() {
        let mut recorder = Recorder::new();
        let full = (0..50_000).find(|number| !recorder.read(run(number * 2, 1)));
        assert_eq!(full, Some(BOOT_RUNS_MAX as u32));
        assert_eq!(recorder.list().len(), BOOT_RUNS_MAX);
        let mut in_order = Recorder::new();
        assert!(!in_order.read(run(0, 100_000)), "a whole pull is no boot");
        assert!(in_order.touched.len() <= TOUCHED_MAX);
    }

    #[test]
    fn who_begins_alike_is_given_what_comes_next() {
        let list = [BootRun { first: 900, count: 2 }, BootRun { first: 0, count: 200 }];
        let mut follower = Follower::new(&list, layout());
        let block = |number| layout().block(number).unwrap();
        assert_eq!(numbers(follower.read(block(900))), []);
        let ahead = numbers(follower.read(block(901)));
        assert_eq!(ahead, (0..64).collect::<Vec<u32>>());
        assert_eq!(numbers(follower.read(block(0))), [], "one block more is no request");
        assert_eq!(numbers(follower.read(block(14))), []);
        assert_eq!(numbers(follower.read(block(15))), (64..80).collect::<Vec<u32>>());
        assert_eq!(numbers(follower.read(block(3))), [], "back again");
        assert_eq!(numbers(follower.read(block(60))), (80..125).collect::<Vec<u32>>());
        for number in 61..199 {
            follower.read(block(number));
        }
        assert!(!follower.is_done());
        assert_eq!(numbers(follower.read(block(199))), []);
        assert!(follower.is_done());
    }

    #[test]
    fn the_last_blocks_are_asked_for_however_few_they_are() {
        let mut follower = Follower::new(&[BootRun { first: 0, count: 70 }], layout());
        let block = |number| layout().block(number).unwrap();
        follower.read(block(0));
        assert_eq!(follower.read(block(1)).len(), 64);
        assert_eq!(numbers(follower.read(block(5))), [66, 67, 68, 69]);
    }

    #[test]
    fn who_jumps_has_to_show_again_where_it_goes() {
        let mut follower = Follower::new(&[BootRun { first: 0, count: 1000 }], layout());
        let block = |number| layout().block(number).unwrap();
        follower.read(block(0));
        assert!(!follower.read(block(1)).is_empty());
        assert_eq!(numbers(follower.read(block(999))), []);
        assert!(!follower.is_done(), "the end is no end of what was followed");
        assert_eq!(numbers(follower.read(block(500))), []);
        assert_eq!(numbers(follower.read(block(501))), (502..566).collect::<Vec<u32>>());
    }

    #[test]
    fn a_list_without_end_or_beyond_the_content_is_cut() {
        let endless = vec![BootRun { first: 0, count: u16::MAX }; BOOT_RUNS_MAX];
        assert_eq!(Follower::new(&endless, layout()).order.len(), TOUCHED_MAX);
        let beyond = [
            BootRun { first: 99_998, count: 7 },
            BootRun { first: u32::MAX, count: 9 },
            BootRun { first: 5, count: 0 },
        ];
        let follower = Follower::new(&beyond, layout());
        assert_eq!(numbers(&follower.order), [99_998, 99_999]);
        assert!(Follower::new(&[], layout()).is_done());
    }

    #[test]
    fn who_reads_something_else_is_not_followed() {
        let mut follower = Follower::new(&[BootRun { first: 0, count: 200 }], layout());
        let block = |number| layout().block(number).unwrap();
        assert_eq!(numbers(follower.read(block(5000))), []);
        follower.read(block(0));
        assert!(!follower.read(block(1)).is_empty());
        (0..STRAYED as u32).for_each(|number| _ = follower.read(block(6000 + number)));
        assert_eq!(numbers(follower.read(block(50))), []);
        assert!(!follower.read(block(51)).is_empty());
    }

    proptest! {
        /// A boot that does the same again asks for each block of the list once.
        #[test]
        fn a_boot_is_given_its_own_list(reads in prop::collection::vec((0..500u32, 1..20u32), 1..60)) {
            let mut recorder = Recorder::new();
            reads.iter().for_each(|(first, count)| _ = recorder.read(run(*first, *count)));
            let mut follower = Follower::new(&recorder.list(), layout());
            let mut given = Vec::new();
            for (first, count) in reads {
                for block in run(first, count).blocks() {
                    given.extend(numbers(follower.read(block)));
                }
            }
            let mut once = given.clone();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), given.len(), "no block is asked for twice");
            prop_assert!(given.iter().all(|number| recorder.touched.contains(number)));
        }

        #[test]
        fn a_list_of_another_node_does_no_harm(list in prop::collection::vec((any::<u32>(), any::<u16>()), 0..30), reads in prop::collection::vec(0..100_000u32, 0..50)) {
            let list: Vec<BootRun> = list.into_iter().map(|(first, count)| BootRun { first, count }).collect();
            let mut follower = Follower::new(&list, layout());
            prop_assert!(follower.order.len() <= TOUCHED_MAX);
            for number in reads {
                prop_assert!(follower.read(layout().block(number).unwrap()).len() <= AHEAD_BLOCKS);
            }
        }
    }
}
