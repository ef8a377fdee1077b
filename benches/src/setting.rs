//! What all suites are given: the binary, the cores, and how much effort to make.

use std::path::PathBuf;
use std::time::Duration;

use crate::cores::Cores;

/// Of offsets and of the bytes of blobs; the round's number is added.
pub(crate) const SEED: u64 = 1;

/// For one run.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// `darter`.
    pub(crate) binary: PathBuf,
    pub(crate) cores: Cores,
    /// Turns of each side.
    pub(crate) rounds: u32,
    /// Length of a turn that has one.
    pub(crate) turn: Duration,
    /// Length of the blob that hits are read from; it stays in the page cache.
    pub(crate) blob_bytes: u64,
    /// Small and few: it is to be shown that it works, and no more.
    pub(crate) quick: bool,
}

impl Setting {
    /// Rounds of what takes long: a third of the others, three at least if there are that many.
    pub(crate) fn long_rounds(&self) -> u32 {
        (self.rounds / 3).max(3).min(self.rounds)
    }

    /// The sides in the order of a round: who was first is last in the next.
    pub(crate) fn in_turn<T: Copy>(round: u32, sides: &[T]) -> Vec<T> {
        let mut sides = sides.to_vec();
        let first = round as usize % sides.len().max(1);
        sides.rotate_left(first);
        sides
    }
}
