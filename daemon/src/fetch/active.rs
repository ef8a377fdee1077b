//! One content being fetched: the shell around the [`Plan`].
//!
//! Requests run beside each other, at most [`REQUESTS_MAX`], each over a run of missing blocks. A request is read
//! to its end and kept even when its readers left. Every whole block goes three ways: to those who wait for it,
//! to the running digest, and to the store; the last two never delay the first.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_engine::{BlockIndex, BlockRun, Content, Reservation};
use tokio::sync::Notify;

use super::Owner;
use super::demand::{Arrival, Demand, FetchError, FetchKey, Waiter};
use super::gather::Gather;
use super::plan::{Plan, REQUEST_BLOCKS_MAX};
use crate::origin::{Ask, BlobAnswer, BlobStream, OriginError, Target};

/// Requests of one content at its origin at a time.
const REQUESTS_MAX: u32 = 4;
/// Blocks of one write: 1 MiB.
const WRITE_BLOCKS: usize = 16;
/// Tries of a request that makes no progress.
const TRIES_MAX: u32 = 4;
const RETRY_AFTER: Duration = Duration::from_millis(150);
/// A part of the store that prefetch may fill with one content: more would push out its own beginning.
const PREFETCH_SHARE: f64 = 0.75;

/// A content with blocks on their way.
#[derive(Debug)]
pub(super) struct Active {
    owner: Rc<Owner>,
    key: FetchKey,
    content: Arc<Content>,
    target: RefCell<Target>,
    plan: RefCell<Plan<Waiter>>,
    /// Requests for readers under way.
    requests: Cell<u32>,
    prefetching: Cell<bool>,
    /// Told when no request for a reader is under way.
    quiet: Notify,
}

/// Tells a reader that none of its blocks will come.
pub(super) fn refuse(demand: &Demand) {
    for block in demand.run.blocks() {
        let _ = demand.waiter.try_send(Arrival::Failed(block, FetchError::Busy));
    }
}

impl Active {
    pub(super) fn new(owner: Rc<Owner>, key: FetchKey, content: Arc<Content>, target: Target) -> Rc<Self> {
        let plan = RefCell::new(Plan::new(content.layout()));
        Rc::new(Self {
            owner,
            key,
            content,
            target: RefCell::new(target),
            plan,
            requests: Cell::new(0),
            prefetching: Cell::new(false),
            quiet: Notify::new(),
        })
    }

    pub(super) fn is_for(&self, content: &Arc<Content>) -> bool {
        Arc::ptr_eq(&self.content, content)
    }

    pub(super) fn use_target(&self, target: Target) {
        *self.target.borrow_mut() = target;
    }

    /// A reader waits for blocks.
    pub(super) fn demand(self: &Rc<Self>, demand: Demand) {
        let mut plan = self.plan.borrow_mut();
        for block in demand.run.blocks() {
            let here = if self.owner.store.has(&self.content, self.key.scope, block) {
                Some(Arrival::InStore(block))
            } else {
                plan.want(block, demand.waiter.clone()).err().map(|(bytes, _)| Arrival::Bytes(block, bytes))
            };
            if let Some(arrival) = here {
                let _ = demand.waiter.try_send(arrival);
            }
        }
        for block in demand.ahead.into_iter().flat_map(BlockRun::blocks) {
            if !self.owner.store.has(&self.content, self.key.scope, block) {
                plan.want_ahead(block);
            }
        }
        drop(plan);
        self.pump();
    }

    /// Takes over the answer that told what the content is.
    pub(super) fn adopt(self: &Rc<Self>, stream: BlobStream) {
        let Some(run) = self.content.layout().contained(&stream.bytes) else { return self.end_if_idle() };
        self.plan.borrow_mut().begin(run);
        self.start(run, Some(stream));
    }

