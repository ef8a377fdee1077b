//! The header and the session page of a store: a byte that says whether to seal, then the page's beginning.
//!
//! A page of any content is one of ours, a newer one's, foreign or damaged. One that is ours describes tables that do
//! not overlap, and survives being written.
#![no_main]

use darter_engine::format::{Copy, FORMAT_VERSION, HEADER_BYTES, Header, HeaderError, Session};
use libfuzzer_sys::fuzz_target;

/// Where the store id stands in the session page; docs/data-format.md.
const SESSION_STORE_ID: usize = 16;

fuzz_target!(|input: (bool, &[u8])| {
    let (seal, bytes) = input;
    let mut page = [0; HEADER_BYTES];
    let filled = bytes.len().min(page.len());
    page[..filled].copy_from_slice(&bytes[..filled]);
    if seal {
        let sum = crc32fast::hash(&page[..HEADER_BYTES - 4]);
        page[HEADER_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
    }
    match Header::decode(&page) {
        Ok(header) => check_header(&header),
        Err(HeaderError::Newer { version }) => assert!(version > FORMAT_VERSION),
        Err(HeaderError::Foreign) => assert_ne!(page[..8], *b"darterst"),
        Err(HeaderError::Damaged) => {}
    }
    let mut store_id = [0; 8];
    store_id.copy_from_slice(&page[SESSION_STORE_ID..][..8]);
    let store_id = u64::from_le_bytes(store_id);
    let session = Session::decode(&page, store_id);
    assert_eq!(Session::decode(&session.encode(store_id), store_id), session);
    assert_eq!(Session::decode(&page, !store_id), Session::InUse);
});

fn check_header(header: &Header) {
    assert_eq!(Header::decode(&header.encode()), Ok(*header));
    let geometry = header.geometry;
    let content_end = |copy| geometry.content_offset(copy, geometry.contents());
    let slot_end = |copy| geometry.slot_offset(copy, geometry.slots());
    assert!(content_end(Copy::A) <= geometry.content_offset(Copy::B, 0));
    assert!(content_end(Copy::B) <= geometry.slot_offset(Copy::A, 0));
    assert!(slot_end(Copy::A) <= geometry.slot_offset(Copy::B, 0));
    assert!(slot_end(Copy::B) <= geometry.records_bytes());
    assert!(geometry.slabs() > 0 && geometry.slots_of_slab(geometry.slabs() - 1) > 0);
    assert_eq!(geometry.slots_of_slab(geometry.slabs()), 0);
}
