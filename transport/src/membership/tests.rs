//! Many seeds in one test, in virtual time: packets that are lost, seeds that die, come back, go, and cannot see each
//! other. Everything that happens follows from a number, which a failure prints; `DARTER_SIMULATION_SEED=7` plays that one only.

use std::collections::BTreeSet;
use std::ops::Range;

use super::*;
use crate::tracker::tests::node;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);
/// A seed that is dead is down for all others after so long: until it is asked, is suspected, and has had its term.
const DOWN_WITHIN: Duration = Duration::from_secs(12);

struct World {
    story: u64,
    now: Instant,
    began_at: Instant,
    chance: Chance,
    seeds: BTreeMap<u32, Machine>,
    wire: BTreeMap<(Instant, u64), (u32, NodeId, Bytes)>,
    packets: u64,
    loss_percent: usize,
    /// Seeds below see seeds below only, and those above those above.
    split_at: Option<u32>,
    /// Everything that came out, mixed into a number.
    trace: u64,
}

struct Machine {
    core: Membership,
    up: BTreeMap<NodeId, wire::Seed>,
    /// It stands still: neither packets nor time reach it before.
    asleep_until: Option<Instant>,
    news: Vec<(Instant, Output)>,
}

impl World {
    fn new(story: u64) -> Self {
        let now = Instant::now();
        let (seeds, wire) = (BTreeMap::new(), BTreeMap::new());
        let chance = Chance::seeded(story);
        let (packets, loss_percent, split_at, trace) = (0, 0, None, 0);
        Self { story, now, began_at: now, chance, seeds, wire, packets, loss_percent, split_at, trace }
    }

    fn start(&mut self, number: u32, life: u64) {
        let chance = Chance::seeded(self.chance.number());
        let core = Membership::new(node(number), 100, life, chance, self.now);
        let (up, news) = (BTreeMap::new(), Vec::new());
        self.seeds.insert(number, Machine { core, up, asleep_until: None, news });
    }

    /// Milliseconds on a clock that is right.
    fn clock(&self) -> u64 {
        1_000_000 + (self.now - self.began_at).as_millis() as u64
    }

    /// Starts and announces itself at another one, again until somebody answers, as the shell does.
    fn join(&mut self, number: u32, at: u32) {
        self.start(number, self.clock());
        self.meet(number, at);
    }

    fn meet(&mut self, number: u32, at: u32) {
        let now = self.now;
        self.machine(number).core.meet(node(at), now);
        self.drain(number);
    }

    fn machine(&mut self, number: u32) -> &mut Machine {
        self.seeds.get_mut(&number).unwrap()
    }

