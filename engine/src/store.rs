//! What can be asked of the store.
//!
//! Reads take no lock: look-up by name, lease, presence, checksum, slices. Room is given out under one short
//! lock. Records, eviction and syncs are the [keeper's](crate::keeper), whole digests the hasher's; neither ever
//! delays a reader.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::buffer::{BlockBuffer, BlockPool};
use crate::clock;
use crate::content::{Content, ContentSpec, Verification};
use crate::content_id::{ContentId, Naming, RegistryScope, Scope};
use crate::directory::{Directory, OpenError};
use crate::eviction::{Resident, S3Fifo};
use crate::format::{Geometry, SLOTS_PER_SLAB};
use crate::free_slots::FreeSlots;
use crate::frontier::Noted;
use crate::hasher::HasherQueue;
use crate::index::{Index, Rescoped};
use crate::keeper::{Keeper, KeeperQueue};
use crate::layout::{BLOCK_BYTES, BlockIndex, BlockRun, PIECE_BYTES, PieceIndex};
use crate::records::Records;
use crate::ring::{self, Backend, ReadOp, WriteOp};
use crate::slab::Slab;
use crate::slot::{Leases, Restored, SlotIndex, SlotState, SlotTable, Tenant};

/// How long a fetch waits for the keeper to make room before its bytes are served unkept.
const ROOM_WAIT_MS: u64 = 250;

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
    inner: Arc<Inner>,
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
    pub(crate) counters: Counters,
    pub(crate) ttl: Option<Duration>,
    pool: BlockPool,
    backend: Backend,
    warning: Option<&'static str>,
    clean_start: bool,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// No second daemon may write while anyone here still can.
    _directory_lock: File,
}

/// Free slots and the queues of eviction; one short lock.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) free: FreeSlots,
    pub(crate) queues: S3Fifo,
}

/// Counted since start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) evicted_pieces: AtomicU64,
    pub(crate) checks_failed: AtomicU64,
    pub(crate) blocks_checked: AtomicU64,
    pub(crate) hot_reads: AtomicU64,
    pub(crate) cold_reads: AtomicU64,
    pub(crate) refused_reservations: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
}

/// What the store says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoreStats {
    /// Bytes of all slots.
    pub capacity_bytes: u64,
    /// Bytes of slots in use.
    pub used_bytes: u64,
    /// Contents known.
    pub contents: u64,
    /// Leases alive.
    pub leases: u64,
    /// Block buffers in use, in bytes.
    pub buffer_bytes: u64,
    /// Pieces evicted since start.
    pub evicted_pieces: u64,
    /// Blocks whose crc32 was wrong when they were to be served, since start.
    pub checks_failed: u64,
    /// Blocks whose crc32 was computed before they were served, since start.
    pub blocks_checked: u64,
    /// Runs served from the mapping since start.
    pub hot_reads: u64,
    /// Runs read into buffers since start.
    pub cold_reads: u64,
    /// Reservations that found no room since start.
    pub refused_reservations: u64,
    /// Bytes written to slots since start.
    pub written_bytes: u64,
}

/// What one content says of itself.
#[derive(Clone, Debug)]
pub struct ContentStat {
    /// Name.
    pub id: ContentId,
    /// Length in bytes.
    pub length_bytes: u64,
    /// Pieces of the whole content.
    pub pieces: u32,
    /// Pieces of which at least one block is here.
    pub held_pieces: u32,
    /// Pieces whose blocks are all here and are found again after a crash.
    pub durable_pieces: u32,
    /// How far the digest is checked.
    pub verification: Verification,
    /// Never evicted.
    pub pinned: bool,
    /// Registry that the bytes came from.
    pub registry: String,
}

/// Why blocks cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// This block is not here (any more): fetch it.
    #[error("block {} is not in the store", .0.number())]
    Absent(BlockIndex),
    /// All block buffers are in use: shed, or try again.
    #[error("all block buffers are in use")]
    NoBuffers,
}

/// Why blocks cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The content was removed meanwhile, or the reservation does not cover the blocks.
    #[error("the content was removed while it was written")]
    Gone,
    /// The content is unverified and belongs to another registry: serve the bytes unkept.
    #[error("the content belongs to another registry until its digest is checked")]
    OtherRegistry,
    /// The disk refused; the pieces touched are given up.
    #[error("cannot write to a slab: {0}")]
    Disk(#[from] io::Error),
}

