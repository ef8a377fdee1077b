//! The part of the doctor that looks: files, sockets, the kernel, registries. It decides nothing.

pub(super) mod directory;
pub(super) mod files;
pub(super) mod kernel;
pub(super) mod ports;
pub(super) mod registries;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Tables of sockets may be long, and a file may be a device without an end.
const TEXT_BYTES_MAX: u64 = 16 << 20;

/// Processes whose open files are looked through.
const PROCESSES_MAX: usize = 65_536;

/// A file of the kernel's as text, if it is there and may be read.
fn text(path: impl AsRef<Path>) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(TEXT_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a look at a disk finds, unless it takes longer: one that does not answer keeps a thread waiting, not the
/// doctor.
pub(super) fn within<T: Send + 'static>(
    time: Duration,
    look: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (found, finding) = mpsc::sync_channel(1);
    thread::spawn(move || {
        // Nobody waits any more if it fails.
        let _ = found.send(look());
    });
    finding.recv_timeout(time).ok()
}
