//! A cluster pulls at the same moment what none of its nodes has: the registry gives each byte once, and the nodes give
//! it to each other.

use std::time::Duration;

use darter_tests::need::need;
use darter_tests::net::{NETWORK, Plan, at_once};
use darter_tests::{BLOCK_BYTES, Trace};

const MIB: u64 = 1 << 20;
const BITS_PER_S: u64 = 50_000_000;

#[test]
fn twelve_peers_pull_a_blob_at_once() {
    if !need("twelve_peers_pull_a_blob_at_once", &NETWORK) {
        return;
    }
    let cluster = Plan::new(3, 12).bits_per_s(BITS_PER_S).start();
    cluster.wait_until_joined();
    let blob = cluster.origin().blob(1, 64 * MIB);
    let makespan = at_once(cluster.peers(), |peer| peer.pull(&blob));
    // No link carries a blob quicker, and nobody has it before the registry's link has carried it.
    let bound = Duration::from_secs_f64((blob.len() * 8) as f64 / BITS_PER_S as f64);
    let ratio = makespan.last().as_secs_f64() / bound.as_secs_f64();
    println!(
        "{makespan}: {ratio:.2} of the bound of {bound:?}; the registry gave {:.3} of the blob; {:?}",
        cluster.origin().blob_bytes() as f64 / blob.len() as f64,
        cluster.nodes().iter().map(|node| node.host().bytes().sent / MIB).collect::<Vec<_>>(),
    );
    assert_eq!(cluster.origin().blob_bytes(), blob.len(), "the registry gave something twice");
}

#[test]
fn twelve_peers_boot_lazily_at_once() {
    if !need("twelve_peers_boot_lazily_at_once", &NETWORK) {
        return;
    }
    let boots = Trace::nydusd_boots();
    let trace = boots.iter().find(|trace| trace.name() == "nydusd-2.1.1-rafs6-boot").expect("it is there");
    let cluster = Plan::new(3, 12).bits_per_s(BITS_PER_S).start();
    cluster.wait_until_joined();
    let (origin, asked) = (cluster.origin(), cluster.asked_by_seeds());
    let blob = trace.blob(origin);
    let sent = |node: &darter_tests::net::Node| node.host().bytes().sent;
    let before: Vec<u64> = cluster.seeds().iter().map(sent).collect();
    let makespan = at_once(cluster.peers(), |peer| trace.replay_by(|| peer.client(), origin, &blob));
    let touched_bytes = blob.touched(trace.ranges());
    // Whoever owns a part of it sends that, with heads of packets and messages.
    let uploaded = cluster.seeds().iter().zip(&before).map(|(seed, before)| sent(seed) - before);
    let uploaded: Vec<u64> = uploaded.collect();
    let total: u64 = uploaded.iter().sum();
    println!(
        "{makespan}; {touched_bytes} bytes touched; the registry gave {:.3} of them, the seeds {:.2}: {uploaded:?}",
        origin.blob_bytes() as f64 / touched_bytes as f64,
        total as f64 / touched_bytes as f64,
    );
    // The first block tells the content's owner what it is, and the owner all others.
    assert!(origin.blob_bytes() <= touched_bytes + BLOCK_BYTES, "the registry gave something twice");
    assert!(total <= 3 * touched_bytes, "the seeds gave {total} bytes where {touched_bytes} were touched");
    let owner = cluster.owner_since(&asked).asked_bytes();
    assert!(owner > 0, "a seed has asked for them");
}
