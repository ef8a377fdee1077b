//! Which seeds are up: SWIM among the seeds, by the crate foca.
//!
//! Each seed asks another one each second whether it is there, has three others ask where no answer came, and spreads
//! what it has learnt with whatever it says anyway (Das, Gupta and Motivala, "SWIM: Scalable Weakly-consistent
//! Infection-style Process Group Membership Protocol", DSN 2002). `docs/peer-protocol.md` tells the timings and the
//! bytes.
//!
//! [`Membership`] is pure: packets and time go in, and come out as packets to send and news. Chance is seeded, so
//! a simulation can be played again. What it adds to foca:
//!
//! * a packet counts only if its sender is the node that sent it;
//! * there are at most [`SEEDS_MAX`] seeds and [`MEMBERS_MAX`] entries, whatever somebody tells, and as many timers;
//! * a seed begins a new life by itself when it is taken for dead or has something new to say, at most ten times a
//!   second; one that was restarted while its clock was behind is told of its later life, and goes beyond;
//! * who announces itself is told all members, not some; a seed that goes tells all, and is no dead one;
//! * a node that was not running itself for a while does not take the others for dead.
//!
//! `links` is the shell that carries the packets, `joining` finds the first other node. Not here: who owns what, which is
//! for [`crate::ownership`] to say.

mod entry;
mod joining;
mod links;
mod packet;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::{Duration, Instant};

use bytes::Bytes;
use foca::{Foca, Header, Member, Message, Notification, PeriodicParams, State, Timer};

pub use self::entry::Entry;
pub use self::links::{listen, take_part};
use self::packet::{Codec, Packet, member_bytes};
use self::timers::Timers;
use crate::chance::Chance;
use crate::node::{Node, NodeId};
use crate::ownership::JOINS_AFTER;
use crate::wire::{self, GOSSIP_BYTES_MAX, Malformed, SEEDS_MAX};

/// How often a seed asks another one whether it is there.
pub const PROBE_PERIOD: Duration = Duration::from_secs(1);
/// How long the answer may take before others are asked to ask.
pub const PROBE_PATIENCE: Duration = Duration::from_millis(400);
/// How long a seed that did not answer may contradict before it counts as down.
pub const SUSPECT_FOR: Duration = Duration::from_secs(2);
/// How often news are spread, to three others, while there are some.
pub const GOSSIP_PERIOD: Duration = Duration::from_millis(200);
/// How often a seed asks another one for all members, so that nothing that was lost stays unknown.
pub const ANNOUNCE_PERIOD: Duration = Duration::from_secs(10);
/// How often it tries two of those that are down: a partition that heals is seen by this.
pub const REVIVE_PERIOD: Duration = Duration::from_secs(3);
/// How long a seed that is down is remembered and tried.
pub const FORGET_AFTER: Duration = Duration::from_secs(3600);
/// Entries, those of dead seeds among them.
pub const MEMBERS_MAX: usize = 2 * SEEDS_MAX;
/// A seed that has joined and has heard of none that owns, owns itself after so long.
pub const CLAIM_AFTER: Duration = Duration::from_millis(500);

/// How often each seed sends each piece of news. That one of [`SEEDS_MAX`] seeds hears of it from nobody is then as rare
/// as e⁻¹⁵, and is made good by [`ANNOUNCE_PERIOD`].
const TRANSMISSIONS: NonZeroU8 = NonZeroU8::new(15).unwrap();
/// Seeds that are asked, told, or that ask for this one, at a time.
const FAN_OUT: NonZeroUsize = NonZeroUsize::new(3).unwrap();
/// News that wait to be spread; of seeds that were unknown none is taken beyond.
const NEWS_MAX: usize = 2 * MEMBERS_MAX;
/// Two lives of one seed have so much between them.
const RENEW_PERIOD: Duration = Duration::from_millis(100);
/// One seed is told all members so often.
const ROSTER_PERIOD: Duration = Duration::from_secs(1);
/// How often entries are looked through for those that are to be forgotten.
const SWEEP_PERIOD: Duration = Duration::from_secs(30);
/// A timer that comes so much too late shows that this node stood still: then answers may still be on their way in.
const STOOD_STILL: Duration = Duration::from_millis(500);

