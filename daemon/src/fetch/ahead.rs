//! Blocks that are brought from other nodes ahead of a client's boot, in its order.
//!
//! Below all readers: they come as bulk does, two small requests at a time, and one that somebody waits for meanwhile is
//! hurried. This node asks no origin for a guess: what the cluster does not bring is left to whoever reads it. The owner
//! brings what nobody holds any more, as it does for any node, and keeps it.

use std::collections::VecDeque;
use std::rc::Rc;

use darter_engine::BlockIndex;

use super::active::Active;
use super::plan::TransferId;
use super::pulled;

/// Blocks of one request: 1 MiB. With more of them the first would wait for the last, as those of one request
/// come in any order.
const REQUEST_BLOCKS: usize = 16;
/// Requests at a time: the second bridges the way of the first.
const REQUESTS_AT_ONCE: u32 = 2;
/// Blocks that wait for their request; a boot that is so far ahead of them is not helped by them.
const QUEUE_MAX: usize = 256;

/// Of one content.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    queue: VecDeque<BlockIndex>,
    requests: u32,
}

impl Ahead {
    /// Whether blocks are on their way.
    pub(super) fn is_at_work(&self) -> bool {
        self.requests > 0
    }

    fn add(&mut self, blocks: Vec<BlockIndex>) {
        let room = QUEUE_MAX.saturating_sub(self.queue.len());
        self.queue.extend(blocks.into_iter().take(room));
    }
}

impl Active {
    /// A boot will want these next, in this order.
    pub(super) fn bring_ahead(self: &Rc<Self>, blocks: Vec<BlockIndex>) {
        if self.owner.cluster_for(&self.target()).is_some() {
            self.ahead.borrow_mut().add(blocks);
        }
        while self.ahead.borrow().requests < REQUESTS_AT_ONCE {
            let Some((id, blocks)) = self.claim_ahead() else { break };
            self.ahead.borrow_mut().requests += 1;
            let active = self.clone();
            self.owner.spawn(async move { active.bring_all_ahead(id, blocks).await });
        }
        self.end_if_idle();
    }

    /// One request after the other until nothing waits.
    async fn bring_all_ahead(self: Rc<Self>, id: TransferId, blocks: Vec<BlockIndex>) {
        let mut next = Some((id, blocks));
        while let Some((id, blocks)) = next {
            self.bring_some_ahead(id, blocks).await;
            next = self.claim_ahead();
        }
        self.ahead.borrow_mut().requests -= 1;
        self.pump();
    }

    async fn bring_some_ahead(self: &Rc<Self>, id: TransferId, blocks: Vec<BlockIndex>) {
        let runs = pulled::runs(self, &blocks);
        let (asked, wanted) = (blocks.len(), self.wanted(runs.clone(), true, &self.target()));
        let outcome = match wanted {
            Some(wanted) => self.pull(blocks, wanted).await,
            None => None,
        };
        let missing =
            outcome.map_or(asked, |outcome| outcome.missing.iter().map(|run| run.len() as usize).sum());
        self.owner.metrics.fetches.brought_ahead(asked - missing);
        let mut plan = self.plan.borrow_mut();
        runs.into_iter().for_each(|run| plan.give_back(run, id));
        drop(plan);
        // Whoever waits for one of them now gets it in the usual way.
        self.pump();
    }

    /// The next blocks that are neither in the store nor on their way, each before the next: they are a transfer's now.
    fn claim_ahead(&self) -> Option<(TransferId, Vec<BlockIndex>)> {
        let mut ahead = self.ahead.borrow_mut();
        if self.is_without_room() || self.owner.closing.get() {
            ahead.queue.clear();
        }
        let mut plan = self.plan.borrow_mut();
        let mut claimed = Vec::new();
        let id = self.next_transfer();
        while claimed.len() < REQUEST_BLOCKS
            && let Some(block) = ahead.queue.pop_front()
        {
            let run = self.content().layout().run(block.number(), block.number() + 1);
            if let Some(run) = run.filter(|_| plan.at_rest(block) && !self.has(block)) {
                plan.begin(run, id);
                claimed.push(block);
            }
        }
        claimed.sort_unstable();
        (!claimed.is_empty()).then_some((id, claimed))
    }
}
