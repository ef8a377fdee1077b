//! What the scrub's thread is told, and what it tells.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::format::ScrubPage;

/// How the store looks after what is on its disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubOptions {
    /// What a round reads per second, in bytes; four times as much after an unclean stop. 0: there are no rounds.
    pub bytes_per_s: u64,
    /// From the end of one round to the start of the next.
    pub interval: Duration,
}

/// How far the scrub is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrubStatus {
    /// The round under way.
    pub round: Option<crate::format::ScrubRound>,
    /// False if there are no rounds: none was asked for, or the store is closed.
    pub on: bool,
    /// When the last whole round ended, in Unix seconds; 0: there was none.
    pub ended_at_s: u64,
    /// Blocks that it checked.
    pub last_checked_blocks: u64,
    /// Those of them that were bad.
    pub last_bad_blocks: u64,
}

#[derive(Debug, Default)]
pub(crate) struct ScrubQueue {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// `None` before the start.
    options: Option<ScrubOptions>,
    /// The thread has not seen the options yet.
    changed: bool,
    stop: bool,
    page: ScrubPage,
}

impl ScrubQueue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Other options from now on.
    pub(crate) fn set(&self, options: ScrubOptions) {
        let mut state = self.state();
        state.changed = true;
        state.options = Some(options);
        self.wake.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.state().stop = true;
        self.wake.notify_one();
    }

    /// `None` when the thread is to end.
    pub(super) fn options(&self) -> Option<ScrubOptions> {
        let mut state = self.state();
        state.changed = false;
        if state.stop { None } else { state.options }
    }

    /// Waits for so long, or until something has changed.
    pub(super) fn rest(&self, time: Duration) {
        if time.is_zero() {
            return;
        }
        let nothing_new = |state: &mut State| !state.stop && !state.changed;
        drop(self.wake.wait_timeout_while(self.state(), time, nothing_new));
    }

    pub(super) fn note(&self, page: ScrubPage) {
        self.state().page = page;
    }

    pub(crate) fn status(&self) -> ScrubStatus {
        let state = self.state();
        let ScrubPage { round, ended_at_s, last_checked_blocks, last_bad_blocks } = state.page;
        let on = !state.stop && state.options.is_some_and(|options| options.bytes_per_s > 0);
        ScrubStatus { round, on, ended_at_s, last_checked_blocks, last_bad_blocks }
    }
}
