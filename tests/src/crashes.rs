//! A daemon that is brought down in the middle of its work, again and again, on the same store.
//!
//! What is in danger is the order in which data and records are written. A record that is ahead of its data shows as
//! a wrong byte, so all that is read is compared; one that is behind what the daemon has said of itself shows as a
//! piece that was reported durable and is not found. So that this can be told, nothing is evicted here: what keeps
//! the store at work is that contents are removed by command and read again.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::{Blob, Client, Daemon, Holdings, Io, Origin, Request, pause};

const BLOBS: u64 = 6;
/// A dozen pieces and a part of one.
const BLOB_BYTES: u64 = (3 << 20) + 4_321;
/// Holds all blobs, and those that are being removed beside them.
const CAPACITY: &str = "64MiB";
const READERS: u64 = 3;
/// The daemon writes records every half second, and when somebody asks for it.
const LIFE_MS: std::ops::Range<u64> = 20..1000;
/// How soon a daemon is to serve again.
const READY_WITHIN: Duration = Duration::from_secs(2);

/// The daemon and what is read through it.
#[derive(Debug)]
pub struct Crashes {
    origin: Origin,
    blobs: Vec<Blob>,
    daemon: Daemon,
    ready: Vec<Duration>,
    durable_pieces: u32,
}

impl Crashes {
    /// A daemon with an empty store, in that directory if there is one.
    pub fn begin(io: Io, data_dir: Option<&Path>) -> Crashes {
        let origin = Origin::start();
        let blobs = (0..BLOBS).map(|seed| origin.blob(seed, BLOB_BYTES)).collect();
        let builder = Daemon::builder().over(io).registry(&origin.url()).capacity(CAPACITY).prefetch(false);
        let builder = match data_dir {
            Some(data_dir) => builder.data_dir(data_dir),
            None => builder,
        };
        Crashes { origin, blobs, daemon: builder.start(), ready: Vec::new(), durable_pieces: 0 }
    }

    /// Lets the daemon work for a while that depends on `seed`, brings it down, starts it again, and compares what it
    /// says and serves with what it has said.
    ///
    /// # Panics
    /// With the seed, when that is less.
    pub fn crash(&mut self, seed: u64, bring_down: impl FnOnce(&mut Daemon)) {
        let mut random = fastrand::Rng::with_seed(seed);
        let life = Duration::from_millis(random.u64(LIFE_MS));
        let crashing = AtomicBool::new(false);
        let reported = thread::scope(|scope| {
            for _ in 0..READERS {
                let (client, blobs, crashing) = (self.daemon.client(), &self.blobs, &crashing);
                let random = random.fork();
                scope.spawn(move || read_until_crash(client, blobs, random, crashing));
            }
            let (admin, blobs, crashing) = (Client::new(self.daemon.admin()), &self.blobs, &crashing);
            let random = random.fork();
            let reported = scope.spawn(move || ask_until_crash(admin, blobs, random, crashing));
            pause(life);
            crashing.store(true, Ordering::SeqCst);
            bring_down(&mut self.daemon);
            reported.join().expect("what is reported can be read")
        });
        let evicted = "darter_cache_evicted_pieces_total";
        let ready = self.daemon.restart();
        let found = Holdings::now(&self.daemon);
        println!(
            "seed {seed}: down after {life:?}, ready after {ready:?}; {} durable pieces reported, {} found",
            reported.all_durable_pieces(),
            found.all_durable_pieces(),
        );
        let lost = reported.lost_in(&found);
        assert!(lost.is_empty(), "seed {seed}: reported durable and not found: {lost:?}");
        self.read_what_is_found(&found, seed);
        assert_eq!(self.daemon.metrics().sum(evicted), 0.0, "seed {seed}: the blobs fit");
        self.ready.push(ready);
        self.durable_pieces += reported.all_durable_pieces();
    }

    /// What is found is served, at no cost; what is not is fetched, and all of it is right.
    fn read_what_is_found(&self, found: &Holdings, seed: u64) {
        self.origin.forget();
        let mut absent_bytes = 0;
        for blob in &self.blobs {
            blob.read(&mut self.daemon.client(), blob.whole()).expect("a whole answer");
            absent_bytes += blob.len() - found.held_bytes(&blob.digest());
        }
        let paid_bytes = self.origin.blob_bytes();
        assert!(paid_bytes <= absent_bytes, "seed {seed}: {paid_bytes} paid for {absent_bytes} not held");
    }

    /// Says how long the starts took.
    ///
    /// # Panics
    /// When that is too long for most of them (a single one may be the machine's), or nothing was ever at stake.
    pub fn end(mut self) {
        self.ready.sort_unstable();
        let (median, longest) = (self.ready[self.ready.len() / 2], self.ready[self.ready.len() - 1]);
        println!("{} crashes: ready after {median:?} in the median, {longest:?} at most", self.ready.len());
        assert!(median < READY_WITHIN, "ready after {median:?} in the median");
        assert!(self.durable_pieces > 0, "nothing was reported durable before any crash");
    }
}

/// Small and large ranges, whole blobs, and readers that leave early.
fn read_until_crash(mut client: Client, blobs: &[Blob], mut random: fastrand::Rng, crashing: &AtomicBool) {
    while !crashing.load(Ordering::SeqCst) {
        let blob = &blobs[random.usize(..blobs.len())];
        let len = random.u64(1..1 << 20);
        let start = random.u64(..blob.len() - len);
        let read = match random.u8(..10) {
            0 => client.send(&blob.get()).and_then(|reading| blob.check(reading, blob.whole())),
            1 => client.send(&blob.get()).map(drop),
            _ => blob.read(&mut client, start..start + len),
        };
        if let Err(error) = read {
            // Of a content that was removed meanwhile.
            let cut = error.kind() == ErrorKind::UnexpectedEof;
            assert!(cut || crashing.load(Ordering::SeqCst), "an answer failed without a crash: {error}");
        }
    }
}

/// Asks for what is durable until the crash, and gives the store work in between. Returns what the daemon can be held
/// to: the last answer, without what it was told to remove since.
///
/// What it says once the power is lost is not for anybody to hear: a sync that is under way in that moment may still
/// be told by ext4 that it succeeded, though its journal has been given up.
fn ask_until_crash(
    mut admin: Client,
    blobs: &[Blob],
    mut random: fastrand::Rng,
    crashing: &AtomicBool,
) -> Holdings {
    let mut last = Holdings::default();
    loop {
        let answer = Holdings::of(&mut admin);
        if crashing.load(Ordering::SeqCst) {
            return last;
        }
        last = answer.expect("the daemon answers until the crash");
        let blob = &blobs[random.usize(..blobs.len())];
        let content = format!("/api/v1/contents/{}", blob.digest());
        let command = match random.u8(..10) {
            0..3 => {
                last.forget(&blob.digest());
                Request::delete(content)
            }
            // Answered when what was written before is durable.
            3 => Request::post(content + "/pin"),
            4 => Request::post(content + "/unpin"),
            _ => {
                pause(Duration::from_millis(random.u64(1..20)));
                continue;
            }
        };
        // Nobody may answer any more.
        let _ = admin.fetch(&command);
    }
}
