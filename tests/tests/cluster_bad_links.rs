//! Links between nodes that lose, disorder or repeat packets, take only small or very large ones, or no UDP: all pulls
//! end well, over whichever lane there is.

use std::net::Ipv4Addr;

use darter_tests::need::need;
use darter_tests::net::{Cluster, Disorder, DisorderedPorts, NETWORK, Node, Plan, at_once};

const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;

#[test]
fn five_percent_are_lost() {
    lossy("five_percent_are_lost", 5, 4 * MIB);
}

#[test]
fn twenty_percent_are_lost() {
    lossy("twenty_percent_are_lost", 20, 512 * KIB);
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
    assert_eq!(given, 8 * MIB, "the registry gave something twice");
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
    let given = all_pull(&cluster, 16 * MIB);
    assert_eq!(given, 16 * MIB, "the registry gave something twice");
}

#[test]
fn udp_is_blocked() {
    if !need("udp_is_blocked", &NETWORK) {
        return;
    }
    let cluster = Plan::new(3, 4).start_blocked();
    cluster.wait_until_joined();
    let given = all_pull(&cluster, 16 * MIB);
    assert_eq!(given, 16 * MIB, "the registry gave something twice");
}

/// What the registry gave for it, in bytes.
fn all_pull(cluster: &Cluster, blob_bytes: u64) -> u64 {
    let blob = cluster.origin().blob(1, blob_bytes);
    let makespan = at_once(cluster.peers(), |peer: &Node| peer.pull(&blob));
    let given = cluster.origin().blob_bytes();
    println!("{makespan}; the registry gave {:.3} of the blob", given as f64 / blob_bytes as f64);
    given
}
