//! Who gives which block to whom: what the owner answers, from its map ([`crate::tracker`]).
//!
//! *Lazy* reads want certain blocks, because somebody waits. The owner sends the first two copies of a block and then
//! names who has it, or is about to have it, and what these have of the blocks behind it.
//!
//! *Bulk* wants everything, in any order. The owner is asked for «any of these» and gives the rarest, so that
//! different nodes get different blocks, which they can then give each other; it names up to 24 parents at a
//! time, near ones first, the lightest first, and sends who comes too often away for as long as there are others.
//! With this all nodes finish in about 1.1 times the rounds that any plan needs (`transport/tests/simulation.rs`).

use std::time::{Duration, Instant};

use crate::block_set::BlockSet;
use crate::chance::Chance;
use crate::node::NodeId;
use crate::span::{Plot, SPAN_BLOCKS};
use crate::tracker::{Member, Tracker};
use crate::wire::{CANDIDATES_MAX, Holder};

/// Copies of a block that the owner sends itself while somebody waits for them.
pub const COPIES_FROM_OWNER: u16 = 2;
/// Holders that are named to a lazy reader: one to ask and some in reserve.
pub const HOLDERS_NAMED: usize = 4;
/// Blocks behind the wanted one that the named holders are also described for: 4 MiB.
const NEIGHBOURS: u32 = 64;
/// Members that are looked at for each that is named.
const LOOKS_PER_NAME: usize = 4;
/// Of the named parents at least a fourth is of other zones: else a block that a zone lacks would not come in.
const FAR_ONE_IN: usize = 4;
/// Blocks that the owner of a bulk has in stock, and brings from the origin at a time: 1 MiB. More would be lost with it.
pub const AHEAD_BLOCKS: u32 = 16;
/// How many nodes ask the owner of a plot while it sends one block: enough that it is never idle.
const ASKERS_PER_BLOCK: u32 = 4;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The node.
    pub id: NodeId,
    /// Its zone, or empty.
    pub zone: &'a str,
}

/// Somebody waits for certain blocks.
#[derive(Clone, Copy, Debug)]
pub struct LazyAsk<'a> {
    /// The node.
    pub asker: Asker<'a>,
    /// Where.
    pub plot: &'a Plot,
    /// Which blocks.
    pub places: &'a BlockSet,
    /// Holders that were named before and did not send.
    pub failed: &'a [NodeId],
    /// What the owner itself has of the plot.
    pub own: &'a Own,
}

/// What the owner itself has of a plot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Own {
    /// Blocks that it holds, or that are on their way to it from the origin.
    pub here: BlockSet,
    /// Blocks whose digests it can tell. Without its digest a block is taken from nobody, so it is of no use to name who
    /// holds it.
    pub attested: BlockSet,
}

impl Own {
    /// What a holder is named for: what the owner has been asked for often enough, and what the owner lacks, the
    /// latter only if it is held now. Else two nodes that wait for the same block could be sent to each other.
    /// A slow one is named only for what the owner lacks.
    fn useful_of(&self, held: &BlockSet, coming: &BlockSet, is_slow: bool) -> BlockSet {
        let lacks = held.and(&self.elsewhere());
        if is_slow { lacks } else { held.or(coming).and(&self.here).or(&lacks) }
    }

    /// It has everything.
    pub const ALL: Self = Self { here: BlockSet::full(), attested: BlockSet::full() };
    /// It has nothing.
    pub const NOTHING: Self = Self { here: BlockSet::EMPTY, attested: BlockSet::EMPTY };

    /// Blocks that the owner lacks and that another holder may be named for.
    fn elsewhere(&self) -> BlockSet {
        self.attested.minus(&self.here)
    }
}

/// What a lazy reader gets. Each block that it waits for is in one of the sets, or another node holds it: then one of the
/// holders does, or the reader is told of one when it asks again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lazy {
    /// Blocks that the owner has and sends.
    pub send: BlockSet,
    /// Blocks that nobody has: the owner brings them from the origin, and then sends them.
    pub bring: BlockSet,
    /// Who has the other ones, the best first.
    pub holders: Vec<Holder>,
}

