//! A cluster pulls at the same moment what none of its nodes has: the registry gives each byte once, and the nodes give
//! it to each other.

use std::time::Duration;

use darter_tests::need::need;
use darter_tests::net::{NETWORK, Plan, at_once};

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
