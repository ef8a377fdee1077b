//! The two pages that say what a store is and how it was left.

use super::Geometry;
use super::fields::{bytes_at, put_u32, put_u64, seal, sealed, u32_at, u64_at};
use super::geometry::SLOTS_PER_SLAB;
use crate::layout::{BLOCK_BYTES, PIECE_BYTES};

/// The version that this code writes, and the only one that it reads.
pub const FORMAT_VERSION: u32 = 1;
/// Length of the header and of the session page.
pub const HEADER_BYTES: usize = 4096;

const MAGIC: [u8; 8] = *b"darterst";
const SESSION_MAGIC: [u8; 8] = *b"dartersn";

const VERSION: usize = 8;
const BLOCK: usize = 12;
const PIECE: usize = 16;
const SLOTS: usize = 20;
const CONTENTS: usize = 24;
const SLAB_SLOTS: usize = 28;
const STORE_ID: usize = 32;
const MADE_AT: usize = 40;

/// What the header says; written once, when the store is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Numbers of slots and content records.
    pub geometry: Geometry,
    /// Random; every record carries it.
    pub store_id: u64,
    /// Unix seconds.
    pub made_at_s: u64,
}

/// Why bytes are no header that this code can work with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderError {
    /// No magic: these files are not Darter's.
    Foreign,
    /// Made by a newer Darter.
    Newer {
        /// The version found.
        version: u32,
    },
    /// Ours, but its checksum or its numbers are wrong: try the second copy.
    Damaged,
}

impl Header {
    /// The page as it stands on disk.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut page = [0; HEADER_BYTES];
        page[..8].copy_from_slice(&MAGIC);
        put_u32(&mut page, VERSION, FORMAT_VERSION);
        put_u32(&mut page, BLOCK, BLOCK_BYTES);
        put_u32(&mut page, PIECE, PIECE_BYTES);
        put_u32(&mut page, SLOTS, self.geometry.slots());
        put_u32(&mut page, CONTENTS, self.geometry.contents());
        put_u32(&mut page, SLAB_SLOTS, SLOTS_PER_SLAB);
        put_u64(&mut page, STORE_ID, self.store_id);
        put_u64(&mut page, MADE_AT, self.made_at_s);
        seal(&mut page);
        page
    }

    /// Reads a page. Magic and version come first: a newer version is refused before anything else is
    /// believed.
    pub fn decode(page: &[u8; HEADER_BYTES]) -> Result<Self, HeaderError> {
        if bytes_at(page, 0) != MAGIC {
            return Err(HeaderError::Foreign);
        }
        let version = u32_at(page, VERSION);
        if version > FORMAT_VERSION {
            return Err(HeaderError::Newer { version });
        }
        let units = [u32_at(page, BLOCK), u32_at(page, PIECE), u32_at(page, SLAB_SLOTS)];
        if version != FORMAT_VERSION || !sealed(page) || units != [BLOCK_BYTES, PIECE_BYTES, SLOTS_PER_SLAB] {
            return Err(HeaderError::Damaged);
        }
        let geometry =
            Geometry::of(u32_at(page, SLOTS), u32_at(page, CONTENTS)).ok_or(HeaderError::Damaged)?;
        Ok(Self { geometry, store_id: u64_at(page, STORE_ID), made_at_s: u64_at(page, MADE_AT) })
    }
}

/// How the last run of a daemon left the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Session {
    /// In use, or ended without a clean stop.
    InUse,
    /// Stopped cleanly: all that was held is durable.
    Stopped {
        /// Highest sequence that any record has.
        sequence: u64,
    },
}

const SESSION_STATE: usize = 8;
const SESSION_STORE_ID: usize = 16;
const SESSION_SEQUENCE: usize = 24;

impl Session {
    /// The page as it stands on disk.
    pub fn encode(self, store_id: u64) -> [u8; HEADER_BYTES] {
        let (state, sequence) = match self {
            Self::InUse => (1, 0),
            Self::Stopped { sequence } => (2, sequence),
        };
        let mut page = [0; HEADER_BYTES];
        page[..8].copy_from_slice(&SESSION_MAGIC);
        put_u32(&mut page, SESSION_STATE, state);
        put_u64(&mut page, SESSION_STORE_ID, store_id);
        put_u64(&mut page, SESSION_SEQUENCE, sequence);
        seal(&mut page);
        page
    }

    /// Reads a page; whatever is not a valid clean stop of this store counts as [`Session::InUse`].
    pub fn decode(page: &[u8; HEADER_BYTES], store_id: u64) -> Self {
        let ours = bytes_at(page, 0) == SESSION_MAGIC && u64_at(page, SESSION_STORE_ID) == store_id;
        if ours && sealed(page) && u32_at(page, SESSION_STATE) == 2 {
            Self::Stopped { sequence: u64_at(page, SESSION_SEQUENCE) }
        } else {
            Self::InUse
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Header {
        Header { geometry: Geometry::for_capacity(64 << 20).unwrap(), store_id: 7, made_at_s: 1_790_000_000 }
    }

    #[test]
    fn a_newer_version_is_named_even_when_its_checksum_is_not_ours() {
        let mut page = sample().encode();
        page[VERSION] = 2;
        assert_eq!(Header::decode(&page), Err(HeaderError::Newer { version: 2 }));
    }

    #[test]
    fn a_session_of_another_store_is_not_a_clean_stop() {
        let page = Session::Stopped { sequence: 9 }.encode(7);
        assert_eq!(Session::decode(&page, 7), Session::Stopped { sequence: 9 });
        assert_eq!(Session::decode(&page, 8), Session::InUse);
    }

    proptest! {
        #[test]
        fn a_header_survives(slots in 64..u32::MAX, store_id: u64, made_at_s: u64) {
            let geometry = Geometry::for_capacity(u64::from(slots) * u64::from(PIECE_BYTES)).unwrap();
            let header = Header { geometry, store_id, made_at_s };
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn one_changed_byte_is_noticed(at in 12..HEADER_BYTES, change in 1..=255u8) {
            let mut page = sample().encode();
            page[at] ^= change;
            prop_assert_eq!(Header::decode(&page), Err(HeaderError::Damaged));
        }
    }
}
