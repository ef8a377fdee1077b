//! SHA-256 of a stream, computed off the shards: one thread for each stream, few streams at a time.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

/// Streams hashed at a time. Only blobs above the store's capacity need this.
const STREAMS_MAX: usize = 16;
/// Parts on their way to the thread.
const PARTS_MAX: usize = 64;

static STREAMS: AtomicUsize = AtomicUsize::new(0);

/// A running digest.
#[derive(Debug)]
pub(crate) struct OffShardSha256 {
    parts: mpsc::Sender<Bytes>,
    digest: oneshot::Receiver<[u8; 32]>,
}

/// Counts one stream for as long as its thread runs.
struct Counted;

impl Drop for Counted {
    fn drop(&mut self) {
        STREAMS.fetch_sub(1, Ordering::Relaxed);
    }
}

impl OffShardSha256 {
    /// `None` when too many streams are being hashed.
    pub(crate) fn start() -> Option<Self> {
        if STREAMS.fetch_add(1, Ordering::Relaxed) >= STREAMS_MAX {
            STREAMS.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let counted = Counted;
        let (parts, mut incoming) = mpsc::channel::<Bytes>(PARTS_MAX);
        let (done, digest) = oneshot::channel();
        let thread = std::thread::Builder::new().name("darter-digest".into()).spawn(move || {
            let _counted = counted;
            let mut sha256 = Sha256::new();
            while let Some(part) = incoming.blocking_recv() {
                sha256.update(&part);
            }
            let _ = done.send(sha256.finalize().into());
        });
        thread.is_ok().then_some(Self { parts, digest })
    }

    /// Adds bytes; waits when the thread is behind.
    pub(crate) async fn update(&mut self, part: Bytes) {
        // The thread ends only when this sender does; a failed send shows in the missing digest.
        let _ = self.parts.send(part).await;
    }

    /// The digest of all that was added.
    pub(crate) async fn finish(self) -> Option<[u8; 32]> {
        drop(self.parts);
        self.digest.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_make_one_digest_and_the_number_of_streams_is_limited() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut streams: Vec<_> = std::iter::from_fn(OffShardSha256::start).collect();
            assert_eq!(streams.len(), STREAMS_MAX);
            let mut one = streams.pop().unwrap();
            one.update(Bytes::from_static(b"ab")).await;
            one.update(Bytes::from_static(b"c")).await;
            assert_eq!(one.finish().await, Some(Sha256::digest(b"abc").into()));
        });
    }
}
