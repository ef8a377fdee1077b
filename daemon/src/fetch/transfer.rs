//! One run of blocks on its way from the origin, with its retries, and what of it goes to the store.
//!
//! A request is read to its end and kept even when its readers left.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use darter_engine::{BLOCK_BYTES, BlockRun, HashedBlock};
use http::StatusCode;
use tokio::time::Instant;

use super::active::Active;
use super::demand::{Arrival, FetchError, Waiter};
use super::gather::Gather;
use super::landing::Landing;
use super::patience::Patience;
use super::plan::TransferId;
use crate::metrics::Giver;
use crate::origin::{Ask, BlobAnswer, BlobStream, OriginError, Target, Verdict};

/// Tries of a request that makes no progress.
const TRIES_MAX: u32 = 4;
const RETRY_AFTER: Duration = Duration::from_millis(150);
/// Blocks that are hashed in one go: 256 KiB, some 60 µs.
const HASHED_AT_ONCE: u32 = 4;
/// How long a block's worth of a body may take; a body that drips would hold its readers and its buffers.
const BLOCK_WITHIN: Duration = Duration::from_secs(20);

pub(super) struct Transfer<'a> {
    active: &'a Rc<Active>,
    id: TransferId,
    /// With whose credentials the next request goes.
    target: Rc<Target>,
    run: BlockRun,
    landing: Landing<'a>,
}

impl<'a> Transfer<'a> {
    /// Of blocks that the plan knows as this transfer's.
    pub(super) fn new(active: &'a Rc<Active>, run: BlockRun, id: TransferId, target: Rc<Target>) -> Self {
        Self { active, id, target, run, landing: Landing::of(active, run, Giver::Origin) }
    }

    /// Brings the blocks, or says why those that are left do not come.
    pub(super) async fn run(&mut self, mut stream: Option<BlobStream>) -> Result<(), FetchError> {
        let has_room = self.landing.prepare(self.run.first()).await;
        if !has_room && stream.is_none() && !self.leave_out_what_nobody_waits_for() {
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
    pub(super) fn end(self) -> (BlockRun, bool) {
        (self.run, self.landing.end())
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
            self.landing.change_run(run);
            *gather = Gather::new(layout, run);
        }
    }

    /// Reads a body to its promised end or to the end of the run.
    async fn consume(&mut self, mut stream: BlobStream, gather: &mut Gather) -> Result<(), OriginError> {
        let pool = self.active.owner.store.pool().clone();
        let coming = self.active.owner.metrics.registries.coming(self.target.registry(), &stream);
        let mut position = stream.bytes.start;
        let mut mark = (position, Instant::now());
        while !gather.left().is_empty() {
            if position - mark.0 >= u64::from(BLOCK_BYTES) {
                mark = (position, Instant::now());
            }
            let next = tokio::time::timeout_at(mark.1 + BLOCK_WITHIN, stream.next());
            let Some(mut chunk) = next.await.map_err(|_| self.cut())?? else { return Err(self.cut()) };
            coming.came(chunk.len());
            let promised = stream.bytes.end - position;
            chunk.truncate(promised.min(chunk.len() as u64) as usize);
            // What comes before the run, or was there before the body broke, is passed over.
            let known = gather.position().saturating_sub(position).min(chunk.len() as u64);
            position += chunk.len() as u64;
            let _ = chunk.split_to(known as usize);
            let taking = Instant::now();
            while !chunk.is_empty() && !gather.left().is_empty() {
                if let Some((block, bytes)) = gather.push(&mut chunk, &pool).await {
                    self.landing.take(block, HashedBlock::new(bytes)).await;
                    // Readers of what is cached do not wait for the hashes of a whole body.
                    if block.number().is_multiple_of(HASHED_AT_ONCE) {
                        tokio::task::yield_now().await;
                    }
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

    /// Without room in the store, bytes that nobody waits for would be asked for in vain. False if that is all.
    fn leave_out_what_nobody_waits_for(&mut self) -> bool {
        let mut plan = self.active.plan.borrow_mut();
        let Some(last) = self.run.blocks().rev().find(|block| plan.is_awaited(*block, Waiter::is_there))
        else {
            return false;
        };
        let count = last.number() + 1 - self.run.first().number();
        if let Some(rest) = self.run.skip(count) {
            plan.failed(rest, self.id);
            self.run = self.run.take(count);
            self.landing.change_run(self.run);
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
