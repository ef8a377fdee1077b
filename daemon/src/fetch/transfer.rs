//! One run of blocks on its way from the origin, with its retries, and what of it goes to the store.
//!
//! A request is read to its end and kept even when its readers left.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_engine::{BLOCK_BYTES, BlockIndex, BlockRun, Reservation};
use http::StatusCode;
use tokio::time::Instant;

use super::active::Active;
use super::demand::{Arrival, FetchError, Waiter};
use super::gather::Gather;
use super::patience::Patience;
use super::plan::{REQUEST_BLOCKS_MAX, TransferId};
use crate::origin::{Ask, BlobAnswer, BlobStream, OriginError, Target, Verdict};

/// Blocks of one write: 1 MiB.
const WRITE_BLOCKS: usize = 16;
/// Tries of a request that makes no progress.
const TRIES_MAX: u32 = 4;
const RETRY_AFTER: Duration = Duration::from_millis(150);
/// How long a block's worth of a body may take; a body that drips would hold its readers and its buffers.
const BLOCK_WITHIN: Duration = Duration::from_secs(20);

pub(super) struct Transfer<'a> {
    active: &'a Rc<Active>,
    id: TransferId,
    /// With whose credentials the next request goes.
    target: Rc<Target>,
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
    /// Of blocks that the plan knows as this transfer's.
    pub(super) fn new(active: &'a Rc<Active>, run: BlockRun, id: TransferId, target: Rc<Target>) -> Self {
        Self { active, id, target, run, window: None, kept_any: false }
    }

    /// Brings the blocks, or says why those that are left do not come.
    pub(super) async fn run(&mut self, mut stream: Option<BlobStream>) -> Result<(), FetchError> {
        self.enter_window(self.run.first()).await;
        let no_room = self.window.as_ref().is_some_and(|window| window.reservation.is_none());
        if no_room && stream.is_none() && !self.leave_out_what_nobody_waits_for() {
            return Err(FetchError::Busy);
        }
        let mut gather = Gather::new(self.active.content().layout(), self.run);
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

    /// Lets what has come go to the store. The run in the end, and whether anything of it was kept.
    pub(super) fn end(mut self) -> (BlockRun, bool) {
        self.flush();
        (self.run, self.kept_any)
    }

    /// Asks until there is an answer. The outer error ends the transfer, the inner one is worth another try.
    async fn ask(
        &mut self,
        bytes: std::ops::Range<u64>,
    ) -> Result<Result<BlobStream, OriginError>, FetchError> {
        let ask = Ask::Span { first: bytes.start, last: bytes.end - 1 };
        let length_bytes = self.active.content().layout().length_bytes();
        let mut patience = Patience::new();
        loop {
            let registry = self.target.registry().to_string();
            match self.active.ask(&self.target, ask, || self.is_awaited()).await {
                Ok(BlobAnswer::Bytes(stream)) if self.active.is_of_the_same(&stream) => {
                    return Ok(Ok(stream));
                }
                Ok(BlobAnswer::Bytes(BlobStream { length_bytes: told_bytes, .. }))
                | Ok(BlobAnswer::Unsatisfied { length_bytes: told_bytes }) => {
                    return Err(self.active.doubt(registry, told_bytes));
                }
                Ok(BlobAnswer::NoLength) => {
                    let reason = format!("no length where {length_bytes} was told before");
                    return Err(OriginError::Unusable { registry, reason }.into());
                }
                Ok(BlobAnswer::Verdict(verdict)) if patience.wait(&verdict).await => {}
                Ok(BlobAnswer::Verdict(verdict)) => self.refused(verdict)?,
                Err(FetchError::Origin(error @ OriginError::Unreachable { .. })) => return Ok(Err(error)),
                Err(error) => return Err(error),
            }
        }
    }

    fn is_awaited(&self) -> bool {
        self.active.plan.borrow().first_waiter(self.run, self.id, Waiter::is_there).is_some()
    }

    /// Goes on with another reader's credentials if the verdict is about the one that asked: then it is told to
    /// those who ask alike, and to nobody else.
    fn refused(&mut self, verdict: Verdict) -> Result<(), FetchError> {
        use StatusCode as Code;
        let is_about_who_asks =
            matches!(verdict.status, Code::UNAUTHORIZED | Code::FORBIDDEN | Code::NOT_FOUND);
        let error = FetchError::Verdict(Arc::new(verdict));
        if !is_about_who_asks {
            return Err(error);
        }
        let mut plan = self.active.plan.borrow_mut();
        let alike = |waiter: &Waiter| waiter.target.asks_like(&self.target);
        for (block, waiter) in plan.take_waiters(self.run, self.id, alike) {
            waiter.tell(Arrival::Failed(block, error.clone()));
        }
        let next = plan.first_waiter(self.run, self.id, Waiter::is_there);
        self.target = next.map(|waiter| waiter.target.clone()).ok_or(error)?;
        Ok(())
    }

    /// An origin that answers 200 to a range sends the whole: then all of it is taken.
    fn widen(&mut self, stream: &BlobStream, gather: &mut Gather) {
        let layout = self.active.content().layout();
        let untouched = gather.position() == layout.bytes(self.run).start;
        if !stream.is_part
            && untouched
            && let Some(run) = layout.contained(&stream.bytes)
        {
            self.active.plan.borrow_mut().begin(run, self.id);
            self.run = run;
            *gather = Gather::new(layout, run);
        }
    }

    /// Reads a body to its promised end or to the end of the run.
    async fn consume(&mut self, mut stream: BlobStream, gather: &mut Gather) -> Result<(), OriginError> {
        let pool = self.active.owner.store.pool().clone();
        let mut position = stream.bytes.start;
        let mut mark = (position, Instant::now());
        while !gather.left().is_empty() {
            if position - mark.0 >= u64::from(BLOCK_BYTES) {
                mark = (position, Instant::now());
            }
            let next = tokio::time::timeout_at(mark.1 + BLOCK_WITHIN, stream.next());
            let Some(mut chunk) = next.await.map_err(|_| self.cut())?? else { return Err(self.cut()) };
            self.active.owner.metrics.origin_body(chunk.len());
            let promised = stream.bytes.end - position;
            chunk.truncate(promised.min(chunk.len() as u64) as usize);
            // What comes before the run, or was there before the body broke, is passed over.
            let known = gather.position().saturating_sub(position).min(chunk.len() as u64);
            position += chunk.len() as u64;
            let _ = chunk.split_to(known as usize);
            let taking = Instant::now();
            while !chunk.is_empty() && !gather.left().is_empty() {
                if let Some((block, bytes)) = gather.push(&mut chunk, &pool).await {
                    self.take(block, bytes).await;
                }
            }
            // What this node waited for, a buffer or room, is not the origin's time.
            mark.1 += taking.elapsed();
            if position == stream.bytes.end && !gather.left().is_empty() {
                return Err(self.cut());
            }
        }
        Ok(())
    }

    /// A block is whole.
    async fn take(&mut self, block: BlockIndex, bytes: Bytes) {
        if self.window.as_ref().is_none_or(|window| !window.run.contains(block)) {
            self.enter_window(block).await;
        }
        let has_slot = self.window.as_ref().is_some_and(|window| window.reservation.is_some());
        if has_slot && self.active.owner.store.is_behind() {
            self.flush();
        }
        let kept = has_slot && self.active.owner.disk_keeps_up().await;
        let Some(window) = &mut self.window else { return };
        let handed = self.active.deliver(block, &bytes, kept);
        if !kept {
            // What is gathered is written as one run of neighbours, and this block would be missing in it.
            self.flush();
            self.active.owner.metrics.unkept(bytes.len());
            if let Some(bytes) = handed {
                self.active.owner.store.feed(self.active.content(), block, bytes);
            }
            self.active.settle(block);
            return;
        }
        self.kept_any = true;
        window.first.get_or_insert(block);
        window.batch.push(bytes);
        // When buffers are short, those that are gathered here may be what everyone waits for.
        if window.batch.len() >= WRITE_BLOCKS || !self.active.owner.has_buffers_to_spare() {
            self.flush();
        }
    }

    async fn enter_window(&mut self, first: BlockIndex) {
        self.flush();
        let Some(run) = self.run.starting_at(first).map(|run| run.take(REQUEST_BLOCKS_MAX)) else { return };
        let reservation = self.active.reserve(run).await;
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
        let registry = self.target.registry().to_string();
        self.active.owner.spawn(async move {
            let count = blocks.len() as u32;
            let written = active.owner.store.write(&reservation, first, blocks, &registry).await;
            if let Err(error) = written {
                active.owner.metrics.unkept(count as usize * BLOCK_BYTES as usize);
                tracing::warn!(content = %active.key.id, %error, "blocks were served and not kept");
            }
            let run = active.content().layout().run(first.number(), first.number() + count);
            run.into_iter().flat_map(BlockRun::blocks).for_each(|block| active.settle(block));
            active.end_if_idle();
        });
    }

    /// Without room in the store, bytes that nobody waits for would be asked for in vain. False if that is all.
    fn leave_out_what_nobody_waits_for(&mut self) -> bool {
        let mut plan = self.active.plan.borrow_mut();
        let Some(last) = self.run.blocks().rev().find(|block| plan.is_awaited(*block)) else { return false };
        let count = last.number() + 1 - self.run.first().number();
        if let Some(rest) = self.run.skip(count) {
            plan.failed(rest, self.id);
            self.run = self.run.take(count);
        }
        true
    }

    fn cut(&self) -> OriginError {
        OriginError::Unreachable {
            registry: self.target.registry().to_string(),
            reason: "the body ended before its time".into(),
        }
    }
}
