//! The page that says how far the scrub is.
//!
//! It is written in place, without a second copy and without a sync: a page that is torn or old costs reading some
//! blocks once more, or a whole round, and nothing else depends on it.

use super::fields::{bytes_at, put_u32, put_u64, seal, sealed, u32_at, u64_at};
use super::header::HEADER_BYTES;

const MAGIC: [u8; 8] = *b"dartersc";

const FLAGS: usize = 8;
const STORE_ID: usize = 16;
const NEXT_PLACE: usize = 24;
const NEXT_PIECE: usize = 28;
const FROM_PLACE: usize = 32;
const FROM_PIECE: usize = 36;
const BEGUN_AT: usize = 40;
const CHECKED_BLOCKS: usize = 48;
const BAD_BLOCKS: usize = 56;
const ENDED_AT: usize = 64;
const LAST_CHECKED_BLOCKS: usize = 72;
const LAST_BAD_BLOCKS: usize = 80;

const IN_A_ROUND: u32 = 1;
const URGENT: u32 = 2;
const WRAPPED: u32 = 4;

/// A piece by the place of its content's record; pieces are checked in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct ScrubPosition {
    /// Place of the content's record.
    pub place: u32,
    /// Piece of the content.
    pub piece: u32,
}

/// How far the scrub is, and what became of its last round.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrubPage {
    /// The round that is under way.
    pub round: Option<ScrubRound>,
    /// When the last whole round ended, in Unix seconds; 0: there was none.
    pub ended_at_s: u64,
    /// Blocks that it checked.
    pub last_checked_blocks: u64,
    /// Those of them that were bad.
    pub last_bad_blocks: u64,
}

/// A round that is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrubRound {
    /// The piece to check next.
    pub next: ScrubPosition,
    /// Where the round began, and so where it ends.
    pub from: ScrubPosition,
    /// The end of the table lies behind it: it goes on from the start up to `from`.
    pub wrapped: bool,
    /// It follows an unclean stop.
    pub urgent: bool,
    /// Unix seconds.
    pub begun_at_s: u64,
    /// Blocks checked so far.
    pub checked_blocks: u64,
    /// Those of them that were bad.
    pub bad_blocks: u64,
}

impl ScrubPage {
    /// The page as it stands on disk.
    pub fn encode(&self, store_id: u64) -> [u8; HEADER_BYTES] {
        let mut page = [0; HEADER_BYTES];
        page[..8].copy_from_slice(&MAGIC);
        put_u64(&mut page, STORE_ID, store_id);
        if let Some(round) = &self.round {
            let flag = |set, flag| if set { flag } else { 0 };
            put_u32(&mut page, FLAGS, IN_A_ROUND | flag(round.urgent, URGENT) | flag(round.wrapped, WRAPPED));
            put_u32(&mut page, NEXT_PLACE, round.next.place);
            put_u32(&mut page, NEXT_PIECE, round.next.piece);
            put_u32(&mut page, FROM_PLACE, round.from.place);
            put_u32(&mut page, FROM_PIECE, round.from.piece);
            put_u64(&mut page, BEGUN_AT, round.begun_at_s);
            put_u64(&mut page, CHECKED_BLOCKS, round.checked_blocks);
            put_u64(&mut page, BAD_BLOCKS, round.bad_blocks);
        }
        put_u64(&mut page, ENDED_AT, self.ended_at_s);
        put_u64(&mut page, LAST_CHECKED_BLOCKS, self.last_checked_blocks);
        put_u64(&mut page, LAST_BAD_BLOCKS, self.last_bad_blocks);
        seal(&mut page);
        page
    }

    /// Reads a page; what is not one of this store says that there was no round yet.
    pub fn decode(page: &[u8; HEADER_BYTES], store_id: u64) -> Self {
        if bytes_at(page, 0) != MAGIC || u64_at(page, STORE_ID) != store_id || !sealed(page) {
            return Self::default();
        }
        let flags = u32_at(page, FLAGS);
        let position =
            |place, piece| ScrubPosition { place: u32_at(page, place), piece: u32_at(page, piece) };
        let round = ScrubRound {
            next: position(NEXT_PLACE, NEXT_PIECE),
            from: position(FROM_PLACE, FROM_PIECE),
            wrapped: flags & WRAPPED != 0,
            urgent: flags & URGENT != 0,
            begun_at_s: u64_at(page, BEGUN_AT),
            checked_blocks: u64_at(page, CHECKED_BLOCKS),
            bad_blocks: u64_at(page, BAD_BLOCKS),
        };
        Self {
            round: (flags & IN_A_ROUND != 0).then_some(round),
            ended_at_s: u64_at(page, ENDED_AT),
            last_checked_blocks: u64_at(page, LAST_CHECKED_BLOCKS),
            last_bad_blocks: u64_at(page, LAST_BAD_BLOCKS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn any_page()(places: [u32; 4], flags: [bool; 3], numbers: [u64; 6]) -> ScrubPage {
            let round = ScrubRound {
                next: ScrubPosition { place: places[0], piece: places[1] },
                from: ScrubPosition { place: places[2], piece: places[3] },
                wrapped: flags[1],
                urgent: flags[2],
                begun_at_s: numbers[0],
                checked_blocks: numbers[1],
                bad_blocks: numbers[2],
            };
            ScrubPage {
                round: flags[0].then_some(round),
                ended_at_s: numbers[3],
                last_checked_blocks: numbers[4],
                last_bad_blocks: numbers[5],
            }
        }
    }

    proptest! {
        #[test]
        fn a_page_survives(page in any_page(), store_id: u64) {
            prop_assert_eq!(ScrubPage::decode(&page.encode(store_id), store_id), page);
        }

        #[test]
        fn a_foreign_or_changed_page_says_nothing(page in any_page(), at in 0..HEADER_BYTES, change in 1..=255u8) {
            let mut bytes = page.encode(7);
            prop_assert_eq!(ScrubPage::decode(&bytes, 8), ScrubPage::default());
            bytes[at] ^= change;
            prop_assert_eq!(ScrubPage::decode(&bytes, 7), ScrubPage::default());
        }
    }

    #[test]
    fn a_page_that_was_never_written_says_nothing() {
        assert_eq!(ScrubPage::decode(&[0; HEADER_BYTES], 0), ScrubPage::default());
    }
}
