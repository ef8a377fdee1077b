//! One connection after `Hello` on both sides.
//!
//! A session carries exchanges, each on a stream of its own, and what is no answer on the control stream. What waits to be
//! sent there is bounded in bytes; what other nodes have asked and is not answered is bounded in number.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::exchange::{Exchange, ExchangeError};
use crate::identity::Member;
use crate::lane::{Connection, LaneError, LaneKind, STREAMS_MAX};
use crate::node::{Node, Role};
use crate::peers::Flow;
use crate::wire::{Code, Hello, Leaving, Message};

/// Bytes that wait to be sent on a control stream: a dozen full `Holds`.
pub const CONTROL_BYTES_MAX: usize = 256 << 10;
/// Requests of one session that are being answered. The lanes allow [`STREAMS_MAX`] open streams; as many may have been
/// given up by the other side while this one still works on them.
pub const ANSWERS_MAX: u32 = 2 * STREAMS_MAX;

/// A connection to a node with which this one has a version in common. Shared as `Rc<Session>`; closed with the last one,
/// if not before.
#[derive(Debug)]
pub struct Session {
    pub(crate) line: Rc<Line>,
    node: Node,
    hello: Hello,
}

/// What the tasks of a session hold of it, so that they do not keep it.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) connection: Connection,
    waiting: RefCell<VecDeque<Bytes>>,
    waiting_bytes: Cell<usize>,
    wake_sender: Notify,
    leaving: Cell<bool>,
    over: Cell<bool>,
    /// What this side closed it with, the first time.
    closed_with: OnceCell<(Code, String)>,
    told_over: Notify,
    /// Requests of the other side.
    pub(crate) answering: Rc<Places>,
    /// Requests of this side.
    pub(crate) asking: Rc<Places>,
    used_at: Cell<Instant>,
    /// Counts the bytes of blocks, if somebody wants to know.
    flow: OnceCell<Arc<Flow>>,
}

/// Exchanges of one direction that are open.
#[derive(Debug)]
pub(crate) struct Places {
    taken: Cell<u32>,
    freed_at: Cell<Instant>,
    one_taken: Notify,
    none_left: Notify,
}

/// Counts an exchange for as long as it is there.
#[derive(Debug)]
pub(crate) struct Place(Rc<Places>);

impl Session {
    pub(crate) fn new(connection: Connection, node: Node, hello: Hello) -> Rc<Self> {
        let line = Rc::new(Line {
            connection,
            waiting: RefCell::default(),
            waiting_bytes: Cell::new(0),
            wake_sender: Notify::new(),
            leaving: Cell::new(false),
            over: Cell::new(false),
            closed_with: OnceCell::new(),
            told_over: Notify::new(),
            answering: Places::new(),
            asking: Places::new(),
            used_at: Cell::new(Instant::now()),
            flow: OnceCell::new(),
        });
        Rc::new(Self { line, node, hello })
    }

    /// Who is at the other end, where it listens, and its zone.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// What it may do.
    #[must_use]
    pub fn role(&self) -> Role {
        self.member().role
    }

    /// Its name and role, as the certificate tells.
    #[must_use]
    pub fn member(&self) -> Member {
        self.line.connection.member()
    }

    /// What it said of itself.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// On which lane.
    #[must_use]
    pub fn lane(&self) -> LaneKind {
        self.line.connection.kind()
    }

    /// Whether it is for the membership only.
    #[must_use]
    pub fn is_apart(&self) -> bool {
        self.hello.apart
    }

    /// Whether the other node has said that it goes: nothing new is to be asked of it.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.line.leaving.get()
    }

    /// Bytes of blocks are counted there from now on.
    pub(crate) fn count_in(&self, flow: Arc<Flow>) {
        // The first time counts.
        _ = self.line.flow.set(flow);
    }

    /// Opens a stream and sends the request; waits while [`STREAMS_MAX`] of this side are open.
    ///
    /// # Errors
    /// The connection is over, or the other node is leaving.
    pub async fn ask(&self, request: impl Into<Message>) -> Result<Exchange, ExchangeError> {
        if self.is_leaving() {
            let (code, reason) = (Code::Leaving.number().into(), "it is leaving".into());
            return Err(LaneError::Closed { code, reason }.into());
        }
        let place = Place::take(&self.line.asking);
        let halves = self.line.connection.open().await?;
        let mut exchange = Exchange::new(Rc::clone(&self.line), halves, place);
        self.line.touch();
        exchange.send(request).await?;
        Ok(exchange)
    }

    /// Sends on the control stream what is no answer. `false`: more than [`CONTROL_BYTES_MAX`] would wait there, or the
    /// session is over; the message is dropped.
    pub fn tell(&self, message: impl Into<Message>) -> bool {
        self.line.tell(&message.into())
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.line.over.get()
    }

    /// Waits for its end.
    pub async fn over(&self) {
        self.line.over().await;
    }

    /// Ends it. With a code after which a node is left alone, the mesh connects to it no more for a minute.
    pub fn close(&self, code: Code, reason: &str) {
        self.line.close(code, reason);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.line.over.get() {
            self.line.close(Code::Other(0), "");
        }
    }
}

