//! An answer that is under way: where all of it comes from, and how long it takes.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::Shared;
use super::recent::{Question, Reply};
use crate::metrics::{Answers, Fate, Source};
use crate::trace::Span;

/// Where what has gone out of an answer came from, told by whoever reads it as it goes.
#[derive(Clone, Debug)]
pub(super) struct Came(Rc<Cell<Source>>);

impl Came {
    pub(super) fn from(source: Source) -> Self {
        Self(Rc::new(Cell::new(source)))
    }

    pub(super) fn set(&self, source: Source) {
        self.0.set(source);
    }

    pub(super) fn source(&self) -> Source {
        self.0.get()
    }
}

/// To be told when the last bytes of an answer have gone out; dropped if they never do.
#[derive(Debug)]
pub(super) struct Ending {
    answers: Arc<Answers>,
    source: Source,
    started: Instant,
    rest: Option<Box<Rest>>,
    /// Ends with it.
    span: Span,
    is_sent: bool,
}

/// Of an answer that goes on when its beginning has gone out.
#[derive(Debug)]
struct Rest {
    came: Came,
    unsettled: Option<Unsettled>,
}

/// A request whose answer begins in the store: a hit if all of the rest is there too.
#[derive(Debug)]
pub(super) struct Unsettled {
    pub(super) shared: Arc<Shared>,
    pub(super) question: Question,
    pub(super) reply: Reply,
}

impl Ending {
    /// Of an answer whose beginning is from there, to a request that had come at that time.
    pub(super) fn new(answers: Arc<Answers>, source: Source, started: Instant) -> Self {
        Self { answers, source, started, rest: None, span: Span::default(), is_sent: false }
    }

    /// It is recorded.
    pub(super) fn recorded(mut self, span: Span) -> Self {
        self.span = span;
        self
    }

    /// The answer goes on. What it comes to is counted if it is `unsettled`.
    pub(super) fn going_on(mut self, came: Came, unsettled: Option<Unsettled>) -> Self {
        self.rest = Some(Box::new(Rest { came, unsettled }));
        self
    }

    /// All of it has been handed to the system, or to hyper.
    pub(super) fn all_sent(mut self) {
        self.is_sent = true;
        let source = self.rest.as_ref().map_or(self.source, |rest| rest.came.source());
        self.answers.ended(source, self.started.elapsed());
    }
}

impl Drop for Ending {
    /// Whether it was sent whole or cut: what has gone out has come from somewhere.
    fn drop(&mut self) {
        let source = self.rest.as_ref().map_or(self.source, |rest| rest.came.source());
        self.span.set("darter.source", || source.name());
        if !self.is_sent {
            self.span.fail(&"the answer was cut short");
        }
        let Some(rest) = self.rest.take() else { return };
        let Rest { came, unsettled } = *rest;
        let (Some(Unsettled { shared, question, reply }), source) = (unsettled, came.source()) else {
            return;
        };
        self.answers.settled(source);
        if let Some(fate) = Fate::of(source, reply.status.as_u16()).filter(|fate| *fate != Fate::Hit) {
            shared.recent().note(question, fate, Reply { source, ..reply });
        }
    }
}
