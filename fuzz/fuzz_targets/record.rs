//! What both kinds of record have in common: place and store id in front, a crc32 at the end; docs/data-format.md.

const INDEX: usize = 4;
const STORE_ID: usize = 16;

/// A record that begins with `bytes`, with the index and the store id that it names itself. A mutation hardly ever
/// meets a crc32, so half of the records are sealed here and are judged by what is behind the seal.
pub fn of<const N: usize>(seal: bool, bytes: &[u8]) -> ([u8; N], u32, u64) {
    let mut record = [0; N];
    let filled = bytes.len().min(N);
    record[..filled].copy_from_slice(&bytes[..filled]);
    if seal {
        let sum = crc32fast::hash(&record[..N - 4]);
        record[N - 4..].copy_from_slice(&sum.to_le_bytes());
    }
    let index = u32::from_le_bytes(std::array::from_fn(|at| record[INDEX + at]));
    let store_id = u64::from_le_bytes(std::array::from_fn(|at| record[STORE_ID + at]));
    (record, index, store_id)
}
