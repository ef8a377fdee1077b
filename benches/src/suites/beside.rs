//! What a reader of cached content notices of a cold pull beside it, and how long a shard is away at a time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use darter::demo::registry::Blob;

use super::{cold, subject};
use crate::darter_side::{Darter, DarterOptions};
use crate::goal::{Bound, Goal};
use crate::load::{self, Pattern};
use crate::measure::Measure;
use crate::nginx_side::Nginx;
use crate::polls::Polls;
use crate::report::Table;
use crate::rounds::Round;
use crate::server::pause;
use crate::setting::{SEED, Setting};
use crate::side::Side;
use crate::workload::{Subject, Workload};

/// One request each so often: a node that is used, not one that is driven to its limit, where a queue would be what is
/// measured.
const EVERY: Duration = Duration::from_millis(2);
const PULLED_BYTES: u64 = 512 << 20;
const QUICK_PULLED_BYTES: u64 = 64 << 20;
/// How often what is in memory is thrown out under cold reads.
const DROP_EVERY: Duration = Duration::from_millis(200);

/// Two tables.
pub(crate) fn run(setting: &Setting) -> anyhow::Result<Vec<Table>> {
    let pulled_bytes = if setting.quick { QUICK_PULLED_BYTES } else { PULLED_BYTES };
    let blobs = [Blob::synthetic(SEED, setting.blob_bytes), Blob::synthetic(SEED + 1, pulled_bytes)];
    let origin = setting.cores.on_generator(|| Nginx::of_files(&blobs))??;
    let registry = format!("http://{}", origin.server().address());
    let [hit, pulled] = blobs.each_ref().map(|blob| subject(&registry, blob.digest(), blob.len()));
    let room = 2 * (setting.blob_bytes + pulled_bytes);
    let options = DarterOptions::one_shard(&setting.binary, registry, room);
    let darter = setting.cores.on_server(|| Darter::start(&options))??;
    cold::pull(darter.server(), &[hit.clone(), pulled.clone()])?;

    let mut hits = Table::new(
        "Hits beside a cold pull",
        format!(
            "One shard on one core; origin and clients on the other. One connection asks for a range of a cached blob \
             every {} ms; in every second turn another client pulls {} MiB that are not cached, over and over. {} rounds \
             of {} s each in turn.",
            EVERY.as_millis(),
            pulled_bytes >> 20,
            setting.rounds,
            setting.turn.as_secs_f64()
        ),
        &[Measure::LatencyP99S, Measure::LatencyP50S],
    );
    let mut polls = Table::new(
        "Longest poll of the shard",
        "By `darter_shard_longest_poll_seconds`: of each 100 ms in which the shard did anything, the longest time that one \
         task kept it; the bucket that 99 of 100 of them fall into. Cold reads: ranges on 8 connections of a blob whose \
         pages are thrown out of memory five times a second."
            .into(),
        &[Measure::LongestPollP99S],
    );
    for workload in [Workload::SMALL, Workload::MIDDLE, Workload::LARGE] {
        for round in 0..setting.rounds {
            for side in Setting::in_turn(round, &[Side::Quiet, Side::Pulling]) {
                let before = Polls::of(&darter.metrics()?)?;
                let measured = hits_turn(setting, &darter, side, (&hit, workload), &pulled)?;
                hits.add(workload, side, measured);
                if side == Side::Pulling {
                    let after = Polls::of(&darter.metrics()?)?;
                    polls.add("cold pull and hits", Side::Darter, after.since(&before).round());
                }
            }
        }
        let sides = (Side::Pulling, &[Side::Quiet][..]);
        hits.want(Goal::ratio(workload.to_string(), sides, Measure::LatencyP99S, Bound::AtMost(2.0)));
    }
    for workload in [Workload::SMALL, Workload::LARGE] {
        let case = format!("cold {workload}");
        for round in 0..setting.rounds {
            let before = Polls::of(&darter.metrics()?)?;
            cold_reads(setting, &darter, &pulled, workload, u64::from(round))?;
            polls.add(&*case, Side::Darter, Polls::of(&darter.metrics()?)?.since(&before).round());
        }
        polls.want(Goal::value(case, Side::Darter, Measure::LongestPollP99S, Bound::AtMost(0.002)));
    }
    let most = Bound::AtMost(0.002);
    polls.want(Goal::value("cold pull and hits", Side::Darter, Measure::LongestPollP99S, most));
    Ok(vec![hits, polls])
}

fn hits_turn(
    setting: &Setting,
    darter: &Darter,
    side: Side,
    (hit, workload): (&Subject, Workload),
    pulled: &Subject,
) -> anyhow::Result<Round> {
    let done = AtomicBool::new(false);
    let address = darter.server().address();
    let digest = pulled.path.rsplit('/').next().unwrap_or_default();
    thread::scope(|scope| {
        let pulling = scope.spawn(|| {
            setting.cores.on_generator(|| -> anyhow::Result<()> {
                while side == Side::Pulling && !done.load(Ordering::Acquire) {
                    darter.remove(digest)?;
                    cold::pull(darter.server(), std::slice::from_ref(pulled))?;
                }
                Ok(())
            })
        });
        let asked = setting.cores.on_generator(|| load::paced(address, hit, workload, EVERY, setting.turn));
        done.store(true, Ordering::Release);
        pulling.join().expect("a client does not panic")??;
        Ok(asked??.round(Duration::ZERO))
    })
}

fn cold_reads(
    setting: &Setting,
    darter: &Darter,
    subject: &Subject,
    workload: Workload,
    seed: u64,
) -> anyhow::Result<()> {
    let done = AtomicBool::new(false);
    let pattern = Pattern { workload, connections: 8, duration: setting.turn, seed };
    thread::scope(|scope| {
        let dropping = scope.spawn(|| -> anyhow::Result<()> {
            while !done.load(Ordering::Acquire) {
                darter.drop_page_cache()?;
                pause(DROP_EVERY);
            }
            Ok(())
        });
        let subjects = std::slice::from_ref(subject);
        let read = setting.cores.on_generator(|| load::burst(darter.server().address(), subjects, pattern));
        done.store(true, Ordering::Release);
        dropping.join().expect("nothing there panics")?;
        read??;
        Ok(())
    })
}
