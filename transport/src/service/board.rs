//! What happens to a plot on this node, for whoever waits for it: one board per plot that somebody looks at, shared by
//! all shards.
//!
//! A board says which blocks are held and which are on their way from the origin, and wakes who waits when that
//! changes. Who is woken looks at the state, not at a queue of events, so that nothing grows with how slowly somebody
//! listens. It lives as long as somebody holds it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use darter_engine::{ContentId, Scope};
use tokio::sync::watch;

use crate::block_set::BlockSet;
use crate::span::Plot;
use crate::wire::{Code, Refused};

/// Plots that are looked at, at a time.
pub(super) const BOARDS_MAX: usize = 16_384;
/// The last refusals of the origin that a board tells.
const REFUSALS_MAX: usize = 16;
/// Blocks that have come from the origin and that the store does not hold yet, of all plots: 16 MiB.
const GIVEN_MAX: usize = 256;
/// Nodes that take a plot in bulk from its owner at a time: else all would crawl, and none could pass on what it has.
const BULK_AT_ONCE: u32 = 4;

/// The boards of all plots that somebody looks at.
#[derive(Debug, Default)]
pub(super) struct Boards {
    boards: Mutex<Table>,
    given: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Table {
    by_plot: HashMap<Plot, Weak<Board>>,
    /// When so many are listed, those that nobody holds are taken off.
    sweep_at: usize,
}

/// One plot.
#[derive(Debug)]
pub(super) struct Board {
    /// How many blocks all boards are given.
    given: Arc<AtomicUsize>,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    held: BlockSet,
    bringing: BlockSet,
    /// What has come from the origin and is not held yet, or never will be.
    given: BTreeMap<u32, Bytes>,
    refusals: VecDeque<Refusal>,
    /// Of all refusals that were ever noted, how many.
    refusals_noted: u64,
    bulk: u32,
    is_hashed: bool,
    is_followed: bool,
}

#[derive(Clone, Debug)]
struct Refusal {
    number: u64,
    places: BlockSet,
    errand: ErrandKey,
    refused: Refused,
}

/// The BLAKE3 of an errand: who asks alike is answered alike.
pub(super) type ErrandKey = [u8; 32];

/// Who does the one thing that is done once at a time for a plot. Done when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    board: Arc<Board>,
    what: fn(&mut State) -> &mut bool,
}

/// One of the nodes that take a plot in bulk.
#[derive(Debug)]
pub(super) struct BulkPlace(Arc<Board>);

/// Blocks that one task brings; what has not come when it is dropped does not come.
#[derive(Debug)]
pub(super) struct Claim {
    board: Arc<Board>,
    left: BlockSet,
}

impl Boards {
    /// The board of a plot, and whether it is new; `None` if there are as many as may be.
    pub(super) fn open(&self, plot: &Plot) -> Option<(Arc<Board>, bool)> {
        let mut table = self.table();
        if let Some(board) = table.by_plot.get(plot).and_then(Weak::upgrade) {
            return Some((board, false));
        }
        if table.by_plot.len() >= table.sweep_at {
            table.by_plot.retain(|_, board| board.strong_count() > 0);
            table.sweep_at = (table.by_plot.len() * 2).clamp(64, BOARDS_MAX);
            if table.by_plot.len() >= BOARDS_MAX {
                return None;
            }
        }
        let (given, state, changes) = (self.given.clone(), Mutex::default(), watch::Sender::new(0));
        let board = Arc::new(Board { given, state, changes });
        table.by_plot.insert(*plot, Arc::downgrade(&board));
        Some((board, true))
    }

    /// The board of a plot, if somebody looks at it.
    pub(super) fn find(&self, plot: &Plot) -> Option<Arc<Board>> {
        self.table().by_plot.get(plot).and_then(Weak::upgrade)
    }

