//! Which blocks of one content are wanted, on their way, or about to be in the store: pure.
//!
//! A block is at rest (not in the plan: absent or in the store) or in exactly one of these states:
//!
//! ```text
//!   want            next_request          arrived            settled
//! ───────▶ Wanted ──────────────▶ Coming ─────────▶ Arrived ─────────▶ at rest
//!             ▲                      │
//!             └── want again ── failed (waiters are told)
//! ```
//!
//! A block that is coming belongs to one transfer, and only that one's failure is the block's: where an origin
//! sends the whole in answer to a range, transfers overlap. Bytes that have arrived are handed out at once while
//! buffers are plentiful; when they are not, waiters stay until the block is settled and read it from the store.
//!
//! This is the one place that coalesces: a block is asked of the origin by one request, whoever wants it.

use std::collections::BTreeMap;

use bytes::Bytes;
use darter_engine::{BlockIndex, BlockRun, Layout};

/// Blocks of one request to the origin: 4 MiB.
pub(crate) const REQUEST_BLOCKS_MAX: u32 = 64;
/// Waiters of one block: beyond that readers are told to come back.
pub(crate) const WAITERS_MAX: usize = 1024;

/// Which transfer brings a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TransferId(pub(crate) u64);

/// A waiter that was taken up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waiting {
    /// The first one, as far as is known: what is read ahead is nobody's.
    First,
    /// Beside one who is still there.
    WithOthers,
}

/// A waiter that was not taken up.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum NotWaiting<W> {
    /// The bytes are here already.
    Here(Bytes, W),
    /// Too many wait for this block.
    TooMany(W),
}

#[derive(Debug)]
enum State<W> {
    /// Nobody has asked the origin yet. Without waiters: read ahead.
    Wanted(Vec<W>),
    /// A transfer is to bring it.
    Coming(TransferId, Vec<W>),
    /// The bytes are here and are being written to the store; those who will read it from there.
    Arrived(Bytes, Vec<W>),
}

/// The blocks of one content that are not at rest.
#[derive(Debug)]
pub(crate) struct Plan<W> {
    layout: Layout,
    blocks: BTreeMap<u32, State<W>>,
    /// Order in which blocks were first wanted.
    queue: std::collections::VecDeque<u32>,
}

impl<W> Plan<W> {
    pub(crate) fn new(layout: Layout) -> Self {
        Self { layout, blocks: BTreeMap::new(), queue: std::collections::VecDeque::new() }
    }

    /// A reader wants a block that is not in the store. With `hand_out`, bytes that are here already are given;
    /// else the waiter waits until they are in the store. `alive` as in [`Self::next_request`].
    pub(crate) fn want(
        &mut self,
        block: BlockIndex,
        waiter: W,
        hand_out: bool,
        alive: impl Fn(&W) -> bool,
    ) -> Result<Waiting, NotWaiting<W>> {
        let waiters = match self.blocks.get_mut(&block.number()) {
            Some(State::Arrived(bytes, _)) if hand_out => {
                return Err(NotWaiting::Here(bytes.clone(), waiter));
            }
            Some(State::Wanted(waiters) | State::Coming(_, waiters) | State::Arrived(_, waiters)) => waiters,
            None => {
                self.enqueue(block, vec![waiter]);
                return Ok(Waiting::First);
            }
        };
        if waiters.len() >= WAITERS_MAX {
            waiters.retain(&alive);
        }
        if waiters.len() >= WAITERS_MAX {
            return Err(NotWaiting::TooMany(waiter));
        }
        let waiting = if waiters.iter().any(alive) { Waiting::WithOthers } else { Waiting::First };
        waiters.push(waiter);
        Ok(waiting)
    }

    /// A block that is not in the store will be wanted soon.
    pub(crate) fn want_ahead(&mut self, block: BlockIndex) {
        if !self.blocks.contains_key(&block.number()) {
            self.enqueue(block, Vec::new());
        }
    }

