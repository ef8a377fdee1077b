//! What one shard owns of the fetches: contents being described, and those with blocks on their way.
//!
//! Bytes are shared among readers, verdicts are not: what the origin refuses to one credential it may give to
//! another, so a refusal is told to those who asked alike, and the next one asks with its own.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use darter_engine::{
    BLOCK_BYTES, BlockIndex, Content, ContentId, ContentSpec, Layout, Naming, Store, Verification,
};
use darter_transport::cluster::Cluster;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use super::active::{self, Active};
use super::boots::Boots;
use super::demand::{FetchError, FetchKey, Message};
use super::look::Movement;
use super::patience::Patience;
use super::places::Places;
use super::plan::REQUEST_BLOCKS_MAX;
use super::remembered::Remembered;
use super::{Bounds, Inbox};
use crate::access::Access;
use crate::front::range::{Resolved, Wanted};
use crate::metrics::{Coalesced, Limit, Metrics};
use crate::origin::{Ask, BlobAnswer, Origin, OriginError, Place, Target};
use crate::policy::Policy;
use crate::polls;

/// Contents that one shard fetches or describes at a time.
const FETCHES_PER_SHARD_MAX: usize = 4096;
/// Readers that wait to learn what one content is.
const ASKERS_MAX: usize = 4096;
/// How long a content is remembered as one that cannot be kept.
const UNKEEPABLE_FOR: Duration = Duration::from_secs(300);
/// How long a content is refused whose bytes were not those of its digest.
const WRONG_FOR: Duration = Duration::from_secs(60);
/// How long the digest of what has come may take: the last bytes of a fetch may end it.
const DIGEST_WITHIN: Duration = Duration::from_secs(30);
/// A content is prefetched once in this time: what was evicted since is not wanted so much that it must push out
/// something else.
const PREFETCH_AGAIN_AFTER: Duration = Duration::from_secs(600);
/// How long a disk that is behind the network is waited for: many are for a moment, and what is not kept is paid for
/// again.
const CATCHES_UP_WITHIN: Duration = Duration::from_millis(200);
/// How often it is looked whether a boot is over.
const BOOT_LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked at meanwhile.
const CATCH_UP_LOOK_EVERY: Duration = Duration::from_millis(5);
/// One that does not catch up is not waited for again so soon: its readers would have its speed.
const LAGS_FOR: Duration = Duration::from_secs(2);
/// How long what is on its way to the store may take when the daemon stops; the disk needs milliseconds.
const SETTLE_WITHIN: Duration = Duration::from_secs(2);

/// What the fetches of one shard share. Lives on that shard only.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(super) store: Store,
    pub(super) access: Arc<Access>,
    policy: watch::Receiver<Policy>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) bounds: Bounds,
    /// Of which this node is a part, if it is.
    pub(super) cluster: OnceCell<Rc<Cluster>>,
    active: RefCell<HashMap<FetchKey, Rc<Active>>>,
    /// The daemon stops: nothing is brought that nobody waits for.
    pub(super) closing: Cell<bool>,
    /// Told when a fetch has nothing on its way any more.
    forgotten: Notify,
    describing: RefCell<HashMap<FetchKey, Vec<Asker>>>,
    unkeepable: RefCell<Remembered>,
    wrong: RefCell<Remembered>,
    prefetched: RefCell<Remembered>,
    /// Here and not in the fetch: a container that boots misses block after block, and each is a fetch of its own.
    pub(super) places: RefCell<Places>,
    /// When the disk was last waited for in vain.
    disk_lagged_at: Cell<Option<Instant>>,
}

pub(super) type Described = Result<Arc<Content>, FetchError>;

/// A reader that waits to learn what a content is.
#[derive(Debug)]
struct Asker {
    target: Rc<Target>,
    wanted: Wanted,
    reply: oneshot::Sender<Described>,
}

/// Lets all readers go when the owner ends, by a panic too: the fetches and the owner hold each other, so that
/// their ends of the readers' channels would stay.
struct LetGoAtEnd(Rc<Owner>);

