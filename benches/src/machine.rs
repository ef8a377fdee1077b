//! The machine that figures belong to.

use std::fmt;
use std::fs;

use serde::Serialize;

/// What one needs to know to compare figures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// As the processor calls itself.
    pub(crate) processor: String,
    /// Cores that this process may use.
    pub(crate) cores: usize,
    /// Release of the kernel.
    pub(crate) kernel: String,
    /// Bytes of memory.
    pub(crate) memory_bytes: u64,
    /// Tasks that ran or wanted to, averaged over the last minute, before anything was started: above 0.5, others were
    /// at work too.
    pub(crate) load_before: f64,
}

impl Machine {
    /// This one, now.
    pub(crate) fn here() -> Self {
        let after = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim_start_matches([' ', '\t', ':']).trim().to_owned())
        };
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let kib =
            after(&read("/proc/meminfo"), "MemTotal").and_then(|text| text.split(' ').next()?.parse().ok());
        Self {
            processor: after(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_bytes: kib.map_or(0, |kib: u64| kib << 10),
            load_before: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(0.0),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory_gib = self.memory_bytes as f64 / f64::from(1 << 30);
        write!(
            out,
            "{}, {} cores, {memory_gib:.0} GiB, Linux {}, load {:.2} before",
            self.processor, self.cores, self.kernel, self.load_before
        )
    }
}
