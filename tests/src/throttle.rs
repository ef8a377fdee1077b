//! A block device that takes and gives only so many bytes in a second, by the block layer's own throttle. Needs root.
//!
//! What is written lies in memory first, and a machine with much memory would hide the slowest disk for a long time. So
//! the kernel is told as well to keep only a few MiB for this device: behind that, who writes waits.

use std::fs;
use std::path::{Path, PathBuf};

use crate::MemoryCgroup;

/// Version 1's throttle. The settings of its root hold for what the kernel writes back, whoever wrote it.
const V1: &str = "/sys/fs/cgroup/blkio";
/// What has been written and is not on the device yet.
const UNWRITTEN_BYTES_MAX: u64 = 4 << 20;

/// A throttled device, until dropped.
#[derive(Debug)]
pub struct Throttle {
    device: String,
    /// File, and what is written to it in the end.
    undo: Vec<(PathBuf, String)>,
}

impl Throttle {
    /// Whether this machine has what it takes.
    pub(crate) fn available() -> Result<(), String> {
        let v1 = Path::new(V1).join("blkio.throttle.write_bps_device");
        if !v1.exists() && !MemoryCgroup::has_controller("io") {
            return Err(format!("neither {} nor the io controller of cgroups is here", v1.display()));
        }
        // The first loop device stands for all.
        let share = Path::new("/sys/class/bdi/7:0/max_bytes");
        share
            .exists()
            .then_some(())
            .ok_or_else(|| format!("{} is not here (Linux 6.2 has it)", share.display()))
    }

    /// The device (`7:0`) for all who use it, `processes` among them.
    ///
    /// # Panics
    /// When the kernel does not take a setting.
    pub fn new(device: &str, bytes_per_s: u64, processes: &MemoryCgroup) -> Throttle {
        let mut throttle = Throttle { device: device.to_owned(), undo: Vec::new() };
        let memory = PathBuf::from(format!("/sys/class/bdi/{device}"));
        throttle.set(memory.join("strict_limit"), "1", "0");
        throttle.set(memory.join("max_bytes"), &UNWRITTEN_BYTES_MAX.to_string(), "");
        throttle.undo.push((memory.join("max_ratio"), "100".to_owned()));
        if Path::new(V1).join("blkio.throttle.write_bps_device").exists() {
            for file in ["blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device"] {
                let (on, off) = (format!("{device} {bytes_per_s}"), format!("{device} 0"));
                throttle.set(Path::new(V1).join(file), &on, &off);
            }
        } else {
            let on = format!("{device} rbps={bytes_per_s} wbps={bytes_per_s}");
            let off = format!("{device} rbps=max wbps=max");
            throttle.set(processes.directory().join("io.max"), &on, &off);
        }
        throttle
    }

    /// What the device has written since it was made, in bytes.
    ///
    /// # Panics
    /// When the kernel does not say.
    pub fn written_bytes(&self) -> u64 {
        // Documentation/admin-guide/iostats.rst: the seventh field counts sectors of 512 bytes.
        let stat =
            fs::read_to_string(format!("/sys/dev/block/{}/stat", self.device)).expect("a device counts");
        let sectors = stat.split_whitespace().nth(6).and_then(|sectors| sectors.parse::<u64>().ok());
        sectors.unwrap_or_else(|| panic!("no count of sectors in {stat:?}")) * 512
    }

    /// An empty `off` is not written: another setting undoes this one.
    fn set(&mut self, file: PathBuf, on: &str, off: &str) {
        fs::write(&file, on).unwrap_or_else(|error| panic!("{on:?} to {}: {error}", file.display()));
        if !off.is_empty() {
            self.undo.push((file, off.to_owned()));
        }
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        for (file, text) in &self.undo {
            if let Err(error) = fs::write(file, text) {
                eprintln!("{text:?} to {}: {error}", file.display());
            }
        }
    }
}
