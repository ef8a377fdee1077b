//! The membership at work: carries its packets to other seeds and its news to [`Seeds`].
//!
//! Runs on one shard. Packets go out on a connection to each seed that serves nothing else, with one stream that stays
//! open, so that blocks never delay them; they come in on whichever shard the other side has reached ([`listen`]).
//! A packet that cannot be sent now is lost, as SWIM expects: nothing queues for a seed that does not take it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, sleep_until, timeout};

use super::joining::{self, Met};
use super::{MEMBERS_MAX, Membership, Output};
use crate::chance::Chance;
use crate::exchange::{Exchange, ExchangeError};
use crate::mesh::{Mesh, Unreachable};
use crate::node::{Node, NodeId};
use crate::seeds::{Seeds, Standing};
use crate::session::Session;
use crate::wire::{Code, Gossip, Message, Opaque, Refused};

/// Packets that wait for one seed.
const LINK_PACKETS_MAX: usize = 32;
/// A connection on which nothing was to be sent for so long is closed. Each seed asks each other one more often.
const LINK_IDLE: Duration = Duration::from_secs(300);
/// How long a seed that could not be reached is left alone, at first and at most.
const LINK_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How long the last packets may take when this seed goes.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Packets of one seed that are read in a second; further ones wait on its side.
const PACKETS_PER_SECOND_MAX: u32 = 500;

/// Takes part in the cluster until [`Seeds::leave`]: on one shard of the node, which has `found` of where other nodes may be,
/// looked up again by whoever sends there. A seed is a member, another node keeps to one seed. Without an address, and
/// with nobody left who could send one, a seed is alone.
///
/// Not to be dropped before its end by a node that leaves: other seeds would have to find out that it is gone.
pub async fn take_part(mesh: Rc<Mesh>, seeds: Arc<Seeds>, found: watch::Receiver<Vec<SocketAddr>>) {
    if !seeds.is_seed() {
        return joining::keep_to_a_seed(mesh, seeds, found).await;
    }
    let Some(packets) = seeds.take_packets() else {
        tracing::error!("the membership runs already on another shard");
        return;
    };
    let (met, met_here) = mpsc::channel(8);
    let joining = spawn_local(joining::look_for_seeds(Rc::clone(&mesh), Arc::clone(&seeds), found, met));
    let _joining = AbortOnDrop(joining);
    let life = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let life = u64::try_from(life.as_millis()).unwrap_or(u64::MAX / 2);
    let own = seeds.own().clone();
    let chance = own.id.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)) ^ life;
    let core = Membership::new(own, seeds.capacity_slots(), life, Chance::seeded(chance), Instant::now());
    let changes = seeds.changes();
    Shell { mesh, seeds, core, links: HashMap::new() }.run(packets, met_here, changes).await;
}

/// Reads the packets that a seed sends on a stream, of which `first` was the first: what
/// [`Service::asked`](crate::mesh::Service::asked) does with a [`Gossip`], on any shard.
pub async fn listen(seeds: Arc<Seeds>, first: Gossip, mut exchange: Exchange) {
    if !seeds.is_seed() {
        let refused = Refused::of(Code::Unknown, "this node is no seed, and no member");
        return exchange.refuse(refused).await;
    }
    let from = exchange.from().id;
    seeds.gossip(from, Bytes::copy_from_slice(&first.packet));
    let (mut since, mut count) = (Instant::now(), 1);
    let mut changes = seeds.changes();
    // A node that goes waits until it has answered what is open to it, and this would stay open.
    while seeds.standing() != Standing::Leaving {
        let message = tokio::select! {
            message = exchange.next() => message,
            _ = changes.changed() => continue,
        };
        match message {
            Ok(Some(Message::Gossip(gossip))) => seeds.gossip(from, Bytes::copy_from_slice(&gossip.packet)),
            Ok(Some(message)) => {
                tracing::debug!(node = %from, message = message.name(), "no packet of the membership");
                return;
            }
            Ok(None) => return exchange.finish(),
            Err(error) => {
                tracing::debug!(node = %from, %error, "the packets of a seed have ended");
                return;
            }
        }
        count += 1;
        let second = Duration::from_secs(1);
        let elapsed = since.elapsed();
        if elapsed >= second {
            (since, count) = (Instant::now(), 0);
        } else if count >= PACKETS_PER_SECOND_MAX {
            sleep(second - elapsed).await;
        }
    }
    exchange.finish();
}

struct Shell {
    mesh: Rc<Mesh>,
    seeds: Arc<Seeds>,
    core: Membership,
    links: HashMap<NodeId, Link>,
}

