//! A bound on the page tables of the mappings.
//!
//! The kernel keeps 8 bytes for each mapped page and 4 KiB for each 2 MiB in which one page was ever touched, in each
//! of a slab's two mappings, and never takes them back by itself: 100 GiB read in blocks would cost 400 MiB that no
//! figure of the cache shows. So the keeper lets go of all mapped pages when there are too many tables. What is hot is
//! mapped again at its next touch, from memory and 16 pages at a time; nothing is read again.
//!
//! Linux 6.14 and newer free the tables then (`CONFIG_PT_RECLAIM`, on by default); older kernels only empty them.

use std::fs;
use std::sync::Arc;

use crate::slab::Slab;

/// Page tables of the process from which on mapped pages are let go: what 8 GiB of slabs take that were sent and
/// checked in every 2 MiB.
pub(crate) const PAGE_TABLES_BYTES_MAX: u64 = 32 << 20;

/// Lets go of the slabs' mapped pages if the page tables of this process have more than `bytes_max`. Takes some
/// milliseconds per GiB that is mapped then, and hardly any time otherwise.
pub(crate) fn bound(slabs: &[Arc<Slab>], bytes_max: u64) {
    let Some(before_bytes) = page_table_bytes() else { return };
    if before_bytes <= bytes_max {
        return;
    }
    for slab in slabs {
        if let Err(error) = slab.let_go_of_pages() {
            tracing::warn!(%error, "mapped pages of a slab cannot be let go: page tables take more memory than they should");
            return;
        }
    }
    tracing::debug!(before_bytes, after_bytes = page_table_bytes(), "mapped pages were let go");
}

/// `VmPTE` of `/proc/self/status`.
fn page_table_bytes() -> Option<u64> {
    parse(&fs::read_to_string("/proc/self/status").ok()?)
}

fn parse(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmPTE:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_found() {
        assert_eq!(parse("VmLib:\t 1 kB\nVmPTE:\t     156 kB\nVmSwap:\t 0 kB\n"), Some(156 << 10));
        for other in ["", "VmPTE:", "VmPTE: x kB", "VmPTE: 1 MB", "VmPTE: 18446744073709551615 kB"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn tables_above_the_bound_are_given_back_and_the_bytes_are_still_there() {
        // Such a kernel is what the daemon is made for; on others the tables stay, and the bound is not kept.
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split('.').map_while(|number| number.parse::<u32>().ok());
        if (numbers.next(), numbers.next()) < (Some(6), Some(14)) {
            return eprintln!("SKIPPED: page tables are given back by Linux 6.14 and newer");
        }
        const SLOTS: u32 = 4096;
        const STEP: usize = 2 << 20;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("slab");
        Slab::create(&path, SLOTS).unwrap();
        let slabs = [Arc::new(Slab::open(&path, SLOTS).unwrap())];
        let slab = &slabs[0];
        let places = || (0..1 << 30).step_by(STEP);
        let sum = crc32fast::hash(&[7; 4096]);
        places().for_each(|at| slab.file().write_all_at(&[7; 4096], at as u64).unwrap());
        let touch = || places().for_each(|at| assert_eq!(slab.crc32(at..at + 4096), sum));
        let now = || page_table_bytes().unwrap();
        // Other tests of this process map little meanwhile; this one needs 2 MiB of tables.
        let empty = now();
        touch();
        let full = now();
        assert!(full > empty + (3 << 19), "{empty} {full}");
        bound(&slabs, full + (1 << 20));
        assert!(now() > empty + (3 << 19), "below the bound nothing is let go");
        bound(&slabs, full - (1 << 19));
        assert!(now() < empty + (1 << 19), "{empty} {full} {}", now());
        touch();
    }
}
