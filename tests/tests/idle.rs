//! A node that nobody asks anything costs nothing: once a thread spun on a content that had been served whole.

use std::fs;
use std::time::{Duration, Instant};

use darter_tests::{Daemon, Io, Origin, on_both_io, pause, wait_until};

on_both_io!(after_its_work_a_node_rests);

/// How long it is watched.
const WATCHED: Duration = Duration::from_secs(1);
/// CPU time that resting takes at most in that time; a thread that spins takes all of it.
const RESTING_TICKS: u64 = 10;

fn after_its_work_a_node_rests(io: Io) {
    let origin = Origin::start();
    let daemon = Daemon::builder().over(io).origin(&origin).prefetch(true).start();
    for seed in 0..8 {
        let blob = origin.blob(seed, (5 << 20) + 77);
        let mut client = daemon.client();
        for range in [100..200, 3 << 20..4 << 20, blob.whole(), blob.whole()] {
            blob.read(&mut client, range).expect("the blob can be read");
        }
    }
    let rests = || {
        let (ticks, watched) = (cpu_ticks(daemon.pid()), Instant::now());
        pause(WATCHED);
        // A machine that stands still watches for longer.
        cpu_ticks(daemon.pid()) - ticks <= RESTING_TICKS * (1 + watched.elapsed().as_secs())
    };
    wait_until(Duration::from_secs(60), rests, || "the idle daemon is busy".to_owned());
}

/// CPU time of a process in hundredths of a second: proc(5), /proc/PID/stat, utime and stime.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the daemon runs");
    // The name, in parentheses, may have blanks.
    let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
    let field = |number: usize| fields.split(' ').nth(number - 3).and_then(|field| field.parse::<u64>().ok());
    field(14).zip(field(15)).map(|(user, system)| user + system).expect("numbers")
}