/// The way to one seed.
struct Link {
    address: SocketAddr,
    life: u64,
    packets: mpsc::Sender<Bytes>,
    carrying: AbortOnDrop,
    used_at: Instant,
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Shell {
    async fn run(
        mut self,
        mut packets: mpsc::Receiver<(NodeId, Bytes)>,
        mut met: mpsc::Receiver<Met>,
        mut changes: watch::Receiver<u64>,
    ) {
        while self.seeds.standing() != Standing::Leaving {
            self.play();
            let next = self.core.next_at().into_iter().chain(self.seeds.moves_at()).min();
            let next = next.unwrap_or_else(|| Instant::now() + super::SWEEP_PERIOD);
            tokio::select! {
                Some((from, packet)) = packets.recv() => {
                    if let Err(error) = self.core.received(&from, packet, Instant::now()) {
                        tracing::debug!(node = %from, %error, "a packet of the membership was not taken");
                    }
                }
                Some(met) = met.recv() => match met {
                    Met::Seed(node) => self.core.meet(node, Instant::now()),
                    Met::Nobody => self.stay_alone(),
                },
                () = sleep_until(next.into()) => {
                    self.seeds.settle();
                    self.core.tick(Instant::now());
                }
                // Fails when the seeds are gone, of which this holds one.
                _ = changes.changed() => {}
            }
        }
        self.core.leave(Instant::now());
        self.play();
        // Without their senders the links end when they have sent all.
        let links = self.links.drain().map(|(_, link)| link.carrying);
        let mut carrying: Vec<AbortOnDrop> = links.collect();
        let sent = async {
            for task in &mut carrying {
                // It has ended or was aborted.
                let _ = (&mut task.0).await;
            }
        };
        if timeout(LEAVE_TIMEOUT, sent).await.is_err() {
            tracing::debug!("some seeds could not be told that this one goes");
        }
    }

    fn stay_alone(&mut self) {
        if self.core.others().next().is_none() && self.seeds.standing() == Standing::Joining {
            self.seeds.stands(Standing::Alone);
            self.core.alone(Instant::now());
        }
    }

    /// Does what the membership wants done.
    fn play(&mut self) {
        let own = self.seeds.own().id;
        while let Some(output) = self.core.poll() {
            match output {
                Output::Send { to, life, packet } => self.send(to, life, packet),
                Output::Up(seed) => {
                    if seed.node.id != own {
                        tracing::info!(seed = %seed.node.id, address = %seed.node.address, "a seed is up");
                        self.seeds.stands(Standing::Joined);
                    } else if seed.owns {
                        tracing::info!("this seed owns contents now");
                    }
                    self.seeds.up(seed);
                }
                Output::Down(id) => {
                    tracing::warn!(seed = %id, "a seed does not answer");
                    self.seeds.down(&id);
                }
                Output::Left(id) => {
                    tracing::info!(seed = %id, "a seed has left");
                    self.seeds.left(&id);
                }
            }
        }
    }

    fn send(&mut self, to: Node, life: u64, packet: Bytes) {
        let leads_elsewhere = |link: &Link| {
            link.address != to.address
                || (link.life != 0 && link.life < life)
                || link.carrying.0.is_finished()
        };
        if self.links.get(&to.id).is_some_and(leads_elsewhere) {
            self.links.remove(&to.id);
        }
        if !self.links.contains_key(&to.id) && self.links.len() >= MEMBERS_MAX {
            let oldest = self.links.iter().min_by_key(|(_, link)| link.used_at).map(|(id, _)| *id);
            oldest.inspect(|id| _ = self.links.remove(id));
        }
        let mesh = &self.mesh;
        let (id, address) = (to.id, to.address);
        let link = self.links.entry(id).or_insert_with(|| {
            let (packets, packets_there) = mpsc::channel(LINK_PACKETS_MAX);
            let carrying = AbortOnDrop(spawn_local(carry(Rc::clone(mesh), to, packets_there)));
            Link { address, life, packets, carrying, used_at: Instant::now() }
        });
        (link.life, link.used_at) = (link.life.max(life), Instant::now());
        // Full: lost, as on a network.
        let _ = link.packets.try_send(packet);
    }
}

/// Carries packets to one seed until there are none for long, or no sender of them any more.
async fn carry(mesh: Rc<Mesh>, to: Node, mut packets: mpsc::Receiver<Bytes>) {
    let mut pause = LINK_PAUSE.0;
    while let Ok(Some(first)) = timeout(LINK_IDLE, packets.recv()).await {
        match connect(&mesh, &to, first).await {
            Ok((session, exchange)) => {
                pause = LINK_PAUSE.0;
                if carry_on(&session, exchange, &mut packets).await.is_break() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(seed = %to.id, address = %to.address, %error, "a seed was not reached");
                sleep(pause).await;
                pause = (2 * pause).min(LINK_PAUSE.1);
                // What was said meanwhile is old.
                while packets.try_recv().is_ok() {}
            }
        }
    }
}

async fn connect(mesh: &Rc<Mesh>, to: &Node, first: Bytes) -> Result<(Rc<Session>, Exchange), LinkError> {
    let session = mesh.apart(to.address).await?;
    if session.node().id != to.id {
        let (found, expected) = (session.node().id, to.id);
        return Err(Unreachable::OtherNode { address: to.address, expected, found }.into());
    }
    let exchange = session.ask(gossip(first)).await?;
    Ok((session, exchange))
}

/// Why a packet did not go out.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
}

