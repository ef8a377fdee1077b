//! What can be asked and done about the contents of the store, as the admin API has it.
//!
//! Nothing here runs on a shard. A look through all contents lets others of this thread in between.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use darter_engine::store::{ContentStat, ScrubStatus};
use darter_engine::{Content, ContentId, Store, Verification};
use tokio::sync::oneshot;

use super::api::{
    Code, ContentInfo, DigestInfo, PAGE_MAX, Page, Problem, Removed, ScrubEndInfo, ScrubInfo, ScrubRoundInfo,
    StoreInfo, VerificationInfo, VerifiedInfo,
};
use super::cells::{CellsInfo, cells};
use super::reference::{ContentRef, full};
use crate::fetch::UnderWay;

/// Registries that an answer names when one id is held under several.
const NAMED_MAX: usize = 5;

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
        // Without those that are removed and whose records are still to be given back: as many as a list has.
        contents: store.contents().len() as u64,
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

/// The contents that are asked for, as they are and with what is `under_way`. A part of them is told of with each turn
/// of the thread.
pub(super) async fn page(store: &Store, asked: PageAsked, under_way: &UnderWay) -> Page {
    let limit = asked.limit.clamp(1, PAGE_MAX);
    let (contents, next) = match asked.order {
        Order::Id => by_id(store.contents(), asked.after, limit),
        Order::Use => (by_use(store.contents(), limit, under_way), None),
    };
    let mut infos = Vec::with_capacity(contents.len());
    for content in contents {
        let cells = asked.cells.map(|cells| cells_of(store, &content, cells, under_way));
        infos.push(ContentInfo { cells, ..info(&store.stat(&content)) });
        tokio::task::yield_now().await;
    }
    Page { contents: infos, next }
}

pub(super) fn cells_of(
    store: &Store,
    content: &Arc<Content>,
    cells_max: u32,
    under_way: &UnderWay,
) -> CellsInfo {
    let coming = under_way.shown.iter().find(|coming| Arc::ptr_eq(&coming.content, content));
    let coming = coming.map_or(&[][..], |coming| &coming.blocks);
    cells(content.layout(), cells_max, store.held_blocks(content), coming)
}

fn by_use(mut contents: Vec<Arc<Content>>, limit: usize, under_way: &UnderWay) -> Vec<Arc<Content>> {
    let coming: HashSet<_> = under_way.shown.iter().map(|coming| Arc::as_ptr(&coming.content)).collect();
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
