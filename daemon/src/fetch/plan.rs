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
//! This is the one place that coalesces: a block is asked of the origin by one request, whoever wants it.

use std::collections::BTreeMap;

use bytes::Bytes;
use darter_engine::{BlockIndex, BlockRun, Layout};

/// Blocks of one request to the origin: 4 MiB.
pub(crate) const REQUEST_BLOCKS_MAX: u32 = 64;

#[derive(Debug)]
enum State<W> {
    /// Nobody has asked the origin yet. Without waiters: read ahead.
    Wanted(Vec<W>),
    /// A request is on its way.
    Coming(Vec<W>),
    /// The bytes are here and are being written to the store.
    Arrived(Bytes),
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

    /// A reader wants a block that is not in the store. The bytes, and the waiter back, if they are here already.
    pub(crate) fn want(&mut self, block: BlockIndex, waiter: W) -> Result<(), (Bytes, W)> {
        match self.blocks.get_mut(&block.number()) {
            Some(State::Arrived(bytes)) => return Err((bytes.clone(), waiter)),
            Some(State::Wanted(waiters) | State::Coming(waiters)) => waiters.push(waiter),
            None => self.enqueue(block, vec![waiter]),
        }
        Ok(())
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
    pub(crate) fn next_request(&mut self, alive: impl Fn(&W) -> bool) -> Option<BlockRun> {
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
            self.begin(run);
            return Some(run);
        }
        None
    }

    /// A request for these blocks is on its way.
    pub(crate) fn begin(&mut self, run: BlockRun) {
        for block in run.blocks() {
            let state = self.blocks.entry(block.number()).or_insert_with(|| State::Coming(Vec::new()));
            if let State::Wanted(waiters) = state {
                *state = State::Coming(std::mem::take(waiters));
            }
        }
    }

    /// Bytes of a block have come; those who wait for it.
    pub(crate) fn arrived(&mut self, block: BlockIndex, bytes: Bytes) -> Vec<W> {
        match self.blocks.insert(block.number(), State::Arrived(bytes)) {
            Some(State::Wanted(waiters) | State::Coming(waiters)) => waiters,
            Some(State::Arrived(_)) | None => Vec::new(),
        }
    }

    /// The block is in the store, or will not be kept.
    pub(crate) fn settled(&mut self, block: BlockIndex) {
        if matches!(self.blocks.get(&block.number()), Some(State::Arrived(_))) {
            self.blocks.remove(&block.number());
        }
    }

    /// A request has ended without these blocks; those who wait for them.
    pub(crate) fn failed(&mut self, run: BlockRun) -> Vec<(BlockIndex, W)> {
        let mut waiting = Vec::new();
        for block in run.blocks() {
            if matches!(self.blocks.get(&block.number()), Some(State::Coming(_)))
                && let Some(State::Coming(waiters)) = self.blocks.remove(&block.number())
            {
                waiting.extend(waiters.into_iter().map(|waiter| (block, waiter)));
            }
        }
        waiting
    }

    /// Whether somebody waits for the block.
    pub(crate) fn is_awaited(&self, block: BlockIndex) -> bool {
        match self.blocks.get(&block.number()) {
            Some(State::Wanted(waiters) | State::Coming(waiters)) => !waiters.is_empty(),
            _ => false,
        }
    }

    /// Whether the block is at rest.
    pub(crate) fn at_rest(&self, block: BlockIndex) -> bool {
        !self.blocks.contains_key(&block.number())
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

    fn plan(blocks: u32) -> (Plan<u32>, Layout) {
        let layout = Layout::new(u64::from(blocks) << 16).unwrap();
        (Plan::new(layout), layout)
    }

    #[test]
    fn neighbours_are_asked_for_together_and_only_once() {
        let (mut plan, layout) = plan(200);
        for number in [5, 6, 7, 100] {
            plan.want(layout.block(number).unwrap(), 1).unwrap();
        }
        plan.want(layout.block(6).unwrap(), 2).unwrap();
        assert_eq!(plan.next_request(|_| true), layout.run(5, 8));
        plan.want(layout.block(7).unwrap(), 3).unwrap();
        assert_eq!(plan.next_request(|_| true), layout.run(100, 101));
        assert_eq!(plan.next_request(|_| true), None);
        assert_eq!(plan.arrived(layout.block(6).unwrap(), Bytes::new()), [1, 2]);
        assert_eq!(plan.arrived(layout.block(7).unwrap(), Bytes::new()), [1, 3]);
    }

    #[test]
    fn bytes_on_their_way_to_the_store_are_handed_out() {
        let (mut plan, layout) = plan(10);
        let block = layout.block(3).unwrap();
        plan.want(block, 1).unwrap();
        plan.next_request(|_| true);
        plan.arrived(block, Bytes::from_static(b"x"));
        assert_eq!(plan.want(block, 2), Err((Bytes::from_static(b"x"), 2)));
        plan.settled(block);
        assert!(plan.is_idle());
    }

    #[test]
    fn blocks_whose_readers_left_are_not_asked_for_but_read_ahead_is() {
        let (mut plan, layout) = plan(10);
        plan.want(layout.block(1).unwrap(), 7).unwrap();
        plan.want_ahead(layout.block(5).unwrap());
        assert_eq!(plan.next_request(|waiter| *waiter != 7), layout.run(5, 6));
    }

    #[test]
    fn a_failed_request_tells_its_waiters_and_can_be_tried_again() {
        let (mut plan, layout) = plan(10);
        let run = layout.run(2, 5).unwrap();
        run.blocks().for_each(|block| plan.want(block, block.number()).unwrap());
        plan.next_request(|_| true);
        plan.arrived(layout.block(2).unwrap(), Bytes::new());
        let told: Vec<u32> = plan.failed(run).into_iter().map(|(_, waiter)| waiter).collect();
        assert_eq!(told, [3, 4]);
        plan.want(layout.block(3).unwrap(), 9).unwrap();
        assert_eq!(plan.next_request(|_| true), layout.run(3, 4));
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
                    match plan.want(block, step as u32) {
                        Ok(()) => waiting += 1,
                        Err(_) => prop_assert!(false, "nothing stays arrived here"),
                    }
                }
                if step % 3 == 0 {
                    while let Some(run) = plan.next_request(|_| true) {
                        prop_assert!(run.len() <= REQUEST_BLOCKS_MAX);
                        for block in run.blocks() {
                            prop_assert_eq!(asked[block.number() as usize], 0);
                            asked[block.number() as usize] = 1;
                        }
                    }
                    for block in layout.whole().unwrap().blocks() {
                        if asked[block.number() as usize] == 1 {
                            told += plan.arrived(block, Bytes::new()).len();
                            plan.settled(block);
                            asked[block.number() as usize] = 2;
                        }
                    }
                }
            }
            while let Some(run) = plan.next_request(|_| true) {
                told += plan.failed(run).len();
            }
            prop_assert_eq!(waiting, told);
            prop_assert!(plan.is_idle());
        }
    }
}
