//! A content in memory: what it is, which slots hold its pieces, and how far its digest has been checked.

use std::ops::Range;
use std::sync::{Arc, PoisonError};

use tokio::sync::Notify;

use crate::clock;
use crate::content_id::{ContentId, Naming, RegistryScope, Scope};
use crate::format::ContentRecord;
use crate::frontier::Frontier;
use crate::layout::{BlockIndex, Layout, PieceIndex};
use crate::piece_table::PieceTable;
use crate::slot::{Leases, SlotIndex, SlotTable};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// How coarse "last used" is on disk: a record is not rewritten for every read.
const USED_AT_STEP_S: u64 = 300;

/// What a content is created with.
#[derive(Clone, Debug)]
pub struct ContentSpec {
    /// Name.
    pub id: ContentId,
    /// What the name is the hash of.
    pub naming: Naming,
    /// Length and blocks.
    pub layout: Layout,
    /// Canonical origin of the registry that the bytes come from, `scheme://host:port`.
    pub registry: String,
    /// As the registry named it; may be empty.
    pub media_type: String,
    /// ETag or Last-Modified of a content named by URL; may be empty.
    pub validator: String,
}

/// How far the bytes are proved to be those of the digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verification {
    /// The whole digest was right.
    Passed,
    /// The whole digest was wrong: the content is purged.
    Wrong,
    /// Hashed up to here; the block named is the next one.
    Pending {
        /// The next block to hash.
        next: BlockIndex,
        /// Nothing goes on until that block is written or fed.
        stalled: bool,
    },
    /// Named by URL: there is nothing to check against.
    Unprovable,
}

/// The registry that unverified bytes belong to.
#[derive(Clone, Debug)]
struct Source {
    registry: String,
    scope: RegistryScope,
}

/// One content of the store.
#[derive(Debug)]
pub struct Content {
    id: ContentId,
    naming: Naming,
    layout: Layout,
    source: Mutex<Source>,
    media_type: String,
    validator: String,
    created_at_s: u64,
    pub(crate) place: u32,
    pub(crate) tenure: u64,
    pieces: PieceTable,
    pinned: AtomicBool,
    gone: AtomicBool,
    /// A record of it is on disk.
    pub(crate) recorded: AtomicBool,
    pub(crate) used_at_s: AtomicU64,
    pub(crate) passed_at_s: AtomicU64,
    pub(crate) frontier: Frontier,
    /// Under which scope the index has it, and the same for readers. Changed by the index only.
    indexed_as: Mutex<Scope>,
    scope_tag: AtomicU64,
    changed: Notify,
}

impl Content {
    pub(crate) fn new(spec: ContentSpec, place: u32, tenure: u64) -> Self {
        let now = clock::unix_s();
        let scope = RegistryScope::of_origin(&spec.registry);
        Self {
            id: spec.id,
            naming: spec.naming,
            layout: spec.layout,
            source: Mutex::new(Source { registry: spec.registry, scope }),
            media_type: spec.media_type,
            validator: spec.validator,
            created_at_s: now,
            place,
            tenure,
            pieces: PieceTable::new(spec.layout.piece_count()),
            pinned: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            recorded: AtomicBool::new(false),
            used_at_s: AtomicU64::new(now),
            passed_at_s: AtomicU64::new(0),
            frontier: Frontier::new(spec.layout, &spec.id),
            indexed_as: Mutex::new(Scope::Registry(scope)),
            scope_tag: AtomicU64::new(Scope::Registry(scope).tag()),
            changed: Notify::new(),
        }
    }

    /// From its record; `None` if the record's length is none that a content can have.
    pub(crate) fn restore(record: ContentRecord) -> Option<Self> {
        let layout = Layout::new(record.length_bytes)?;
        let scope = if record.verified { Scope::Verified } else { Scope::Registry(record.scope) };
        Some(Self {
            id: record.id,
            naming: record.naming,
            layout,
            source: Mutex::new(Source { registry: record.registry, scope: record.scope }),
            media_type: record.media_type,
            validator: record.validator,
            created_at_s: record.created_at_s,
            place: record.index,
            tenure: record.tenure,
            pieces: PieceTable::new(layout.piece_count()),
            pinned: AtomicBool::new(record.pinned),
            gone: AtomicBool::new(false),
            recorded: AtomicBool::new(true),
            // A clock that stood wrong must not make content young for ever.
            used_at_s: AtomicU64::new(record.used_at_s.min(clock::unix_s())),
            passed_at_s: AtomicU64::new(record.passed_at_s),
            frontier: if record.verified {
                Frontier::passed(layout, &record.id)
            } else {
                Frontier::new(layout, &record.id)
            },
            indexed_as: Mutex::new(scope),
            scope_tag: AtomicU64::new(scope.tag()),
            changed: Notify::new(),
        })
    }

    pub(crate) fn record(&self, sequence: u64) -> ContentRecord {
        let source = self.source().clone();
        ContentRecord {
            index: self.place,
            sequence,
            tenure: self.tenure,
            id: self.id,
            length_bytes: self.layout.length_bytes(),
            live: !self.is_gone(),
            verified: self.verification() == Verification::Passed,
            pinned: self.pinned(),
            naming: self.naming,
            created_at_s: self.created_at_s,
            used_at_s: self.used_at_s.load(Ordering::Relaxed),
            expires_at_s: 0,
            passed_at_s: self.passed_at_s.load(Ordering::Relaxed),
            scope: source.scope,
            registry: source.registry,
            media_type: self.media_type.clone(),
            validator: self.validator.clone(),
        }
    }

    /// Name.
    pub fn id(&self) -> ContentId {
        self.id
    }

