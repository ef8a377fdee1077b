//! Large blobs from an origin on loopback, all on the same cores: fetched, hashed, checked, written, and sent on to a
//! client, or brought in for nobody.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use darter::demo::registry::Blob;
use tempfile::TempDir;

use super::subject;
use crate::connection::{BODY_BUFFER_BYTES, Connection, SILENCE_MAX, connect};
use crate::darter_side::{Darter, DarterOptions};
use crate::goal::{Bound, Goal};
use crate::measure::Measure;
use crate::nginx_side::Nginx;
use crate::report::Table;
use crate::rounds::Round;
use crate::server::{Server, pause};
use crate::setting::{SEED, Setting};
use crate::side::Side;
use crate::workload::Subject;

const BLOB_BYTES: u64 = 1 << 30;
const QUICK_BLOB_BYTES: u64 = 128 << 20;
const IN_MEMORY: &str = "/dev/shm";
/// How often it is looked whether a blob has come in.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Two tables.
pub(crate) fn run(setting: &Setting) -> anyhow::Result<Vec<Table>> {
    let bytes = if setting.quick { QUICK_BLOB_BYTES } else { BLOB_BYTES };
    let rounds = setting.long_rounds();
    let mib = bytes >> 20;
    let mut table = Table::new(
        "Cold pulls",
        format!(
            "nginx with static files is the origin, on the same {} cores as Darter with its default of shards and the \
             clients, which throw away what they get. A pull has ended when the last byte has come, which Darter sends \
             only when the SHA-256 is right. {rounds} rounds after one that makes the slabs' pages warm; on a disk, whose \
             writes go on beside it, and in memory (tmpfs).",
            thread::available_parallelism().map_or(1, usize::from)
        ),
        &[Measure::BytesPerS, Measure::ElapsedS, Measure::CpuS, Measure::CpuSPerGb],
    );
    for (count, text) in [(1, format!("{mib} MiB")), (2, format!("2 × {} MiB", mib / 2))] {
        let blobs: Vec<Blob> =
            (0..count).map(|number| Blob::synthetic(SEED + number, bytes / count)).collect();
        let origin = Nginx::of_files(&blobs)?;
        let registry = format!("http://{}", origin.server().address());
        let subjects: Vec<Subject> =
            blobs.iter().map(|blob| subject(&registry, blob.digest(), blob.len())).collect();
        for (place, directory) in [("disk", std::env::temp_dir()), ("memory", IN_MEMORY.into())] {
            if !has_room(&directory, 2 * bytes) {
                eprintln!("SKIPPED: {} has no {} MiB free", directory.display(), 2 * mib);
                continue;
            }
            let case = format!("{text}, {place}");
            eprintln!("  {case}");
            let home = TempDir::with_prefix_in("darter-bench-", directory)?;
            let options = DarterOptions {
                shards: None,
                data_dir: Some(home.path().join("data")),
                // No room for the keeper's reserve is missing, and few pages are cold.
                ..DarterOptions::one_shard(&setting.binary, registry.clone(), bytes + bytes / 8)
            };
            let darter = Darter::start(&options)?;
            for round in 0..=rounds {
                let pulled = pull(darter.server(), &subjects)?;
                for blob in &blobs {
                    darter.remove(&blob.digest().to_string())?;
                }
                if round > 0 {
                    table.add(&*case, Side::Darter, pulled);
                }
            }
            table.want(Goal::value(&*case, Side::Darter, Measure::BytesPerS, Bound::AtLeast(1e9)));
            if count == 1 {
                table.want(Goal::value(&*case, Side::Darter, Measure::ElapsedS, Bound::AtMost(2.6)));
                table.want(Goal::value(&*case, Side::Darter, Measure::CpuS, Bound::AtMost(2.5)));
            }
        }
        let case = format!("{text}, disk");
        for _ in 0..rounds {
            let cache = Nginx::of_cache(&registry, 2 * bytes)?;
            table.add(&*case, Side::NginxCache, pull(cache.server(), &subjects)?);
        }
    }
    Ok(vec![table, brought_in(setting, bytes)?])
}

