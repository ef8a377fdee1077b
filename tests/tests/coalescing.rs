//! Many containers start from one image at the same moment, on a node that has nothing of it yet.
//!
//! Whoever asks, in whatever pieces and on whichever core: the registry gives each block once.

use std::ops::Range;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use darter::demo::registry::RegistryOptions;
use darter_tests::{BLOCK_BYTES, Blob, Daemon, Io, Origin, on_both_io};

on_both_io!(
    overlapping_ranges_on_one_shard,
    overlapping_ranges_on_four_shards,
    whole_blobs_on_one_shard,
    whole_blobs_on_four_shards,
    ranges_and_whole_blobs_on_four_shards,
);

const CLIENTS: u64 = 64;
/// Not a multiple of a block, so that the last one is short.
const BLOB_BYTES: u64 = (24 << 20) + 12_345;
const WHOLE: Range<u64> = 0..BLOB_BYTES;

fn overlapping_ranges_on_one_shard(io: Io) {
    each_block_is_given_once(io, 1, ranges);
}

fn overlapping_ranges_on_four_shards(io: Io) {
    each_block_is_given_once(io, 4, ranges);
}

fn whole_blobs_on_one_shard(io: Io) {
    each_block_is_given_once(io, 1, |_| vec![WHOLE]);
}

fn whole_blobs_on_four_shards(io: Io) {
    each_block_is_given_once(io, 4, |_| vec![WHOLE]);
}

fn ranges_and_whole_blobs_on_four_shards(io: Io) {
    each_block_is_given_once(io, 4, |client| match client % 8 {
        0 => vec![WHOLE],
        _ => ranges(client),
    });
}

/// Four ranges of 1 to 5 MiB that lie elsewhere for each client, overlap, and begin and end within blocks.
fn ranges(client: u64) -> Vec<Range<u64>> {
    let mut random = fastrand::Rng::with_seed(client);
    let mut range = || {
        let len = random.u64(1 << 20..5 << 20);
        let start = random.u64(0..BLOB_BYTES - len);
        start..start + len
    };
    (0..4).map(|_| range()).collect()
}

/// All clients begin at once; client `c` reads `reads(c)` in that order.
fn each_block_is_given_once(io: Io, shards: u16, reads: fn(u64) -> Vec<Range<u64>>) {
    // A round trip to the registry takes longer than it takes all clients to ask.
    let latency = Duration::from_millis(50);
    let origin = Origin::with(RegistryOptions { latency, ..RegistryOptions::default() });
    let blob = origin.blob(u64::from(shards), BLOB_BYTES);
    let daemon = Daemon::builder().over(io).shards(shards).registry(&origin.url()).prefetch(false).start();
    let together = Barrier::new(usize::try_from(CLIENTS).expect("a number of threads"));
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (blob, daemon, together) = (&blob, &daemon, &together);
            scope.spawn(move || {
                let mut connection = daemon.client();
                together.wait();
                for range in reads(client) {
                    blob.read(&mut connection, range).expect("a whole answer");
                }
            });
        }
    });
    origin.wait_until_quiet();
    assert_eq!(origin.bytes_by_block(&blob), once(&blob, (0..CLIENTS).flat_map(reads)));
    let metrics = daemon.metrics();
    let waited = metrics.sum("darter_coalesced_requests_total");
    assert!(waited > 0.0, "nobody has waited for what another had asked for");
    let network = metrics.sum_where("darter_body_bytes_total", &["source=\"origin\""]);
    assert!(network > 0.0 && metrics.sum_where("darter_body_bytes_total", &["source=\"peers\""]) == 0.0);
}

/// The bill for each block: all of it if it was touched, or nothing.
fn once(blob: &Blob, ranges: impl Iterator<Item = Range<u64>>) -> Vec<u64> {
    let ranges: Vec<_> = ranges.collect();
    let blocks = (0..blob.len()).step_by(BLOCK_BYTES as usize);
    let bill = blocks.map(|start| {
        let block = start..(start + BLOCK_BYTES).min(blob.len());
        let touched = ranges.iter().any(|range| range.start < block.end && block.start < range.end);
        if touched { block.end - block.start } else { 0 }
    });
    bill.collect()
}
