//! All nodes of a cluster pull the same content at once: how many rounds does it take?
//!
//! In one round every node can send one block and receive one. Then `B + log2 N` rounds are about what any plan needs
//! for B blocks and N nodes: the owner needs B to send each block once, and the last one must still double its way
//! through. The nodes here run the real [`Download`], the owner the real [`Tracker`], and what they say to each other
//! goes through the codec; the network and the clock are played, from a seed.
//!
//! A failure names its seed; `DARTER_SIMULATION_SEED=… cargo test -p darter-transport --test simulation` plays it again.

use std::time::{Duration, Instant};

use bytes::Bytes;
use darter_engine::{ContentId, Scope};
use darter_transport::block_set::BlockSet;
use darter_transport::chance::Chance;
use darter_transport::download::{Arrival, Download, Source, Step};
use darter_transport::node::{Node, NodeId};
use darter_transport::schedule::{Asker, LazyAsk, Own};
use darter_transport::span::{Plot, SpanIndex};
use darter_transport::tracker::Tracker;
use darter_transport::wire::{
    Blocks, CANDIDATES_MAX, Change, Code, Complain, Decoded, FindParents, FrameHead, HEAD_BYTES, Have,
    Holders, Holds, List, Load, Message, Opaque, Refused, Take, Text, Want,
};

/// What one block takes on a link of 50 Mbit/s.
const ROUND: Duration = Duration::from_millis(10);
/// A dead node is known to be dead after so many rounds: a second.
const DEATH_IS_NOTICED_AFTER: u64 = 100;
/// Those who watch a node are told of its new blocks together, this often.
const TELL_EVERY: u64 = 2;
/// New blocks are registered with the owner together, this often.
const REGISTER_EVERY: u64 = 4;

/// A cluster and what happens in it.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    nodes: usize,
    blocks: u32,
    /// So many of a hundred nodes die on the way, and as many new ones come.
    churn_percent: usize,
}

struct Peer {
    node: Node,
    download: Download,
    watchers: Vec<usize>,
    /// Held since the last [`Have`].
    news: BlockSet,
    unregistered: BlockSet,
    sends_to: Option<usize>,
    receives: Option<Transfer>,
    alive: bool,
    joined: u64,
    /// How many rounds it took.
    took: Option<u64>,
}

struct Transfer {
    from: Source,
    asked: BlockSet,
    left: BlockSet,
}

struct World {
    scenario: Scenario,
    start: Instant,
    round: u64,
    chance: Chance,
    plot: Plot,
    tracker: Tracker,
    owner_sends: bool,
    peers: Vec<Peer>,
    /// Round and number of those whose death is not yet noticed.
    dying: Vec<(u64, usize)>,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Outcome {
    /// Of the node that took longest, from its coming on.
    rounds: u64,
    watchers_max: usize,
}

/// Over the wire and back.
fn sent<T>(message: impl Into<Message>, pick: impl Fn(Message) -> Option<T>) -> T {
    let frame: Bytes = message.into().encode();
    let head = FrameHead::decode(frame[..HEAD_BYTES].try_into().unwrap()).unwrap();
    match Message::decode(head, frame.slice(HEAD_BYTES..)) {
        Ok(Decoded::Message(message)) => pick(message).expect("the message that was sent"),
        other => panic!("a message did not survive: {other:?}"),
    }
}

macro_rules! send {
    ($kind:ident $fields:tt) => {
        sent($kind $fields, |message| match message {
            Message::$kind(message) => Some(message),
            _ => None,
        })
    };
}

fn busy(after: Duration) -> Refused {
    let retry_ms = after.as_millis() as u32;
    let (code, detail) = (Code::Busy.number(), Text::cut("sends to another one"));
    send!(Refused { code, retry_ms, instead: None, detail: detail.clone(), verdict: Opaque::default() })
}

impl World {
    fn new(scenario: Scenario, seed: u64) -> Self {
        let content = ContentId::of_name("a blob");
        let mut world = Self {
            scenario,
            start: Instant::now(),
            round: 0,
            chance: Chance::seeded(seed),
            plot: Plot { content, scope: Scope::Verified, span: SpanIndex::FIRST },
            tracker: Tracker::new(),
            owner_sends: false,
            peers: Vec::new(),
            dying: Vec::new(),
        };
        (0..scenario.nodes).for_each(|_| world.join());
        world
    }

