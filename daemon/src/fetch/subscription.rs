//! A reader's side of a demand: the blocks that come, in whatever order, asked for one by one.

use std::collections::BTreeMap;

use darter_engine::{BlockIndex, BlockRun};
use tokio::sync::mpsc;

use super::demand::{Arrival, FetchError};

/// Blocks that were asked for.
#[derive(Debug)]
pub struct Subscription {
    run: BlockRun,
    arrivals: mpsc::Receiver<Arrival>,
    early: BTreeMap<u32, Arrival>,
}

impl Subscription {
    pub(super) fn new(run: BlockRun, arrivals: mpsc::Receiver<Arrival>) -> Self {
        Self { run, arrivals, early: BTreeMap::new() }
    }

    /// Whether the block was asked for and not taken yet; blocks are taken in order.
    pub fn covers(&self, block: BlockIndex) -> bool {
        self.run.contains(block)
    }

    /// Waits for one block. Dropping the future loses nothing.
    pub async fn block(&mut self, block: BlockIndex) -> Arrival {
        loop {
            if let Some(arrival) = self.early.remove(&block.number()) {
                return arrival;
            }
            match self.arrivals.recv().await {
                Some(arrival) => _ = self.early.insert(number_of(&arrival), arrival),
                // The fetch was dropped with its shard: the daemon stops.
                None => return Arrival::Failed(block, FetchError::Busy),
            }
        }
    }
}

fn number_of(arrival: &Arrival) -> u32 {
    match arrival {
        Arrival::Bytes(block, _) | Arrival::InStore(block) | Arrival::Failed(block, _) => block.number(),
    }
}
