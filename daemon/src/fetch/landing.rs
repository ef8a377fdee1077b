//! Where the blocks of one run go when they have come, whatever brought them: to those who wait, and to the store.
//!
//! Slots are reserved for neighbours together, and neighbours are written together; nobody waits for the disk.

use std::rc::Rc;
use std::sync::Arc;

use darter_engine::{BLOCK_BYTES, BlockIndex, BlockRun, HashedBlock, Reservation};

use super::active::Active;
use super::plan::REQUEST_BLOCKS_MAX;
use crate::metrics::Giver;

/// Blocks of one write: 1 MiB.
const WRITE_BLOCKS: usize = 16;

pub(super) struct Landing<'a> {
    active: &'a Rc<Active>,
    run: BlockRun,
    giver: Giver,
    window: Option<Window>,
    kept_any: bool,
}

/// Neighbouring blocks with slots reserved for them, and those that wait to be written together.
struct Window {
    run: BlockRun,
    reservation: Option<Arc<Reservation>>,
    first: Option<BlockIndex>,
    batch: Vec<HashedBlock>,
}

impl Window {
    /// Whether the block can be written in one with those that are gathered.
    fn continues(&self, block: BlockIndex) -> bool {
        self.first.is_none_or(|first| first.number() + self.batch.len() as u32 == block.number())
    }
}

impl<'a> Landing<'a> {
    pub(super) fn of(active: &'a Rc<Active>, run: BlockRun, giver: Giver) -> Self {
        Self { active, run, giver, window: None, kept_any: false }
    }

    /// Its blocks are others from now on: an answer has more than was asked for, or nobody waits for the rest.
    pub(super) fn change_run(&mut self, run: BlockRun) {
        self.run = run;
    }

    /// Reserves slots from this block on. False if the store has no room.
    pub(super) async fn prepare(&mut self, first: BlockIndex) -> bool {
        self.flush();
        let Some(run) = self.run.starting_at(first).map(|run| run.take(REQUEST_BLOCKS_MAX)) else {
            return false;
        };
        let reservation = self.active.reserve(run).await;
        let has_room = reservation.is_some();
        self.window = Some(Window { run, reservation, first: None, batch: Vec::new() });
        has_room
    }

    /// A block is whole. Whether it goes to the store.
    pub(super) async fn take(&mut self, block: BlockIndex, hashed: HashedBlock) -> bool {
        if self.window.as_ref().is_none_or(|window| !window.run.contains(block)) {
            self.prepare(block).await;
        }
        let has_slot = self.window.as_ref().is_some_and(|window| window.reservation.is_some());
        let continues = self.window.as_ref().is_some_and(|window| window.continues(block));
        if has_slot && (!continues || self.active.owner.store.is_behind()) {
            self.flush();
        }
        let kept = has_slot && self.active.owner.disk_keeps_up().await;
        let Some(window) = &mut self.window else { return false };
        self.active.owner.metrics.givers().note(&self.active.key, block, self.giver);
        let handed = self.active.deliver(block, hashed.bytes(), kept);
        if !kept {
            // What is gathered is written as one run of neighbours, and this block would be missing in it.
            self.flush();
            self.active.owner.metrics.fetches.unkept(hashed.bytes().len());
            if let Some(bytes) = handed {
                self.active.owner.store.feed(self.active.content(), block, bytes);
            }
            self.active.settle(block);
            return false;
        }
        self.kept_any = true;
        window.first.get_or_insert(block);
        window.batch.push(hashed);
        // When buffers are short, those that are gathered here may be what everyone waits for.
        if window.batch.len() >= WRITE_BLOCKS || !self.active.owner.has_buffers_to_spare() {
            self.flush();
        }
        true
    }

    /// Lets what has come go to the store. Whether anything was kept.
    pub(super) fn end(mut self) -> bool {
        self.flush();
        self.kept_any
    }

    /// Hands the gathered blocks to the store, in a task of their own.
    pub(super) fn flush(&mut self) {
        let Some(window) = &mut self.window else { return };
        let (Some(first), Some(reservation)) = (window.first.take(), window.reservation.clone()) else {
            return;
        };
        let blocks = std::mem::take(&mut window.batch);
        let active = self.active.clone();
        self.active.owner.spawn(async move { active.keep(&reservation, first, blocks).await });
    }
}

impl Active {
    async fn keep(
        self: &Rc<Self>,
        reservation: &Arc<Reservation>,
        first: BlockIndex,
        blocks: Vec<HashedBlock>,
    ) {
        let count = blocks.len() as u32;
        let registry = self.registry();
        self.owner.tell_cluster_of(self, first, &blocks);
        let written = self.owner.store.write(reservation, first, blocks, &registry).await;
        let run = self.content().layout().run(first.number(), first.number() + count);
        match written {
            Ok(()) => run.into_iter().for_each(|run| self.owner.tell_cluster(self, run)),
            Err(error) => {
                self.owner.metrics.fetches.unkept(count as usize * BLOCK_BYTES as usize);
                tracing::warn!(content = %self.key.id, %error, "blocks were served and not kept");
            }
        }
        run.into_iter().flat_map(BlockRun::blocks).for_each(|block| self.settle(block));
        self.end_if_idle();
    }
}
