use std::collections::BTreeMap;

use super::link::{ASKED_AHEAD_BLOCKS, PATIENCE_MAX};
use super::*;
use crate::node::Node;
use crate::tracker::tests::node;
use crate::wire::Load;
use proptest::prelude::*;

/// A download of 64 blocks that may come from anyone, with its clock.
struct Bench {
    download: Download,
    now: Instant,
    chance: Chance,
}

fn set(places: impl IntoIterator<Item = u32>) -> BlockSet {
    places.into_iter().collect()
}

fn parent(number: u32) -> NodeId {
    node(number).id
}

fn from(number: u32) -> Source {
    Source::Parent(parent(number))
}

fn holder(node: Node, held: BlockSet, coming: BlockSet) -> Holder {
    Holder { node, held, coming, load: Load::default() }
}

impl Bench {
    /// With so many parents that hold everything.
    fn new(parents: u32) -> Self {
        let mut download = Download::new(64, &BlockSet::EMPTY);
        download.attested(&BlockSet::full());
        let holders: Vec<Holder> =
            (0..parents).map(|number| holder(node(number), BlockSet::full(), BlockSet::EMPTY)).collect();
        download.named(&holders, "");
        Self { download, now: Instant::now(), chance: Chance::seeded(1) }
    }

    fn after(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    /// All that is to be done now.
    fn steps(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Some(step) = self.download.poll(self.now, &mut self.chance) {
            steps.push(step);
            assert!(steps.len() < 200, "it does not come to rest: {steps:?}");
        }
        steps
    }

    /// Who was asked for what just now.
    fn takes(&mut self) -> Vec<(NodeId, BlockSet)> {
        let take = |step| match step {
            Step::Take { parent, places, .. } => Some((parent, places)),
            _ => None,
        };
        self.steps().into_iter().filter_map(take).collect()
    }

    fn arrived(&mut self, source: Source, place: u32) -> Arrival {
        self.download.arrived(&source, place, true, self.now)
    }
}

fn want(places: BlockSet, failed: &[NodeId]) -> Step {
    Step::Want { places, any: false, stand_in: false, failed: failed.to_vec() }
}

#[test]
fn a_reader_without_parents_asks_the_owner_and_further_readers_do_too() {
    let mut bench = Bench::new(0);
    bench.download.want(&set([3]));
    assert_eq!(bench.steps(), [want(set([3]), &[])]);
    bench.download.want(&set([3, 9]));
    assert_eq!(bench.steps(), [want(set([9]), &[])], "block 3 is on its way");
    assert_eq!(bench.arrived(Source::Owner, 3), Arrival::Keep);
    bench.download.ended(&Source::Owner, &set([3]));
    assert_eq!(bench.steps(), []);
    assert_eq!(bench.arrived(Source::Owner, 9), Arrival::Keep);
    assert!(bench.download.is_done() && *bench.download.held() == set([3, 9]));
    assert_eq!(bench.download.wake_at(bench.now), None);
}

#[test]
fn a_reader_is_sent_to_holders_and_takes_the_next_blocks_from_them_without_asking() {
    let mut bench = Bench::new(0);
    bench.download.want(&set([3]));
    bench.steps();
    bench.download.named(&[holder(node(7), set([3, 4, 5]), BlockSet::EMPTY)], "");
    bench.download.ended(&Source::Owner, &set([3]));
    assert_eq!(bench.takes(), [(parent(7), set([3]))]);
    bench.arrived(from(7), 3);
    bench.download.ended(&from(7), &set([3]));
    bench.download.want(&set([4]));
    assert_eq!(bench.takes(), [(parent(7), set([4]))]);
}

#[test]
fn a_holder_that_is_about_to_have_a_block_is_let_wait() {
    let mut bench = Bench::new(0);
    bench.download.named(&[holder(node(7), BlockSet::EMPTY, set([3]))], "");
    bench.download.want(&set([3]));
    assert_eq!(bench.steps(), [Step::Take { parent: parent(7), places: set([3]), wait: true }]);
    bench.download.ended(&from(7), &set([3]));
    let complaint = Step::Complain { parent: parent(7), place: 3, fault: Fault::NotHeld };
    assert_eq!(bench.steps(), [complaint, want(set([3]), &[])]);
}

#[test]
fn a_block_without_an_attested_digest_comes_from_the_owner_only() {
    let mut bench = Bench::new(2);
    bench.download.attested = set([5]);
    bench.download.want(&set([4, 5]));
    let steps = bench.steps();
    assert!(matches!(&steps[0], Step::Take { places, .. } if *places == set([5])), "{steps:?}");
    assert_eq!(steps[1..], [want(set([4]), &[])]);
}

/// SIGSTOP on a parent: its children go on within a second, and do not try one after another.
#[test]
fn what_a_parent_does_not_bring_in_time_is_asked_of_the_owner() {
    let mut bench = Bench::new(3);
    bench.download.want(&set([0]));
    let slow = bench.takes()[0].0;
    let wake = bench.download.wake_at(bench.now).unwrap();
    assert!(wake - bench.now <= PATIENCE_MAX);
    bench.now = wake;
    let complaint = Step::Complain { parent: slow, place: 0, fault: Fault::Slow };
    assert_eq!(bench.steps(), [Step::Drop(Source::Parent(slow)), complaint, want(set([0]), &[slow])]);
    // What comes all the same is taken, and the other one's is late.
    assert_eq!(bench.arrived(Source::Parent(slow), 0), Arrival::Keep);
    assert_eq!(bench.arrived(Source::Owner, 0), Arrival::Late);
    bench.download.ended(&Source::Owner, &set([0]));
    // An owner that names others instead is believed.
    bench.download.want(&set([1]));
    assert_eq!(bench.steps(), [want(set([1]), &[slow])]);
    bench.download.refused(&Source::Owner, &set([1]), Reaction::AskAgain { after_ms: 5 }, bench.now);
    let takes = bench.takes();
    assert!(takes.len() == 1 && takes[0].0 != slow, "{takes:?}");
}

/// A connection on which bytes trickle is given up in the end: readers then tried the next one that trickled, all at once.
#[test]
fn who_let_a_reader_down_leaves_others_in_doubt_though_it_is_gone() {
    let mut bench = Bench::new(4);
    bench.download.want(&set([0]));
    let slow = bench.takes()[0].0;
    bench.after(300);
    bench.steps();
    bench.arrived(Source::Owner, 0);
    bench.download.ended(&Source::Owner, &set([0]));
    bench.download.gone(&slow);
    bench.download.want(&set([1]));
    assert_eq!(bench.steps(), [want(set([1]), &[])]);
    // The owner knows what others complain of: whom it names is asked, and not just anyone.
    let named = (0..4).rev().find(|number| parent(*number) != slow).unwrap();
    bench.download.named(&[holder(node(named), BlockSet::full(), BlockSet::EMPTY)], "");
    bench.download.refused(&Source::Owner, &set([1]), Reaction::AskAgain { after_ms: 5 }, bench.now);
    assert_eq!(bench.takes(), [(parent(named), set([1]))]);
}

#[test]
fn who_has_brought_blocks_is_asked_though_another_one_failed() {
    let mut bench = Bench::new(2);
    bench.download.want(&set([0]));
    let quick = bench.takes()[0].0;
    bench.arrived(Source::Parent(quick), 0);
    bench.download.ended(&Source::Parent(quick), &set([0]));
    let slow = if quick == parent(0) { 1 } else { 0 };
    // Only the slow one has it.
    bench.download.have(&quick, &Have { held: BlockSet::EMPTY, lost: set([1]), load: Load::default() });
    bench.download.want(&set([1]));
    assert_eq!(bench.takes(), [(parent(slow), set([1]))]);
    bench.after(300);
    assert_eq!(bench.steps()[2], want(set([1]), &[parent(slow)]));
    bench.download.want(&set([2]));
    assert_eq!(bench.takes(), [(quick, set([2]))]);
}

#[test]
fn a_parent_that_trickles_is_left_alone_longer_each_time() {
    let mut bench = Bench::new(1);
    bench.download.named(&[holder(node(9), BlockSet::full(), BlockSet::EMPTY)], "");
    let mut asked = 0;
    for round in 0..400 {
        bench.download.want(&set([round % 64]));
        for (parent_asked, places) in bench.takes() {
            if parent_asked == parent(9) {
                asked += 1;
            } else {
                places.places().for_each(|place| _ = bench.arrived(from(0), place));
                bench.download.ended(&from(0), &places);
            }
        }
        bench.download.lost(&set([round % 64]));
        bench.after(100);
    }
    assert!((1..=5).contains(&asked), "in 40 s the one that trickles was asked {asked} times");
}

#[test]
fn who_sends_wrong_bytes_is_never_asked_again() {
    let mut bench = Bench::new(1);
    bench.download.want(&set([0, 1]));
    let takes = bench.takes();
    assert_eq!(takes, [(parent(0), set([0, 1]))]);
    assert_eq!(bench.download.arrived(&from(0), 0, false, bench.now), Arrival::Wrong);
    let complaint = Step::Complain { parent: parent(0), place: 0, fault: Fault::WrongBytes };
    let expected = [Step::Drop(from(0)), complaint, want(set([0, 1]), &[parent(0)])];
    assert_eq!(bench.steps(), expected);
    assert!(bench.download.held().is_empty());
    let have = Have { held: BlockSet::full(), lost: BlockSet::EMPTY, load: Load::default() };
    bench.download.have(&parent(0), &have);
    bench.download.named(&[holder(node(0), BlockSet::full(), BlockSet::full())], "");
    bench.after(60_000);
    bench.download.want(&set([2]));
    assert_eq!(bench.takes(), []);
}

/// First the deputy, then the origin: a pull never fails because the cluster is ill.
#[test]
fn without_an_owner_the_deputy_is_asked_and_then_the_origin() {
    let mut bench = Bench::new(0);
    bench.download.want(&set([3]));
    let mut asked = Vec::new();
    let went = (0..20).find_map(|_| {
        for step in bench.steps() {
            match step {
                Step::Want { stand_in, .. } => asked.push(stand_in),
                Step::GoToOrigin(places) => return Some(places),
                other => panic!("{other:?}"),
            }
        }
        bench.download.owner_gone(false, bench.now);
        bench.after(100);
        None
    });
    assert_eq!((asked, went), (vec![false, false, true, true], Some(set([3]))));
    bench.download.came_otherwise(&set([3]));
    assert!(bench.download.is_done());
}

/// No seed is left, as when the last one was killed half way.
#[test]
fn what_parents_hold_of_a_bulk_comes_from_them_when_there_is_no_owner() {
    let mut bench = Bench::new(0);
    bench.download.named(&[holder(node(7), set([4, 5]), BlockSet::EMPTY)], "");
    bench.download.wants_only(&BlockSet::EMPTY, &set([3, 4, 5]));
    let (mut taken, mut left) = (BlockSet::EMPTY, BlockSet::EMPTY);
    for _ in 0..50 {
        match bench.download.poll(bench.now, &mut bench.chance) {
            Some(Step::Want { places, any, .. }) => {
                let asked = if any { BlockSet::EMPTY } else { places };
                bench.download.refused(&Source::Owner, &asked, Reaction::GoToOrigin, bench.now);
            }
            Some(Step::GoToOrigin(places)) => {
                left.add(&places);
                bench.download.wants_only(&BlockSet::EMPTY, &set([3, 4, 5]).minus(&left));
            }
            Some(Step::Take { places, .. }) => taken.add(&places),
            _ => {}
        }
    }
    assert_eq!((taken, left), (set([4, 5]), set([3])));
}

#[test]
fn an_owner_that_is_at_a_slow_origin_is_given_time() {
    let mut bench = Bench::new(0);
    bench.download.want(&set([3]));
    bench.steps();
    bench.after(2900);
    assert_eq!(bench.steps(), []);
    bench.after(200);
    assert_eq!(bench.steps(), [Step::Drop(Source::Owner)]);
}

#[test]
fn the_owner_and_some_parents_send_at_a_time_in_bulk() {
    let mut bench = Bench::new(20);
    bench.download.want_all();
    let steps = bench.steps();
    assert_eq!(steps.iter().filter(|step| matches!(step, Step::Want { .. })).count(), 1);
    let mut asked: BTreeMap<NodeId, u32> = BTreeMap::new();
    for step in &steps {
        if let Step::Take { parent, places, .. } = step {
            let before = asked.entry(*parent).or_default();
            assert!(*before <= ASKED_AHEAD_BLOCKS, "only whose run is short is asked for another one ahead");
            *before += places.len();
        }
    }
    assert_eq!(asked.len(), SOURCES_AT_ONCE);
    // A reader does not wait for these.
    let asked = bench.download.asked;
    let free = (0..64).find(|place| !asked.contains(*place)).unwrap();
    bench.download.want(&set([free]));
    assert_eq!(bench.takes()[0].1, set([free]));
}

#[test]
fn the_rarest_block_is_taken_first() {
    let mut bench = Bench::new(0);
    let holders = [
        (1, set(0..64)),
        (2, set((0..64).filter(|place| *place != 40))),
        (3, set((0..64).filter(|place| *place != 40))),
    ];
    let holders: Vec<Holder> =
        holders.into_iter().map(|(number, held)| holder(node(number), held, BlockSet::EMPTY)).collect();
    bench.download.named(&holders, "");
    bench.download.want_all();
    let takes = bench.takes();
    assert!(takes[0].0 == parent(1) && takes[0].1.contains(40), "{takes:?}");
}

#[test]
fn a_near_parent_is_asked_before_a_far_one_and_an_idle_one_before_a_busy_one() {
    let mut bench = Bench::new(0);
    let near = Node { zone: crate::wire::Text::cut("here"), ..node(1) };
    let busy = Holder { load: Load { busy: 200 }, ..holder(near.clone(), set([1]), BlockSet::EMPTY) };
    let idle = holder(Node { id: parent(2), ..near }, set([1]), BlockSet::EMPTY);
    let far = holder(node(3), set([1, 2]), BlockSet::EMPTY);
    bench.download.named(&[far, busy, idle], "here");
    bench.download.want(&set([1]));
    assert_eq!(bench.takes(), [(parent(2), set([1]))]);
    bench.download.want(&set([2]));
    assert_eq!(bench.takes(), [(parent(3), set([2]))]);
}

#[test]
fn parents_that_are_busy_are_let_go_for_others() {
    let mut bench = Bench::new(CANDIDATES_MAX as u32);
    bench.download.want_all();
    let mut busy = Vec::new();
    bench.now += FIND_LATER;
    while let Some(step) = bench.download.poll(bench.now, &mut bench.chance) {
        if let Step::Take { parent, places, .. } = step {
            busy.push(parent);
            let after = Reaction::AskAgain { after_ms: 60_000 };
            bench.download.refused(&Source::Parent(parent), &places, after, bench.now);
        }
    }
    assert!(busy.len() > LET_GO);
    // Those that the first look for parents was for.
    let others: Vec<Holder> =
        (90..94).map(|number| holder(node(number), BlockSet::EMPTY, BlockSet::EMPTY)).collect();
    bench.download.named(&others, "");
    bench.after(1000);
    let steps = bench.steps();
    let let_go: Vec<&NodeId> =
        steps.iter().filter_map(|step| if let Step::Unwatch(id) = step { Some(id) } else { None }).collect();
    assert_eq!(let_go.len(), LET_GO);
    assert!(let_go.iter().all(|id| busy.contains(id)));
    assert!(steps.iter().any(|step| matches!(step, Step::Find { wanted: 4, .. })));
}

/// What any node may say and do, in any order.
#[derive(Clone, Debug)]
enum Happening {
    Named(u32, BlockSet, BlockSet),
    Have(u32, BlockSet, BlockSet),
    Arrived(u32, u32, bool),
    Ended(u32, BlockSet),
    Refused(u32, BlockSet, Reaction),
    Gone(u32),
    OwnerGone(bool),
    Want(BlockSet),
    WantAll,
    Lost(BlockSet),
    Time(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let set = || prop::collection::vec(0..1024u32, 0..20).prop_map(set);
    let who = || 0..40u32;
    let reaction = prop_oneof![
        (0..5000u32).prop_map(|after_ms| Reaction::AskAgain { after_ms }),
        Just(Reaction::AskOther),
        Just(Reaction::LeaveNode),
        Just(Reaction::GoToOrigin),
    ];
    prop_oneof![
        (who(), set(), set()).prop_map(|(who, held, coming)| Happening::Named(who, held, coming)),
        (who(), set(), set()).prop_map(|(who, held, lost)| Happening::Have(who, held, lost)),
        (who(), 0..1100u32, any::<bool>())
            .prop_map(|(who, place, right)| Happening::Arrived(who, place, right)),
        (who(), set()).prop_map(|(who, places)| Happening::Ended(who, places)),
        (who(), set(), reaction)
            .prop_map(|(who, places, reaction)| Happening::Refused(who, places, reaction)),
        who().prop_map(Happening::Gone),
        any::<bool>().prop_map(Happening::OwnerGone),
        set().prop_map(Happening::Want),
        Just(Happening::WantAll),
        set().prop_map(Happening::Lost),
        (0..3000u64).prop_map(Happening::Time),
    ]
}

proptest! {
    /// Whatever others say, the books are right, and nothing is asked for that the span does not have or that is held.
    #[test]
    fn no_story_breaks_the_books(happenings in prop::collection::vec(happening(), 1..60), blocks in 1..200u32) {
        let mut bench = Bench::new(0);
        bench.download = Download::new(blocks, &BlockSet::EMPTY);
        bench.download.attested(&BlockSet::full());
        // 39 stands for the owner.
        let source = |who| if who == 39 { Source::Owner } else { from(who) };
        for happening in happenings {
            let now = bench.now;
            let download = &mut bench.download;
            match happening {
                Happening::Named(who, held, coming) => download.named(&[holder(node(who), held, coming)], ""),
                Happening::Have(who, held, lost) => {
                    download.have(&parent(who), &Have { held, lost, load: Load { busy: who as u8 } });
                }
                Happening::Arrived(who, place, right) => _ = download.arrived(&source(who), place, right, now),
                Happening::Ended(who, places) => download.ended(&source(who), &places),
                Happening::Refused(who, places, reaction) => download.refused(&source(who), &places, reaction, now),
                Happening::Gone(who) => download.gone(&parent(who)),
                Happening::OwnerGone(new) => download.owner_gone(new, now),
                Happening::Want(places) => download.want(&places),
                Happening::WantAll => download.want_all(),
                Happening::Lost(places) => download.lost(&places),
                Happening::Time(ms) => bench.after(ms),
            }
            let wanted = bench.download.urgent.or(&bench.download.bulk).minus(&bench.download.held);
            for step in bench.steps() {
                if let Step::Take { places, .. } | Step::Want { places, .. } | Step::GoToOrigin(places) = step {
                    prop_assert!(places.minus(&wanted).is_empty());
                }
            }
            let download = &bench.download;
            prop_assert!(download.held.minus(&download.blocks).is_empty());
            prop_assert!(download.parents.len() <= CANDIDATES_MAX && download.keys.len() == download.parents.len());
            for place in 0..blocks {
                let holders = download.parents.iter().filter(|parent| parent.held.contains(place)).count();
                prop_assert_eq!(usize::from(download.rarity[place as usize]), holders);
            }
            let mut asked = BlockSet::EMPTY;
            let links = download.parents.iter().map(|parent| &parent.link).chain([&download.owner]);
            links.for_each(|link| asked.add(&link.left()));
            // What has come from elsewhere may stand in a request until that ends; nothing is asked for by nobody.
            prop_assert!(download.asked.minus(&asked).is_empty());
        }
    }
}
