//! The bytes of a file.

use std::cell::RefCell;
use std::ops::Range;

use super::{PAGE_BYTES, pages};

/// Zeros until they are written. A world ends soon, and the next one wants as much.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) bytes: Vec<u8>,
    /// By pages.
    pub(super) touched: Vec<bool>,
}

thread_local! {
    static IDLE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

impl Memory {
    pub(super) fn new(length: usize) -> Self {
        let idle = IDLE.with_borrow_mut(|idle| {
            let fits = idle.iter().position(|bytes| bytes.len() == length)?;
            Some(idle.swap_remove(fits))
        });
        Self {
            bytes: idle.unwrap_or_else(|| vec![0; length]),
            touched: vec![false; length.div_ceil(PAGE_BYTES)],
        }
    }

    pub(super) fn touch(&mut self, range: Range<u64>) {
        self.touched[pages(&range)].fill(true);
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.bytes[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        self.touch(offset..offset + bytes.len() as u64);
    }

    pub(super) fn clear(&mut self, range: Range<u64>) {
        for page in pages(&range).filter(|page| self.touched[*page]) {
            let start = (page * PAGE_BYTES).max(range.start as usize);
            let end = ((page + 1) * PAGE_BYTES).min(range.end as usize);
            self.bytes[start..end].fill(0);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.clear(0..self.bytes.len() as u64);
        let bytes = std::mem::take(&mut self.bytes);
        const IDLE_MAX: usize = 16;
        IDLE.with_borrow_mut(|idle| {
            if idle.len() < IDLE_MAX {
                idle.push(bytes);
            }
        });
    }
}
