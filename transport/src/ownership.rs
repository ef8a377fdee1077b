//! Which seed owns a plot, and which is its deputy: rendezvous order, weighted by capacity.
//!
//! Every node that knows the same seeds comes to the same order, without asking anyone: each seed draws a lot for the
//! plot from a hash, and the lots are stretched so that a seed with twice the slots wins twice as often. When a
//! seed comes or goes, only what it wins or loses moves. The first in the order owns the plot: it alone goes to the
//! origin and keeps the map. The second is the deputy and keeps a copy.
//!
//! A seed stays the owner for five seconds after it was last seen: a restart moves nothing. One that has
//! joined takes its place after two seconds, when all have heard of it; the map of a content it takes when it is first asked for
//! it. One that leaves says so, and owns nothing from that moment on. Where nobody owns yet, as in a new cluster, there are no
//! maps to wait for: then all own that are up, and go on to when the first of them says so.
//!
//! Whether spans of a content are owned each by itself is said by the content's own owner when it describes it
//! ([`owned_by_span`]), so that nodes which know other capacities do not see it otherwise.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use darter_engine::Layout;

use crate::node::{Node, NodeId};
use crate::span::Plot;
use crate::wire::SEEDS_MAX;

/// A seed that is down owns what it owned for so long.
pub const MOVES_AFTER: Duration = Duration::from_secs(5);
/// A seed that has joined owns after so long: the news of it has reached all others several times by then.
pub const JOINS_AFTER: Duration = Duration::from_secs(2);

/// The seeds, and what they may own.
#[derive(Clone, Debug, Default)]
pub struct Ownership {
    seeds: BTreeMap<NodeId, Seed>,
}

#[derive(Clone, Debug)]
struct Seed {
    node: Node,
    capacity_slots: u32,
    state: State,
}

/// A seed is in exactly one of these states; one that has left, or has been down for long, is not listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Up, and not known to all.
    Joining(Instant),
    /// Up, and owns.
    Owning,
    /// Not seen since.
    Down(Instant),
}

/// Who owns a plot, and who stands by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owners<'a> {
    /// It goes to the origin and keeps the map.
    pub owner: &'a Node,
    /// It keeps a copy of the map. None in a cluster of one seed.
    pub deputy: Option<&'a Node>,
}

impl Ownership {
    /// Knows no seed.
    pub fn new() -> Self {
        Self::default()
    }

    /// A seed is up. False if there are as many as there may be. `owns`: others say that it owns contents already.
    pub fn up(&mut self, node: Node, capacity_slots: u32, owns: bool, now: Instant) -> bool {
        self.forget_the_dead(now);
        if self.seeds.len() >= SEEDS_MAX && !self.seeds.contains_key(&node.id) {
            return false;
        }
        let state = match self.seeds.get(&node.id).map(|seed| seed.state) {
            Some(State::Joining(since)) if !owns => State::Joining(since),
            // It was away for less than it takes to move what it owns.
            Some(State::Owning | State::Down(_)) => State::Owning,
            Some(State::Joining(_)) => State::Owning,
            None if owns => State::Owning,
            None => State::Joining(now),
        };
        // The first of a new cluster to say so. The others own as well, and will say so: until they do nothing moves.
        let is_one_of_the_first = owns && self.seeds.contains_key(&node.id) && !self.somebody_owns(now);
        if is_one_of_the_first {
            self.seeds.values_mut().for_each(|seed| seed.state = State::Owning);
        }
        self.seeds.insert(node.id, Seed { node, capacity_slots, state });
        true
    }

    /// A seed does not answer.
    pub fn down(&mut self, id: &NodeId, now: Instant) {
        match self.seeds.get_mut(id).map(|seed| &mut seed.state) {
            Some(State::Joining(_)) => _ = self.seeds.remove(id),
            Some(state @ State::Owning) => *state = State::Down(now),
            Some(State::Down(_)) | None => {}
        }
    }

    /// A seed has said that it goes.
    pub fn left(&mut self, id: &NodeId) {
        self.seeds.remove(id);
    }

    /// Who holds a place in the order, with the slots of its store and whether it owns, in the order of names.
    pub fn seeds(&self, now: Instant) -> impl Iterator<Item = (&Node, u32, bool)> {
        let places = self.seeds.values().filter(move |seed| !seed.is_dead(now));
        places.map(move |seed| (&seed.node, seed.capacity_slots, seed.owns_something(now)))
    }