    fn now(&self) -> Instant {
        self.start + ROUND * self.round as u32
    }

    fn join(&mut self) {
        let number = self.peers.len() as u32;
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        let address = (std::net::Ipv4Addr::from(0x0a00_0000 + number), 40_902).into();
        let node = Node { id: NodeId::from_bytes(id), address, zone: Text::cut("") };
        assert!(self.tracker.meet(node.clone()));
        let mut download = Download::new(self.scenario.blocks, &BlockSet::EMPTY);
        download.want_all();
        download.attested(&BlockSet::first(self.scenario.blocks));
        self.peers.push(Peer {
            node,
            download,
            watchers: Vec::new(),
            news: BlockSet::EMPTY,
            unregistered: BlockSet::EMPTY,
            sends_to: None,
            receives: None,
            alive: true,
            joined: self.round,
            took: None,
        });
    }

    fn number(id: &NodeId) -> usize {
        u32::from_le_bytes(id.as_bytes()[..4].try_into().unwrap()) as usize
    }

    fn run(mut self, seed: u64) -> Outcome {
        let bound = self.bound();
        while self.peers.iter().any(|peer| peer.alive && !peer.download.is_done()) {
            assert!((self.round as f64) < 6.0 * bound, "{:?} does not end: seed {seed}", self.scenario);
            self.churn();
            self.ask();
            self.round += 1;
            self.deliver();
            self.announce();
        }
        let all = BlockSet::first(self.scenario.blocks);
        assert!(self.peers.iter().all(|peer| !peer.alive || *peer.download.held() == all), "seed {seed}");
        let rounds = self.peers.iter().filter(|peer| peer.alive).filter_map(|peer| peer.took).max();
        let watchers_max = self.peers.iter().map(|peer| peer.watchers.len()).max().unwrap_or(0);
        Outcome { rounds: rounds.expect("somebody lives"), watchers_max }
    }

    fn bound(&self) -> f64 {
        f64::from(self.scenario.blocks) + (self.scenario.nodes as f64).log2()
    }

    /// In each round of the first `blocks` as many die as make up the wanted part in all.
    fn churn(&mut self) {
        let dies = self.scenario.nodes * self.scenario.churn_percent;
        let part = u64::from(self.scenario.blocks) * 100;
        if self.round < u64::from(self.scenario.blocks) {
            let so_far = |round: u64| dies as u64 * round / part;
            for _ in so_far(self.round)..so_far(self.round + 1) {
                let dead = self.chance.below(self.scenario.nodes);
                if std::mem::replace(&mut self.peers[dead].alive, false) {
                    self.peers[dead].receives = None;
                    self.dying.push((self.round, dead));
                    self.join();
                }
            }
        }
        let noticed = self.round.saturating_sub(DEATH_IS_NOTICED_AFTER);
        for (_, dead) in self.dying.extract_if(.., |(died, _)| *died < noticed) {
            self.tracker.part(&self.peers[dead].node.id);
        }
    }

