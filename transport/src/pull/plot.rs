//! One plot being brought: its [`Download`], who wants blocks of it, and what is asked of whom for it.
//!
//! A driver asks the download what to do until it has nothing, and again when something happened or its time has
//! come. Each request and each watch is a task of its own on one stream; it ends when the stream does or when it is
//! dropped here. When nobody has wanted anything for a while, all ends.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use darter_engine::{BlockIndex, BlockRun, HashedBlock, Layout};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

use super::receivers::{Client, Receivers};
use super::{Context, Pulled};
use crate::block_set::BlockSet;
use crate::download::{Arrival, Download, Source, Step};
use crate::node::{Node, NodeId};
use crate::schedule::{Asker, LazyAsk, Own};
use crate::span::{Plot, SPAN_BLOCKS};
use crate::tracker::Grievance;
use crate::wire::{
    BlockDigest, Complain, Errand, Fault, FindParents, Have, Holder, List, Reaction, Refused, Take, Want,
};

/// How long a plot that nobody wants anything of is kept, with its watches: a boot will want more of it.
const LINGERS: Duration = Duration::from_secs(5);
/// How often it is looked whether there is room for more of a bulk.
const LOOKS_FOR_ROOM_EVERY: Duration = Duration::from_millis(5);
/// Part of the block buffers that may be in use when more of a bulk is asked for: three quarters.
const ROOM_FOR_BULK: (usize, usize) = (3, 4);
/// How long a parent may wait for a block that it is about to have: less than it is given for one.
const WAITS: Duration = Duration::from_millis(200);
/// An owner that has only named others is not asked for the same again before this: who was named may be busy with what it
/// was asked for before.
const NAMED_REST_MS: u32 = 5;
/// An owner that had nothing of «any of these».
const NOTHING_REST_MS: u32 = 50;
/// How often a node follows the word of one that it is not the owner, until the seeds change.
const INSTEADS_MAX: u32 = 2;
/// Steps in a row before others have their turn.
const STEPS_AT_ONCE: u32 = 64;

/// Dropped, the task that has the other end ends.
type Cancel = oneshot::Sender<std::convert::Infallible>;
/// Completes when the task is to end.
pub(super) type Cancelled = oneshot::Receiver<std::convert::Infallible>;

pub(super) struct PlotPull {
    pub(super) context: Rc<Context>,
    pub(super) plot: Plot,
    pub(super) layout: Layout,
    by_span: bool,
    pub(super) state: RefCell<State>,
    /// Something happened that the driver should look at.
    pub(super) event: Rc<Notify>,
    /// Digests have come.
    pub(super) attested: Notify,
}

pub(super) struct State {
    pub(super) download: Download,
    pub(super) receivers: Receivers,
    digests: Vec<Option<BlockDigest>>,
    requests: HashMap<u64, (Source, Cancel)>,
    requests_made: u64,
    finding: Option<Cancel>,
    /// Parents that are known, and the watch of each that is watched.
    parents: HashMap<NodeId, (Node, Option<Cancel>)>,
    owner_watch: Option<(NodeId, Cancel)>,
    /// Who was last taken for the owner.
    owner: Option<NodeId>,
    /// Who is to be asked instead of the owner, by its own word, and how often such a word was followed.
    instead: Option<Node>,
    insteads: u32,
}

/// Who is asked as the owner.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Who {
    /// This node itself.
    Here,
    Node(Node),
    Nobody,
}

/// What has become of a request.
#[derive(Debug)]
pub(super) enum Ended {
    /// Nothing more comes.
    Sent {
        /// Blocks that came or were announced.
        announced: BlockSet,
        /// Others were named.
        named: bool,
    },
    Refused(Refused),
    /// The stream or the connection broke, or there is none.
    Lost,
    /// The download wants no more of it.
    Cancelled,
}

/// A request that is made.
pub(super) struct Request {
    pub(super) source: Source,
    pub(super) places: BlockSet,
    pub(super) any: bool,
    pub(super) cancelled: Cancelled,
    number: u64,
    errand: Option<Errand>,
}