/// What is to be done, or known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send a packet of at most [`GOSSIP_BYTES_MAX`] bytes to a seed. It may get lost.
    Send {
        /// To whom.
        to: Node,
        /// In which of its lives; 0 when that is not known. A connection to an earlier one leads nowhere.
        life: u64,
        /// What.
        packet: Bytes,
    },
    /// A seed is up, or says something new of itself. This one too, when it has joined.
    Up(wire::Seed),
    /// A seed does not answer.
    Down(NodeId),
    /// A seed has said that it goes.
    Left(NodeId),
}

impl Output {
    fn send(to: &Entry, packet: Bytes) -> Self {
        Self::Send { to: to.seed.node.clone(), life: to.life, packet }
    }
}

/// Why a packet was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Rejected {
    /// It is none.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It says that somebody else sent it.
    #[error("the packet says that {0} sent it")]
    Sender(NodeId),
    /// It is for somebody else.
    #[error("the packet is for {0}")]
    Receiver(NodeId),
    /// There are as many seeds as there may be.
    #[error("there are as many seeds as there may be: {SEEDS_MAX}")]
    Full,
}

/// One seed's part in the membership. After each call that changes it, [`poll`](Self::poll) until there is nothing more.
pub struct Membership {
    foca: Foca<Entry, Codec, Dice, foca::NoCustomBroadcast>,
    timers: Timers,
    outputs: VecDeque<Output>,
    /// Who has been said to be up.
    up: BTreeMap<NodeId, Entry>,
    down_since: BTreeMap<NodeId, Instant>,
    told_all_at: BTreeMap<NodeId, Instant>,
    began_at: Instant,
    first_life: u64,
    /// No life of this seed may be earlier.
    life_min: u64,
    renew_at: Option<Instant>,
    renewed_at: Instant,
    own_at: Option<Instant>,
    claim_at: Option<Instant>,
    sweep_at: Instant,
    joined: bool,
    left: bool,
}

impl Membership {
    /// Knows nobody. `life`: milliseconds since 1970, now.
    #[must_use]
    pub fn new(own: Node, capacity_slots: u32, life: u64, chance: Chance, now: Instant) -> Self {
        let seed = wire::Seed { node: own, capacity_slots, owns: false };
        let own = Entry { seed, life, leaving: false };
        Self {
            foca: Foca::new(own, config(), Dice(chance), Codec),
            timers: Timers::default(),
            outputs: VecDeque::new(),
            up: BTreeMap::new(),
            down_since: BTreeMap::new(),
            told_all_at: BTreeMap::new(),
            began_at: now,
            first_life: life,
            life_min: life,
            renew_at: None,
            renewed_at: now,
            own_at: None,
            claim_at: None,
            sweep_at: now + SWEEP_PERIOD,
            joined: false,
            left: false,
        }
    }

    /// This seed as it tells others of itself.
    #[must_use]
    pub fn own(&self) -> &Entry {
        self.foca.identity()
    }

    /// The other seeds that are up.
    pub fn others(&self) -> impl Iterator<Item = &Entry> {
        self.up.values()
    }

    /// There is a seed: this one introduces itself, if it does not know it.
    pub fn meet(&mut self, node: Node, now: Instant) {
        if self.left || node.id == *self.own().id() || self.up.contains_key(&node.id) {
            return;
        }
        // Who is asked looks at the name only.
        let seed = wire::Seed { node, capacity_slots: 0, owns: false };
        let asked = Entry { seed, life: 0, leaving: false };
        self.act(now, |foca, effects| foca.announce(asked, effects));
    }

