//! Who is fetching what: the one place that coalesces.
//!
//! A content's fetch is owned by one shard, chosen by the hash of its name, and reached by message from all
//! shards through [`Fetches`]. The owner describes unknown contents (one request, however many readers ask) and
//! keeps one `active::Active` for each content that has blocks on their way.

mod active;
mod demand;
mod gather;
mod pace;
mod plan;
mod subscription;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use darter_engine::{BLOCK_BYTES, BlockRun, Content, ContentId, ContentSpec, Layout, Naming, Store};
use tokio::sync::{Notify, mpsc, oneshot};

pub use demand::{Arrival, FetchError, FetchKey};
pub use subscription::Subscription;

use self::active::Active;
use self::demand::{Demand, Message};
use self::plan::REQUEST_BLOCKS_MAX;
use crate::front::range::Wanted;
use crate::metrics::Metrics;
use crate::origin::{Ask, BlobAnswer, Origin, OriginError, Target};

pub(crate) use self::pace::Pace;

/// Messages on their way to one shard; beyond that readers are told to come back.
const MESSAGES_MAX: usize = 4096;
/// Contents that one shard fetches or describes at a time.
const FETCHES_PER_SHARD_MAX: usize = 4096;
/// Blocks that one request to the origin asks for: 4 MiB. Reading ahead goes by so much.
pub const ORIGIN_REQUEST_BLOCKS: u32 = REQUEST_BLOCKS_MAX;
/// Longest run of one demand, so that its channel has room for every block.
pub const DEMAND_BLOCKS_MAX: u32 = REQUEST_BLOCKS_MAX + 1;
/// How long a content is remembered as one that cannot be kept.
const UNKEEPABLE_FOR: Duration = Duration::from_secs(300);
/// A content is prefetched once in this time: what was evicted since is not wanted so much that it must push out
/// something else.
const PREFETCH_AGAIN_AFTER: Duration = Duration::from_secs(600);
/// Contents remembered for the two times above.
const REMEMBERED_MAX: usize = 4096;
/// Pause before an unanswered first request is tried once more.
const DESCRIBE_RETRY_AFTER: Duration = Duration::from_millis(150);
/// How long what is on its way to the store may take when the daemon stops; the disk needs milliseconds.
const SETTLE_WITHIN: Duration = Duration::from_secs(2);

/// The way to every content's fetch; cheap to clone, for all shards.
#[derive(Clone, Debug)]
pub struct Fetches {
    owners: Arc<[mpsc::Sender<Message>]>,
}

/// The receiving end of one shard.
#[derive(Debug)]
pub(crate) struct Inbox(mpsc::Receiver<Message>);

impl Fetches {
    /// The way to `shards` shards, and the end that each of them serves.
    pub(crate) fn new(shards: usize) -> (Self, Vec<Inbox>) {
        let (owners, inboxes): (Vec<_>, Vec<_>) =
            (0..shards).map(|_| mpsc::channel(MESSAGES_MAX)).map(|(to, from)| (to, Inbox(from))).unzip();
        (Self { owners: owners.into() }, inboxes)
    }

    /// Learns what an unknown content is. The first bytes that this brings are kept.
    ///
    /// # Errors
    /// The origin refused or cannot be used, or the content cannot be kept.
    pub async fn describe(
        &self,
        key: FetchKey,
        target: Target,
        wanted: Wanted,
    ) -> Result<Arc<Content>, FetchError> {
        let (reply, answer) = oneshot::channel();
        self.send(key.id, Message::Describe { key, target, wanted, reply })?;
        answer.await.unwrap_or(Err(FetchError::Busy))
    }

    /// Asks for blocks, at most [`DEMAND_BLOCKS_MAX`], and names those that will be wanted next.
    ///
    /// # Errors
    /// The owner's queue is full.
    pub fn bring(
        &self,
        content: &Arc<Content>,
        key: FetchKey,
        target: Target,
        run: BlockRun,
        ahead: Option<BlockRun>,
    ) -> Result<Subscription, FetchError> {
        let run = run.take(DEMAND_BLOCKS_MAX);
        let (waiter, arrivals) = mpsc::channel(run.len() as usize);
        let demand = Demand { run, ahead, waiter };
        self.send(key.id, Message::Bring { content: content.clone(), key, target, demand })?;
        Ok(Subscription::new(run, arrivals))
    }

    /// Brings the rest of a content, behind all readers. Does nothing when queues are full.
    pub fn prefetch(&self, content: &Arc<Content>, key: FetchKey, target: Target) {
        let _ = self.send(key.id, Message::Prefetch { content: content.clone(), key, target });
    }