/// No slots are free and none could be freed in time: serve the bytes unkept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no room in the store: all slots are in use or pinned")]
pub struct NoRoom;

/// The records could not be made durable.
#[derive(Clone, Debug, thiserror::Error)]
#[error("records could not be written: {0}; what is cached now may not be found after a restart")]
pub struct FlushError(pub String);

impl Store {
    /// Opens the store of a data directory, or makes one, and starts its two threads.
    pub fn open(options: &StoreOptions) -> Result<Self, OpenError> {
        let directory = Directory::open(&options.data_dir, options.capacity_bytes)?;
        let header = directory.header;
        let slots = SlotTable::new(header.geometry.slots());
        let index = Index::new(header.geometry);
        let mut room =
            Room { free: FreeSlots::none(slots.len()), queues: S3Fifo::new(header.geometry.slots()) };
        let mut records = Records::new(directory.records, &header);
        let record_error =
            |source| OpenError::Io { what: "write records of", path: options.data_dir.clone(), source };
        let orphans = restore(&mut records, &slots, &index, &mut room);
        records.write_session(crate::format::Session::InUse).map_err(record_error)?;
        let inner = Arc::new(Inner {
            geometry: header.geometry,
            slabs: directory.slabs,
            slots,
            index,
            room: Mutex::new(room),
            room_made: Notify::new(),
            keeper: KeeperQueue::default(),
            hasher: HasherQueue::default(),
            counters: Counters::default(),
            ttl: options.ttl,
            pool: BlockPool::new(options.pool_blocks),
            backend: options.backend,
            warning: directory.warning,
            clean_start: matches!(directory.session, crate::format::Session::Stopped { .. }),
            threads: Mutex::default(),
            _directory_lock: directory.lock,
        });
        let keeper = Keeper::new(inner.clone(), records, orphans);
        let hashing = inner.clone();
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(body).map_err(|source| OpenError::Io {
                what: "start a thread for",
                path: options.data_dir.clone(),
                source,
            })
        };
        let threads = vec![
            spawn("darter-keeper", Box::new(move || keeper.run()))?,
            spawn("darter-hasher", Box::new(move || crate::hasher::run(&hashing)))?,
        ];
        *inner.threads.lock().unwrap_or_else(PoisonError::into_inner) = threads;
        Ok(Self { inner })
    }

    /// Makes all that was written durable and stops the store's threads. Reads of other clones still work.
    pub fn close(&self) {
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

    /// All contents now.
    pub fn contents(&self) -> Vec<Arc<Content>> {
        self.inner.index.places().contents().filter(|content| !content.is_gone()).cloned().collect()
    }

    /// What one content says of itself.
    pub fn stat(&self, content: &Content) -> ContentStat {
        let full = |piece: u32, slot| {
            let whole = content.layout().piece(piece).map(|piece| content.layout().full_presence(piece));
            Some(self.inner.slots.durable(slot)) == whole
        };
        ContentStat {
            id: content.id(),
            length_bytes: content.layout().length_bytes(),
            pieces: content.layout().piece_count(),
            held_pieces: content.held_pieces(),
            durable_pieces: content.slots().filter(|(piece, slot)| full(*piece, *slot)).count() as u32,
            verification: content.verification(),
            pinned: content.pinned(),
            registry: content.registry(),
        }
    }

    /// What the store says of itself.
    pub fn stats(&self) -> StoreStats {
        let free = self.inner.room().free.len();
        let counters = &self.inner.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            capacity_bytes: self.inner.geometry.capacity_bytes(),
            used_bytes: u64::from(self.inner.slots.len() - free) * u64::from(PIECE_BYTES),
            contents: self.inner.index.places().len() as u64,
            leases: self.inner.slots.leases(),
            buffer_bytes: self.inner.pool.in_use() as u64 * u64::from(BLOCK_BYTES),
            evicted_pieces: count(&counters.evicted_pieces),
            checks_failed: count(&counters.checks_failed),
            blocks_checked: count(&counters.blocks_checked),
            hot_reads: count(&counters.hot_reads),
            cold_reads: count(&counters.cold_reads),
            refused_reservations: count(&counters.refused_reservations),
            written_bytes: count(&counters.written_bytes),
        }
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

    /// Whether the block is here now for a reader under that registry. It may be gone by the time it is read.
    pub fn has(&self, content: &Content, registry: RegistryScope, block: BlockIndex) -> bool {
        let here = content
            .slot_of(block.piece())
            .is_some_and(|slot| self.inner.slots.presence(slot) & 1 << block.in_piece() != 0);
        here && content.serves(registry)
    }

    /// The part of the run, from its start on, that is here now for a reader under that registry: `None` if the
    /// first block is not.
    pub fn present_prefix(
        &self,
        content: &Content,
        registry: RegistryScope,
        run: BlockRun,
    ) -> Option<BlockRun> {
        let present = run.blocks().take_while(|block| self.has(content, registry, *block)).count() as u32;
        (present > 0).then(|| run.take(present))
    }

    /// The bytes of a run of blocks, in order, each block checked against its crc32 unless it was within the last
    /// second. Slices of the mapping where the pages are in memory, buffers filled by one read elsewhere.
    ///
    /// Slices may be longer or shorter than a block; together they are the run's bytes.
    ///
    /// # Errors
    /// A block is not here, or not for readers under that registry.
    pub async fn read(
        &self,
        content: &Content,
        registry: RegistryScope,
        run: BlockRun,
    ) -> Result<Vec<Bytes>, ReadError> {
        if content.note_used()
            && let Some(content) = self.inner.index.places().content(content.place).cloned()
        {
            self.inner.keeper.note_content(&content);
        }
        let mut bytes = Vec::new();
        let extents = self.inner.extents(content, run, Touch::Counts)?;
        // After the look at presence: bytes of another registry are published only after the scope has changed.
        if !content.serves(registry) {
            return Err(ReadError::Absent(run.first()));
        }
        for extent in extents {
            if let Some(hot) = self.inner.read_hot(content, &extent)? {
                self.inner.counters.hot_reads.fetch_add(1, Ordering::Relaxed);
                bytes.push(hot.lend(&self.inner, extent));
            } else {
                self.inner.counters.cold_reads.fetch_add(1, Ordering::Relaxed);
                self.inner.read_cold(content, extent, &mut bytes).await?;
            }
        }
        Ok(bytes)
    }

    /// Slots for all of the run's pieces, at once or not at all, leased until the reservation is dropped. Waits
    /// for the keeper to make room, a quarter of a second at most, holding nothing.
    pub async fn reserve(&self, content: &Arc<Content>, run: BlockRun) -> Result<Reservation, NoRoom> {
        let deadline = tokio::time::Instant::now() + Duration::from_millis(ROOM_WAIT_MS);
        loop {
            let made = self.inner.room_made.notified();
            if let Some(reservation) = self.inner.try_reserve(content, run) {
                return Ok(reservation);
            }
            self.inner.keeper.want_room(run.pieces().count());
            if content.is_gone() || tokio::time::timeout_at(deadline, made).await.is_err() {
                self.inner.counters.refused_reservations.fetch_add(1, Ordering::Relaxed);
                return Err(NoRoom);
            }
        }
    }

    /// Writes whole blocks, in order from `first` on, to the reserved slots, publishes them and lets the running
    /// digest go on. Blocks that are present already, or are just being written by someone else, are passed over.
    /// `registry` is where the bytes came from (`scheme://host:port`).
    ///
    /// The blocks count as present as soon as this returns, and as durable some time later.
    ///
    /// # Errors
    /// Nothing more is kept of this content, or not from this registry; or the disk refuses.
    pub async fn write(
        &self,
        reservation: &Arc<Reservation>,
        first: BlockIndex,
        blocks: Vec<Bytes>,
        registry: &str,
    ) -> Result<(), WriteError> {
        self.inner.write(reservation, first, blocks, registry).await
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

/// Leased slots for the pieces of a run.
#[derive(Debug)]
pub struct Reservation {
    inner: Arc<Inner>,
    content: Arc<Content>,
    slots: HashMap<PieceIndex, SlotIndex>,
    leases: Vec<Leases>,
}

impl Reservation {
    /// The content that the slots are for.
    pub fn content(&self) -> &Arc<Content> {
        &self.content
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.leases.clear();
        // A slot into which nothing came would stay empty until it is evicted.
        for slot in self.slots.values() {
            if self.inner.slots.presence(*slot) == 0 && self.inner.slots.release_unleased(*slot) {
                self.inner.forget_tenant(*slot);
                self.inner.keeper.released(*slot);
            }
        }
    }
}

/// Blocks in neighbouring slots of one slab, leased.
struct Extent {
    slab: u32,
    /// First byte in the slab.
    offset: usize,
    bytes: usize,
    leases: Leases,
    run: BlockRun,
}

/// An extent whose pages are in memory and whose blocks are checked.
struct Checked;

impl Checked {
    fn lend(self, inner: &Inner, extent: Extent) -> Bytes {
        let range = extent.offset..extent.offset + extent.bytes;
        inner.slabs[extent.slab as usize].lend(range, extent.leases)
    }
}

fn place_of(slot: SlotIndex) -> (u32, usize) {
    (slot.0 / SLOTS_PER_SLAB, (slot.0 % SLOTS_PER_SLAB) as usize * PIECE_BYTES as usize)
}

impl Inner {
    pub(crate) fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn slab_of(&self, slot: SlotIndex) -> &Slab {
        &self.slabs[(slot.0 / SLOTS_PER_SLAB) as usize]
    }

    /// Leases the run's slots and joins neighbours. Fails at the first block that is not here.
    fn extents(&self, content: &Content, run: BlockRun, touch: Touch) -> Result<Vec<Extent>, ReadError> {
        let minute = clock::process_minute();
        let layout = content.layout();
        let mut extents: Vec<Extent> = Vec::new();
        for (piece, part) in run.by_piece() {
            let absent = || ReadError::Absent(part.first());
            let slot = content.slot_of(piece).ok_or_else(absent)?;
            let leases = self.slots.lease(slot).ok_or_else(absent)?;
            // The lease counts only if the piece is still in this slot.
            if content.slot_of(piece) != Some(slot) {
                return Err(absent());
            }
            let presence = self.slots.presence(slot);
            if let Some(missing) = part.blocks().find(|block| presence & 1 << block.in_piece() == 0) {
                return Err(ReadError::Absent(missing));
            }
            if touch == Touch::Counts {
                self.slots.touch(slot, minute);
            }
            let (slab, slot_offset) = place_of(slot);
            let offset = slot_offset + part.first().in_piece() as usize * BLOCK_BYTES as usize;
            let part_bytes = layout.bytes(part);
            let bytes = (part_bytes.end - part_bytes.start) as usize;
            let joined = match extents.last_mut() {
                Some(last) if last.slab == slab && last.offset + last.bytes == offset => {
                    match last.leases.extend(leases) {
                        Ok(()) => {
                            last.bytes += bytes;
                            last.run = joined_run(content, last.run, part);
                            None
                        }
                        Err(leases) => Some(leases),
                    }
                }
                _ => Some(leases),
            };
            if let Some(leases) = joined {
                extents.push(Extent { slab, offset, bytes, leases, run: part });
            }
        }
        Ok(extents)
    }

    /// The blocks of an extent with slot, offset in the slab and length.
    fn blocks_of(
        &self,
        content: &Content,
        extent: &Extent,
    ) -> impl Iterator<Item = (BlockIndex, SlotIndex, usize, usize)> {
        let layout = content.layout();
        let (offset, first) = (extent.offset, extent.run.first());
        let first_slot = extent.leases.first();
        extent.run.blocks().map(move |block| {
            let at = offset + (block.number() - first.number()) as usize * BLOCK_BYTES as usize;
            let slot = SlotIndex(first_slot.0 + (block.piece().number() - first.piece().number()));
            (block, slot, at, layout.block_bytes(block) as usize)
        })
    }

    /// `None` if the pages are not in memory.
    fn read_hot(&self, content: &Content, extent: &Extent) -> Result<Option<Checked>, ReadError> {
        let slab = &self.slabs[extent.slab as usize];
        if !slab.resident(extent.offset..extent.offset + extent.bytes) || !self.may_lend() {
            return Ok(None);
        }
        let second = clock::process_s();
        for (block, slot, at, bytes) in self.blocks_of(content, extent) {
            if !self.slots.checked_lately(slot, block, second) {
                self.check(content, block, slot, slab.crc32(at..at + bytes))?;
            }
        }
        Ok(Some(Checked))
    }

    /// One read of exactly those blocks.
    async fn read_cold(
        &self,
        content: &Content,
        extent: Extent,
        out: &mut Vec<Bytes>,
    ) -> Result<(), ReadError> {
        let Ok(filled) = self.read_blocks(&extent, extent.run, extent.offset, extent.bytes).await? else {
            return Err(self.lose_what_cannot_be_read(content, &extent).await);
        };
        for ((block, slot, _, bytes), buffer) in self.blocks_of(content, &extent).zip(filled) {
            self.check(content, block, slot, crc32fast::hash(&buffer.as_ref()[..bytes]))?;
            out.push(buffer.freeze(bytes));
        }
        Ok(())
    }

    /// Blocks of an extent into buffers. The outer error says that there are none.
    async fn read_blocks(
        &self,
        extent: &Extent,
        run: BlockRun,
        offset: usize,
        bytes: usize,
    ) -> Result<io::Result<Vec<BlockBuffer>>, ReadError> {
        let buffers: Option<Vec<BlockBuffer>> = (0..run.len()).map(|_| self.pool.try_take()).collect();
        let op = ReadOp {
            file: self.slabs[extent.slab as usize].file().clone(),
            offset: offset as u64,
            bytes,
            buffers: buffers.ok_or(ReadError::NoBuffers)?,
        };
        Ok(ring::read(self.backend, op).await)
    }

    /// After a read that failed: block by block, so that only damaged pieces are given up. What fails for another
    /// reason than the disk's (no memory) costs nothing but this read.
    async fn lose_what_cannot_be_read(&self, content: &Content, extent: &Extent) -> ReadError {
        let blocks: Vec<_> = self.blocks_of(content, extent).collect();
        let mut first_lost = None;
        for (block, slot, offset, bytes) in blocks {
            let Some(one) = content.layout().run(block.number(), block.number() + 1) else { continue };
            let Ok(Err(error)) = self.read_blocks(extent, one, offset, bytes).await else { continue };
            let damaged = error.kind() == io::ErrorKind::UnexpectedEof
                || matches!(error.raw_os_error(), Some(libc::EIO | libc::EFAULT | libc::EBADMSG));
            if damaged {
                tracing::warn!(slab = extent.slab, %error, "a piece cannot be read; it is dropped and fetched again");
                self.counters.checks_failed.fetch_add(1, Ordering::Relaxed);
                self.lose(content, block, slot);
                first_lost.get_or_insert(block);
            }
        }
        first_lost.map_or(ReadError::NoBuffers, ReadError::Absent)
    }

    /// Slow readers' leases take at most a quarter of the slots; beyond that they get copies.
    fn may_lend(&self) -> bool {
        self.slots.leases() <= u64::from(self.slots.len() / 4)
    }

    fn check(
        &self,
        content: &Content,
        block: BlockIndex,
        slot: SlotIndex,
        found: u32,
    ) -> Result<(), ReadError> {
        self.counters.blocks_checked.fetch_add(1, Ordering::Relaxed);
        if found == self.slots.crc32(slot, block) {
            self.slots.note_checked(slot, block, clock::process_s());
            return Ok(());
        }
        self.counters.checks_failed.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(content = %content.id(), block = block.number(), "a block fails its crc32; its piece is dropped and fetched again");
        self.lose(content, block, slot);
        Err(ReadError::Absent(block))
    }

    /// The piece of a block is no longer good.
    fn lose(&self, content: &Content, block: BlockIndex, slot: SlotIndex) {
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
            .min_by_key(|c| c.rank_to_go())
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

    fn try_reserve(self: &Arc<Self>, content: &Arc<Content>, run: BlockRun) -> Option<Reservation> {
        let minute = clock::process_minute();
        let mut reservation = Reservation {
            inner: self.clone(),
            content: content.clone(),
            slots: HashMap::new(),
            leases: vec![],
        };
        let mut room = self.room();
        if content.is_gone() {
            return None;
        }
        let mut wanted = Vec::new();
        for piece in run.pieces() {
            let held = content.slot_of(piece).and_then(|slot| Some((slot, self.slots.lease(slot)?)));
            match held.filter(|(slot, _)| content.slot_of(piece) == Some(*slot)) {
                Some((slot, lease)) => {
                    reservation.slots.insert(piece, slot);
                    reservation.leases.push(lease);
                }
                None => wanted.push(piece),
            }
        }
        let taken = room.free.take(wanted.len() as u32);
        if room.free.len() < self.low_water() {
            self.keeper.want_room(0);
        }
        let taken = taken?;
        for (piece, slot) in wanted.into_iter().zip(taken) {
            let tenant = Tenant { content: content.place, piece: piece.number() };
            reservation.leases.push(self.slots.occupy(slot, tenant, minute));
            reservation.slots.insert(piece, slot);
            content.set_slot(piece, slot);
            let resident = Resident { slot, generation: self.slots.word(slot).generation };
            room.queues.insert(resident, piece_key(content, piece.number()));
        }
        drop(room);
        Some(reservation)
    }

    /// Free slots below which the keeper evicts: 2 %, and room for some requests.
    pub(crate) fn low_water(&self) -> u32 {
        let slots = self.slots.len();
        (slots / 50).max(64).min(slots / 4)
    }

    async fn write(
        self: &Arc<Self>,
        reservation: &Arc<Reservation>,
        first: BlockIndex,
        blocks: Vec<Bytes>,
        registry: &str,
    ) -> Result<(), WriteError> {
        let content = &reservation.content;
        let layout = content.layout();
        let run = layout.run(first.number(), first.number() + blocks.len() as u32).ok_or(WriteError::Gone)?;
        let scope = RegistryScope::of_origin(registry);
        let mut wanted: Vec<NewBlock> = Vec::with_capacity(blocks.len());
        for (block, bytes) in run.blocks().zip(blocks) {
            assert_eq!(bytes.len(), layout.block_bytes(block) as usize, "blocks are written whole");
            let slot = *reservation.slots.get(&block.piece()).ok_or(WriteError::Gone)?;
            let Some(claim) = Claim::take(reservation, slot, block) else { continue };
            match content.frontier.note_write(block) {
                Noted::Pending => {}
                Noted::Wrong => return Err(WriteError::Gone),
                Noted::VerdictFell => self.fall_back_to(content, registry),
            }
            if content.is_gone() {
                return Err(WriteError::Gone);
            }
            if !content.takes_bytes_of(scope) {
                return Err(WriteError::OtherRegistry);
            }
            let (crc32, blake3) = (crc32fast::hash(&bytes), blake3::hash(&bytes).into());
            wanted.push(NewBlock { block, slot, crc32, blake3, bytes, claim });
        }
        for group in neighbours(wanted) {
            let written: usize = group.iter().map(|new| new.bytes.len()).sum();
            let (slab, slot_offset) = place_of(group[0].slot);
            let op = WriteOp {
                file: self.slabs[slab as usize].file().clone(),
                offset: slot_offset as u64 + u64::from(group[0].block.in_piece()) * u64::from(BLOCK_BYTES),
                bytes: group.iter().map(|new| new.bytes.clone()).collect(),
                guard: group.iter().map(|new| new.claim.clone()).collect::<Vec<_>>(),
            };
            if let Err(error) = ring::write(self.backend, op).await {
                group.iter().for_each(|new| self.lose(content, new.block, new.slot));
                return Err(error.into());
            }
            self.counters.written_bytes.fetch_add(written as u64, Ordering::Relaxed);
            for new in group {
                self.slots.publish(new.slot, new.block, new.crc32);
                self.keeper.written(new.slot, self.slots.word(new.slot).generation, new.block, new.blake3);
            }
        }
        self.hasher.enqueue(content);
        Ok(())
    }

    /// What was proved no longer is: the content belongs to the registry of its newest bytes until the digest is
    /// right again.
    fn fall_back_to(&self, content: &Arc<Content>, registry: &str) {
        let scope = content.set_registry(registry);
        if self.index.rescope(content, Scope::Registry(scope)) == Rescoped::Taken {
            self.remove(content);
        }
        self.keeper.note_content(content);
    }

    /// One block for the hasher, by a blocking read with its own check.
    pub(crate) fn read_blocking(&self, content: &Content, block: BlockIndex) -> Option<Bytes> {
        use std::os::unix::fs::FileExt;
        let run = content.layout().run(block.number(), block.number() + 1)?;
        let extent = self.extents(content, run, Touch::Ignored).ok()?.pop()?;
        let mut bytes = vec![0; extent.bytes];
        let slab = &self.slabs[extent.slab as usize];
        let slot = extent.leases.first();
        if slab.file().read_exact_at(&mut bytes, extent.offset as u64).is_err() {
            self.lose(content, block, slot);
            return None;
        }
        self.check(content, block, slot, crc32fast::hash(&bytes)).ok()?;
        Some(bytes.into())
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

/// Whether a read counts for eviction: a reader's does, the hasher's does not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Touch {
    Counts,
    Ignored,
}

/// The right to write one block, held until the kernel is done with it.
struct Claim {
    reservation: Arc<Reservation>,
    slot: SlotIndex,
    block: BlockIndex,
}

impl Claim {
    fn take(reservation: &Arc<Reservation>, slot: SlotIndex, block: BlockIndex) -> Option<Arc<Self>> {
        let claimed = reservation.inner.slots.claim(slot, block);
        claimed.then(|| Arc::new(Self { reservation: reservation.clone(), slot, block }))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While the reservation's lease still lives.
        self.reservation.inner.slots.disclaim(self.slot, self.block);
    }
}

/// A block on its way to its slot.
struct NewBlock {
    claim: Arc<Claim>,
    block: BlockIndex,
    slot: SlotIndex,
    bytes: Bytes,
    crc32: u32,
    blake3: [u8; 32],
}

impl NewBlock {
    /// First byte over all slabs.
    fn position(&self) -> u64 {
        u64::from(self.slot.0) * u64::from(PIECE_BYTES)
            + u64::from(self.block.in_piece()) * u64::from(BLOCK_BYTES)
    }
}

/// Groups of blocks that lie one behind the other on disk, in one slab.
fn neighbours(blocks: Vec<NewBlock>) -> Vec<Vec<NewBlock>> {
    let mut groups: Vec<Vec<NewBlock>> = Vec::new();
    for new in blocks {
        let follows = groups.last().and_then(|group| group.last()).is_some_and(|last| {
            last.position() + u64::from(BLOCK_BYTES) == new.position()
                && last.slot.0 / SLOTS_PER_SLAB == new.slot.0 / SLOTS_PER_SLAB
        });
        match groups.last_mut() {
            Some(group) if follows => group.push(new),
            _ => groups.push(vec![new]),
        }
    }
    groups
}

fn joined_run(content: &Content, left: BlockRun, right: BlockRun) -> BlockRun {
    debug_assert_eq!(left.last().number() + 1, right.first().number());
    content.layout().run(left.first().number(), right.last().number() + 1).unwrap_or(left)
}

/// Spread key of a piece for the ghosts of eviction.
pub(crate) fn piece_key(content: &Content, piece: u32) -> u64 {
    content.id().spread() ^ u64::from(piece).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Takes over what the records say. Returns slots that they give to contents that are not there.
fn restore(records: &mut Records, slots: &SlotTable, index: &Index, room: &mut Room) -> Vec<SlotIndex> {
    let mut orphans = Vec::new();
    let mut known = vec![false; slots.len() as usize];
    records.load(
        |record| {
            index.note_tenure(record.tenure);
            if record.live
                && let Some(content) = Content::restore(record)
            {
                index.restore(Arc::new(content));
            }
        },
        |record| {
            let slot = SlotIndex(record.index);
            known[record.index as usize] = true;
            index.note_tenure(record.tenure);
            if !record.held {
                slots.restore_free(slot, record.generation);
                room.free.insert(slot);
                return;
            }
            let content = index.places().content(record.content).cloned();
            let its_own =
                |content: &Arc<Content>| content.tenure == record.tenure && content.id() == record.id;
            let tenancy = content.filter(its_own).and_then(|content| {
                let piece = content.layout().piece(record.piece)?;
                let presence = record.presence & content.layout().full_presence(piece);
                (presence != 0 && content.slot_of(piece).is_none()).then_some((content, piece, presence))
            });
            let Some((content, piece, presence)) = tenancy else {
                slots.restore_releasing(slot, record.generation);
                orphans.push(slot);
                return;
            };
            let tenant = Tenant { content: record.content, piece: record.piece };
            let restored = Restored { tenant, presence, crc32: record.crc32 };
            slots.restore(slot, record.generation, &restored);
            content.set_slot(piece, slot);
            room.queues.restore(Resident { slot, generation: record.generation });
        },
    );
    (0u32..).zip(known).filter(|(_, known)| !known).for_each(|(slot, _)| room.free.insert(SlotIndex(slot)));
    orphans
}