impl Line {
    pub(crate) fn tell(&self, message: &Message) -> bool {
        let frame = message.encode();
        if self.over.get() || self.waiting_bytes.get() + frame.len() > CONTROL_BYTES_MAX {
            return false;
        }
        self.push(frame);
        true
    }

    /// Once per session, and so without a limit.
    pub(crate) fn tell_leaving(&self) {
        self.push(Message::from(Leaving {}).encode());
    }

    fn push(&self, frame: Bytes) {
        self.waiting_bytes.set(self.waiting_bytes.get() + frame.len());
        self.waiting.borrow_mut().push_back(frame);
        self.wake_sender.notify_one();
        self.touch();
    }

    /// The next frame for the control stream.
    pub(crate) async fn next_to_tell(&self) -> Bytes {
        loop {
            let frame = self.waiting.borrow_mut().pop_front();
            if let Some(frame) = frame {
                self.waiting_bytes.set(self.waiting_bytes.get() - frame.len());
                return frame;
            }
            self.wake_sender.notified().await;
        }
    }

    /// Bytes of blocks were given to the connection.
    pub(crate) fn sent(&self, bytes: usize) {
        self.flow.get().inspect(|flow| flow.sent(bytes));
    }

    /// Bytes of blocks have come.
    pub(crate) fn received(&self, bytes: usize) {
        self.flow.get().inspect(|flow| flow.received(bytes));
    }

    /// Something happens on it.
    pub(crate) fn touch(&self) {
        self.used_at.set(Instant::now());
    }

    /// When it was last of use; `None` while it is.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let open = self.answering.taken.get() + self.asking.taken.get();
        let freed_at = self.answering.freed_at.get().max(self.asking.freed_at.get());
        (open == 0).then_some(self.used_at.get().max(freed_at))
    }

    /// The other side goes; whether this is news.
    pub(crate) fn hear_leaving(&self) -> bool {
        !self.leaving.replace(true)
    }

    pub(crate) fn closed_with(&self) -> Option<&(Code, String)> {
        self.closed_with.get()
    }

    pub(crate) fn close(&self, code: Code, reason: &str) {
        // The first time counts.
        _ = self.closed_with.set((code, reason.to_owned()));
        self.connection.close(code.number().into(), reason);
    }

    /// Marks the end; nothing more is sent or waited for.
    pub(crate) fn end(&self) {
        self.over.set(true);
        self.waiting.borrow_mut().clear();
        self.waiting_bytes.set(0);
        self.told_over.notify_waiters();
    }

    async fn over(&self) {
        // No other task runs between the look and the wait.
        let told = self.told_over.notified();
        if !self.over.get() {
            told.await;
        }
    }
}

impl Places {
    fn new() -> Rc<Self> {
        let (one_taken, none_left) = (Notify::new(), Notify::new());
        Rc::new(Self { taken: Cell::new(0), freed_at: Cell::new(Instant::now()), one_taken, none_left })
    }

    pub(crate) fn is_any_taken(&self) -> bool {
        self.taken.get() > 0
    }

    /// Waits until one is taken.
    pub(crate) async fn taken(&self) {
        while !self.is_any_taken() {
            self.one_taken.notified().await;
        }
    }

    /// Waits until none is taken.
    pub(crate) async fn all_free(&self) {
        while self.taken.get() > 0 {
            self.none_left.notified().await;
        }
    }
}

impl Place {
    fn take(places: &Rc<Places>) -> Self {
        places.taken.set(places.taken.get() + 1);
        places.one_taken.notify_waiters();
        Self(Rc::clone(places))
    }

    /// One of [`ANSWERS_MAX`].
    pub(crate) fn to_answer(line: &Line) -> Option<Self> {
        (line.answering.taken.get() < ANSWERS_MAX).then(|| Self::take(&line.answering))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.set(self.0.taken.get() - 1);
        self.0.freed_at.set(Instant::now());
        if self.0.taken.get() == 0 {
            self.0.none_left.notify_waiters();
        }
    }
}
