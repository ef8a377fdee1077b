//! A thread of somebody's that is kept from going on.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::need::Need;

/// Holds up one thread of a process, at each call of the system, for as long as this lives.
#[derive(Debug)]
pub struct HeldUp(Child);

impl HeldUp {
    /// What a test needs for it.
    pub const NEED: Need = Need::Program { name: "strace", package: "strace" };

    /// The thread of this name.
    ///
    /// # Panics
    /// When there is none.
    pub fn thread(pid: u32, name: &str) -> Self {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the daemon runs");
        let mut tasks = tasks.map(|task| task.expect("a thread").path());
        let is_named =
            |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name);
        let task = tasks.find(is_named).unwrap_or_else(|| panic!("no thread {name}"));
        let id = task.file_name().and_then(|id| id.to_str()).expect("a number");
        let mut strace = Command::new("strace");
        strace.args([
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=all",
            "-e",
            "inject=all:delay_enter=600s",
            "-p",
            id,
        ]);
        Self(strace.stdin(Stdio::null()).spawn().expect("strace can be executed"))
    }
}

impl Drop for HeldUp {
    fn drop(&mut self) {
        // The thread goes on when its tracer is gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
