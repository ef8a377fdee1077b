//! Cold pulls of large blobs from an origin on loopback: fetched, hashed, checked, written, and sent on, all on the same
//! cores.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
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
use crate::server::Server;
use crate::setting::{SEED, Setting};
use crate::side::Side;
use crate::workload::Subject;

const BLOB_BYTES: u64 = 1 << 30;
const QUICK_BLOB_BYTES: u64 = 128 << 20;
const IN_MEMORY: &str = "/dev/shm";

/// One table.
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
    Ok(vec![table])
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
    let elapsed_s = started.elapsed().as_secs_f64();
    let cpu_s = (server.cpu()?.saturating_sub(cpu)).as_secs_f64();
    Ok(Round::default()
        .with(Measure::BytesPerS, bytes as f64 / elapsed_s)
        .with(Measure::ElapsedS, elapsed_s)
        .with(Measure::CpuS, cpu_s)
        .with(Measure::CpuSPerGb, cpu_s / bytes as f64 * 1e9))
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
