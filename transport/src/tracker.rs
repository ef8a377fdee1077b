//! Who holds which blocks: the map that the owner of a plot keeps, and its deputy a copy of.
//!
//! A map believes what nodes say about themselves, since nothing bad follows: every block is checked against its
//! attested digest by whoever receives it. So a holder that does not hold a block only loses that block's
//! entry. Only bytes that fail their digest expel a node, and not on one node's word: the owner takes the block
//! from the accused itself ([`Tracker::complain`], [`Tracker::expel`]), or several have met it.
//!
//! Everything is bounded: nodes, members of a plot, and members altogether. What was touched longest ago is forgotten
//! first; nodes register again what they hold when they are asked for nothing.
//!
//! What follows from the map, which parents to name, is in [`crate::schedule`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use darter_engine::{ContentId, Scope};

use crate::block_set::BlockSet;
use crate::node::{Node, NodeId};
use crate::span::{Plot, SPAN_BLOCKS};
use crate::wire::{Complain, Fault, Holder, Holds, Load};

/// Nodes of a cluster that one seed knows.
pub const NODES_MAX: usize = 16_384;
/// Members of all plots together: about 90 MiB when all are used, 350 bytes each.
pub const MEMBERS_MAX: usize = 262_144;
/// Plots with a map: 1 TiB of contents, 2.3 KiB each besides their members.
pub const SWARMS_MAX: usize = 16_384;
/// How long a node that sent wrong bytes is neither named nor listened to.
pub const EXPELLED_FOR: Duration = Duration::from_secs(600);
/// So many nodes that have met wrong bytes of one are believed without a check.
pub const ACCUSERS: usize = 3;
/// How long a node that was slow for one child is named after all others, and one that was for several not for what the
/// owner can send itself.
const SLOW_FOR: Duration = Duration::from_secs(10);
/// How long a block may be on its way to a member before the map no longer counts on it.
const COMING_FOR: Duration = Duration::from_secs(5);

/// The maps of one seed.
#[derive(Debug, Default)]
pub struct Tracker {
    nodes: HashMap<NodeId, Known>,
    swarms: HashMap<Plot, Swarm>,
    /// Of all swarms together.
    members: usize,
}

#[derive(Debug)]
struct Known {
    node: Node,
    load: Load,
    slow: Option<Slowness>,
    expelled_until: Option<Instant>,
    accusers: BTreeSet<NodeId>,
}

/// A node was slow for others.
#[derive(Clone, Copy, Debug)]
struct Slowness {
    /// When it is forgotten.
    until: Instant,
    /// Who has said so last.
    child: NodeId,
    /// One node's word would have the owner send all by itself.
    for_several: bool,
}

/// The nodes that have or bring blocks of one plot.
#[derive(Debug)]
pub(crate) struct Swarm {
    members: Vec<Member>,
    places: HashMap<NodeId, usize>,
    /// Of each block, how many members hold it or are about to.
    copies: Vec<u16>,
    touched: Instant,
}

#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) id: NodeId,
    pub(crate) held: BlockSet,
    /// On their way, since when.
    pub(crate) coming: BlockSet,
    pub(crate) coming_since: Instant,
    /// How often it was named as a parent.
    pub(crate) named: u32,
}

/// What to do about a complaint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grievance {
    /// The map is corrected; nothing more.
    Noted,
    /// The owner should take that block from the accused, and expel it if the bytes are wrong.
    Check,
    /// So many have met wrong bytes of this node that it is expelled.
    Expelled,
}

impl Tracker {
    /// Knows nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// A node is connected. False if no more nodes can be known: it takes blocks, but is not named to others.
    pub fn meet(&mut self, node: Node) -> bool {
        if let Some(known) = self.nodes.get_mut(&node.id) {
            known.node = node;
            return true;
        }
        if self.nodes.len() >= NODES_MAX {
            return false;
        }
        let (load, slow, expelled_until) = (Load::default(), None, None);
        let known = Known { load, slow, expelled_until, accusers: BTreeSet::new(), node };
        self.nodes.insert(known.node.id, known);
        true
    }