    /// What the name is the hash of.
    pub fn naming(&self) -> Naming {
        self.naming
    }

    /// Length and blocks.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Canonical origin of the registry that unverified bytes came from.
    pub fn registry(&self) -> String {
        self.source().registry.clone()
    }

    /// Whether its bytes came from that registry.
    pub fn came_from(&self, registry: RegistryScope) -> bool {
        self.source().scope == registry
    }

    /// New bytes come from another registry: what is unverified belongs to that one now.
    pub(crate) fn set_registry(&self, registry: &str) -> RegistryScope {
        let scope = RegistryScope::of_origin(registry);
        *self.source() = Source { registry: registry.to_owned(), scope };
        scope
    }

    fn source(&self) -> MutexGuard<'_, Source> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As the registry named it; may be empty.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// ETag or Last-Modified of a content named by URL; may be empty.
    pub fn validator(&self) -> &str {
        &self.validator
    }

    /// Unix seconds.
    pub fn created_at_s(&self) -> u64 {
        self.created_at_s
    }

    /// Unix seconds, to within some minutes.
    pub fn used_at_s(&self) -> u64 {
        self.used_at_s.load(Ordering::Relaxed)
    }

    /// Never evicted.
    pub fn pinned(&self) -> bool {
        self.pinned.load(Ordering::Relaxed)
    }

    pub(crate) fn set_pinned(&self, pinned: bool) {
        self.pinned.store(pinned, Ordering::Relaxed);
    }

    /// Pieces of which at least one block is here.
    pub fn held_pieces(&self) -> u32 {
        self.pieces.held()
    }

    /// How far the digest is checked.
    pub fn verification(&self) -> Verification {
        match self.naming {
            Naming::Url => Verification::Unprovable,
            Naming::Digest => self.frontier.verification(self.layout),
        }
    }

    /// Whether its digest was right once and has to be proved again.
    pub(crate) fn has_lost_its_verdict(&self) -> bool {
        self.passed_at_s.load(Ordering::Relaxed) != 0
            && matches!(self.verification(), Verification::Pending { .. })
    }

    /// Completes when the verification moved, stalled or ended after this call.
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    pub(crate) fn notify_changed(&self) {
        self.changed.notify_waiters();
    }

    /// Removed from the store: nothing more is kept for it, and whoever still holds it should look it up again.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(crate) fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Whether it may be dropped to make place for another.
    pub(crate) fn may_go(&self) -> bool {
        !self.pinned() && !self.is_gone()
    }

    /// Lower goes first: what nobody uses and has no pieces, what nobody uses, then by age. `own_counts` is how many
    /// counts whoever asks holds itself. What is in use and has no pieces may be about to get its first ones.
    pub(crate) fn rank_to_go(self: &Arc<Self>, own_counts: usize) -> (bool, bool, u64, u64) {
        // One count is the table's, one the name index's.
        const COUNTS_AT_REST: usize = 2;
        let in_use = Arc::strong_count(self) > COUNTS_AT_REST + own_counts;
        (in_use, in_use || self.held_pieces() > 0, self.used_at_s(), self.tenure)
    }

    /// Notes a use. True when the record on disk should learn of it.
    pub(crate) fn note_used(&self) -> bool {
        let now = clock::unix_s();
        let before = self.used_at_s.load(Ordering::Relaxed);
        let stale = now.saturating_sub(before) >= USED_AT_STEP_S;
        if stale {
            self.used_at_s.store(now, Ordering::Relaxed);
        }
        stale
    }

    pub(crate) fn slot_of(&self, piece: PieceIndex) -> Option<SlotIndex> {
        self.pieces.slot_of(piece)
    }

    /// Gives the piece its slot. The caller holds the store's room, so nobody else gives it one now.
    pub(crate) fn set_slot(&self, piece: PieceIndex, slot: SlotIndex) {
        self.pieces.set(piece, slot);
    }

    /// A lease on the slot in which the piece was seen: `None` if it has left it.
    pub(crate) fn lease(&self, piece: PieceIndex, slot: SlotIndex, slots: &SlotTable) -> Option<Leases> {
        self.pieces.lease(piece, slot, slots)
    }

    /// The piece no longer lives in that slot. False if it did not.
    pub(crate) fn clear_slot(&self, piece: u32, slot: SlotIndex) -> bool {
        self.pieces.clear(piece, slot)
    }

    /// The slots that hold pieces now.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (u32, SlotIndex)> {
        self.slots_of(0..u32::MAX)
    }

    /// Those that hold pieces of these numbers.
    pub(crate) fn slots_of(&self, pieces: Range<u32>) -> impl Iterator<Item = (u32, SlotIndex)> {
        self.pieces.some(pieces)
    }

    /// The scope under which it may be served now.
    pub fn scope(&self) -> Scope {
        *self.indexed_as.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_scope(&self, scope: Scope) {
        *self.indexed_as.lock().unwrap_or_else(PoisonError::into_inner) = scope;
        self.scope_tag.store(scope.tag(), Ordering::Release);
    }

    /// Whether it may be served under that registry now. Takes no lock.
    pub fn serves(&self, registry: RegistryScope) -> bool {
        let tag = self.scope_tag.load(Ordering::Acquire);
        tag == Scope::Verified.tag() || tag == Scope::Registry(registry).tag()
    }

    /// Whether bytes of that registry may be kept now: the content is unverified and that registry's.
    pub(crate) fn takes_bytes_of(&self, registry: RegistryScope) -> bool {
        self.scope_tag.load(Ordering::Acquire) == Scope::Registry(registry).tag()
    }
}
