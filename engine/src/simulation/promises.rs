//! What a life has promised to the next one.

use std::collections::{BTreeMap, BTreeSet};

use super::samples::Sample;
use crate::slot::SlotIndex;

/// What a loss of power must not take.
#[derive(Clone, Default)]
pub(super) struct Promises {
    /// By tenure.
    pub(super) contents: BTreeMap<u64, Promise>,
    /// Tenures that were over before a flush that succeeded.
    pub(super) gone: BTreeSet<u64>,
}

#[derive(Clone)]
pub(super) struct Promise {
    pub(super) sample: &'static Sample,
    pub(super) place: u32,
    pub(super) registry: String,
    /// It is what a reader of its registry finds.
    pub(super) found_by_name: bool,
    /// As the last flush made it durable, if it has not changed since.
    pub(super) pinned: Option<bool>,
    /// Piece, slot and durable blocks.
    pub(super) pieces: Vec<(u32, SlotIndex, u8)>,
}