    /// A node has left or died: what it held is no longer held. An expulsion stays.
    pub fn part(&mut self, id: &NodeId) {
        if self.nodes.get(id).is_some_and(|known| known.expelled_until.is_none()) {
            self.nodes.remove(id);
        }
        self.remove_member(id);
    }

    fn remove_member(&mut self, id: &NodeId) {
        let gone: usize = self.swarms.values_mut().map(|swarm| usize::from(swarm.remove(id))).sum();
        self.members -= gone;
        self.swarms.retain(|_, swarm| !swarm.members.is_empty());
    }

    /// What a node says that it holds and no longer holds. What an expelled or unknown node says is not heard.
    pub fn record(&mut self, from: &NodeId, holds: &Holds, now: Instant) {
        match self.nodes.get_mut(from) {
            Some(known) if !known.is_expelled(now) => known.load = holds.load,
            _ => return,
        }
        for change in holds.changes.iter() {
            if let Some((swarm, at)) = self.member(&change.plot, from, now) {
                swarm.change(at, &change.held, &change.lost);
            }
        }
    }

    /// A node brings this plot: it will be named to others, since it has something to give soon.
    pub fn join(&mut self, id: &NodeId, plot: &Plot, now: Instant) {
        if self.nodes.get(id).is_some_and(|known| !known.is_expelled(now)) {
            self.member(plot, id, now);
        }
    }

    /// What was on its way to a node does not come.
    pub fn expect_nothing(&mut self, id: &NodeId, plot: &Plot, places: &BlockSet) {
        if let Some(swarm) = self.swarms.get_mut(plot)
            && let Some(at) = swarm.places.get(id).copied()
        {
            let coming = swarm.members[at].coming.and(places);
            swarm.change(at, &BlockSet::EMPTY, &coming);
        }
    }

    fn member(&mut self, plot: &Plot, id: &NodeId, now: Instant) -> Option<(&mut Swarm, usize)> {
        let swarm = self.swarms.get(plot);
        let is_new = swarm.is_none_or(|swarm| !swarm.places.contains_key(id));
        if self.swarms.len() >= SWARMS_MAX && swarm.is_none() || is_new && self.members >= MEMBERS_MAX {
            self.forget_the_oldest(plot);
        }
        if is_new && self.members >= MEMBERS_MAX {
            return None;
        }
        self.members += usize::from(is_new);
        let swarm = self.swarms.entry(*plot).or_insert_with(|| Swarm::new(now));
        swarm.touched = now;
        let at = swarm.place(id, now);
        Some((swarm, at))
    }

    /// Forgets an eighth of the plots, those that were touched longest ago, and not `except`.
    fn forget_the_oldest(&mut self, except: &Plot) {
        let mut by_age: Vec<(Instant, Plot)> = self
            .swarms
            .iter()
            .filter(|(plot, _)| *plot != except)
            .map(|(plot, swarm)| (swarm.touched, *plot))
            .collect();
        by_age.sort_unstable_by_key(|(touched, _)| *touched);
        for (_, plot) in by_age.iter().take(by_age.len().div_ceil(8)) {
            self.members -= self.swarms.remove(plot).map_or(0, |swarm| swarm.members.len());
        }
    }

    /// The bytes of a content were wrong: nobody is to be asked for them.
    pub fn purge(&mut self, content: &ContentId, scope: Scope) {
        self.swarms.retain(|plot, swarm| {
            let stays = plot.content != *content || plot.scope != scope;
            self.members -= if stays { 0 } else { swarm.members.len() };
            stays
        });
    }

