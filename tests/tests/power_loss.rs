//! The disk loses its power in the middle of the daemon's work: what was not synced is gone, and the journal of the
//! file system with it.
//!
//! Unlike after a kill, the order in which the daemon writes is not the order in which things are on the disk. What
//! it has said to be durable must be there all the same. For a moment it lives on beside a disk that takes and gives
//! nothing, and serves what it can.

use darter_tests::need::need;
use darter_tests::{Crashes, DISK, Disk, FileSystem, Io, Journal, on_both_io};

on_both_io!(on_ext4_nothing_durable_is_lost, on_xfs_nothing_durable_is_lost);

const MIB: u64 = 1 << 20;
/// Each in both ways, one after the other.
const POWER_LOSSES: u64 = 16;

fn on_ext4_nothing_durable_is_lost(io: Io) {
    check("on_ext4_nothing_durable_is_lost", io, FileSystem::Ext4, 120 * MIB);
}

fn on_xfs_nothing_durable_is_lost(io: Io) {
    check("on_xfs_nothing_durable_is_lost", io, FileSystem::Xfs, 320 * MIB);
}

fn check(test: &str, io: Io, on: FileSystem, disk_bytes: u64) {
    if !need(test, &DISK) {
        return;
    }
    let mut disk = Disk::new(on, disk_bytes);
    let mut crashes = Crashes::begin(io, Some(&disk.directory()));
    for seed in 0..POWER_LOSSES {
        let journal = if seed % 2 == 0 { Journal::Lost } else { Journal::Flushed };
        crashes.crash(seed, |daemon| {
            disk.lose_power(journal);
            daemon.kill9();
            disk.mount_again();
        });
    }
    crashes.end();
}
