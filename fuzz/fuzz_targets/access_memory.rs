//! What is remembered of access: a file that may be anything.
//!
//! What is read is what would be written: no two files say the same, and none is taken that is not whole.
#![no_main]

use darter::access::memory::Memory;
use libfuzzer_sys::fuzz_target;

/// Length of the checksum at the end.
const SUM_BYTES: usize = 32;

fuzz_target!(|input: &[u8]| {
    let _ = Memory::decode(input);
    // The same with a right checksum, which no chance finds.
    let body = &input[..input.len().saturating_sub(SUM_BYTES)];
    let sealed = [body, blake3::hash(body).as_bytes()].concat();
    if let Some(memory) = Memory::decode(&sealed) {
        assert_eq!(memory.encode(), sealed);
    }
});
