//! What can be asked of the store.
//!
//! Reads take no lock: look-up by name, lease, presence, checksum, slices. Room is given out under one short
//! lock. Records, eviction and syncs are the keeper's, whole digests the hasher's; neither ever
//! delays a reader.

mod read;
mod restore;
mod room;
mod scrub;
mod stats;
mod survey;
mod write;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::buffer::BlockPool;
use crate::content::{Content, ContentSpec, Verification};
use crate::content_id::{ContentId, Naming, RegistryScope};
use crate::directory::{Directory, OpenError};
use crate::eviction::{Resident, S3Fifo};
use crate::format::{Geometry, Session};
use crate::free_slots::FreeSlots;
use crate::hasher::HasherQueue;
use crate::index::Index;
use crate::keeper::{Keeper, KeeperQueue};
use crate::layout::BlockIndex;
use crate::records::Records;
use crate::ring::Backend;
use crate::scrub::ScrubQueue;
use crate::slab::Slab;
use crate::slot::{SlotIndex, SlotState, SlotTable};

pub use crate::scrub::{ScrubOptions, ScrubStatus, Verified};
pub use crate::slab::Lent;
pub use read::{ReadError, Touch};
pub use room::{NoRoom, Reservation};
pub use stats::{ContentStat, StoreStats};
pub use survey::Survey;
pub use write::WriteError;

pub(crate) use room::{Room, piece_key};
pub(crate) use stats::Counters;

/// Records looked at under one lock, when all of them are.
const PLACES_AT_ONCE: usize = 4096;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Directory that holds `lock` and `store`; made if it is not there.
    pub data_dir: PathBuf,
    /// Bytes of all slots. `None`: the size of the store that is there, or a fifth of the free space up to 50 GiB.
    pub capacity_bytes: Option<u64>,
    /// What does the I/O.
    pub backend: Backend,
    /// Limit of the pool of block buffers, in blocks of 64 KiB.
    pub pool_blocks: usize,
    /// Content that was not used for so long is removed. `None`: kept until it is evicted.
    pub ttl: Option<Duration>,
}

/// The piece store of a node; cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) geometry: Geometry,
    pub(crate) slabs: Vec<Arc<Slab>>,
    pub(crate) slots: SlotTable,
    pub(crate) index: Index,
    pub(crate) room: Mutex<Room>,
    pub(crate) room_made: Notify,
    pub(crate) keeper: KeeperQueue,
    pub(crate) hasher: HasherQueue,
    pub(crate) scrub: ScrubQueue,
    pub(crate) counters: Counters,
    pub(crate) ttl: Option<Duration>,
    pool: BlockPool,
    backend: Backend,
    warning: Option<&'static str>,
    pub(crate) clean_start: bool,
    pub(crate) store_id: u64,
    pub(crate) records_path: PathBuf,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// No second daemon may write while anyone here still can.
    _directory_lock: File,
}

/// The records could not be made durable.
#[derive(Clone, Debug, thiserror::Error)]
#[error("records could not be written: {0}; what is cached now may not be found after a restart")]
pub struct FlushError(pub String);