impl Drop for LetGoAtEnd {
    fn drop(&mut self) {
        self.0.describing.borrow_mut().clear();
        self.0.active.borrow_mut().drain().for_each(|(_, active)| active.let_go());
    }
}

impl Owner {
    pub(crate) fn new(
        store: Store,
        access: Arc<Access>,
        policy: watch::Receiver<Policy>,
        metrics: Arc<Metrics>,
        bounds: Bounds,
    ) -> Rc<Self> {
        Rc::new(Self {
            store,
            access,
            policy,
            metrics,
            bounds,
            cluster: OnceCell::new(),
            active: RefCell::default(),
            closing: Cell::new(false),
            forgotten: Notify::new(),
            describing: RefCell::default(),
            unkeepable: RefCell::new(Remembered::new(UNKEEPABLE_FOR)),
            wrong: RefCell::new(Remembered::new(WRONG_FOR)),
            prefetched: RefCell::new(Remembered::new(PREFETCH_AGAIN_AFTER)),
            places: RefCell::default(),
            disk_lagged_at: Cell::new(None),
        })
    }

    /// Serves the shard's messages until all senders are gone, and then lets what has come reach the store: after
    /// the next start it would be paid for again.
    pub(crate) async fn run(self: Rc<Self>, mut inbox: Inbox) {
        let _let_go = LetGoAtEnd(self.clone());
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
            Message::Describe { key, target, wanted, reply } => {
                self.describe(key, Asker { target: Rc::new(target), wanted, reply });
            }
            Message::Bring { content, demand, .. } if content.verification() == Verification::Wrong => {
                active::refuse(&demand, &FetchError::WrongDigest);
            }
            Message::Bring { content, key, target, demand } => {
                let target = Rc::new(target);
                match self.active(key, &content, &target) {
                    Some(active) => active.demand(&demand, &target),
                    None => active::refuse(&demand, &FetchError::Busy),
                }
            }
            Message::Prefetch { content, key, target } => {
                if !self.prefetched.borrow().contains(&key)
                    && let Some(active) = self.active(key, &content, &Rc::new(target))
                {
                    active.prefetch();
                }
            }
            Message::Boot { content, key, target, boots } => {
                self.spawn(self.clone().accompany(boots, content, key, target));
            }
            Message::Ahead { content, key, target, blocks } => {
                self.bring_ahead(&content, key, &Rc::new(target), blocks);
            }
            Message::Prove { id, target, reply } => {
                let owner = self.clone();
                self.spawn(async move {
                    let _ = reply.send(owner.proven_by_cluster(&id, &target).await);
                });
            }
            Message::Preheat { content, key, target, ended } => {
                let target = Rc::new(target);
                if content.verification() != Verification::Wrong
                    && let Some(active) = self.active(key, &content, &target)
                {
                    active.preheat(target, ended);
                }
            }
            Message::Spread { ask, to } => {
                if let Some(cluster) = self.cluster.get() {
                    cluster.spread(ask, to);
                }
            }
            Message::Look { reply } => {
                let _ = reply.send(Movement::of(self.active.borrow().values()));
            }
            Message::Purge { key } => {
                self.note_wrong(key);
                if let Some(content) = self.store.find(&key.id, key.scope) {
                    self.store.remove(&content);
                }
            }
        }
    }

    /// The content's fetch, started if there is none; `None` when there are too many.
    fn active(
        self: &Rc<Self>,
        key: FetchKey,
        content: &Arc<Content>,
        target: &Rc<Target>,
    ) -> Option<Rc<Active>> {
        let mut fetches = self.active.borrow_mut();
        if let Some(active) = fetches.get(&key).filter(|active| active.is_for(content)) {
            active.learn(target);
            return Some(active.clone());
        }
        if fetches.len() >= FETCHES_PER_SHARD_MAX {
            self.metrics.limits.hit(Limit::Fetches);
            return None;
        }
        let active = Active::new(self.clone(), key, content.clone(), target.clone());
        fetches.insert(key, active.clone());
        Some(active)
    }

    /// Accompanies a boot from its beginning: recalls how earlier ones went, and tells the owner how this one went if
    /// there was none.
    async fn accompany(
        self: Rc<Self>,
        boots: Arc<Boots>,
        content: Arc<Content>,
        key: FetchKey,
        target: Target,
    ) {
        let Some(cluster) = self.cluster.get() else { return boots.give_up(&key) };
        let list = cluster.recall(key.id).await;
        if let Some(ahead) = boots.recalled(&key, &list) {
            self.metrics.fetches.boot_followed();
            self.bring_ahead(&content, key, &Rc::new(target), ahead);
        }
        let list = loop {
            tokio::time::sleep(BOOT_LOOK_EVERY).await;
            if let Some(list) = boots.end_if_over(&key, Instant::now().into_std()) {
                break list;
            }
        };
        if let Some(list) = list {
            cluster.booted(key.id, list).await;
            self.metrics.fetches.boot_recorded();
        }
    }

    fn bring_ahead(
        self: &Rc<Self>,
        content: &Arc<Content>,
        key: FetchKey,
        target: &Rc<Target>,
        blocks: Vec<BlockIndex>,
    ) {
        if !blocks.is_empty()
            && content.verification() != Verification::Wrong
            && let Some(active) = self.active(key, content, target)
        {
            active.bring_ahead(blocks);
        }
    }

    /// The fetch has nothing on its way any more.
    pub(super) fn forget(self: &Rc<Self>, key: &FetchKey, ended: &Rc<Active>) {
        let mut fetches = self.active.borrow_mut();
        if fetches.get(key).is_some_and(|active| Rc::ptr_eq(active, ended)) {
            fetches.remove(key);
            self.forgotten.notify_waiters();
            tokio::task::spawn_local(self.clone().remember_if_wrong(*key, ended.content().clone()));
        }
    }

    /// What a fetch brought may have been the last bytes of a content: waits for what they make of its digest.
    async fn remember_if_wrong(self: Rc<Self>, key: FetchKey, content: Arc<Content>) {
        let judged = async {
            loop {
                let changed = content.changed();
                match content.verification() {
                    // Nothing goes on before the next fetch.
                    Verification::Passed
                    | Verification::Unprovable
                    | Verification::Pending { stalled: true, .. } => return,
                    Verification::Wrong => {
                        self.tell_cluster_wrong(&key);
                        return self.note_wrong(key);
                    }
                    Verification::Pending { .. } => changed.await,
                }
            }
        };
        let _ = tokio::time::timeout(DIGEST_WITHIN, judged).await;
    }

    pub(super) fn note_wrong(&self, key: FetchKey) {
        self.wrong.borrow_mut().insert(key);
    }

    /// Starts a part of a fetch's work beside what the shard does.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        let metrics = self.metrics.clone();
        tokio::task::spawn_local(polls::timed(work, move |longest| metrics.front.longest_poll(longest)));
    }

    /// Whether the disk takes more, if it must in a moment. Where it does not, what comes is served and not kept.
    pub(super) async fn disk_keeps_up(&self) -> bool {
        if !self.store.is_behind() {
            return true;
        }
        if self.disk_lagged_at.get().is_some_and(|at| at.elapsed() < LAGS_FOR) {
            return false;
        }
        let catches_up = async {
            while self.store.is_behind() {
                tokio::time::sleep(CATCH_UP_LOOK_EVERY).await;
            }
        };
        let caught_up = tokio::time::timeout(CATCHES_UP_WITHIN, catches_up).await.is_ok();
        if !caught_up {
            self.metrics.limits.hit(Limit::Disk);
            self.disk_lagged_at.set(Some(Instant::now()));
        }
        caught_up
    }

    /// Whether readers may hold buffers of the pool: half of it is for fetches to go on.
    pub(super) fn has_buffers_to_spare(&self) -> bool {
        self.store.pool().in_use() < self.store.pool().limit() / 2
    }

    /// A content's prefetch ended: it need not be tried again soon.
    pub(super) fn note_prefetched(&self, key: FetchKey) {
        self.prefetched.borrow_mut().insert(key);
    }

    fn describe(self: &Rc<Self>, key: FetchKey, asker: Asker) {
        let known = if let Some(found) = self.store.find(&key.id, key.scope) {
            Some(Ok(found))
        } else if self.wrong.borrow().contains(&key) {
            Some(Err(FetchError::WrongDigest))
        } else if self.unkeepable.borrow().contains(&key) {
            Some(Err(FetchError::Unkeepable))
        } else {
            None
        };
        if let Some(known) = known {
            let _ = asker.reply.send(known);
            return;
        }
        let mut describing = self.describing.borrow_mut();
        if let Some(askers) = describing.get_mut(&key) {
            if askers.len() >= ASKERS_MAX {
                askers.retain(|asker| !asker.reply.is_closed());
            }
            if askers.len() >= ASKERS_MAX {
                self.metrics.limits.hit(Limit::Fetches);
                return;
            }
            if askers.iter().any(|asker| !asker.reply.is_closed()) {
                self.metrics.fetches.coalesced(Coalesced::Description);
            }
            askers.push(asker);
            return;
        }
        if describing.len() >= FETCHES_PER_SHARD_MAX {
            self.metrics.limits.hit(Limit::Fetches);
            let _ = asker.reply.send(Err(FetchError::Busy));
            return;
        }
        describing.insert(key, vec![asker]);
        drop(describing);
        self.spawn(self.clone().describe_for_all(key));
    }

    /// Asks with one reader's credentials after the other until the answer is for all that are left.
    async fn describe_for_all(self: Rc<Self>, key: FetchKey) {
        while let Some((target, wanted)) = self.next_asker(&key) {
            let described = self.ask_what_it_is(key, &target, wanted).await;
            let mut describing = self.describing.borrow_mut();
            let Some(askers) = describing.get_mut(&key) else { return };
            let told: Vec<Asker> = match &described {
                Err(FetchError::Verdict(_)) => {
                    askers.extract_if(.., |asker| asker.target.asks_like(&target)).collect()
                }
                Err(FetchError::Unsatisfiable { length_bytes }) => {
                    let beyond = |asker: &mut Asker| {
                        asker.target.asks_like(&target)
                            && asker.wanted.resolve(*length_bytes) == Resolved::Unsatisfiable
                    };
                    askers.extract_if(.., beyond).collect()
                }
                _ => describing.remove(&key).unwrap_or_default(),
            };
            drop(describing);
            for asker in told {
                let _ = asker.reply.send(described.clone());
            }
        }
    }

    /// The next reader that still waits; forgets the content when there is none.
    fn next_asker(&self, key: &FetchKey) -> Option<(Rc<Target>, Wanted)> {
        let mut describing = self.describing.borrow_mut();
        let askers = describing.get_mut(key)?;
        askers.retain(|asker| !asker.reply.is_closed());
        let next = askers.first().map(|asker| (asker.target.clone(), asker.wanted));
        if next.is_none() {
            describing.remove(key);
        }
        next
    }

    fn has_asker(&self, key: &FetchKey) -> bool {
        let describing = self.describing.borrow();
        describing.get(key).is_some_and(|askers| askers.iter().any(|asker| !asker.reply.is_closed()))
    }

    async fn ask_what_it_is(
        self: &Rc<Self>,
        key: FetchKey,
        target: &Rc<Target>,
        wanted: Wanted,
    ) -> Described {
        if let Some(described) = self.described_by_cluster(&key, target).await {
            return described;
        }
        let unusable = |reason| OriginError::Unusable { registry: target.registry().to_string(), reason };
        let mut patience = Patience::new();
        let (answer, place) = loop {
            match self.ask(target, first_ask(wanted), None, || self.has_asker(&key)).await {
                Err(FetchError::Origin(OriginError::Unreachable { .. })) if patience.wait_once().await => {}
                Ok((BlobAnswer::Verdict(verdict), _)) if patience.wait(&verdict).await => {}
                answer => break answer?,
            }
        };
        if !matches!(answer, BlobAnswer::Verdict(_)) {
            self.access.prove(&self.origin(), target, Some(&key.id));
        }
        let (length_bytes, stream) = match answer {
            BlobAnswer::Bytes(stream) => (stream.length_bytes, Some(stream)),
            BlobAnswer::Unsatisfied { length_bytes: 0 } => (0, None),
            // Only a length: nothing has shown yet that these are the bytes of the digest.
            BlobAnswer::Unsatisfied { length_bytes }
                if wanted.resolve(length_bytes) == Resolved::Unsatisfiable =>
            {
                return Err(FetchError::Unsatisfiable { length_bytes });
            }
            BlobAnswer::Unsatisfied { length_bytes } => {
                return Err(unusable(format!("416 to a range within the {length_bytes} bytes")).into());
            }
            BlobAnswer::NoLength => return Err(self.unkeepable(key)),
            BlobAnswer::Verdict(verdict) => {
                let verdict = Arc::new(verdict);
                if verdict.is_final() {
                    self.access.refuse(target, &key.id, &verdict);
                }
                return Err(FetchError::Verdict(verdict));
            }
        };
        let validator = stream.as_ref().map_or_else(String::new, |stream| stream.validator.clone());
        if key.naming == Naming::Url && validator.is_empty() {
            return Err(self.unkeepable(key));
        }
        if length_bytes == 0 && key.naming == Naming::Digest && key.id != of_nothing() {
            return Err(unusable("no bytes, which is not what the digest is of".into()).into());
        }
        let layout = Layout::new(length_bytes).filter(|_| length_bytes <= self.store.stats().capacity_bytes);
        let Some(layout) = layout else { return Err(self.unkeepable(key)) };
        let spec = ContentSpec {
            id: key.id,
            naming: key.naming,
            layout,
            registry: target.registry().to_string(),
            media_type: stream.as_ref().map_or_else(String::new, |stream| stream.media_type.clone()),
            validator,
        };
        // Without a free place this one is passed through; the next one may find a place.
        let content = self.store.create(&spec).ok_or(FetchError::Unkeepable)?;
        if let Some(stream) = stream
            && let Some(active) = self.active(key, &content, target)
        {
            active.adopt(stream, target.clone(), place);
        }
        Ok(content)
    }

    fn unkeepable(&self, key: FetchKey) -> FetchError {
        self.unkeepable.borrow_mut().insert(key);
        FetchError::Unkeepable
    }

    /// What is asked from now on is asked by the policy of now, also for a content that is on its way.
    fn origin(&self) -> Origin {
        self.policy.borrow().origin.clone()
    }

    /// One request, in its turn, at the registry or where it has redirected such a request to before.
    pub(super) async fn ask(
        &self,
        target: &Target,
        ask: Ask,
        place: Option<&Place>,
        is_wanted: impl Fn() -> bool,
    ) -> Result<(BlobAnswer, Option<Place>), FetchError> {
        if target.is_nobodys() {
            // There is nobody in whose name a registry could be asked.
            return Err(FetchError::Busy);
        }
        if self.bounds.turns.are_taken() {
            self.metrics.limits.hit(Limit::OriginBodies);
        }
        let asking = async { self.origin().blob(target, ask, place).await };
        let (answer, place) = match self.bounds.turns.ask(asking, is_wanted).await? {
            Ok((answer, place)) => (Ok(answer), place),
            Err(error) => (Err(error), None),
        };
        self.metrics.registries.blob_asked(target.registry(), &answer);
        Ok((answer?, place))
    }
}

/// The name of the empty content.
fn of_nothing() -> ContentId {
    ContentId::from_bytes(Sha256::digest([]).into())
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
