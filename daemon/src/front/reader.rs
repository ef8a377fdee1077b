//! The bytes of one range of a content, in order: from the store where they are there, from the fetch where not.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_engine::store::{ReadError, Touch};
use darter_engine::{BLOCK_BYTES, BlockIndex, BlockRun, Content, Store, Verification};
use futures_util::FutureExt;
use tokio::time::Instant;

use super::trouble::Trouble;
use crate::access::Access;
use crate::fetch::{Arrival, FetchKey, Fetches, ORIGIN_REQUEST_BLOCKS, Reading, Subscription};
use crate::metrics::{Answers, Source};
use crate::origin::{Origin, Target};
use crate::trace::{Kind, Span};

/// Blocks of one read from the store: 1 MiB.
const READ_BLOCKS: u32 = 16;
/// Blocks that a long reader waits for at a time: 1 MiB.
const DEMAND_BLOCKS: u32 = 16;
/// Requests to the origin that a long reader is ahead by: between 8 and 12 MiB.
const AHEAD_REQUESTS: u32 = 2;
/// How long a reader waits for one block of a body that has begun; one of much, while nothing else of its content comes.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a reader of much leaves others the choice which blocks come first, before its answer has begun…
const FIRST_BLOCKS_WITHIN: Duration = Duration::from_millis(200);
/// …and when it has.
const LATER_BLOCKS_WITHIN: Duration = Duration::from_secs(5);
/// How often a block may vanish between the look and the read before the reader gives up.
const LOST_RACES_MAX: u32 = 64;

/// What a reader works with.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The node's store.
    pub store: Store,
    /// Who may read.
    pub access: Arc<Access>,
    /// For what is asked of a registry directly.
    pub origin: Origin,
    /// Who fetches what is absent.
    pub fetches: Fetches,
    /// Where this shard counts what it answers.
    pub answers: Arc<Answers>,
    /// Bytes of the store are looked at before they go out, as TLS does: none of them are slices of the mapping, which
    /// is for the kernel alone.
    pub looked_at: bool,
}

impl Sources {
    async fn read(&self, content: &Content, key: &FetchKey, run: BlockRun) -> Result<Vec<Bytes>, ReadError> {
        match self.looked_at {
            true => self.store.read_copied(content, key.scope, run, Touch::Counts).await,
            false => self.store.read(content, key.scope, run).await,
        }
    }
}

/// Bytes of the range, and where they lie.
#[derive(Clone, Debug)]
pub struct Part {
    /// First byte in the content.
    offset: u64,
    /// From the network, in a block buffer; else out of the store.
    pub(super) from_network: bool,
    pub(super) bytes: Bytes,
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
    ready: VecDeque<Part>,
    subscription: Option<Subscription>,
    /// This block was seen in the store, and the subscription will not bring it again.
    told_in_store: Option<BlockIndex>,
    /// When something last came that had to be waited for: from the network, or for a buffer.
    arrived_at: Option<Instant>,
    fetched: bool,
    lost_races: u32,
    seen: Seen,
    /// What it has others bring, once it does: recorded until the reader ends.
    fetching: Option<Span>,
}

