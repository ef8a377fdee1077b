//! The disk beneath a running daemon goes away, in part or whole: a slab is cut short or removed, a read fails.
//!
//! Every byte of every answer is compared. A page that is no longer there is zeros or a fault, whichever way it is
//! touched; neither may reach a client or end the daemon. An answer under way may end before its time, since its bytes
//! are gone; whoever asks again gets them from the registry.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use darter_tests::need::need;
use darter_tests::{Blob, Client, DISK, Daemon, Disk, FileSystem, Io, Origin, on_both_io, pause, wait_until};
use rustix::fs::{Advice, fadvise};

on_both_io!(
    a_slab_that_is_cut_to_nothing_under_load,
    a_slab_that_is_cut_in_the_middle_under_load,
    without_any_slab_left_everything_is_served_and_nothing_kept,
    a_slab_that_is_removed_is_read_on_and_made_anew_by_the_next_start,
    what_the_disk_cannot_read_is_fetched_again,
);

const MIB: u64 = 1 << 20;
/// A slab of 1 GiB and a smaller one, so that there is another when the first is gone.
const TWO_SLABS: &str = "1280MiB";
const ONE_SLAB: &str = "64MiB";
const READERS: u64 = 4;
/// What each reader reads to the end before, and again after the disk has failed.
const ANSWERS: u64 = 20;
/// Everything else has its own limits; this ends a test that hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon that holds two blobs, in its first slab.
struct Warm {
    origin: Origin,
    blobs: [Blob; 2],
    daemon: Daemon,
}

impl Warm {
    fn new(io: Io, capacity: &str) -> Warm {
        Warm::at(io, capacity, None)
    }

    fn at(io: Io, capacity: &str, data_dir: Option<&Path>) -> Warm {
        let origin = Origin::start();
        let blobs = [origin.blob(1, 24 * MIB + 123), origin.blob(2, 8 * MIB)];
        let builder = Daemon::builder().over(io).registry(&origin.url()).capacity(capacity).prefetch(false);
        let builder = match data_dir {
            Some(data_dir) => builder.data_dir(data_dir),
            None => builder,
        };
        let warm = Warm { origin, blobs, daemon: builder.start() };
        warm.read_all();
        assert_eq!(warm.cost_of_reading(), 0, "two blobs fit");
        warm
    }

    fn slab(&self, number: u32) -> PathBuf {
        self.daemon.data_dir().join(format!("store/slab-{number:05}"))
    }

    fn cut(&self, slab: u32, bytes: u64) {
        let slab = File::options().write(true).open(self.slab(slab)).expect("the slab is there");
        slab.set_len(bytes).expect("the slab can be cut");
    }

    fn read_all(&self) {
        for blob in &self.blobs {
            blob.read(&mut self.daemon.client(), blob.whole()).expect("a whole answer");
        }
        self.origin.wait_until_quiet();
    }

    /// Bytes that the registry gives while everything is read once, in short ranges and as a whole.
    fn cost_of_reading(&self) -> u64 {
        self.origin.wait_until_quiet();
        self.origin.forget();
        let mut client = self.daemon.client();
        for blob in &self.blobs {
            for start in (0..blob.len() - MIB).step_by(MIB as usize) {
                blob.read(&mut client, start + 5..start + MIB).expect("a whole answer");
            }
        }
        self.read_all();
        self.origin.blob_bytes()
    }

    fn slabs_out_of_service(&self) -> f64 {
        self.daemon.metrics().sum("darter_cache_slabs_out_of_service")
    }

    fn wait_until_out_of_service(&self, slabs: u32) {
        let seen = || self.slabs_out_of_service() == f64::from(slabs);
        wait_until(PATIENCE, seen, || format!("{slabs} slabs are not out of service"));
    }

    /// Readers at work, one of them slow, while `fails` happens to the disk.
    fn under_load(&mut self, fails: impl FnOnce(&Warm)) {
        let reading = AtomicBool::new(true);
        let answers: Vec<AtomicU64> = (0..READERS).map(|_| AtomicU64::new(0)).collect();
        let all_read = |more: u64| {
            let goals: Vec<u64> = answers.iter().map(|read| read.load(Ordering::SeqCst) + more).collect();
            let reached =
                || answers.iter().zip(&goals).all(|(read, goal)| read.load(Ordering::SeqCst) >= *goal);
            wait_until(PATIENCE, reached, || "the readers do not get on".to_owned());
        };
        thread::scope(|scope| {
            let _stop = Stop(&reading);
            for (reader, answers) in (0..READERS).zip(&answers) {
                let (client, blobs, reading) = (self.daemon.client(), &self.blobs, &reading);
                scope.spawn(move || read_on(client, blobs, reader, answers, reading));
            }
            let (client, blob, reading) = (self.daemon.client(), &self.blobs[0], &reading);
            scope.spawn(move || read_slowly(client, blob, reading));
            all_read(ANSWERS);
            fails(self);
            all_read(ANSWERS);
        });
        assert!(self.daemon.running(), "the daemon has ended");
    }
}

