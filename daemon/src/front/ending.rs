//! An answer that is under way: how long all of it takes.

use std::sync::Arc;
use std::time::Instant;

use crate::metrics::{Answers, Source};

/// To be told when the last bytes of an answer have gone out; dropped if they never do.
#[derive(Debug)]
pub(super) struct Ending {
    answers: Arc<Answers>,
    source: Source,
    started: Instant,
}

impl Ending {
    /// Of an answer from there to a request that had come at that time.
    pub(super) fn new(answers: Arc<Answers>, source: Source, started: Instant) -> Self {
        Self { answers, source, started }
    }

    /// All of it has been handed to the system, or to hyper.
    pub(super) fn all_sent(self) {
        self.answers.ended(self.source, self.started.elapsed());
    }
}
