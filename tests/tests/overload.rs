//! More connections, heads, readers and requests than a node can serve, out of malice or of a bug.
//!
//! The daemon sheds what is too much with a 4xx or a 503, takes no more memory than it may, and serves who means
//! well: during the flood where that is possible, after it in every case.

use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use darter_tests::need::{Need, need};
use darter_tests::{Blob, Daemon, MemoryCgroup, Origin, Raw, Request, SetAtEnd, p99, pause, wait_until};

/// Connections with slow heads.
const HEADS: usize = 5000;
/// Files of this process for the connections of the largest flood.
const FILES: Need = Need::OpenFiles(8000);

#[test]
fn slow_heads_do_not_keep_others_out() {
    if !need("slow_heads_do_not_keep_others_out", &[FILES]) {
        return;
    }
    let origin = Origin::start();
    let blob = origin.blob(1, 8 << 20);
    let daemon = Daemon::builder().registry(&origin.url()).prefetch(false).start();
    blob.read(&mut daemon.client(), blob.whole()).expect("a whole answer");
    let quiet = p99(&daemon, &blob);
    let over = AtomicBool::new(false);
    let begun = AtomicUsize::new(0);
    thread::scope(|scope| {
        let _over = SetAtEnd(&over);
        scope.spawn(|| drip_heads(&daemon, &begun, &over));
        let open = || daemon.metrics().sum("darter_connections");
        // On a busy machine the first of them are ended, after 10 s, before the last have come.
        let all = || begun.load(Ordering::Relaxed) == HEADS;
        wait_until(Duration::from_secs(120), all, || format!("{begun:?} of {HEADS} heads are begun"));
        let heads = open();
        let flooded = p99(&daemon, &blob);
        eprintln!("p99 of 128 KiB: quiet {quiet:?}, beside {heads} slow heads {flooded:?}");
        assert!(heads > 100.0, "{heads} slow heads at a time are none");
        // They end although they never stand still.
        wait_until(Duration::from_secs(60), || open() < 100.0, || format!("{} slow heads stay", open()));
    });
}

#[test]
fn beyond_the_limit_of_connections_is_503() {
    if !need("beyond_the_limit_of_connections_is_503", &[PRLIMIT]) {
        return;
    }
    let origin = Origin::start();
    let blob = origin.blob(1, 1 << 20);
    // 512 files are for other things, and each connection may need two: so many clients find a place.
    const PLACES: usize = 256;
    let daemon = Daemon::builder().registry(&origin.url()).open_files(1024).start();
    let ping = "GET /server/ping HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut kept: Vec<Raw> = (0..PLACES).map(|_| Raw::connect(daemon.front())).collect();
    for raw in &mut kept {
        raw.send(ping);
        assert_eq!(raw.byte().expect("an answer"), Some(b'H'));
    }
    // Many more than are told, so that those who tell are busy and the acceptor must not be.
    let mut beyond: Vec<Raw> = (0..500).map(|_| Raw::connect(daemon.front())).collect();
    let mut told = Raw::connect(daemon.front());
    beyond.truncate(0);
    let refused = || {
        told = Raw::connect(daemon.front());
        told.send(ping);
        told.byte().is_ok_and(|byte| byte == Some(b'H'))
    };
    wait_until(Duration::from_secs(30), refused, || "nobody is told that there is no place".to_owned());
    let (bytes, _) = told.read_to_end();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.starts_with("TTP/1.1 503 "), "{text}");
    assert!(
        text.contains("Retry-After: 1\r\n") && text.contains("X-Dragonfly-Error-Type: proxy\r\n"),
        "{text}"
    );
    assert!(daemon.metrics().sum("darter_connections_shed_total") >= 1.0);
    // Those who have a place keep it, and a free one is given out again.
    kept[0].send(ping);
    drop(kept.split_off(1));
    let served = || blob.read(&mut daemon.client(), 0..100_000).is_ok();
    wait_until(Duration::from_secs(30), served, || "places are not given out again".to_owned());
}

