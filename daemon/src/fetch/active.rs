//! One content being fetched: the shell around the [`Plan`].
//!
//! [Transfers](super::transfer) run beside each other, at most [`REQUESTS_MAX`], each over a run of missing blocks.
//! Every whole block goes to those who wait for it and to the store, and the second never delays the first.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use darter_engine::{BlockIndex, BlockRun, Content, Naming, Reservation, Verification};
use tokio::sync::Notify;

use super::Owner;
use super::ahead::Ahead;
use super::bulk::{self, Bulk};
use super::demand::{Arrival, Demand, FetchError, FetchKey, Waiter};
use super::plan::{NotWaiting, Plan, REQUEST_BLOCKS_MAX, TransferId, Waiting};
use super::transfer::Transfer;
use crate::metrics::{Coalesced, Limit};
use crate::origin::{Ask, BlobAnswer, BlobStream, OriginError, Place, Target};

/// Requests of one content at its origin at a time.
const REQUESTS_MAX: u32 = 4;
/// How long a store that had no room is taken to have none: the wait for room is paid once in this time.
const NO_ROOM_FOR: Duration = Duration::from_secs(1);
/// How often a prefetch looks whether a disk that did not keep up takes more.
const BEHIND_RETRY: Duration = Duration::from_millis(100);
/// A part of the store that prefetch may fill with one content: more would push out its own beginning.
const PREFETCH_SHARE: f64 = 0.75;

/// A content with blocks on their way.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) owner: Rc<Owner>,
    pub(super) key: FetchKey,
    content: Arc<Content>,
    /// The one that worked last: what nobody waits for is asked for with it.
    target: RefCell<Rc<Target>>,
    pub(super) plan: RefCell<Plan<Waiter>>,
    transfers: Cell<u64>,
    /// Requests for readers under way.
    requests: Cell<u32>,
    /// The origin answers a range with the whole: one request at a time brings all.
    sends_whole: Cell<bool>,
    no_room_since: Cell<Option<Instant>>,
    prefetching: Cell<bool>,
    /// How many wait for all of it from other nodes.
    pub(super) preheats: Cell<u32>,
    /// What the cluster brings in bulk.
    pub(super) bulk: RefCell<Bulk>,
    /// What it brings ahead of a boot.
    pub(super) ahead: RefCell<Ahead>,
    /// Told when no request for a reader is under way.
    quiet: Notify,
}

/// Tells a reader that none of its blocks will come.
pub(super) fn refuse(demand: &Demand, error: &FetchError) {
    for block in demand.reading.run.blocks() {
        let _ = demand.arrivals.try_send(Arrival::Failed(block, error.clone()));
    }
}

impl Active {
    pub(super) fn new(
        owner: Rc<Owner>,
        key: FetchKey,
        content: Arc<Content>,
        target: Rc<Target>,
    ) -> Rc<Self> {
        let plan = RefCell::new(Plan::new(content.layout()));
        Rc::new(Self {
            owner,
            key,
            content,
            target: RefCell::new(target),
            plan,
            transfers: Cell::new(0),
            requests: Cell::new(0),
            sends_whole: Cell::new(false),
            no_room_since: Cell::new(None),
            prefetching: Cell::new(false),
            preheats: Cell::new(0),
            bulk: RefCell::default(),
            ahead: RefCell::default(),
            quiet: Notify::new(),
        })
    }

    pub(super) fn content(&self) -> &Arc<Content> {
        &self.content
    }

    /// Whose bytes they are.
    pub(super) fn registry(&self) -> String {
        self.target.borrow().registry().to_string()
    }

    /// With which what nobody waits for is asked for.
    pub(super) fn target(&self) -> Rc<Target> {
        self.target.borrow().clone()
    }

    /// A client's request takes the place of nobody's.
    pub(super) fn learn(&self, target: &Rc<Target>) {
        if self.target.borrow().is_nobodys() {
            self.target.replace(target.clone());
        }
    }

    pub(super) fn is_for(&self, content: &Arc<Content>) -> bool {
        Arc::ptr_eq(&self.content, content)
    }

