//! The store's format on disk, as pure code: bytes ↔ records. `docs/data-format.md` is its document.
//!
//! Nothing here touches a file. Every record is sealed: its last four bytes are the crc32 of the rest, and it
//! carries its own index and the store's id, so that a misplaced or foreign record is not taken for one's own.

mod content_record;
mod fields;
mod geometry;
mod header;
mod scrub_page;
mod slot_record;

pub use content_record::{CONTENT_RECORD_BYTES, ContentRecord};
pub use geometry::{Copy, Geometry};
pub use header::{FORMAT_VERSION, HEADER_BYTES, Header, HeaderError, Session};
pub use scrub_page::{ScrubPage, ScrubPosition, ScrubRound};
pub use slot_record::{SLOT_RECORD_BYTES, SlotRecord};

pub(crate) use geometry::{SCRUB_OFFSET, SESSION_OFFSET};