    /// A node complains of a parent.
    pub fn complain(&mut self, from: &NodeId, complaint: &Complain, now: Instant) -> Grievance {
        let place = u32::from(complaint.place);
        let Some(known) = self.nodes.get_mut(&complaint.parent) else { return Grievance::Noted };
        match complaint.fault {
            Fault::NotHeld => {
                if let Some(swarm) = self.swarms.get_mut(&complaint.plot)
                    && let Some(at) = swarm.places.get(&complaint.parent).copied()
                {
                    swarm.change(at, &BlockSet::EMPTY, &BlockSet::one(place));
                }
                Grievance::Noted
            }
            Fault::Slow => {
                let before = known.slowness(now);
                let for_several = before.is_some_and(|slow| slow.for_several || slow.child != *from);
                known.slow = Some(Slowness { until: now + SLOW_FOR, child: *from, for_several });
                Grievance::Noted
            }
            // One node's word is not enough: else a single hostile one could have all others expelled.
            Fault::WrongBytes => {
                known.accusers.insert(*from);
                if known.accusers.len() < ACCUSERS {
                    return Grievance::Check;
                }
                self.expel(&complaint.parent, now);
                Grievance::Expelled
            }
        }
    }

    /// A node has sent bytes that failed their digest.
    pub fn expel(&mut self, id: &NodeId, now: Instant) {
        if let Some(known) = self.nodes.get_mut(id) {
            known.expelled_until = Some(now + EXPELLED_FOR);
            known.accusers.clear();
        }
        self.remove_member(id);
    }

    /// Whether the node was expelled and its time is not over.
    pub fn is_expelled(&self, id: &NodeId, now: Instant) -> bool {
        self.nodes.get(id).is_some_and(|known| known.is_expelled(now))
    }

    /// A node that is known.
    pub fn node(&self, id: &NodeId) -> Option<&Node> {
        self.nodes.get(id).map(|known| &known.node)
    }

    /// Everyone who has or brings something of a content, each once.
    pub fn members_of(&self, content: &ContentId, scope: Scope) -> BTreeSet<NodeId> {
        let plots = self.plots(content, scope);
        let swarms = plots.iter().filter_map(|plot| self.swarms.get(plot));
        swarms.flat_map(|swarm| swarm.members.iter().map(|member| member.id)).collect()
    }

    /// Whether there is room for nodes that only others speak of: half of what may be known is for those that are
    /// connected.
    fn has_room_for_hearsay(&self) -> bool {
        self.nodes.len() < NODES_MAX / 2
    }

    /// How many members hold the block or are about to.
    pub fn copies(&self, plot: &Plot, place: u32) -> u16 {
        self.swarms.get(plot).and_then(|swarm| swarm.copies.get(place as usize).copied()).unwrap_or(0)
    }

    /// How many nodes have or bring something of the plot.
    pub fn members(&self, plot: &Plot) -> usize {
        self.swarms.get(plot).map_or(0, |swarm| swarm.members.len())
    }

    /// The plots of a content that the map knows something of, for who takes it over.
    pub fn plots(&self, content: &ContentId, scope: Scope) -> Vec<Plot> {
        let mut plots: BTreeMap<_, Plot> = BTreeMap::new();
        let of_content = |plot: &&Plot| plot.content == *content && plot.scope == scope;
        plots.extend(self.swarms.keys().filter(of_content).map(|plot| (plot.span, *plot)));
        plots.into_values().collect()
    }

    /// Who holds what of a plot, for who takes the map over, and so that [`Self::adopt`] makes the same map of it.
    pub fn holders(&self, plot: &Plot) -> impl Iterator<Item = Holder> {
        let members = self.swarms.get(plot).into_iter().flat_map(|swarm| &swarm.members);
        members.filter_map(|member| self.describe(member))
    }

    /// Takes over what another seed knew. What nodes have said themselves meanwhile is newer, and stays.
    pub fn adopt(&mut self, plot: &Plot, holders: &[Holder], now: Instant) {
        for holder in holders {
            let is_met = self.nodes.contains_key(&holder.node.id)
                || self.has_room_for_hearsay() && self.meet(holder.node.clone());
            let is_heard = is_met && !self.is_expelled(&holder.node.id, now);
            if is_heard && let Some((swarm, at)) = self.member(plot, &holder.node.id, now) {
                swarm.change(at, &holder.held, &BlockSet::EMPTY);
            }
        }
    }

