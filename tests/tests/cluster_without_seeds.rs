//! All seeds are gone, before a pull and in the middle of one. A pull never fails because the cluster is ill: each node
//! goes to the registry by itself.

use std::thread;

use darter_tests::need::need;
use darter_tests::net::{NETWORK, Plan, at_once};

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