    /// Nothing is held of a content any more.
    pub(super) fn clear(&self, content: &ContentId, scope: Scope) {
        let of_content = |plot: &Plot| plot.content == *content && plot.scope == scope;
        let table = self.table();
        let found = table.by_plot.iter().filter(|(plot, _)| of_content(plot));
        let boards: Vec<Arc<Board>> = found.filter_map(|(_, board)| board.upgrade()).collect();
        drop(table);
        for board in boards {
            board.state().held = BlockSet::EMPTY;
            board.take_back(&BlockSet::full());
            board.changed();
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.boards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Board {
    /// Wakes when anything here has changed.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Something that belongs to the plot has changed, here or elsewhere.
    pub(super) fn changed(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// What is held, as far as it was told.
    pub(super) fn held(&self) -> BlockSet {
        self.state().held
    }

    /// Blocks are held now.
    pub(super) fn stored(&self, places: &BlockSet) {
        self.state().held.add(places);
        self.take_back(places);
        self.changed();
    }

    /// A block has come from the origin. Its bytes are for who waits, as long as the store does not hold it and there is
    /// room here.
    pub(super) fn give(&self, place: u32, bytes: Bytes) {
        let mut state = self.state();
        if !state.held.contains(place) && self.given.fetch_add(1, Ordering::Relaxed) < GIVEN_MAX {
            if state.given.insert(place, bytes).is_some() {
                self.given.fetch_sub(1, Ordering::Relaxed);
            }
        } else if !state.held.contains(place) {
            self.given.fetch_sub(1, Ordering::Relaxed);
        }
        drop(state);
        self.changed();
    }

    /// The first of these blocks whose bytes are here.
    pub(super) fn given(&self, places: &BlockSet) -> Option<(u32, Bytes)> {
        let state = self.state();
        let (place, bytes) = state.given.iter().find(|(place, _)| places.contains(**place))?;
        Some((*place, bytes.clone()))
    }

    /// The bytes of these are wanted no longer.
    pub(super) fn take_back(&self, places: &BlockSet) {
        let mut state = self.state();
        let before = state.given.len();
        state.given.retain(|place, _| !places.contains(*place));
        self.given.fetch_sub(before - state.given.len(), Ordering::Relaxed);
    }

    /// Blocks are no longer held.
    pub(super) fn lost(&self, places: &BlockSet) {
        let mut state = self.state();
        state.held = state.held.minus(places);
        drop(state);
        self.changed();
    }

    /// On their way from the origin.
    pub(super) fn bringing(&self) -> BlockSet {
        self.state().bringing
    }

    /// The caller brings those of these blocks that nobody brings yet.
    pub(super) fn claim(self: &Arc<Self>, places: &BlockSet) -> Claim {
        let mut state = self.state();
        let left = places.minus(&state.bringing);
        state.bringing.add(&left);
        Claim { board: self.clone(), left }
    }

    /// How many refusals were noted so far, to be told those that come later.
    pub(super) fn refusals_noted(&self) -> u64 {
        self.state().refusals_noted
    }

    /// The origin, or the way to it, has refused these blocks to an errand.
    fn refuse(&self, places: &BlockSet, errand: &ErrandKey, refused: Refused) {
        let mut state = self.state();
        state.refusals_noted += 1;
        if state.refusals.len() >= REFUSALS_MAX {
            state.refusals.pop_front();
        }
        let number = state.refusals_noted;
        state.refusals.push_back(Refusal { number, places: *places, errand: *errand, refused });
    }

    /// Why one of these blocks does not come, if that was noted after `since`. A verdict of the origin is only for
    /// who asks alike; trouble is for all.
    pub(super) fn refusal(&self, places: &BlockSet, errand: &ErrandKey, since: u64) -> Option<Refused> {
        let state = self.state();
        let concerns = |refusal: &&Refusal| {
            let is_verdict = refusal.refused.reason() == Code::Origin;
            refusal.number > since
                && !refusal.places.and(places).is_empty()
                && (!is_verdict || refusal.errand == *errand)
        };
        state.refusals.iter().rev().find(concerns).map(|refusal| refusal.refused.clone())
    }

    /// A place among those that take the plot in bulk, if one is free.
    pub(super) fn bulk_place(self: &Arc<Self>) -> Option<BulkPlace> {
        let mut state = self.state();
        (state.bulk < BULK_AT_ONCE).then(|| {
            state.bulk += 1;
            BulkPlace(self.clone())
        })
    }

    /// The turn to compute digests; `None` while somebody does.
    pub(super) fn turn_to_hash(self: &Arc<Self>) -> Option<Turn> {
        self.turn(|state| &mut state.is_hashed)
    }

    /// The turn to follow another seed's digests; `None` while somebody does.
    pub(super) fn turn_to_follow(self: &Arc<Self>) -> Option<Turn> {
        self.turn(|state| &mut state.is_followed)
    }

    fn turn(self: &Arc<Self>, what: fn(&mut State) -> &mut bool) -> Option<Turn> {
        let is_taken = std::mem::replace(what(&mut self.state()), true);
        (!is_taken).then(|| Turn { board: self.clone(), what })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// What has not come yet.
    pub(super) fn left(&self) -> &BlockSet {
        &self.left
    }

    /// Where.
    pub(super) fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// A part of it as a claim of its own.
    pub(super) fn split(&mut self, places: &Range<u32>) -> Self {
        let left = BlockSet::run(places.start, places.end.saturating_sub(places.start)).and(&self.left);
        self.left = self.left.minus(&left);
        Self { board: self.board.clone(), left }
    }

    /// A block has come, and the store holds it.
    pub(super) fn came(&mut self, place: u32) {
        let one = BlockSet::one(place);
        self.left = self.left.minus(&one);
        let mut state = self.board.state();
        state.bringing = state.bringing.minus(&one);
        drop(state);
        self.board.stored(&one);
    }

    /// These will not come.
    pub(super) fn failed(&mut self, places: &BlockSet, why: Option<(&ErrandKey, Refused)>) {
        let failed = places.and(&self.left);
        if let Some((errand, refused)) = why {
            self.board.refuse(&failed, errand, refused);
        }
        self.left = self.left.minus(&failed);
        self.release(&failed);
    }

    fn release(&self, places: &BlockSet) {
        let mut state = self.board.state();
        state.bringing = state.bringing.minus(places);
        drop(state);
        self.board.changed();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.left.is_empty() {
            self.release(&self.left);
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.take_back(&BlockSet::full());
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *(self.what)(&mut self.board.state()) = false;
    }
}

impl Drop for BulkPlace {
    fn drop(&mut self) {
        self.0.state().bulk -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::refusal::because;
    use crate::span::SpanIndex;
    use crate::tracker::tests::plot;

    #[test]
    fn a_block_is_claimed_once_and_free_again_when_it_does_not_come() {
        let boards = Boards::default();
        let (board, _) = boards.open(&plot(1)).unwrap();
        let mut first = board.claim(&BlockSet::first(4));
        let second = board.claim(&BlockSet::first(6));
        assert_eq!((first.left().len(), *second.left()), (4, BlockSet::run(4, 2)));
        first.came(0);
        assert_eq!(board.held(), BlockSet::one(0));
        drop(first);
        assert_eq!(board.bringing(), BlockSet::run(4, 2));
    }

    #[test]
    fn a_verdict_is_for_who_asks_alike_and_trouble_for_all() {
        let boards = Boards::default();
        let (board, _) = boards.open(&plot(1)).unwrap();
        let (ours, theirs) = ([1; 32], [2; 32]);
        let since = board.refusals_noted();
        let mut claim = board.claim(&BlockSet::first(2));
        claim.failed(&BlockSet::one(0), Some((&theirs, because(Code::Origin, "no"))));
        assert_eq!(board.refusal(&BlockSet::one(0), &ours, since), None);
        assert!(board.refusal(&BlockSet::one(0), &theirs, since).is_some());
        assert_eq!(board.refusal(&BlockSet::one(1), &theirs, since), None, "another block");
        assert_eq!(board.refusal(&BlockSet::one(0), &theirs, board.refusals_noted()), None, "noted before");
        claim.failed(&BlockSet::one(1), Some((&theirs, because(Code::OriginTrouble, "down"))));
        assert_eq!(board.refusal(&BlockSet::one(1), &ours, since).unwrap().reason(), Code::OriginTrouble);
    }

    #[test]
    fn boards_are_bounded_and_those_that_nobody_holds_go() {
        let boards = Boards::default();
        let far_plot = |span| Plot { span: SpanIndex::from_number(span), ..plot(1) };
        for span in 0..3 * BOARDS_MAX as u32 {
            assert!(boards.open(&far_plot(span)).is_some());
            assert!(boards.table().by_plot.len() <= BOARDS_MAX);
        }
        let held: Vec<_> = (0..BOARDS_MAX as u32).map(|span| boards.open(&far_plot(span)).unwrap()).collect();
        assert!(boards.open(&far_plot(u32::MAX)).is_none());
        assert!(held.iter().all(|(_, is_new)| *is_new));
        assert!(!boards.open(&far_plot(0)).unwrap().1);
        drop(held);
        assert!(boards.open(&far_plot(u32::MAX)).is_some());
    }

    #[test]
    fn what_is_given_is_bounded_and_goes_when_it_is_held() {
        let boards = Boards::default();
        let (board, _) = boards.open(&plot(1)).unwrap();
        let block = Bytes::from_static(b"block");
        (0..2 * GIVEN_MAX as u32).for_each(|place| board.give(place, block.clone()));
        assert_eq!(board.state().given.len(), GIVEN_MAX);
        board.stored(&BlockSet::first(200));
        assert_eq!(board.given(&BlockSet::first(200)), None);
        assert_eq!(board.given(&BlockSet::full()), Some((200, block.clone())));
        board.give(5, block.clone());
        assert_eq!(board.given(&BlockSet::one(5)), None, "it is held");
        board.give(200, block);
        assert_eq!(boards.given.load(Ordering::Relaxed), board.state().given.len());
        drop(board);
        assert_eq!(boards.given.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_turn_is_one_at_a_time() {
        let boards = Boards::default();
        let (board, _) = boards.open(&plot(1)).unwrap();
        let turn = board.turn_to_hash().unwrap();
        assert!(board.turn_to_hash().is_none() && board.turn_to_follow().is_some());
        drop(turn);
        assert!(board.turn_to_hash().is_some());
        let bulk: Vec<_> = (0..BULK_AT_ONCE).map(|_| board.bulk_place().unwrap()).collect();
        assert!(board.bulk_place().is_none());
        drop(bulk);
        assert!(board.bulk_place().is_some());
    }
}
