//! The registry's answers begin well and break off, stall or crawl.
//!
//! What has come is kept and not paid for again; a reader waits as long as it is worth, and what cannot be had in
//! time is refused before the head, so that nydusd can go to the registry itself.

use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use darter_tests::{Asked, BLOCK_BYTES, Blob, Daemon, Fate, Io, Scripted, Step, on_both_io, pause};

on_both_io!(
    bodies_cut_anywhere_cost_no_byte_twice,
    a_body_that_stalls_is_taken_up_again,
    a_crawling_registry_is_read_in_the_end,
    bodies_that_break_off_for_ever_end_in_order,
    a_longer_body_than_promised_is_not_believed,
);

const BLOB_BYTES: u64 = (9 << 20) + 77;

fn scene(
    io: Io,
    len: u64,
    script: impl Fn(&Blob, &Asked) -> Vec<Step> + Send + Sync + 'static,
) -> (Blob, Scripted, Daemon) {
    let blob = Blob::synthetic(len, len);
    let scripted = blob.clone();
    let origin = Scripted::start(move |asked| script(&scripted, asked));
    let daemon = Daemon::builder().over(io).registry(&origin.url()).prefetch(false).start();
    (blob, origin, daemon)
}

/// The head of an answer with that part of a blob.
fn head(blob: &Blob, range: &Range<u64>) -> Step {
    Step::Head(format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {}-{}/{}\r\nContent-Length: {}",
        range.start,
        range.end - 1,
        blob.len(),
        range.end - range.start,
    ))
}

fn bodies_cut_anywhere_cost_no_byte_twice(io: Io) {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let random = Mutex::new(fastrand::Rng::with_seed(seed));
    let (blob, origin, daemon) = scene(io, BLOB_BYTES, move |blob, asked| {
        let range = asked.range(BLOB_BYTES);
        let mut random = random.lock().expect("no script panics");
        // Two in three, and at least a block on: the daemon gives up where nothing gets on.
        let least = (range.start + BLOCK_BYTES).min(range.end);
        let end = if random.u8(..3) > 0 { random.u64(least..=range.end) } else { range.end };
        vec![
            head(blob, &range),
            Step::Body(blob.bytes(range.start..end)),
            if end < range.end { Step::Close } else { Step::Pause(Duration::ZERO) },
        ]
    });
    let mut random = fastrand::Rng::with_seed(seed);
    let mut ranges = Vec::new();
    for _ in 0..8 {
        let start = random.u64(0..BLOB_BYTES - 1);
        ranges.push(start..random.u64(start + 1..=BLOB_BYTES.min(start + (4 << 20))));
    }
    ranges.push(blob.whole());
    for range in &ranges {
        blob.read(&mut daemon.client(), range.clone()).expect("a whole answer");
    }
    let touched = blob.touched(ranges);
    assert!(origin.body_bytes() <= touched + touched / 50, "{} bytes for {touched}", origin.body_bytes());
}

fn a_body_that_stalls_is_taken_up_again(io: Io) {
    let (blob, origin, daemon) = scene(io, BLOB_BYTES, |blob, asked| {
        let range = asked.range(BLOB_BYTES);
        match asked.number {
            // In the middle of a block.
            0 => vec![
                head(blob, &range),
                Step::Body(blob.bytes(range.start..range.start + 1_000_000)),
                Step::Hang,
            ],
            _ => vec![head(blob, &range), Step::Body(blob.bytes(range))],
        }
    });
    let started = Instant::now();
    let range = 0..2 << 20;
    let fate = Fate::of(&daemon, &blob, blob.get_range(range.clone()), range.clone());
    assert!(matches!(fate, Fate::Refused { status: 503, own: true } | Fate::Right), "{fate:?}");
    assert!(started.elapsed() < Duration::from_secs(15), "refused after {:?}", started.elapsed());
    // What came before the stall is there meanwhile.
    let fate = Fate::of(&daemon, &blob, blob.get_range(5..900_000), 5..900_000);
    assert_eq!(fate, Fate::Right);
    blob.read(&mut daemon.client(), range).expect("a whole answer");
    assert_eq!(Fate::of(&daemon, &blob, blob.get(), blob.whole()), Fate::Right);
    assert!(origin.body_bytes() <= BLOB_BYTES + BLOB_BYTES / 50, "{} bytes", origin.body_bytes());
}

fn a_crawling_registry_is_read_in_the_end(io: Io) {
    const CRAWLED: u64 = 100_000;
    // 10 KiB a second.
    let (blob, origin, daemon) = scene(io, CRAWLED, |blob, asked| {
        let range = asked.range(CRAWLED);
        let drops = blob.bytes(range.clone());
        let drops = drops
            .chunks(1024)
            .map(|drop| [Step::Body(drop.to_vec()), Step::Pause(Duration::from_millis(100))]);
        [head(blob, &range)].into_iter().chain(drops.flatten()).collect()
    });
    let started = Instant::now();
    let fate = Fate::of(&daemon, &blob, blob.get_range(0..90_000), 0..90_000);
    assert!(matches!(fate, Fate::Refused { status: 503, own: true }), "{fate:?}");
    assert!(started.elapsed() < Duration::from_secs(8), "refused after {:?}", started.elapsed());
    // Asked again and again, as nydusd does: it gets on, and nothing is asked of the registry twice.
    blob.read(&mut daemon.client(), 0..90_000).expect("a whole answer");
    assert_eq!(Fate::of(&daemon, &blob, blob.get(), blob.whole()), Fate::Right);
    assert!(origin.body_bytes() <= CRAWLED, "{} bytes", origin.body_bytes());
}

fn bodies_that_break_off_for_ever_end_in_order(io: Io) {
    // Beyond the half there is never a byte.
    const HALF: u64 = BLOB_BYTES / 2;
    let (blob, _origin, daemon) = scene(io, BLOB_BYTES, |blob, asked| {
        let range = asked.range(BLOB_BYTES);
        let end = range.end.min(HALF.max(range.start));
        vec![head(blob, &range), Step::Body(blob.bytes(range.start..end)), Step::Close]
    });
    for _ in 0..2 {
        assert_eq!(Fate::of(&daemon, &blob, blob.get(), blob.whole()), Fate::Cut);
    }
    let beyond = HALF + 200_000..HALF + 300_000;
    let fate = Fate::of(&daemon, &blob, blob.get_range(beyond.clone()), beyond);
    assert!(matches!(fate, Fate::Refused { status: 502..=503, own: true }), "{fate:?}");
    assert_eq!(Fate::of(&daemon, &blob, blob.get_range(0..1 << 20), 0..1 << 20), Fate::Right);
}

fn a_longer_body_than_promised_is_not_believed(io: Io) {
    // Bytes behind the end of an answer are no part of the next one's body.
    let (blob, _origin, daemon) = scene(io, BLOB_BYTES, |blob, asked| {
        let range = asked.range(BLOB_BYTES);
        vec![head(blob, &range), Step::Body(blob.bytes(range)), Step::Raw(vec![b'x'; 10_000])]
    });
    for range in [0..100, 1 << 20..2 << 20, 5 << 20..6 << 20] {
        blob.read(&mut daemon.client(), range).expect("a whole answer");
        pause(Duration::from_millis(20));
    }
    assert_eq!(Fate::of(&daemon, &blob, blob.get(), blob.whole()), Fate::Right);
}