impl PlotPull {
    pub(super) fn new(context: Rc<Context>, plot: Plot, layout: Layout, by_span: bool) -> Rc<Self> {
        let blocks = plot.span.blocks(layout);
        let state = State {
            download: Download::new(blocks, &BlockSet::EMPTY),
            receivers: Receivers::default(),
            digests: vec![None; blocks as usize],
            requests: HashMap::new(),
            requests_made: 0,
            finding: None,
            parents: HashMap::new(),
            owner_watch: None,
            owner: None,
            instead: None,
            insteads: 0,
        };
        let pull = Rc::new(Self {
            context,
            plot,
            layout,
            by_span,
            state: RefCell::new(state),
            event: Rc::default(),
            attested: Notify::new(),
        });
        pull.remember_digests();
        pull
    }

    /// Whether it brings blocks of a content of that layout, from the same owners.
    pub(super) fn is_for(&self, layout: Layout, by_span: bool) -> bool {
        self.layout == layout && self.by_span == by_span
    }

    /// It is over: whoever still wants something goes to the origin, and nothing is watched any more.
    pub(super) fn let_go(&self) {
        self.leave_to_the_origin(&BlockSet::full());
        let state = &mut *self.state.borrow_mut();
        state.requests.clear();
        state.parents.clear();
        (state.finding, state.owner_watch) = (None, None);
    }

    /// Somebody wants these. False if it cannot be taken.
    pub(super) fn join(&self, client: Rc<Client>, places: BlockSet, turn: OwnedSemaphorePermit) -> bool {
        let state = &mut *self.state.borrow_mut();
        // Who asks for what has come before was not given it then, or has lost it.
        state.download.lost(&places);
        let joined = state.receivers.add(client, places, turn);
        self.event.notify_one();
        joined
    }

    /// Somebody waits for what is bulk so far.
    pub(super) fn hurry(&self, places: &BlockSet) {
        self.state.borrow_mut().receivers.hurry(places);
        self.event.notify_one();
    }

    /// Drives the download until nobody has wanted anything for a while.
    pub(super) async fn run(self: Rc<Self>) {
        let mut seeds = self.context.shared.seeds().changes();
        let mut idle_since = None;
        self.state.borrow_mut().owner = self.owner();
        loop {
            let more = self.turn();
            let now = Instant::now();
            let (wake_at, is_idle, holds_back) = {
                let state = self.state.borrow();
                (state.download.wake_at(now), state.receivers.is_empty(), state.download.is_held_back())
            };
            let forget_at = is_idle.then(|| *idle_since.get_or_insert(now) + LINGERS);
            if !is_idle {
                idle_since = None;
            }
            if forget_at.is_some_and(|at| at <= now) {
                return;
            }
            if more {
                tokio::task::yield_now().await;
                continue;
            }
            let look_at = holds_back.then(|| now + LOOKS_FOR_ROOM_EVERY);
            let at = [wake_at, forget_at, look_at].into_iter().flatten().min().unwrap_or(now + LINGERS);
            tokio::select! {
                () = self.event.notified() => {}
                () = tokio::time::sleep_until(at.into()) => {}
                _ = seeds.changed() => self.look_for_another_owner(),
            }
        }
    }

    /// Does what is to be done now; whether there may be more.
    fn turn(self: &Rc<Self>) -> bool {
        for _ in 0..STEPS_AT_ONCE {
            let step = {
                let state = &mut *self.state.borrow_mut();
                state.receivers.prune();
                let (urgent, bulk) = state.receivers.urgent_and_bulk();
                state.download.wants_only(&urgent, &bulk);
                let has_room = bulk.is_empty() || self.has_room(state);
                state.download.hold_back(!has_room);
                state.download.poll(Instant::now(), &mut self.context.chance.borrow_mut())
            };
            match step {
                Some(step) => self.act(step),
                None => return false,
            }
        }
        true
    }