impl Tracker {
    /// Somebody waits for blocks: who sends them. What the owner lacks and another holds is named, however few
    /// hold it, so that it does not leave the origin twice.
    pub fn lazy(&mut self, ask: &LazyAsk<'_>, now: Instant, chance: &mut Chance) -> Lazy {
        let (plot, places, here) = (ask.plot, ask.places, ask.own.here);
        self.join(&ask.asker.id, plot, now);
        let Some(swarm) = self.swarm(plot) else {
            return Lazy { send: places.and(&here), bring: places.minus(&here), holders: Vec::new() };
        };
        ask.failed.iter().for_each(|id| swarm.disappoint(id, places));
        // What the asker was to get before and asks for again has not come.
        swarm.disappoint(&ask.asker.id, places);
        let scarce = |place: &u32| here.contains(*place) && swarm.copies(*place) < COPIES_FROM_OWNER;
        let scarce: BlockSet = places.places().filter(scarce).collect();
        let elsewhere = self.held_elsewhere(ask);
        let holders = self.holders_of(ask, &places.minus(&scarce), now, chance);
        let useful = |holder: &Holder| {
            ask.own.useful_of(&holder.held, &holder.coming, self.is_slow(&holder.node.id, now))
        };
        let named = holders.iter().fold(elsewhere, |all, holder| all.or(&useful(holder)));
        // Those who had the others are not to be named: gone, slow or expelled.
        let left = places.minus(&named).or(&scarce);
        if let Some(swarm) = self.swarm(plot) {
            swarm.expect(&ask.asker.id, places, now);
        }
        Lazy { send: left.and(&here), bring: left.minus(&here), holders }
    }

    /// Those of the wanted blocks that the owner lacks and others hold: they do not leave the origin again.
    fn held_elsewhere(&self, ask: &LazyAsk<'_>) -> BlockSet {
        let held = self.look(ask.plot).map_or(BlockSet::EMPTY, |swarm| swarm.held_beside(&ask.asker.id));
        ask.places.and(&ask.own.elsewhere()).and(&held)
    }

    fn holders_of(
        &mut self,
        ask: &LazyAsk<'_>,
        places: &BlockSet,
        now: Instant,
        chance: &mut Chance,
    ) -> Vec<Holder> {
        let Some(first) = places.places().next() else { return Vec::new() };
        let described = places.or(&BlockSet::run(first, NEIGHBOURS));
        let count = self.members(ask.plot);
        let start = chance.below(count);
        if let Some(swarm) = self.swarm(ask.plot) {
            (0..count).for_each(|at| swarm.expect_no_longer(at, now));
        }
        let Some(swarm) = self.look(ask.plot) else { return Vec::new() };
        let useful = |member: &Member| {
            let is_slow = self.is_slow(&member.id, now);
            ask.own.useful_of(&member.held, &member.coming, is_slow).and(places)
        };
        let others = (start..count).chain(0..start).filter(|at| swarm.members()[*at].id != ask.asker.id);
        let mut found = Vec::new();
        for at in others.clone() {
            let member = &swarm.members()[at];
            if !useful(member).is_empty()
                && let Some(rank) = self.rank(member, ask.asker.zone, now)
            {
                // Who has it before who will have it.
                let not_yet = member.held.and(places).is_empty();
                found.push(((not_yet, rank), at));
            }
            if found.len() >= HOLDERS_NAMED * LOOKS_PER_NAME {
                break;
            }
        }
        found.sort_by_key(|(rank, _)| *rank);
        let mut chosen: Vec<usize> = found.into_iter().map(|(_, at)| at).take(HOLDERS_NAMED).collect();
        // What only others have, and none of these holds, is with somebody else.
        let only_there = self.held_elsewhere(ask).and(places);
        let held_by = |at: &usize| swarm.members()[*at].held;
        let mut unnamed = chosen.iter().fold(only_there, |left, at| left.minus(&held_by(at)));
        for at in others {
            if unnamed.is_empty() || chosen.len() >= CANDIDATES_MAX {
                break;
            }
            if !unnamed.and(&held_by(&at)).is_empty() {
                unnamed = unnamed.minus(&held_by(&at));
                chosen.push(at);
            }
        }
        self.named(ask.plot, chosen.into_iter(), |holder| {
            holder.held = holder.held.and(&described);
            holder.coming = holder.coming.and(&described);
        })
    }

    /// Of these blocks, those that the owner lacks and others hold, and some of who do: what a node that takes any is
    /// not given, since it can have it from them.
    pub fn elsewhere(
        &mut self,
        ask: &LazyAsk<'_>,
        now: Instant,
        chance: &mut Chance,
    ) -> (BlockSet, Vec<Holder>) {
        let held = self.held_elsewhere(ask);
        (held, self.holders_of(ask, &held, now, chance))
    }

