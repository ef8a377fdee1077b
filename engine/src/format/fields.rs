//! Little-endian fields at named offsets, and the seal.
//!
//! Offsets are constants of the callers and lie inside the record by its fixed size, so these functions index
//! without a check that could fail on what a disk holds.

pub(super) fn put_u32(record: &mut [u8], at: usize, value: u32) {
    record[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u64(record: &mut [u8], at: usize, value: u64) {
    record[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn u32_at(record: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(record, at))
}

pub(super) fn u64_at(record: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(record, at))
}

pub(super) fn bytes_at<const N: usize>(record: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&record[at..at + N]);
    bytes
}

/// Writes a text of at most `room` bytes behind its length byte; longer text is cut at a character.
pub(super) fn put_text(record: &mut [u8], at: usize, room: usize, text: &str) {
    let cut = (0..=room.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    record[at] = cut as u8;
    record[at + 1..at + 1 + cut].copy_from_slice(&text.as_bytes()[..cut]);
}

/// Reads what [`put_text`] wrote. Anything else is an empty text.
pub(super) fn text_at(record: &[u8], at: usize, room: usize) -> String {
    let length = usize::from(record[at]).min(room);
    String::from_utf8(record[at + 1..at + 1 + length].to_vec()).unwrap_or_default()
}

/// Sequences and tenures above this are none that a store comes to; what says so is no record.
pub(super) const NUMBER_MAX: u64 = 1 << 62;

/// Writes the crc32 of all but the last four bytes into the last four.
pub(super) fn seal(record: &mut [u8]) {
    let at = record.len() - 4;
    let sum = crc32fast::hash(&record[..at]);
    put_u32(record, at, sum);
}

/// Whether the last four bytes are the crc32 of the rest.
pub(super) fn sealed(record: &[u8]) -> bool {
    let at = record.len() - 4;
    u32_at(record, at) == crc32fast::hash(&record[..at])
}
