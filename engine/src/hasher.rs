//! The thread that feeds whole digests.
//!
//! A content is in the queue at most once, so the queue is as bounded as the content table. SHA-256 runs at
//! 1.8 GB/s on every implementation; on a shard it would stand in every reader's way.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::clock;
use crate::content::Content;
use crate::content_id::{Naming, Scope};
use crate::frontier::Advance;
use crate::index::Rescoped;
use crate::store::Inner;

/// Blocks hashed for one content before the next one has its turn: 4 MiB, some 2 ms.
const BLOCKS_PER_TURN: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct HasherQueue {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    contents: VecDeque<Arc<Content>>,
    stop: bool,
}

impl HasherQueue {
    pub(crate) fn enqueue(&self, content: &Arc<Content>) {
        if content.naming() == Naming::Url || !content.frontier.enter_queue() {
            return;
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner).contents.push_back(content.clone());
        self.wake.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.wake.notify_one();
    }

    /// The content whose turn it is, if one waits for it.
    #[cfg(test)]
    pub(crate) fn try_next(&self) -> Option<Arc<Content>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).contents.pop_front()
    }

    fn next(&self) -> Option<Arc<Content>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.stop {
                return None;
            }
            if let Some(content) = state.contents.pop_front() {
                return Some(content);
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

pub(crate) fn run(inner: &Arc<Inner>) {
    crate::keeper::lower_priority();
    while let Some(content) = inner.hasher.next() {
        turn(inner, &content);
    }
}

/// One content's turn.
pub(crate) fn turn(inner: &Arc<Inner>, content: &Arc<Content>) {
    content.frontier.leave_queue();
    let read = |block| inner.read_blocking(content, block).ok();
    match content.frontier.advance(content.layout(), &content.id(), BLOCKS_PER_TURN, read) {
        Advance::Passed => passed(inner, content),
        Advance::Wrong => wrong(inner, content),
        Advance::Pending if content.frontier.goes_on() => inner.hasher.enqueue(content),
        Advance::Pending => {}
    }
    content.notify_changed();
}

fn passed(inner: &Arc<Inner>, content: &Arc<Content>) {
    content.passed_at_s.store(clock::unix_s(), Ordering::Relaxed);
    match inner.index.rescope(content, Scope::Verified) {
        Rescoped::Done => inner.keeper.note_content(content),
        // The same bytes are here already, from another registry.
        Rescoped::Taken => inner.remove(content),
        Rescoped::Gone => {}
    }
}

fn wrong(inner: &Arc<Inner>, content: &Arc<Content>) {
    tracing::error!(
        content = %content.id(),
        registry = content.registry(),
        "the registry's bytes are not those of the digest; they are purged"
    );
    inner.remove(content);
}
