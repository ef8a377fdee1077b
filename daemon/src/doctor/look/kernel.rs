//! What the kernel says of itself and lets a process have.

use darter_engine::ring::Backend;

use super::super::kernel::Kernel;
use super::text;
use crate::memory_limit::memory_limit_of;
use crate::sandbox;

/// Limits are those of the daemon that runs, or of this process.
pub(in super::super) fn look(daemon: Option<u32>) -> Kernel {
    let of_process = |process: String| {
        let read = |name: &str| text(format!("/proc/{process}/{name}"));
        Some((read("limits")?, read("status")?, read("cgroup").unwrap_or_default()))
    };
    let of_daemon = daemon.and_then(|process| of_process(process.to_string()));
    let limits_of = daemon.filter(|_| of_daemon.is_some());
    let (limits, status, cgroups) = of_daemon.or_else(|| of_process("self".to_owned())).unwrap_or_default();
    let number = |path: &str| text(path)?.trim().parse().ok();
    Kernel {
        release: text("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        ring: Backend::probe().map_err(|error| error.to_string()),
        ring_disabled: number("/proc/sys/kernel/io_uring_disabled"),
        // The ring was tried by this process.
        is_filtered: text("/proc/self/status").is_some_and(|status| is_filtered(&status)),
        landlock: sandbox::probe().map_err(|error| error.to_string()),
        runs_as_root: limits_of.and_then(|_| is_root(&status)),
        limits_of,
        memlock_bytes: limit(&limits, "Max locked memory").0.filter(|_| !may_lock(&status)),
        files_max: limit(&limits, "Max open files").1,
        memory_max: memory_limit_of(&cgroups),
    }
}

/// The soft and the hard limit of a text like `/proc/self/limits`; `None`: there is none.
fn limit(limits: &str, name: &str) -> (Option<u64>, Option<u64>) {
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let mut words = line.split_whitespace();
    let mut number = || words.next()?.parse().ok();
    (number(), number())
}

/// A text like `/proc/self/status`: no limit of locked memory is for those with `CAP_IPC_LOCK`.
fn may_lock(status: &str) -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    capabilities.is_some_and(|capabilities| capabilities >> CAP_IPC_LOCK & 1 == 1)
}

/// A text like `/proc/self/status`: the effective user is the second of four.
fn is_root(status: &str) -> Option<bool> {
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    Some(users.split_whitespace().nth(1)? == "0")
}

/// What the kernel lets a socket's buffer hold: received, to be sent.
pub(in super::super) fn socket_buffers_bytes() -> [Option<u64>; 2] {
    ["rmem_max", "wmem_max"].map(|name| text(format!("/proc/sys/net/core/{name}"))?.trim().parse().ok())
}

/// A text like `/proc/self/status`: a filter of seccomp is mode 2.
fn is_filtered(status: &str) -> bool {
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_found() {
        assert!(is_filtered("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!is_filtered("Seccomp:\t0\nSeccomp_filters:\t2\n"));
    }

    #[test]
    fn this_kernel_has_a_release() {
        assert!(look(None).release.contains('.'));
    }

    #[test]
    fn limits_are_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 524288               files     \n\
                      Max locked memory         65536                unlimited            bytes     \n";
        assert_eq!(limit(limits, "Max open files"), (Some(1024), Some(524_288)));
        assert_eq!(limit(limits, "Max locked memory"), (Some(65_536), None));
        assert_eq!(limit("", "Max open files"), (None, None));
        assert!(may_lock("CapEff:\t000001ffffffffff\n") && may_lock("Name:\tx\nCapEff:\t0000000000004000\n"));
        assert!(!may_lock("CapEff:\t000001ffffffbfff\n") && !may_lock("CapPrm:\tffff\n"));
    }

    #[test]
    fn limits_are_those_of_the_daemon() {
        use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let few = Rlimit { current: Some(64), maximum: Some(128) };
        prlimit(Pid::from_raw(child.id().cast_signed()), Resource::Nofile, few).unwrap();
        let seen = look(Some(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((seen.limits_of, seen.files_max), (Some(child.id()), Some(128)));
        // It has ended.
        let own = look(Some(child.id()));
        assert_eq!((own.limits_of, own.files_max), (None, getrlimit(Resource::Nofile).maximum));
    }
}
