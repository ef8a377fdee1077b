//! A new version takes the place of one that is in use: another binary, the same directory and ports, while clients
//! read. Nothing that was held is lost or paid for again; and a client meets nothing worse than what clients try again
//! by themselves: nobody who listens, or an end before a byte of the answer. No answer that has begun is cut, and none
//! is wrong.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use darter_tests::{
    BLOCK_BYTES, Blob, Client, Daemon, Holdings, Io, Origin, built, on_both_io, pause, wait_until,
};
use tempfile::TempDir;

on_both_io!(an_upgrade_under_load_loses_nothing, an_upgrade_keeps_what_came_a_moment_before);

const MIB: u64 = 1 << 20;
const CAPACITY: &str = "256MiB";
const UPGRADES: u64 = 4;
const READERS: u64 = 6;
/// Held before the first upgrade.
const HELD: u64 = 6;
const HELD_BYTES: u64 = (5 << 20) + 4_321;
/// Read for the first time while the upgrades go on.
const FRESH: u64 = 12;
const FRESH_BYTES: u64 = 3 << 20;
/// A client gives up when nobody has served it for that long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What clients have met, all together.
#[derive(Debug, Default)]
struct Met {
    answers: AtomicU64,
    /// Nobody listened.
    refused: AtomicU64,
    /// A new connection ended before a byte of the answer.
    ended: AtomicU64,
}

/// The binary that was built, under another path, as a package brings it.
fn version(place: &Path, number: u64) -> PathBuf {
    let binary = place.join(format!("darter-{number}"));
    fs::copy(built("darter"), &binary).expect("the binary can be copied");
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    binary
}

fn binaries() -> TempDir {
    tempfile::tempdir().expect("a temporary directory can be made")
}

fn an_upgrade_under_load_loses_nothing(io: Io) {
    let (origin, place) = (Origin::start(), binaries());
    let blob = |seed: u64, len| origin.blob(seed, len);
    let held: Vec<_> = (0..HELD).map(|seed| blob(seed, HELD_BYTES)).collect();
    let fresh: Vec<_> = (HELD..HELD + FRESH).map(|seed| blob(seed, FRESH_BYTES)).collect();
    let first = version(place.path(), 0);
    let daemon = Daemon::builder().over(io).registry(&origin.url()).capacity(CAPACITY).prefetch(false);
    let mut daemon = daemon.binary(first).start();
    for blob in &held {
        blob.read(&mut daemon.client(), blob.whole()).expect("a whole answer");
    }
    origin.forget();
    let (met, is_over, front) = (Met::default(), AtomicBool::new(false), daemon.front());
    thread::scope(|scope| {
        for reader in 0..READERS {
            let (held, fresh, met, is_over) = (&held, &fresh, &met, &is_over);
            let random = fastrand::Rng::with_seed(reader);
            scope.spawn(move || read_on(Client::new(front), (held, fresh), random, (met, is_over)));
        }
        for number in 1..=UPGRADES {
            served_again(&met);
            let before = Holdings::now(&daemon);
            let stopped = Instant::now();
            daemon.stop();
            let away = stopped.elapsed();
            let ready = daemon.restart_as(&version(place.path(), number));
            let after = Holdings::now(&daemon);
            // What was read meanwhile may be more.
            for blob in &held {
                let digest = blob.digest();
                assert_eq!(
                    (before.held_bytes(&digest), after.held_bytes(&digest)),
                    (HELD_BYTES, HELD_BYTES),
                    "{digest}"
                );
            }
            assert_eq!(before.lost_in(&after), [], "upgrade {number}");
            println!("upgrade {number}: stopped in {away:?}, ready after {ready:?}");
        }
        served_again(&met);
        is_over.store(true, Ordering::Relaxed);
    });
    println!("{met:?}");
    for blob in &held {
        assert!(
            origin.bytes_by_block(blob).iter().all(|bytes| *bytes == 0),
            "what was held is paid for again"
        );
    }
    for blob in &fresh {
        let paid = origin.bytes_by_block(blob);
        assert!(
            paid.iter().all(|bytes| *bytes <= BLOCK_BYTES),
            "what was read before is paid for again: {paid:?}"
        );
    }
    daemon.stop();
    assert!(!daemon.log().contains("ERROR"), "{}", daemon.log());
}

/// Waits until clients are served by the daemon that runs now.
fn served_again(met: &Met) {
    let before = met.answers.load(Ordering::Relaxed);
    let is_served = || met.answers.load(Ordering::Relaxed) >= before + 4 * READERS;
    wait_until(PATIENCE, is_served, || format!("clients are not served: {met:?}"));
}

/// Ranges and whole blobs, of what is held and what is not, over kept connections and new ones.
fn read_on(
    mut client: Client,
    (held, fresh): (&[Blob], &[Blob]),
    mut random: fastrand::Rng,
    (met, is_over): (&Met, &AtomicBool),
) {
    while !is_over.load(Ordering::Relaxed) {
        let blobs = if random.u8(0..4) == 0 { fresh } else { held };
        let blob = &blobs[random.usize(0..blobs.len())];
        let range = match random.u8(0..6) {
            0 => blob.whole(),
            _ => {
                let len = random.u64(1..MIB);
                let start = random.u64(0..blob.len() - len);
                start..start + len
            }
        };
        if random.bool() {
            client = client.anew();
        }
        let deadline = Instant::now() + PATIENCE;
        while !served(&mut client, blob, range.clone(), met) {
            assert!(Instant::now() < deadline, "nobody serves");
            pause(Duration::from_millis(5));
        }
    }
}

/// Whether the request was answered, and right; otherwise it met what a client tries again by itself.
fn served(client: &mut Client, blob: &Blob, range: std::ops::Range<u64>, met: &Met) -> bool {
    let request = if range == blob.whole() { blob.get() } else { blob.get_range(range.clone()) };
    match client.send(&request) {
        Ok(answer) if answer.head().status == 503 => answer.finish().map(|_| false).expect("a whole refusal"),
        Ok(answer) => {
            blob.check(answer, range).unwrap_or_else(|error| panic!("an answer was cut: {error}"));
            met.answers.fetch_add(1, Ordering::Relaxed);
            true
        }
        Err(error) => {
            count(&error, met);
            false
        }
    }
}

fn count(error: &io::Error, met: &Met) {
    let counter = match error.kind() {
        ErrorKind::ConnectionRefused => &met.refused,
        ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe => &met.ended,
        _ => panic!("no client would try again after this: {error}"),
    };
    counter.fetch_add(1, Ordering::Relaxed);
}

fn an_upgrade_keeps_what_came_a_moment_before(io: Io) {
    let (origin, place) = (Origin::start(), binaries());
    let mut daemon = Daemon::builder().over(io).registry(&origin.url()).prefetch(false).start();
    let mut read = Vec::new();
    for number in 1..=UPGRADES {
        let blob = origin.blob(number, 2 * MIB);
        blob.read(&mut daemon.client(), blob.whole()).expect("a whole answer");
        daemon.stop();
        daemon.restart_as(&version(place.path(), number));
        read.push(blob);
        let holdings = Holdings::now(&daemon);
        for blob in &read {
            assert_eq!(holdings.held_bytes(&blob.digest()), 2 * MIB, "after upgrade {number}");
        }
    }
    origin.forget();
    for blob in &read {
        blob.read(&mut daemon.client(), blob.whole()).expect("a whole answer");
    }
    assert_eq!(origin.blob_bytes(), 0);
}
