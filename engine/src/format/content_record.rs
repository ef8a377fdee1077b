//! One record per content.

use super::fields::{
    NUMBER_MAX, bytes_at, put_text, put_u32, put_u64, seal, sealed, text_at, u32_at, u64_at,
};
use crate::content_id::{ContentId, Naming, RegistryScope};

/// Length of a content record.
pub const CONTENT_RECORD_BYTES: usize = 512;

const MAGIC: [u8; 4] = *b"DCNT";
const INDEX: usize = 4;
const SEQUENCE: usize = 8;
const STORE_ID: usize = 16;
const TENURE: usize = 24;
const ID: usize = 32;
const LENGTH: usize = 64;
const STATE: usize = 72;
const FLAGS: usize = 73;
const KIND: usize = 74;
const CREATED_AT: usize = 80;
const USED_AT: usize = 88;
const EXPIRES_AT: usize = 96;
const PASSED_AT: usize = 104;
const SCOPE: usize = 112;
const REGISTRY: usize = 144;
const MEDIA_TYPE: usize = 240;
const VALIDATOR: usize = 336;

const NAME_ROOM: usize = 95;
/// Longest validator that a record holds. A longer one is cut, and so will not match when it is asked for.
const VALIDATOR_ROOM: usize = 127;

const FLAG_VERIFIED: u8 = 1;
const FLAG_PINNED: u8 = 2;

/// What the store remembers of a content besides its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContentRecord {
    /// Place in the table.
    pub index: u32,
    /// The higher of two valid copies counts.
    pub sequence: u64,
    /// Given once in a store's life; slot records name it.
    pub tenure: u64,
    /// Name of the content.
    pub id: ContentId,
    /// Length in bytes.
    pub length_bytes: u64,
    /// False: the record is free, and so is every slot that names its tenure.
    pub live: bool,
    /// The whole digest was right.
    pub verified: bool,
    /// Never evicted.
    pub pinned: bool,
    /// What the id is the hash of.
    pub naming: Naming,
    /// Unix seconds.
    pub created_at_s: u64,
    /// Unix seconds, to within some minutes.
    pub used_at_s: u64,
    /// Unix seconds; 0: never.
    pub expires_at_s: u64,
    /// Unix seconds; 0: never.
    pub passed_at_s: u64,
    /// Where unverified bytes came from.
    pub scope: RegistryScope,
    /// The same for people; cut at 95 bytes.
    pub registry: String,
    /// As the registry named it; cut at 95 bytes.
    pub media_type: String,
    /// ETag or Last-Modified of a content named by URL; at most 127 bytes.
    pub validator: String,
}

impl ContentRecord {
    /// The record as it stands on disk.
    pub fn encode(&self, store_id: u64) -> [u8; CONTENT_RECORD_BYTES] {
        let mut record = [0; CONTENT_RECORD_BYTES];
        record[..4].copy_from_slice(&MAGIC);
        put_u32(&mut record, INDEX, self.index);
        put_u64(&mut record, SEQUENCE, self.sequence);
        put_u64(&mut record, STORE_ID, store_id);
        put_u64(&mut record, TENURE, self.tenure);
        record[ID..ID + 32].copy_from_slice(self.id.as_bytes());
        put_u64(&mut record, LENGTH, self.length_bytes);
        record[STATE] = u8::from(self.live);
        record[FLAGS] = u8::from(self.verified) * FLAG_VERIFIED + u8::from(self.pinned) * FLAG_PINNED;
        record[KIND] = match self.naming {
            Naming::Digest => 0,
            Naming::Url => 1,
        };
        put_u64(&mut record, CREATED_AT, self.created_at_s);
        put_u64(&mut record, USED_AT, self.used_at_s);
        put_u64(&mut record, EXPIRES_AT, self.expires_at_s);
        put_u64(&mut record, PASSED_AT, self.passed_at_s);
        record[SCOPE..SCOPE + 32].copy_from_slice(self.scope.as_bytes());
        put_text(&mut record, REGISTRY, NAME_ROOM, &self.registry);
        put_text(&mut record, MEDIA_TYPE, NAME_ROOM, &self.media_type);
        put_text(&mut record, VALIDATOR, VALIDATOR_ROOM, &self.validator);
        seal(&mut record);
        record
    }