    fn send(&self, id: ContentId, message: Message) -> Result<(), FetchError> {
        let owner = (id.spread() % self.owners.len() as u64) as usize;
        self.owners[owner].try_send(message).map_err(|_| FetchError::Busy)
    }
}

/// What the fetches of one shard share. Lives on that shard only.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) store: Store,
    pub(crate) origin: Origin,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) prefetch_pace: Arc<Pace>,
    active: RefCell<HashMap<FetchKey, Rc<Active>>>,
    /// The daemon stops: nothing is brought that nobody waits for.
    closing: Cell<bool>,
    /// Told when a fetch has nothing on its way any more.
    forgotten: Notify,
    describing: RefCell<HashMap<FetchKey, Vec<oneshot::Sender<Described>>>>,
    unkeepable: RefCell<Remembered>,
    prefetched: RefCell<Remembered>,
}

type Described = Result<Arc<Content>, FetchError>;

impl Owner {
    pub(crate) fn new(
        store: Store,
        origin: Origin,
        metrics: Arc<Metrics>,
        prefetch_pace: Arc<Pace>,
    ) -> Rc<Self> {
        Rc::new(Self {
            store,
            origin,
            metrics,
            prefetch_pace,
            active: RefCell::default(),
            closing: Cell::new(false),
            forgotten: Notify::new(),
            describing: RefCell::default(),
            unkeepable: RefCell::new(Remembered::new(UNKEEPABLE_FOR)),
            prefetched: RefCell::new(Remembered::new(PREFETCH_AGAIN_AFTER)),
        })
    }

    /// Serves the shard's messages until all senders are gone, and then lets what has come reach the store: after
    /// the next start it would be paid for again.
    pub(crate) async fn run(self: Rc<Self>, mut inbox: Inbox) {
        while let Some(message) = inbox.0.recv().await {
            self.handle(message);
        }
        self.closing.set(true);
        let _ = tokio::time::timeout(SETTLE_WITHIN, self.settled()).await;
    }

    async fn settled(&self) {
        while !self.active.borrow().is_empty() {
            self.forgotten.notified().await;
        }
    }

    fn handle(self: &Rc<Self>, message: Message) {
        match message {
            Message::Describe { key, target, wanted, reply } => self.describe(key, target, wanted, reply),
            Message::Bring { content, key, target, demand } => match self.active(key, &content, target) {
                Some(active) => active.demand(demand),
                None => active::refuse(&demand),
            },
            Message::Prefetch { content, key, target } => {
                if !self.prefetched.borrow().contains(&key)
                    && let Some(active) = self.active(key, &content, target)
                {
                    self.prefetched.borrow_mut().insert(key);
                    active.prefetch();
                }
            }
        }
    }

    /// The content's fetch, started if there is none; `None` when there are too many. Its next request goes with
    /// this target's credentials.
    fn active(self: &Rc<Self>, key: FetchKey, content: &Arc<Content>, target: Target) -> Option<Rc<Active>> {
        let mut fetches = self.active.borrow_mut();
        if let Some(active) = fetches.get(&key).filter(|active| active.is_for(content)) {
            active.use_target(target);
            return Some(active.clone());
        }
        if fetches.len() >= FETCHES_PER_SHARD_MAX {
            return None;
        }
        let active = Active::new(self.clone(), key, content.clone(), target);
        fetches.insert(key, active.clone());
        Some(active)
    }

    /// The fetch has nothing on its way any more.
    fn forget(&self, key: &FetchKey, ended: &Rc<Active>) {
        let mut fetches = self.active.borrow_mut();
        if fetches.get(key).is_some_and(|active| Rc::ptr_eq(active, ended)) {
            fetches.remove(key);
            self.forgotten.notify_waiters();
        }
    }

    fn describe(
        self: &Rc<Self>,
        key: FetchKey,
        target: Target,
        wanted: Wanted,
        reply: oneshot::Sender<Described>,
    ) {
        if let Some(found) = self.store.find(&key.id, key.scope) {
            let _ = reply.send(Ok(found));
            return;
        }
        if self.unkeepable.borrow().contains(&key) {
            let _ = reply.send(Err(FetchError::Unkeepable));
            return;
        }
        let mut describing = self.describing.borrow_mut();
        if let Some(waiting) = describing.get_mut(&key) {
            waiting.push(reply);
            return;
        }
        if describing.len() >= FETCHES_PER_SHARD_MAX {
            let _ = reply.send(Err(FetchError::Busy));
            return;
        }
        describing.insert(key, vec![reply]);
        drop(describing);
        let owner = self.clone();
        tokio::task::spawn_local(async move {
            let described = owner.ask_what_it_is(key, &target, wanted).await;
            if matches!(described, Err(FetchError::Unkeepable)) {
                owner.unkeepable.borrow_mut().insert(key);
            }
            for reply in owner.describing.borrow_mut().remove(&key).unwrap_or_default() {
                let _ = reply.send(described.clone());
            }
        });
    }