    /// Takes up what time has decided ([`moves_at`](Self::moves_at)): the dead are forgotten, who has
    /// joined owns. True if there was something.
    pub fn settle(&mut self, now: Instant) -> bool {
        let before = self.seeds.len();
        self.forget_the_dead(now);
        let mut changed = self.seeds.len() != before;
        for seed in self.seeds.values_mut() {
            if matches!(seed.state, State::Joining(_)) && seed.owns_something(now) {
                seed.state = State::Owning;
                changed = true;
            }
        }
        changed
    }

    fn somebody_owns(&self, now: Instant) -> bool {
        self.seeds.values().any(|seed| seed.owns_something(now))
    }

    fn forget_the_dead(&mut self, now: Instant) {
        self.seeds.retain(|_, seed| !seed.is_dead(now));
    }

    /// Owner and deputy of a plot; `None` when there is no seed. With `by_span` the span counts, else only the
    /// content.
    pub fn of(&self, plot: &Plot, by_span: bool, now: Instant) -> Option<Owners<'_>> {
        let nobody_owns = !self.somebody_owns(now);
        let mut lots: Vec<(Lot, &Seed)> = self
            .seeds
            .values()
            .filter(|seed| seed.owns_something(now) || (nobody_owns && !seed.is_dead(now)))
            .map(|seed| (Lot::draw(plot, by_span, seed), seed))
            .collect();
        lots.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut nodes = lots.into_iter().map(|(_, seed)| &seed.node);
        Some(Owners { owner: nodes.next()?, deputy: nodes.next() })
    }

    /// When what is down now will have moved, if anything is.
    pub fn moves_at(&self) -> Option<Instant> {
        let moves = self.seeds.values().filter_map(|seed| match seed.state {
            State::Down(since) => Some(since + MOVES_AFTER),
            State::Joining(since) => Some(since + JOINS_AFTER),
            State::Owning => None,
        });
        moves.min()
    }
}

impl Seed {
    fn is_dead(&self, now: Instant) -> bool {
        matches!(self.state, State::Down(_)) && !self.owns_something(now)
    }

    fn owns_something(&self, now: Instant) -> bool {
        match self.state {
            State::Owning => true,
            State::Down(since) => now.saturating_duration_since(since) < MOVES_AFTER,
            State::Joining(since) => now.saturating_duration_since(since) >= JOINS_AFTER,
        }
    }
}

/// Whether each span of a content has an owner of its own: when it would fill more than a quarter of the slots of
/// the seed that describes it.
pub fn owned_by_span(layout: Layout, capacity_slots: u32) -> bool {
    layout.piece_count() > capacity_slots / 4
}

/// The lot that a seed draws for a plot: the lowest wins.
///
/// With h drawn evenly from (0, 1], −log2(h) / weight is lowest for a seed as often as its weight is of all weights
/// (Thaler and Ravishankar; weighted as by Schindelhauer and Schomaker). All in integers, so that every machine
/// comes to the same order.
#[derive(PartialEq, Eq, Debug)]
struct Lot {
    /// −log2(h) with 32 bits behind the point.
    draw: u64,
    weight: u32,
    id: NodeId,
}

impl Lot {
    fn draw(plot: &Plot, by_span: bool, seed: &Seed) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(plot.content.as_bytes());
        hasher.update(&if by_span { plot.span.number() } else { u32::MAX }.to_le_bytes());
        hasher.update(seed.node.id.as_bytes());
        let mut number = [0; 8];
        number.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        let draw = negative_log2(u64::from_le_bytes(number) | 1);
        Self { draw, weight: seed.capacity_slots.max(1), id: seed.node.id }
    }

    /// draw / weight, compared without dividing.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let (a, b) = (
            u128::from(self.draw) * u128::from(other.weight),
            u128::from(other.draw) * u128::from(self.weight),
        );
        a.cmp(&b).then_with(|| self.id.cmp(&other.id))
    }
}