    fn enqueue(&mut self, block: BlockIndex, waiters: Vec<W>) {
        self.blocks.insert(block.number(), State::Wanted(waiters));
        self.queue.push_back(block.number());
    }

    /// The blocks of the next request: the one that was wanted first, with the wanted ones behind it. `alive` says
    /// whether a waiter is still there: blocks for which nobody waits any more are dropped.
    pub(crate) fn next_request(
        &mut self,
        transfer: TransferId,
        alive: impl Fn(&W) -> bool,
    ) -> Option<BlockRun> {
        while let Some(first) = self.queue.pop_front() {
            match self.blocks.get_mut(&first) {
                Some(State::Wanted(waiters)) => {
                    let was_demanded = !waiters.is_empty();
                    waiters.retain(&alive);
                    if was_demanded && waiters.is_empty() {
                        self.blocks.remove(&first);
                        continue;
                    }
                }
                _ => continue,
            }
            let behind = (first..first.saturating_add(REQUEST_BLOCKS_MAX))
                .take_while(|number| matches!(self.blocks.get(number), Some(State::Wanted(_))))
                .count() as u32;
            let run = self.layout.run(first, first + behind)?;
            self.begin(run, transfer);
            return Some(run);
        }
        None
    }

    /// A transfer is to bring these blocks; those that another one brings stay that one's.
    pub(crate) fn begin(&mut self, run: BlockRun, transfer: TransferId) {
        for block in run.blocks() {
            let state =
                self.blocks.entry(block.number()).or_insert_with(|| State::Coming(transfer, Vec::new()));
            if let State::Wanted(waiters) = state {
                *state = State::Coming(transfer, std::mem::take(waiters));
            }
        }
    }

    /// Bytes of a block have come. With `hand_out`, those who are to have them now; else they wait until the block
    /// is settled.
    pub(crate) fn arrived(&mut self, block: BlockIndex, bytes: Bytes, hand_out: bool) -> Vec<W> {
        let mut waiters = match self.blocks.remove(&block.number()) {
            Some(State::Wanted(waiters) | State::Coming(_, waiters) | State::Arrived(_, waiters)) => waiters,
            None => Vec::new(),
        };
        let now = if hand_out { std::mem::take(&mut waiters) } else { Vec::new() };
        self.blocks.insert(block.number(), State::Arrived(bytes, waiters));
        now
    }

