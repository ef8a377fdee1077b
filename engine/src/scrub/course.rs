//! Where the scrub is, and when it goes on: rounds over all pieces, in the order of the contents' records. Pure.
//!
//! A round is a circle. It begins where the one before was left, runs to the end of the content table, and from the
//! start on to where it began. So nothing that happens on the way (a stop, a crash, one crash after the other) makes
//! the same pieces be read again and again while others never have their turn.

use std::time::Duration;

use crate::format::{ScrubPage, ScrubPosition, ScrubRound};

/// How often the clock is looked at while nothing is due: it may be set.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// Where the scrub is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Course {
    page: ScrubPage,
}

/// What is to be done now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// Check pieces from here on, up to that place, which is not one of them; of `None`, to the end of the table.
    Pieces { from: ScrubPosition, until: Option<ScrubPosition> },
    /// Nothing for so long.
    Rest(Duration),
}

impl Course {
    pub(super) fn new(page: ScrubPage) -> Self {
        Self { page }
    }

    /// For the disk.
    pub(super) fn page(&self) -> &ScrubPage {
        &self.page
    }

    /// The daemon was not stopped in order: all of it is checked from now on, ahead of time. What is reached first is
    /// what the round before had not reached.
    pub(super) fn after_unclean_stop(&mut self, now_s: u64) {
        let next = self.page.round.map(|round| round.next).unwrap_or_default();
        self.page.round = Some(ScrubRound { urgent: true, ..round_from(next, now_s) });
    }

    /// Begins a round if one is due.
    pub(super) fn due(&mut self, now_s: u64, interval: Duration) -> Due {
        if self.page.round.is_none() {
            // A clock that stood in the future must not put the next round off until then.
            self.page.ended_at_s = self.page.ended_at_s.min(now_s);
            let rested_s = now_s - self.page.ended_at_s;
            let never = self.page.ended_at_s == 0;
            if !never && rested_s < interval.as_secs() {
                return Due::Rest(Duration::from_secs(interval.as_secs() - rested_s).min(LOOK_EVERY));
            }
        }
        let round = self.page.round.get_or_insert_with(|| round_from(ScrubPosition::default(), now_s));
        Due::Pieces { from: round.next, until: round.wrapped.then_some(round.from) }
    }

    /// A piece was looked at; `next` is the one to look at next.
    pub(super) fn passed(&mut self, next: ScrubPosition, checked_blocks: u32, bad_blocks: u32) {
        if let Some(round) = &mut self.page.round {
            round.next = next;
            round.checked_blocks = round.checked_blocks.saturating_add(u64::from(checked_blocks));
            round.bad_blocks = round.bad_blocks.saturating_add(u64::from(bad_blocks));
        }
    }

    /// There is nothing more in what was due: the round goes on from the start of the table, or has ended. `true` if
    /// it has.
    pub(super) fn stretch_ended(&mut self, now_s: u64) -> bool {
        let Some(round) = &mut self.page.round else { return false };
        if !round.wrapped && round.from > ScrubPosition::default() {
            (round.wrapped, round.next) = (true, ScrubPosition::default());
            return false;
        }
        self.page = ScrubPage {
            round: None,
            // Zero would say that there was none.
            ended_at_s: now_s.max(1),
            last_checked_blocks: round.checked_blocks,
            last_bad_blocks: round.bad_blocks,
        };
        true
    }
}