#[test]
fn readers_that_do_not_read_do_not_keep_others_out() {
    if !need("readers_that_do_not_read_do_not_keep_others_out", &[FILES]) {
        return;
    }
    let origin = Origin::start();
    let old = origin.blob(1, 48 << 20);
    let daemon = Daemon::builder().registry(&origin.url()).capacity("128MiB").prefetch(false).start();
    old.read(&mut daemon.client(), old.whole()).expect("a whole answer");
    // With what each of them holds they would fill all block buffers and lease the whole store.
    let mut stuck: Vec<Raw> = (0..1000).map(|_| Raw::connect(daemon.front())).collect();
    for (raw, first) in stuck.iter_mut().zip((0..).step_by(40_000)) {
        raw.send(format!("GET {} HTTP/1.1\r\nHost: a\r\nRange: bytes={first}-\r\n\r\n", old.target()));
    }
    let slots = daemon.metrics().sum("darter_cache_capacity_bytes") / f64::from(256 << 10);
    let leases = || daemon.metrics().sum("darter_cache_leases");
    wait_until(Duration::from_secs(30), || leases() > slots / 8.0, || "nobody holds anything".to_owned());
    for seed in 2..6 {
        let new = origin.blob(seed, 4 << 20);
        new.read(&mut daemon.client(), 0..1 << 20).expect("a new one is fetched");
        old.read(&mut daemon.client(), 1 << 20..5 << 20).expect("a kept one is read");
    }
    // What they held comes back although they stay. One that gets its first bytes only when others have ended holds
    // them for its own 60 s, so this comes in waves.
    let ended = || leases() < slots / 8.0;
    wait_until(Duration::from_secs(300), ended, || format!("{} leases of {slots} slots stay", leases()));
    drop(stuck);
}

#[test]
fn a_flood_in_256_mib_is_shed() {
    if !need("a_flood_in_256_mib_is_shed", &[Need::Root, Need::MemoryCgroup, FILES]) {
        return;
    }
    let cgroup = MemoryCgroup::make(256 << 20).expect("it was asked for before");
    let origin = Origin::start();
    let kept = origin.blob(1, 64 << 20);
    let mut daemon =
        Daemon::builder().registry(&origin.url()).capacity("512MiB").within(&cgroup).prefetch(false).start();
    kept.read(&mut daemon.client(), kept.whole()).expect("a whole answer");
    let blobs: Vec<Blob> = (2..18).map(|seed| origin.blob(seed, 32 << 20)).collect();
    let over = AtomicBool::new(false);
    let (served, shed, other) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| hold_large_heads(&daemon, 5000, &over));
        scope.spawn(|| {
            let stuck: Vec<_> = (0..300)
                .map(|reader: u64| begun(&daemon, &blobs[reader as usize % 8], reader * 77_777 % (20 << 20)))
                .collect();
            until(&over);
            drop(stuck);
        });
        for worker in 0..32 {
            let (daemon, blobs, over) = (&daemon, &blobs, &over);
            let (served, shed, other) = (&served, &shed, &other);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(worker);
                while !over.load(Ordering::Relaxed) {
                    let blob = &blobs[random.usize(..blobs.len())];
                    let first = random.u64(..31 << 20);
                    let request = match random.u8(..8) {
                        0 => blob.get(),
                        1 => Request::get(format!("/v2/no/such/{}", random.u64(..))),
                        _ => blob.get_range(first..first + random.u64(1..1 << 20)),
                    };
                    // What a client leaves is as good as what it reads.
                    match daemon.client().send(&request).map(|reading| reading.head().status) {
                        Ok(200 | 206) => served.fetch_add(1, Ordering::Relaxed),
                        Ok(400..=599) => shed.fetch_add(1, Ordering::Relaxed),
                        Ok(status) => panic!("{status} in a flood"),
                        Err(_) => other.fetch_add(1, Ordering::Relaxed),
                    };
                }
            });
        }
        let _over = SetAtEnd(&over);
        pause(Duration::from_secs(15));
    });
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let (peak, anonymous) = (daemon.memory_kib("VmHWM"), daemon.memory_kib("RssAnon"));
    eprintln!(
        "{} served, {} refused, {} broken off; at most {} MiB resident, {} MiB of memory now",
        count(&served),
        count(&shed),
        count(&other),
        peak >> 10,
        anonymous >> 10,
    );
    assert!(daemon.running(), "the daemon did not outlive the flood");
    assert_eq!(cgroup.oom_kills(), 0);
    assert!(count(&served) > 0, "nobody was served");
    kept.read(&mut daemon.client(), 5 << 20..6 << 20).expect("a whole answer");
    assert!(anonymous < 256 << 10, "{anonymous} KiB");
    let own_process = PathBuf::from(format!("/proc/{}", daemon.pid()));
    let outside = |file: &Path| {
        file.is_absolute()
            && !file.starts_with(daemon.data_dir())
            && !file.starts_with("/dev")
            && file != daemon.log_path()
            // The sandbox's rule for /proc/self lives as long as somebody has that directory open.
            && file != own_process
    };
    let outside: Vec<_> = daemon.open_files().into_iter().filter(|file| outside(file)).collect();
    assert!(outside.is_empty(), "{outside:?}");
    // The cgroup can go only when nobody is in it.
    daemon.stop();
    drop(daemon);
}

