//! What can be asked and done about the contents of the store, as the admin API has it.
//!
//! Nothing here runs on a shard. A look through all contents lets others of this thread in between.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use darter_engine::store::{ContentStat, ScrubStatus};
use darter_engine::{Content, ContentId, Store, Verification};
use tokio::sync::{Semaphore, oneshot};

use super::api::{
    CELLS_PAGE_MAX, Code, ContentInfo, DigestInfo, PAGE_MAX, Page, Problem, Removed, ScrubEndInfo, ScrubInfo,
    ScrubRoundInfo, StoreInfo, VerificationInfo, VerifiedInfo,
};
use super::cells::Cells;
use super::reference::{ContentRef, full};
use crate::fetch::Movement;

/// Registries that an answer names when one id is held under several.
const NAMED_MAX: usize = 5;
/// Listings at a time: each holds a reference to every content.
pub(super) const LISTINGS_MAX: usize = 2;
/// How long one waits for its turn.
const LISTING_WITHIN: Duration = Duration::from_secs(2);
/// Pieces that are looked at before others of this thread have their turn: some 100 µs, and 1 GiB.
const PIECES_AT_ONCE: u32 = 4096;

impl Problem {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), problems: Vec::new() }
    }
}

/// The store as a whole.
pub(super) fn store_info(store: &Store) -> StoreInfo {
    let stats = store.stats();
    StoreInfo {
        version: env!("CARGO_PKG_VERSION").into(),
        io: store.backend().to_string(),
        capacity_bytes: stats.capacity_bytes,
        used_bytes: stats.used_bytes,
        contents: stats.contents,
        leases: stats.leases,
        buffer_bytes: stats.buffer_bytes,
        evicted_pieces: stats.evicted_pieces,
        blocks_checked: stats.blocks_checked,
        checks_failed: stats.checks_failed,
        hot_reads: stats.hot_reads,
        cold_reads: stats.cold_reads,
        refused_reservations: stats.refused_reservations,
        written_bytes: stats.written_bytes,
        scrubbed_blocks: stats.scrubbed_blocks,
        scrubbed_bad_blocks: stats.scrubbed_bad_blocks,
        scrubbed_wrong_digests: stats.scrubbed_wrong_digests,
        scrub: scrub_info(&store.scrub_status()),
    }
}

pub(super) fn scrub_info(status: &ScrubStatus) -> ScrubInfo {
    let round = status.round.map(|round| ScrubRoundInfo {
        begun_at: round.begun_at_s,
        after_unclean_stop: round.urgent,
        place: round.next.place,
        piece: round.next.piece,
        checked_blocks: round.checked_blocks,
        bad_blocks: round.bad_blocks,
    });
    let last = (status.ended_at_s > 0).then_some(ScrubEndInfo {
        ended_at: status.ended_at_s,
        checked_blocks: status.last_checked_blocks,
        bad_blocks: status.last_bad_blocks,
    });
    ScrubInfo { on: status.on, round, last }
}

/// Which contents are asked for, and what of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageAsked {
    /// Behind that one, if they are in the order of their ids.
    pub(super) after: Option<ContentId>,
    pub(super) limit: usize,
    pub(super) order: Order,
    /// Cells of each at most; none if not asked for.
    pub(super) cells: Option<u32>,
}

/// In which order contents are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    Id,
    /// Those that are coming, then those that were used last. There is one page of it.
    Use,
}

/// The contents that are asked for, as they are and with what is on its way. A part of them is told of with each turn of
/// the thread.
///
/// # Errors
/// Others look through the store already.
pub(super) async fn page(
    store: &Store,
    listings: &Semaphore,
    asked: PageAsked,
    movement: &Movement,
) -> Result<Page, Problem> {
    let place = tokio::time::timeout(LISTING_WITHIN, listings.acquire());
    let Ok(Ok(_place)) = place.await else {
        let message = "others are looking through the contents; try again when that has ended";
        return Err(Problem::new(Code::Busy, message));
    };
    let limit = asked.limit.clamp(1, if asked.cells.is_some() { CELLS_PAGE_MAX } else { PAGE_MAX });
    let (contents, next) = match asked.order {
        Order::Id => by_id(store.contents(), asked.after, limit),
        Order::Use => (by_use(store.contents(), limit, movement), None),
    };
    let mut infos = Vec::with_capacity(contents.len());
    for content in contents {
        infos.push(told(store, &content, asked.cells, movement).await);
        tokio::task::yield_now().await;
    }
    Ok(Page { contents: infos, next })
}

/// What a content says of itself, with cells if some are asked for.
pub(super) async fn told(
    store: &Store,
    content: &Arc<Content>,
    cells: Option<u32>,
    movement: &Movement,
) -> ContentInfo {
    let mut survey = store.survey(content);
    let mut cells = cells.map(|cells_max| Cells::of(content.layout(), cells_max));
    let mut held = |piece, blocks| {
        if let Some(cells) = &mut cells {
            cells.held(piece, blocks);
        }
    };
    while survey.step(PIECES_AT_ONCE, &mut held) {
        tokio::task::yield_now().await;
    }
    let moving = movement.shown.iter().find(|moving| Arc::ptr_eq(&moving.content, content));
    let cells = cells.map(|mut cells| {
        moving.iter().flat_map(|moving| &moving.blocks).for_each(|block| cells.coming(*block));
        cells.end()
    });
    ContentInfo { cells, ..info(&survey.end()) }
}

