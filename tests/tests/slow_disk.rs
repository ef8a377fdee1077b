//! The disk is much slower than the network.
//!
//! What a client waits for comes from the network and need not be on the disk first. What the disk does not take in
//! time is served and not kept, and a metric counts it; memory stays within its bounds, and what is in memory is served
//! as ever. When the disk is quick again, content is kept again.

use std::thread;
use std::time::{Duration, Instant};

use darter::demo::registry::RegistryOptions;
use darter_tests::need::{Need, need};
use darter_tests::{
    Blob, DISK, Daemon, Disk, FileSystem, Io, MemoryCgroup, Origin, Throttle, on_both_io, wait_until,
};

on_both_io!(cold_pulls_do_not_wait_for_the_disk);

const MIB: u64 = 1 << 20;
const DISK_BYTES_PER_S: u64 = MIB;
const ORIGIN_BYTES_PER_S: u64 = 24 * MIB;
const MEMORY_BYTES: u64 = 256 * MIB;

fn cold_pulls_do_not_wait_for_the_disk(io: Io) {
    let needs = [&DISK[..], &[Need::MemoryCgroup, Need::Throttle]].concat();
    if !need("cold_pulls_do_not_wait_for_the_disk", &needs) {
        return;
    }
    let bandwidth_bytes_per_s = Some(ORIGIN_BYTES_PER_S);
    let origin = Origin::with(RegistryOptions { bandwidth_bytes_per_s, ..RegistryOptions::default() });
    let kept = origin.blob(1, 8 * MIB);
    let cold: Vec<Blob> = (2..5).map(|seed| origin.blob(seed, 48 * MIB)).collect();
    let disk = Disk::new(FileSystem::Ext4, 600 * MIB);
    let cgroup = MemoryCgroup::make(MEMORY_BYTES).expect("it was asked for before");
    let builder = Daemon::builder().over(io).registry(&origin.url()).data_dir(disk.directory());
    let mut daemon = builder.capacity("384MiB").within(&cgroup).prefetch(false).start();
    read_by_mib(&daemon, &kept);
    let unkept_bytes = || daemon.metrics().sum("darter_unkept_bytes_total");
    assert_eq!(unkept_bytes(), 0.0, "the disk is quick");

    let throttle = Throttle::new(&disk.device(), DISK_BYTES_PER_S, &cgroup);
    let (started, written_bytes) = (Instant::now(), throttle.written_bytes());
    thread::scope(|scope| {
        let mut pulls: Vec<_> =
            cold[1..].iter().map(|blob| scope.spawn(|| read_by_mib(&daemon, blob))).collect();
        pulls.push(scope.spawn(|| {
            cold[0].read(&mut daemon.client(), cold[0].whole()).expect("a whole answer");
            println!("the whole blob after {:?}", started.elapsed());
        }));
        while !pulls.iter().all(thread::ScopedJoinHandle::is_finished) {
            read_by_mib(&daemon, &kept);
        }
    });
    let (elapsed, written_bytes) = (started.elapsed(), throttle.written_bytes() - written_bytes);
    let pulled_bytes: u64 = cold.iter().map(Blob::len).sum();
    let anonymous_kib = daemon.memory_kib("RssAnon");
    println!(
        "{} MiB in {elapsed:?}, {:.1} MiB/s where the registry gives {}; {} MiB from the registry in all; the disk took {:.1} MiB; {:.1} MiB were not kept; {} MiB of memory",
        pulled_bytes / MIB,
        pulled_bytes as f64 / MIB as f64 / elapsed.as_secs_f64(),
        ORIGIN_BYTES_PER_S / MIB,
        origin.blob_bytes() / MIB,
        written_bytes as f64 / MIB as f64,
        unkept_bytes() / MIB as f64,
        anonymous_kib >> 10,
    );
    assert!(
        written_bytes < pulled_bytes / 4,
        "the pulls waited until the disk had taken {written_bytes} bytes"
    );
    assert!(unkept_bytes() > 0.0, "what the disk did not take is counted");
    let behind = daemon.metrics().sum_where("darter_limits_hit_total", &["limit=\"disk\""]);
    assert!(behind > 0.0, "and that it was the disk");
    assert!(anonymous_kib << 10 < MEMORY_BYTES / 2, "{anonymous_kib} KiB");
    assert_eq!(cgroup.oom_kills(), 0);

    drop(throttle);
    let kept_again = || {
        read_by_mib(&daemon, &cold[0]);
        origin.forget();
        read_by_mib(&daemon, &cold[0]);
        origin.blob_bytes() == 0
    };
    wait_until(Duration::from_secs(60), kept_again, || {
        "nothing is kept although the disk is quick".to_owned()
    });
    // The cgroup can go only when nobody is in it.
    daemon.stop();
    drop(daemon);
}

/// As a container does that reads on and on.
fn read_by_mib(daemon: &Daemon, blob: &Blob) {
    let mut client = daemon.client();
    for start in (0..blob.len()).step_by(MIB as usize) {
        blob.read(&mut client, start..start + MIB).expect("a whole answer");
    }
}
