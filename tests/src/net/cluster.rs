//! Daemons on hosts of one network, beside a registry on a host of its own that counts what it gives.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use darter::demo::registry::RegistryOptions;

use super::at_once::at_once;
use super::door::Door;
use super::host::Host;
use super::network::Network;
use crate::{Blob, Builder, Client, Daemon, Origin, cli, wait_until};

/// Where nodes listen for each other.
const PEER_PORT: u16 = 7000;
/// Where the registry listens.
const REGISTRY_PORT: u16 = 5000;
const ETHERNET_MTU: u32 = 1500;
/// So many blobs of that length tell whether nodes are one cluster.
const PROBES: usize = 6;
const PROBE_BYTES: u64 = 1000;

/// What a seed prints when it takes its place among the owners. One that comes later than the others does after 10 s.
const OWNS: &str = "this seed owns contents now";

/// What a node is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It may go to the registry for others.
    Seed,
    /// It may not.
    Peer,
    /// It is in no cluster.
    Alone,
}

/// A cluster to be. What is not said: links as fast as this machine goes with an MTU of 1500, and nodes that keep
/// 256 MiB and do not prefetch.
#[derive(Clone, Debug)]
pub struct Plan {
    roles: Vec<Role>,
    mtu: u32,
    bits_per_s: Option<u64>,
    is_udp_blocked: bool,
    /// Who does not hear whom, by places.
    deaf: Option<(Range<usize>, Range<usize>)>,
    prefetch: bool,
    capacity: String,
    registry: RegistryOptions,
    flags: Vec<(String, String)>,
    /// By places.
    configurations: BTreeMap<usize, String>,
    stores: Option<PathBuf>,
}

impl Plan {
    /// So many seeds, and peers who join them.
    pub fn new(seeds: usize, peers: usize) -> Plan {
        let roles = [vec![Role::Seed; seeds], vec![Role::Peer; peers]].concat();
        let (flags, registry) = (Vec::new(), RegistryOptions::default());
        Plan {
            roles,
            configurations: BTreeMap::new(),
            stores: None,
            mtu: ETHERNET_MTU,
            bits_per_s: None,
            is_udp_blocked: false,
            deaf: None,
            prefetch: false,
            capacity: "256MiB".to_owned(),
            registry,
            flags,
        }
    }

    /// So many nodes that know nothing of each other.
    pub fn alone(nodes: usize) -> Plan {
        Plan { roles: vec![Role::Alone; nodes], ..Plan::new(0, 0) }
    }

    /// The largest packet, in bytes, on every link.
    pub fn mtu(self, bytes: u32) -> Plan {
        Plan { mtu: bytes, ..self }
    }

    /// What every link carries each way in a second, the registry's too.
    pub fn bits_per_s(self, bits: u64) -> Plan {
        Plan { bits_per_s: Some(bits), ..self }
    }

    /// The nodes at `places` hear nothing that comes straight from those at `others`, from the start: what stands between
    /// them, as of [`Plan::start_seen`], is the only way.
    pub fn deaf(self, places: Range<usize>, others: Range<usize>) -> Plan {
        Plan { deaf: Some((places, others)), ..self }
    }

    /// Whether nodes fetch the rest of what has been read of.
    pub fn prefetch(self, prefetch: bool) -> Plan {
        Plan { prefetch, ..self }
    }

    /// How the registry behaves; where it listens is the network's matter.
    pub fn registry(self, registry: RegistryOptions) -> Plan {
        Plan { registry, ..self }
    }