/// Lets the readers end, also when the test has failed.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// Reads random ranges and compares them. An answer may be cut; none may be wrong.
fn read_on(mut client: Client, blobs: &[Blob], reader: u64, answers: &AtomicU64, reading: &AtomicBool) {
    let mut random = fastrand::Rng::with_seed(reader);
    while reading.load(Ordering::SeqCst) {
        let blob = &blobs[random.usize(0..blobs.len())];
        let len = random.u64(1..2 * MIB);
        let start = random.u64(0..blob.len() - len);
        match blob.read(&mut client, start..start + len) {
            Ok(()) => _ = answers.fetch_add(1, Ordering::SeqCst),
            Err(error) => assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "a cut answer ends in order"),
        }
    }
}

/// Takes a whole blob so slowly that the daemon holds pages for it when the disk fails.
fn read_slowly(mut client: Client, blob: &Blob, reading: &AtomicBool) {
    while reading.load(Ordering::SeqCst) {
        let mut answer = client.send(&blob.get()).expect("an answer begins");
        let (mut at, mut part) = (0, vec![0; 64 << 10]);
        loop {
            match answer.read(&mut part) {
                Ok(0) => break,
                Ok(got) => {
                    assert!(part[..got] == blob.bytes(at..at + got as u64), "wrong bytes behind {at}");
                    at += got as u64;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "a cut answer ends in order");
                    break;
                }
            }
            if reading.load(Ordering::SeqCst) {
                pause(Duration::from_millis(5));
            }
        }
    }
}

fn a_slab_that_is_cut_to_nothing_under_load(io: Io) {
    check_cut(io, 0);
}

fn a_slab_that_is_cut_in_the_middle_under_load(io: Io) {
    // In the middle of what it holds.
    check_cut(io, 16 * MIB);
}

fn check_cut(io: Io, left_bytes: u64) {
    let mut warm = Warm::new(io, TWO_SLABS);
    warm.under_load(|warm| {
        warm.cut(0, left_bytes);
        warm.wait_until_out_of_service(1);
    });
    assert!(warm.origin.blob_bytes() > 0, "what was lost is fetched again");
    assert!(warm.daemon.log().contains("file=\"slab-00000\""), "the log names the slab");
    // The other slab takes what is fetched again. A write that was under way may still have been refused.
    warm.read_all();
    assert_eq!(warm.cost_of_reading(), 0, "what was fetched again is kept");
    // Growing again does not help: nobody knows what was lost.
    warm.cut(0, 1 << 30);
    pause(Duration::from_secs(1));
    assert_eq!(warm.slabs_out_of_service(), 1.0);

    warm.daemon.stop();
    warm.daemon.restart();
    assert_eq!(warm.slabs_out_of_service(), 0.0, "a start makes it whole");
    assert_eq!(warm.cost_of_reading(), 0, "what the other slab holds is found again");
}

fn without_any_slab_left_everything_is_served_and_nothing_kept(io: Io) {
    let mut warm = Warm::new(io, ONE_SLAB);
    warm.under_load(|warm| warm.cut(0, 0));
    warm.wait_until_out_of_service(1);
    for _ in 0..2 {
        assert!(warm.cost_of_reading() >= 32 * MIB, "there is nowhere to keep it");
    }
    assert!(warm.daemon.running());
    assert!(warm.daemon.metrics().sum("darter_unkept_bytes_total") > 0.0);
    warm.daemon.stop();
    warm.daemon.restart();
    warm.read_all();
    assert_eq!(warm.cost_of_reading(), 0, "a start makes the slab whole");
}

fn a_slab_that_is_removed_is_read_on_and_made_anew_by_the_next_start(io: Io) {
    let mut warm = Warm::new(io, ONE_SLAB);
    warm.under_load(|warm| fs::remove_file(warm.slab(0)).expect("the slab is there"));
    assert_eq!(warm.cost_of_reading(), 0, "what is open is there until it is closed");
    warm.daemon.stop();
    warm.daemon.restart();
    assert!(warm.daemon.log().contains("a slab is missing"), "the log says what was done");
    assert!(warm.cost_of_reading() >= 32 * MIB, "what was in it is fetched again");
    assert_eq!(warm.cost_of_reading(), 0, "and kept");
}

fn what_the_disk_cannot_read_is_fetched_again(io: Io) {
    if !need("what_the_disk_cannot_read_is_fetched_again", &DISK) {
        return;
    }
    // Without a journal nothing but the daemon's own writes makes the image longer again.
    let disk = Disk::new(FileSystem::Ext4WithoutJournal, 100 * MIB);
    let mut warm = Warm::at(io, ONE_SLAB, Some(&disk.directory()));
    warm.daemon.stop();
    let slab = File::open(warm.slab(0)).expect("the slab is there");
    slab.sync_all().expect("the slab can be synced");
    fadvise(&slab, 0, None, Advice::DontNeed).expect("pages can be dropped");
    drop(slab);
    // The blobs have 32 MiB, so some of them lie behind the first 24, wherever that is.
    disk.cut(24 * MIB);
    warm.daemon.restart();
    let cost = warm.cost_of_reading();
    assert!((1..=40 * MIB).contains(&cost), "{cost} bytes for a part of the disk");
    assert!(warm.daemon.log().contains("cannot be read"), "a read has failed");
    assert!(warm.daemon.metrics().sum("darter_cache_checks_failed_total") > 0.0);
    assert_eq!(warm.slabs_out_of_service(), 0.0, "what can be read is served on");
    // Until nothing is left that cannot be read: pieces fetched again get other slots.
    let read_on = || warm.cost_of_reading() == 0;
    wait_until(PATIENCE, read_on, || "what was lost is never kept".to_owned());
}