    /// Nobody else can be found: this seed is a cluster of its own, and owns. No harm if others are found later.
    pub fn alone(&mut self, now: Instant) {
        if !self.left && self.up.is_empty() {
            self.owns(now);
            self.join(now);
        }
    }

    /// This seed takes its place in the order.
    fn owns(&mut self, now: Instant) {
        (self.own_at, self.claim_at) = (None, None);
        if !self.left && !self.own().seed.owns {
            let mut own = self.own().clone();
            own.seed.owns = true;
            self.become_entry(own, now);
        }
    }

    /// This seed goes: all others are told, and nothing is said or heard after that.
    pub fn leave(&mut self, now: Instant) {
        if self.left {
            return;
        }
        self.left = true;
        let life = self.next_life(now);
        let going = Entry { life, leaving: true, ..self.own().clone() };
        let updates = vec![Member::down(going.clone())];
        for other in self.up.values() {
            let (src, dst) = (going.clone(), other.clone());
            let header = Header { src, src_incarnation: 0, dst, message: Message::Gossip };
            if let Some(packet) = (Packet { header, updates: updates.clone() }).encode() {
                self.outputs.push_back(Output::send(other, packet));
            }
        }
    }

    /// A packet has come from a node with the certificate of a seed.
    ///
    /// # Errors
    /// It was not taken, and nothing has changed.
    pub fn received(&mut self, from: &NodeId, packet: Bytes, now: Instant) -> Result<(), Rejected> {
        let mut packet = Packet::decode(packet)?;
        let own = *self.own().id();
        if packet.header.src.id() != from || *from == own {
            return Err(Rejected::Sender(*packet.header.src.id()));
        }
        if *packet.header.dst.id() != own {
            return Err(Rejected::Receiver(*packet.header.dst.id()));
        }
        if self.left {
            return Ok(());
        }
        self.hear_of_oneself(&mut packet, now);
        if let Some(known) = self.member(from).filter(|known| known.id().life > packet.header.src.life) {
            // It cannot know of its later life; all that it says is refused until it does.
            let known = known.clone();
            self.tell(&packet.header.src, vec![known]);
            return Ok(());
        }
        self.make_room(&mut packet, now)?;
        let asker = (packet.header.message == Message::Announce).then(|| packet.header.src.clone());
        if let Some(bytes) = packet.encode() {
            self.act(now, |foca, effects| foca.handle_data(&bytes, effects));
        }
        if let Some(asker) = asker.filter(|asker| self.up.contains_key(asker.id())) {
            self.tell_all(&asker, now);
        }
        Ok(())
    }

    /// Takes up what time has brought.
    pub fn tick(&mut self, now: Instant) {
        if self.left {
            return;
        }
        let late = self.timers.next_at().map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        if late > STOOD_STILL {
            self.timers.delay(late);
        }
        // foca asks for what comes next in the future only.
        while let Some(timer) = self.timers.pop(now) {
            self.act(now, |foca, effects| foca.handle_timer(timer, effects));
        }
        if self.renew_at.is_some_and(|at| at <= now) {
            let own = self.own().clone();
            self.become_entry(own, now);
        }
        if self.claim_at.is_some_and(|at| at <= now) {
            self.claim_at = None;
            if !self.up.values().any(|other| other.seed.owns) {
                self.owns(now);
            }
        }
        if self.own_at.is_some_and(|at| at <= now) {
            self.owns(now);
        }
        if self.sweep_at <= now {
            self.sweep(now);
        }
    }