const PRLIMIT: Need = Need::Program { name: "prlimit", package: "util-linux" };

/// Begins [`HEADS`] requests, and goes on with each of them byte by byte without ever coming to an end.
fn drip_heads(daemon: &Daemon, begun: &AtomicUsize, over: &AtomicBool) {
    let mut heads: Vec<TcpStream> = (0..HEADS)
        .filter_map(|_| {
            begun.fetch_add(1, Ordering::Relaxed);
            let mut head = TcpStream::connect(daemon.front()).ok()?;
            head.write_all(b"GET /v2/ HTTP/1.1\r\nX: ").ok()?;
            Some(head)
        })
        .collect();
    // A byte of each in a second, spread over it as those of clients that know nothing of each other are.
    const TURNS: usize = 500;
    for turn in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let mut number = 0;
        heads.retain_mut(|head| {
            number += 1;
            // Those that the front has ended are let go.
            number % TURNS != turn % TURNS || head.write_all(b"y").is_ok()
        });
        pause(Duration::from_secs(1) / TURNS as u32);
    }
}

/// Begins requests with 30 KiB each, over and over.
fn hold_large_heads(daemon: &Daemon, count: usize, over: &AtomicBool) {
    let head = format!("GET /v2/ HTTP/1.1\r\nX: {}", "y".repeat(30 << 10));
    let mut heads: Vec<TcpStream> = Vec::new();
    while !over.load(Ordering::Relaxed) {
        heads.retain_mut(|head| head.write_all(b"y").is_ok());
        while heads.len() < count && !over.load(Ordering::Relaxed) {
            let Ok(mut stream) = TcpStream::connect(daemon.front()) else { break };
            if stream.write_all(head.as_bytes()).is_ok() {
                heads.push(stream);
            }
        }
        pause(Duration::from_millis(200));
    }
}

/// A reader of a blob that has its first byte and takes no more.
fn begun(daemon: &Daemon, blob: &Blob, first: u64) -> Raw {
    let mut raw = Raw::connect(daemon.front());
    raw.send(format!("GET {} HTTP/1.1\r\nHost: a\r\nRange: bytes={first}-\r\n\r\n", blob.target()));
    // In a flood it may be refused, or get nothing at all.
    let _ = raw.byte();
    raw
}

fn until(over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        pause(Duration::from_millis(50));
    }
}