    /// Reads the record at place `index` of the store `store_id`; `None` if it is not one.
    pub fn decode(record: &[u8; CONTENT_RECORD_BYTES], index: u32, store_id: u64) -> Option<Self> {
        let ours = bytes_at(record, 0) == MAGIC
            && u32_at(record, INDEX) == index
            && u64_at(record, STORE_ID) == store_id
            && u64_at(record, SEQUENCE) <= NUMBER_MAX
            && u64_at(record, TENURE) <= NUMBER_MAX
            && sealed(record);
        if !ours {
            return None;
        }
        Some(Self {
            index,
            sequence: u64_at(record, SEQUENCE),
            tenure: u64_at(record, TENURE),
            id: ContentId::from_bytes(bytes_at(record, ID)),
            length_bytes: u64_at(record, LENGTH),
            live: record[STATE] == 1,
            verified: record[FLAGS] & FLAG_VERIFIED != 0,
            pinned: record[FLAGS] & FLAG_PINNED != 0,
            naming: match record[KIND] {
                0 => Naming::Digest,
                1 => Naming::Url,
                _ => return None,
            },
            created_at_s: u64_at(record, CREATED_AT),
            used_at_s: u64_at(record, USED_AT),
            expires_at_s: u64_at(record, EXPIRES_AT),
            passed_at_s: u64_at(record, PASSED_AT),
            scope: RegistryScope::from_bytes(bytes_at(record, SCOPE)),
            registry: text_at(record, REGISTRY, NAME_ROOM),
            media_type: text_at(record, MEDIA_TYPE, NAME_ROOM),
            validator: text_at(record, VALIDATOR, VALIDATOR_ROOM),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn any_record()(
            numbers: [u64; 7], index: u32, id: [u8; 32], scope: [u8; 32], flags: [bool; 4],
            registry in "[a-z:/.]{0,95}", media_type in "[a-z+/.]{0,95}", validator in "[ -~]{0,127}",
        ) -> ContentRecord {
            ContentRecord {
                index,
                sequence: numbers[0] >> 2,
                tenure: numbers[1] >> 2,
                id: ContentId::from_bytes(id),
                length_bytes: numbers[2],
                live: flags[0],
                verified: flags[1],
                pinned: flags[2],
                naming: if flags[3] { Naming::Url } else { Naming::Digest },
                created_at_s: numbers[3],
                used_at_s: numbers[4],
                expires_at_s: numbers[5],
                passed_at_s: numbers[6],
                scope: RegistryScope::from_bytes(scope),
                registry,
                media_type,
                validator,
            }
        }
    }

    proptest! {
        #[test]
        fn a_record_survives(record in any_record(), store_id: u64) {
            let bytes = record.encode(store_id);
            prop_assert_eq!(ContentRecord::decode(&bytes, record.index, store_id), Some(record));
        }

        #[test]
        fn a_misplaced_foreign_or_changed_record_is_none(
            record in any_record(), store_id: u64, at in 0..CONTENT_RECORD_BYTES, change in 1..=255u8,
        ) {
            let mut bytes = record.encode(store_id);
            prop_assert_eq!(ContentRecord::decode(&bytes, record.index ^ 1, store_id), None);
            prop_assert_eq!(ContentRecord::decode(&bytes, record.index, !store_id), None);
            bytes[at] ^= change;
            prop_assert_eq!(ContentRecord::decode(&bytes, record.index, store_id), None);
        }

        #[test]
        fn long_names_are_cut_at_a_character(name in "\\PC{0,200}") {
            let bytes = [0u8; CONTENT_RECORD_BYTES];
            let mut record = bytes;
            put_text(&mut record, REGISTRY, NAME_ROOM, &name);
            prop_assert!(name.starts_with(&text_at(&record, REGISTRY, NAME_ROOM)));
        }
    }
}