    /// Everyone asks, in an order of chance, until it receives something in this round or has nothing to ask.
    fn ask(&mut self) {
        self.owner_sends = false;
        let mut order: Vec<usize> = (0..self.peers.len()).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, self.chance.below(at + 1));
        }
        for number in order {
            let now = self.now();
            while self.peers[number].alive && self.peers[number].receives.is_none() {
                match self.peers[number].download.poll(now, &mut self.chance) {
                    Some(step) => self.take_step(number, step, now),
                    None => break,
                }
            }
        }
    }

    fn take_step(&mut self, number: usize, step: Step, now: Instant) {
        let plot = self.plot;
        let id = self.peers[number].node.id;
        match step {
            Step::Find { known, wanted } => {
                let known = List::new(known).expect("no more than may be known");
                let find = send!(FindParents { plot, known, wanted });
                let asker = Asker { id, zone: "" };
                let wanted = usize::from(find.wanted);
                let parents =
                    self.tracker.parents(asker, &find.plot, &find.known, wanted, now, &mut self.chance);
                let holders = List::new(parents).expect("no more than may be named");
                let answer = send!(Holders { holders });
                self.peers[number].download.named(&answer.holders, "");
                for holder in answer.holders.iter() {
                    let parent = Self::number(&holder.node.id);
                    // A watcher is told everything that its parent holds, if that lives.
                    if self.peers[parent].alive {
                        self.peers[parent].watchers.push(number);
                        let (held, lost) = (*self.peers[parent].download.held(), BlockSet::EMPTY);
                        let have = send!(Have { held, lost, load: Load::default() });
                        self.peers[number].download.have(&holder.node.id, &have);
                    }
                }
            }
            Step::Want { places, any, stand_in, failed } => {
                let failed = List::first_of(failed);
                let errand = Opaque::default();
                let want = send!(Want { plot, places, any, forwarded: false, stand_in, failed, errand });
                assert!(want.any && !want.stand_in, "the owner lives, and nobody waits for a certain block");
                if std::mem::replace(&mut self.owner_sends, true) {
                    let after = self.tracker.come_again(&want.plot, ROUND, &mut self.chance);
                    self.peers[number].download.refused(&Source::Owner, &places, busy(after).reaction(), now);
                    return;
                }
                let (plot, places, own) = (&want.plot, &want.places, &Own::ALL);
                let ask = LazyAsk { asker: Asker { id, zone: "" }, plot, places, failed: &want.failed, own };
                let given = self.tracker.rarest(&ask, places, 1, now, &mut self.chance);
                let first = given.places().next().expect("something of what was asked for") as u16;
                let blocks = send!(Blocks { first, count: 1 });
                let left: BlockSet = blocks.places().expect("inside the span").collect();
                self.peers[number].download.announced(&left);
                self.peers[number].receives = Some(Transfer { from: Source::Owner, asked: left, left });
            }
            Step::Take { parent, places, wait } => {
                let take = send!(Take { plot, places, wait_ms: if wait { 500 } else { 0 } });
                let at = Self::number(&parent);
                let source = Source::Parent(parent);
                if !self.peers[at].alive {
                    // No answer: the request stays until patience is at its end.
                } else if self.peers[at].sends_to.is_some() {
                    self.peers[number].download.refused(&source, &take.places, busy(ROUND).reaction(), now);
                } else {
                    let left = take.places.and(self.peers[at].download.held());
                    assert_eq!(left, take.places, "nobody loses a block here");
                    self.peers[at].sends_to = Some(number);
                    self.peers[number].receives = Some(Transfer { from: source, asked: left, left });
                }
            }
            Step::Complain { parent, place, fault } => {
                let complaint = send!(Complain { parent, plot, place: place as u16, fault });
                self.tracker.complain(&id, &complaint, now);
            }
            Step::Unwatch(parent) => {
                self.peers[Self::number(&parent)].watchers.retain(|watcher| *watcher != number);
            }
            Step::Drop(_) => {}
            Step::GoToOrigin(places) => panic!("{id} goes to the origin for {places:?}: the owner lives"),
        }
    }

    /// One block of each transfer comes.
    fn deliver(&mut self) {
        let now = self.now();
        for number in 0..self.peers.len() {
            let Some(mut transfer) = self.peers[number].receives.take() else { continue };
            let parent = match transfer.from {
                Source::Owner => None,
                Source::Parent(id) => Some(Self::number(&id)),
            };
            if parent.is_some_and(|parent| !self.peers[parent].alive) {
                continue;
            }
            let place = transfer.left.places().next().expect("a transfer has something left");
            transfer.left.remove(place);
            let peer = &mut self.peers[number];
            if peer.download.arrived(&transfer.from, place, true, now) == Arrival::Keep {
                peer.news.insert(place);
                peer.unregistered.insert(place);
            }
            if peer.download.is_done() {
                peer.took = Some(self.round - peer.joined);
            }
            if transfer.left.is_empty() {
                peer.download.ended(&transfer.from, &transfer.asked);
            } else {
                peer.receives = Some(transfer);
            }
        }
        self.peers.iter_mut().for_each(|peer| peer.sends_to = None);
        for number in 0..self.peers.len() {
            if let Some(Transfer { from: Source::Parent(id), .. }) = &self.peers[number].receives {
                let parent = Self::number(id);
                self.peers[parent].sends_to = Some(number);
            }
        }
    }

    /// Nodes tell those who watch them what they have got, and now and then the owner.
    fn announce(&mut self) {
        let (plot, now) = (self.plot, self.now());
        for number in 0..self.peers.len() {
            let peer = &mut self.peers[number];
            if !peer.alive {
                continue;
            }
            let id = peer.node.id;
            let is_time = |every: u64| self.round % every == number as u64 % every;
            if is_time(REGISTER_EVERY) && !peer.unregistered.is_empty() {
                let held = std::mem::take(&mut peer.unregistered);
                let changes = List::first_of([Change { plot, held, lost: BlockSet::EMPTY }]);
                let holds = send!(Holds { changes, load: Load::default() });
                self.tracker.record(&id, &holds, now);
            }
            if !is_time(TELL_EVERY) || peer.news.is_empty() {
                continue;
            }
            let held = std::mem::take(&mut peer.news);
            let have = send!(Have { held, lost: BlockSet::EMPTY, load: Load::default() });
            // Whoever has died meanwhile does not listen, and nobody looks.
            let watchers = std::mem::take(&mut self.peers[number].watchers);
            watchers.iter().for_each(|watcher| self.peers[*watcher].download.have(&id, &have));
            self.peers[number].watchers = watchers;
        }
    }
}