    fn drain(&mut self, number: u32) {
        let now = self.now;
        let mut sends = Vec::new();
        let machine = self.seeds.get_mut(&number).unwrap();
        while let Some(output) = machine.core.poll() {
            match &output {
                Output::Send { .. } => {
                    sends.push(output);
                    continue;
                }
                Output::Up(seed) => _ = machine.up.insert(seed.node.id, seed.clone()),
                Output::Down(id) | Output::Left(id) => {
                    assert!(machine.up.remove(id).is_some(), "{id} was not up: story {}", self.story);
                }
            }
            machine.news.push((now, output));
        }
        let [entries, timers, news] = machine.core.sizes();
        assert!(entries <= MEMBERS_MAX && timers <= MEMBERS_MAX + 5 && news <= NEWS_MAX + MEMBERS_MAX);
        assert!(machine.up.len() <= SEEDS_MAX);
        for send in sends {
            let Output::Send { to, packet, .. } = send else { continue };
            assert!(packet.len() <= GOSSIP_BYTES_MAX);
            self.trace =
                self.trace.rotate_left(7) ^ u64::from(packet[packet.len() - 1]) ^ packet.len() as u64;
            self.packets += 1;
            if self.chance.below(100) >= self.loss_percent {
                let delay = Duration::from_millis(1 + self.chance.below(20) as u64);
                self.wire.insert((self.now + delay, self.packets), (number, to.id, packet));
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let wakes = self.seeds.iter().filter_map(|(number, machine)| {
                let at = machine.core.next_at()?;
                Some((machine.asleep_until.map_or(at, |until| until.max(at)), *number))
            });
            let wake = wakes.min();
            let packet = self.wire.first_key_value().map(|((at, _), _)| *at);
            let next = wake.map(|(at, _)| at).into_iter().chain(packet).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = next.max(self.now);
            if packet == Some(next) {
                let (_, (from, to, packet)) = self.wire.pop_first().unwrap();
                self.deliver(from, &to, packet);
            } else if let Some((_, number)) = wake {
                let now = self.now;
                self.machine(number).core.tick(now);
                self.drain(number);
            }
        }
        self.now = end;
    }

    fn deliver(&mut self, from: u32, to: &NodeId, packet: Bytes) {
        let to = u32::from_le_bytes(to.as_bytes()[..4].try_into().unwrap());
        let apart = |split: u32| (from < split) != (to < split);
        let now = self.now;
        let Some(machine) = self.seeds.get_mut(&to).filter(|_| !self.split_at.is_some_and(apart)) else {
            return;
        };
        if let Some(until) = machine.asleep_until.filter(|until| *until > now) {
            self.packets += 1;
            self.wire.insert((until, self.packets), (from, node(to).id, packet));
            return;
        }
        let taken = machine.core.received(&node(from).id, packet, now);
        assert!(matches!(taken, Ok(()) | Err(Rejected::Full)), "{taken:?}: story {}", self.story);
        self.drain(to);
    }

    /// Whether each seed of the range sees exactly the others of it.
    fn agree(&self, range: &Range<u32>) -> bool {
        let live: BTreeSet<NodeId> =
            range.clone().filter(|n| self.seeds.contains_key(n)).map(|n| node(n).id).collect();
        let of_range = self.seeds.iter().filter(|(number, _)| range.contains(number));
        of_range.into_iter().all(|(_, machine)| machine.up.keys().copied().collect::<BTreeSet<_>>() == live)
    }

    fn run_until_agreed(&mut self, range: Range<u32>, within: Duration) {
        let end = self.now + within;
        while !self.agree(&range) {
            assert!(self.now < end, "no agreement within {within:?}: story {}", self.story);
            self.run(SECOND / 4);
        }
    }

    /// A cluster that has come together, with news forgotten.
    fn cluster(story: u64, seeds: u32) -> Self {
        let mut world = Self::new(story);
        world.join(0, 0);
        let now = world.now;
        world.machine(0).core.alone(now);
        world.drain(0);
        for number in 1..seeds {
            world.join(number, 0);
            world.run(SECOND / 50);
        }
        world.run_until_agreed(0..seeds, 15 * SECOND);
        // All own by then, and know it of each other.
        world.run(30 * SECOND);
        world.seeds.values_mut().for_each(|machine| machine.news.clear());
        world
    }

    fn nobody_is_said_to_be_down(&self) {
        for (number, machine) in &self.seeds {
            let down = machine.news.iter().find(|(_, output)| matches!(output, Output::Down(_)));
            assert_eq!(down, None, "seed {number} says so: story {}", self.story);
        }
    }
}

/// Plays a story for each number, or for the one that is asked for.
fn stories(count: u64, play: impl Fn(u64)) {
    match std::env::var("DARTER_SIMULATION_SEED").ok().and_then(|number| number.parse().ok()) {
        Some(story) => play(story),
        None => (0..count).for_each(play),
    }
}

/// A story has a cluster of some size; most are small, as clusters are.
fn size(story: u64) -> u32 {
    [3, 4, 5, 7, 12, 20, 33, 64][story as usize % 8]
}

#[test]
fn all_find_each_other_though_packets_are_lost() {
    stories(16, |story| {
        let mut world = World::new(story);
        world.loss_percent = 10;
        let seeds = size(story);
        (0..seeds).for_each(|number| world.start(number, 1_000_000));
        // Whoever has not been answered asks again.
        while (0..seeds).any(|number| world.machine(number).up.is_empty()) {
            assert!(world.now - world.began_at < 10 * SECOND, "story {story}");
            (1..seeds).for_each(|number| world.meet(number, 0));
            world.run(SECOND / 2);
        }
        world.run_until_agreed(0..seeds, 30 * SECOND);
    });
}

#[test]
fn a_full_cluster_finds_each_other_and_takes_no_more() {
    let most = SEEDS_MAX as u32;
    let mut world = World::cluster(1, most);
    world.join(most, 0);
    world.run(10 * SECOND);
    assert!(world.agree(&(0..most)));
    assert!(world.seeds[&most].up.len() <= 1, "nobody has told it of others");
    world.nobody_is_said_to_be_down();
}

#[test]
fn a_quiet_cluster_stays_as_it_is() {
    stories(4, |story| {
        let seeds = size(story + 2);
        let mut world = World::cluster(story, seeds);
        world.run(300 * SECOND);
        assert!(world.agree(&(0..seeds)));
        assert!(world.seeds.values().all(|machine| machine.news.is_empty()), "story {story}");
    });
}

#[test]
fn one_that_dies_is_down_for_all_within_a_bounded_time_and_nobody_else_is() {
    stories(24, |story| {
        let seeds = size(story);
        let mut world = World::cluster(story, seeds);
        let dead = world.chance.below(seeds as usize) as u32;
        world.seeds.remove(&dead);
        world.run_until_agreed(0..seeds, DOWN_WITHIN);
        for machine in world.seeds.values() {
            let news: Vec<_> = machine.news.iter().map(|(_, output)| output.clone()).collect();
            assert_eq!(news, [Output::Down(node(dead).id)], "story {story}");
        }
    });
}

#[test]
fn one_that_starts_again_is_taken_back_whatever_its_clock_says() {
    stories(24, |story| {
        let seeds = size(story);
        let mut world = World::cluster(story, seeds);
        let again = 1 + world.chance.below(seeds as usize - 1) as u32;
        let before = world.machine(again).core.own().life;
        world.seeds.remove(&again);
        // Before anybody has noticed, or when it has long been down.
        let away = SECOND * [1, 20][story as usize % 2];
        world.run(away);
        let behind_ms = [0, 3_600_000_000][story as usize / 2 % 2];
        world.start(again, world.clock().saturating_sub(behind_ms));
        world.meet(again, 0);
        world.run_until_agreed(0..seeds, 20 * SECOND);
        let own = world.machine(again).core.own().clone();
        assert!(own.life > before, "story {story}");
        // It owns after ten, in a new life.
        world.run(15 * SECOND);
        assert!(world.agree(&(0..seeds)), "story {story}");
        for (number, machine) in world.seeds.iter().filter(|(number, _)| **number != again) {
            let known = machine.core.others().find(|other| other.id() == own.id());
            assert_eq!(known.map(|known| known.life), Some(world.seeds[&again].core.own().life), "{number}");
        }
    });
}

#[test]
fn one_that_goes_has_left_at_once() {
    stories(16, |story| {
        let seeds = size(story);
        let mut world = World::cluster(story, seeds);
        let going = world.chance.below(seeds as usize) as u32;
        let now = world.now;
        world.machine(going).core.leave(now);
        world.drain(going);
        assert_eq!(world.machine(going).core.next_at(), None);
        world.seeds.remove(&going);
        world.run(SECOND / 40);
        for machine in world.seeds.values() {
            let news: Vec<_> = machine.news.iter().map(|(_, output)| output.clone()).collect();
            assert_eq!(news, [Output::Left(node(going).id)], "story {story}");
        }
        world.run(30 * SECOND);
        world.nobody_is_said_to_be_down();
        assert!(world.agree(&(0..seeds)), "nobody brings it back: story {story}");
    });
}

#[test]
fn a_partition_is_seen_on_both_sides_and_heals() {
    stories(16, |story| {
        let seeds = size(story);
        let mut world = World::cluster(story, seeds);
        let split = 1 + world.chance.below(seeds as usize - 1) as u32;
        world.split_at = Some(split);
        // Many die at once: news of so many take longer to get about.
        world.run(40 * SECOND);
        assert!(world.agree(&(0..split)) && world.agree(&(split..seeds)), "story {story}");
        world.split_at = None;
        world.run_until_agreed(0..seeds, 60 * SECOND);
        world.run(10 * SECOND);
        assert!(world.agree(&(0..seeds)), "it stays healed: story {story}");
    });
}

#[test]
fn a_seed_that_stood_still_does_not_take_the_others_for_dead() {
    stories(8, |story| {
        let seeds = size(story);
        let mut world = World::cluster(story, seeds);
        world.machine(1).asleep_until = Some(world.now + 20 * SECOND);
        world.run(40 * SECOND);
        let own = world.seeds[&1].news.iter().find(|(_, output)| matches!(output, Output::Down(_)));
        assert_eq!(own, None, "story {story}");
        world.run_until_agreed(0..seeds, 30 * SECOND);
    });
}

#[test]
fn in_a_new_cluster_all_own_at_once_and_who_joins_owns_after_a_while() {
    let mut world = World::new(3);
    (0..3).for_each(|number| world.start(number, 1_000_000));
    (1..3).for_each(|number| world.meet(number, 0));
    let owns = |world: &World, of: u32| {
        let of = node(of).id;
        world.seeds.values().map(|machine| machine.up[&of].owns).collect::<Vec<_>>()
    };
    world.run(2 * SECOND);
    assert!((0..3).all(|number| owns(&world, number) == [true; 3]));
    world.join(3, 1);
    world.join(4, 1);
    world.run(JOINS_AFTER / 2);
    assert_eq!([owns(&world, 3), owns(&world, 4)], [[false; 5]; 2]);
    world.run(JOINS_AFTER);
    assert_eq!([owns(&world, 3), owns(&world, 4)], [[true; 5]; 2]);
    world.nobody_is_said_to_be_down();
}

#[test]
fn one_number_tells_one_story() {
    let trace = |story| {
        let mut world = World::cluster(story, 9);
        world.seeds.remove(&4);
        world.run(20 * SECOND);
        (world.trace, world.packets)
    };
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5), trace(6));
}