    fn named(
        &mut self,
        plot: &Plot,
        chosen: impl Iterator<Item = usize>,
        trim: impl Fn(&mut Holder),
    ) -> Vec<Holder> {
        let chosen: Vec<usize> = chosen.collect();
        if let Some(swarm) = self.swarm(plot) {
            chosen.iter().for_each(|at| swarm.name(*at));
        }
        let Some(swarm) = self.look(plot) else { return Vec::new() };
        let holders = chosen.iter().filter_map(|at| self.describe(&swarm.members()[*at]));
        holders
            .map(|mut holder| {
                trim(&mut holder);
                holder
            })
            .collect()
    }

    /// Which of these the owner gives a node that takes any: at most `count`, the rarest, of those what it has itself or is
    /// about to have, and neighbours where they are alike.
    pub fn rarest(
        &mut self,
        ask: &LazyAsk<'_>,
        useful: &BlockSet,
        count: u32,
        now: Instant,
        chance: &mut Chance,
    ) -> BlockSet {
        self.join(&ask.asker.id, ask.plot, now);
        let start = chance.below(SPAN_BLOCKS as usize) as u32;
        let swarm = self.look(ask.plot);
        let rank = |place: u32| {
            let copies = swarm.map_or(0, |swarm| swarm.copies(place));
            (copies, !ask.own.here.contains(place))
        };
        let Some(rarest) = useful.places_from(start).min_by_key(|place| rank(*place)) else {
            return BlockSet::EMPTY;
        };
        let as_rare = |place: &u32| useful.contains(*place) && rank(*place) <= rank(rarest);
        let chosen: BlockSet = (rarest..rarest.saturating_add(count.max(1))).take_while(as_rare).collect();
        if let Some(swarm) = self.swarm(ask.plot) {
            swarm.expect(&ask.asker.id, &chosen, now);
        }
        chosen
    }

    /// Which of these the owner brings from the origin now, so that it has something to give to whoever asks next: nothing as
    /// long as it has [`AHEAD_BLOCKS`] that it has given nobody, else as many neighbours that nobody has.
    pub fn to_bring(&self, ask: &LazyAsk<'_>, useful: &BlockSet, chance: &mut Chance) -> BlockSet {
        let swarm = self.look(ask.plot);
        let ungiven = |place: &u32| swarm.is_none_or(|swarm| swarm.copies(*place) == 0);
        let in_stock = useful.and(&ask.own.here).places().filter(ungiven).take(AHEAD_BLOCKS as usize).count();
        if in_stock as u32 >= AHEAD_BLOCKS {
            return BlockSet::EMPTY;
        }
        let open: BlockSet = useful.minus(&ask.own.here).places().filter(ungiven).collect();
        let start = chance.below(SPAN_BLOCKS as usize) as u32;
        // By whole runs, so that what is left does not fall into ever smaller ones.
        let run = open.places_from(start).next().map(|place| place / AHEAD_BLOCKS * AHEAD_BLOCKS);
        run.map_or(BlockSet::EMPTY, |first| open.and(&BlockSet::run(first, AHEAD_BLOCKS)))
    }

    /// At most `wanted` parents for a node that brings a plot in bulk, and none of those that it knows.
    pub fn parents(
        &mut self,
        asker: Asker<'_>,
        plot: &Plot,
        known: &[NodeId],
        wanted: usize,
        now: Instant,
        chance: &mut Chance,
    ) -> Vec<Holder> {
        self.join(&asker.id, plot, now);
        let wanted = wanted.min(CANDIDATES_MAX);
        let Some(swarm) = self.look(plot) else { return Vec::new() };
        let members = swarm.members();
        let looks = wanted * LOOKS_PER_NAME;
        // All of a small swarm, a sample of a large one.
        let mut sample: Vec<usize> = if members.len() <= looks {
            (0..members.len()).collect()
        } else {
            (0..looks).map(|_| chance.below(members.len())).collect()
        };
        sample.sort_unstable();
        sample.dedup();
        let mut found: Vec<((bool, bool, u32), u64, usize)> = sample
            .into_iter()
            .filter(|at| members[*at].id != asker.id && !known.contains(&members[*at].id))
            .filter_map(|at| Some((self.rank(&members[at], asker.zone, now)?, chance.number(), at)))
            .collect();
        found.sort_unstable();
        let (near, far): (Vec<_>, Vec<_>) = found.into_iter().partition(|((far, ..), ..)| !far);
        let near_wanted = wanted - (wanted / FAR_ONE_IN).min(far.len());
        let chosen = near.iter().take(near_wanted).chain(&far).take(wanted).map(|(.., at)| *at);
        let chosen: Vec<usize> = chosen.collect();
        self.named(plot, chosen.into_iter(), |_| ())
    }

