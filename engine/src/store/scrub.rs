//! What can be asked of the scrub, and a content read through because somebody asked.

use std::fs::OpenOptions;
use std::io;
use std::sync::{Arc, PoisonError};

use super::Store;
use crate::content::Content;
use crate::scrub::{Disk, For, Reading, Scrub, ScrubOptions, ScrubStatus, Verified};

impl Store {
    /// Starts a thread of low priority that looks after what is on the disk: once for a store. First it brings pinned
    /// contents into memory, at most so many bytes.
    ///
    /// # Errors
    /// There is no thread for it.
    pub fn start_scrub(&self, options: ScrubOptions, warm_up_bytes_max: u64) -> io::Result<()> {
        self.inner.scrub.set(options);
        let records = OpenOptions::new().read(true).write(true).open(&self.inner.records_path);
        let records = records.inspect_err(|error| {
            tracing::warn!(%error, "how far the scrub is cannot be noted: each start begins it anew");
        });
        let scrub = Scrub::new(self.inner.clone(), records.ok());
        let thread = std::thread::Builder::new()
            .name("darter-scrub".into())
            .spawn(move || scrub.run(warm_up_bytes_max))?;
        self.inner.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// The scrub goes on in another way from now on.
    pub fn set_scrub(&self, options: ScrubOptions) {
        self.inner.scrub.set(options);
    }

    /// How far the scrub is.
    pub fn scrub_status(&self) -> ScrubStatus {
        self.inner.scrub.status()
    }

    /// Reads every held block of a content from the disk, compares it with its crc32, and compares the whole with its
    /// digest.
    ///
    /// Blocks for as long as the disk takes, at the lowest priority: call it on a thread of its own. `keep_going`
    /// is asked before each piece.
    pub fn verify(&self, content: &Arc<Content>, keep_going: impl Fn() -> bool) -> Verified {
        crate::keeper::lower_priority();
        let layout = content.layout();
        let mut disk = Disk::new(&self.inner.records_path);
        let mut reading = Reading::new(content.clone(), For::Command, true);
        for piece in layout.whole().into_iter().flat_map(|run| run.pieces()) {
            if !keep_going() {
                return Verified { stopped: true, ..reading.found() };
            }
            reading.piece(&self.inner, &mut disk, piece);
        }
        reading.finish(&self.inner)
    }
}
