//! One node's side of one plot: what to ask of whom next.
//!
//! A block that is wanted is in exactly one of these states:
//!
//! ```text
//!            poll                        arrived, right
//! wanted ──────────▶ asked of a source ────────────────▶ held
//!    ▲                      │
//!    └──────────────────────┘  not held there, refused, too slow, wrong, or the source is gone
//! ```
//!
//! Sources are the owner and up to 24 parents, of which at most eight send at a time beside it. A block is taken from a parent
//! only when its digest is attested, so that it can be checked before it is kept, passed on or served. A
//! parent that brings no block for as long as its patience lasts loses its request to another one and is left alone
//! for a while, longer each time; one whose bytes are wrong is never asked again. Bytes that come late
//! all the same are taken when they are still wanted. Who has waited in vain for one parent's block does not try the
//! next: what somebody waits for is then asked of the owner, or of parents that have brought blocks before; then of those that
//! the owner names, who knows of complaints.
//!
//! Pure: events go in with the time, [`Step`]s come out of [`Download::poll`]. Who checks digests, stores blocks and
//! moves messages is elsewhere; the owner's side is [`crate::schedule`].

mod link;
mod parent;

use std::time::{Duration, Instant};

use self::link::Link;
use self::parent::Parent;
use crate::block_set::BlockSet;
use crate::chance::Chance;
use crate::node::NodeId;
use crate::wire::{CANDIDATES_MAX, Fault, Have, Holder, Reaction};

/// Parents that send at a time, besides the owner. Where all links are full each of them sends as much as its congestion
/// window allows, and three filled half of a link (`docs/performance.md`).
pub const SOURCES_AT_ONCE: usize = 8;
/// The owner may be at a slow origin itself; that it is dead is known by its connection. A client waits half a second
/// longer.
const OWNER_PATIENCE: Duration = Duration::from_secs(3);
/// Loads that differ by less than a fourth are alike: a parent tells its load with what it has got, and by then it is old.
/// When the least loaded was always asked, all nodes asked the same few, and the others sent nothing for seconds.
const LOADS_ALIKE: u8 = 64;
/// How soon more parents are looked for while there are few of them…
const FIND_SOON: Duration = Duration::from_millis(100);
/// …and when there are some.
const FIND_LATER: Duration = Duration::from_secs(1);
/// Parents that are some.
const SOME_PARENTS: usize = 8;
/// Of so many parents as there may be, those that refuse most often are let go for others, so many each time: whoever
/// came early knows only who came early, and some parents are everybody's.
const LET_GO: usize = 4;
/// How long an owner that brings nothing of a bulk is not asked for more of it.
const WITHOUT_OWNER: Duration = Duration::from_millis(100);
/// An owner that has failed so often in a row cannot be reached.
const OWNER_FAILURES_MAX: u32 = 2;

/// Where a block comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// The owner, or who stands in for it.
    Owner,
    /// Another node that holds it.
    Parent(NodeId),
}

/// What the node is to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Ask the owner for parents, besides those that are known.
    Find {
        /// Those.
        known: Vec<NodeId>,
        /// How many.
        wanted: u8,
    },
    /// Watch this one no longer: it has been let go for another one.
    Unwatch(NodeId),
    /// Ask the owner for these blocks; with `any`, for some of them.
    Want {
        /// Which.
        places: BlockSet,
        /// Some of them, as the owner likes.
        any: bool,
        /// The deputy is to stand in: the owner cannot be reached.
        stand_in: bool,
        /// Parents that were named for them and did not send.
        failed: Vec<NodeId>,
    },
    /// Ask a parent for these blocks.
    Take {
        /// Whom.
        parent: NodeId,
        /// Which.
        places: BlockSet,
        /// It is about to have them: let it wait.
        wait: bool,
    },
    /// The request to this source is over: read no more of it.
    Drop(Source),
    /// Tell the owner.
    Complain {
        /// Of whom.
        parent: NodeId,
        /// Which block.
        place: u32,
        /// What it did.
        fault: Fault,
    },
    /// Neither owner nor deputy nor parents have these: they are to be fetched from the origin by this node itself.
    GoToOrigin(BlockSet),
}

/// Why blocks are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Need {
    /// Somebody waits for them.
    Urgent,
    /// They will be wanted.
    Bulk,
    /// The same, of a source that is about to have nothing to send here.
    Ahead,
}