/// The seed that was asked for, or this one.
fn seed_or(seed: u64) -> u64 {
    match std::env::var("DARTER_SIMULATION_SEED") {
        Ok(text) => text.parse().expect("DARTER_SIMULATION_SEED is a number"),
        Err(_) => seed,
    }
}

/// Plays a scenario; the outcome in parts of the bound.
fn play(scenario: Scenario, seed: u64) -> f64 {
    let seed = seed_or(seed);
    let world = World::new(scenario, seed);
    let bound = world.bound();
    let Outcome { rounds, watchers_max } = world.run(seed);
    let ratio = rounds as f64 / bound;
    println!(
        "{scenario:?}: {rounds} rounds, {ratio:.3} of the bound {bound:.1}, at most {watchers_max} watchers, seed {seed}"
    );
    ratio
}

fn check(scenario: Scenario, seed: u64, ratio_max: f64) {
    let ratio = play(scenario, seed);
    assert!(ratio <= ratio_max, "{scenario:?} took {ratio:.3} of the bound: seed {}", seed_or(seed));
}

#[test]
fn ten_thousand_nodes_pull_256_blocks() {
    check(Scenario { nodes: 10_000, blocks: 256, churn_percent: 0 }, 1, 1.25);
}

#[test]
fn a_thousand_nodes_pull_512_blocks() {
    check(Scenario { nodes: 1000, blocks: 512, churn_percent: 0 }, 2, 1.25);
}

#[test]
fn with_a_tenth_of_the_nodes_dying_the_others_finish() {
    check(Scenario { nodes: 1000, blocks: 256, churn_percent: 10 }, 3, 1.5);
}

#[test]
fn small_clusters_finish_too() {
    for (seed, nodes) in (4..).zip([1, 2, 3, 12, 50]) {
        check(Scenario { nodes, blocks: 64, churn_percent: 0 }, seed, 2.0);
    }
}

#[test]
fn the_same_seed_is_the_same_story() {
    let scenario = Scenario { nodes: 60, blocks: 64, churn_percent: 10 };
    let outcome = |seed| World::new(scenario, seed).run(seed);
    assert_eq!(outcome(5), outcome(5));
    assert!((6..12).any(|seed| outcome(seed) != outcome(5)));
    assert!(outcome(5).watchers_max <= 60 * CANDIDATES_MAX);
}
