//! Nodes on hosts of their own, behind links that are slow, cut, blocked or lossy: what the scenarios of clusters stand
//! on is so, as nodes that are in no cluster show it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use darter_tests::Client;
use darter_tests::need::need;
use darter_tests::net::{Disorder, DisorderedPorts, Door, Host, LinkBytes, NETWORK, Network, Plan, at_once};

const MIB: u64 = 1 << 20;
/// More than a packet takes from host to host on a busy machine.
const SOON: Duration = Duration::from_millis(500);

#[test]
fn nodes_alone_ask_the_registry_each_and_its_link_bounds_them_all() {
    if !need("nodes_alone_ask_the_registry_each_and_its_link_bounds_them_all", &NETWORK) {
        return;
    }
    let (blob_bytes, bits_per_s) = (2 * MIB, 50_000_000);
    let cluster = Plan::alone(4).bits_per_s(bits_per_s).start();
    let blob = cluster.origin().blob(1, blob_bytes);
    let makespan = at_once(cluster.nodes(), |node| node.pull(&blob));
    let given_bytes = cluster.origin().blob_bytes();
    let link = cluster.registry_host().bytes();
    println!("{makespan}; the registry gave {given_bytes} bytes, its link carried {link:?}");
    assert_eq!(given_bytes, 4 * blob_bytes);
    // The shape cannot be beaten; how much later the last one is, is the machine's matter.
    let bound = Duration::from_secs_f64((given_bytes * 8) as f64 / bits_per_s as f64);
    assert!(makespan.last() >= bound.mul_f64(0.9), "{makespan}, less than {bound:?}");
    assert!(link.sent >= given_bytes, "the bytes went over the link");
    for node in cluster.nodes() {
        assert!(node.host().bytes().received >= blob_bytes, "its own share came to each");
        node.daemon().stop();
        node.daemon().restart();
        node.pull(&blob);
    }
    assert_eq!(cluster.origin().blob_bytes(), given_bytes, "what is kept is not asked for again");
}

/// From outside, and to a registry outside: as clients and registries that know nothing of namespaces.
#[test]
fn a_door_leads_in_and_one_leads_out() {
    if !need("a_door_leads_in_and_one_leads_out", &NETWORK) {
        return;
    }
    let cluster = Plan::alone(1).start();
    let blob = cluster.origin().blob(1, MIB);
    let node = &cluster.nodes()[0];
    let mut outside = Client::new(node.door().address());
    blob.read(&mut outside, blob.whole()).expect("a door is open");

    let outer = darter_tests::Origin::start();
    let (host, blob) = (cluster.between(), outer.blob(2, MIB));
    let door = Door::out_of(host.namespace(), host.at(80), outer.address());
    let mut inside = Client::inside(node.host().namespace(), door.address());
    blob.read(&mut inside, blob.whole()).expect("a door is open");
    let round = Client::inside(node.host().namespace(), outer.address()).fetch(&blob.get());
    assert!(round.is_err(), "the only way out is the door");
}

#[test]
fn links_are_cut_and_blocked_and_lose_packets_as_they_are_told() {
    if !need("links_are_cut_and_blocked_and_lose_packets_as_they_are_told", &NETWORK) {
        return;
    }
    let network = Network::new(1500);
    let (near, far, third) = (network.attach(), network.attach(), network.attach());
    let wire = Wire::between(&near, &far);
    assert!(wire.carries() && tcp(&near, &far));

    far.block_udp(true);
    assert!(wire.loses() && tcp(&near, &far), "only datagrams are blocked");
    assert_eq!(far.lost_packets(), 1);
    far.block_udp(false);
    assert!(wire.carries());

    far.be_deaf_to([near.address()]);
    assert!(wire.loses() && tcp(&third, &far), "it hears the third");
    far.be_deaf_to([]);
    assert_eq!(far.lost_packets(), 0, "since then");
    far.unplug();
    assert!(wire.loses());
    far.plug();
    assert!((0..20).any(|_| wire.carries()), "it is healed");

    for percent in [5, 20] {
        far.lose(percent, [near.address()]);
        let came = (0..400).filter(|_| wire.sent(1, Duration::from_millis(20))).count();
        println!("{came} of 400 datagrams came at {percent} %");
        // By chance of one in a million it is none; and late ones count as lost on a busy machine.
        assert!(came < 400, "none is lost at {percent} %");
        assert!(came > 0, "all are lost at {percent} %");
        assert!(far.lost_packets() >= 1, "what is lost is counted");
    }
    let LinkBytes { received, sent, .. } = near.bytes();
    assert!(sent > received, "datagrams went one way: {received} and {sent} bytes");
}

