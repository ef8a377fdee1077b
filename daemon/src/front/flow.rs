//! What has moved on a connection, and what may stand still how long.
//!
//! A head that does not come to its end, a client that takes nothing of its answer, a connection that is kept and not
//! used each have a time, and heads that are not whole yet have a budget of the whole node.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Bytes of unfinished heads that the node holds beyond [`HEAD_BYTES_OWN`] of each.
pub(super) const HEADS_BYTES_MAX: usize = 32 << 20;
/// So much of a head every connection may hold: the heads of clients that mean well fit.
const HEAD_BYTES_OWN: usize = 4 << 10;

/// How long a connection may stand still.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    /// From the first byte of a head to its last, and for the first one from the beginning of the connection.
    pub(super) head: Duration,
    /// Between an answer and the next request.
    pub(super) idle: Duration,
    /// Without taking a byte of an answer.
    pub(super) untaken: Duration,
    /// The same while what clients have not taken keeps others waiting.
    pub(super) pressed: Duration,
    /// Without a byte in any direction while a request is being answered. Every wait for an origin is shorter.
    pub(super) unmoved: Duration,
}

impl Allowance {
    pub(super) const OF_CLIENTS: Self = Self {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(90),
        untaken: Duration::from_secs(60),
        pressed: Duration::from_secs(5),
        unmoved: Duration::from_secs(120),
    };
}

/// Bytes of heads under way on the whole node.
#[derive(Debug, Default)]
pub(super) struct Heads {
    pub(super) held_bytes: AtomicUsize,
}

/// One connection's part of [`Heads`].
#[derive(Debug)]
pub(super) struct HeadRoom {
    heads: Arc<Heads>,
    held_bytes: Cell<usize>,
}

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum End {
    /// As HTTP has it: the client or this side is done, or one of them has failed.
    Http(io::Result<()>),
    /// A head takes too long.
    SlowHead,
    /// Heads of all connections take too much.
    NoHeadRoom,
    /// Nothing was asked for a long time.
    Idle,
    /// The client does not take its answer, or does not send the body that it has promised.
    Stuck,
    /// The daemon stops, and the answer was not at its end.
    Cut,
}

/// What has moved on a connection, told by its line and by the requests being answered.
pub(super) struct Flow {
    pub(super) allowance: Allowance,
    /// Whether others wait for what clients have not taken.
    pub(super) is_pressed: Box<dyn Fn() -> bool>,
    pub(super) room: HeadRoom,
    /// Requests whose answers hyper has not got whole yet: 0 or 1.
    pub(super) answering: Cell<u32>,
    /// Since when a head is waited for that has begun.
    pub(super) head_since: Cell<Option<Instant>>,
    pub(super) head_bytes: Cell<usize>,
    /// Something was read while a request was being answered: its body, or the next head.
    pub(super) read_ahead: Cell<bool>,
    /// When a byte last moved.
    pub(super) moved_at: Cell<Instant>,
    /// The system takes no more bytes for the client.
    pub(super) blocked: Cell<bool>,
    /// The next write that the runtime would not try is to be tried all the same.
    pub(super) insist: Cell<bool>,
    pub(super) no_head_room: Cell<bool>,
    /// The daemon stops: what has been asked is answered, and nothing more is waited for.
    pub(super) stopping: Cell<bool>,
    /// All that hyper had to write is written, and it waits for a head.
    pub(super) settled: Cell<bool>,
    /// It has been asked something in this turn.
    pub(super) asked_hyper: Cell<bool>,
    /// What hyper was asked makes the connection its own to the end.
    pub(super) hypers: Cell<bool>,
}

impl Flow {
    pub(super) fn new(allowance: Allowance, heads: Arc<Heads>, is_pressed: Box<dyn Fn() -> bool>) -> Self {
        let now = Instant::now();
        Self {
            allowance,
            is_pressed,
            room: HeadRoom { heads, held_bytes: Cell::new(0) },
            answering: Cell::new(0),
            // Who connects has something to ask.
            head_since: Cell::new(Some(now)),
            head_bytes: Cell::new(0),
            read_ahead: Cell::new(false),
            moved_at: Cell::new(now),
            blocked: Cell::new(false),
            insist: Cell::new(false),
            no_head_room: Cell::new(false),
            stopping: Cell::new(false),
            settled: Cell::new(false),
            asked_hyper: Cell::new(false),
            hypers: Cell::new(false),
        }
    }