    fn has_room(&self, state: &State) -> bool {
        let pool = self.context.store.pool();
        let (part, of) = ROOM_FOR_BULK;
        pool.in_use() * of < pool.limit() * part && state.receivers.has_room(state.download.asked())
    }

    fn act(self: &Rc<Self>, step: Step) {
        tracing::trace!(content = %self.plot.content, ?step, "next");
        match step {
            Step::Find { known, wanted } => self.find(known, wanted),
            Step::Unwatch(parent) => self.forget_parent(&parent),
            Step::Want { places, any, stand_in, failed } => {
                let failed = List::first_of(failed);
                match self.who(stand_in) {
                    Who::Here => self.want_here(&places, any, &failed),
                    Who::Nobody => self.owner_refused(&places, Reaction::GoToOrigin),
                    Who::Node(node) => {
                        let (request, errand) = self.request(Source::Owner, places, any);
                        let (plot, forwarded) = (self.plot, false);
                        let want = Want { plot, places, any, forwarded, stand_in, failed, errand };
                        self.watch_owner(&node);
                        tokio::task::spawn_local(self.clone().ask(node, want.into(), request));
                    }
                }
            }
            Step::Take { parent, places, wait } => {
                let node = self.state.borrow().parents.get(&parent).map(|(node, _)| node.clone());
                let Some(node) = node else { return self.state.borrow_mut().download.gone(&parent) };
                let (request, _) = self.request(Source::Parent(parent), places, false);
                let wait_ms = if wait { WAITS.as_millis() as u16 } else { 0 };
                let take = Take { plot: self.plot, places, wait_ms };
                tokio::task::spawn_local(self.clone().ask(node, take.into(), request));
            }
            Step::Drop(source) => {
                self.state.borrow_mut().requests.retain(|_, (asked, _)| *asked != source);
            }
            Step::Complain { parent, place, fault } => self.complain(parent, place, fault),
            Step::GoToOrigin(places) => self.leave_to_the_origin(&places),
        }
    }

    fn request(&self, source: Source, places: BlockSet, any: bool) -> (Request, Errand) {
        let state = &mut *self.state.borrow_mut();
        let errand = state.receivers.errand_for(&places);
        let (cancel, cancelled) = oneshot::channel();
        state.requests_made += 1;
        let number = state.requests_made;
        state.requests.insert(number, (source, cancel));
        let request = Request { source, places, any, cancelled, number, errand: errand.clone() };
        (request, errand.unwrap_or_default())
    }

    /// A request has ended.
    pub(super) fn end(&self, request: &Request, ended: Ended) {
        let now = Instant::now();
        let (source, places) = (&request.source, &request.places);
        tracing::trace!(content = %self.plot.content, ?source, ?ended, "a request has ended");
        self.event.notify_one();
        let mut state = self.state.borrow_mut();
        state.requests.remove(&request.number);
        let download = &mut state.download;
        match (ended, source) {
            (Ended::Cancelled, _) => {}
            (Ended::Lost, Source::Parent(parent)) => {
                download.gone(parent);
                drop(state);
                self.forget_parent(parent);
            }
            (Ended::Lost, Source::Owner) => download.owner_gone(false, now),
            (Ended::Sent { announced, .. }, Source::Owner) if request.any => {
                if announced.is_empty() {
                    download.refused(
                        source,
                        &announced,
                        Reaction::AskAgain { after_ms: NOTHING_REST_MS },
                        now,
                    );
                } else {
                    download.ended(source, &announced);
                }
            }
            (Ended::Sent { announced, named }, Source::Owner) if announced.is_empty() => {
                let reaction = match named {
                    true => Reaction::AskAgain { after_ms: NAMED_REST_MS },
                    false => Reaction::AskOther,
                };
                download.refused(source, places, reaction, now);
            }
            (Ended::Sent { .. }, _) => download.ended(source, places),
            (Ended::Refused(refused), Source::Parent(parent)) => {
                let reaction = refused.reaction();
                download.refused(source, places, reaction, now);
                if !download.knows(parent) {
                    drop(state);
                    self.forget_parent(parent);
                }
            }
            (Ended::Refused(refused), Source::Owner) => {
                drop(state);
                self.refused_by_the_owner(request, refused);
            }
        }
    }

