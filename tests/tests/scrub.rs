//! Nobody asks, and what the disk has changed is found all the same: by the scrub, which reads what is kept again and
//! again. What it drops is fetched again when somebody wants it, and nothing else is. A crash does not send it back to
//! where it began, and makes it look at everything soon.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use darter_tests::cli::darter;
use darter_tests::{BLOCK_BYTES, Blob, Daemon, Io, Origin, on_both_io, wait_until};
use serde_json::Value;

on_both_io!(a_byte_that_the_disk_changed_is_found, a_crash_is_gone_on_from_and_everything_is_looked_at);

const MIB: u64 = 1 << 20;
const PIECE_BYTES: u64 = 4 * BLOCK_BYTES;
const WITHIN: Duration = Duration::from_secs(60);

fn a_byte_that_the_disk_changed_is_found(io: Io) {
    let origin = Origin::start();
    let config = "storage: {scrub: {rate: 1GiB, interval: 1s}}";
    let daemon = Daemon::builder().over(io).origin(&origin).prefetch(false).config(config).start();
    let (good, bad) = (origin.blob(1, 5 * MIB + 1), origin.blob(2, 3 * MIB + 1));
    for blob in [&good, &bad] {
        blob.read(&mut daemon.client(), blob.whole()).expect("a whole answer");
    }
    let blocks = good.len().div_ceil(BLOCK_BYTES) + bad.len().div_ceil(BLOCK_BYTES);
    let all_right = || {
        let last = scrub(&daemon)["last"].clone();
        (&last["checked_blocks"], &last["bad_blocks"]) == (&blocks.into(), &0.into())
    };
    wait_until(WITHIN, all_right, || format!("no round has checked {blocks} blocks: {}", scrub(&daemon)));

    flip(&daemon, &bad.bytes(MIB + 70_000..MIB + 74_096));
    let found = || daemon.metrics().sum("darter_scrub_bad_blocks_total") > 0.0;
    wait_until(WITHIN, found, || "the scrub has found nothing".into());
    let stat = |blob: &Blob| run(&daemon, &["stat", &blob.digest(), "--json"]).json();
    assert_eq!(stat(&bad)["held_bytes"], bad.len() - PIECE_BYTES);
    assert_eq!(stat(&good)["held_bytes"], good.len());
    let store = run(&daemon, &["stat", "--json"]).json();
    let counts = [&store["scrubbed_bad_blocks"], &store["scrubbed_wrong_digests"], &store["checks_failed"]];
    assert_eq!(counts, [&Value::from(1), &0.into(), &0.into()]);
    let shown = run(&daemon, &["stat"]).out;
    assert!(
        shown.lines().any(|line| line.starts_with("bad on the disk ") && line.ends_with(" 1")),
        "{shown}"
    );

    origin.forget();
    for blob in [&good, &bad] {
        blob.read(&mut daemon.client(), blob.whole()).expect("a whole answer");
    }
    assert_eq!(origin.blob_bytes(), PIECE_BYTES, "more than the bad piece was fetched again");
    wait_until(WITHIN, all_right, || format!("what was mended is not whole: {}", scrub(&daemon)));
    assert_eq!(daemon.metrics().sum("darter_scrub_bad_blocks_total"), 1.0);
}

fn a_crash_is_gone_on_from_and_everything_is_looked_at(io: Io) {
    let origin = Origin::start();
    // Four pieces a second, and sixteen after the crash.
    let config = "storage: {scrub: {rate: 1MiB, interval: 1s}}";
    let mut daemon = Daemon::builder().over(io).origin(&origin).prefetch(false).config(config).start();
    let blob = origin.blob(1, 16 * MIB + 1);
    blob.read(&mut daemon.client(), blob.whole()).expect("a whole answer");
    let reached = || number(&scrub(&daemon)["round"]["piece"]) >= 16;
    wait_until(WITHIN, reached, || format!("no round gets on: {}", scrub(&daemon)));
    daemon.kill9();
    daemon.restart();
    let round = scrub(&daemon)["round"].clone();
    assert_eq!(round["after_unclean_stop"], true, "{round}");
    // What it has checked since does not account for where it is. Where it is was noted within the last second.
    let since = number(&round["checked_blocks"]) / 4;
    assert!(number(&round["piece"]) >= since + 8, "{round}");
    let blocks = blob.len().div_ceil(BLOCK_BYTES);
    let all = || scrub(&daemon)["last"]["checked_blocks"] == blocks;
    wait_until(WITHIN, all, || format!("{blocks} blocks have not been checked: {}", scrub(&daemon)));
    assert_eq!(scrub(&daemon)["last"]["bad_blocks"], 0);
}

fn run(daemon: &Daemon, args: &[&str]) -> darter_tests::cli::Ran {
    darter(&[args, &["--admin", &daemon.admin().to_string()]].concat())
}

/// What `darter stat` says of the scrub.
fn scrub(daemon: &Daemon) -> Value {
    run(daemon, &["stat", "--json"]).json()["scrub"].clone()
}

/// Of no round: 0.
fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// Inverts one byte of the slab where these bytes are.
fn flip(daemon: &Daemon, bytes: &[u8]) {
    let slab = File::options().read(true).write(true).open(daemon.data_dir().join("store/slab-00000"));
    let mut slab = slab.expect("the slab is there");
    let mut all = Vec::new();
    slab.read_to_end(&mut all).expect("the slab can be read");
    let at =
        all.windows(bytes.len()).step_by(16).position(|window| window == bytes).expect("it is held") * 16;
    slab.write_all_at(&[!bytes[0]], at as u64).expect("the slab can be written");
}
