//! An operator stops or upgrades the daemon while clients are reading.
//!
//! Asked once, it lets running answers end; asked twice, it ends at once. nydusd takes a truncated body for
//! an error of the container's file system, so the first must not cost a reader anything.

use std::io::Read;
use std::ops::Range;
use std::time::{Duration, Instant};

use darter::demo::registry::RegistryOptions;
use darter_tests::{Daemon, Io, Origin, Raw, on_both_io, pause, wait_until};
use rustix::process::Signal;

on_both_io!(
    sigterm_lets_a_download_end,
    ctrl_c_lets_a_download_end,
    a_second_signal_ends_at_once,
    what_was_read_just_before_is_kept,
    who_has_asked_before_the_stop_is_answered,
);

fn sigterm_lets_a_download_end(io: Io) {
    a_download_ends_right_after(io, Signal::TERM);
}

fn ctrl_c_lets_a_download_end(io: Io) {
    a_download_ends_right_after(io, Signal::INT);
}

fn a_download_ends_right_after(io: Io, signal: Signal) {
    // Two seconds for the whole blob: the signal comes in the middle.
    let origin = slow_registry(8 << 20);
    let blob = origin.blob(1, 16 << 20);
    let mut daemon = Daemon::builder().over(io).registry(&origin.url()).start();
    let mut client = daemon.client();
    let mut reading = client.send(&blob.get()).expect("the front answers");
    let mut begun = vec![0; 1 << 20];
    reading.read_exact(&mut begun).expect("the download begins");
    daemon.signal(signal);

    let mut rest = Vec::new();
    reading.read_to_end(&mut rest).expect("the download goes on to its end");
    begun.extend(rest);
    assert!(begun == blob.bytes(blob.whole()), "the download is not the blob");
    let status = daemon.wait(Duration::from_secs(20));
    assert!(status.success(), "{status}");
    daemon.restart();
}

fn a_second_signal_ends_at_once(io: Io) {
    // Five minutes for the whole blob: nothing ends it but the signals.
    let origin = slow_registry(200 << 10);
    let blob = origin.blob(1, 64 << 20);
    let mut daemon = Daemon::builder().over(io).registry(&origin.url()).start();
    let mut client = daemon.client();
    let mut reading = client.send(&blob.get()).expect("the front answers");
    reading.read_exact(&mut [0; 1 << 10]).expect("the download begins");
    daemon.signal(Signal::TERM);
    let asked_once = Instant::now();
    while asked_once.elapsed() < Duration::from_secs(1) {
        reading.read_exact(&mut [0; 1 << 10]).expect("asked once, the download goes on");
    }

    // Signals that are sent faster than they are taken count as one, so it is asked until it has understood.
    let asked_until_ended = || {
        daemon.signal(Signal::TERM);
        pause(Duration::from_millis(100));
        !daemon.running()
    };
    wait_until(Duration::from_secs(10), asked_until_ended, || "asked twice, it still runs".to_owned());
    drop(reading);
    daemon.restart();
}

fn what_was_read_just_before_is_kept(io: Io) {
    let origin = Origin::start();
    let blob = origin.blob(1, 64 << 20);
    let mut daemon = Daemon::builder().over(io).registry(&origin.url()).prefetch(false).start();
    // Readers get bytes before the disk does; the stop comes between.
    let ranges = || (0..8).map(|read| read << 22..(read + 1) << 22);
    ranges().for_each(|range| blob.read(&mut daemon.client(), range).expect("a whole answer"));
    daemon.stop();
    daemon.restart();
    origin.forget();
    ranges().for_each(|range| blob.read(&mut daemon.client(), range).expect("a whole answer"));
    assert_eq!(origin.blob_bytes(), 0, "what was read before the stop is paid for again");
}

fn who_has_asked_before_the_stop_is_answered(io: Io) {
    const CLIENTS: usize = 48;
    let origin = Origin::start();
    let blob = origin.blob(1, 4 << 20);
    let mut daemon = Daemon::builder().over(io).registry(&origin.url()).start();
    blob.read(&mut daemon.client(), blob.whole()).expect("a whole answer");
    let ask = |range: Range<u64>| {
        let (first, last) = (range.start, range.end - 1);
        format!("GET {} HTTP/1.1\r\nHost: a\r\nRange: bytes={first}-{last}\r\n\r\n", blob.target())
    };
    let first = 0..100;
    let second = 100..4196;
    // Half of them have been answered before, and their connections are kept.
    let kept: Vec<_> = (0..CLIENTS).map(|_| Raw::connect(daemon.front())).collect();
    let begun = blob.bytes(first.clone());
    let kept = kept.into_iter().map(|mut client| {
        client.send(ask(first.clone()));
        let mut got = Vec::new();
        while !got.ends_with(&begun) {
            got.push(client.byte().expect("an answer comes").expect("an answer is whole"));
        }
        client
    });
    let mut clients: Vec<_> = kept.collect();
    clients.extend((0..CLIENTS).map(|_| Raw::connect(daemon.front())));
    clients.iter_mut().for_each(|client| client.send(ask(second.clone())));
    // All of them have been asked, and some are still to be accepted.
    daemon.signal(Signal::TERM);
    for client in clients {
        let answers = client.answers();
        let [answer] = &answers[..] else { panic!("{} answers", answers.len()) };
        assert_eq!((answer.status, answer.whole), (206, true), "{}", answer.head);
        assert!(answer.body == blob.bytes(second.clone()), "a wrong byte");
    }
    let status = daemon.wait(Duration::from_secs(20));
    assert!(status.success(), "{status}");
}

fn slow_registry(bytes_per_s: u64) -> Origin {
    Origin::with(RegistryOptions { bandwidth_bytes_per_s: Some(bytes_per_s), ..RegistryOptions::default() })
}