    fn refused_by_the_owner(&self, request: &Request, refused: Refused) {
        if refused.reaction() == Reaction::GoToOrigin {
            tracing::debug!(content = %self.plot.content, detail = %*refused.detail, "the owner sends this node to the origin");
        }
        let now = Instant::now();
        let asked = if request.any { BlockSet::EMPTY } else { request.places };
        match refused.reaction() {
            Reaction::AskInstead => {
                let state = &mut *self.state.borrow_mut();
                state.insteads += 1;
                let follows = state.insteads <= INSTEADS_MAX && refused.instead.is_some();
                if follows {
                    state.instead = refused.instead;
                }
                state.download.owner_gone(follows, now);
            }
            Reaction::PassVerdict | Reaction::GiveUp => {
                let state = &mut *self.state.borrow_mut();
                state.download.ended(&Source::Owner, &asked);
                let alike = request.errand.as_ref();
                let alike = if refused.reaction() == Reaction::GiveUp { None } else { alike };
                let clients = state.receivers.refuse(alike);
                clients.iter().for_each(|client| client.say(vec![Pulled::Refused(refused.clone())]));
            }
            reaction => self.owner_refused(&asked, reaction),
        }
    }

    fn owner_refused(&self, places: &BlockSet, reaction: Reaction) {
        self.state.borrow_mut().download.refused(&Source::Owner, places, reaction, Instant::now());
    }

    /// Who is to be asked for what only the owner knows or has.
    fn who(&self, stand_in: bool) -> Who {
        let shared = &self.context.shared;
        let Some((owner, deputy)) = shared.seeds().owners(&self.plot, self.by_span) else {
            return Who::Nobody;
        };
        let instead = self.state.borrow().instead.clone();
        let node = if stand_in { deputy } else { instead.or(Some(owner)) };
        match node {
            Some(node) if node.id == shared.own().id => Who::Here,
            Some(node) => Who::Node(node),
            None => Who::Nobody,
        }
    }

    fn owner(&self) -> Option<NodeId> {
        let owners = self.context.shared.seeds().owners(&self.plot, self.by_span);
        owners.map(|(owner, _)| owner.id)
    }

    /// The seeds have changed.
    fn look_for_another_owner(&self) {
        let owner = self.owner();
        let state = &mut *self.state.borrow_mut();
        if state.owner == owner {
            return;
        }
        (state.owner, state.instead, state.insteads) = (owner, None, 0);
        state.requests.retain(|_, (source, _)| *source != Source::Owner);
        state.owner_watch = None;
        state.download.owner_gone(true, Instant::now());
    }

    /// This node is the owner, or stands in for it: what others hold is taken from them, the rest is at the origin.
    fn want_here(&self, places: &BlockSet, any: bool, failed: &[NodeId]) {
        self.remember_digests();
        let shared = &self.context.shared;
        let own = &Own { here: BlockSet::EMPTY, attested: self.digests_known() };
        let asker = Asker { id: shared.own().id, zone: &shared.own().zone };
        let ask = LazyAsk { asker, plot: &self.plot, places, failed, own };
        let (now, mut books) = (Instant::now(), shared.books().map());
        let map = &mut *books;
        let (bring, holders) = if any {
            let (elsewhere, holders) = map.tracker.elsewhere(&ask, now, &mut map.chance);
            (places.minus(&elsewhere), holders)
        } else {
            let lazy = map.tracker.lazy(&ask, now, &mut map.chance);
            (lazy.send.or(&lazy.bring), lazy.holders)
        };
        drop(books);
        self.named(&holders);
        let asked = if any { BlockSet::EMPTY } else { *places };
        self.owner_refused(&asked, Reaction::AskAgain { after_ms: NAMED_REST_MS });
        self.leave_to_the_origin(&bring);
    }

