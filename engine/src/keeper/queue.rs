//! What shards and other threads tell the keeper. Telling never waits for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::content::Content;
use crate::layout::{BLOCKS_PER_PIECE, BlockIndex};
use crate::slot::SlotIndex;
use crate::store::FlushError;

/// What the keeper is told. Bounded: by slots, by contents, and by callers that wait.
#[derive(Debug, Default)]
pub(crate) struct KeeperQueue {
    news: Mutex<News>,
    wake: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) written: BTreeMap<u32, Written>,
    pub(super) released: Vec<SlotIndex>,
    pub(super) contents: BTreeMap<u32, Arc<Content>>,
    pub(super) flushes: Vec<oneshot::Sender<Result<(), FlushError>>>,
    pub(super) room_wanted: Option<usize>,
    /// A slab has failed that the keeper may not know of.
    pub(super) slab_failed: bool,
    pub(super) stop: bool,
    /// The thread has ended: nothing will be made durable any more.
    pub(super) closed: bool,
}

/// Blocks of one slot that no durable record speaks of yet.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) generation: u32,
    pub(super) presence: u8,
    pub(super) blake3: [[u8; 32]; BLOCKS_PER_PIECE as usize],
}

impl KeeperQueue {
    pub(super) fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block was written and published.
    pub(crate) fn written(&self, slot: SlotIndex, generation: u32, block: BlockIndex, blake3: [u8; 32]) {
        let mut news = self.news();
        let fresh = || Written { generation, presence: 0, blake3: Default::default() };
        let written = news.written.entry(slot.0).or_insert_with(fresh);
        if written.generation != generation {
            *written = fresh();
        }
        written.presence |= 1 << block.in_piece();
        written.blake3[block.in_piece() as usize] = blake3;
    }

    /// A slot's state became Releasing.
    pub(crate) fn released(&self, slot: SlotIndex) {
        self.news().released.push(slot);
    }

    /// What the record of a content says has changed.
    pub(crate) fn note_content(&self, content: &Arc<Content>) {
        let mut news = self.news();
        // The place may have a new content, whose news must not be lost.
        let newer = news.contents.get(&content.place).is_some_and(|noted| noted.tenure > content.tenure);
        if !newer {
            news.contents.insert(content.place, content.clone());
        }
    }

    /// Room for so many pieces is wanted beyond what is kept free anyway.
    pub(crate) fn want_room(&self, pieces: usize) {
        let mut news = self.news();
        news.room_wanted = Some(news.room_wanted.unwrap_or(0).max(pieces));
        self.wake.notify_one();
    }

    /// A slab was found to have failed: its pieces are to be given up soon.
    pub(crate) fn slab_failed(&self) {
        self.news().slab_failed = true;
        self.wake.notify_one();
    }

    /// Completes when what was written before is durable.
    pub(crate) fn flush(&self) -> oneshot::Receiver<Result<(), FlushError>> {
        let (done, wait) = oneshot::channel();
        let mut news = self.news();
        if news.closed {
            let _ = done.send(Err(FlushError("the store is closed".into())));
        } else {
            news.flushes.push(done);
            self.wake.notify_one();
        }
        wait
    }

    pub(crate) fn stop(&self) {
        self.news().stop = true;
        self.wake.notify_one();
    }

    /// Waits until something is urgent or the time is over.
    pub(super) fn wait(&self, timeout: Duration) {
        let idle = |news: &mut News| {
            news.flushes.is_empty() && news.room_wanted.is_none() && !news.slab_failed && !news.stop
        };
        drop(
            self.wake.wait_timeout_while(self.news(), timeout, idle).unwrap_or_else(PoisonError::into_inner),
        );
    }
}
