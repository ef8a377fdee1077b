//! One slot's record: a byte that says whether to seal, then the record's beginning.
//!
//! What is taken for a record survives being written, byte for byte where the format has no reserve, and is taken at
//! no other place and in no other store.
#![no_main]

use darter_engine::format::{SLOT_RECORD_BYTES, SlotRecord};
use libfuzzer_sys::fuzz_target;

mod record;

fuzz_target!(|input: (bool, &[u8])| {
    let (seal, bytes) = input;
    let (record, index, store_id) = record::of::<SLOT_RECORD_BYTES>(seal, bytes);
    let Some(slot) = SlotRecord::decode(&record, index, store_id) else { return };
    let written = slot.encode(store_id);
    assert_eq!(SlotRecord::decode(&written, index, store_id), Some(slot));
    // State stands alone in its byte; behind the content's id is reserve.
    assert_eq!(written[..44], record[..44]);
    assert_eq!(written[45], record[45]);
    assert_eq!(written[48..224], record[48..224]);
    assert_eq!(SlotRecord::decode(&written, index ^ 1, store_id), None);
    assert_eq!(SlotRecord::decode(&written, index, !store_id), None);
});