    /// Whether hyper has done what it was there for, and nothing but a head could come next.
    pub(super) fn is_back(&self) -> bool {
        let is_done = self.asked_hyper.get() && self.answering.get() == 0 && self.settled.get();
        is_done && !self.hypers.get() && !self.stopping.get()
    }

    /// Whether somebody has connected who is about to ask, or has asked ahead.
    pub(super) fn is_unheard(&self) -> bool {
        self.answering.get() == 0 && self.head_bytes.get() == 0 && self.head_since.get().is_some()
    }

    /// When the connection ends if nothing moves before, and why.
    pub(super) fn due(&self) -> (Instant, End) {
        let Allowance { head, idle, untaken, unmoved, .. } = self.allowance;
        match (self.blocked.get(), self.answering.get(), self.head_since.get()) {
            (true, ..) => (self.moved_at.get() + untaken, End::Stuck),
            (false, 1.., _) => (self.moved_at.get() + unmoved, End::Stuck),
            (false, 0, Some(since)) => (since + head, End::SlowHead),
            (false, 0, None) => (self.moved_at.get() + idle, End::Idle),
        }
    }

    /// Whether others need what this client does not take.
    pub(super) fn outstays(&self, now: Instant) -> bool {
        self.blocked.get() && now >= self.moved_at.get() + self.allowance.pressed && (self.is_pressed)()
    }

    pub(super) fn request_begins(&self) {
        self.answering.set(self.answering.get() + 1);
        self.head_since.set(None);
        self.head_bytes.set(0);
        self.room.hold(0);
        self.moved_at.set(Instant::now());
    }

    pub(super) fn answer_ends(&self) {
        let now = Instant::now();
        self.answering.set(self.answering.get() - 1);
        self.settled.set(false);
        self.head_since.set(self.read_ahead.take().then_some(now));
        self.moved_at.set(now);
    }

    pub(super) fn read(&self, bytes: usize) -> io::Result<()> {
        let now = Instant::now();
        self.moved_at.set(now);
        if self.answering.get() > 0 {
            self.read_ahead.set(true);
            return Ok(());
        }
        self.head_since.set(self.head_since.get().or(Some(now)));
        self.head_bytes.set(self.head_bytes.get() + bytes);
        if self.room.hold(self.head_bytes.get().saturating_sub(HEAD_BYTES_OWN)) {
            return Ok(());
        }
        self.no_head_room.set(true);
        Err(io::Error::other("heads of requests take too much memory"))
    }

    pub(super) fn wrote(&self) {
        self.blocked.set(false);
        self.insist.set(false);
        self.moved_at.set(Instant::now());
    }

    pub(super) fn write_waits(&self) {
        if !self.blocked.replace(true) {
            self.moved_at.set(Instant::now());
        }
    }
}

impl HeadRoom {
    /// Changes what is held to so many bytes; false if that is more than the node has left.
    pub(super) fn hold(&self, bytes: usize) -> bool {
        let held = self.held_bytes.get();
        if bytes <= held {
            self.heads.held_bytes.fetch_sub(held - bytes, Ordering::Relaxed);
        } else {
            let more = bytes - held;
            if self.heads.held_bytes.fetch_add(more, Ordering::Relaxed) + more > HEADS_BYTES_MAX {
                self.heads.held_bytes.fetch_sub(more, Ordering::Relaxed);
                return false;
            }
        }
        self.held_bytes.set(bytes);
        true
    }
}

impl Drop for HeadRoom {
    fn drop(&mut self) {
        self.hold(0);
    }
}

/// A request is being answered, until this is dropped with the answer's body.
pub(super) struct Answering(Rc<Flow>);

impl Answering {
    pub(super) fn begin(flow: &Rc<Flow>) -> Self {
        flow.request_begins();
        Self(flow.clone())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answer_ends();
    }
}