#[test]
fn a_packet_counts_only_from_who_sent_it_and_for_whom_it_is() {
    let mut world = World::cluster(1, 3);
    let now = world.now;
    let entry = |world: &World, number: u32| world.seeds[&number].core.own().clone();
    let packet = |src: Entry, dst: Entry| {
        let header = Header { src, src_incarnation: 0, dst, message: Message::Gossip };
        Packet { header, updates: Vec::new() }.encode().unwrap()
    };
    let (one, two, own) = (entry(&world, 1), entry(&world, 2), entry(&world, 0));
    let mut receive = |from: u32, packet| world.machine(0).core.received(&node(from).id, packet, now);
    assert_eq!(receive(2, packet(one.clone(), own.clone())), Err(Rejected::Sender(node(1).id)));
    assert_eq!(receive(0, packet(own.clone(), own.clone())), Err(Rejected::Sender(node(0).id)));
    assert_eq!(receive(1, packet(one.clone(), two)), Err(Rejected::Receiver(node(2).id)));
    assert!(matches!(receive(1, Bytes::from_static(b"\0")), Err(Rejected::Malformed(_))));
    assert_eq!(receive(1, packet(one, own)), Ok(()));
}

/// What a seed says that lies.
#[derive(Clone, Debug)]
enum Lie {
    /// Of a seed, known or not, in a life, that it is in a state.
    Of(u32, u64, u16, u8),
    /// One of the messages of SWIM, about another seed.
    Message(u8, u32),
    /// Some time in milliseconds is over.
    Time(u16),
}

