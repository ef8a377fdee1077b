//! What the kernel says of itself and lets this process have.

use darter_engine::ring::Backend;
use rustix::process::{Resource, getrlimit};

use super::super::kernel::Kernel;
use super::text;
use crate::memory_limit::memory_limit;

pub(in super::super) fn look() -> Kernel {
    let number = |path: &str| text(path)?.trim().parse().ok();
    Kernel {
        release: text("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        ring: Backend::probe().map_err(|error| error.to_string()),
        ring_disabled: number("/proc/sys/kernel/io_uring_disabled"),
        is_filtered: text("/proc/self/status").is_some_and(|status| is_filtered(&status)),
        memlock_bytes: getrlimit(Resource::Memlock).maximum,
        files_max: getrlimit(Resource::Nofile).maximum,
        memory_max: memory_limit(),
    }
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
        assert!(look().release.contains('.'));
    }
}