    async fn ask_what_it_is(self: &Rc<Self>, key: FetchKey, target: &Target, wanted: Wanted) -> Described {
        let ask = first_ask(wanted);
        let answer = match self.ask(target, ask).await {
            Err(OriginError::Unreachable { .. }) => {
                tokio::time::sleep(DESCRIBE_RETRY_AFTER).await;
                self.ask(target, ask).await?
            }
            answer => answer?,
        };
        let (length_bytes, stream) = match answer {
            BlobAnswer::Bytes(stream) => (stream.length_bytes, Some(stream)),
            BlobAnswer::Unsatisfied { length_bytes } => (length_bytes, None),
            BlobAnswer::NoLength => return Err(FetchError::Unkeepable),
            BlobAnswer::Verdict(verdict) => return Err(FetchError::Verdict(Arc::new(verdict))),
        };
        let layout = Layout::new(length_bytes)
            .filter(|_| length_bytes <= self.store.stats().capacity_bytes)
            .ok_or(FetchError::Unkeepable)?;
        let spec = ContentSpec {
            id: key.id,
            naming: Naming::Digest,
            layout,
            registry: target.registry().to_string(),
            media_type: stream.as_ref().map_or_else(String::new, |stream| stream.media_type.clone()),
            validator: String::new(),
        };
        let content = self.store.create(&spec).ok_or(FetchError::Unkeepable)?;
        if let Some(stream) = stream
            && let Some(active) = self.active(key, &content, target.clone())
        {
            active.adopt(stream);
        }
        Ok(content)
    }

    async fn ask(&self, target: &Target, ask: Ask) -> Result<BlobAnswer, OriginError> {
        let answer = self.origin.blob(target, ask).await;
        self.metrics.origin_answered(target.registry(), &answer);
        answer
    }
}

/// Contents of which something was true lately.
#[derive(Debug)]
struct Remembered {
    since: HashMap<FetchKey, Instant>,
    lasts: Duration,
}

impl Remembered {
    fn new(lasts: Duration) -> Self {
        Self { since: HashMap::new(), lasts }
    }

    fn contains(&self, key: &FetchKey) -> bool {
        self.since.get(key).is_some_and(|since| since.elapsed() < self.lasts)
    }

    /// When all places are taken by fresh ones, the new one is not remembered.
    fn insert(&mut self, key: FetchKey) {
        if self.since.len() >= REMEMBERED_MAX {
            let lasts = self.lasts;
            self.since.retain(|_, since| since.elapsed() < lasts);
        }
        if self.since.len() < REMEMBERED_MAX {
            self.since.insert(key, Instant::now());
        }
    }
}

/// The first request for a content of unknown length: whole blocks around what is wanted, 4 MiB at most.
fn first_ask(wanted: Wanted) -> Ask {
    let block = u64::from(BLOCK_BYTES);
    let window = block * u64::from(REQUEST_BLOCKS_MAX);
    let from = |first: u64, last: u64| {
        let first = first / block * block;
        let last = (last / block).saturating_mul(block).saturating_add(block - 1);
        Ask::Span { first, last: last.min(first.saturating_add(window - 1)) }
    };
    match wanted {
        Wanted::Whole => from(0, u64::MAX),
        Wanted::From { first } => from(first, u64::MAX),
        Wanted::Span { first, last } => from(first, last),
        // Where the blocks begin is not known: one block more holds the first wanted byte's block whole.
        Wanted::Suffix { bytes } => Ask::Suffix { bytes: bytes.min(window - block).saturating_add(block) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_request_asks_for_whole_blocks_and_not_too_many() {
        let check = |wanted, expected| assert_eq!(first_ask(wanted), expected);
        check(Wanted::Span { first: 70_000, last: 70_001 }, Ask::Span { first: 65_536, last: 131_071 });
        check(Wanted::Span { first: 0, last: u64::MAX }, Ask::Span { first: 0, last: (4 << 20) - 1 });
        check(Wanted::Whole, Ask::Span { first: 0, last: (4 << 20) - 1 });
        check(Wanted::From { first: 65_537 }, Ask::Span { first: 65_536, last: 65_536 + (4 << 20) - 1 });
        check(Wanted::Suffix { bytes: 1 }, Ask::Suffix { bytes: 65_537 });
    }
}
