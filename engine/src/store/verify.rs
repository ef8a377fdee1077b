//! A content read through and checked, because somebody asked.
//!
//! What is served is checked anyway; this is for who wants to know before. It reads what is held and asks no
//! registry. It touches nothing for eviction, and a block that comes or goes meanwhile is no error.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::Store;
use super::read::Unread;
use crate::content::Content;
use crate::content_id::Naming;

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// Blocks that were read and compared with their crc32.
    pub checked_blocks: u32,
    /// Those of them that cannot be read or are not what was written. Their pieces are dropped.
    pub bad_blocks: u32,
    /// Blocks that are not held.
    pub absent_blocks: u32,
    /// Whether the whole has the digest that names it; `None` where that cannot be told: blocks are absent or bad,
    /// or the content is named by URL. With `false` the content has been removed.
    pub digest_right: Option<bool>,
    /// `keep_going` said no before the end.
    pub stopped: bool,
}

impl Store {
    /// Reads every held block of a content, compares it with its crc32, and compares the whole with its digest.
    ///
    /// Blocks for as long as the disk takes, at the lowest priority: call it on a thread of its own. `keep_going`
    /// is asked before each block.
    pub fn verify(&self, content: &Arc<Content>, keep_going: impl Fn() -> bool) -> Verified {
        crate::keeper::lower_priority();
        let layout = content.layout();
        let mut found = Verified::default();
        let mut sha256 = Sha256::new();
        for block in layout.whole().into_iter().flat_map(|run| run.blocks()) {
            if !keep_going() {
                found.stopped = true;
                return found;
            }
            match self.inner.read_blocking(content, block) {
                Ok(bytes) => {
                    found.checked_blocks += 1;
                    sha256.update(&bytes);
                }
                Err(Unread::Damaged) => {
                    found.checked_blocks += 1;
                    found.bad_blocks += 1;
                }
                Err(Unread::Absent) => found.absent_blocks += 1,
            }
        }
        let whole = found.bad_blocks == 0 && found.absent_blocks == 0;
        if whole && content.naming() == Naming::Digest {
            let right = sha256.finalize().as_slice() == content.id().as_bytes();
            found.digest_right = Some(right);
            if !right {
                tracing::error!(content = %content.id(), "the bytes held are not those of the digest; they are purged");
                self.inner.remove(content);
            }
        }
        found
    }
}