    /// When [`tick`](Self::tick) has something to do.
    #[must_use]
    pub fn next_at(&self) -> Option<Instant> {
        let own = [self.renew_at, self.claim_at, self.own_at, Some(self.sweep_at)];
        if self.left { None } else { own.into_iter().flatten().chain(self.timers.next_at()).min() }
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Entries, timers and news that are kept, for tests of their limits.
    #[must_use]
    pub fn sizes(&self) -> [usize; 3] {
        let entries = self.foca.iter_membership_state().len();
        let others = self.down_since.len().max(self.told_all_at.len()).max(self.up.len());
        [entries.max(others), self.timers.count(), self.foca.updates_backlog()]
    }

    /// What others believe of this seed is not for them to say, unless it is that it is down. A later life that they
    /// tell of was its own before it was restarted, or is a lie; it goes beyond.
    fn hear_of_oneself(&mut self, packet: &mut Packet, now: Instant) {
        let own = self.own().clone();
        let told = packet.updates.iter().map(Member::id).chain([&packet.header.dst]);
        let of_own = told.filter(|entry| entry.id() == own.id() && **entry != own && entry.life >= own.life);
        if let Some(life) = of_own.map(|entry| entry.life).max() {
            self.life_min = self.life_min.max(life.saturating_add(1));
            self.renew_soon(now);
        }
        packet.updates.retain(|update| update.id().id() != own.id() || *update.id() == own);
    }

    /// Leaves out of a packet what there is no room for.
    fn make_room(&mut self, packet: &mut Packet, now: Instant) -> Result<(), Rejected> {
        let mut coming = Coming::default();
        if !self.has_room(&Member::alive(packet.header.src.clone()), &mut coming, now) {
            return Err(Rejected::Full);
        }
        let own = *self.own().id();
        for update in std::mem::take(&mut packet.updates) {
            if *update.id().id() == own || self.has_room(&update, &mut coming, now) {
                packet.updates.push(update);
            }
        }
        Ok(())
    }

    /// Whether there is room for an update besides what is coming. Who is down gives way to one that is up.
    fn has_room(&mut self, update: &Member<Entry>, coming: &mut Coming, now: Instant) -> bool {
        let id = *update.id().id();
        let known = self.member(&id).map(Member::state);
        let is_new = known.is_none() && !coming.new.contains(&id);
        let comes_up = update.state() != State::Down && matches!(known, None | Some(State::Down));
        // This seed is one of them.
        if comes_up && !coming.up.contains(&id) && self.foca.num_members() + coming.up.len() + 1 >= SEEDS_MAX
        {
            return false;
        }
        if is_new && self.foca.updates_backlog() + coming.new.len() >= NEWS_MAX {
            return false;
        }
        while is_new && self.foca.iter_membership_state().len() + coming.new.len() >= MEMBERS_MAX {
            if !comes_up || !self.forget_one(now) {
                return false;
            }
        }
        coming.new.extend(is_new.then_some(id));
        coming.up.extend(comes_up.then_some(id));
        true
    }

    fn forget_one(&mut self, now: Instant) -> bool {
        let since = |member: &Member<Entry>| self.down_since.get(member.id().id()).copied().unwrap_or(now);
        let down = self.foca.iter_membership_state().filter(|member| member.state() == State::Down);
        let Some(oldest) = down.min_by_key(|member| since(member)).map(|member| member.id().clone()) else {
            return false;
        };
        self.forget(oldest, now);
        true
    }

    fn forget(&mut self, dead: Entry, now: Instant) {
        self.down_since.remove(dead.id());
        self.act(now, |foca, effects| foca.handle_timer(Timer::RemoveDown(dead), effects));
    }

    fn sweep(&mut self, now: Instant) {
        self.sweep_at = now + SWEEP_PERIOD;
        self.told_all_at.retain(|_, at| now.saturating_duration_since(*at) < ROSTER_PERIOD);
        let down: BTreeMap<NodeId, Entry> = self
            .foca
            .iter_membership_state()
            .filter(|member| member.state() == State::Down)
            .map(|member| (*member.id().id(), member.id().clone()))
            .collect();
        self.down_since.retain(|id, _| down.contains_key(id));
        for (id, entry) in down {
            let since = *self.down_since.entry(id).or_insert(now);
            if now.saturating_duration_since(since) >= FORGET_AFTER {
                self.forget(entry, now);
            }
        }
    }

    fn member(&self, id: &NodeId) -> Option<&Member<Entry>> {
        self.foca.iter_membership_state().find(|member| member.id().id() == id)
    }

    /// Tells a seed of all members, in as many packets as it takes.
    fn tell_all(&mut self, to: &Entry, now: Instant) {
        let recently = |at: &Instant| now.saturating_duration_since(*at) < ROSTER_PERIOD;
        if self.told_all_at.get(to.id()).is_some_and(recently) {
            return;
        }
        self.told_all_at.insert(*to.id(), now);
        let header_bytes = {
            let (src, dst) = (self.own().clone(), to.clone());
            let header = Header { src, src_incarnation: 0, dst, message: Message::Gossip };
            Packet { header, updates: Vec::new() }.encode().map_or(0, |bytes| bytes.len())
        };
        let (mut part, mut bytes) = (Vec::new(), header_bytes);
        let all: Vec<_> = self.foca.iter_membership_state().cloned().collect();
        for member in all {
            let more = member_bytes(&member);
            if bytes + more > GOSSIP_BYTES_MAX {
                self.tell(to, std::mem::take(&mut part));
                bytes = header_bytes;
            }
            bytes += more;
            part.push(member);
        }
        self.tell(to, part);
    }

    /// A packet that says no more than these updates.
    fn tell(&mut self, to: &Entry, updates: Vec<Member<Entry>>) {
        // With incarnation 0 it contradicts no suspicion, which foca's own packets do.
        let header =
            Header { src: self.own().clone(), src_incarnation: 0, dst: to.clone(), message: Message::Gossip };
        if let Some(packet) = (Packet { header, updates }).encode() {
            self.outputs.push_back(Output::send(to, packet));
        }
    }

    fn renew_soon(&mut self, now: Instant) {
        self.renew_at.get_or_insert((self.renewed_at + RENEW_PERIOD).max(now));
    }

    fn next_life(&self, now: Instant) -> u64 {
        let elapsed_ms = now.saturating_duration_since(self.began_at).as_millis() as u64;
        let by_clock = self.first_life.saturating_add(elapsed_ms);
        by_clock.max(self.own().life.saturating_add(1)).max(self.life_min)
    }

    /// Begins a new life as `entry`.
    fn become_entry(&mut self, mut entry: Entry, now: Instant) {
        entry.life = self.next_life(now);
        (self.renew_at, self.renewed_at) = (None, now);
        if entry == *self.own() {
            // The last of all lives. Others forget it after an hour.
            return;
        }
        let joined = self.joined.then(|| Output::Up(entry.seed.clone()));
        // Another one tells it all members: it may have been away, and foca's own question is put off by this.
        let next = self.up.range(*entry.id()..).chain(&self.up).next().map(|(_, other)| other.clone());
        self.act(now, |foca, effects| {
            foca.change_identity(entry, &mut *effects)?;
            // foca would else wait for a packet before it asks anybody again.
            foca.apply_many(std::iter::empty(), false, &mut *effects)?;
            next.map_or(Ok(()), |next| foca.announce(next, effects))
        });
        self.outputs.extend(joined);
    }

    fn join(&mut self, now: Instant) {
        if std::mem::replace(&mut self.joined, true) {
            return;
        }
        self.outputs.push_back(Output::Up(self.own().seed.clone()));
        if !self.own().seed.owns {
            (self.claim_at, self.own_at) = (Some(now + CLAIM_AFTER), Some(now + JOINS_AFTER));
        }
    }

    /// Lets foca do something, and tells what has changed by it.
    fn act(
        &mut self,
        now: Instant,
        act: impl FnOnce(&mut SeedFoca, &mut Effects<'_>) -> Result<(), foca::Error>,
    ) {
        let (timers, outputs) = (&mut self.timers, &mut self.outputs);
        let mut effects = Effects { timers, outputs, now, changed: false, defunct: false };
        if let Err(error) = act(&mut self.foca, &mut effects) {
            tracing::debug!(%error, "the membership could not do something");
        }
        let Effects { changed, defunct, .. } = effects;
        if defunct {
            self.renew_soon(now);
        }
        if changed {
            self.tell_changes(now);
        }
    }

    fn tell_changes(&mut self, now: Instant) {
        let active = self.foca.iter_members().map(Member::id).filter(|entry| !entry.leaving);
        let active: BTreeMap<NodeId, Entry> = active.map(|entry| (*entry.id(), entry.clone())).collect();
        let before = std::mem::replace(&mut self.up, active);
        let nobody_owned = !before.values().any(|entry| entry.seed.owns);
        let begins = |entry: &Entry| entry.seed.owns && before.contains_key(entry.id());
        let is_new_cluster = nobody_owned && self.up.values().any(begins);
        for (id, entry) in &self.up {
            if before.get(id).map(|before| &before.seed) != Some(&entry.seed) {
                self.outputs.push_back(Output::Up(entry.seed.clone()));
            }
        }
        for id in before.into_keys().filter(|id| !self.up.contains_key(id)) {
            let leaving = self.member(&id).is_some_and(|member| member.id().leaving);
            self.outputs.push_back(if leaving { Output::Left(id) } else { Output::Down(id) });
        }
        if !self.up.is_empty() {
            self.join(now);
        }
        // This one was there before anybody owned: the others count it among the owners from now on.
        if is_new_cluster && self.claim_at.is_some() {
            self.owns(now);
        }
    }
}

/// What a packet brings that was not there before.
#[derive(Default)]
struct Coming {
    new: Vec<NodeId>,
    up: Vec<NodeId>,
}

type SeedFoca = Foca<Entry, Codec, Dice, foca::NoCustomBroadcast>;

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").field("own", self.own()).field("up", &self.up).finish_non_exhaustive()
    }
}