/// What of the range had to be brought for this reader, and who gave it.
#[derive(Debug, Default)]
struct Seen {
    /// Numbers of blocks that were absent when the reader first looked for them, to wait for them or to have them
    /// brought ahead, and that it has not sent yet.
    absent: BTreeSet<u32>,
    /// Blocks before this one were looked for.
    end: u32,
    /// Nothing was here when the reader came: the content was not even known.
    all_absent: bool,
    from_peers: bool,
    from_origin: bool,
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
        let short = bytes.end - bytes.start <= super::content::COLLECTED_BYTES_MAX;
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
            told_in_store: None,
            arrived_at: None,
            fetched: false,
            lost_races: 0,
            seen: Seen::default(),
            fetching: None,
        }
    }

    /// The last block is handed out only when the whole digest is right.
    #[must_use]
    pub fn gated(mut self) -> Self {
        self.gated = true;
        self
    }

    /// The content was described for this reader: what is there of it has come just now.
    #[must_use]
    pub fn of_new(mut self) -> Self {
        self.seen.all_absent = true;
        self
    }

    /// Where what has gone out so far came from.
    pub fn source(&self) -> Source {
        match &self.seen {
            Seen { from_origin: true, .. } => Source::Origin,
            Seen { from_peers: true, .. } => Source::Peers,
            // Of nothing, or for the digest alone.
            Seen { all_absent: true, .. } => Source::Origin,
            Seen { .. } if self.fetched => Source::Origin,
            Seen { .. } => Source::Cache,
        }
    }

    /// Bytes that are still to come.
    pub fn left_bytes(&self) -> u64 {
        self.left.end - self.left.start
    }

    /// When something last came that this reader had to wait for, be it the network or a buffer.
    pub fn arrived_at(&self) -> Option<Instant> {
        self.arrived_at
    }

    /// The next bytes; `None` at the end. Dropping the future loses nothing.
    ///
    /// # Errors
    /// A block cannot be had, or the digest is wrong.
    pub async fn next(&mut self) -> Result<Option<Part>, Trouble> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                self.left.start += part.bytes.len() as u64;
                self.count(&part);
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

    /// Counts the bytes of a part by where they came from.
    fn count(&mut self, part: &Part) {
        let bytes = part.offset..part.offset + part.bytes.len() as u64;
        let Some(run) = self.content.layout().covering(&bytes) else { return };
        let is_all_cached = !part.from_network && !self.seen.all_absent && self.seen.absent.is_empty();
        if is_all_cached {
            return self.sources.answers.body(Source::Cache, part.bytes.len());
        }
        for block in run.blocks() {
            let was_absent = self.seen.absent.remove(&block.number());
            let source = if was_absent || part.from_network || self.seen.all_absent {
                let giver = self.sources.answers.givers.of(&self.key, block);
                giver.map_or(Source::Origin, Source::from)
            } else {
                Source::Cache
            };
            self.seen.from_peers |= source == Source::Peers;
            self.seen.from_origin |= source == Source::Origin;
            let first = bytes.start.max(block.byte_offset());
            let end = bytes.end.min(block.byte_offset() + u64::from(BLOCK_BYTES));
            self.sources.answers.body(source, (end - first) as usize);
        }
    }

    /// Notes which blocks of the run are absent; each is looked at once.
    fn look(&mut self, run: BlockRun) {
        for block in run.blocks().filter(|block| block.number() >= self.seen.end) {
            if !self.sources.store.has(&self.content, self.key.scope, block) {
                self.seen.absent.insert(block.number());
            }
        }
        self.seen.end = self.seen.end.max(run.last().number() + 1);
    }

    fn is_last(&self, block: BlockIndex) -> bool {
        block.number() + 1 == self.content.layout().block_count()
    }

    /// Puts the next bytes of the run into `ready`. The store is looked at first in every case: what was taken out
    /// of the subscription may have been lost with a dropped future, and is in the store then.
    async fn fill(&mut self, run: BlockRun) -> Result<(), Trouble> {
        let first = run.first();
        let wanted = run.take(READ_BLOCKS);
        if let Some(present) = self.sources.store.present_prefix(&self.content, self.key.scope, wanted) {
            self.let_go(present);
            self.seen.end = self.seen.end.max(present.last().number() + 1);
            return self.read(present).await;
        }
        self.fetched = true;
        if self.told_in_store.take() == Some(first) {
            self.lose_race()?;
        }
        if !self.subscription.as_ref().is_some_and(|subscription| subscription.covers(first)) {
            self.subscribe(run)?;
        }
        let Some(subscription) = &mut self.subscription else { return Err(Trouble::Busy) };
        let arrival = loop {
            let held_pieces = self.content.held_pieces();
            match tokio::time::timeout(BLOCK_TIMEOUT, subscription.block(first)).await {
                Ok(arrival) => break arrival,
                // It leaves others the choice which blocks come first, and others do come.
                Err(_) if !self.short && self.content.held_pieces() > held_pieces => {}
                Err(_) => return Err(Trouble::Late),
            }
        };
        match arrival {
            Arrival::Bytes(block, bytes) => {
                self.arrived_at = Some(Instant::now());
                self.push(block.byte_offset(), bytes, true);
                Ok(())
            }
            Arrival::InStore(block) => {
                self.arrived_at = Some(Instant::now());
                self.told_in_store = Some(block);
                Ok(())
            }
            Arrival::Failed(_, error) => {
                self.subscription = None;
                Err(error.into())
            }
        }
    }

    /// Lets go of what has come for blocks that are read from the store instead: it holds buffers.
    fn let_go(&mut self, present: BlockRun) {
        let Some(subscription) = &mut self.subscription else { return };
        for block in present.blocks().filter(|block| subscription.covers(*block)).collect::<Vec<_>>() {
            let _ = subscription.block(block).now_or_never();
        }
        self.told_in_store = Some(present.first());
    }

    /// A block was evicted, or found damaged, since it was looked at: it is fetched again.
    fn lose_race(&mut self) -> Result<(), Trouble> {
        self.lost_races += 1;
        self.subscription = None;
        if self.lost_races > LOST_RACES_MAX { Err(Trouble::Busy) } else { Ok(()) }
    }

    fn subscribe(&mut self, run: BlockRun) -> Result<(), Trouble> {
        let wanted = if self.short { run } else { run.take(DEMAND_BLOCKS) };
        // By whole requests, so that a reader that moves by 1 MiB does not make requests of 1 MiB.
        let end = (wanted.last().number() + 1).next_multiple_of(ORIGIN_REQUEST_BLOCKS)
            + AHEAD_REQUESTS * ORIGIN_REQUEST_BLOCKS;
        let ahead = run.skip(wanted.len()).map(|rest| rest.take(end.saturating_sub(rest.first().number())));
        let begun = self.arrived_at.is_some();
        let patience = (!self.short).then_some(if begun { LATER_BLOCKS_WITHIN } else { FIRST_BLOCKS_WITHIN });
        let reading = Reading { run: wanted, ahead, patience };
        self.look(wanted);
        ahead.into_iter().for_each(|ahead| self.look(ahead));
        let span = self.fetching.get_or_insert_with(|| {
            let mut span = self.target.trace().span("fetch", Kind::Internal);
            span.set("darter.content", || self.key.id.to_string());
            span
        });
        span.add("darter.blocks", wanted.len().into());
        let (content, target) = (&self.content, self.target.clone().within(span.trace()));
        self.subscription = Some(self.sources.fetches.bring(content, self.key, target, reading)?);
        Ok(())
    }

    async fn read(&mut self, run: BlockRun) -> Result<(), Trouble> {
        let (store, scope) = (&self.sources.store, self.key.scope);
        let read = match self.sources.read(&self.content, &self.key, run).await {
            // Buffers come back as clients read; one block gets through where sixteen do not.
            Err(ReadError::NoBuffers) => {
                let one = store.read_one(&self.content, scope, run.first());
                let one = tokio::time::timeout(BLOCK_TIMEOUT, one).await.map_err(|_| Trouble::Busy)?;
                self.arrived_at = Some(Instant::now());
                one.map(|bytes| vec![bytes])
            }
            read => read,
        };
        match read {
            Ok(parts) => {
                let mut offset = run.first().byte_offset();
                for part in parts {
                    let end = offset + part.len() as u64;
                    self.push(offset, part, false);
                    offset = end;
                }
                Ok(())
            }
            Err(ReadError::Absent(_)) => self.lose_race(),
            Err(ReadError::NoBuffers) => Err(Trouble::Busy),
        }
    }

    /// Keeps of a part what lies in the range.
    fn push(&mut self, offset: u64, bytes: Bytes, from_network: bool) {
        let end = offset + bytes.len() as u64;
        let from = self.left.start.max(offset).min(end);
        let to = self.left.end.min(end).max(offset);
        if from < to {
            let bytes = bytes.slice((from - offset) as usize..(to - offset) as usize);
            self.ready.push_back(Part { offset: from, from_network, bytes });
        }
    }

    /// Gives the pool back the buffers of parts in hand that the store has by now: bytes of the mapping take their
    /// place. Readers that wait for more with all buffers in their hands would wait for each other. Dropping the
    /// future loses nothing.
    pub(super) async fn give_back(&self, parts: &mut VecDeque<Part>) {
        if self.sources.looked_at {
            // It would be a buffer for a buffer.
            return;
        }
        for part in parts.iter_mut().filter(|part| part.from_network) {
            let bytes = part.offset..part.offset + part.bytes.len() as u64;
            let Some(run) = self.content.layout().covering(&bytes) else { continue };
            if self.sources.store.present_prefix(&self.content, self.key.scope, run).is_none() {
                continue;
            }
            let Ok(read) = self.sources.store.read(&self.content, self.key.scope, run).await else { return };
            // A part from the network is one block, and so is what was read.
            if let [block] = &read[..] {
                let skipped = (bytes.start - run.first().byte_offset()) as usize;
                part.bytes = block.slice(skipped..skipped + part.bytes.len());
                part.from_network = false;
            }
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
                // Nothing is hashed any more of a content that was removed.
                Verification::Pending { .. } if content.is_gone() => return Err(Trouble::Gone),
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
        self.look(run);
        let target = self.target.clone();
        let reading = Reading { run, ahead: None, patience: None };
        let mut blocks = self.sources.fetches.bring(&self.content, self.key, target, reading)?;
        for block in run.blocks() {
            let arrival = tokio::time::timeout(BLOCK_TIMEOUT, blocks.block(block)).await;
            match arrival.map_err(|_| Trouble::Late)? {
                // Not to be kept, or still on its way to the disk, which the digest need not wait for.
                Arrival::Bytes(block, bytes) => self.sources.store.feed(&self.content, block, bytes),
                Arrival::InStore(_) => {}
                Arrival::Failed(_, error) => return Err(error.into()),
            }
        }
        self.sources.store.advance(&self.content);
        Ok(())
    }
}

const _: () = assert!(
    super::content::COLLECTED_BYTES_MAX / BLOCK_BYTES as u64 + 2
        <= crate::fetch::DEMAND_BLOCKS_MAX as u64 + 1,
    "a short range is demanded at once"
);
