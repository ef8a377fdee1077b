//! The daemon is killed in the middle of its work, again and again, on the same directory.
//!
//! The kernel keeps what was written; what is in danger is the order in which data and records are written. A
//! record that is ahead of its data would show as a wrong byte after the restart; so everything read is
//! compared, before and after each crash.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use darter_tests::{Blob, Client, Crashes, Daemon, Io, Origin, on_both_io, pause};

on_both_io!(forty_crashes_lose_nothing_that_was_durable, twenty_crashes_and_no_wrong_byte);

const CRASHES: u64 = 20;
const READERS: u64 = 4;
const CAPACITY: &str = "64MiB";
const BLOBS: usize = 7;
/// So many fit, and are found again. All of them do not, so that slots are evicted and filled anew when the
/// crash comes. The load changes from crash to crash.
const BLOBS_THAT_FIT: usize = 3;
const BLOB_BYTES: u64 = (12 << 20) + 4_321;

fn forty_crashes_lose_nothing_that_was_durable(io: Io) {
    let mut crashes = Crashes::begin(io, None);
    (0..40).for_each(|seed| crashes.crash(seed, Daemon::kill9));
    crashes.end();
}

fn twenty_crashes_and_no_wrong_byte(io: Io) {
    let origin = Origin::start();
    let blobs: Vec<_> = (0..BLOBS as u64).map(|seed| origin.blob(seed, BLOB_BYTES)).collect();
    let mut daemon =
        Daemon::builder().over(io).registry(&origin.url()).capacity(CAPACITY).prefetch(false).start();
    for crash in 0..CRASHES {
        let wanted = if crash % 2 == 0 { &blobs[..BLOBS_THAT_FIT] } else { &blobs[..] };
        let crashing = AtomicBool::new(false);
        let life = Duration::from_millis(fastrand::Rng::with_seed(crash).u64(20..1500));
        thread::scope(|scope| {
            for reader in 0..READERS {
                let random = fastrand::Rng::with_seed(crash * READERS + reader);
                let client = daemon.client();
                let crashing = &crashing;
                scope.spawn(move || read_until_crash(client, wanted, random, crashing));
            }
            pause(life);
            crashing.store(true, Ordering::SeqCst);
            daemon.kill9();
        });
        let ready = daemon.restart();
        let kept = daemon.metrics().sum("darter_cache_used_bytes");
        println!("crash {crash} after {life:?}; ready after {ready:?} with {kept} bytes");
    }
    what_is_read_in_peace_is_soon_kept(&origin, &mut daemon, &blobs[0]);
}

/// A mixed load: small and large ranges, whole blobs, and readers that leave early.
fn read_until_crash(mut client: Client, blobs: &[Blob], mut random: fastrand::Rng, crashing: &AtomicBool) {
    while !crashing.load(Ordering::SeqCst) {
        let blob = &blobs[random.usize(0..blobs.len())];
        let len = random.u64(1..2 << 20);
        let start = random.u64(0..blob.len() - len);
        let read = match random.u8(0..10) {
            0 => client.send(&blob.get()).and_then(|reading| blob.check(reading, blob.whole())),
            1 => client.send(&blob.get()).map(drop),
            _ => blob.read(&mut client, start..start + len),
        };
        if let Err(error) = read {
            assert!(crashing.load(Ordering::SeqCst), "an answer failed without a crash: {error}");
        }
    }
}

/// A crash costs what was read just before. How long before is the store's to choose, so the delay of the
/// crash grows until nothing is lost.
fn what_is_read_in_peace_is_soon_kept(origin: &Origin, daemon: &mut Daemon, blob: &Blob) {
    let mut delay = Duration::from_millis(500);
    loop {
        blob.read(&mut daemon.client(), blob.whole()).expect("a whole answer");
        pause(delay);
        daemon.kill9();
        daemon.restart();
        origin.forget();
        blob.read(&mut daemon.client(), blob.whole()).expect("a whole answer");
        let lost = origin.blob_bytes();
        println!("{lost} bytes lost by a crash {delay:?} after they were read");
        if lost == 0 {
            return;
        }
        delay *= 2;
        assert!(delay < Duration::from_secs(30), "what is read does not outlive a crash");
    }
}