    /// Nobody but the origin has these.
    fn leave_to_the_origin(&self, places: &BlockSet) {
        let parted = self.state.borrow_mut().receivers.part_with(places);
        if !parted.is_empty() {
            tracing::debug!(content = %self.plot.content, span = self.plot.span.number(), blocks = places.len(), "left to the origin");
        }
        for (client, places) in parted {
            self.context.shared.counters().left_to_origin(places.len());
            client.say(self.runs(&places).map(Pulled::GoToOrigin).collect());
        }
    }

    /// Places as runs of the content's blocks.
    fn runs(&self, places: &BlockSet) -> impl Iterator<Item = BlockRun> {
        super::runs(places).filter_map(|run| self.plot.span.run(self.layout, &run))
    }

    fn complain(&self, parent: NodeId, place: u32, fault: Fault) {
        let Ok(place) = u16::try_from(place) else { return };
        let complaint = Complain { parent, plot: self.plot, place, fault };
        match self.who(false) {
            Who::Here => {
                let (shared, now) = (&self.context.shared, Instant::now());
                let tracker = &mut shared.books().map().tracker;
                let grievance = tracker.complain(&shared.own().id, &complaint, now);
                // The owner has met it itself.
                if grievance == Grievance::Check {
                    tracker.expel(&parent, now);
                }
            }
            Who::Node(node) => {
                if let Some(session) = self.context.mesh.known(&node.id) {
                    session.tell(complaint);
                }
            }
            Who::Nobody => {}
        }
    }

    fn find(self: &Rc<Self>, known: Vec<NodeId>, wanted: u8) {
        match self.who(false) {
            Who::Here => {
                let shared = &self.context.shared;
                let asker = Asker { id: shared.own().id, zone: &shared.own().zone };
                let (plot, wanted, now) = (&self.plot, usize::from(wanted), Instant::now());
                let found = {
                    let map = &mut *shared.books().map();
                    map.tracker.parents(asker, plot, &known, wanted, now, &mut map.chance)
                };
                self.named(&found);
                self.watch_parents();
            }
            Who::Node(node) => {
                self.watch_owner(&node);
                let (cancel, cancelled) = oneshot::channel();
                // One that has not been answered yet gives way.
                self.state.borrow_mut().finding = Some(cancel);
                let find = FindParents { plot: self.plot, known: List::first_of(known), wanted };
                tokio::task::spawn_local(self.clone().find_at(node, find, cancelled));
            }
            Who::Nobody => {}
        }
    }

    /// The owner has named parents.
    pub(super) fn named(&self, holders: &[Holder]) {
        let own = self.context.shared.own();
        let holders: Vec<Holder> =
            holders.iter().filter(|holder| holder.node.id != own.id).cloned().collect();
        let state = &mut *self.state.borrow_mut();
        state.download.named(&holders, &own.zone);
        for holder in holders {
            if state.download.knows(&holder.node.id) {
                state.parents.entry(holder.node.id).or_insert((holder.node, None));
            }
        }
        self.event.notify_one();
    }

    /// Begins to watch those that are not watched.
    pub(super) fn watch_parents(self: &Rc<Self>) {
        let state = &mut *self.state.borrow_mut();
        for (node, watch) in state.parents.values_mut().filter(|(_, watch)| watch.is_none()) {
            *watch = self.watch(node, false);
        }
    }

    fn watch_owner(self: &Rc<Self>, node: &Node) {
        let state = &mut *self.state.borrow_mut();
        let watched = state.owner_watch.as_ref();
        if watched.is_none_or(|(id, watch)| *id != node.id || watch.is_closed()) {
            state.owner_watch = self.watch(node, true).map(|watch| (node.id, watch));
        }
    }

