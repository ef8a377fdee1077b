//! A start with the records of a full cache of 100 GiB; memory, idle and with many who read; and what it costs to look at it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::blob_path;
use crate::darter_side::{Darter, DarterOptions};
use crate::full_cache::{self, CONTENT_BYTES};
use crate::goal::{Bound, Goal};
use crate::load::{self, Pattern};
use crate::measure::Measure;
use crate::report::Table;
use crate::rounds::Round;
use crate::server::{Memory, Server, pause};
use crate::setting::{SEED, Setting};
use crate::side::Side;
use crate::sparse_disk::SparseDisk;
use crate::watcher::Watcher;
use crate::workload::{Subject, Workload};
use crate::zero_origin;

const CAPACITY_BYTES: u64 = 100 << 30;
/// Of a quick run.
const SMALL_CAPACITY_BYTES: u64 = 10 << 30;
/// Besides the capacity, the disk holds records and its own tables.
const SPARE_BYTES: u64 = 8 << 30;
const READERS: usize = 256;
const SAMPLE_EVERY: Duration = Duration::from_millis(50);
/// What a start leaves behind has been given back after this.
const IDLE_AFTER: Duration = Duration::from_secs(1);

const NEW: &str = "new cache of 1 GiB";
const KILLED: &str = "full cache, after kill -9";
const UNREAD: &str = "full cache, records not in memory";
const IDLE: &str = "full cache, idle";
const LOOKED_AT: &str = "full cache, idle, its status page open";
/// The daemon and `darter top` together.
const WATCHED: &str = "full cache, idle, darter top beside it";
/// How long each turn takes: ticks of the CPU's clock are hundredths of a second.
const LOOKED_AT_S: u64 = 20;
/// In a quick run.
const SHORTLY_LOOKED_AT_S: u64 = 5;
const BUSY: &str = "full cache, 256 connections reading";

