//! The seed that brings a content from the registry is killed while all pull it. Its deputy takes over with what is
//! known of who holds what, and the registry gives no more again than what was on its way.

use std::thread;

use darter_tests::need::need;
use darter_tests::net::{NETWORK, Plan, at_once};

const MIB: u64 = 1 << 20;
const BITS_PER_S: u64 = 50_000_000;

#[test]
fn at_the_beginning() {
    killed_at("at_the_beginning", 10);
}

#[test]
fn half_way() {
    killed_at("half_way", 50);
}

#[test]
fn near_the_end() {
    killed_at("near_the_end", 90);
}

fn killed_at(test: &str, percent: u64) {
    if !need(test, &NETWORK) {
        return;
    }
    let cluster = Plan::new(3, 12).bits_per_s(BITS_PER_S).start();
    cluster.wait_until_joined();
    let blob = cluster.origin().blob(percent, 64 * MIB);
    let asked = cluster.asked_by_seeds();
    let makespan = thread::scope(|scope| {
        let pulling = scope.spawn(|| at_once(cluster.peers(), |peer| peer.pull(&blob)));
        cluster.wait_until_given(blob.len() * percent / 100);
        cluster.owner_since(&asked).daemon().kill9();
        let given = cluster.origin().blob_bytes();
        println!("the owner is killed when the registry has given {} MiB", given / MIB);
        pulling.join().expect("all pulls end well")
    });
    let given = cluster.origin().blob_bytes() as f64 / blob.len() as f64;
    println!("{percent} %: {makespan}; the registry gave {given:.3} of the blob");
    assert!(given >= 1.0, "a blob has to be given once");
    assert!(given <= 1.10, "the registry gave {given:.3} of the blob");
}