    /// Any further flag of `darter serve`, for all.
    pub fn flag(mut self, name: &str, value: &str) -> Plan {
        self.flags.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The configuration file of one node, by its place in [`Cluster::nodes`]; the others have none.
    pub fn configured(mut self, place: usize, text: &str) -> Plan {
        self.configurations.insert(place, text.to_owned());
        self
    }

    /// Where all keep their contents, instead of where the system has temporary files: each in a directory of its own.
    pub fn stores_in(self, directory: &Path) -> Plan {
        Plan { stores: Some(directory.to_owned()), ..self }
    }

    /// What each node keeps, as its flag takes it.
    pub fn capacity(self, capacity: &str) -> Plan {
        Plan { capacity: capacity.to_owned(), ..self }
    }

    /// Starts the registry, then all seeds, then all others.
    ///
    /// # Panics
    /// When something does not start.
    pub fn start(self) -> Cluster {
        self.start_seen(|_, _, own| own.to_vec())
    }

    /// As [`Plan::start`], where no datagram passes from host to host.
    ///
    /// # Panics
    /// When something does not start.
    pub fn start_blocked(self) -> Cluster {
        Plan { is_udp_blocked: true, ..self }.start()
    }

    /// As [`Plan::start`], with something between the nodes: given the network and where nodes listen, it says where
    /// the others are to find them. One more host is there for it.
    ///
    /// # Panics
    /// When something does not start.
    pub fn start_seen(
        self,
        seen_at: impl FnOnce(&Network, &Host, &[SocketAddr]) -> Vec<SocketAddr>,
    ) -> Cluster {
        let network = Network::new(self.mtu);
        let (registry_host, between) = (network.attach(), network.attach());
        let listen = registry_host.at(REGISTRY_PORT);
        let options = RegistryOptions { listen, ..self.registry.clone() };
        let origin = registry_host.namespace().enter(|| Origin::with(options));
        let hosts: Vec<Host> = self.roles.iter().map(|_| network.attach()).collect();
        if let Some(bits) = self.bits_per_s {
            hosts.iter().chain([&registry_host]).for_each(|host| host.shape(bits));
        }
        if self.is_udp_blocked {
            hosts.iter().for_each(|host| host.block_udp(true));
        }
        if let Some((places, others)) = &self.deaf {
            let others: Vec<_> = hosts[others.clone()].iter().map(Host::address).collect();
            hosts[places.clone()].iter().for_each(|host| host.be_deaf_to(others.iter().copied()));
        }
        let own: Vec<SocketAddr> = hosts.iter().map(|host| host.at(PEER_PORT)).collect();
        let seen = seen_at(&network, &between, &own);
        let joining = Joining::new(&self.roles, &seen, &network);
        let start = |place: usize, host: Host| {
            let role = self.roles[place];
            let base = Daemon::builder()
                .origin(&origin)
                .on(&network, &host)
                .shards(1)
                .prefetch(self.prefetch)
                .capacity(&self.capacity);
            let base = match self.configurations.get(&place) {
                Some(text) => base.config(text),
                None => base,
            };
            let base = match &self.stores {
                Some(stores) => base.data_dir(stores.join(place.to_string())),
                None => base,
            };
            let flagged = self.flags.iter().fold(base, |builder, (name, value)| builder.flag(name, value));
            let builder = match role {
                Role::Alone => flagged,
                role => joining.flags(flagged, role, own[place], seen[place]),
            };
            Node::new(role, host, builder.start())
        };
        let (seeds, others): (Vec<_>, Vec<_>) =
            hosts.into_iter().enumerate().partition(|(place, _)| self.roles[*place] == Role::Seed);
        let together = |hosts: Vec<(usize, Host)>| {
            thread::scope(|scope| {
                let start = &start;
                let starting: Vec<_> =
                    hosts.into_iter().map(|(place, host)| scope.spawn(move || start(place, host))).collect();
                starting.into_iter().map(|node| node.join().expect("the node starts")).collect::<Vec<_>>()
            })
        };
        let mut nodes = together(seeds);
        nodes.extend(together(others));
        Cluster { nodes, origin, registry_host, between, network }
    }
}

/// What nodes are told so that they find each other.
struct Joining {
    secret: PathBuf,
    seeds: Vec<SocketAddr>,
}

impl Joining {
    fn new(roles: &[Role], seen: &[SocketAddr], network: &Network) -> Joining {
        let secret = network.directory().join("cluster.secret");
        if roles.iter().any(|role| *role != Role::Alone) {
            let made = cli::darter(&["cluster", "init", "--out", secret.to_str().expect("a plain path")]);
            assert_eq!(made.status, 0, "{made:?}");
        }
        let seeds = roles.iter().zip(seen).filter(|(role, _)| **role == Role::Seed);
        Joining { secret, seeds: seeds.map(|(_, at)| *at).collect() }
    }

    fn flags(&self, builder: Builder, role: Role, own: SocketAddr, seen: SocketAddr) -> Builder {
        let is_seed = role == Role::Seed;
        let secret = if is_seed { self.secret.clone() } else { self.secret.with_extension("secret.peer") };
        let mut builder = builder
            .flag("--cluster-secret", secret.to_str().expect("a plain path"))
            .flag("--peer-listen", &own.to_string());
        if is_seed {
            builder = builder.switch("--seed");
        }
        if seen != own {
            builder = builder.flag("--peer-advertise", &seen.to_string());
        }
        let others = self.seeds.iter().filter(|seed| **seed != seen);
        others.fold(builder, |builder, seed| builder.flag("--join", &seed.to_string()))
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    origin: Origin,
    registry_host: Host,
    between: Host,
    network: Network,
}

impl Cluster {
    /// The registry.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The host that it runs on.
    pub fn registry_host(&self) -> &Host {
        &self.registry_host
    }

    /// A host on which nothing runs but what a scenario puts there.
    pub fn between(&self) -> &Host {
        &self.between
    }

    /// The switch.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// All nodes, seeds first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The seeds.
    pub fn seeds(&self) -> &[Node] {
        &self.nodes[..self.nodes.iter().filter(|node| node.role == Role::Seed).count()]
    }

