//! The bytes of one range of a content, in order: from the store where they are there, from the fetch where not.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_engine::store::ReadError;
use darter_engine::{BLOCK_BYTES, BlockIndex, BlockRun, Content, Store, Verification};

use super::trouble::Trouble;
use crate::fetch::{Arrival, FetchKey, Fetches, ORIGIN_REQUEST_BLOCKS, Subscription};
use crate::metrics::{Metrics, Source};
use crate::origin::Target;

/// Blocks of one read from the store: 1 MiB.
const READ_BLOCKS: u32 = 16;
/// Blocks that a long reader waits for at a time: 1 MiB.
const DEMAND_BLOCKS: u32 = 16;
/// Requests to the origin that a long reader is ahead by: between 8 and 12 MiB.
const AHEAD_REQUESTS: u32 = 2;
/// How long a reader waits for one block of a body that has begun.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a block may vanish between the look and the read before the reader gives up.
const LOST_RACES_MAX: u32 = 64;

/// What a reader works with.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The node's store.
    pub store: Store,
    /// The way to the origin.
    pub fetches: Fetches,
    /// Where bytes are counted.
    pub metrics: Arc<Metrics>,
}

/// Reads one range.
#[derive(Debug)]
pub struct Reader {
    sources: Sources,
    content: Arc<Content>,
    key: FetchKey,
    target: Target,
    /// Bytes that are still to come.
    left: Range<u64>,
    /// The last block of a whole content waits for the digest.
    gated: bool,
    /// All of the range is demanded at once: it is short and wanted whole.
    short: bool,
    ready: VecDeque<Bytes>,
    subscription: Option<Subscription>,
    fetched: bool,
    lost_races: u32,
}

impl Reader {
    /// A reader of `bytes`, which must lie inside the content.
    pub fn new(
        sources: Sources,
        content: Arc<Content>,
        key: FetchKey,
        target: Target,
        bytes: Range<u64>,
    ) -> Self {
        let short = bytes.end - bytes.start <= super::blob::COLLECTED_BYTES_MAX;
        Self {
            sources,
            content,
            key,
            target,
            left: bytes,
            gated: false,
            short,
            ready: VecDeque::new(),
            subscription: None,
            fetched: false,
            lost_races: 0,
        }
    }

    /// The last block is handed out only when the whole digest is right.
    #[must_use]
    pub fn gated(mut self) -> Self {
        self.gated = true;
        self
    }

    /// Whether anything had to be waited for.
    pub fn source(&self) -> Source {
        if self.fetched { Source::Origin } else { Source::Cache }
    }

    /// Bytes that are still to come.
    pub fn left_bytes(&self) -> u64 {
        self.left.end - self.left.start
    }