fn round_from(from: ScrubPosition, begun_at_s: u64) -> ScrubRound {
    ScrubRound { next: from, from, begun_at_s, ..ScrubRound::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WEEK: Duration = Duration::from_secs(7 * 86_400);
    const NOW_S: u64 = 1_800_000_000;

    fn at(place: u32, piece: u32) -> ScrubPosition {
        ScrubPosition { place, piece }
    }

    /// Contents of so many pieces each; `None`: no content has that place.
    struct Table(Vec<Option<u32>>);

    impl Table {
        fn pieces(&self, from: ScrubPosition, until: Option<ScrubPosition>) -> Vec<ScrubPosition> {
            let all = (0u32..)
                .zip(&self.0)
                .flat_map(|(place, pieces)| (0..pieces.unwrap_or(0)).map(move |piece| at(place, piece)));
            all.filter(|piece| *piece >= from && until.is_none_or(|until| *piece < until)).collect()
        }
    }

    /// Goes on until a round ends or so many pieces have been looked at.
    fn run(course: &mut Course, table: &Table, mut pieces_max: usize, seen: &mut Vec<ScrubPosition>) -> bool {
        loop {
            let Due::Pieces { from, until } = course.due(NOW_S, WEEK) else { panic!("nothing is due") };
            for piece in table.pieces(from, until) {
                if pieces_max == 0 {
                    return false;
                }
                pieces_max -= 1;
                seen.push(piece);
                course.passed(at(piece.place, piece.piece + 1), 4, 0);
            }
            if course.stretch_ended(NOW_S) {
                return true;
            }
        }
    }

    #[test]
    fn a_round_is_due_at_first_and_then_after_the_interval() {
        let mut course = Course::default();
        let all = Due::Pieces { from: at(0, 0), until: None };
        assert_eq!(course.due(NOW_S, WEEK), all);
        course.passed(at(0, 1), 4, 1);
        assert!(course.stretch_ended(NOW_S));
        let page = course.page();
        assert_eq!((page.ended_at_s, page.last_checked_blocks, page.last_bad_blocks), (NOW_S, 4, 1));
        assert_eq!(course.due(NOW_S, WEEK), Due::Rest(LOOK_EVERY));
        assert_eq!(course.due(NOW_S + 5, Duration::from_secs(9)), Due::Rest(Duration::from_secs(4)));
        let late = NOW_S + WEEK.as_secs();
        assert_eq!(course.due(late - 1, WEEK), Due::Rest(Duration::from_secs(1)));
        assert_eq!(course.due(late, WEEK), all);
    }

    #[test]
    fn a_clock_that_is_set_back_only_begins_the_wait_anew() {
        let mut course = Course::default();
        course.due(NOW_S, WEEK);
        course.stretch_ended(NOW_S);
        let (set_back, minute) = (NOW_S - 1_000_000, Duration::from_secs(60));
        assert_eq!(course.due(set_back, minute), Due::Rest(minute));
        assert_eq!(course.due(set_back + 59, minute), Due::Rest(Duration::from_secs(1)));
        assert!(matches!(course.due(set_back + 60, minute), Due::Pieces { .. }));
    }

    #[test]
    fn an_unclean_stop_checks_everything_and_what_was_not_reached_first() {
        let table = Table(vec![Some(3), None, Some(2)]);
        let (mut course, mut seen) = (Course::default(), vec![]);
        assert!(!run(&mut course, &table, 2, &mut seen));
        course.after_unclean_stop(NOW_S);
        assert!(course.page().round.unwrap().urgent);
        assert!(run(&mut course, &table, 9, &mut seen));
        let places = [at(0, 0), at(0, 1), at(0, 2), at(2, 0), at(2, 1), at(0, 0), at(0, 1)];
        assert_eq!(seen, places);
        assert_eq!(course.page().last_checked_blocks, 5 * 4);
    }

    #[test]
    fn an_unclean_stop_does_not_wait_for_the_interval() {
        let mut course = Course::default();
        course.due(NOW_S, WEEK);
        course.stretch_ended(NOW_S);
        course.after_unclean_stop(NOW_S + 1);
        assert_eq!(course.due(NOW_S + 1, WEEK), Due::Pieces { from: at(0, 0), until: None });
    }

    proptest! {
        /// Wherever it is interrupted, by a stop in order or a crash: what is on disk goes on, and each circle is whole.
        #[test]
        fn each_piece_has_its_turn_in_each_round(
            table in prop::collection::vec(prop::option::of(0..5u32), 0..8),
            stops in prop::collection::vec((0..12usize, any::<bool>()), 0..6),
        ) {
            let table = Table(table);
            let all = table.pieces(at(0, 0), None);
            let (mut course, mut seen, mut ended) = (Course::default(), vec![], false);
            for (pieces, crash) in stops {
                if run(&mut course, &table, pieces, &mut seen) {
                    ended = true;
                    break;
                }
                course = Course::new(ScrubPage::decode(&course.page().encode(7), 7));
                if crash {
                    course.after_unclean_stop(NOW_S);
                    seen.clear();
                }
            }
            prop_assert!(ended || run(&mut course, &table, usize::MAX, &mut seen));
            prop_assert_eq!(seen.len(), all.len());
            seen.sort_unstable();
            prop_assert_eq!(seen, all);
        }
    }
}