    /// When a node that found the owner busy should come again, if a block takes it `block`: so that some ask in that
    /// time, however many there are.
    pub fn come_again(&self, plot: &Plot, block: Duration, chance: &mut Chance) -> Duration {
        let members = self.members(plot) as u32;
        let mean = block.saturating_mul(members) / ASKERS_PER_BLOCK;
        // From half to one and a half of it, so that those who came together do not come together again.
        let spread = mean.saturating_mul(chance.below(1024) as u32) / 1024;
        (mean / 2 + spread).max(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::tests::{holds, node, plot};
    use crate::wire::{Complain, Fault, Text};

    fn asker(number: u32) -> Asker<'static> {
        Asker { id: node(number).id, zone: "" }
    }

    /// What an owner answers who has all of plot 1 itself.
    fn lazy(tracker: &mut Tracker, number: u32, place: u32, failed: &[NodeId], now: Instant) -> Lazy {
        lazy_of(tracker, number, (place, &Own::ALL), failed, now)
    }

    fn lazy_of(
        tracker: &mut Tracker,
        number: u32,
        (place, own): (u32, &Own),
        failed: &[NodeId],
        now: Instant,
    ) -> Lazy {
        let (plot, places) = (&plot(1), &BlockSet::one(place));
        let ask = LazyAsk { asker: asker(number), plot, places, failed, own };
        tracker.lazy(&ask, now, &mut Chance::seeded(number.into()))
    }

    /// A tracker, the time, and chance.
    fn with_nodes(count: u32) -> (Tracker, Instant, Chance) {
        let mut tracker = Tracker::new();
        (0..count).for_each(|number| assert!(tracker.meet(node(number))));
        (tracker, Instant::now(), Chance::seeded(3))
    }

    /// Twelve nodes that boot the same image at once: the owner sends each block twice, whoever asks first.
    #[test]
    fn the_owner_sends_two_copies_and_then_names_who_has_it() {
        let (mut tracker, now, _) = with_nodes(12);
        let mut sent = 0;
        for block in 0..50 {
            for number in 0..12 {
                let lazy = lazy(&mut tracker, number, block, &[], now);
                sent += lazy.send.len();
                if lazy.send.is_empty() {
                    assert!(lazy.holders.iter().all(|holder| holder.node.id != node(number).id));
                    assert!(lazy.holders.iter().any(|holder| holder.coming.contains(block)));
                }
            }
        }
        assert_eq!(sent, 100);
    }

    #[test]
    fn holders_are_named_with_what_they_have_of_the_blocks_behind() {
        let (mut tracker, now, _) = with_nodes(3);
        for number in 0..2 {
            tracker.record(&node(number).id, &holds(plot(1), &[3, 4, 5, 900], &[]), now);
        }
        let lazy = lazy(&mut tracker, 2, 3, &[], now);
        assert_eq!((lazy.send.len(), lazy.holders.len()), (0, 2));
        assert_eq!(lazy.holders[0].held, [3, 4, 5].into_iter().collect());
    }

    #[test]
    fn who_was_named_and_did_not_send_is_not_named_again() {
        let (mut tracker, now, _) = with_nodes(3);
        for number in 0..2 {
            tracker.record(&node(number).id, &holds(plot(1), &[3], &[]), now);
        }
        let failed = [node(0).id, node(1).id];
        let lazy = lazy(&mut tracker, 2, 3, &failed, now);
        assert_eq!((lazy.send, lazy.holders), (BlockSet::one(3), vec![]));
    }

    #[test]
    fn who_was_slow_for_several_is_named_only_for_what_the_owner_lacks() {
        let (mut tracker, now, _) = with_nodes(5);
        let complain = |tracker: &mut Tracker, child| {
            for parent in 0..2 {
                let (parent, plot) = (node(parent).id, plot(1));
                let slow = Complain { parent, plot, place: 3, fault: Fault::Slow };
                tracker.complain(&node(child).id, &slow, now);
            }
        };
        let named = |tracker: &mut Tracker, own: &Own, now| {
            (0..2).for_each(|number| tracker.record(&node(number).id, &holds(plot(1), &[3], &[]), now));
            let lazy = lazy_of(tracker, 4, (3, own), &[], now);
            (lazy.send.len(), lazy.holders.len())
        };
        for _ in 0..2 {
            complain(&mut tracker, 2);
            assert_eq!(named(&mut tracker, &Own::ALL, now), (0, 2), "one node's word");
        }
        complain(&mut tracker, 3);
        assert_eq!(named(&mut tracker, &Own::ALL, now), (1, 0));
        let lacks = Own { here: BlockSet::EMPTY, attested: BlockSet::full() };
        assert_eq!(named(&mut tracker, &lacks, now), (0, 2));
        assert_eq!(named(&mut tracker, &Own::ALL, now + Duration::from_secs(10)), (0, 2), "it is forgotten");
    }

    /// A node that was named as one that will have a block, and died, does not keep others waiting for ever.
    #[test]
    fn what_does_not_come_is_not_counted_on_for_long() {
        let (mut tracker, now, _) = with_nodes(4);
        for number in 0..2 {
            lazy(&mut tracker, number, 3, &[], now);
        }
        let later = now + Duration::from_secs(6);
        let lazy = lazy(&mut tracker, 2, 3, &[], later);
        assert_eq!(lazy.send, BlockSet::one(3));
    }

    /// An owner that has lost the block, or never had it: one holder is enough, and the origin is not asked.
    #[test]
    fn what_the_owner_lacks_and_another_holds_is_named_and_not_brought() {
        let (mut tracker, now, _) = with_nodes(3);
        tracker.record(&node(0).id, &holds(plot(1), &[3], &[]), now);
        let lacks = Own { here: BlockSet::EMPTY, attested: BlockSet::full() };
        let named = lazy_of(&mut tracker, 1, (3, &lacks), &[], now);
        assert_eq!((named.send, named.bring), (BlockSet::EMPTY, BlockSet::EMPTY));
        assert_eq!(named.holders[0].node.id, node(0).id);
        // Who waits for the block itself is no holder.
        let failed = lazy_of(&mut tracker, 2, (3, &lacks), &[node(0).id], now);
        assert_eq!((failed.bring, failed.holders), (BlockSet::one(3), vec![]));
    }

    #[test]
    fn nobody_is_named_for_a_block_whose_digest_cannot_be_told() {
        let (mut tracker, now, _) = with_nodes(2);
        tracker.record(&node(0).id, &holds(plot(1), &[3], &[]), now);
        let lazy = lazy_of(&mut tracker, 1, (3, &Own::NOTHING), &[], now);
        assert_eq!((lazy.bring, lazy.holders), (BlockSet::one(3), vec![]));
    }

    #[test]
    fn a_node_that_takes_any_is_sent_to_others_for_what_the_owner_lacks() {
        let (mut tracker, now, mut chance) = with_nodes(2);
        tracker.record(&node(0).id, &holds(plot(1), &[3, 4], &[]), now);
        let places = [2, 3, 4].into_iter().collect();
        let own = Own { here: BlockSet::one(4), attested: BlockSet::full() };
        let of_others = |tracker: &mut Tracker, number, chance: &mut Chance| {
            let ask =
                LazyAsk { asker: asker(number), plot: &plot(1), places: &places, failed: &[], own: &own };
            let (elsewhere, holders) = tracker.elsewhere(&ask, now, chance);
            (elsewhere, holders.len())
        };
        assert_eq!(of_others(&mut tracker, 1, &mut chance), (BlockSet::one(3), 1));
        assert_eq!(
            of_others(&mut tracker, 0, &mut chance),
            (BlockSet::EMPTY, 0),
            "it is the only holder itself"
        );
    }

    /// Thirty nodes with a block each, as when a new owner has just taken the map over in the middle of a pull.
    #[test]
    fn what_many_hold_a_part_of_is_not_brought_however_few_are_named() {
        let (mut tracker, now, mut chance) = with_nodes(31);
        for number in 0..30 {
            tracker.record(&node(number).id, &holds(plot(1), &[number], &[]), now);
        }
        let lacks = Own { here: BlockSet::EMPTY, attested: BlockSet::full() };
        let wants = |first, blocks| (BlockSet::run(first, blocks), &lacks);
        for (places, own) in [wants(0, 30), wants(20, 12)] {
            let ask = LazyAsk { asker: asker(30), plot: &plot(1), places: &places, failed: &[], own };
            let nobodys = places.minus(&BlockSet::first(30));
            let (elsewhere, _) = tracker.elsewhere(&ask, now, &mut chance);
            assert_eq!(elsewhere, places.minus(&nobodys));
            let lazy = tracker.lazy(&ask, now, &mut chance);
            assert_eq!((lazy.send, lazy.bring), (BlockSet::EMPTY, nobodys));
            assert_eq!(lazy.holders.len(), elsewhere.len().min(CANDIDATES_MAX as u32) as usize);
        }
    }

    #[test]
    fn different_nodes_get_different_blocks() {
        let (mut tracker, now, mut chance) = with_nodes(16);
        let mut given = BlockSet::EMPTY;
        for number in 0..16 {
            let (plot, places, own) = (&plot(1), &BlockSet::first(16), &Own::ALL);
            let ask = LazyAsk { asker: asker(number), plot, places, failed: &[], own };
            let one = tracker.rarest(&ask, places, 1, now, &mut chance);
            assert!(one.len() == 1 && one.and(&given).is_empty());
            given = given.or(&one);
        }
        assert_eq!(given, BlockSet::first(16));
    }

    /// What has been brought and given to nobody is lost if the owner dies now.
    #[test]
    fn the_owner_gives_what_it_has_and_brings_only_a_little_ahead() {
        let (mut tracker, now, mut chance) = with_nodes(40);
        let (plot, places) = (&plot(1), &BlockSet::full());
        let (mut here, mut given) = (BlockSet::EMPTY, BlockSet::EMPTY);
        for number in 0..40 {
            let own = &Own { here, attested: BlockSet::full() };
            let ask = LazyAsk { asker: asker(number), plot, places, failed: &[], own };
            let brought = tracker.to_bring(&ask, places, &mut chance);
            assert!(brought.and(&here).is_empty() && brought.runs(AHEAD_BLOCKS).count() <= 1);
            assert_eq!(brought.is_empty(), here.minus(&given).len() >= AHEAD_BLOCKS);
            here.add(&brought);
            let own = &Own { here, ..*own };
            let gift = tracker.rarest(&LazyAsk { own, ..ask }, places, 4, now, &mut chance);
            assert!((1..=4).contains(&gift.len()) && gift.minus(&here).is_empty(), "of what is in stock");
            assert!(gift.and(&given).is_empty(), "each once");
            given.add(&gift);
            assert!(here.minus(&given).len() < 2 * AHEAD_BLOCKS);
        }
    }

    #[test]
    fn parents_are_named_evenly_and_none_twice() {
        let (mut tracker, now, mut chance) = with_nodes(200);
        (0..200).for_each(|number| tracker.join(&node(number).id, &plot(1), now));
        let mut named = vec![0; 200];
        for number in 0..200 {
            let parents = tracker.parents(asker(number), &plot(1), &[], CANDIDATES_MAX, now, &mut chance);
            let mut ids: Vec<NodeId> = parents.iter().map(|holder| holder.node.id).collect();
            assert!(ids.len() == CANDIDATES_MAX && !ids.contains(&node(number).id));
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), CANDIDATES_MAX);
            ids.iter().for_each(|id| {
                named[u32::from_le_bytes(id.as_bytes()[..4].try_into().unwrap()) as usize] += 1
            });
        }
        let most = named.iter().max().unwrap();
        assert!(*most <= 2 * CANDIDATES_MAX as u32, "one node was named {most} times");
    }

    #[test]
    fn near_ones_come_first_but_not_only_they() {
        let (mut tracker, now, mut chance) = (Tracker::new(), Instant::now(), Chance::seeded(1));
        for number in 0..80 {
            let zone = Text::cut(if number < 40 { "here" } else { "there" });
            tracker.meet(crate::node::Node { zone, ..node(number) });
            tracker.join(&node(number).id, &plot(1), now);
        }
        let asker = Asker { id: node(0).id, zone: "here" };
        let parents = tracker.parents(asker, &plot(1), &[], 24, now, &mut chance);
        let near = parents.iter().filter(|holder| &*holder.node.zone == "here").count();
        assert_eq!((near, parents.len()), (18, 24));
        assert!(parents[..18].iter().all(|holder| &*holder.node.zone == "here"));
    }

    #[test]
    fn the_more_there_are_the_later_each_comes_again() {
        let (mut tracker, now, mut chance) = with_nodes(400);
        let block = Duration::from_millis(10);
        assert_eq!(tracker.come_again(&plot(1), block, &mut chance), block);
        (0..400).for_each(|number| tracker.join(&node(number).id, &plot(1), now));
        for _ in 0..100 {
            let after = tracker.come_again(&plot(1), block, &mut chance);
            assert!((500..=1500).contains(&after.as_millis()), "{after:?}");
        }
    }
}