/// A client asks for one byte, and prefetch brings the rest.
fn brought_in(setting: &Setting, bytes: u64) -> anyhow::Result<Table> {
    let (rounds, mib) = (setting.long_rounds(), bytes >> 20);
    let mut table = Table::new(
        "Bringing in",
        format!(
            "The same origin; one byte is asked for and prefetch, without a limit to its rate, brings in the blob of {mib} \
             MiB: fetched, hashed, checked and written, and sent to nobody. It has ended when all of it is held and the \
             SHA-256 was right. {rounds} rounds after one that makes the slabs' pages warm, each by a daemon of its own on \
             the same slabs, in memory (tmpfs)."
        ),
        &[Measure::BytesPerS, Measure::ElapsedS, Measure::CpuS, Measure::CpuSPerGb],
    );
    // Prefetch takes no more than three quarters of the store.
    let capacity_bytes = bytes + bytes / 2;
    if !has_room(IN_MEMORY.as_ref(), capacity_bytes + bytes / 2) {
        eprintln!("SKIPPED: {IN_MEMORY} has no {} MiB free", 2 * mib);
        return Ok(table);
    }
    let case = format!("{mib} MiB, memory");
    eprintln!("  bringing in {case}");
    let blob = Blob::synthetic(SEED, bytes);
    let origin = Nginx::of_files(std::slice::from_ref(&blob))?;
    let registry = format!("http://{}", origin.server().address());
    let subject = subject(&registry, blob.digest(), blob.len());
    let digest = blob.digest().to_string();
    let home = TempDir::with_prefix_in("darter-bench-", IN_MEMORY)?;
    let options = DarterOptions {
        prefetch: true,
        shards: None,
        data_dir: Some(home.path().join("data")),
        ..DarterOptions::one_shard(&setting.binary, registry, capacity_bytes)
    };
    for round in 0..=rounds {
        let darter = Darter::start(&options)?;
        let cpu = darter.server().cpu()?;
        let started = Instant::now();
        let mut connection = Connection::new(connect(darter.server().address())?);
        connection.send(subject.range(0, 1))?;
        connection.body()?;
        while !darter.has_proved(&digest)? {
            ensure!(started.elapsed() < SILENCE_MAX, "{digest} was not brought in");
            pause(LOOK_EVERY);
        }
        let measured = measured(bytes, started.elapsed(), darter.server().cpu()?.saturating_sub(cpu));
        darter.remove(&digest)?;
        if round > 0 {
            table.add(&*case, Side::Darter, measured);
        }
    }
    table.want(Goal::value(&*case, Side::Darter, Measure::BytesPerS, Bound::AtLeast(1e9)));
    Ok(table)
}

fn has_room(directory: &std::path::Path, bytes: u64) -> bool {
    rustix::fs::statvfs(directory).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) >= bytes)
}

/// Each blob by a client of its own, all at once.
pub(super) fn pull(server: &Server, subjects: &[Subject]) -> anyhow::Result<Round> {
    let cpu = server.cpu()?;
    let started = Instant::now();
    let bytes: u64 = thread::scope(|scope| {
        let pulls: Vec<_> =
            subjects.iter().map(|subject| scope.spawn(|| pull_one(server, subject))).collect();
        pulls
            .into_iter()
            .map(|pull| pull.join().expect("a client does not panic"))
            .sum::<anyhow::Result<u64>>()
    })?;
    Ok(measured(bytes, started.elapsed(), server.cpu()?.saturating_sub(cpu)))
}

fn measured(bytes: u64, elapsed: Duration, cpu: Duration) -> Round {
    let (elapsed_s, cpu_s) = (elapsed.as_secs_f64(), cpu.as_secs_f64());
    Round::default()
        .with(Measure::BytesPerS, bytes as f64 / elapsed_s)
        .with(Measure::ElapsedS, elapsed_s)
        .with(Measure::CpuS, cpu_s)
        .with(Measure::CpuSPerGb, cpu_s / bytes as f64 * 1e9)
}

fn pull_one(server: &Server, subject: &Subject) -> anyhow::Result<u64> {
    let stream = connect(server.address())?;
    stream.set_read_timeout(Some(SILENCE_MAX.max(Duration::from_secs(60))))?;
    let mut connection = Connection::new(stream);
    connection.send(subject.whole())?;
    let mut body = vec![0; BODY_BUFFER_BYTES];
    let answer = connection.receive(&mut body)?.context("the pull did not end")?;
    Ok(answer.request.bytes)
}