    /// A reader waits for blocks.
    pub(super) fn demand(self: &Rc<Self>, demand: &Demand, target: &Rc<Target>) {
        let waiter = Waiter { arrivals: demand.arrivals.clone(), target: target.clone() };
        let hand_out = self.owner.has_buffers_to_spare();
        let mut plan = self.plan.borrow_mut();
        let mut is_coalesced = false;
        for block in demand.reading.run.blocks() {
            if self.has(block) {
                waiter.tell(Arrival::InStore(block));
                continue;
            }
            match plan.want(block, waiter.clone(), hand_out, Waiter::is_there) {
                Ok(waiting) => is_coalesced |= waiting == Waiting::WithOthers,
                Err(NotWaiting::Here(bytes, waiter)) => waiter.tell(Arrival::Bytes(block, bytes)),
                Err(NotWaiting::TooMany(waiter)) => {
                    self.owner.metrics.limits.hit(Limit::Fetches);
                    waiter.tell(Arrival::Failed(block, FetchError::Busy));
                }
            }
        }
        if is_coalesced {
            self.owner.metrics.fetches.coalesced(Coalesced::Blocks);
        }
        // Without room, what nobody waits for would be brought in vain.
        if !self.is_without_room() {
            let ahead = demand.reading.ahead.into_iter().flat_map(BlockRun::blocks);
            ahead.filter(|block| !self.has(*block)).for_each(|block| plan.want_ahead(block));
        }
        drop(plan);
        match demand.reading.patience {
            Some(patience) => {
                self.begin_bulk(demand.reading.run.first(), target);
                self.hurry_after(patience, demand.reading.run);
            }
            None => self.hurry(demand.reading.run),
        }
        self.pump();
    }

    /// Takes over the answer that told what the content is.
    pub(super) fn adopt(self: &Rc<Self>, stream: BlobStream, target: Rc<Target>, place: Option<Place>) {
        self.note_answer(&stream, target, place);
        let Some(run) = self.content.layout().contained(&stream.bytes) else { return self.end_if_idle() };
        let transfer = self.next_transfer();
        self.plan.borrow_mut().begin(run, transfer);
        self.start(run, transfer, Some(stream));
    }

    /// Brings all that is absent, behind the readers.
    pub(super) fn prefetch(self: &Rc<Self>) {
        if self.prefetching.replace(true) {
            return;
        }
        let capacity = self.owner.store.stats().capacity_bytes as f64;
        let fits = self.content.layout().length_bytes() as f64 <= capacity * PREFETCH_SHARE;
        let active = self.clone();
        self.owner.spawn(async move {
            // Tried again by the next reader if it broke off, but not if there is nothing to try.
            if !fits || active.prefetch_all().await {
                active.owner.note_prefetched(active.key);
            }
            active.prefetching.set(false);
            active.end_if_idle();
        });
    }

    /// False if it broke off.
    async fn prefetch_all(self: &Rc<Self>) -> bool {
        let whole = self.content.layout().whole();
        for span in whole.into_iter().flat_map(|whole| bulk::spans(self.content.layout(), whole)) {
            if self.owner.closing.get() {
                return false;
            }
            self.bring_bulk(span, &self.target()).await;
        }
        let mut rest = whole;
        while let Some(run) = rest {
            let Some(run) = self.next_absent(run) else { return true };
            let bytes = self.content.layout().bytes(run);
            // Below readers: the configured rate allows it, and then no request of theirs is under way.
            self.owner.bounds.prefetch_pace.take(bytes.end - bytes.start).await;
            while self.requests.get() > 0 {
                self.quiet.notified().await;
            }
            // Nobody waits for these: they come as fast as the disk takes them.
            while self.owner.store.is_behind() && !self.owner.closing.get() {
                tokio::time::sleep(BEHIND_RETRY).await;
            }
            if self.owner.closing.get() {
                return false;
            }
            // A reader may have asked for some of it meanwhile.
            let Some(run) = self.next_absent(run) else { continue };
            let transfer = self.next_transfer();
            self.plan.borrow_mut().begin(run, transfer);
            if !self.transfer_and_tell(run, transfer, None).await {
                return false;
            }
            rest = whole.and_then(|whole| whole.skip(run.last().number() + 1));
        }
        true
    }

