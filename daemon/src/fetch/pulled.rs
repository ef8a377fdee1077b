//! One run of blocks on its way from the cluster, each checked by then, in whatever order they come.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use darter_engine::{BlockIndex, BlockRun};
use darter_transport::pull::Pulled;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::active::Active;
use super::demand::Waiter;
use super::landing::Landing;
use super::plan::REQUEST_BLOCKS_MAX;
use crate::metrics::Giver;

/// Blocks that one turn away from the store leaves on their way: with more, what finds no room would be asked for in vain.
const UNKEPT_MAX: u32 = REQUEST_BLOCKS_MAX;

/// Blocks that have come wait so long for neighbours to be written with: a write of each costs more than a larger one.
const GATHERED_FOR: Duration = Duration::from_millis(1);

/// What has become of a run.
pub(super) struct Outcome {
    /// These the cluster has not brought: the origin has them.
    pub(super) missing: Vec<BlockRun>,
    pub(super) kept_any: bool,
}

/// Takes what comes of these blocks, which are in their order, until nothing more does.
pub(super) async fn take_all(
    active: &Rc<Active>,
    mut missing: Vec<BlockIndex>,
    mut arrivals: mpsc::Receiver<Pulled>,
) -> Outcome {
    // Neighbours come together, and parts of several requests beside each other: a window of slots for each.
    let mut landings: BTreeMap<u32, Landing<'_>> = BTreeMap::new();
    let mut unkept = 0;
    loop {
        let pulled = match timeout(GATHERED_FOR, arrivals.recv()).await {
            Ok(pulled) => pulled,
            Err(_) => {
                landings.values_mut().for_each(Landing::flush);
                arrivals.recv().await
            }
        };
        let Some(pulled) = pulled else { break };
        let Pulled::Block(block, hashed) = pulled else { continue };
        let number = block.number() / REQUEST_BLOCKS_MAX;
        let (Ok(at), Some(window)) = (missing.binary_search(&block), window(active, number)) else {
            continue;
        };
        let begin = || Landing::of(active, hull(active, &missing, window), Giver::Peers);
        let landing = landings.entry(number).or_insert_with(begin);
        missing.remove(at);
        if landing.take(block, hashed).await {
            unkept = 0
        } else {
            unkept += 1
        }
        if unkept >= UNKEPT_MAX
            && !missing.iter().any(|block| active.plan.borrow().is_awaited(*block, Waiter::is_there))
        {
            break;
        }
    }
    let mut kept_any = false;
    for landing in landings.into_values() {
        kept_any |= landing.end();
    }
    Outcome { kept_any, missing: runs(active, &missing) }
}

/// Neighbours that have their slots reserved together.
fn window(active: &Active, number: u32) -> Option<BlockRun> {
    let (layout, first) = (active.content().layout(), number * REQUEST_BLOCKS_MAX);
    // The block that came is one of them.
    layout.run(first, first.saturating_add(REQUEST_BLOCKS_MAX).min(layout.block_count()))
}

/// From the first to the last of these blocks in a window, in which there is one: no slots are reserved for others.
fn hull(active: &Active, blocks: &[BlockIndex], window: BlockRun) -> BlockRun {
    let first = blocks.partition_point(|block| *block < window.first());
    let end = blocks.partition_point(|block| *block <= window.last());
    let ends = blocks.get(first..end).and_then(|inside| Some((inside.first()?, inside.last()?)));
    ends.and_then(|(first, last)| active.content().layout().run(first.number(), last.number() + 1))
        .unwrap_or(window)
}

/// Blocks in their order as runs of neighbours.
pub(super) fn runs(active: &Active, blocks: &[BlockIndex]) -> Vec<BlockRun> {
    let neighbours = blocks.chunk_by(|one, next| one.number() + 1 == next.number());
    let run = |run: &[BlockIndex]| {
        let (first, last) = (run.first()?, run.last()?);
        active.content().layout().run(first.number(), last.number() + 1)
    };
    neighbours.filter_map(run).collect()
}
