//! How much memory this process may take: the limit of its cgroup, or of one above it.
//!
//! Buffers and connections are bounded by it, so that a flood ends in refusals and not in the kernel's killing the
//! node's cache.

use std::fs;
use std::path::{Path, PathBuf};

/// Where cgroups are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// In bytes; `None` where there is none, or none that can be read.
pub(crate) fn memory_limit() -> Option<u64> {
    memory_limit_of(&fs::read_to_string("/proc/self/cgroup").ok()?)
}

/// The same for the process of a text like `/proc/self/cgroup`.
pub(crate) fn memory_limit_of(cgroups: &str) -> Option<u64> {
    let limits = files_of(cgroups).filter_map(|file| limit_of(&fs::read_to_string(file).ok()?));
    limits.min()
}

/// What this machine can give without pushing out anything that is in use, in bytes.
pub(crate) fn free_memory() -> Option<u64> {
    available_of(&fs::read_to_string("/proc/meminfo").ok()?)
}

/// `MemAvailable` of a text like `/proc/meminfo`.
fn available_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The files that hold the limits of the cgroups in a text like `/proc/self/cgroup`, and of those above them. In a
/// container the innermost may be seen as the outermost, so all are looked at.
fn files_of(cgroups: &str) -> impl Iterator<Item = PathBuf> {
    cgroups.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let v1 = controllers.split(',').any(|controller| controller == "memory");
        let (root, name) = match v1 {
            true => (Path::new(ROOT).join("memory"), "memory.limit_in_bytes"),
            false => (PathBuf::from(ROOT), "memory.max"),
        };
        let of_memory = v1 || controllers.is_empty();
        let levels = Path::new(path).ancestors().filter(move |_| of_memory);
        levels.map(|level| root.join(level.strip_prefix("/").unwrap_or(level)).join(name)).collect::<Vec<_>>()
    })
}

/// `max`, and what version 1 says where there is no limit, are none.
fn limit_of(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < 1 << 60)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(cgroups: &str, expected: &[&str]) {
        let files: Vec<String> = files_of(cgroups).map(|file| file.display().to_string()).collect();
        assert_eq!(files, expected, "{cgroups}");
    }

    #[test]
    fn limits_of_all_levels_count() {
        check(
            "0::/a/b\n",
            &["/sys/fs/cgroup/a/b/memory.max", "/sys/fs/cgroup/a/memory.max", "/sys/fs/cgroup/memory.max"],
        );
        check(
            "5:cpu,cpuacct:/x\n4:memory:/a\n",
            &["/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"],
        );
    }

    #[test]
    fn no_limit_is_none() {
        assert_eq!(limit_of("268435456\n"), Some(256 << 20));
        assert_eq!(limit_of("max\n"), None);
        assert_eq!(limit_of("9223372036854771712\n"), None);
    }

    #[test]
    fn what_is_available_is_found() {
        let meminfo = "MemTotal:       8119264 kB\nMemFree:  1 kB\nMemAvailable:    7000000 kB\n";
        assert_eq!(available_of(meminfo), Some(7_000_000 << 10));
        for other in ["", "MemAvailable:", "MemAvailable: 1 MB", "MemAvailable: 18446744073709551615 kB"] {
            assert_eq!(available_of(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_text_names_files_beneath_the_root(text in "\\PC*\n?\\PC*") {
            prop_assert!(files_of(&text).all(|file| file.starts_with(ROOT)));
        }
    }
}