    /// A watch, if there may be one more at that node: it takes a stream.
    fn watch(self: &Rc<Self>, node: &Node, is_owner: bool) -> Option<Cancel> {
        let permit = self.context.watches.one_more(&node.id)?;
        let (cancel, cancelled) = oneshot::channel();
        let watching = self.clone().watch_at(node.clone(), is_owner, cancelled);
        tokio::task::spawn_local(async move {
            watching.await;
            drop(permit);
        });
        Some(cancel)
    }

    pub(super) fn forget_parent(&self, parent: &NodeId) {
        self.state.borrow_mut().parents.remove(parent);
    }

    /// A watched parent says what it has.
    pub(super) fn have(&self, parent: &NodeId, have: &Have) {
        self.state.borrow_mut().download.have(parent, have);
        self.event.notify_one();
    }

    /// A parent cannot be reached any more.
    pub(super) fn gone(&self, parent: &NodeId) {
        self.state.borrow_mut().download.gone(parent);
        self.forget_parent(parent);
        self.event.notify_one();
    }

    /// A seed says what the digests of these are.
    pub(super) fn attest(&self, first: u32, digests: &[BlockDigest]) {
        self.context.shared.books().attest(&self.plot, first, digests);
        self.note_digests((first..).zip(digests.iter().copied()));
        self.attested.notify_waiters();
        self.event.notify_one();
    }

    /// Takes up what other plots' pulls and this node's own answers have learned.
    fn remember_digests(&self) {
        let known = self.context.shared.books().attestations().runs(&self.plot, &BlockSet::full());
        self.note_digests(known.into_iter().flat_map(|(first, digests)| (first..).zip(digests)));
    }

    fn note_digests(&self, digests: impl Iterator<Item = (u32, BlockDigest)>) {
        let state = &mut *self.state.borrow_mut();
        let mut places = BlockSet::EMPTY;
        for (place, digest) in digests.take(SPAN_BLOCKS as usize) {
            if let Some(known) = state.digests.get_mut(place as usize) {
                *known = Some(digest);
                places.insert(place);
            }
        }
        state.download.attested(&places);
    }

    fn digests_known(&self) -> BlockSet {
        let state = self.state.borrow();
        (0..).zip(&state.digests).filter(|(_, digest)| digest.is_some()).map(|(place, _)| place).collect()
    }

    pub(super) fn digest(&self, place: u32) -> Option<BlockDigest> {
        self.state.borrow().digests.get(place as usize).copied().flatten()
    }

    /// A block has come whole: looks whether it is right, and gives it to all that want it. False when it was wrong: then
    /// nothing more is to be read from there.
    pub(super) async fn arrived(&self, source: &Source, place: u32, bytes: bytes::Bytes) -> bool {
        let hashed = HashedBlock::new(bytes);
        let right = self.digest(place).is_some_and(|digest| *hashed.blake3() == digest);
        let arrival = self.state.borrow_mut().download.arrived(source, place, right, Instant::now());
        self.event.notify_one();
        self.context.shared.counters().received(source, arrival, hashed.bytes().len());
        if arrival != Arrival::Keep {
            return arrival != Arrival::Wrong;
        }
        let Some(block) = self.block(place) else { return false };
        let takers = self.state.borrow_mut().receivers.take(place);
        for taker in takers {
            let given = taker.to().try_send(Pulled::Block(block, hashed.clone()));
            if let Err(tokio::sync::mpsc::error::TrySendError::Full(given)) = given {
                self.state.borrow_mut().download.stands_still(source);
                // Who has gone needs nothing.
                let _ = taker.to().send(given).await;
                self.goes_on(source);
            }
        }
        true
    }

    pub(super) fn goes_on(&self, source: &Source) {
        self.state.borrow_mut().download.goes_on(source, Instant::now());
        self.event.notify_one();
    }

    pub(super) fn block(&self, place: u32) -> Option<BlockIndex> {
        self.plot.span.block(self.layout, place)
    }
}
