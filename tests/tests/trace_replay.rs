//! A node boots a container from a lazily loaded image, and boots it again.
//!
//! The requests are those of real nydusd boots. What they may cost the registry is written in its bill: no
//! block twice, no block that nobody touched, and nothing at all the second time.

use std::time::Duration;

use darter::demo::registry::Tally;
use darter_tests::{Blob, Daemon, Io, Origin, Trace, on_both_io, wait_until};

on_both_io!(a_boot_costs_the_blocks_it_touches, a_boot_with_prefetch_costs_the_blob_once);

fn a_boot_costs_the_blocks_it_touches(io: Io) {
    for trace in Trace::nydusd_boots() {
        let origin = Origin::start();
        let blob = trace.blob(&origin);
        let mut daemon = Daemon::builder().over(io).registry(&origin.url()).prefetch(false).start();
        trace.replay(daemon.front(), &origin, &blob);
        origin.wait_until_quiet();
        let (cost, touched) = (origin.blob_bytes(), blob.touched(trace.ranges()));
        assert!(cost <= touched, "{}: {cost} bytes for {touched} touched", trace.name());
        costs_nothing_again(&mut daemon, &trace, &origin, &blob);
    }
}

fn a_boot_with_prefetch_costs_the_blob_once(io: Io) {
    for trace in Trace::nydusd_boots() {
        let origin = Origin::start();
        let blob = trace.blob(&origin);
        let mut daemon = Daemon::builder().over(io).registry(&origin.url()).prefetch(true).start();
        trace.replay(daemon.front(), &origin, &blob);
        wait_until_prefetched(&origin, &blob);
        let cost = origin.blob_bytes();
        assert_eq!(cost, blob.len(), "{}: not the blob once", trace.name());
        costs_nothing_again(&mut daemon, &trace, &origin, &blob);
    }
}

fn costs_nothing_again(daemon: &mut Daemon, trace: &Trace, origin: &Origin, blob: &Blob) {
    let replay = |daemon: &Daemon, when: &str| {
        origin.forget();
        trace.replay(daemon.front(), origin, blob);
        origin.wait_until_quiet();
        assert_eq!(origin.registry().counts().blob_get, Tally::default(), "{} {when}", trace.name());
    };
    replay(daemon, "again");
    daemon.stop();
    daemon.restart();
    replay(daemon, "after a restart");
}

/// The prefetch runs behind the readers and may be slowed down on purpose.
fn wait_until_prefetched(origin: &Origin, blob: &Blob) {
    let fetched = || origin.blob_bytes() >= blob.len();
    let missing = || format!("{} of {} bytes prefetched", origin.blob_bytes(), blob.len());
    wait_until(Duration::from_secs(120), fetched, missing);
    origin.wait_until_quiet();
}
