//! One record per slot.

use super::fields::{NUMBER_MAX, bytes_at, put_u32, put_u64, seal, sealed, u32_at, u64_at};
use crate::content_id::ContentId;
use crate::layout::BLOCKS_PER_PIECE;

/// Length of a slot record.
pub const SLOT_RECORD_BYTES: usize = 256;

const MAGIC: [u8; 4] = *b"DSLT";
const INDEX: usize = 4;
const SEQUENCE: usize = 8;
const STORE_ID: usize = 16;
const TENURE: usize = 24;
const CONTENT: usize = 32;
const PIECE: usize = 36;
const GENERATION: usize = 40;
const STATE: usize = 44;
const PRESENCE: usize = 45;
const CRC32: usize = 48;
const BLAKE3: usize = 64;
const ID: usize = 192;

const BLOCKS: usize = BLOCKS_PER_PIECE as usize;
const _: () = assert!(BLAKE3 + 32 * BLOCKS <= ID && ID + 32 <= SLOT_RECORD_BYTES - 4);

/// Who lives in a slot, and the checksums of the blocks that are there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotRecord {
    /// Number of the slot.
    pub index: u32,
    /// The higher of two valid copies counts.
    pub sequence: u64,
    /// Tenure of the content; decides whether the content record still means this slot.
    pub tenure: u64,
    /// Place of the content's record.
    pub content: u32,
    /// Name of the content: a second witness besides the tenure.
    pub id: ContentId,
    /// Piece of the content.
    pub piece: u32,
    /// How often the slot was given out.
    pub generation: u32,
    /// False: the slot is free.
    pub held: bool,
    /// Bit `b`: block `b` is here.
    pub presence: u8,
    /// crc32 of each block; means nothing for an absent one.
    pub crc32: [u32; BLOCKS],
    /// BLAKE3 of each block; means nothing for an absent one.
    pub blake3: [[u8; 32]; BLOCKS],
}

impl SlotRecord {
    /// The record as it stands on disk.
    pub fn encode(&self, store_id: u64) -> [u8; SLOT_RECORD_BYTES] {
        let mut record = [0; SLOT_RECORD_BYTES];
        record[..4].copy_from_slice(&MAGIC);
        put_u32(&mut record, INDEX, self.index);
        put_u64(&mut record, SEQUENCE, self.sequence);
        put_u64(&mut record, STORE_ID, store_id);
        put_u64(&mut record, TENURE, self.tenure);
        put_u32(&mut record, CONTENT, self.content);
        put_u32(&mut record, PIECE, self.piece);
        put_u32(&mut record, GENERATION, self.generation);
        record[STATE] = u8::from(self.held);
        record[PRESENCE] = self.presence;
        for (block, sum) in self.crc32.iter().enumerate() {
            put_u32(&mut record, CRC32 + 4 * block, *sum);
        }
        for (block, hash) in self.blake3.iter().enumerate() {
            record[BLAKE3 + 32 * block..][..32].copy_from_slice(hash);
        }
        record[ID..ID + 32].copy_from_slice(self.id.as_bytes());
        seal(&mut record);
        record
    }

    /// Reads the record at place `index` of the store `store_id`; `None` if it is not one.
    pub fn decode(record: &[u8; SLOT_RECORD_BYTES], index: u32, store_id: u64) -> Option<Self> {
        let ours = bytes_at(record, 0) == MAGIC
            && u32_at(record, INDEX) == index
            && u64_at(record, STORE_ID) == store_id
            && u64_at(record, SEQUENCE) <= NUMBER_MAX
            && u64_at(record, TENURE) <= NUMBER_MAX
            && sealed(record);
        ours.then(|| Self {
            index,
            sequence: u64_at(record, SEQUENCE),
            tenure: u64_at(record, TENURE),
            content: u32_at(record, CONTENT),
            id: ContentId::from_bytes(bytes_at(record, ID)),
            piece: u32_at(record, PIECE),
            generation: u32_at(record, GENERATION),
            held: record[STATE] == 1,
            presence: record[PRESENCE],
            crc32: std::array::from_fn(|block| u32_at(record, CRC32 + 4 * block)),
            blake3: std::array::from_fn(|block| bytes_at(record, BLAKE3 + 32 * block)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn any_record()(
            numbers: [u32; 4], sequence in 0..NUMBER_MAX, tenure in 0..NUMBER_MAX, held: bool, presence: u8,
            crc32: [u32; 4], blake3: [[u8; 32]; 4], id: [u8; 32],
        ) -> SlotRecord {
            let [index, content, piece, generation] = numbers;
            let id = ContentId::from_bytes(id);
            SlotRecord { index, sequence, tenure, content, id, piece, generation, held, presence, crc32, blake3 }
        }
    }

    proptest! {
        #[test]
        fn a_record_survives(record in any_record(), store_id: u64) {
            let bytes = record.encode(store_id);
            prop_assert_eq!(SlotRecord::decode(&bytes, record.index, store_id), Some(record));
        }

        #[test]
        fn a_misplaced_foreign_or_changed_record_is_none(
            record in any_record(), store_id: u64, at in 0..SLOT_RECORD_BYTES, change in 1..=255u8,
        ) {
            let mut bytes = record.encode(store_id);
            prop_assert_eq!(SlotRecord::decode(&bytes, record.index ^ 1, store_id), None);
            prop_assert_eq!(SlotRecord::decode(&bytes, record.index, !store_id), None);
            bytes[at] ^= change;
            prop_assert_eq!(SlotRecord::decode(&bytes, record.index, store_id), None);
        }
    }
}