/// What a block that has come is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// Keep it, serve it, pass it on.
    Keep,
    /// It has come from elsewhere meanwhile.
    Late,
    /// Its bytes are wrong: nothing of it is kept.
    Wrong,
}

/// One node's side of one plot.
#[derive(Debug)]
pub struct Download {
    blocks: BlockSet,
    /// Somebody waits for these.
    urgent: BlockSet,
    /// These will be wanted: a prefetch, or a whole pull.
    bulk: BlockSet,
    /// There is no room for more of the bulk: nothing further is asked for.
    holds_back: bool,
    held: BlockSet,
    attested: BlockSet,
    /// Asked of some source.
    asked: BlockSet,
    /// The beginning of each parent's name, in the same order: a parent is looked up each time that it tells what it
    /// has, and whole names of 24 parents are twelve cache lines.
    keys: Vec<u64>,
    parents: Vec<Parent>,
    /// Until then a parent that has let this node down is spared, though it may be gone by now: what was not brought yet by
    /// others is in doubt.
    doubt_until: Option<Instant>,
    /// How often holders have been named.
    namings: u32,
    owner: Link,
    owner_failures: u32,
    stand_in: bool,
    /// The owner brings nothing for this node: before this it is not asked for more of the bulk, and what parents hold of it
    /// comes from them.
    bulk_without_owner_until: Option<Instant>,
    find_at: Option<Instant>,
    /// How many parents hold each block.
    rarity: Vec<u8>,
    complaints: Vec<(NodeId, u32, Fault)>,
    drops: Vec<Source>,
    unwatched: Vec<NodeId>,
    for_origin: BlockSet,
}

/// Whatever was asked for.
const ALL: BlockSet = BlockSet::full();