/// `Break` when there is nothing more to carry.
async fn carry_on(
    session: &Session,
    mut exchange: Exchange,
    packets: &mut mpsc::Receiver<Bytes>,
) -> std::ops::ControlFlow<()> {
    use std::ops::ControlFlow::{Break, Continue};
    loop {
        let packet = tokio::select! {
            packet = timeout(LINK_IDLE, packets.recv()) => packet,
            // It has nothing to say here, unless it refuses.
            _ = exchange.next() => return Continue(()),
            () = session.over() => return Continue(()),
        };
        let Ok(Some(packet)) = packet else {
            let _ = timeout(LEAVE_TIMEOUT, exchange.done()).await;
            return Break(());
        };
        if exchange.send(gossip(packet)).await.is_err() {
            return Continue(());
        }
    }
}

fn gossip(packet: Bytes) -> Gossip {
    // The membership makes none that is too long.
    Gossip { packet: Opaque::new(packet).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::ClusterSecrets;
    use crate::lane::Lanes;
    use crate::lane::tests::{endpoint, identity, run, secrets};
    use crate::mesh::{Introduction, Service};
    use crate::node::Role;
    use crate::seeds;

    /// What the service of a node does for the membership.
    struct Attendance(Arc<Seeds>);

    impl Service for Attendance {
        fn up(&self, session: &Rc<Session>) {
            self.0.tell(session);
        }
        fn down(&self, _: &Rc<Session>) {}
        fn told(&self, session: &Rc<Session>, message: Message) {
            match message {
                Message::Seeds(told) => self.0.told(&told),
                Message::Leaving(_) => self.0.left(&session.node().id),
                _ => {}
            }
        }
        fn asked(&self, _: &Rc<Session>, request: Message, exchange: Exchange) {
            if let Message::Gossip(first) = request {
                spawn_local(listen(Arc::clone(&self.0), first, exchange));
            }
        }
    }

    /// A node at work.
    struct Station {
        seeds: Arc<Seeds>,
        mesh: Rc<Mesh>,
        taking_part: JoinHandle<()>,
        telling: AbortOnDrop,
    }

    impl Station {
        fn start(secrets: &ClusterSecrets, role: Role, join: &[SocketAddr]) -> Self {
            let endpoint = endpoint(identity(secrets, role), Lanes::Auto);
            let zone = crate::wire::Text::cut("here");
            let node = Node { id: endpoint.own().id, address: endpoint.local_addr(), zone: zone.clone() };
            let software = crate::wire::Text::cut("darter test");
            let introduction =
                Introduction { address: node.address, zone, capacity_slots: 64, shards: 1, software };
            let seeds = Seeds::new(node, 64, role);
            let mesh = Mesh::start(endpoint, introduction, Rc::new(Attendance(Arc::clone(&seeds))));
            // Nobody sends further addresses.
            let found = watch::Sender::new(join.to_vec()).subscribe();
            let taking_part = spawn_local(take_part(Rc::clone(&mesh), Arc::clone(&seeds), found));
            let telling = spawn_local(seeds::tell_changes(Rc::clone(&mesh), Arc::clone(&seeds)));
            Self { seeds, mesh, taking_part, telling: AbortOnDrop(telling) }
        }

        fn address(&self) -> SocketAddr {
            self.seeds.own().address
        }

        async fn until_it_sees(&self, others: &[&Self]) {
            let mut expected: Vec<_> = others.iter().map(|other| other.seeds.own().id).collect();
            expected.sort_unstable();
            let mut changes = self.seeds.changes();
            loop {
                let seen: Vec<_> = self.seeds.live().iter().map(|seed| seed.node.id).collect();
                if seen == expected {
                    return;
                }
                changes.changed().await.expect("the seeds are there");
            }
        }

        async fn leave(self) {
            self.seeds.leave();
            self.taking_part.await.expect("it ends by itself");
            drop(self.telling);
            self.mesh.leave().await;
        }
    }

    #[test]
    fn seeds_find_each_other_a_peer_is_told_and_who_leaves_is_gone_for_all() {
        run(async {
            let secrets = secrets();
            let first = Station::start(&secrets, Role::Seed, &[]);
            first.until_it_sees(&[&first]).await;
            assert_eq!(first.seeds.standing(), Standing::Alone);
            let second = Station::start(&secrets, Role::Seed, &[first.address()]);
            let third = Station::start(&secrets, Role::Seed, &[second.address(), first.address()]);
            let peer = Station::start(&secrets.for_peers(), Role::Peer, &[second.address()]);
            for station in [&first, &second, &third, &peer] {
                station.until_it_sees(&[&first, &second, &third]).await;
                assert_eq!(station.seeds.standing(), Standing::Joined);
            }
            let gone_at = Instant::now();
            third.leave().await;
            for station in [&first, &second, &peer] {
                station.until_it_sees(&[&first, &second]).await;
            }
            // One that was found dead would have kept its place for so long at least.
            assert!(gone_at.elapsed() < crate::ownership::MOVES_AFTER);
            // The seed that the peer keeps to goes: the other one tells it so, or is gone to.
            second.leave().await;
            first.until_it_sees(&[&first]).await;
            peer.until_it_sees(&[&first]).await;
        });
    }
}