    pub(crate) fn swarm(&mut self, plot: &Plot) -> Option<&mut Swarm> {
        self.swarms.get_mut(plot)
    }

    /// How willingly a node is named: near before far, then quick before slow, then the lightest.
    pub(crate) fn rank(&self, member: &Member, zone: &str, now: Instant) -> Option<(bool, bool, u32)> {
        let known = self.nodes.get(&member.id)?;
        let far = zone.is_empty() || *known.node.zone != *zone;
        let slow = known.slowness(now).is_some();
        Some((far, slow, member.named.saturating_mul(16).saturating_add(u32::from(known.load.busy))))
    }

    /// Whether a node was too slow for several others lately.
    pub(crate) fn is_slow(&self, id: &NodeId, now: Instant) -> bool {
        let slowness = self.nodes.get(id).and_then(|known| known.slowness(now));
        slowness.is_some_and(|slow| slow.for_several)
    }

    pub(crate) fn describe(&self, member: &Member) -> Option<Holder> {
        let known = self.nodes.get(&member.id)?;
        let (held, coming) = (member.held, member.coming);
        Some(Holder { node: known.node.clone(), held, coming, load: known.load })
    }

    pub(crate) fn look(&self, plot: &Plot) -> Option<&Swarm> {
        self.swarms.get(plot)
    }
}

impl Known {
    fn slowness(&self, now: Instant) -> Option<Slowness> {
        self.slow.filter(|slow| now < slow.until)
    }

    fn is_expelled(&self, now: Instant) -> bool {
        self.expelled_until.is_some_and(|until| now < until)
    }
}

impl Swarm {
    fn new(now: Instant) -> Self {
        Self {
            members: Vec::new(),
            places: HashMap::new(),
            copies: vec![0; SPAN_BLOCKS as usize],
            touched: now,
        }
    }

    fn place(&mut self, id: &NodeId, now: Instant) -> usize {
        *self.places.entry(*id).or_insert_with(|| {
            let (held, coming) = (BlockSet::EMPTY, BlockSet::EMPTY);
            self.members.push(Member { id: *id, held, coming, coming_since: now, named: 0 });
            self.members.len() - 1
        })
    }

    fn remove(&mut self, id: &NodeId) -> bool {
        let Some(at) = self.places.remove(id) else { return false };
        let member = self.members.swap_remove(at);
        if let Some(moved) = self.members.get(at) {
            self.places.insert(moved.id, at);
        }
        count(&mut self.copies, &member.held.or(&member.coming), false);
        true
    }

    fn change(&mut self, at: usize, held: &BlockSet, lost: &BlockSet) {
        let member = &mut self.members[at];
        let before = member.held.or(&member.coming);
        member.held = member.held.or(held).minus(lost);
        member.coming = member.coming.minus(held).minus(lost);
        let after = member.held.or(&member.coming);
        count(&mut self.copies, &before.minus(&after), false);
        count(&mut self.copies, &after.minus(&before), true);
    }

    /// A member will have these soon: the owner sends them, or has named who does.
    pub(crate) fn expect(&mut self, id: &NodeId, places: &BlockSet, now: Instant) {
        let Some(at) = self.places.get(id).copied() else { return };
        let member = &mut self.members[at];
        let new = places.minus(&member.held).minus(&member.coming);
        member.coming = member.coming.or(&new);
        member.coming_since = now;
        count(&mut self.copies, &new, true);
    }

    /// What was on its way for too long is not counted on any more.
    pub(crate) fn expect_no_longer(&mut self, at: usize, now: Instant) {
        let late = now.saturating_duration_since(self.members[at].coming_since) >= COMING_FOR;
        if late && !self.members[at].coming.is_empty() {
            let coming = self.members[at].coming;
            self.change(at, &BlockSet::EMPTY, &coming);
        }
    }