/// Three tables.
pub(crate) fn run(setting: &Setting) -> anyhow::Result<Vec<Table>> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: start: a disk is mounted for it, which needs root");
        return Ok(Vec::new());
    }
    let capacity_bytes = if setting.quick { SMALL_CAPACITY_BYTES } else { CAPACITY_BYTES };
    let origin = format!("http://{}", zero_origin::start(CONTENT_BYTES)?);
    let mut times = Table::new(
        "Start",
        format!(
            "From the start of the process to the first whole answer of 11.5 KB, its proof of access included. The cache \
             of {} GiB has a record for each of its slots, written by the engine's format code; its slabs are \
             preallocated on xfs in a sparse file. Shards as by default.",
            capacity_bytes >> 30
        ),
        &[Measure::ElapsedS],
    );
    let mut memory = Table::new(
        "Memory",
        format!(
            "Resident anonymous memory and page tables; mapped pages of slabs are page cache, which the kernel takes \
             back, and stand apart. The readers ask for 11.5 KB, then for 128 KiB, {} s each, anywhere in the cache; the highest of samples every 50 ms.",
            setting.turn.as_secs_f64()
        ),
        &[Measure::OwnAndPageTablesBytes, Measure::OwnBytes, Measure::PageTablesBytes, Measure::MappedBytes],
    );
    let mut options =
        DarterOptions { shards: None, ..DarterOptions::one_shard(&setting.binary, origin, 1 << 30) };
    eprintln!("  {NEW}");
    for _ in 0..setting.rounds {
        let started = Instant::now();
        let darter = Darter::start(&options)?;
        times.add(NEW, Side::Darter, elapsed(started));
        pause(IDLE_AFTER);
        memory.add("new cache of 1 GiB, idle", Side::Darter, darter.server().memory()?.round());
    }

    eprintln!("  filling {} GiB", capacity_bytes >> 30);
    let disk = SparseDisk::mount(capacity_bytes + SPARE_BYTES)?;
    let data_dir = disk.path().join("data");
    options = DarterOptions { capacity_bytes, data_dir: Some(data_dir.clone()), ..options };
    drop(Darter::start(&options)?);
    let subjects: Vec<Subject> = full_cache::fill(&data_dir, &options.registry)?
        .iter()
        .map(|id| Subject {
            path: blob_path(format!("sha256:{id}")),
            bytes: CONTENT_BYTES,
            registry: options.registry.clone(),
        })
        .collect();
    let mut darter = Darter::start(&options)?;
    for (case, in_memory) in [(KILLED, true), (UNREAD, false)] {
        eprintln!("  {case}");
        for round in 0..setting.rounds {
            darter.kill()?;
            if !in_memory {
                darter.drop_page_cache()?;
            }
            let started = Instant::now();
            darter = Darter::start(&options)?;
            let subject = &subjects[round as usize % subjects.len()];
            let zeros = |_, buffer: &mut [u8]| {
                buffer.fill(0);
                Ok(())
            };
            load::check(darter.server().address(), subject.range(u64::from(round) * 11_500, 11_500), zeros)?;
            times.add(case, Side::Darter, elapsed(started));
            if in_memory {
                pause(IDLE_AFTER);
                memory.add(IDLE, Side::Darter, darter.server().memory()?.round());
            }
        }
    }
    eprintln!("  {LOOKED_AT}");
    let looked_at_s = if setting.quick { SHORTLY_LOOKED_AT_S } else { LOOKED_AT_S };
    let mut looked_at = Table::new(
        "Looked at",
        format!(
            "CPU time of an idle node, over elapsed time, while its status page is open for {looked_at_s} s, or `darter top` \
             runs for as long, with its own time; the scrub is off. The cache of {} GiB is full of contents of {} MiB.",
            capacity_bytes >> 30,
            CONTENT_BYTES >> 20
        ),
        &[Measure::CpuPart],
    );
    // After a kill the scrub has much to do, and its time is not that of the page.
    drop(darter);
    darter = Darter::start(&DarterOptions { scrub: false, ..options.clone() })?;
    pause(IDLE_AFTER);
    for _ in 0..setting.rounds {
        let before = darter.server().cpu()?;
        darter.be_looked_at(looked_at_s)?;
        let part = (darter.server().cpu()? - before).as_secs_f64() / looked_at_s as f64;
        looked_at.add(LOOKED_AT, Side::Darter, Round::default().with(Measure::CpuPart, part));
        let (before, watcher) = (darter.server().cpu()?, Watcher::start(&setting.binary, &darter)?);
        pause(Duration::from_secs(looked_at_s));
        let both = darter.server().cpu()? - before + watcher.cpu()?;
        watcher.end()?;
        let part = both.as_secs_f64() / looked_at_s as f64;
        looked_at.add(WATCHED, Side::Darter, Round::default().with(Measure::CpuPart, part));
    }
    drop(darter);
    let darter = Darter::start(&options)?;
    eprintln!("  {BUSY}");
    memory.add(BUSY, Side::Darter, highest_while_read(setting, darter.server(), &subjects)?.round());
    drop(darter);

    times.want(Goal::value(KILLED, Side::Darter, Measure::ElapsedS, Bound::AtMost(0.5)));
    for case in [LOOKED_AT, WATCHED] {
        looked_at.want(Goal::value(case, Side::Darter, Measure::CpuPart, Bound::AtMost(0.01)));
    }
    let mib = |mib: u32| Bound::AtMost(f64::from(mib << 20));
    memory.want(Goal::value(IDLE, Side::Darter, Measure::OwnAndPageTablesBytes, mib(96)));
    memory.want(Goal::value(BUSY, Side::Darter, Measure::OwnAndPageTablesBytes, mib(256)));
    Ok(vec![times, memory, looked_at])
}

fn elapsed(since: Instant) -> Round {
    Round::default().with(Measure::ElapsedS, since.elapsed().as_secs_f64())
}

/// The sample with most memory of its own and page tables, while 256 connections read. Ranges of 1 MiB are not among them: all
/// at once they are more than the buffers for cold reads, and some would be told to come back (503).
fn highest_while_read(setting: &Setting, server: &Server, subjects: &[Subject]) -> anyhow::Result<Memory> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let read = || -> anyhow::Result<()> {
                for workload in [Workload::SMALL, Workload::MIDDLE] {
                    let pattern =
                        Pattern { workload, connections: READERS, duration: setting.turn, seed: SEED };
                    load::burst(server.address(), subjects, pattern)?;
                }
                Ok(())
            };
            let result = read();
            done.store(true, Ordering::Release);
            result
        });
        let mut highest = Memory::default();
        while !done.load(Ordering::Acquire) {
            let now = server.memory()?;
            if now.counted() > highest.counted() {
                highest = now;
            }
            pause(SAMPLE_EVERY);
        }
        reading.join().expect("the reader does not panic")?;
        Ok(highest)
    })
}