#[test]
fn packets_are_as_large_as_the_mtu_says_and_no_larger() {
    if !need("packets_are_as_large_as_the_mtu_says_and_no_larger", &NETWORK) {
        return;
    }
    for mtu in [1280_usize, 1500, 9000] {
        let network = Network::new(u32::try_from(mtu).expect("it is small"));
        let (near, far) = (network.attach(), network.attach());
        let wire = Wire::between(&near, &far);
        // Heads: 20 bytes of IPv4, 8 of UDP, and 14 of Ethernet, which the MTU does not count.
        let largest = mtu - 28;
        let carried = |bytes: usize| {
            let carried = (0..5).map(|_| {
                let before = near.bytes().sent;
                assert!(wire.sent(bytes, Duration::from_secs(10)), "{bytes} bytes at {mtu}");
                near.bytes().sent - before
            });
            // Now and then a host looks for another, or for a router.
            carried.min().expect("there are five")
        };
        assert_eq!(carried(largest), mtu as u64 + 14, "one packet");
        assert_eq!(carried(largest + 1), mtu as u64 + 1 + 14 + 20 + 14, "two packets");
    }
}

/// Over real sockets, both ways.
#[test]
fn a_disordered_port_brings_all_but_not_in_order_and_some_twice() {
    if !need("a_disordered_port_brings_all_but_not_in_order_and_some_twice", &NETWORK) {
        return;
    }
    let network = Network::new(1500);
    let (near, far, between) = (network.attach(), network.attach(), network.attach());
    let disorder = Disorder { late_percent: 20, overtaken_by_max: 6, twice_percent: 10 };
    let server = far.namespace().enter(|| UdpSocket::bind(far.at(7000)).expect("a port is free"));
    let ports = DisorderedPorts::before(&between, &[far.at(7000)], disorder, 1);
    assert_ne!(ports.address(0).ip(), far.at(7000).ip());
    let client = near.namespace().enter(|| UdpSocket::bind(near.at(7001)).expect("a port is free"));
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(SOON)).expect("a socket takes options");
    }
    let echo = || {
        let mut buffer = [0; 16];
        while let Ok((len, from)) = server.recv_from(&mut buffer) {
            server.send_to(&buffer[..len], from).expect("the port takes datagrams");
        }
    };
    let hear = || {
        let (mut came, mut number) = (Vec::new(), [0; 2]);
        while client.recv_from(&mut number).is_ok() {
            came.push(u16::from_le_bytes(number));
        }
        came
    };
    let mut came = thread::scope(|scope| {
        scope.spawn(echo);
        let heard = scope.spawn(hear);
        for sent in 0..500_u16 {
            client.send_to(&sent.to_le_bytes(), ports.address(0)).expect("the port takes datagrams");
            // No faster than they are carried: what finds no room in a socket is lost.
            if sent % 10 == 9 {
                darter_tests::pause(Duration::from_millis(5));
            }
        }
        heard.join().expect("it hears until nothing comes")
    });
    let (late, twice) = ports.counts();
    println!("{} came of 500; {late} were late and {twice} came twice", came.len());
    assert!(late > 0 && twice > 0 && !came.is_sorted());
    assert!(came.len() > 500, "some came twice");
    came.sort_unstable();
    came.dedup();
    assert_eq!(came.len(), 500, "none is lost");
}

/// A datagram's way from host to host.
struct Wire {
    near: UdpSocket,
    far: UdpSocket,
    far_address: SocketAddr,
}

impl Wire {
    fn between(near: &Host, far: &Host) -> Wire {
        let bound = |host: &Host| {
            host.namespace().enter(|| UdpSocket::bind((host.address(), 0)).expect("a port is free"))
        };
        let (near, far) = (bound(near), bound(far));
        let far_address = far.local_addr().expect("a socket has an address");
        Wire { near, far, far_address }
    }

    /// That none is lost is seen when it comes, however late; that one is, only by waiting.
    fn carries(&self) -> bool {
        self.sent(1, Duration::from_secs(10))
    }

    fn loses(&self) -> bool {
        !self.sent(1, SOON)
    }

    fn sent(&self, bytes: usize, soon: Duration) -> bool {
        self.far.set_read_timeout(Some(soon)).expect("a socket takes options");
        // A link that is down may say so.
        let _ = self.near.send_to(&vec![0; bytes], self.far_address);
        match self.far.recv(&mut vec![0; 65_536]) {
            Ok(got) => got == bytes,
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
                false
            }
        }
    }
}

/// A word over TCP, answered.
fn tcp(near: &Host, far: &Host) -> bool {
    let listener = far.namespace().enter(|| TcpListener::bind((far.address(), 0)).expect("a port is free"));
    let to = listener.local_addr().expect("a listener has an address");
    let from: Ipv4Addr = near.address();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, peer) = listener.accept().expect("somebody connects");
            assert_eq!(peer.ip(), from);
            stream.write_all(b"word").expect("it is read");
        });
        let mut stream: TcpStream = near.namespace().connect(to).expect("a host is reached");
        let mut said = [0; 4];
        stream.read_exact(&mut said).is_ok_and(|()| &said == b"word")
    })
}