    /// The first run inside `run` that is neither in the store nor on its way.
    fn next_absent(&self, run: BlockRun) -> Option<BlockRun> {
        let plan = self.plan.borrow();
        let absent = |block: &BlockIndex| plan.at_rest(*block) && !self.has(*block);
        let first = run.blocks().find(absent)?;
        let rest = run.starting_at(first)?;
        let length = rest.blocks().take(REQUEST_BLOCKS_MAX as usize).take_while(absent).count();
        Some(rest.take(length as u32))
    }

    pub(super) fn has(&self, block: BlockIndex) -> bool {
        self.owner.store.has(&self.content, self.key.scope, block)
    }

    /// Starts requests for what readers wait for.
    pub(super) fn pump(self: &Rc<Self>) {
        let requests_max = if self.sends_whole.get() { 1 } else { REQUESTS_MAX };
        while self.requests.get() < requests_max {
            let transfer = self.next_transfer();
            let next = self.plan.borrow_mut().next_request(transfer, Waiter::is_there);
            let Some(run) = next else { break };
            self.start(run, transfer, None);
        }
        self.end_if_idle();
    }

    pub(super) fn next_transfer(&self) -> TransferId {
        self.transfers.set(self.transfers.get() + 1);
        TransferId(self.transfers.get())
    }

    fn start(self: &Rc<Self>, run: BlockRun, transfer: TransferId, stream: Option<BlobStream>) {
        self.requests.set(self.requests.get() + 1);
        let active = self.clone();
        self.owner.spawn(async move {
            active.transfer_and_tell(run, transfer, stream).await;
            active.requests.set(active.requests.get() - 1);
            active.pump();
            if active.requests.get() == 0 {
                active.quiet.notify_waiters();
            }
        });
    }

    pub(super) fn end_if_idle(self: &Rc<Self>) {
        let is_at_work = self.requests.get() > 0
            || self.prefetching.get()
            || self.preheats.get() > 0
            || self.ahead.borrow().is_at_work();
        if !is_at_work && self.plan.borrow().is_idle() {
            self.owner.forget(&self.key, self);
        }
    }

    /// The owner ends: nobody is waited for or told any more.
    pub(super) fn let_go(&self) {
        *self.plan.borrow_mut() = Plan::new(self.content.layout());
    }

    /// From the cluster, and what that does not bring from the origin. False if the run did not come whole, or nothing of
    /// it could be kept.
    async fn transfer_and_tell(
        self: &Rc<Self>,
        run: BlockRun,
        id: TransferId,
        stream: Option<BlobStream>,
    ) -> bool {
        let waiter = self.plan.borrow().first_waiter(run, id, Waiter::is_there).cloned();
        let target = waiter.map_or_else(|| self.target.borrow().clone(), |waiter| waiter.target);
        let pulled = match &stream {
            Some(_) => None,
            None => self.pull_for_readers(run, &target).await,
        };
        let (missing, mut kept) =
            pulled.map_or((vec![run], false), |pulled| (pulled.missing, pulled.kept_any));
        let mut stream = stream;
        let mut result = Ok(());
        for run in missing {
            let mut transfer = Transfer::new(self, run, id, target.clone());
            let transferred = transfer.run(stream.take()).await;
            let (run, kept_any) = transfer.end();
            kept |= kept_any;
            if let Err(error) = &transferred {
                tracing::debug!(content = %self.key.id, %error, "a request to the origin failed");
            }
            self.give_up(run, id, transferred.as_ref().err());
            result = result.and(transferred);
        }
        self.give_up(run, id, None);
        result.is_ok() && kept
    }

    /// Tells those who wait for what a transfer has not brought.
    fn give_up(&self, run: BlockRun, id: TransferId, error: Option<&FetchError>) {
        let error = error.unwrap_or(&FetchError::Busy);
        let failed = self.plan.borrow_mut().failed(run, id);
        for (block, waiter) in failed {
            waiter.tell(Arrival::Failed(block, error.clone()));
        }
    }

