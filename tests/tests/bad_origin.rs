//! The registry is slow, breaks off, answers nonsense or gives wrong bytes.
//!
//! nydusd serves a flipped byte silently and takes a truncated answer for a broken disk, so the daemon mends
//! what can be mended, refuses before the head what cannot, and never ends an answer as if it were whole when
//! it is not.

use std::time::{Duration, Instant};

use darter::demo::registry::Faults;
use darter_tests::{Daemon, Io, Origin, on_both_io, wait_until};

on_both_io!(
    a_body_that_is_cut_is_taken_up_again,
    a_whole_blob_in_answer_to_a_range_is_used,
    errors_become_the_daemons_own,
    a_stall_is_refused_in_time,
    a_wrong_blob_is_never_whole,
);

const BLOB_BYTES: u64 = (6 << 20) + 77;
/// The daemon decides after 3.5 s; the rest is for a machine under load.
const IN_TIME: Duration = Duration::from_secs(15);

fn a_body_that_is_cut_is_taken_up_again(io: Io) {
    right_in_spite_of(io, Faults { cut_body_after: Some(700_000), ..Faults::default() });
}

fn a_whole_blob_in_answer_to_a_range_is_used(io: Io) {
    right_in_spite_of(io, Faults { ignore_range: true, ..Faults::default() });
}

fn right_in_spite_of(io: Io, faults: Faults) {
    let origin = Origin::start();
    let blob = origin.blob(1, BLOB_BYTES);
    origin.faults(faults);
    let daemon = Daemon::builder().over(io).registry(&origin.url()).prefetch(false).start();
    let mut client = daemon.client();
    for range in [BLOB_BYTES - 1000..BLOB_BYTES, 70_000..3_000_000, blob.whole()] {
        blob.read(&mut client, range).expect("a whole answer");
    }
    let reading = client.send(&blob.get()).expect("the front answers");
    blob.check(reading, blob.whole()).expect("a whole answer");
}

fn errors_become_the_daemons_own(io: Io) {
    let origin = Origin::start();
    let blob = origin.blob(1, BLOB_BYTES);
    let daemon = Daemon::builder().over(io).registry(&origin.url()).prefetch(false).start();
    for status in [429, 500, 503] {
        origin.faults(Faults { status: Some(status), ..Faults::default() });
        for request in [blob.get(), blob.get_range(0..1 << 20)] {
            let asked = Instant::now();
            let answer = daemon.client().fetch(&request).expect("the front answers");
            assert!((502..=504).contains(&answer.status()), "{status} became {:?}", answer.head);
            assert_eq!(answer.header("X-Dragonfly-Error-Type"), Some("proxy"), "{status}");
            assert!(asked.elapsed() < IN_TIME, "{status} took {:?}", asked.elapsed());
        }
    }
}

fn a_stall_is_refused_in_time(io: Io) {
    let origin = Origin::start();
    let blob = origin.blob(1, BLOB_BYTES);
    let daemon = Daemon::builder().over(io).registry(&origin.url()).prefetch(false).start();
    origin.faults(Faults { stall_after: Some(0), ..Faults::default() });
    let asked = Instant::now();
    let answer = daemon.client().fetch(&blob.get_range(0..1 << 20)).expect("the front answers");
    assert!((502..=504).contains(&answer.status()), "{:?}", answer.head);
    assert!(asked.elapsed() < IN_TIME, "refused after {:?}", asked.elapsed());
    // And the blob is not lost for ever.
    origin.faults(Faults::default());
    let again = || daemon.client().fetch(&blob.get_range(0..1 << 20)).expect("the front answers");
    let outlived = || "the stall has outlived its cause".to_owned();
    wait_until(Duration::from_secs(60), || again().status() == 206, outlived);
}

fn a_wrong_blob_is_never_whole(io: Io) {
    let origin = Origin::start();
    let blob = origin.blob(1, BLOB_BYTES);
    origin.faults(Faults { flip_byte_at: Some(1_000_000), ..Faults::default() });
    let daemon = Daemon::builder().over(io).registry(&origin.url()).prefetch(false).start();
    for _ in 0..2 {
        let answer = daemon.client().fetch(&blob.get());
        let refused = answer.as_ref().map_or(true, |answer| answer.status() == 502);
        assert!(refused, "a wrong blob was served whole: {:?}", answer.map(|answer| answer.head));
    }
}
