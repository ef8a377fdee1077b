//! Links between nodes that lose, disorder or repeat packets, take only small or very large ones, or no UDP: all pulls
//! end well, over whichever lane there is.

use std::net::Ipv4Addr;

use darter_tests::need::need;
use darter_tests::net::{Cluster, Disorder, DisorderedPorts, NETWORK, Node, Plan, at_once};

const MIB: u64 = 1 << 20;

#[test]
fn five_percent_are_lost() {
    lossy("five_percent_are_lost", 5, 16 * MIB);
}

#[test]
fn twenty_percent_are_lost() {
    lossy("twenty_percent_are_lost", 20, 4 * MIB);
}

fn lossy(test: &str, percent: u8, blob_bytes: u64) {
    if !need(test, &NETWORK) {
        return;
    }
    let cluster = Plan::new(2, 4).start();
    cluster.wait_until_joined();
    // The registry is not far; it is the nodes' links that are bad.
    let nodes: Vec<Ipv4Addr> = cluster.nodes().iter().map(|node| node.host().address()).collect();
    for node in cluster.nodes() {
        node.host().lose(percent, nodes.iter().copied());
    }
    all_pull(&cluster, blob_bytes);
    let lost: u64 = cluster.nodes().iter().map(|node| node.host().lost_packets()).sum();
    println!("{lost} packets were lost");
    // At an MTU of 1500 a blob is many more than this, and it comes to four peers.
    let packets = blob_bytes / 1500 * u64::from(percent) / 100;
    assert!(lost > packets, "the links lost {lost} packets only");
}

#[test]
fn datagrams_come_out_of_order_and_twice() {
    if !need("datagrams_come_out_of_order_and_twice", &NETWORK) {
        return;
    }
    let disorder = Disorder { late_percent: 10, overtaken_by_max: 6, twice_percent: 5 };
    let mut ports = None;
    let plan = Plan::new(2, 4);
    let cluster = plan.start_seen(|_, between, own| {
        let made = ports.insert(DisorderedPorts::before(between, own, disorder, 1));
        (0..own.len()).map(|place| made.address(place)).collect()
    });
    cluster.wait_until_joined();
    let given = all_pull(&cluster, 8 * MIB);
    let (late, twice) = ports.expect("they were made").counts();
    println!("{late} datagrams were late and {twice} came twice");
    assert!(late > 0 && twice > 0, "the nodes went past the disordered ports");
    assert_eq!(given, 8 * MIB, "the registry gave something twice: {}", cluster.bill());
}

#[test]
fn small_packets() {
    with_mtu("small_packets", 1280);
}

#[test]
fn large_packets() {
    with_mtu("large_packets", 9000);
}

fn with_mtu(test: &str, mtu: u32) {
    if !need(test, &NETWORK) {
        return;
    }
    let cluster = Plan::new(2, 4).mtu(mtu).start();
    cluster.wait_until_joined();
    cluster.nodes().iter().for_each(|node| node.host().carry_singly());
    let before = sent(&cluster);
    let given = all_pull(&cluster, 16 * MIB);
    let mean = {
        let after = sent(&cluster);
        (after.0 - before.0) / (after.1 - before.1)
    };
    println!("a packet of the nodes is of {mean} bytes");
    // Bytes go in large packets, as soon as a connection has found out how large ones get through; what acknowledges
    // them goes in small ones. At an MTU of 1200 the mean would be less than half of this at 9000.
    assert!(mean > u64::from(mtu) / 3, "packets of {mean} bytes on links that carry {mtu}");
    assert_eq!(given, 16 * MIB, "the registry gave something twice: {}", cluster.bill());
}

#[test]
fn udp_is_blocked() {
    if !need("udp_is_blocked", &NETWORK) {
        return;
    }
    let cluster = Plan::new(3, 4).start_blocked();
    cluster.wait_until_joined();
    let given = all_pull(&cluster, 16 * MIB);
    assert_eq!(given, 16 * MIB, "the registry gave something twice: {}", cluster.bill());
    for seed in cluster.seeds() {
        // All others try UDP first.
        assert!(seed.host().lost_packets() > 0, "{} lost no datagram", seed.host().address());
    }
}

/// What all nodes have sent, in bytes and in packets.
fn sent(cluster: &Cluster) -> (u64, u64) {
    let carried = cluster.nodes().iter().map(|node| node.host().bytes());
    carried.fold((0, 0), |(bytes, packets), carried| (bytes + carried.sent, packets + carried.sent_packets))
}

/// What the registry gave for it, in bytes.
fn all_pull(cluster: &Cluster, blob_bytes: u64) -> u64 {
    let blob = cluster.origin().blob(1, blob_bytes);
    let makespan = at_once(cluster.peers(), |peer: &Node| peer.pull(&blob));
    let given = cluster.origin().blob_bytes();
    println!("{makespan}; the registry gave {:.3} of the blob", given as f64 / blob_bytes as f64);
    given
}
