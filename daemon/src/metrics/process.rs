//! The process itself: what it takes of the machine, and since when.

use std::fs;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// `proc_pid_statm(5)`.
const STATM: &str = "/proc/self/statm";

/// Of this one.
#[derive(Debug)]
pub(super) struct Process {
    memory: Family<[(&'static str, &'static str); 1], Gauge>,
    cpu: Counter<f64, AtomicU64>,
}

impl Process {
    /// `io` is the backend that the store uses.
    pub(super) fn register(registry: &mut Registry, io: &str) -> Self {
        let info = vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("io", io.to_owned())];
        registry.register("build", "Version of this daemon and the I/O that it uses", Info::new(info));
        let started: Gauge = Gauge::default();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        super::set(&started, now.map_or(0, |now| now.as_secs()));
        registry.register_with_unit(
            "start_timestamp",
            "When this daemon started, in Unix time",
            Unit::Seconds,
            started,
        );
        let process = Self { memory: Family::default(), cpu: Counter::default() };
        for kind in ["private", "files"] {
            let _ = process.memory.get_or_create(&[("kind", kind)]);
        }
        registry.register_with_unit(
            "memory",
            "Resident memory: the process's own, and pages of files, which the kernel takes back when it needs them",
            Unit::Bytes,
            process.memory.clone(),
        );
        registry.register_with_unit(
            "cpu",
            "Processor time that this daemon has used",
            Unit::Seconds,
            process.cpu.clone(),
        );
        process.take_over();
        process
    }

    pub(super) fn take_over(&self) {
        if let Some((private, of_files)) = resident_bytes() {
            for (kind, bytes) in [("private", private), ("files", of_files)] {
                super::set(&self.memory.get_or_create(&[("kind", kind)]), bytes);
            }
        }
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let used_s = used.tv_sec as f64 + used.tv_nsec as f64 / 1e9;
        let told_s = self.cpu.get();
        // Two scrapes at once: the clock goes forward only.
        if used_s > told_s {
            self.cpu.inc_by(used_s - told_s);
        }
    }
}

/// The process's own, and that of files; `None` where the kernel's file cannot be read, as when too many are open.
fn resident_bytes() -> Option<(u64, u64)> {
    let statm = fs::read_to_string(STATM);
    let statm = statm.inspect_err(|error| tracing::debug!(%error, "{STATM} cannot be read"));
    let (private, of_files) = resident_pages(&statm.ok()?)?;
    let page_bytes = rustix::param::page_size() as u64;
    Some((private * page_bytes, of_files * page_bytes))
}

/// Out of the kernel's line: size, resident, shared, …
fn resident_pages(statm: &str) -> Option<(u64, u64)> {
    let mut numbers = statm.split_ascii_whitespace().map(|number| number.parse::<u64>().ok());
    let (_, resident, of_files) = (numbers.next()??, numbers.next()??, numbers.next()??);
    Some((resident.saturating_sub(of_files), of_files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read() {
        assert_eq!(resident_pages("1000 300 200 10 0 50 0\n"), Some((100, 200)));
        assert_eq!(resident_pages("1000 100 200"), Some((0, 200)));
        assert_eq!(resident_pages("1000 x 200"), None);
        assert_eq!(resident_pages(""), None);
    }

    #[test]
    fn what_the_process_takes_is_told_again_and_again() {
        let mut registry = Registry::default();
        let process = Process::register(&mut registry, "pool");
        let before = process.memory.get_or_create(&[("kind", "private")]).get();
        assert!(before > 0, "a test takes memory");
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        process.take_over();
        let after = process.memory.get_or_create(&[("kind", "private")]).get();
        assert!(after >= before + (32 << 20), "{before} and then {after}");
        assert!(process.cpu.get() > 0.0);
        drop(block);
    }
}