    /// One request; where the registry has redirected this reader's last one to, if that still answers.
    pub(super) async fn ask(
        &self,
        target: &Rc<Target>,
        ask: Ask,
        is_wanted: impl Fn() -> bool,
    ) -> Result<BlobAnswer, FetchError> {
        let known = self.owner.places.borrow().find(&self.key, target);
        if let Some(place) = known {
            match self.owner.ask(target, ask, Some(&place), &is_wanted).await {
                Ok((BlobAnswer::Bytes(stream), _)) => {
                    self.note_answer(&stream, target.clone(), Some(place));
                    return Ok(BlobAnswer::Bytes(stream));
                }
                Err(FetchError::Busy) => return Err(FetchError::Busy),
                // Its signature may have expired: the registry knows a new one.
                _ => self.owner.places.borrow_mut().forget(&self.key),
            }
        }
        let (answer, place) = self.owner.ask(target, ask, None, is_wanted).await?;
        if let BlobAnswer::Bytes(stream) = &answer {
            self.note_answer(stream, target.clone(), place);
        }
        Ok(answer)
    }

    fn note_answer(&self, stream: &BlobStream, target: Rc<Target>, place: Option<Place>) {
        self.sends_whole.set(!stream.is_part);
        if let Some(place) = place {
            self.owner.places.borrow_mut().insert(self.key, target.clone(), place);
        }
        *self.target.borrow_mut() = target;
    }

    /// Whether an answer is about the same bytes as those before.
    pub(super) fn is_of_the_same(&self, stream: &BlobStream) -> bool {
        stream.length_bytes == self.content.layout().length_bytes()
            && (self.key.naming == Naming::Digest || stream.validator == self.content.validator())
    }

    /// The origin tells another length than before, and one of the two is wrong; or a URL stands for something else
    /// by now. Unless the digest has proved the first, the content goes, so that one wrong answer does not spoil the
    /// blob for good.
    pub(super) fn doubt(&self, registry: String, told_bytes: u64) -> FetchError {
        if self.content.verification() != Verification::Passed {
            self.owner.store.remove(&self.content);
        }
        let length_bytes = self.content.layout().length_bytes();
        let reason = match told_bytes == length_bytes {
            true => "it stands for something else than a moment ago; ask again".into(),
            false => format!("a length of {told_bytes} where {length_bytes} was told before"),
        };
        OriginError::Unusable { registry, reason }.into()
    }

    /// Slots for a run; `None` if the store has no room.
    pub(super) async fn reserve(&self, run: BlockRun) -> Option<Arc<Reservation>> {
        if self.is_without_slots() || !self.owner.disk_keeps_up().await {
            return None;
        }
        let reserved = self.owner.store.reserve(&self.content, run).await;
        self.no_room_since.set(reserved.is_err().then(Instant::now));
        reserved.ok().map(Arc::new)
    }

    /// Nothing can be kept now: no slot is free, or the disk does not keep up.
    pub(super) fn is_without_room(&self) -> bool {
        self.is_without_slots() || self.owner.store.is_behind()
    }

    fn is_without_slots(&self) -> bool {
        self.no_room_since.get().is_some_and(|since| since.elapsed() < NO_ROOM_FOR)
    }

    /// Gives a block to those who wait for it; the bytes that they got. A slow client pins what it got, so when
    /// the pool runs low that is no buffer of it: a block that is kept is read from the store once it is there,
    /// and of one that is not kept there are few copies.
    pub(super) fn deliver(&self, block: BlockIndex, bytes: &Bytes, kept: bool) -> Option<Bytes> {
        let handed = match (self.owner.has_buffers_to_spare(), kept) {
            (true, _) => Some(bytes.clone()),
            (false, true) => None,
            (false, false) => self.owner.bounds.copies.copy(bytes),
        };
        let waiters = self.plan.borrow_mut().arrived(block, bytes.clone(), handed.is_some());
        for waiter in waiters {
            if let Some(bytes) = &handed {
                waiter.tell(Arrival::Bytes(block, bytes.clone()));
            }
        }
        handed
    }

    /// The block is in the store, or will not be kept.
    pub(super) fn settle(&self, block: BlockIndex) {
        let waiters = self.plan.borrow_mut().settled(block);
        for waiter in waiters {
            waiter.tell(match self.has(block) {
                true => Arrival::InStore(block),
                false => Arrival::Failed(block, FetchError::Busy),
            });
        }
    }
}
