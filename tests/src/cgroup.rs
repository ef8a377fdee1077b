//! A memory cgroup of a test's own. Needs root, and a kernel whose memory controller is mounted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where cgroups of version 2 are, and version 1's of the memory controller.
const V2: &str = "/sys/fs/cgroup";
const V1: &str = "/sys/fs/cgroup/memory";

/// A cgroup with a limit of memory. Removed when dropped, which must be after its processes have ended.
#[derive(Debug)]
pub struct MemoryCgroup {
    directory: PathBuf,
}

impl MemoryCgroup {
    /// Whether this machine lets one be made.
    pub(crate) fn available() -> Result<(), String> {
        MemoryCgroup::make(64 << 20).map(drop)
    }

    /// With a limit of that many bytes.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn make(bytes: u64) -> Result<MemoryCgroup, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("darter-test-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let v2 = MemoryCgroup::has_controller("memory");
        let (root, limit) = if v2 { (V2, "memory.max") } else { (V1, "memory.limit_in_bytes") };
        if v2 {
            // Enabled for its children already, or by this. The second is for a throttle.
            let _ = fs::write(Path::new(V2).join("cgroup.subtree_control"), "+memory");
            let _ = fs::write(Path::new(V2).join("cgroup.subtree_control"), "+io");
        }
        let directory = Path::new(root).join(name);
        fs::create_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let cgroup = MemoryCgroup { directory };
        let limited = fs::write(cgroup.directory.join(limit), bytes.to_string());
        limited.map_err(|error| format!("{}: {error}", cgroup.directory.join(limit).display()))?;
        Ok(cgroup)
    }

    /// Whether version 2 has that controller.
    pub(crate) fn has_controller(name: &str) -> bool {
        fs::read_to_string(Path::new(V2).join("cgroup.controllers"))
            .is_ok_and(|controllers| controllers.split_whitespace().any(|known| known == name))
    }

    /// Where its settings are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The file that takes the ids of processes.
    pub fn procs(&self) -> PathBuf {
        self.directory.join("cgroup.procs")
    }

    /// Processes that were killed because of the limit.
    ///
    /// # Panics
    /// When the kernel does not say.
    pub fn oom_kills(&self) -> u64 {
        let events = ["memory.events", "memory.oom_control"]
            .iter()
            .find_map(|file| fs::read_to_string(self.directory.join(file)).ok())
            .expect("a memory cgroup counts its kills");
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
        kills.unwrap_or_else(|| panic!("no count of kills in {events:?}"))
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // Only a process that still lives in it stands in the way; then it stays, empty of limits that matter.
        let _ = fs::remove_dir(&self.directory);
    }
}
