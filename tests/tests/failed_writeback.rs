//! Stores succeed, and the sync behind them fails: beneath the disk there is no room for what was promised.
//!
//! The slab's file is preallocated, so nothing refuses a write; what the kernel then writes back finds a full file
//! system beneath the loop device. After a failed sync nobody can tell what is on the disk, and the pages that could
//! not be written read as if they had been, until they are dropped from memory. So what was written since the last good
//! sync is given up, and the slab takes no more.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use darter_tests::need::{Need, need};
use darter_tests::{
    Blob, DISK, Daemon, Disk, FileSystem, Holdings, Io, Mounted, Origin, on_both_io, pause, wait_until,
};
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use tempfile::TempDir;

on_both_io!(what_could_not_be_synced_is_not_held_after_a_restart);

const MIB: u64 = 1 << 20;
const PIECE_BYTES: u64 = 256 << 10;
/// The disk says that it has so much; beneath it there is less.
const DISK_BYTES: u64 = 128 * MIB;
const CAPACITY: &str = "64MiB";
const PATIENCE: Duration = Duration::from_secs(30);

fn what_could_not_be_synced_is_not_held_after_a_restart(io: Io) {
    let filefrag = Need::Program { name: "filefrag", package: "e2fsprogs" };
    let test = "what_could_not_be_synced_is_not_held_after_a_restart";
    if !need(test, &[&DISK[..], &[filefrag]].concat()) {
        return;
    }
    let origin = Origin::start();
    let [early, late, later] = [1, 2, 3].map(|seed| origin.blob(seed, 8 * MIB + seed));
    let beneath = TempDir::new().expect("a temporary directory can be made");
    let _beneath = Mounted::tmpfs(beneath.path(), 2 * DISK_BYTES);
    let disk = Disk::on(beneath.path(), FileSystem::Ext4, DISK_BYTES);
    let builder = Daemon::builder().over(io).registry(&origin.url()).capacity(CAPACITY).prefetch(false);
    let mut daemon = builder.data_dir(disk.directory()).start();
    let slab = disk.directory().join("store/slab-00000");

    read(&daemon, &early);
    let durable = |blob: &Blob| Holdings::now(&daemon).durable_pieces(&blob.digest());
    let pieces = early.len().div_ceil(PIECE_BYTES) as u32;
    wait_until(PATIENCE, || durable(&early) == pieces, || "what was read is not durable".to_owned());

    // From here on there is room for everything but those parts of the slab that were never written to.
    leave_no_room_for(&slab, &disk, beneath.path());
    read(&daemon, &late);
    let out_of_service = || daemon.metrics().sum("darter_cache_slabs_out_of_service");
    wait_until(PATIENCE, || out_of_service() == 1.0, || "no slab is out of service".to_owned());
    assert!(daemon.log().contains("a slab cannot be synced"), "the log says so");
    assert_eq!(durable(&early), pieces, "what was synced before is held");
    assert_eq!(durable(&late), 0, "nothing of it has reached the disk");
    // It goes on serving: what it holds, what it has lost, and what it has never seen.
    for blob in [&early, &late, &later, &late] {
        read(&daemon, blob);
    }
    assert_eq!(durable(&late) + durable(&later), 0, "the slab takes no more");
    assert!(daemon.metrics().sum("darter_unkept_bytes_total") > 0.0);
    // Nor is anything given up for room that the slab does not have: time enough for the next records.
    pause(Duration::from_secs(3));
    assert_eq!(durable(&early), pieces, "what was synced before is still held");

    // Killed or stopped: no record speaks of what was lost.
    for stop in [Daemon::kill9, Daemon::stop] {
        stop(&mut daemon);
        let file = File::open(&slab).expect("the slab is there");
        fadvise(&file, 0, None, Advice::DontNeed).expect("pages can be dropped");
        drop(file);
        daemon.restart();
        let found = Holdings::now(&daemon);
        assert_eq!(found.durable_pieces(&early.digest()), pieces);
        assert_eq!(found.held_bytes(&late.digest()) + found.held_bytes(&later.digest()), 0);
        origin.forget();
        read(&daemon, &early);
        assert_eq!(origin.blob_bytes(), 0, "what was durable is served");
        read(&daemon, &late);
        // Blocks that nobody keeps may have gone before the digest's turn at them: those are asked for once more.
        assert!(origin.blob_bytes() >= late.len(), "what was lost is fetched again");
        assert_eq!(daemon.metrics().sum("darter_cache_checks_failed_total"), 0.0, "nothing wrong was held");
    }
}

fn read(daemon: &Daemon, blob: &Blob) {
    blob.read(&mut daemon.client(), blob.whole()).expect("a whole answer");
}

/// Takes the room beneath the disk: all of the image is allocated but the slab's blocks that have not been written,
/// and the rest of the file system beneath is filled.
fn leave_no_room_for(slab: &Path, disk: &Disk, beneath: &Path) {
    let image = File::options().write(true).open(disk.image()).expect("the image is there");
    let mut end = 0;
    for unwritten in unwritten_extents(slab) {
        allocate(&image, end..unwritten.start);
        end = unwritten.end;
    }
    allocate(&image, end..DISK_BYTES);
    let filler = File::create(beneath.join("filler")).expect("a file can be made");
    let block = vec![1; 4096];
    let mut filled = 0;
    while filler.write_all_at(&block, filled).is_ok() {
        filled += block.len() as u64;
    }
}

fn allocate(image: &File, bytes: std::ops::Range<u64>) {
    if !bytes.is_empty() {
        fallocate(image, FallocateFlags::empty(), bytes.start, bytes.end - bytes.start)
            .expect("there is room");
    }
}

/// Where on the disk the file's blocks are that were never written, in bytes and in order.
fn unwritten_extents(file: &Path) -> Vec<std::ops::Range<u64>> {
    let listed = Command::new("filefrag")
        .args(["-v", "-b4096"])
        .arg(file)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .expect("the program is there");
    let listed = String::from_utf8(listed.stdout).expect("a list is text");
    // `   0:     2112..    4095:      36928..     38911:   1984:      34816: unwritten,eof`
    let mut extents: Vec<_> = listed
        .lines()
        .filter(|line| line.contains("unwritten"))
        .map(|line| {
            let physical = line.split(':').nth(2).and_then(|blocks| blocks.split_once(".."));
            let (first, last) = physical.unwrap_or_else(|| panic!("no extent: {line}"));
            let block = |text: &str| text.trim().parse::<u64>().expect("digits");
            block(first) * 4096..(block(last) + 1) * 4096
        })
        .collect();
    extents.sort_by_key(|extent| extent.start);
    assert!(!extents.is_empty(), "{} is written throughout: {listed}", file.display());
    extents
}
