//! One content's record: a byte that says whether to seal, then the record's beginning.
//!
//! What is taken for a record survives being written, and is taken at no other place and in no other store.
#![no_main]

use darter_engine::format::{CONTENT_RECORD_BYTES, ContentRecord};
use libfuzzer_sys::fuzz_target;

mod record;

fuzz_target!(|input: (bool, &[u8])| {
    let (seal, bytes) = input;
    let (record, index, store_id) = record::of::<CONTENT_RECORD_BYTES>(seal, bytes);
    let Some(content) = ContentRecord::decode(&record, index, store_id) else { return };
    let written = content.encode(store_id);
    assert_eq!(ContentRecord::decode(&written, index, store_id), Some(content));
    // From the magic to the length, and from the times to the scope, every byte means something.
    assert_eq!(written[..72], record[..72]);
    assert_eq!(written[80..144], record[80..144]);
    assert_eq!(ContentRecord::decode(&written, index ^ 1, store_id), None);
    assert_eq!(ContentRecord::decode(&written, index, !store_id), None);
});