/// The first eight bytes of a name.
fn key(id: &NodeId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *id.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

impl Download {
    /// Of a span with so many blocks, of which these are held.
    pub fn new(block_count: u32, held: &BlockSet) -> Self {
        let blocks = BlockSet::first(block_count);
        Self {
            blocks,
            urgent: BlockSet::EMPTY,
            bulk: BlockSet::EMPTY,
            holds_back: false,
            held: held.and(&blocks),
            attested: BlockSet::EMPTY,
            asked: BlockSet::EMPTY,
            keys: Vec::new(),
            parents: Vec::new(),
            doubt_until: None,
            namings: 0,
            owner: Link::default(),
            owner_failures: 0,
            stand_in: false,
            bulk_without_owner_until: None,
            find_at: None,
            rarity: vec![0; blocks.end() as usize],
            complaints: Vec::new(),
            drops: Vec::new(),
            unwatched: Vec::new(),
            for_origin: BlockSet::EMPTY,
        }
    }

    /// Somebody waits for these blocks.
    pub fn want(&mut self, places: &BlockSet) {
        self.urgent = self.urgent.or(&places.and(&self.blocks).minus(&self.held));
    }

    /// The whole span will be wanted.
    pub fn want_all(&mut self) {
        self.bulk = self.blocks;
    }

    /// Exactly these are wanted from now on: somebody waits for the `urgent` ones, and the `bulk` will be wanted. What
    /// is on its way and no longer wanted comes all the same.
    pub fn wants_only(&mut self, urgent: &BlockSet, bulk: &BlockSet) {
        self.urgent = urgent.and(&self.blocks).minus(&self.held);
        self.bulk = bulk.and(&self.blocks);
    }

    /// Whether there is no room for more of the bulk than was asked for: what is urgent is asked for all the same.
    pub fn hold_back(&mut self, holds_back: bool) {
        self.holds_back = holds_back;
    }

    /// Whether more of the bulk would be asked for if there were room.
    pub fn is_held_back(&self) -> bool {
        self.holds_back && !self.bulk.minus(&self.held).minus(&self.asked).is_empty()
    }

    /// Whether that node is one of the parents.
    pub fn knows(&self, parent: &NodeId) -> bool {
        self.at(parent).is_some()
    }

    /// How many blocks are on their way, as far as is known.
    pub fn asked(&self) -> u32 {
        self.asked.len()
    }

    /// This node does not take what the source sends: the time until it [goes on](Self::goes_on) is not the source's
    /// fault. May be said several times, for several requests.
    pub fn stands_still(&mut self, source: &Source) {
        if let Some(link) = self.link(source) {
            link.stands_still();
        }
    }

    /// This node takes again what the source sends.
    pub fn goes_on(&mut self, source: &Source, now: Instant) {
        if let Some(link) = self.link(source) {
            link.goes_on(now);
        }
    }

    /// What is held.
    pub fn held(&self) -> &BlockSet {
        &self.held
    }

    /// Whether nothing is wanted that is not held.
    pub fn is_done(&self) -> bool {
        self.urgent.or(&self.bulk).minus(&self.held).is_empty()
    }

    /// The owner says what the digests of these are: they may come from anyone now.
    pub fn attested(&mut self, places: &BlockSet) {
        self.attested = self.attested.or(places);
    }

    /// Blocks were evicted here.
    pub fn lost(&mut self, places: &BlockSet) {
        self.held = self.held.minus(places);
    }

    /// Blocks have come in another way: this node was at the origin.
    pub fn came_otherwise(&mut self, places: &BlockSet) {
        self.note_held(&places.and(&self.blocks));
        self.for_origin = self.for_origin.minus(places);
    }

    fn note_held(&mut self, places: &BlockSet) {
        self.held = self.held.or(places);
        self.urgent = self.urgent.minus(places);
        self.asked = self.asked.minus(places);
    }

    /// The owner has named parents. `zone` is this node's own.
    pub fn named(&mut self, holders: &[Holder], zone: &str) {
        self.namings = self.namings.wrapping_add(1);
        for holder in holders {
            let at = match self.at(&holder.node.id) {
                Some(at) => at,
                None if self.parents.len() < CANDIDATES_MAX => {
                    self.keys.push(key(&holder.node.id));
                    self.parents.push(Parent {
                        id: holder.node.id,
                        near: !zone.is_empty() && *holder.node.zone == *zone,
                        held: BlockSet::EMPTY,
                        coming: None,
                        load: holder.load,
                        link: Link::default(),
                        wrong: false,
                        refusals: 0,
                        named_last: 0,
                    });
                    self.parents.len() - 1
                }
                None => continue,
            };
            self.holds(at, &holder.held, &BlockSet::EMPTY);
            let parent = &mut self.parents[at];
            parent.named_last = self.namings;
            let coming = holder.coming.and(&self.blocks).minus(&parent.held);
            parent.coming = (!coming.is_empty()).then(|| Box::new(coming));
            parent.load = holder.load;
        }
    }

    /// A parent says what it has.
    pub fn have(&mut self, parent: &NodeId, have: &Have) {
        if let Some(at) = self.at(parent) {
            self.holds(at, &have.held, &have.lost);
            self.parents[at].load = have.load;
        }
    }

    fn holds(&mut self, at: usize, held: &BlockSet, lost: &BlockSet) {
        let parent = &mut self.parents[at];
        let now_held = match parent.wrong {
            true => BlockSet::EMPTY,
            false => parent.held.or(&held.and(&self.blocks)).minus(lost),
        };
        let (more, fewer) = (now_held.minus(&parent.held), parent.held.minus(&now_held));
        parent.held = now_held;
        if let Some(coming) = &mut parent.coming {
            **coming = coming.minus(&now_held).minus(lost);
        }
        more.places().for_each(|place| self.rarity[place as usize] += 1);
        fewer.places().for_each(|place| self.rarity[place as usize] -= 1);
    }

    fn at(&self, parent: &NodeId) -> Option<usize> {
        let key = key(parent);
        let alike = self.keys.iter().enumerate().filter(|(_, known)| **known == key);
        alike.map(|(at, _)| at).find(|at| self.parents[*at].id == *parent)
    }

    fn link(&mut self, source: &Source) -> Option<&mut Link> {
        match source {
            Source::Owner => Some(&mut self.owner),
            Source::Parent(id) => {
                self.parents.iter_mut().find(|known| known.id == *id).map(|known| &mut known.link)
            }
        }
    }

    /// The owner says which blocks it is about to send, of those that it was asked for.
    pub fn announced(&mut self, places: &BlockSet) {
        let new = places.and(&self.blocks).minus(&self.held);
        if self.owner.will_send(&new) {
            self.asked = self.asked.or(&new);
        }
    }

    /// A block has come; `right`: it has the attested digest.
    pub fn arrived(&mut self, from: &Source, place: u32, right: bool, now: Instant) -> Arrival {
        let one = BlockSet::one(place).and(&self.blocks);
        if !right {
            self.wrong(from, place, now);
            return Arrival::Wrong;
        }
        if let Some(link) = self.link(from) {
            link.progress(place, now);
        }
        match from {
            Source::Owner => self.owner_failures = 0,
            Source::Parent(id) => {
                if let Some(at) = self.at(id) {
                    self.parents[at].refusals -= 1;
                }
            }
        }
        // A source that is asked for nothing and sends what is beyond the span, or here already.
        if one.is_empty() || self.held.contains(place) {
            return Arrival::Late;
        }
        self.note_held(&one);
        Arrival::Keep
    }

    fn wrong(&mut self, from: &Source, place: u32, now: Instant) {
        self.release(from, &ALL);
        match from {
            // The owner took it from the origin and attested it: the way was at fault, or the owner's disk.
            Source::Owner => self.owner_failed(now),
            Source::Parent(id) => {
                if let Some(at) = self.at(id) {
                    self.parents[at].wrong = true;
                    self.holds(at, &BlockSet::EMPTY, &ALL);
                    self.complain(*id, place, Fault::WrongBytes);
                }
            }
        }
        self.drops.push(*from);
    }

    fn complain(&mut self, parent: NodeId, place: u32, fault: Fault) {
        // As many as there are parents, and two faults of each: a list that does not grow with what goes wrong.
        if self.complaints.len() < 2 * CANDIDATES_MAX {
            self.complaints.push((parent, place, fault));
        }
    }

    /// These are no longer asked of a source; which of them had not come.
    fn release(&mut self, source: &Source, places: &BlockSet) -> BlockSet {
        let left = self.link(source).map_or(BlockSet::EMPTY, |link| link.release(places));
        self.asked = self.asked.minus(&left);
        left
    }

    /// A source has sent all that it will of a request: of these.
    pub fn ended(&mut self, source: &Source, places: &BlockSet) {
        let left = self.release(source, places);
        if let Source::Parent(id) = source
            && let Some(at) = self.at(id)
            && let Some(place) = left.places().next()
        {
            self.holds(at, &BlockSet::EMPTY, &left);
            self.complain(*id, place, Fault::NotHeld);
        }
    }

    /// A source has refused a request for these. Verdicts on the content as a whole are not for this node's side of one
    /// plot to deal with, and neither is a new owner: see [`Self::owner_gone`].
    pub fn refused(&mut self, source: &Source, places: &BlockSet, reaction: Reaction, now: Instant) {
        match (source, reaction) {
            (_, Reaction::AskAgain { after_ms }) => {
                self.release(source, places);
                if let Some(link) = self.link(source) {
                    link.rests_until(now + Duration::from_millis(after_ms.into()));
                }
                if let Source::Parent(id) = source
                    && let Some(at) = self.at(id)
                {
                    self.parents[at].refusals += 1;
                }
            }
            (Source::Parent(_), Reaction::AskOther) => self.ended(source, places),
            (Source::Parent(id), _) => self.gone(id),
            (Source::Owner, Reaction::GoToOrigin) => {
                self.release(source, places);
                self.leave_to_the_origin(now);
            }
            (Source::Owner, _) => {
                self.release(source, places);
                self.owner_failed(now);
            }
        }
    }

    /// A parent cannot be reached any more.
    pub fn gone(&mut self, parent: &NodeId) {
        if let Some(at) = self.at(parent) {
            self.release(&Source::Parent(*parent), &ALL);
            self.let_go(at);
            self.find_at = None;
        }
    }

    fn let_go(&mut self, at: usize) {
        let held = self.parents[at].held;
        self.holds(at, &BlockSet::EMPTY, &held);
        self.parents.remove(at);
        self.keys.remove(at);
    }

    /// Makes room for other parents. Those that are let go; the caller watches them no longer.
    fn let_the_worst_go(&mut self) {
        let excess = (self.parents.len() + LET_GO).saturating_sub(CANDIDATES_MAX);
        for _ in 0..excess {
            let idle = |at: &usize| !self.parents[*at].link.has_request() && !self.parents[*at].wrong;
            let worst = (0..self.parents.len()).filter(idle).max_by_key(|at| self.parents[*at].refusals);
            if let Some(worst) = worst {
                self.unwatched.push(self.parents[worst].id);
                self.let_go(worst);
            }
        }
        self.parents.iter_mut().for_each(|parent| parent.refusals = 0);
    }

    /// The owner cannot be reached, or has changed: with `known_new`, who is asked from now on is another one.
    pub fn owner_gone(&mut self, known_new: bool, now: Instant) {
        self.release(&Source::Owner, &ALL);
        if known_new {
            (self.owner, self.owner_failures, self.stand_in) = (Link::default(), 0, false);
            self.bulk_without_owner_until = None;
        } else {
            self.owner_failed(now);
        }
    }

    fn owner_failed(&mut self, now: Instant) {
        self.owner_failures += 1;
        self.owner.rests_until(now + FIND_SOON);
        if self.owner_failures < OWNER_FAILURES_MAX {
            return;
        }
        if !self.stand_in {
            // First the deputy is asked; only if that fails too, the origin.
            (self.stand_in, self.owner_failures) = (true, 0);
        } else {
            self.owner_failures = 0;
            self.leave_to_the_origin(now);
        }
    }

    /// Nobody brings blocks for this node: what somebody waits for, and of the bulk what no parent has.
    fn leave_to_the_origin(&mut self, now: Instant) {
        self.bulk_without_owner_until = Some(now + WITHOUT_OWNER);
        let mut elsewhere = self.asked;
        self.parents.iter().for_each(|parent| elsewhere.add(&parent.held.and(&self.attested)));
        let of_bulk = self.bulk.minus(&self.held).minus(&elsewhere);
        self.for_origin = self.for_origin.or(&self.urgent).or(&of_bulk);
    }

    /// What to do now. To be called until there is nothing, after each event and at [`Self::wake_at`].
    pub fn poll(&mut self, now: Instant, chance: &mut Chance) -> Option<Step> {
        self.take_over(now);
        if let Some(source) = self.drops.pop() {
            return Some(Step::Drop(source));
        }
        if let Some(parent) = self.unwatched.pop() {
            return Some(Step::Unwatch(parent));
        }
        if let Some((parent, place, fault)) = self.complaints.pop() {
            return Some(Step::Complain { parent, place, fault });
        }
        if !self.for_origin.is_empty() {
            let places = std::mem::replace(&mut self.for_origin, BlockSet::EMPTY);
            return Some(Step::GoToOrigin(places.minus(&self.held)));
        }
        if self.is_done() {
            return None;
        }
        if self.should_find(now) {
            let soon = self.parents.len() < SOME_PARENTS;
            self.find_at = Some(now + if soon { FIND_SOON } else { FIND_LATER });
            let known = self.parents.iter().map(|parent| parent.id).collect();
            self.let_the_worst_go();
            let wanted = CANDIDATES_MAX.saturating_sub(self.parents.len()) as u8;
            return Some(Step::Find { known, wanted });
        }
        let urgent = self.urgent.minus(&self.held).minus(&self.asked);
        if let Some(step) = self.ask(&urgent, Need::Urgent, now, chance) {
            return Some(step);
        }
        let sending = self.parents.iter().filter(|parent| parent.link.has_request()).count();
        if self.holds_back {
            return None;
        }
        let open = self.bulk.minus(&self.held).minus(&self.asked);
        if sending >= SOURCES_AT_ONCE {
            return self.ask_parent(&open, Need::Ahead, now, chance);
        }
        self.ask(&open, Need::Bulk, now, chance)
    }

    fn should_find(&self, now: Instant) -> bool {
        // A lazy reader is told of holders when it asks for blocks.
        !self.bulk.minus(&self.held).is_empty() && self.find_at.is_none_or(|at| at <= now)
    }

    /// Requests that bring nothing for too long are another source's.
    fn take_over(&mut self, now: Instant) {
        if self.owner.overdue_at(OWNER_PATIENCE).is_some_and(|at| at <= now) {
            self.release(&Source::Owner, &ALL);
            self.drops.push(Source::Owner);
            self.owner_failed(now);
        }
        for at in 0..self.parents.len() {
            let parent = &mut self.parents[at];
            if parent.link.overdue_at(parent.link.patience()).is_some_and(|at| at <= now) {
                self.doubt_until = self.doubt_until.max(Some(parent.link.fault(now)));
                let source = Source::Parent(parent.id);
                let left = self.release(&source, &ALL);
                self.drops.push(source);
                if let (Source::Parent(id), Some(place)) = (source, left.places().next()) {
                    self.complain(id, place, Fault::Slow);
                }
            }
        }
    }

    /// Asks somebody for some of these.
    fn ask(&mut self, open: &BlockSet, need: Need, now: Instant, chance: &mut Chance) -> Option<Step> {
        let urgent = need == Need::Urgent;
        if open.is_empty() {
            return None;
        }
        // The owner of a bulk gives what is rarest; a reader is sent to parents first, and may ask the owner for more
        // while that brings other blocks.
        let without_owner = self.bulk_without_owner_until.is_some_and(|until| now < until);
        if !urgent && !without_owner && self.owner.is_free(now) {
            return Some(self.ask_owner(open, true, now));
        }
        let rests = self.owner.rest().is_some_and(|until| now < until);
        let from_parents = self.ask_parent(open, need, now, chance);
        if from_parents.is_none() && urgent && !rests {
            return Some(self.ask_owner(open, false, now));
        }
        from_parents
    }

    /// Whether the owner can be expected to send at once what it is asked for, or to name who does.
    fn owner_answers(&self, now: Instant) -> bool {
        self.owner_failures == 0 && self.owner.rest().is_none_or(|until| until <= now)
    }

    fn ask_owner(&mut self, places: &BlockSet, any: bool, now: Instant) -> Step {
        let left = if any { BlockSet::EMPTY } else { *places };
        self.asked = self.asked.or(&left);
        self.owner.ask(&left, now);
        let failing = |parent: &&Parent| parent.wrong || parent.link.is_spared(now);
        let failed = self.parents.iter().filter(failing).map(|parent| parent.id).collect();
        Step::Want { places: *places, any, stand_in: self.stand_in, failed }
    }

    fn ask_parent(&mut self, open: &BlockSet, need: Need, now: Instant, chance: &mut Chance) -> Option<Step> {
        let (open, urgent) = (open.and(&self.attested), need == Need::Urgent);
        let choosy = urgent && self.owner_answers(now);
        let in_doubt = urgent && self.doubt_until.is_some_and(|until| now < until);
        let free = |parent: &&Parent| {
            let link = &parent.link;
            let is_free = if need == Need::Ahead { link.is_nearly_free() } else { link.is_free(now) };
            let is_sure = !choosy || !link.is_spared(now) && (!in_doubt || link.is_proven());
            !parent.wrong && is_free && is_sure
        };
        let of_parents = |sets: fn(&Parent) -> &BlockSet| {
            let mut all = BlockSet::EMPTY;
            self.parents.iter().filter(free).for_each(|parent| all.add(sets(parent)));
            all.and(&open)
        };
        let held = of_parents(|parent| &parent.held);
        // What a parent is about to have is waited for only when somebody waits here too.
        let wait = held.is_empty() && urgent;
        let of: fn(&Parent) -> &BlockSet = if wait { Parent::coming } else { |parent| &parent.held };
        let open = if wait { of_parents(of) } else { held };
        let start = match urgent {
            true => 0,
            false => chance.below(self.rarity.len()) as u32,
        };
        let mut places = open.places_from(start);
        let first = if urgent { places.next()? } else { self.rarest(places)? };
        let at = (0..self.parents.len())
            .filter(|at| free(&&self.parents[*at]) && of(&self.parents[*at]).contains(first))
            .min_by_key(|at| {
                let parent = &self.parents[*at];
                let doubt = if in_doubt { parent.doubt(self.namings) } else { 0 };
                let busy = parent.load.busy / LOADS_ALIKE;
                (parent.link.faults(), doubt, !parent.near, busy, chance.number())
            })?;
        let parent = &self.parents[at];
        let behind = first..first.saturating_add(parent.link.request_blocks());
        let useful = open.and(of(parent));
        let places: BlockSet = behind.take_while(|place| useful.contains(*place)).collect();
        let id = parent.id;
        self.parents[at].link.ask(&places, now);
        self.asked = self.asked.or(&places);
        Some(Step::Take { parent: id, places, wait })
    }

    /// The first of these that fewer parents have than any other.
    fn rarest(&self, places: impl Iterator<Item = u32>) -> Option<u32> {
        let mut rarest = None;
        for place in places {
            let holders = self.rarity[place as usize];
            if rarest.is_none_or(|(_, fewest)| holders < fewest) {
                rarest = Some((place, holders));
            }
            if holders <= 1 {
                break;
            }
        }
        rarest.map(|(place, _)| place)
    }

    /// When [`Self::poll`] will have something to do even if nothing happens. To be asked when it had nothing `now`.
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        if self.is_done() {
            return None;
        }
        let of_parents = self
            .parents
            .iter()
            .flat_map(|parent| [parent.link.overdue_at(parent.link.patience()), parent.link.rest()]);
        let of_owner = [
            self.owner.overdue_at(OWNER_PATIENCE),
            self.owner.rest(),
            self.bulk_without_owner_until,
            self.find_at,
        ];
        of_parents.chain(of_owner).flatten().filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests;
