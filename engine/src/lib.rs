//! Darter's piece store.
//!
//! Contents are cut into blocks of 64 KiB and pieces of 256 KiB; a piece lives in a slot of a preallocated,
//! memory-mapped slab. Readers get slices of the mapping under a lease, or buffers filled by one read; writers
//! hand over whole blocks. What is durable is found again after a crash.
//!
//! What a newcomer should read, in this order: [`layout`] for the units, [`store`] for what can be asked,
//! `slot` for the life of a slot, `docs/data-format.md` for what is on disk, `keeper` for when it gets there.
//!
//! The engine knows no network, no HTTP and no peer.
#![deny(unsafe_code)]

pub mod buffer;
mod clock;
pub mod content;
pub mod content_id;
mod device;
mod directory;
pub mod eviction;
mod fault;
pub mod format;
mod free_slots;
mod from_disk;
mod frontier;
mod hashed_block;
mod hasher;
pub mod heap;
mod index;
mod keeper;
pub mod layout;
mod page_tables;
mod piece_table;
pub mod probe;
mod records;
pub mod ring;
pub mod sampler;
mod scrub;
#[cfg(test)]
mod simulation;
mod slab;
mod slot;
#[cfg(test)]
mod small_store;
pub mod store;
mod sync;

pub use content::{Content, ContentSpec, Verification};
pub use content_id::{ContentId, Naming, RegistryScope, Scope};
pub use directory::OpenError;
pub use hashed_block::HashedBlock;
pub use layout::{BLOCK_BYTES, BlockIndex, BlockRun, Layout, PIECE_BYTES, PieceIndex};
pub use store::{Reservation, Store, StoreOptions};
