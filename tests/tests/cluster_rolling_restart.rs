//! A new version is rolled out: one node after the other is stopped and started while all read. What a node has begun
//! to answer it answers to the end, and the others do without it meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use darter_tests::need::need;
use darter_tests::net::{NETWORK, Node, Plan};
use darter_tests::{Blob, Origin, pause};

const MIB: u64 = 1 << 20;
const BITS_PER_S: u64 = 200_000_000;

#[test]
fn every_node_is_restarted_and_no_pull_fails() {
    if !need("every_node_is_restarted_and_no_pull_fails", &NETWORK) {
        return;
    }
    let cluster = Plan::new(3, 5).bits_per_s(BITS_PER_S).start();
    cluster.wait_until_joined();
    let (is_over, pulls, seed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(1));
    thread::scope(|scope| {
        for peer in cluster.peers() {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    // Most are read by several.
                    let blob = cluster.origin().blob(seed.fetch_add(1, Ordering::Relaxed) / 4, 2 * MIB);
                    pull_when_it_listens(peer, &blob);
                    pulls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // A pull that fails ends its thread with a panic, and the scope with it; the restarts need not know.
        for node in cluster.nodes() {
            let mut daemon = node.daemon();
            daemon.stop();
            let ready = daemon.restart();
            println!("{:?} at {} is back after {ready:?}", node.role(), node.host().address());
            drop(daemon);
            let (before, began) = (pulls.load(Ordering::Relaxed), Instant::now());
            while pulls.load(Ordering::Relaxed) < before + 5 && began.elapsed() < Duration::from_secs(20) {
                pause(Duration::from_millis(20));
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    println!("{} pulls; {}", pulls.load(Ordering::Relaxed), bill(cluster.origin()));
    assert!(pulls.load(Ordering::Relaxed) > 0);
}

/// Nobody can connect to a daemon between its stop and its start; who is connected is served to the end.
fn pull_when_it_listens(node: &Node, blob: &Blob) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut client = node.client();
        match client.send(&blob.get()) {
            Ok(answer) if answer.head().status == 200 => {
                let read = blob.check(answer, blob.whole());
                return read.unwrap_or_else(|error| panic!("{}: {error}", node.host().address()));
            }
            Ok(answer) => assert_eq!(answer.head().status, 503, "{:?}", answer.head()),
            Err(_) => {}
        }
        assert!(Instant::now() < deadline, "{} does not serve", node.host().address());
        pause(Duration::from_millis(20));
    }
}

fn bill(origin: &Origin) -> String {
    format!("the registry gave {} MiB", origin.blob_bytes() / MIB)
}