    /// Brings all that is absent, behind the readers.
    pub(super) fn prefetch(self: &Rc<Self>) {
        let capacity = self.owner.store.stats().capacity_bytes as f64;
        let fits = self.content.layout().length_bytes() as f64 <= capacity * PREFETCH_SHARE;
        if !fits || self.prefetching.replace(true) {
            return self.end_if_idle();
        }
        let active = self.clone();
        tokio::task::spawn_local(async move {
            active.prefetch_all().await;
            active.prefetching.set(false);
            active.end_if_idle();
        });
    }

    async fn prefetch_all(self: &Rc<Self>) {
        let mut rest = self.content.layout().whole();
        while let Some(run) = rest {
            // Below readers: no request of theirs is under way, and the configured rate allows it.
            while self.requests.get() > 0 {
                self.quiet.notified().await;
            }
            let Some(run) = self.next_absent(run) else { return };
            let bytes = self.content.layout().bytes(run);
            self.owner.prefetch_pace.take(bytes.end - bytes.start).await;
            if self.owner.closing.get() {
                return;
            }
            // A reader may have asked for some of it meanwhile.
            let Some(run) = self.next_absent(run) else { continue };
            self.plan.borrow_mut().begin(run);
            if !self.transfer_and_tell(run, None).await {
                return;
            }
            let whole = self.content.layout().whole();
            rest = whole.and_then(|whole| whole.skip(run.last().number() + 1));
        }
    }

    /// The first run inside `run` that is neither in the store nor on its way.
    fn next_absent(&self, run: BlockRun) -> Option<BlockRun> {
        let plan = self.plan.borrow();
        let absent = |block: &BlockIndex| {
            plan.at_rest(*block) && !self.owner.store.has(&self.content, self.key.scope, *block)
        };
        let first = run.blocks().find(absent)?;
        let rest = run.starting_at(first)?;
        let length = rest.blocks().take(REQUEST_BLOCKS_MAX as usize).take_while(absent).count();
        Some(rest.take(length as u32))
    }

    /// Starts requests for what readers wait for.
    fn pump(self: &Rc<Self>) {
        while self.requests.get() < REQUESTS_MAX {
            let next = self.plan.borrow_mut().next_request(|waiter| !waiter.is_closed());
            let Some(run) = next else { break };
            self.start(run, None);
        }
        self.end_if_idle();
    }

    fn start(self: &Rc<Self>, run: BlockRun, stream: Option<BlobStream>) {
        self.requests.set(self.requests.get() + 1);
        let active = self.clone();
        tokio::task::spawn_local(async move {
            active.transfer_and_tell(run, stream).await;
            active.requests.set(active.requests.get() - 1);
            active.pump();
            if active.requests.get() == 0 {
                active.quiet.notify_waiters();
            }
        });
    }

    fn end_if_idle(self: &Rc<Self>) {
        if self.requests.get() == 0 && !self.prefetching.get() && self.plan.borrow().is_idle() {
            self.owner.forget(&self.key, self);
        }
    }

    /// False if the run did not come whole, or nothing of it could be kept.
    async fn transfer_and_tell(self: &Rc<Self>, run: BlockRun, stream: Option<BlobStream>) -> bool {
        let mut transfer = Transfer::new(self, run);
        let result = transfer.run(stream).await;
        let (run, kept) = (transfer.run, transfer.kept_any);
        transfer.flush();
        let error = result.as_ref().err().cloned().unwrap_or(FetchError::Busy);
        let failed = self.plan.borrow_mut().failed(run);
        for (block, waiter) in failed {
            let _ = waiter.try_send(Arrival::Failed(block, error.clone()));
        }
        if let Err(error) = &result {
            tracing::debug!(content = %self.key.id, %error, "a request to the origin failed");
        }
        result.is_ok() && kept
    }

    fn deliver(&self, block: BlockIndex, bytes: &Bytes) {
        let waiters = self.plan.borrow_mut().arrived(block, bytes.clone());
        for waiter in waiters {
            let _ = waiter.try_send(Arrival::Bytes(block, bytes.clone()));
        }
    }
}