fn lie() -> impl Strategy<Value = Lie> {
    let life = prop_oneof![Just(0), Just(u64::MAX), 999_990..1_100_000u64];
    let number = prop_oneof![0..5u32, 5..2000u32];
    prop_oneof![
        4 => (number.clone(), life, any::<u16>(), 0..3u8).prop_map(|(n, life, inc, state)| Lie::Of(n, life, inc, state)),
        2 => (0..10u8, number).prop_map(|(kind, of)| Lie::Message(kind, of)),
        1 => (0..5000u16).prop_map(Lie::Time),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// One seed of three lies to another as fast as it can. Nothing breaks and nothing grows ([`World::drain`] looks), and
    /// when it has gone, the two others find each other again.
    #[test]
    fn lies_do_no_lasting_harm(lies in prop::collection::vec(lie(), 1..400)) {
        let mut world = World::cluster(2, 3);
        let liar = world.seeds.remove(&2).unwrap().core.own().clone();
        let entry = |number: u32, life| {
            let seed = wire::Seed { node: node(number), capacity_slots: 1, owns: life % 2 == 0 };
            Entry { seed, life, leaving: life % 7 == 0 }
        };
        let mut liar_life = liar.life;
        for (turn, lie) in lies.into_iter().enumerate() {
            let now = world.now;
            let own = world.machine(0).core.own().clone();
            let (message, updates) = match lie {
                Lie::Time(ms) => {
                    world.run(Duration::from_millis(ms.into()));
                    continue;
                }
                Lie::Of(number, life, incarnation, state) => {
                    let state = [State::Alive, State::Suspect, State::Down][usize::from(state)];
                    let id = if number == 0 && turn % 2 == 0 { own.clone() } else { entry(number, life) };
                    (Message::Gossip, vec![Member::new(id, incarnation, state)])
                }
                Lie::Message(kind, of) => {
                    let other = if of == 0 { own.clone() } else { entry(of, 1_000_000) };
                    let message = match kind {
                        0 => Message::Ping(1),
                        1 => Message::Ack(1),
                        2 => Message::PingReq { target: other, probe_number: 1 },
                        3 => Message::IndirectPing { origin: other, probe_number: 1 },
                        4 => Message::IndirectAck { target: other, probe_number: 1 },
                        5 => Message::ForwardedAck { origin: other, probe_number: 1 },
                        6 => Message::Announce,
                        7 => Message::Feed,
                        8 => Message::TurnUndead,
                        _ => { liar_life += 1; Message::Gossip }
                    };
                    (message, Vec::new())
                }
            };
            let src = Entry { life: liar_life, ..liar.clone() };
            let header = Header { src, src_incarnation: turn as u16, dst: own, message };
            let packet = Packet { header, updates }.encode().unwrap();
            let _ = world.machine(0).core.received(&node(2).id, packet, now);
            world.drain(0);
        }
        world.run(60 * SECOND);
        // The shell goes on looking at the addresses that no member has.
        world.meet(0, 1);
        world.meet(1, 0);
        world.run(60 * SECOND);
        let lasts = |own: &Entry| own.life < u64::MAX;
        if lasts(world.seeds[&0].core.own()) && lasts(world.seeds[&1].core.own()) {
            prop_assert!(world.seeds[&0].up.contains_key(&node(1).id));
            prop_assert!(world.seeds[&1].up.contains_key(&node(0).id));
        }
    }
}
