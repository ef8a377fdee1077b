//! A node that others take blocks from stands still without a word, as one does whose machine swaps or whose disk
//! hangs: its connections live, and nothing comes. Its children go on from others within a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use darter_tests::need::need;
use darter_tests::net::{Cluster, NETWORK, Node, Plan, at_once};
use darter_tests::{Blob, Holdings, pause, wait_until};
use rustix::process::Signal;

const MIB: u64 = 1 << 20;
const BITS_PER_S: u64 = 50_000_000;
/// Without an answer for so long a child goes on from another parent.
const GOES_ON_WITHIN: Duration = Duration::from_secs(1);

/// A machine that is busy with something else for a second is not this one's fault: of so many tries the middle one counts.
const TRIES: usize = 3;

#[test]
fn its_children_go_on() {
    if !need("its_children_go_on", &NETWORK) {
        return;
    }
    let cluster = Plan::new(1, 6).bits_per_s(BITS_PER_S).start();
    cluster.wait_until_joined();
    let mut rests: Vec<Duration> = (0..TRIES).map(|number| with_one_stopped(&cluster, number)).collect();
    rests.sort_unstable();
    let middle = rests[TRIES / 2];
    assert!(middle <= GOES_ON_WITHIN, "children rested for {rests:?}");
}

/// How long a child rested at most after the peer of that number had stopped.
fn with_one_stopped(cluster: &Cluster, number: usize) -> Duration {
    let blob = cluster.origin().blob(number as u64, 16 * MIB);
    let parent = &cluster.peers()[number];
    // With all of it beside the seed, it is the one to take from.
    parent.pull(&blob);
    let children = cluster.peers().iter().enumerate().filter(|(place, _)| *place != number);
    let children: Vec<&Node> = children.map(|(_, child)| child).collect();
    let (is_over, before) = (&AtomicBool::new(false), parent.host().bytes().sent);
    thread::scope(|scope| {
        let pulling = scope.spawn(|| at_once(&children, |child| child.pull(&blob)));
        let sent = || parent.host().bytes().sent - before;
        wait_until(Duration::from_secs(20), || sent() > 4 * MIB, || format!("it has sent {} bytes", sent()));
        parent.daemon().signal(Signal::STOP);
        let watching: Vec<_> =
            children.iter().map(|child| scope.spawn(|| longest_rest(child, &blob, is_over))).collect();
        let makespan = pulling.join().expect("all pulls end well");
        is_over.store(true, Ordering::Relaxed);
        parent.daemon().signal(Signal::CONT);
        let rests = watching.into_iter().map(|rest| rest.join().expect("the admin port answers"));
        let longest = rests.max().expect("there are children");
        println!("{makespan}; no child rested for longer than {longest:?}");
        longest
    })
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