/// One request with its retries, and what of it goes to the store.
struct Transfer<'a> {
    active: &'a Rc<Active>,
    run: BlockRun,
    window: Option<Window>,
    kept_any: bool,
}

/// Neighbouring blocks with slots reserved for them, and those that wait to be written together.
struct Window {
    run: BlockRun,
    reservation: Option<Arc<Reservation>>,
    first: Option<BlockIndex>,
    batch: Vec<Bytes>,
}

impl<'a> Transfer<'a> {
    fn new(active: &'a Rc<Active>, run: BlockRun) -> Self {
        Self { active, run, window: None, kept_any: false }
    }

    async fn run(&mut self, mut stream: Option<BlobStream>) -> Result<(), FetchError> {
        self.enter_window(self.run.first()).await;
        if stream.is_none() && self.window.as_ref().is_some_and(|window| window.reservation.is_none()) {
            self.leave_out_what_nobody_waits_for();
        }
        let mut gather = Gather::new(self.active.content.layout(), self.run);
        let mut tries = 0;
        loop {
            let before = gather.left_blocks();
            let error = match stream.take() {
                Some(stream) => self.consume(stream, &mut gather).await.err(),
                None => match self.ask(gather.left()).await? {
                    Ok(stream) => {
                        self.widen(&stream, &mut gather);
                        self.consume(stream, &mut gather).await.err()
                    }
                    Err(error) => Some(error),
                },
            };
            if gather.left().is_empty() {
                return Ok(());
            }
            tries = if gather.left_blocks() == before { tries + 1 } else { 0 };
            if tries >= TRIES_MAX {
                return Err(error.unwrap_or_else(|| self.cut()).into());
            }
            tokio::time::sleep(RETRY_AFTER * tries).await;
        }
    }

    /// One request. The outer error ends the transfer, the inner one is worth another try.
    async fn ask(&self, bytes: std::ops::Range<u64>) -> Result<Result<BlobStream, OriginError>, FetchError> {
        let target = self.active.target.borrow().clone();
        let ask = Ask::Span { first: bytes.start, last: bytes.end - 1 };
        let length_bytes = self.active.content.layout().length_bytes();
        let unusable = |reason: String| {
            FetchError::from(OriginError::Unusable { registry: target.registry().to_string(), reason })
        };
        match self.active.owner.ask(&target, ask).await {
            Ok(BlobAnswer::Bytes(stream)) if stream.length_bytes == length_bytes => Ok(Ok(stream)),
            Ok(BlobAnswer::Bytes(stream)) => Err(unusable(format!(
                "a length of {} where {length_bytes} was told before",
                stream.length_bytes
            ))),
            Ok(BlobAnswer::NoLength | BlobAnswer::Unsatisfied { .. }) => {
                Err(unusable(format!("no bytes where {length_bytes} were told before")))
            }
            Ok(BlobAnswer::Verdict(verdict)) if verdict.status.is_server_error() => {
                Ok(Err(OriginError::Unreachable {
                    registry: target.registry().to_string(),
                    reason: format!("it answered {}", verdict.status),
                }))
            }
            Ok(BlobAnswer::Verdict(verdict)) => Err(FetchError::Verdict(Arc::new(verdict))),
            Err(error @ OriginError::Unreachable { .. }) => Ok(Err(error)),
            Err(error) => Err(error.into()),
        }
    }

    /// An origin that answers 200 to a range sends the whole: then all of it is taken.
    fn widen(&mut self, stream: &BlobStream, gather: &mut Gather) {
        let layout = self.active.content.layout();
        let untouched = gather.position() == layout.bytes(self.run).start;
        if untouched
            && stream.bytes.start < gather.position()
            && let Some(run) = layout.contained(&stream.bytes)
        {
            self.active.plan.borrow_mut().begin(run);
            self.run = run;
            *gather = Gather::new(layout, run);
        }
    }

