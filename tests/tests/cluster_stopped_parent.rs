//! A node that others take blocks from stands still without a word, as one does whose machine swaps or whose disk
//! hangs: its connections live, and nothing comes. Its children go on from others within a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use darter_tests::need::need;
use darter_tests::net::{NETWORK, Node, Plan, at_once};
use darter_tests::{Blob, Holdings, pause};
use rustix::process::Signal;

const MIB: u64 = 1 << 20;
const BITS_PER_S: u64 = 50_000_000;
/// Without an answer for so long a child goes on from another parent.
const GOES_ON_WITHIN: Duration = Duration::from_secs(1);

#[test]
fn its_children_go_on() {
    if !need("its_children_go_on", &NETWORK) {
        return;
    }
    let cluster = Plan::new(1, 6).bits_per_s(BITS_PER_S).start();
    cluster.wait_until_joined();
    let blob = cluster.origin().blob(1, 48 * MIB);
    let (parent, children) = cluster.peers().split_first().expect("there are six");
    let is_over = &AtomicBool::new(false);
    let longest = thread::scope(|scope| {
        let pulling = scope.spawn(|| at_once(children, |child| child.pull(&blob)));
        let parents_own = scope.spawn(|| parent.pull(&blob));
        cluster.wait_until_given(blob.len() / 3);
        parent.daemon().signal(Signal::STOP);
        let watching: Vec<_> =
            children.iter().map(|child| scope.spawn(|| longest_rest(child, &blob, is_over))).collect();
        let makespan = pulling.join().expect("all pulls end well");
        is_over.store(true, Ordering::Relaxed);
        parent.daemon().signal(Signal::CONT);
        let rests = watching.into_iter().map(|rest| rest.join().expect("the admin port answers"));
        let longest = rests.max().expect("there are children");
        println!("{makespan}; no child rested for longer than {longest:?}");
        parents_own.join().expect("it goes on as well");
        longest
    });
    assert!(longest <= GOES_ON_WITHIN, "a child rested for {longest:?}");
}

/// How long nothing came that was kept, at most, until all has come.
fn longest_rest(node: &Node, blob: &Blob, is_over: &AtomicBool) -> Duration {
    let (mut admin, digest) = (node.daemon().admin_client(), blob.digest());
    let (mut held, mut since, mut longest) = (0, Instant::now(), Duration::ZERO);
    while held < blob.len() && !is_over.load(Ordering::Relaxed) {
        let now = Holdings::of(&mut admin).expect("the admin port answers").held_bytes(&digest);
        if now != held {
            (held, since) = (now, Instant::now());
        }
        longest = longest.max(since.elapsed());
        pause(Duration::from_millis(20));
    }
    longest
}
