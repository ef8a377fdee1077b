//! What a run of the tests keeps outside of itself while it has a network: files and processes. A run that is killed,
//! or ended from the keyboard, drops nothing; so whoever makes the next network looks for what dead ones have left.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The variable by which the processes of a run are known, with its directory.
pub(crate) const MARK: &str = "DARTER_TEST_RUN";
const PREFIX: &str = "darter-net-";

/// A directory that tells by its name whether who made it is still there. Removed when dropped.
#[derive(Debug)]
pub(super) struct Run {
    directory: TempDir,
}

impl Run {
    /// Takes away what dead runs have left, and makes a directory.
    pub(super) fn begin() -> Run {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        sweep(&env::temp_dir());
        let (id, number) = (process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let started = started_ticks(id).expect("/proc knows this process");
        let name = format!("{PREFIX}{id}-{started}-{number}-");
        Run { directory: TempDir::with_prefix(name).expect("a temporary directory can be made") }
    }

    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }
}

fn sweep(below: &Path) {
    let entries = fs::read_dir(below).expect("the temporary directory can be listed").flatten();
    for left in entries.map(|entry| entry.path()).filter(|path| is_of_a_dead_run(path)) {
        eprintln!("{}: left by a run that was killed", left.display());
        kill_marked(&left);
        // Another run may be at it too.
        let _ = fs::remove_dir_all(&left);
    }
}

fn is_of_a_dead_run(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some(made_by) = name.strip_prefix(PREFIX) else { return false };
    let mut fields = made_by.split('-').map(str::parse::<u64>);
    let (Some(Ok(id)), Some(Ok(started))) = (fields.next(), fields.next()) else { return false };
    u32::try_from(id).is_ok_and(|id| started_ticks(id) != Some(started))
}

/// When a process was started, in ticks since the machine was: with its id this names it for good. proc(5), field 22
/// of `stat`; the second, in brackets, may have anything in it.
fn started_ticks(id: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Ends the processes that carry the mark of that directory, and nobody else's do.
fn kill_marked(run: &Path) {
    let mark = format!("{MARK}={}", run.display());
    let processes = fs::read_dir("/proc").expect("/proc is there").flatten().map(|entry| entry.path());
    let marked = |process: &PathBuf| {
        fs::read(process.join("environ"))
            .is_ok_and(|all| all.split(|byte| *byte == 0).any(|one| one == mark.as_bytes()))
    };
    for process in processes.filter(marked) {
        let id = process.file_name().and_then(|name| name.to_str()?.parse().ok()).and_then(Pid::from_raw);
        // It may have ended in this moment.
        let _ = id.map(|id| kill_process(id, Signal::KILL));
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_a_dead_run_left_is_taken_away_and_nothing_else() {
        let below = TempDir::new().expect("a temporary directory can be made");
        let mut ended = Command::new("true").spawn().expect("true is there");
        let (dead_id, dead_started) = (ended.id(), started_ticks(ended.id()).unwrap_or(1));
        ended.wait().expect("a child can be waited for");
        let own = (process::id(), started_ticks(process::id()).expect("this process is there"));
        let made = |name: String| {
            let path = below.path().join(name);
            fs::create_dir(&path).expect("a directory can be made");
            path
        };
        let dead = made(format!("{PREFIX}{dead_id}-{dead_started}-0-x"));
        // The same id was given to another process.
        let earlier = made(format!("{PREFIX}{}-{}-0-x", own.0, own.1 - 1));
        let alive = made(format!("{PREFIX}{}-{}-0-x", own.0, own.1));
        let strange = made("darter-net-x".to_owned());
        let sleeper = |run: &Path| {
            let mut command = Command::new("sleep");
            command.arg("60").env(MARK, run).stdin(Stdio::null());
            command.spawn().expect("sleep is there")
        };
        let (mut left, mut used) = (sleeper(&dead), sleeper(&alive));

        sweep(below.path());
        assert!(!left.wait().expect("a child can be waited for").success(), "it was killed");
        assert!(used.try_wait().expect("a child can be waited for").is_none());
        let there = [&dead, &earlier, &alive, &strange].map(|path| path.exists());
        assert_eq!(there, [false, false, true, true]);
        used.kill().and_then(|()| used.wait()).expect("a child can be killed");
    }
}