impl Store {
    /// Opens the store of a data directory, or makes one, and starts its two threads.
    pub fn open(options: &StoreOptions) -> Result<Self, OpenError> {
        let directory = Directory::open(&options.data_dir, options.capacity_bytes)?;
        let error = |what| move |source| OpenError::Io { what, path: options.data_dir.clone(), source };
        let (store, mut keeper) = Self::restored(directory, options).map_err(error("write records of"))?;
        let hashing = store.inner.clone();
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(body).map_err(error("start a thread for"))
        };
        let threads = vec![
            spawn("darter-keeper", Box::new(move || keeper.run()))?,
            spawn("darter-hasher", Box::new(move || crate::hasher::run(&hashing)))?,
        ];
        *store.inner.threads.lock().unwrap_or_else(PoisonError::into_inner) = threads;
        Ok(store)
    }

    /// The store of open files as their records say it is, with the keeper that is to run beside it.
    ///
    /// # Errors
    /// The session cannot be noted.
    pub(crate) fn restored(directory: Directory, options: &StoreOptions) -> io::Result<(Self, Keeper)> {
        let header = directory.header;
        let slots = SlotTable::new(header.geometry.slots());
        let index = Index::new(header.geometry);
        let mut room =
            Room { free: FreeSlots::none(slots.len()), queues: S3Fifo::new(header.geometry.slots()) };
        let mut records = Records::new(directory.records, &header);
        let restored = restore::restore(&mut records, &slots, &index, &mut room);
        records.write_session(Session::InUse)?;
        let inner = Arc::new(Inner {
            geometry: header.geometry,
            slabs: directory.slabs,
            slots,
            index,
            room: Mutex::new(room),
            room_made: Notify::new(),
            keeper: KeeperQueue::default(),
            hasher: HasherQueue::default(),
            scrub: ScrubQueue::default(),
            counters: Counters::default(),
            ttl: options.ttl,
            pool: BlockPool::new(options.pool_blocks),
            backend: options.backend,
            warning: directory.warning,
            clean_start: matches!(directory.session, Session::Stopped { .. }),
            store_id: header.store_id,
            records_path: options.data_dir.join("store/records"),
            threads: Mutex::default(),
            _directory_lock: directory.lock,
        });
        let keeper = Keeper::new(inner.clone(), records, restored.orphans);
        restored.refused.iter().for_each(|content| inner.keeper.note_content(content));
        Ok((Self { inner }, keeper))
    }

    /// Makes all that was written durable and stops the store's threads. Reads of other clones still work.
    pub fn close(&self) {
        self.inner.scrub.stop();
        self.inner.hasher.stop();
        self.inner.keeper.stop();
        let threads = std::mem::take(&mut *self.inner.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the store ended by a panic");
            }
        }
    }

    /// What does the I/O.
    pub fn backend(&self) -> Backend {
        self.inner.backend
    }

    /// The pool of block buffers.
    pub fn pool(&self) -> &BlockPool {
        &self.inner.pool
    }

    /// Something an operator should know about the file system beneath.
    pub fn warning(&self) -> Option<&'static str> {
        self.inner.warning
    }

    /// Whether the last daemon on this store stopped cleanly.
    pub fn clean_start(&self) -> bool {
        self.inner.clean_start
    }

    /// The content of that name, if it may be served under that registry. Takes no lock.
    pub fn find(&self, id: &ContentId, scope: RegistryScope) -> Option<Arc<Content>> {
        self.inner.index.find(id, scope)
    }

    /// The content of that name, made if it is not there. An unverified one of another length is replaced. When
    /// all records are taken, the one that was not used for longest gives way; `None` if the content is above the
    /// store's capacity or no other may go.
    pub fn create(&self, spec: &ContentSpec) -> Option<Arc<Content>> {
        let found = self.inner.index.create(spec).or_else(|| {
            self.inner.drop_oldest_content();
            self.inner.index.create(spec)
        })?;
        if found.layout() == spec.layout || found.verification() == Verification::Passed {
            return Some(found);
        }
        self.inner.remove(&found);
        self.inner.index.create(spec)
    }

    /// All contents now, in no order.
    pub fn contents(&self) -> Vec<Arc<Content>> {
        let mut found = Vec::new();
        for start in (0..self.inner.geometry.contents() as usize).step_by(PLACES_AT_ONCE) {
            let places = self.inner.index.places();
            found.extend(
                places.some(start..start + PLACES_AT_ONCE).filter(|content| !content.is_gone()).cloned(),
            );
        }
        found
    }

    /// Pinned content is never evicted.
    pub fn set_pinned(&self, content: &Arc<Content>, pinned: bool) {
        content.set_pinned(pinned);
        self.inner.keeper.note_content(content);
    }

    /// Removes a content with all its pieces; who reads it now reads to the end.
    pub fn remove(&self, content: &Arc<Content>) {
        self.inner.remove(content);
    }

    /// Gives the running digest of a content a block that is *not* kept, in case its turn comes soon.
    pub fn feed(&self, content: &Arc<Content>, block: BlockIndex, bytes: Bytes) {
        if content.naming() == Naming::Digest {
            content.frontier.feed(block, bytes);
            self.inner.hasher.enqueue(content);
        }
    }

    /// Lets the running digest go on as far as it can; progress is told by [`Content::changed`].
    pub fn advance(&self, content: &Arc<Content>) {
        if matches!(content.verification(), Verification::Pending { .. }) {
            self.inner.hasher.enqueue(content);
        }
    }

    /// Makes durable what was written before this call.
    pub async fn flush(&self) -> Result<(), FlushError> {
        let done = self.inner.keeper.flush();
        done.await.unwrap_or_else(|_| Err(FlushError("the store is closed".into())))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({} slots, {})", self.inner.slots.len(), self.inner.backend)
    }
}

impl Inner {
    pub(crate) fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn slab_of(&self, slot: SlotIndex) -> &Slab {
        &self.slabs[self.geometry.slab_of(slot.0) as usize]
    }

    /// The slab of a slot, and its first byte there.
    pub(crate) fn place_of(&self, slot: SlotIndex) -> (u32, usize) {
        (self.geometry.slab_of(slot.0), self.geometry.offset_in_slab(slot.0) as usize)
    }

    /// The piece of a block is no longer good.
    pub(crate) fn lose(&self, content: &Content, block: BlockIndex, slot: SlotIndex) {
        if content.clear_slot(block.piece().number(), slot) && self.slots.release(slot) {
            self.keeper.released(slot);
        }
    }

    /// The piece of a slot is no longer good.
    pub(crate) fn give_up(&self, slot: SlotIndex) {
        self.forget_tenant(slot);
        if self.slots.release(slot) {
            self.keeper.released(slot);
        }
    }

    /// The tenant's piece table no longer names the slot.
    fn forget_tenant(&self, slot: SlotIndex) {
        let tenant = self.slots.tenant(slot);
        if let Some(content) = self.index.places().content(tenant.content) {
            content.clear_slot(tenant.piece, slot);
        }
    }

    pub(crate) fn is_held(&self, resident: Resident) -> bool {
        let word = self.slots.word(resident.slot);
        word.state == SlotState::Held && word.generation == resident.generation
    }

    pub(crate) fn remove(&self, content: &Arc<Content>) {
        self.index.hide(content);
        let slots: Vec<_> = {
            // Under the lock under which pieces get slots: whoever comes later sees that the content is gone.
            let _room = self.room();
            content.slots().collect()
        };
        for (piece, slot) in slots {
            if content.clear_slot(piece, slot) && self.slots.release(slot) {
                self.keeper.released(slot);
            }
        }
        self.keeper.note_content(content);
        content.notify_changed();
    }

    /// Makes a place in the content table, when the keeper has not kept up. Who still uses the content that goes is
    /// served, unkept.
    fn drop_oldest_content(&self) {
        let oldest = self
            .index
            .places()
            .contents()
            .filter(|content| content.may_go())
            .min_by_key(|content| content.rank_to_go(0))
            .cloned();
        if let Some(oldest) = oldest {
            self.drop_content(&oldest);
        }
    }

    /// Removes a content and gives its place back at once: the next tenant's record will overwrite its own.
    pub(crate) fn drop_content(&self, content: &Arc<Content>) {
        self.remove(content);
        self.index.vacate(content);
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}