fn by_use(mut contents: Vec<Arc<Content>>, limit: usize, movement: &Movement) -> Vec<Arc<Content>> {
    let coming: HashSet<_> = movement.shown.iter().map(|moving| Arc::as_ptr(&moving.content)).collect();
    let rank = |content: &Arc<Content>| {
        let is_coming = coming.contains(&Arc::as_ptr(content));
        (Reverse((is_coming, content.used_at_s(), content.created_at_s())), content.id())
    };
    // Of very many only the first are put in order.
    if limit < contents.len() {
        contents.select_nth_unstable_by_key(limit, rank);
        contents.truncate(limit);
    }
    contents.sort_by_cached_key(rank);
    contents
}

/// The contents behind `after` in the order of their ids, about `limit` of them, and where the next page begins: the
/// copies of one id, held under several registries, are in one page.
fn by_id(
    mut contents: Vec<Arc<Content>>,
    after: Option<ContentId>,
    limit: usize,
) -> (Vec<Arc<Content>>, Option<String>) {
    contents.retain(|content| after.is_none_or(|after| content.id() > after));
    contents.sort_by_cached_key(|content| (content.id(), content.registry()));
    let mut end = limit.min(contents.len());
    while end < contents.len() && contents[end].id() == contents[end - 1].id() {
        end += 1;
    }
    let next = (end < contents.len()).then(|| contents[end - 1].id().to_string());
    contents.truncate(end);
    (contents, next)
}

/// The one content that is meant; `registry` chooses among copies of one id.
pub(super) fn find(
    store: &Store,
    reference: &ContentRef,
    registry: Option<&str>,
) -> Result<Arc<Content>, Problem> {
    let mut meant = store.contents();
    meant.retain(|content| {
        reference.means(content.naming(), content.id())
            && registry.is_none_or(|registry| content.registry() == registry)
    });
    let Some(first) = meant.first().cloned() else {
        let where_asked = registry.map(|registry| format!(" of {registry}")).unwrap_or_default();
        let message =
            format!("no content{where_asked} begins with {reference}; `darter ls` shows what there is");
        return Err(Problem::new(Code::NotFound, message));
    };
    if meant.len() == 1 {
        return Ok(first);
    }
    let message = if meant.iter().all(|content| content.id() == first.id()) {
        let registries: Vec<_> = meant.iter().take(NAMED_MAX).map(|content| content.registry()).collect();
        format!(
            "{reference} is held under {} registries ({}): choose one with --registry",
            meant.len(),
            registries.join(", ")
        )
    } else {
        format!("{} contents begin with {reference}: give more digits", meant.len())
    };
    Err(Problem::new(Code::Ambiguous, message))
}

pub(super) fn info(stat: &ContentStat) -> ContentInfo {
    let (verification, hashed_bytes) = match stat.verification {
        Verification::Passed => (VerificationInfo::Passed, None),
        Verification::Wrong => (VerificationInfo::Wrong, None),
        Verification::Pending { next, .. } => (VerificationInfo::Pending, Some(next.byte_offset())),
        Verification::Unprovable => (VerificationInfo::Unprovable, None),
    };
    ContentInfo {
        id: full(stat.naming, stat.id),
        length_bytes: stat.length_bytes,
        held_bytes: stat.held_bytes,
        pieces: stat.pieces,
        held_pieces: stat.held_pieces,
        durable_pieces: stat.durable_pieces,
        verification,
        hashed_bytes,
        media_type: stat.media_type.clone(),
        registry: stat.registry.clone(),
        shared: stat.shared,
        pinned: stat.pinned,
        created_at: stat.created_at_s,
        used_at: stat.used_at_s,
        cells: None,
    }
}

/// Removes it, and returns when a crash would not bring it back.
pub(super) async fn remove(store: &Store, content: &Arc<Content>) -> Result<Removed, Problem> {
    let stat = store.stat(content);
    store.remove(content);
    flushed(store).await?;
    tracing::info!(content = %stat.id, held_bytes = stat.held_bytes, "removed by command");
    Ok(Removed { id: full(stat.naming, stat.id), removed_bytes: stat.held_bytes })
}

/// Pins or unpins it, and returns when a crash would not change that.
pub(super) async fn pin(store: &Store, content: &Arc<Content>, pinned: bool) -> Result<ContentInfo, Problem> {
    store.set_pinned(content, pinned);
    flushed(store).await?;
    tracing::info!(content = %content.id(), pinned, "changed by command");
    Ok(info(&store.stat(content)))
}

async fn flushed(store: &Store) -> Result<(), Problem> {
    store.flush().await.map_err(|error| Problem::new(Code::Failed, error.to_string()))
}

/// Reads it through, on a thread of its own. Dropped, it stops at the next piece.
pub(super) async fn verify(store: &Store, content: Arc<Content>) -> Result<VerifiedInfo, Problem> {
    struct StopOnDrop(Arc<AtomicBool>);
    impl Drop for StopOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
    let (done, report) = oneshot::channel();
    let id = full(content.naming(), content.id());
    let (store, stopped) = (store.clone(), stop.0.clone());
    let started = std::thread::Builder::new().name("darter-verify".into()).spawn(move || {
        let _ = done.send(store.verify(&content, || !stopped.load(Ordering::Relaxed)));
    });
    let failed = |what: &str| Problem::new(Code::Failed, format!("{id} could not be verified: {what}"));
    started.map_err(|error| failed(&error.to_string()))?;
    let found = report.await.map_err(|_| failed("its thread ended by a panic, which is in the log"))?;
    let digest = match found.digest_right {
        Some(true) => DigestInfo::Right,
        Some(false) => DigestInfo::Wrong,
        None => DigestInfo::Unknown,
    };
    Ok(VerifiedInfo {
        id,
        checked_blocks: found.checked_blocks,
        bad_blocks: found.bad_blocks,
        absent_blocks: found.absent_blocks,
        digest,
    })
}