    /// The block is in the store, or will not be kept; those who wait for that.
    pub(crate) fn settled(&mut self, block: BlockIndex) -> Vec<W> {
        match self.blocks.remove(&block.number()) {
            Some(State::Arrived(_, waiters)) => waiters,
            Some(other) => {
                self.blocks.insert(block.number(), other);
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    /// A transfer has ended without these blocks of its own; those who wait for them.
    pub(crate) fn failed(&mut self, run: BlockRun, transfer: TransferId) -> Vec<(BlockIndex, W)> {
        let mut waiting = Vec::new();
        for block in run.blocks() {
            if matches!(self.blocks.get(&block.number()), Some(State::Coming(id, _)) if *id == transfer)
                && let Some(State::Coming(_, waiters)) = self.blocks.remove(&block.number())
            {
                waiting.extend(waiters.into_iter().map(|waiter| (block, waiter)));
            }
        }
        waiting
    }

    /// A transfer has ended without these blocks of its own: those that somebody waits for are wanted as before.
    pub(crate) fn give_back(&mut self, run: BlockRun, transfer: TransferId) {
        for block in run.blocks() {
            let Some(State::Coming(id, waiters)) = self.blocks.get_mut(&block.number()) else { continue };
            if *id == transfer {
                let waiters = std::mem::take(waiters);
                self.blocks.remove(&block.number());
                if !waiters.is_empty() {
                    self.enqueue(block, waiters);
                }
            }
        }
    }

    /// Takes out those who wait for blocks of this transfer, and of whom `whether` is true.
    pub(crate) fn take_waiters(
        &mut self,
        run: BlockRun,
        transfer: TransferId,
        mut whether: impl FnMut(&W) -> bool,
    ) -> Vec<(BlockIndex, W)> {
        let mut taken = Vec::new();
        for block in run.blocks() {
            if let Some(State::Coming(id, waiters)) = self.blocks.get_mut(&block.number())
                && *id == transfer
            {
                let of_block = waiters.extract_if(.., |waiter| whether(waiter));
                taken.extend(of_block.map(|waiter| (block, waiter)));
            }
        }
        taken
    }

    /// The first who waits for a block of this transfer, and of whom `whether` is true.
    pub(crate) fn first_waiter(
        &self,
        run: BlockRun,
        transfer: TransferId,
        whether: impl Fn(&W) -> bool,
    ) -> Option<&W> {
        run.blocks().find_map(|block| match self.blocks.get(&block.number()) {
            Some(State::Coming(id, waiters)) if *id == transfer => {
                waiters.iter().find(|waiter| whether(waiter))
            }
            _ => None,
        })
    }

    /// Whether somebody waits for the block. `alive` as in [`Self::next_request`].
    pub(crate) fn is_awaited(&self, block: BlockIndex, alive: impl Fn(&W) -> bool) -> bool {
        match self.blocks.get(&block.number()) {
            Some(State::Wanted(waiters) | State::Coming(_, waiters)) => waiters.iter().any(alive),
            _ => false,
        }
    }

    /// Whether the block is at rest.
    pub(crate) fn at_rest(&self, block: BlockIndex) -> bool {
        !self.blocks.contains_key(&block.number())
    }

    /// Whether no transfer brings the block, and it is not here.
    pub(crate) fn is_open(&self, block: BlockIndex) -> bool {
        matches!(self.blocks.get(&block.number()), None | Some(State::Wanted(_)))
    }

    /// The blocks that are not at rest, in their order.
    pub(crate) fn moving(&self) -> impl Iterator<Item = u32> {
        self.blocks.keys().copied()
    }

    /// Whether every block is at rest.
    pub(crate) fn is_idle(&self) -> bool {
        self.blocks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIRST: TransferId = TransferId(1);
    const SECOND: TransferId = TransferId(2);

    fn want(plan: &mut Plan<u32>, block: BlockIndex, waiter: u32) -> Result<Waiting, NotWaiting<u32>> {
        plan.want(block, waiter, true, |_| true)
    }

    fn plan(blocks: u32) -> (Plan<u32>, Layout) {
        let layout = Layout::new(u64::from(blocks) << 16).unwrap();
        (Plan::new(layout), layout)
    }

    #[test]
    fn neighbours_are_asked_for_together_and_only_once() {
        let (mut plan, layout) = plan(200);
        for number in [5, 6, 7, 100] {
            want(&mut plan, layout.block(number).unwrap(), 1).unwrap();
        }
        want(&mut plan, layout.block(6).unwrap(), 2).unwrap();
        assert_eq!(plan.next_request(FIRST, |_| true), layout.run(5, 8));
        want(&mut plan, layout.block(7).unwrap(), 3).unwrap();
        assert_eq!(plan.next_request(FIRST, |_| true), layout.run(100, 101));
        assert_eq!(plan.next_request(FIRST, |_| true), None);
        assert_eq!(plan.arrived(layout.block(6).unwrap(), Bytes::new(), true), [1, 2]);
        assert_eq!(plan.arrived(layout.block(7).unwrap(), Bytes::new(), true), [1, 3]);
    }

    #[test]
    fn who_waits_beside_others_is_told_apart() {
        let (mut plan, layout) = plan(10);
        let block = layout.block(3).unwrap();
        plan.want_ahead(block);
        assert_eq!(want(&mut plan, block, 1), Ok(Waiting::First), "read ahead, perhaps by the same reader");
        assert_eq!(want(&mut plan, block, 2), Ok(Waiting::WithOthers));
        plan.next_request(FIRST, |_| true);
        assert_eq!(want(&mut plan, block, 3), Ok(Waiting::WithOthers));
        assert_eq!(plan.want(block, 4, true, |_| false), Ok(Waiting::First), "the others have left");
    }

    #[test]
    fn what_is_not_at_rest_is_told_in_order() {
        let (mut plan, layout) = plan(100);
        let block = |number| layout.block(number).unwrap();
        for number in [9, 4, 70] {
            assert_eq!(want(&mut plan, block(number), 1), Ok(Waiting::First));
        }
        plan.next_request(FIRST, |_| true);
        plan.arrived(block(9), Bytes::new(), true);
        assert_eq!(plan.moving().collect::<Vec<_>>(), [4, 9, 70], "wanted, arrived, wanted");
        plan.settled(block(9));
        assert_eq!(plan.moving().collect::<Vec<_>>(), [4, 70]);
    }

    #[test]
    fn bytes_on_their_way_to_the_store_are_handed_out() {
        let (mut plan, layout) = plan(10);
        let block = layout.block(3).unwrap();
        want(&mut plan, block, 1).unwrap();
        plan.next_request(FIRST, |_| true);
        plan.arrived(block, Bytes::from_static(b"x"), true);
        assert_eq!(want(&mut plan, block, 2), Err(NotWaiting::Here(Bytes::from_static(b"x"), 2)));
        plan.settled(block);
        assert!(plan.is_idle());
    }

    #[test]
    fn blocks_whose_readers_left_are_not_asked_for_but_read_ahead_is() {
        let (mut plan, layout) = plan(10);
        want(&mut plan, layout.block(1).unwrap(), 7).unwrap();
        plan.want_ahead(layout.block(5).unwrap());
        assert_eq!(plan.next_request(FIRST, |waiter| *waiter != 7), layout.run(5, 6));
    }

    #[test]
    fn what_a_transfer_gives_back_is_wanted_by_those_who_wait() {
        let (mut plan, layout) = plan(10);
        let run = layout.run(2, 6).unwrap();
        want(&mut plan, layout.block(4).unwrap(), 1).unwrap();
        plan.begin(run, FIRST);
        plan.arrived(layout.block(2).unwrap(), Bytes::new(), true);
        plan.begin(layout.run(7, 8).unwrap(), SECOND);
        plan.give_back(layout.run(2, 8).unwrap(), FIRST);
        assert!(plan.at_rest(layout.block(3).unwrap()) && !plan.is_open(layout.block(7).unwrap()));
        assert_eq!(plan.next_request(SECOND, |_| true), layout.run(4, 5));
        assert_eq!(plan.next_request(SECOND, |_| true), None);
    }

    #[test]
    fn a_failed_request_tells_its_waiters_and_can_be_tried_again() {
        let (mut plan, layout) = plan(10);
        let run = layout.run(2, 5).unwrap();
        run.blocks().for_each(|block| _ = want(&mut plan, block, block.number()).unwrap());
        plan.next_request(FIRST, |_| true);
        plan.arrived(layout.block(2).unwrap(), Bytes::new(), true);
        let told: Vec<u32> = plan.failed(run, FIRST).into_iter().map(|(_, waiter)| waiter).collect();
        assert_eq!(told, [3, 4]);
        want(&mut plan, layout.block(3).unwrap(), 9).unwrap();
        assert_eq!(plan.next_request(FIRST, |_| true), layout.run(3, 4));
    }

    #[test]
    fn a_transfer_that_fails_takes_only_its_own_blocks_with_it() {
        let (mut plan, layout) = plan(10);
        want(&mut plan, layout.block(4).unwrap(), 7).unwrap();
        assert_eq!(plan.next_request(FIRST, |_| true), layout.run(4, 5));
        let whole = layout.whole().unwrap();
        plan.begin(whole, SECOND);
        want(&mut plan, layout.block(8).unwrap(), 9).unwrap();
        let told: Vec<u32> = plan.failed(whole, SECOND).into_iter().map(|(_, waiter)| waiter).collect();
        assert_eq!(told, [9], "the first transfer still brings block 4");
        assert_eq!(plan.arrived(layout.block(4).unwrap(), Bytes::new(), true), [7]);
    }

    #[test]
    fn without_buffers_to_spare_waiters_stay_until_the_block_is_settled() {
        let (mut plan, layout) = plan(10);
        let block = layout.block(3).unwrap();
        want(&mut plan, block, 1).unwrap();
        plan.next_request(FIRST, |_| true);
        assert!(plan.arrived(block, Bytes::new(), false).is_empty());
        plan.want(block, 2, false, |_| true).unwrap();
        assert_eq!(plan.settled(block), [1, 2]);
        assert!(plan.is_idle());
    }

    #[test]
    fn waiters_that_left_make_place_and_then_there_are_too_many() {
        let (mut plan, layout) = plan(10);
        let block = layout.block(0).unwrap();
        (0..WAITERS_MAX as u32).for_each(|waiter| _ = want(&mut plan, block, waiter).unwrap());
        assert_eq!(want(&mut plan, block, 5000), Err(NotWaiting::TooMany(5000)));
        assert_eq!(plan.want(block, 5000, true, |waiter| *waiter != 3), Ok(Waiting::WithOthers));
    }

    #[test]
    fn a_refusal_takes_out_those_who_asked_alike() {
        let (mut plan, layout) = plan(10);
        let run = layout.run(2, 4).unwrap();
        for (number, waiter) in [(2, 1), (2, 8), (3, 1)] {
            want(&mut plan, layout.block(number).unwrap(), waiter).unwrap();
        }
        plan.next_request(FIRST, |_| true);
        assert_eq!(plan.take_waiters(run, FIRST, |waiter| *waiter == 1).len(), 2);
        assert_eq!(plan.first_waiter(run, FIRST, |_| true), Some(&8));
    }

    proptest! {
        /// Whatever readers want in whatever order, no block is asked for while it is coming, and everyone is told.
        #[test]
        fn each_block_is_asked_for_once_and_every_waiter_is_told(
            wants in prop::collection::vec((0..120u32, 1..90u32), 1..40),
        ) {
            let (mut plan, layout) = plan(200);
            let mut asked = vec![0; 200];
            let mut waiting = 0usize;
            let mut told = 0usize;
            for (step, (first, length)) in wants.into_iter().enumerate() {
                for block in layout.run(first, (first + length).min(200)).unwrap().blocks() {
                    if asked[block.number() as usize] == 2 { continue; }
                    match want(&mut plan, block, step as u32) {
                        Ok(_) => waiting += 1,
                        Err(_) => prop_assert!(false, "nothing stays arrived here"),
                    }
                }
                if step % 3 == 0 {
                    while let Some(run) = plan.next_request(FIRST, |_| true) {
                        prop_assert!(run.len() <= REQUEST_BLOCKS_MAX);
                        for block in run.blocks() {
                            prop_assert_eq!(asked[block.number() as usize], 0);
                            asked[block.number() as usize] = 1;
                        }
                    }
                    for block in layout.whole().unwrap().blocks() {
                        if asked[block.number() as usize] == 1 {
                            told += plan.arrived(block, Bytes::new(), true).len();
                            plan.settled(block);
                            asked[block.number() as usize] = 2;
                        }
                    }
                }
            }
            while let Some(run) = plan.next_request(FIRST, |_| true) {
                told += plan.failed(run, FIRST).len();
            }
            prop_assert_eq!(waiting, told);
            prop_assert!(plan.is_idle());
        }
    }
}
