//! The network falls into two parts, each with seeds and each with a way to the registry. Both go on; when it is healed
//! they are one again, and what either has needs no registry.

use darter_tests::need::need;
use darter_tests::net::{NETWORK, Node, Plan, at_once};

const MIB: u64 = 1 << 20;
const BITS_PER_S: u64 = 50_000_000;

#[test]
fn both_sides_finish_and_heal() {
    if !need("both_sides_finish_and_heal", &NETWORK) {
        return;
    }
    let cluster = Plan::new(3, 6).bits_per_s(BITS_PER_S).start();
    cluster.wait_until_joined();
    let blob = cluster.origin().blob(1, 32 * MIB);
    // Two seeds on one side, one on the other.
    let (near, far): (Vec<_>, Vec<_>) =
        cluster.nodes().iter().enumerate().partition(|(place, _)| place % 2 == 0);
    let (near, far): (Vec<&Node>, Vec<&Node>) =
        (near.into_iter().map(|(_, node)| node).collect(), far.into_iter().map(|(_, node)| node).collect());
    let makespan = std::thread::scope(|scope| {
        let pulling = scope.spawn(|| at_once(cluster.peers(), |peer| peer.pull(&blob)));
        cluster.wait_until_given(blob.len() / 5);
        part(&near, &far);
        pulling.join().expect("all pulls end well")
    });
    let given = cluster.origin().blob_bytes() as f64 / blob.len() as f64;
    println!("parted at a fifth: {makespan}; the registry gave {given:.3} of the blob");
    assert!((1.0..=2.0).contains(&given), "the registry gave {given:.3} of the blob");

    for node in cluster.nodes() {
        node.host().be_deaf_to([]);
    }
    cluster.wait_until_joined();
    at_once(cluster.nodes(), |node| node.pull(&blob));
    assert_eq!(cluster.origin().blob_bytes(), 0, "what the cluster has is asked of the registry");
}

fn part(near: &[&Node], far: &[&Node]) {
    let addresses = |nodes: &[&Node]| nodes.iter().map(|node| node.host().address()).collect::<Vec<_>>();
    for (nodes, others) in [(near, addresses(far)), (far, addresses(near))] {
        for node in nodes {
            node.host().be_deaf_to(others.iter().copied());
        }
    }
}
