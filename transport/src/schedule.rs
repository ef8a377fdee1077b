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
use crate::tracker::Tracker;
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

/// What a lazy reader gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lazy {
    /// Blocks that the owner sends.
    pub send: BlockSet,
    /// Who has the other ones, the best first.
    pub holders: Vec<Holder>,
}

impl Tracker {
    /// Somebody waits for these blocks. `failed` were named before and did not send.
    pub fn lazy(
        &mut self,
        asker: Asker<'_>,
        plot: &Plot,
        places: &BlockSet,
        failed: &[NodeId],
        now: Instant,
        chance: &mut Chance,
    ) -> Lazy {
        self.join(&asker.id, plot, now);
        let Some(swarm) = self.swarm(plot) else {
            return Lazy { send: *places, holders: Vec::new() };
        };
        failed.iter().for_each(|id| swarm.disappoint(id, places));
        // What the asker was to get before and asks for again has not come.
        swarm.disappoint(&asker.id, places);
        let scarce = |place: &u32| swarm.copies(*place) < COPIES_FROM_OWNER;
        let mut send: BlockSet = places.places().filter(scarce).collect();
        let named = self.holders_of(asker, plot, &places.minus(&send), now, chance);
        let covered =
            named.iter().fold(BlockSet::EMPTY, |all, holder| all.or(&holder.held).or(&holder.coming));
        // Those who had them are not to be named: gone, slow or expelled.
        send = send.or(&places.minus(&covered));
        if let Some(swarm) = self.swarm(plot) {
            swarm.expect(&asker.id, places, now);
        }
        Lazy { send, holders: named }
    }

    fn holders_of(
        &mut self,
        asker: Asker<'_>,
        plot: &Plot,
        places: &BlockSet,
        now: Instant,
        chance: &mut Chance,
    ) -> Vec<Holder> {
        let Some(first) = places.places().next() else { return Vec::new() };
        let described = places.or(&BlockSet::run(first, NEIGHBOURS));
        let count = self.members(plot);
        let start = chance.below(count);
        if let Some(swarm) = self.swarm(plot) {
            (0..count).for_each(|at| swarm.expect_no_longer(at, now));
        }
        let Some(swarm) = self.look(plot) else { return Vec::new() };
        let mut found = Vec::new();
        for at in (start..count).chain(0..start) {
            let member = &swarm.members()[at];
            let useful = !member.held.or(&member.coming).and(places).is_empty();
            if useful
                && member.id != asker.id
                && let Some(rank) = self.rank(member, asker.zone, now)
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
        self.named(plot, found.into_iter().map(|(_, at)| at).take(HOLDERS_NAMED), |holder| {
            holder.held = holder.held.and(&described);
            holder.coming = holder.coming.and(&described);
        })
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

    /// Which of these the owner gives a node that takes any: at most `count`, the rarest, neighbours of
    /// the rarest one where they are as rare.
    pub fn rarest(
        &mut self,
        asker: &NodeId,
        plot: &Plot,
        useful: &BlockSet,
        count: u32,
        now: Instant,
        chance: &mut Chance,
    ) -> BlockSet {
        self.join(asker, plot, now);
        let start = chance.below(SPAN_BLOCKS as usize) as u32;
        let swarm = self.look(plot);
        let copies = |place: u32| swarm.map_or(0, |swarm| swarm.copies(place));
        let Some(rarest) = useful.places_from(start).min_by_key(|place| copies(*place)) else {
            return BlockSet::EMPTY;
        };
        let as_rare = |place: &u32| useful.contains(*place) && copies(*place) <= copies(rarest);
        let chosen: BlockSet = (rarest..rarest.saturating_add(count.max(1))).take_while(as_rare).collect();
        if let Some(swarm) = self.swarm(plot) {
            swarm.expect(asker, &chosen, now);
        }
        chosen
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
    use crate::wire::Text;

    fn asker(number: u32) -> Asker<'static> {
        Asker { id: node(number).id, zone: "" }
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
        let (mut tracker, now, mut chance) = with_nodes(12);
        let mut sent = 0;
        for block in 0..50 {
            for number in 0..12 {
                let lazy =
                    tracker.lazy(asker(number), &plot(1), &BlockSet::one(block), &[], now, &mut chance);
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
        let (mut tracker, now, mut chance) = with_nodes(3);
        for number in 0..2 {
            tracker.record(&node(number).id, &holds(plot(1), &[3, 4, 5, 900], &[]), now);
        }
        let lazy = tracker.lazy(asker(2), &plot(1), &BlockSet::one(3), &[], now, &mut chance);
        assert_eq!((lazy.send.len(), lazy.holders.len()), (0, 2));
        assert_eq!(lazy.holders[0].held, [3, 4, 5].into_iter().collect());
    }

    #[test]
    fn who_was_named_and_did_not_send_is_not_named_again() {
        let (mut tracker, now, mut chance) = with_nodes(3);
        for number in 0..2 {
            tracker.record(&node(number).id, &holds(plot(1), &[3], &[]), now);
        }
        let failed = [node(0).id, node(1).id];
        let lazy = tracker.lazy(asker(2), &plot(1), &BlockSet::one(3), &failed, now, &mut chance);
        assert_eq!((lazy.send, lazy.holders), (BlockSet::one(3), vec![]));
    }

    /// A node that was named as one that will have a block, and died, does not keep others waiting for ever.
    #[test]
    fn what_does_not_come_is_not_counted_on_for_long() {
        let (mut tracker, now, mut chance) = with_nodes(4);
        for number in 0..2 {
            tracker.lazy(asker(number), &plot(1), &BlockSet::one(3), &[], now, &mut chance);
        }
        let later = now + Duration::from_secs(6);
        let lazy = tracker.lazy(asker(2), &plot(1), &BlockSet::one(3), &[], later, &mut chance);
        assert_eq!(lazy.send, BlockSet::one(3));
    }

    #[test]
    fn different_nodes_get_different_blocks() {
        let (mut tracker, now, mut chance) = with_nodes(16);
        let mut given = BlockSet::EMPTY;
        for number in 0..16 {
            let one = tracker.rarest(&node(number).id, &plot(1), &BlockSet::first(16), 1, now, &mut chance);
            assert!(one.len() == 1 && one.and(&given).is_empty());
            given = given.or(&one);
        }
        assert_eq!(given, BlockSet::first(16));
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