    /// Reads a body to its end or to the end of the run.
    async fn consume(&mut self, mut stream: BlobStream, gather: &mut Gather) -> Result<(), OriginError> {
        let pool = self.active.owner.store.pool().clone();
        let mut position = stream.bytes.start;
        while !gather.left().is_empty() {
            let Some(mut chunk) = stream.next().await? else { return Err(self.cut()) };
            self.active.owner.metrics.origin_body(chunk.len());
            // What comes before the run, or was there before the body broke, is passed over.
            let known = gather.position().saturating_sub(position).min(chunk.len() as u64);
            position += chunk.len() as u64;
            let _ = chunk.split_to(known as usize);
            while !chunk.is_empty() && !gather.left().is_empty() {
                if let Some((block, bytes)) = gather.push(&mut chunk, &pool).await {
                    self.active.deliver(block, &bytes);
                    self.keep(block, bytes).await;
                }
            }
        }
        Ok(())
    }

    async fn keep(&mut self, block: BlockIndex, bytes: Bytes) {
        if self.window.as_ref().is_none_or(|window| !window.run.contains(block)) {
            self.enter_window(block).await;
        }
        let Some(window) = &mut self.window else { return };
        if window.reservation.is_none() {
            self.active.owner.metrics.unkept(bytes.len());
            self.active.owner.store.feed(&self.active.content, block, bytes);
            self.active.plan.borrow_mut().settled(block);
            return;
        }
        self.kept_any = true;
        window.first.get_or_insert(block);
        window.batch.push(bytes);
        if window.batch.len() >= WRITE_BLOCKS {
            self.flush();
        }
    }

    async fn enter_window(&mut self, first: BlockIndex) {
        self.flush();
        let Some(run) = self.run.starting_at(first).map(|run| run.take(REQUEST_BLOCKS_MAX)) else { return };
        let reservation = self.active.owner.store.reserve(&self.active.content, run).await.ok().map(Arc::new);
        self.window = Some(Window { run, reservation, first: None, batch: Vec::new() });
    }

    /// Hands the gathered blocks to the store, in a task of their own: nobody waits for the disk.
    fn flush(&mut self) {
        let Some(window) = &mut self.window else { return };
        let (Some(first), Some(reservation)) = (window.first.take(), window.reservation.clone()) else {
            return;
        };
        let blocks = std::mem::take(&mut window.batch);
        let active = self.active.clone();
        let registry = active.target.borrow().registry().to_string();
        tokio::task::spawn_local(async move {
            let count = blocks.len() as u32;
            let written = active.owner.store.write(&reservation, first, blocks, &registry).await;
            if let Err(error) = written {
                active.owner.metrics.unkept(count as usize * darter_engine::BLOCK_BYTES as usize);
                tracing::warn!(content = %active.key.id, %error, "blocks were served and not kept");
            }
            let layout = active.content.layout();
            let run = layout.run(first.number(), first.number() + count);
            run.into_iter()
                .flat_map(BlockRun::blocks)
                .for_each(|block| active.plan.borrow_mut().settled(block));
            active.end_if_idle();
        });
    }

    /// Without room in the store, bytes that nobody waits for would be asked for in vain.
    fn leave_out_what_nobody_waits_for(&mut self) {
        let mut plan = self.active.plan.borrow_mut();
        let awaited = self.run.blocks().rev().find(|block| plan.is_awaited(*block));
        let count = awaited.map_or(0, |last| last.number() + 1 - self.run.first().number());
        if let Some(rest) = self.run.skip(count.max(1)) {
            plan.failed(rest);
            self.run = self.run.take(count);
        }
    }

    fn cut(&self) -> OriginError {
        OriginError::Unreachable {
            registry: self.active.target.borrow().registry().to_string(),
            reason: "the body ended before its time".into(),
        }
    }
}