    /// The next bytes; `None` at the end. Dropping the future loses nothing.
    ///
    /// # Errors
    /// A block cannot be had, or the digest is wrong.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Trouble> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                self.left.start += part.len() as u64;
                return Ok(Some(part));
            }
            let Some(run) = self.content.layout().covering(&self.left) else { return Ok(None) };
            let run = if self.gated && self.is_last(run.last()) {
                match run.len() {
                    1 => {
                        self.pass_gate().await?;
                        self.gated = false;
                        run
                    }
                    blocks => run.take(blocks - 1),
                }
            } else {
                run
            };
            self.fill(run).await?;
        }
    }

    fn is_last(&self, block: BlockIndex) -> bool {
        block.number() + 1 == self.content.layout().block_count()
    }

    /// Puts the next bytes of the run into `ready`.
    async fn fill(&mut self, run: BlockRun) -> Result<(), Trouble> {
        let first = run.first();
        let waiting = self.subscription.as_ref().is_some_and(|subscription| subscription.covers(first));
        if !waiting
            && let Some(present) =
                self.sources.store.present_prefix(&self.content, self.key.scope, run.take(READ_BLOCKS))
        {
            return self.read(present).await;
        }
        self.fetched = true;
        if !waiting {
            self.subscribe(run)?;
        }
        let Some(subscription) = &mut self.subscription else { return Err(Trouble::Busy) };
        let arrival = tokio::time::timeout(BLOCK_TIMEOUT, subscription.block(first)).await;
        match arrival.map_err(|_| Trouble::Late)? {
            Arrival::Bytes(block, bytes) => {
                self.sources.metrics.body(Source::Origin, bytes.len());
                self.push(block.byte_offset(), bytes);
                Ok(())
            }
            Arrival::InStore(block) => match self.content.layout().run(block.number(), block.number() + 1) {
                Some(one) => self.read(one).await,
                None => Err(Trouble::Busy),
            },
            Arrival::Failed(_, error) => {
                self.subscription = None;
                Err(error.into())
            }
        }
    }

    fn subscribe(&mut self, run: BlockRun) -> Result<(), Trouble> {
        let wanted = if self.short { run } else { run.take(DEMAND_BLOCKS) };
        // By whole requests, so that a reader that moves by 1 MiB does not make requests of 1 MiB.
        let end = (wanted.last().number() + 1).next_multiple_of(ORIGIN_REQUEST_BLOCKS)
            + AHEAD_REQUESTS * ORIGIN_REQUEST_BLOCKS;
        let ahead = run.skip(wanted.len()).map(|rest| rest.take(end.saturating_sub(rest.first().number())));
        let (content, target) = (&self.content, self.target.clone());
        self.subscription = Some(self.sources.fetches.bring(content, self.key, target, wanted, ahead)?);
        Ok(())
    }

    async fn read(&mut self, run: BlockRun) -> Result<(), Trouble> {
        match self.sources.store.read(&self.content, self.key.scope, run).await {
            Ok(parts) => {
                let mut offset = run.first().byte_offset();
                for part in parts {
                    let end = offset + part.len() as u64;
                    self.sources.metrics.body(Source::Cache, part.len());
                    self.push(offset, part);
                    offset = end;
                }
                Ok(())
            }
            // Evicted, or found damaged, since it was looked at: it is fetched.
            Err(ReadError::Absent(_)) if self.lost_races < LOST_RACES_MAX => {
                self.lost_races += 1;
                self.subscription = None;
                Ok(())
            }
            Err(ReadError::Absent(_) | ReadError::NoBuffers) => Err(Trouble::Busy),
        }
    }

    /// Keeps of a part what lies in the range.
    fn push(&mut self, offset: u64, part: Bytes) {
        let end = offset + part.len() as u64;
        let from = self.left.start.max(offset).min(end) - offset;
        let to = self.left.end.min(end).max(offset) - offset;
        if from < to {
            self.ready.push_back(part.slice(from as usize..to as usize));
        }
    }

    /// Waits for the whole digest. Blocks that the running digest lacks are brought again: they were evicted, or
    /// could not be kept.
    async fn pass_gate(&mut self) -> Result<(), Trouble> {
        let content = self.content.clone();
        loop {
            let changed = content.changed();
            match content.verification() {
                Verification::Passed | Verification::Unprovable => return Ok(()),
                Verification::Wrong => return Err(Trouble::WrongDigest),
                Verification::Pending { next, stalled: true }
                    if !self.sources.store.has(&self.content, self.key.scope, next) =>
                {
                    self.bring_for_digest(next).await?;
                }
                Verification::Pending { .. } => {
                    self.sources.store.advance(&self.content);
                    tokio::time::timeout(BLOCK_TIMEOUT, changed).await.map_err(|_| Trouble::Late)?;
                }
            }
        }
    }

    async fn bring_for_digest(&mut self, next: BlockIndex) -> Result<(), Trouble> {
        self.fetched = true;
        let layout = self.content.layout();
        let Some(run) = layout.run(next.number(), layout.block_count()) else { return Ok(()) };
        let run = run.take(DEMAND_BLOCKS);
        let target = self.target.clone();
        let mut blocks = self.sources.fetches.bring(&self.content, self.key, target, run, None)?;
        for block in run.blocks() {
            let arrival = tokio::time::timeout(BLOCK_TIMEOUT, blocks.block(block)).await;
            if let Arrival::Failed(_, error) = arrival.map_err(|_| Trouble::Late)? {
                return Err(error.into());
            }
        }
        self.sources.store.advance(&self.content);
        Ok(())
    }
}

const _: () = assert!(
    super::blob::COLLECTED_BYTES_MAX / BLOCK_BYTES as u64 + 2 <= crate::fetch::DEMAND_BLOCKS_MAX as u64 + 1,
    "a short range is demanded at once"
);