fn config() -> foca::Config {
    let periodic = |frequency, num_members| Some(PeriodicParams { frequency, num_members });
    let (one, two) = (NonZeroUsize::MIN, NonZeroUsize::MIN.saturating_add(1));
    foca::Config {
        probe_period: PROBE_PERIOD,
        probe_rtt: PROBE_PATIENCE,
        num_indirect_probes: FAN_OUT,
        max_transmissions: TRANSMISSIONS,
        suspect_to_down_after: SUSPECT_FOR,
        remove_down_after: None,
        max_packet_size: const { NonZeroUsize::new(GOSSIP_BYTES_MAX).unwrap() },
        notify_down_members: true,
        periodic_announce: periodic(ANNOUNCE_PERIOD, one),
        periodic_announce_to_down_members: periodic(REVIVE_PERIOD, two),
        periodic_gossip: periodic(GOSSIP_PERIOD, FAN_OUT),
    }
}

/// What foca wants done.
struct Effects<'a> {
    timers: &'a mut Timers,
    outputs: &'a mut VecDeque<Output>,
    now: Instant,
    /// Who is up may have changed.
    changed: bool,
    /// Others take this seed for dead.
    defunct: bool,
}

impl foca::Runtime<Entry> for Effects<'_> {
    fn notify(&mut self, notification: Notification<'_, Entry>) {
        match notification {
            Notification::MemberUp(_) | Notification::MemberDown(_) | Notification::Rename(..) => {
                self.changed = true;
            }
            Notification::Defunct => self.defunct = true,
            Notification::Active | Notification::Idle | Notification::Rejoin(_) => {}
        }
    }

    fn send_to(&mut self, to: Entry, data: &[u8]) {
        self.outputs.push_back(Output::send(&to, Bytes::copy_from_slice(data)));
    }

    fn submit_after(&mut self, timer: Timer<Entry>, after: Duration) {
        self.timers.submit(timer, self.now + after);
    }
}

/// Chance as foca asks for it.
struct Dice(Chance);

impl rand_core::TryRng for Dice {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.0.number() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.number())
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Infallible> {
        for part in to.chunks_mut(8) {
            part.copy_from_slice(&self.0.number().to_le_bytes()[..part.len()]);
        }
        Ok(())
    }
}
