//! A host: a namespace, an address, one link, and what becomes of that link.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Mutex;

use super::filter::{self, Filter};
use super::namespace::Namespace;
use crate::process;

/// How much a link holds back of what it cannot send yet, as a time: behind that, packets are lost.
const QUEUE_MS: u64 = 50;
/// What it may send at once after a rest. Large enough for two packets of the largest MTU, small beside any body.
const BURST_BYTES: u64 = 32 << 10;

/// The end of a link at the switch.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) switch: Namespace,
    pub(super) name: String,
}

/// One host.
#[derive(Debug)]
pub struct Host {
    namespace: Namespace,
    address: Ipv4Addr,
    port: Port,
    filter: Mutex<Filter>,
}

/// What a link has carried since it was made, headers included, but each only once for what the kernel cuts into
/// packets late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkBytes {
    /// To the host.
    pub received: u64,
    /// From the host.
    pub sent: u64,
    /// In so many packets: true to the wire only after [`Host::carry_singly`].
    pub sent_packets: u64,
}

impl Host {
    /// The link's name in the host.
    pub(super) const LINK: &'static str = "eth0";

    pub(super) fn new(namespace: Namespace, address: Ipv4Addr, port: Port) -> Host {
        Host { namespace, address, port, filter: Mutex::default() }
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Where the others find it.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The same with a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address), port)
    }

    /// One more address, at which something else may listen: 10.77.1.`number`.
    pub fn add_address(&self, number: u8) -> Ipv4Addr {
        let address = Ipv4Addr::new(10, 77, 1, number);
        self.namespace.run("ip", &format!("address add {address}/16 dev {}", Host::LINK));
        address
    }

    /// From now on the link carries so many bits in a second each way.
    pub fn shape(&self, bits_per_s: u64) {
        let queue_bytes = (bits_per_s / 8 * QUEUE_MS / 1000).max(2 * BURST_BYTES);
        let tbf = |device: &str| {
            format!(
                "qdisc replace dev {device} root tbf rate {bits_per_s}bit burst {BURST_BYTES} limit {queue_bytes}"
            )
        };
        self.namespace.run("tc", &tbf(Host::LINK));
        self.port.switch.run("tc", &tbf(&self.port.name));
    }

    /// Takes the cable out.
    pub fn unplug(&self) {
        self.port.switch.run("ip", &format!("link set {} down", self.port.name));
    }

    /// Puts it back.
    pub fn plug(&self) {
        self.port.switch.run("ip", &format!("link set {} up", self.port.name));
    }

    /// Hears nothing any more from these hosts; an empty list heals it.
    pub fn be_deaf_to(&self, hosts: impl IntoIterator<Item = Ipv4Addr>) {
        self.filter(|filter| filter.deaf_to = hosts.into_iter().collect());
    }

    /// Whether datagrams get lost here, as behind a firewall that lets only TCP pass.
    pub fn block_udp(&self, blocked: bool) {
        self.filter(|filter| filter.udp = blocked);
    }

    /// Loses so many of a hundred packets that come from these hosts, by chance.
    pub fn lose(&self, percent: u8, from: impl IntoIterator<Item = Ipv4Addr>) {
        self.carry_singly();
        self.filter(|filter| filter.lossy = Some((from.into_iter().collect(), percent)));
    }

    /// How many packets were lost by [`Host::lose`], [`Host::block_udp`] or [`Host::be_deaf_to`] since the last of these
    /// was called.
    ///
    /// # Panics
    /// When iptables does not say.
    pub fn lost_packets(&self) -> u64 {
        filter::dropped_packets(&self.namespace.run("iptables-save", "--counters --table filter"))
    }

    /// From now on the link carries each packet by itself. The kernel otherwise hands many to the other end as one, and
    /// counts them as one.
    pub fn carry_singly(&self) {
        let whole = |device: &str| format!("link set dev {device} gso_max_segs 1");
        self.namespace.run("ip", &whole(Host::LINK));
        self.port.switch.run("ip", &whole(&self.port.name));
    }

    /// What the link has carried.
    ///
    /// # Panics
    /// When the kernel does not say.
    pub fn bytes(&self) -> LinkBytes {
        let table = self.namespace.enter(|| fs::read_to_string("/proc/thread-self/net/dev"));
        let table = table.expect("a thread may see its network");
        link_bytes(&table).unwrap_or_else(|| panic!("no {} in {table}", Host::LINK))
    }

    fn filter(&self, change: impl FnOnce(&mut Filter)) {
        let mut filter = self.filter.lock().expect("no holder panics");
        change(&mut filter);
        let table = filter.to_string();
        let ran = self.namespace.enter(|| {
            let mut command = process::command("iptables-restore");
            let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
            child.stdin.take().expect("it is piped").write_all(table.as_bytes())?;
            child.wait_with_output()
        });
        let ran = ran.expect("iptables-restore is there");
        assert!(ran.status.success(), "{}\n{table}", String::from_utf8_lossy(&ran.stderr));
    }
}

/// proc_pid_net(5): after the name eight fields of what was received, then eight of what was sent, bytes first and packets
/// second.
fn link_bytes(table: &str) -> Option<LinkBytes> {
    let fields = table.lines().find_map(|line| line.trim().strip_prefix(Host::LINK)?.strip_prefix(':'))?;
    let mut fields = fields.split_whitespace().map(str::parse);
    Some(LinkBytes {
        received: fields.next()?.ok()?,
        sent: fields.nth(7)?.ok()?,
        sent_packets: fields.next()?.ok()?,
    })
}
