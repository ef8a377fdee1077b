//! All seeds are gone, before a pull and in the middle of one. A pull never fails because the cluster is ill: each node
//! goes to the registry by itself.

use std::thread;

use darter_tests::need::need;
use darter_tests::net::{NETWORK, Node, Plan, at_once};
use rustix::process::Signal;

const MIB: u64 = 1 << 20;
const BITS_PER_S: u64 = 100_000_000;

#[test]
fn all_finish_from_the_registry() {
    if !need("all_finish_from_the_registry", &NETWORK) {
        return;
    }
    let cluster = Plan::new(3, 4).bits_per_s(BITS_PER_S).start();
    cluster.wait_until_joined();
    let (first, second) = (cluster.origin().blob(1, 16 * MIB), cluster.origin().blob(2, 4 * MIB));
    let makespan = thread::scope(|scope| {
        let pulling = scope.spawn(|| at_once(cluster.peers(), |peer| peer.pull(&first)));
        cluster.wait_until_given(first.len() / 4);
        cluster.seeds().iter().for_each(|seed| seed.daemon().kill9());
        pulling.join().expect("all pulls end well")
    });
    println!(
        "killed at a quarter: {makespan}; the registry gave {} MiB",
        cluster.origin().blob_bytes() / MIB
    );

    cluster.origin().forget();
    let makespan = at_once(cluster.peers(), |peer| peer.pull(&second));
    println!("dead before: {makespan}; the registry gave {} MiB", cluster.origin().blob_bytes() / MIB);
    assert!(cluster.origin().blob_bytes() >= second.len());
}

/// The kernel of its machine still takes what comes for it, so that nothing is refused and nothing breaks off.
#[test]
fn a_seed_that_stands_still_is_found_out() {
    if !need("a_seed_that_stands_still_is_found_out", &NETWORK) {
        return;
    }
    let cluster = Plan::new(1, 2).bits_per_s(BITS_PER_S).start();
    cluster.wait_until_joined();
    let seed = &cluster.seeds()[0];
    seed.daemon().signal(Signal::STOP);
    let blob = cluster.origin().blob(1, 4 * MIB);
    let makespan = at_once(cluster.peers(), |peer| peer.pull(&blob));
    println!("beside a seed that stands still: {makespan}");
    let has_gone_silent = |peer: &&Node| peer.log().contains("a node has gone silent");
    assert_eq!(cluster.peers().iter().filter(has_gone_silent).count(), 2);
    // It is a seed like any other when it goes on.
    seed.daemon().signal(Signal::CONT);
    cluster.wait_until_joined();
}
