//! How much a node sends and takes: bandwidth, and how many are sent to at a time, with nobody taking all.
//!
//! One [`Limits`] for all shards. The arithmetic is in `bucket` and `places`, which are pure; here are the clock and the
//! waiting. Limits are changed while the node runs, and count at once, for those who wait as well.
//!
//! What the protocol says beside blocks is not counted: it is little, and blocks are late when it is.

mod bucket;
mod places;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use tokio::time::sleep;

use self::bucket::Bucket;
use self::places::Places;
pub use self::places::UPLOADS_MAX;
use crate::node::NodeId;
use crate::wire::Load;

/// What is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowed {
    /// Bytes of blocks sent to other nodes in a second; 0 for as many as it goes.
    pub upload_bytes_per_s: u64,
    /// Bytes of blocks taken from other nodes in a second; 0 for as many as it goes.
    pub download_bytes_per_s: u64,
    /// Requests for blocks that are answered at a time; 0 for [`UPLOADS_MAX`], which is the most in any case.
    pub uploads: u32,
}

impl Default for Allowed {
    /// All the bandwidth, and 32 uploads: what each has under way is at most a stream's window, 32 MiB in all.
    fn default() -> Self {
        Self { upload_bytes_per_s: 0, download_bytes_per_s: 0, uploads: 32 }
    }
}

/// The limits of a node, shared by its shards.
#[derive(Debug)]
pub struct Limits {
    upload: Paced,
    download: Paced,
    places: Mutex<Places>,
    /// How often there was none.
    places_hit: AtomicU64,
}

/// How often limits held somebody up or back since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Hits {
    /// Sending waited for bandwidth.
    pub upload_bandwidth: u64,
    /// Taking waited for bandwidth.
    pub download_bandwidth: u64,
    /// A request for blocks found no place: it waited for one or was refused.
    pub upload_places: u64,
}

/// A place for an upload. Given back when it is dropped.
#[derive(Debug)]
pub struct UploadPermit {
    limits: Arc<Limits>,
    to: NodeId,
}

/// A bucket for which several wait.
#[derive(Debug)]
struct Paced {
    bucket: Mutex<Bucket>,
    changed: Notify,
    /// How often somebody had to wait.
    hit: AtomicU64,
}

impl Limits {
    /// With these.
    #[must_use]
    pub fn new(allowed: Allowed) -> Arc<Self> {
        Arc::new(Self {
            upload: Paced::new(allowed.upload_bytes_per_s),
            download: Paced::new(allowed.download_bytes_per_s),
            places: Mutex::new(Places::new(allowed.uploads)),
            places_hit: AtomicU64::new(0),
        })
    }

    /// From now on these. Uploads that go on beyond a lower number are not ended.
    pub fn set(&self, allowed: Allowed) {
        self.upload.set(allowed.upload_bytes_per_s);
        self.download.set(allowed.download_bytes_per_s);
        lock(&self.places).set(allowed.uploads);
    }

    /// What is allowed now.
    #[must_use]
    pub fn allowed(&self) -> Allowed {
        Allowed {
            upload_bytes_per_s: lock(&self.upload.bucket).bytes_per_s(),
            download_bytes_per_s: lock(&self.download.bucket).bytes_per_s(),
            uploads: lock(&self.places).all(),
        }
    }

    /// A place to send blocks to this node. `None`: it or all together have as many as may be, and it is refused with
    /// [`Code::Busy`](crate::wire::Code::Busy).
    #[must_use]
    pub fn upload(self: &Arc<Self>, to: NodeId) -> Option<UploadPermit> {
        lock(&self.places).take(to).then(|| UploadPermit { limits: Arc::clone(self), to })
    }

    /// Waits until so many bytes of blocks may be taken from another node. To be called for a block or a few at a time,
    /// before they are read: what is not read holds back its sender.
    pub async fn download(&self, bytes: u64) {
        self.download.pace(bytes).await;
    }

    /// How often the limits were hit.
    #[must_use]
    pub fn hits(&self) -> Hits {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Hits {
            upload_bandwidth: of(&self.upload.hit),
            download_bandwidth: of(&self.download.hit),
            upload_places: of(&self.places_hit),
        }
    }