    /// The others.
    pub fn peers(&self) -> &[Node] {
        &self.nodes[self.seeds().len()..]
    }

    /// Waits until the nodes are one cluster: each seed owns, so that no content has another owner a moment later, and
    /// whatever they read together, the registry gives once. Small blobs that nobody has read yet tell, enough of them
    /// that each seed owns some.
    ///
    /// # Panics
    /// When they are none after a minute.
    pub fn wait_until_joined(&self) {
        let all_own = || self.seeds().iter().all(|seed| seed.log().contains(OWNS));
        wait_until(Duration::from_secs(60), all_own, || "a seed does not own".to_owned());
        let nodes: Vec<&Node> = self.nodes.iter().collect();
        self.wait_until_one(&nodes);
    }

    /// The same of some nodes, while others are away.
    ///
    /// # Panics
    /// When they are none after a minute.
    pub fn wait_until_one(&self, nodes: &[&Node]) {
        let one = || {
            let probes: Vec<Blob> = (0..PROBES).map(|_| self.probe()).collect();
            let before = self.origin.blob_bytes();
            at_once(nodes, |node| {
                // Not the same one at the same moment at each: who does not know a seed would still be the second.
                for probe in &probes {
                    node.pull(probe);
                }
            });
            self.origin.blob_bytes() - before == probes.iter().map(Blob::len).sum::<u64>()
        };
        wait_until(Duration::from_secs(60), one, || "the nodes do not find each other".to_owned());
        self.origin.forget();
    }

    fn probe(&self) -> Blob {
        static NEXT: AtomicU64 = AtomicU64::new(1 << 32);
        self.origin.blob(NEXT.fetch_add(1, Ordering::Relaxed), PROBE_BYTES)
    }

    /// Waits until the registry has given so many body bytes of blobs since the last `forget`.
    ///
    /// # Panics
    /// When it has not after a minute.
    pub fn wait_until_given(&self, bytes: u64) {
        let given = || self.origin.blob_bytes() >= bytes;
        let so_far = || format!("the registry has given {} bytes", self.origin.blob_bytes());
        wait_until(Duration::from_secs(60), given, so_far);
    }

    /// What each seed has asked of the registry up to now, in body bytes.
    pub fn asked_by_seeds(&self) -> Vec<u64> {
        self.seeds().iter().map(Node::asked_bytes).collect()
    }

    /// Who has asked the registry for how many body bytes since it was started, for a scenario that fails.
    pub fn bill(&self) -> String {
        let asked = self.nodes.iter().map(|node| (node, node.asked_bytes())).filter(|(_, asked)| *asked > 0);
        let lines = asked.map(|(node, asked)| format!("{:?} {}: {asked}", node.role, node.host.address()));
        lines.collect::<Vec<_>>().join(", ")
    }

    /// The seed that has asked most of the registry since `before`: the owner of what was read since then.
    pub fn owner_since(&self, before: &[u64]) -> &Node {
        let asked = self.seeds().iter().zip(before).map(|(seed, before)| (seed.asked_bytes() - before, seed));
        asked.max_by_key(|(asked, _)| *asked).expect("a cluster has seeds").1
    }
}

/// One node: a host and its daemon.
#[derive(Debug)]
pub struct Node {
    role: Role,
    front: SocketAddr,
    log: PathBuf,
    // Before its host: its process holds the namespace.
    daemon: Mutex<Daemon>,
    host: Host,
}

impl Node {
    fn new(role: Role, host: Host, daemon: Daemon) -> Node {
        Node { role, front: daemon.front(), log: daemon.log_path(), daemon: Mutex::new(daemon), host }
    }

    /// What it is to the others.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Where it runs.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its daemon, to stop and start it. Who reads meanwhile does not wait for that.
    pub fn daemon(&self) -> MutexGuard<'_, Daemon> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its daemon has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log of a daemon can be read")
    }

    /// A new client of its front, on its host as clients of a node daemon are.
    pub fn client(&self) -> Client {
        Client::inside(self.host.namespace(), self.front)
    }

    /// Its front, for a client that knows nothing of namespaces.
    pub fn door(&self) -> Door {
        Door::into(self.host.namespace(), self.front)
    }

    /// Body bytes of blobs that its daemon has got from the registry since it was started.
    pub fn asked_bytes(&self) -> u64 {
        self.daemon().metrics().sum("darter_origin_bytes_total") as u64
    }

    /// Reads all of a blob and compares every byte.
    ///
    /// # Panics
    /// When it does not come, whole and right.
    pub fn pull(&self, blob: &Blob) {
        let read = blob.read(&mut self.client(), blob.whole());
        read.unwrap_or_else(|error| panic!("{} at {}: {error}", blob.digest(), self.host.address()));
    }
}