/// −log2(number / 2^64), with 32 bits behind the point. `number` is not 0.
fn negative_log2(number: u64) -> u64 {
    let zeros = u64::from(number.leading_zeros());
    // From 1 to 2, as 1.63: each squaring tells the next bit of the logarithm.
    let mut mantissa = number << zeros;
    let mut fraction = 0u64;
    for _ in 0..32 {
        let square = u128::from(mantissa) * u128::from(mantissa);
        let above_two = square >> 127 != 0;
        mantissa = (square >> if above_two { 64 } else { 63 }) as u64;
        fraction = fraction << 1 | u64::from(above_two);
    }
    // log2 = 63 − zeros + fraction, less 64.
    ((zeros + 1) << 32) - fraction
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::span::SpanIndex;
    use crate::tracker::tests::node;
    use darter_engine::{ContentId, Scope};
    use proptest::prelude::*;

    fn plot(number: u32) -> Plot {
        let content = ContentId::of_name(&number.to_string());
        Plot { content, scope: Scope::Verified, span: SpanIndex::FIRST }
    }

    fn with_seeds(weights: &[u32], now: Instant) -> Ownership {
        let mut ownership = Ownership::new();
        for (number, weight) in (0..).zip(weights) {
            assert!(ownership.up(node(number), *weight, true, now));
        }
        ownership
    }

    fn owner(ownership: &Ownership, number: u32, now: Instant) -> NodeId {
        ownership.of(&plot(number), false, now).unwrap().owner.id
    }

    proptest! {
        #[test]
        fn the_logarithm_is_that_of_the_library(number in 1..u64::MAX) {
            let expected = 64.0 - (number as f64).log2();
            let ours = negative_log2(number) as f64 / 2f64.powi(32);
            prop_assert!((ours - expected).abs() < 1e-8, "{} {}", ours, expected);
        }
    }

    #[test]
    fn a_seed_owns_as_much_as_its_weight() {
        let now = Instant::now();
        let ownership = with_seeds(&[1000, 2000, 5000], now);
        let mut owned = [0u32; 3];
        for number in 0..8000 {
            let id = owner(&ownership, number, now);
            owned[(0..3).position(|seed| node(seed).id == id).unwrap()] += 1;
        }
        for (owned, expected) in owned.into_iter().zip([1000u32, 2000, 5000]) {
            assert!(owned.abs_diff(expected) < expected / 10 + 50, "{owned} of {expected}");
        }
    }

    #[test]
    fn when_a_seed_goes_its_deputies_take_over_and_nothing_else_moves() {
        let now = Instant::now();
        let mut ownership = with_seeds(&[10; 5], now);
        let before: Vec<(NodeId, NodeId)> = (0..500)
            .map(|number| {
                let plot = plot(number);
                let Owners { owner, deputy } = ownership.of(&plot, false, now).unwrap();
                (owner.id, deputy.unwrap().id)
            })
            .collect();
        ownership.left(&node(2).id);
        for (number, (owner_before, deputy_before)) in (0..).zip(before) {
            let expected = if owner_before == node(2).id { deputy_before } else { owner_before };
            assert_eq!(owner(&ownership, number, now), expected);
        }
    }

    #[test]
    fn a_short_absence_moves_nothing() {
        let now = Instant::now();
        let mut ownership = with_seeds(&[10; 3], now);
        let number = (0..).find(|number| owner(&ownership, *number, now) == node(1).id).unwrap();
        ownership.down(&node(1).id, now);
        assert_eq!(owner(&ownership, number, now + Duration::from_millis(4999)), node(1).id);
        assert_eq!(ownership.moves_at(), Some(now + MOVES_AFTER));
        assert_ne!(owner(&ownership, number, now + MOVES_AFTER), node(1).id);
        let mut back_in_time = ownership.clone();
        back_in_time.up(node(1), 10, false, now + Duration::from_secs(3));
        assert_eq!(owner(&back_in_time, number, now + Duration::from_secs(9)), node(1).id);
        // After that it joins like any other.
        ownership.up(node(1), 10, false, now + Duration::from_secs(6));
        assert_ne!(owner(&ownership, number, now + Duration::from_secs(7)), node(1).id);
        assert_eq!(owner(&ownership, number, now + Duration::from_secs(8)), node(1).id);
    }

    #[test]
    fn a_seed_that_has_joined_owns_after_a_while() {
        let now = Instant::now();
        let mut ownership = with_seeds(&[1], now);
        ownership.up(node(9), u32::MAX, false, now);
        assert_eq!(owner(&ownership, 1, now), node(0).id);
        assert_eq!(owner(&ownership, 1, now + JOINS_AFTER), node(9).id);
    }

    #[test]
    fn a_node_alone_owns_everything_and_has_no_deputy() {
        let now = Instant::now();
        let mut ownership = Ownership::new();
        assert_eq!(ownership.of(&plot(1), false, now), None);
        ownership.up(node(7), 1, false, now);
        assert_eq!(ownership.of(&plot(1), false, now), Some(Owners { owner: &node(7), deputy: None }));
    }

    /// Whoever hears of the others of a new cluster, in whatever order, comes to the same owners.
    #[test]
    fn in_a_new_cluster_all_own_that_are_up() {
        let now = Instant::now();
        let (mut one, mut other) = (Ownership::new(), Ownership::new());
        for number in 0..4 {
            one.up(node(number), 10, false, now);
            other.up(node(3 - number), 10, false, now);
        }
        assert!((0..50).all(|number| owner(&one, number, now) == owner(&other, number, now)));
        assert!((0..50).any(|number| owner(&one, number, now) != owner(&one, 0, now)));
        let before: Vec<_> = (0..50).map(|number| owner(&one, number, now)).collect();
        one.up(node(2), 10, true, now);
        assert!((0..50).map(|number| owner(&one, number, now)).eq(before), "nothing moves when one says so");
        one.up(node(4), 10, false, now);
        assert!((0..50).all(|number| owner(&one, number, now) != node(4).id), "who comes later waits");
    }

    /// Who comes to others does not take himself for one of the first.
    #[test]
    fn who_hears_first_of_one_that_owns_waits() {
        let now = Instant::now();
        let mut ownership = Ownership::new();
        ownership.up(node(1), 10, false, now);
        ownership.up(node(2), 10, true, now);
        assert!((0..50).all(|number| owner(&ownership, number, now) == node(2).id));
    }

    #[test]
    fn what_time_has_decided_is_taken_up_once() {
        let now = Instant::now();
        let mut ownership = with_seeds(&[1; 2], now);
        ownership.up(node(8), 1, false, now);
        ownership.down(&node(1).id, now);
        let of = |ownership: &Ownership, now| {
            ownership.seeds(now).map(|(node, _, owns)| (node.id.as_bytes()[0], owns)).collect::<Vec<_>>()
        };
        assert_eq!(
            of(&ownership, now),
            [(0, true), (1, true), (8, false)],
            "one that is down keeps its place"
        );
        assert!(!ownership.settle(now + Duration::from_secs(1)));
        assert!(ownership.settle(ownership.moves_at().unwrap()));
        assert_eq!(ownership.moves_at(), Some(now + MOVES_AFTER));
        assert!(ownership.settle(ownership.moves_at().unwrap()));
        assert_eq!(of(&ownership, now + MOVES_AFTER), [(0, true), (8, true)]);
        assert_eq!(ownership.moves_at(), None);
    }

    #[test]
    fn spans_of_a_large_content_are_spread() {
        let now = Instant::now();
        let ownership = with_seeds(&[10; 3], now);
        let of_span = |span, by_span| {
            let plot = Plot { span: SpanIndex::from_number(span), ..plot(1) };
            ownership.of(&plot, by_span, now).unwrap().owner.id
        };
        assert!((1..9).all(|span| of_span(span, false) == of_span(0, false)));
        assert!((1..9).any(|span| of_span(span, true) != of_span(0, true)));
        let layout = |pieces: u64| Layout::new(pieces * 262_144).unwrap();
        assert!(!owned_by_span(layout(1024), 4096) && owned_by_span(layout(1025), 4096));
    }

    #[test]
    fn there_are_not_more_seeds_than_there_may_be() {
        let now = Instant::now();
        let mut ownership = with_seeds(&[1; SEEDS_MAX], now);
        assert!(!ownership.up(node(9999), 1, true, now));
        ownership.down(&node(3).id, now);
        assert!(ownership.up(node(9999), 1, true, now + MOVES_AFTER), "a dead one makes room");
    }

    /// The order is part of the protocol: nodes of all versions must come to the same one.
    #[test]
    fn known_order() {
        let now = Instant::now();
        let ownership = with_seeds(&[100, 200, 300, 400], now);
        let owners: Vec<u8> = (0..12).map(|number| owner(&ownership, number, now).as_bytes()[0]).collect();
        assert_eq!(owners, [3, 3, 0, 2, 0, 0, 3, 2, 3, 3, 3, 3]);
    }
}
