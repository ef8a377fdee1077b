//! A container was booted from a lazily loaded image at one node of a cluster, and is booted at another.
//!
//! The requests are those of real nydusd boots. The first boot is a chain of misses, each a way to the owner; its order
//! is remembered, and so the second one finds blocks where it is about to read them. They are those that the first boot
//! read, and come from nodes that have them: the registry gives nothing more.

use std::collections::BTreeSet;
use std::time::Duration;

use darter_tests::need::need;
use darter_tests::net::{Cluster, NETWORK, Node, Plan};
use darter_tests::{BLOCK_BYTES, Blob, Trace, wait_until};

/// A client that rests for ten seconds has booted; this is for a machine that has a lot to do.
const TOLD_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn the_second_boot_is_brought_what_the_first_one_read() {
    if !need("the_second_boot_is_brought_what_the_first_one_read", &NETWORK) {
        return;
    }
    let cluster = Plan::new(1, 2).start();
    cluster.wait_until_joined();
    let [first, second] = two_peers(&cluster);
    // Some were recorded with one blob: each has its own here.
    let boots: Vec<(Trace, Blob)> = Trace::nydusd_boots()
        .into_iter()
        // nydusd's own prefetch asks for more at a time than the blocks that come ahead of it.
        .filter(|trace| !trace.name().contains("prefetch"))
        .zip(0x626f_6f74..)
        .map(|(trace, seed)| {
            let blob =
                cluster.origin().blob(seed, trace.ranges().map(|range| range.end).max().expect("reads"));
            (trace, blob)
        })
        .collect();
    for (trace, blob) in &boots {
        replay(&cluster, first, trace, blob);
    }
    assert_eq!(counted(first, "darter_boot_ahead_blocks_total"), 0, "nobody knew what came next");
    wait_until_recorded(first, boots.len() as u64);

    cluster.origin().forget();
    let written = || counted(second, "darter_cache_written_bytes_total");
    let written_before = written();
    for (trace, blob) in &boots {
        let (followed, ahead) = boots_of(second);
        replay(&cluster, second, trace, blob);
        let (now_followed, now_ahead) = boots_of(second);
        let read = blocks(trace).len() as u64;
        println!("{}: {} of {read} blocks came ahead", trace.name(), now_ahead - ahead);
        assert_eq!(now_followed - followed, 1, "{}: no list was followed", trace.name());
        // How many is a matter of speed: a client that does not wait asks for some in the same moment.
        assert!(now_ahead > ahead, "{}: nothing came ahead", trace.name());
    }
    assert_eq!(cluster.origin().blob_bytes(), 0, "the second boots asked the registry");
    let read: usize = boots.iter().map(|(trace, _)| blocks(trace).len()).sum();
    let came = written() - written_before;
    assert!(came <= read as u64 * BLOCK_BYTES, "{came} bytes came for {read} blocks that were read");
}

#[test]
fn a_client_that_reads_something_else_is_brought_nothing() {
    if !need("a_client_that_reads_something_else_is_brought_nothing", &NETWORK) {
        return;
    }
    let cluster = Plan::new(1, 2).start();
    cluster.wait_until_joined();
    let [first, second] = two_peers(&cluster);
    let blob = cluster.origin().blob(0x6f74_6865, 256 * BLOCK_BYTES);
    let read = |node: &Node, blocks: &mut dyn Iterator<Item = u64>| {
        let mut client = node.client();
        for block in blocks {
            let range = block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES;
            blob.read(&mut client, range).expect("the block comes");
        }
    };
    read(first, &mut (0..128).step_by(2));
    wait_until_recorded(first, 1);
    // One block of the list among others is a coincidence.
    read(second, &mut (129..256).step_by(2).chain([0]));
    wait_until(TOLD_WITHIN, || boots_of(second).0 == 1, || "no list was recalled".to_owned());
    assert_eq!(boots_of(second).1, 0, "blocks came ahead of who reads something else");
    read(second, &mut [2, 4].into_iter());
    let came = || boots_of(second).1 >= 32;
    wait_until(TOLD_WITHIN, came, || format!("{} blocks came ahead", boots_of(second).1));
}

fn two_peers(cluster: &Cluster) -> [&Node; 2] {
    let [first, second] = cluster.peers() else { panic!("there are two") };
    [first, second]
}

fn replay(cluster: &Cluster, node: &Node, trace: &Trace, blob: &Blob) {
    trace.replay_by(|| node.client(), cluster.origin(), blob);
}

/// Blocks that a boot reads.
fn blocks(trace: &Trace) -> BTreeSet<u64> {
    trace.ranges().flat_map(|range| range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES)).collect()
}

fn wait_until_recorded(node: &Node, boots: u64) {
    let recorded = || counted(node, "darter_boots_recorded_total");
    wait_until(TOLD_WITHIN, || recorded() == boots, || format!("{} of {boots} boots were told", recorded()));
}

/// How many boots were followed at a node, and how many blocks came ahead of them.
fn boots_of(node: &Node) -> (u64, u64) {
    (counted(node, "darter_boots_followed_total"), counted(node, "darter_boot_ahead_blocks_total"))
}

fn counted(node: &Node, name: &str) -> u64 {
    node.daemon().metrics().sum(name) as u64
}
