//! What the engine has for a file.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{Disk, pages};
use crate::slot::Leases;

/// A file of a simulated disk.
#[derive(Clone)]
pub(crate) struct SimulatedFile {
    pub(super) disk: Disk,
    pub(super) number: usize,
}

impl fmt::Debug for SimulatedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimulatedFile({})", self.number)
    }
}

impl SimulatedFile {
    pub(crate) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.count_operation();
        self.disk.state().read(self.number, offset, buffer)
    }

    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.maybe_interleave();
        self.disk.count_operation();
        self.disk.state().write_parts(self.number, offset, &[Bytes::copy_from_slice(bytes)])
    }

    /// Covers what is written before the call, as in the kernel: others write on while it lasts.
    pub(crate) fn sync_data(&self) -> io::Result<()> {
        let covered = self.disk.state().files[self.number].unsynced.len();
        self.disk.maybe_interleave();
        self.disk.count_operation();
        self.disk.state().sync(self.number, covered)
    }

    pub(crate) fn forget_cached(&self) {
        let whole = self.disk.state().files[self.number].view.bytes.len() as u64;
        self.disk.forget_cached(self.number, 0..whole);
    }

    pub(crate) fn length_bytes(&self) -> u64 {
        self.disk.state().files[self.number].length
    }

    pub(crate) fn resident(&self, range: Range<usize>) -> bool {
        let state = self.disk.state();
        let file = &state.files[self.number];
        file.cached[pages(&wide(&range))].iter().all(|cached| *cached)
    }

    /// As through the mapping: where a page cannot be had, it is all zeros from then on.
    pub(crate) fn crc32(&self, range: Range<usize>) -> u32 {
        let state = &mut *self.disk.state();
        let cut = state.files[self.number].length < range.end as u64;
        if cut || state.rng.chance(state.odds.mapping_fails) {
            state.files[self.number].mapping_failed = true;
            state.note(|| format!("  disk: a page of {range:?} cannot be mapped"));
            return crc32fast::hash(&vec![0; range.len()]);
        }
        crc32fast::hash(&state.files[self.number].view.bytes[range])
    }

    pub(crate) fn lend(&self, range: Range<usize>, leases: Leases) -> Bytes {
        let state = &mut *self.disk.state();
        state.note(|| format!("  {range:?} of file {} are lent", self.number));
        let file = &mut state.files[self.number];
        let lent = Arc::new(wide(&range));
        file.lent.push(Arc::downgrade(&lent));
        Bytes::from_owner(Lent { bytes: file.view.bytes[range].to_vec(), _leases: leases, _range: lent })
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.disk.state().files[self.number].mapping_failed
    }
}

fn wide(range: &Range<usize>) -> Range<u64> {
    range.start as u64..range.end as u64
}

/// As long as it lives nothing may be written there.
struct Lent {
    pub(super) bytes: Vec<u8>,
    pub(super) _leases: Leases,
    pub(super) _range: Arc<Range<u64>>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