    /// Somebody who asked for blocks has found no place.
    pub(crate) fn note_no_place(&self) {
        self.places_hit.fetch_add(1, Ordering::Relaxed);
    }

    /// How many are sent to now.
    #[must_use]
    pub fn uploads_now(&self) -> u32 {
        lock(&self.places).taken()
    }

    /// How busy the places are, as other nodes are told.
    #[must_use]
    pub fn load(&self) -> Load {
        let places = lock(&self.places);
        let busy = u64::from(places.taken()) * 255 / u64::from(places.all());
        Load { busy: u8::try_from(busy).unwrap_or(u8::MAX) }
    }
}

impl UploadPermit {
    /// Waits until so many bytes of blocks may be sent. To be called for a block or a few at a time, before they are
    /// sent: uploads take turns by it. Dropped while it waits, the turn is lost to all.
    pub async fn pace(&self, bytes: u64) {
        self.limits.upload.pace(bytes).await;
    }
}

impl Drop for UploadPermit {
    fn drop(&mut self) {
        lock(&self.limits.places).give_back(self.to);
    }
}

impl Paced {
    fn new(bytes_per_s: u64) -> Self {
        let bucket = Mutex::new(Bucket::new(bytes_per_s, Instant::now()));
        Self { bucket, changed: Notify::new(), hit: AtomicU64::new(0) }
    }

    fn set(&self, bytes_per_s: u64) {
        lock(&self.bucket).set(bytes_per_s, Instant::now());
        self.changed.notify_waiters();
    }

    async fn pace(&self, bytes: u64) {
        let turn = lock(&self.bucket).take(bytes, Instant::now());
        let mut is_held_up = false;
        loop {
            // Before the look: a change after it is heard.
            let changed = self.changed.notified();
            let Some(wait) = lock(&self.bucket).wait(turn, Instant::now()) else { return };
            if !is_held_up {
                is_held_up = true;
                self.hit.fetch_add(1, Ordering::Relaxed);
            }
            tokio::select! {
                () = sleep(wait) => {}
                () = changed => {}
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::lane::tests::run;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    #[test]
    fn a_place_comes_back_with_its_permit() {
        let limits = Limits::new(Allowed { uploads: 2, ..Allowed::default() });
        let first = limits.upload(node(1)).expect("a place");
        assert!(limits.upload(node(1)).is_none(), "one is for others");
        let _second = limits.upload(node(2)).expect("a place");
        assert!(limits.upload(node(3)).is_none());
        assert_eq!((limits.load(), limits.uploads_now()), (Load { busy: 255 }, 2));
        drop(first);
        assert_eq!(limits.load(), Load { busy: 127 });
        assert!(limits.upload(node(3)).is_some());
    }

    #[test]
    fn who_waits_for_his_turn_hears_of_a_change() {
        run(async {
            let limits =
                Limits::new(Allowed { upload_bytes_per_s: 1, download_bytes_per_s: 1, ..Allowed::default() });
            let permit = limits.upload(node(1)).expect("a place");
            permit.pace(1 << 20).await;
            limits.download(1 << 20).await;
            let mut both = Box::pin(async { tokio::join!(permit.pace(1), limits.download(1)) });
            assert!(timeout(Duration::from_millis(50), &mut both).await.is_err(), "12 days");
            // From another shard.
            let all = Allowed::default();
            let other = Arc::clone(&limits);
            std::thread::spawn(move || other.set(all)).join().expect("no panic");
            both.await;
            assert_eq!(limits.allowed(), all);
            let hits = Hits { upload_bandwidth: 1, download_bandwidth: 1, upload_places: 0 };
            assert_eq!(limits.hits(), hits, "each has waited once, however often it looked");
        });
    }

    #[test]
    fn a_wait_ends_by_itself() {
        run(async {
            let limits = Limits::new(Allowed { download_bytes_per_s: 1_000_000, ..Allowed::default() });
            let began = Instant::now();
            for _ in 0..4 {
                limits.download(50_000).await;
            }
            // Three of the four are paid for, less a burst.
            assert!(began.elapsed() >= Duration::from_millis(90), "{:?}", began.elapsed());
        });
    }
}