    /// A holder that was named has not sent these.
    pub(crate) fn disappoint(&mut self, id: &NodeId, places: &BlockSet) {
        if let Some(at) = self.places.get(id).copied() {
            self.change(at, &BlockSet::EMPTY, places);
        }
    }

    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(crate) fn name(&mut self, at: usize) {
        self.members[at].named = self.members[at].named.saturating_add(1);
    }

    pub(crate) fn copies(&self, place: u32) -> u16 {
        self.copies.get(place as usize).copied().unwrap_or(0)
    }

    /// What members other than this one hold now.
    pub(crate) fn held_beside(&self, id: &NodeId) -> BlockSet {
        let mut held = BlockSet::EMPTY;
        self.members.iter().filter(|member| member.id != *id).for_each(|member| held.add(&member.held));
        held
    }
}

/// Counts blocks up or down.
fn count(copies: &mut [u16], blocks: &BlockSet, up: bool) {
    for place in blocks.places() {
        let count = &mut copies[place as usize];
        *count = if up { count.saturating_add(1) } else { count.saturating_sub(1) };
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::span::SpanIndex;
    use crate::wire::{Change, List, Text};
    use proptest::prelude::*;

    pub(crate) fn node(number: u32) -> Node {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        let address = (std::net::Ipv4Addr::from(number), 40_902).into();
        Node { id: NodeId::from_bytes(id), address, zone: Text::cut("") }
    }

    pub(crate) fn plot(number: u8) -> Plot {
        let content = ContentId::from_bytes([number; 32]);
        Plot { content, scope: Scope::Verified, span: SpanIndex::FIRST }
    }

    pub(crate) fn holds(plot: Plot, held: &[u32], lost: &[u32]) -> Holds {
        let set = |places: &[u32]| places.iter().copied().collect();
        let change = Change { plot, held: set(held), lost: set(lost) };
        Holds { changes: List::first_of([change]), load: Load::default() }
    }

    fn complaint(parent: &Node, place: u16, fault: Fault) -> Complain {
        Complain { parent: parent.id, plot: plot(1), place, fault }
    }

    fn check_counts(tracker: &Tracker) {
        assert_eq!(tracker.members, tracker.swarms.values().map(|swarm| swarm.members.len()).sum::<usize>());
        for swarm in tracker.swarms.values() {
            for place in 0..SPAN_BLOCKS {
                let has = |member: &&Member| member.held.contains(place) || member.coming.contains(place);
                assert_eq!(usize::from(swarm.copies(place)), swarm.members.iter().filter(has).count());
            }
            for (at, member) in swarm.members.iter().enumerate() {
                assert_eq!(swarm.places.get(&member.id), Some(&at));
                assert!(member.held.and(&member.coming).is_empty());
            }
        }
    }

    proptest! {
        #[test]
        fn the_counts_are_those_of_the_members(
            steps in prop::collection::vec((0..6u8, 0..5u32, 1..3u8, prop::collection::vec(0..SPAN_BLOCKS, 0..9)), 1..40),
        ) {
            let now = Instant::now();
            let mut tracker = Tracker::new();
            for (step, number, of_plot, places) in steps {
                let (node, plot) = (node(number), plot(of_plot));
                let set: BlockSet = places.iter().copied().collect();
                match step {
                    0 => _ = tracker.meet(node),
                    1 => tracker.part(&node.id),
                    2 => tracker.record(&node.id, &holds(plot, &places, &[]), now),
                    3 => tracker.record(&node.id, &holds(plot, &[], &places), now),
                    4 => {
                        tracker.join(&node.id, &plot, now);
                        if let Some(swarm) = tracker.swarm(&plot) {
                            swarm.expect(&node.id, &set, now);
                        }
                    }
                    _ => tracker.purge(&plot.content, plot.scope),
                }
                check_counts(&tracker);
            }
        }

        /// A deputy that adopts the map answers as the owner did.
        #[test]
        fn a_map_survives_its_owner(held in prop::collection::vec((0..9u32, 0..SPAN_BLOCKS), 1..40)) {
            let now = Instant::now();
            let (mut owner, mut deputy) = (Tracker::new(), Tracker::new());
            for (number, place) in held {
                owner.meet(node(number));
                owner.record(&node(number).id, &holds(plot(1), &[place], &[]), now);
            }
            for of_content in owner.plots(&plot(1).content, Scope::Verified) {
                let holders: Vec<Holder> = owner.holders(&of_content).collect();
                deputy.adopt(&of_content, &holders, now);
            }
            check_counts(&deputy);
            for place in 0..SPAN_BLOCKS {
                prop_assert_eq!(owner.copies(&plot(1), place), deputy.copies(&plot(1), place));
            }
        }
    }

    #[test]
    fn no_longer_held_corrects_the_map_and_expels_nobody() {
        let now = Instant::now();
        let mut tracker = Tracker::new();
        tracker.meet(node(1));
        tracker.record(&node(1).id, &holds(plot(1), &[4, 5], &[]), now);
        let grievance = tracker.complain(&node(2).id, &complaint(&node(1), 4, Fault::NotHeld), now);
        assert_eq!(
            (grievance, tracker.copies(&plot(1), 4), tracker.copies(&plot(1), 5)),
            (Grievance::Noted, 0, 1)
        );
        tracker.record(&node(1).id, &holds(plot(1), &[], &[5]), now);
        assert_eq!(tracker.copies(&plot(1), 5), 0);
        assert!(!tracker.is_expelled(&node(1).id, now));
    }

    #[test]
    fn one_accuser_alone_expels_nobody_but_three_do() {
        let now = Instant::now();
        let mut tracker = Tracker::new();
        tracker.meet(node(1));
        tracker.record(&node(1).id, &holds(plot(1), &[4], &[]), now);
        let wrong = complaint(&node(1), 4, Fault::WrongBytes);
        for _ in 0..10 {
            assert_eq!(tracker.complain(&node(2).id, &wrong, now), Grievance::Check);
        }
        assert_eq!(tracker.complain(&node(3).id, &wrong, now), Grievance::Check);
        assert_eq!(tracker.complain(&node(4).id, &wrong, now), Grievance::Expelled);
        assert!(tracker.is_expelled(&node(1).id, now) && tracker.copies(&plot(1), 4) == 0);
        // It comes again, under the same key.
        tracker.part(&node(1).id);
        tracker.meet(node(1));
        tracker.record(&node(1).id, &holds(plot(1), &[4], &[]), now);
        assert_eq!(tracker.copies(&plot(1), 4), 0);
        let later = now + EXPELLED_FOR;
        tracker.record(&node(1).id, &holds(plot(1), &[4], &[]), later);
        assert_eq!(tracker.copies(&plot(1), 4), 1);
    }

    #[test]
    fn a_flood_of_registrations_is_bounded() {
        let start = Instant::now();
        let mut tracker = Tracker::new();
        tracker.meet(node(1));
        let far_plot = |span| Plot { span: SpanIndex::from_number(span), ..plot(1) };
        let last = SWARMS_MAX as u32 + 999;
        for span in 0..=last {
            let now = start + Duration::from_millis(u64::from(span));
            tracker.record(&node(1).id, &holds(far_plot(span), &[1], &[]), now);
            assert!(tracker.swarms.len() <= SWARMS_MAX && tracker.members == tracker.swarms.len());
        }
        assert_eq!(tracker.copies(&far_plot(last), 1), 1, "the newest is known");
        assert_eq!(tracker.copies(&far_plot(0), 1), 0, "the oldest is forgotten");
        // So many members that there is room for a hundred more.
        tracker.members = MEMBERS_MAX - 100;
        tracker.swarms.clear();
        for span in 0..1000 {
            let now = start + Duration::from_millis(u64::from(span));
            tracker.record(&node(1).id, &holds(far_plot(span), &[1], &[]), now);
            assert!(tracker.swarms.len() <= 100);
        }
        assert_eq!(tracker.copies(&far_plot(999), 1), 1, "the newest is known");
    }
}
