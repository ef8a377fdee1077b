//! A block as it comes in: its bytes with their BLAKE3.
//!
//! Whoever checks a block, attests it to others or writes it down needs the same digest. So it is computed once, where the
//! bytes come, and goes with them; nothing but hashing makes one, so it is never that of other bytes.

use bytes::Bytes;

/// At most [`BLOCK_BYTES`](crate::BLOCK_BYTES) bytes, and their BLAKE3. Clones share the bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HashedBlock {
    bytes: Bytes,
    blake3: [u8; 32],
}

impl HashedBlock {
    /// Hashes the bytes: 64 KiB take some 15 µs.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        let blake3 = blake3::hash(&bytes).into();
        Self { bytes, blake3 }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Their BLAKE3.
    #[must_use]
    pub fn blake3(&self) -> &[u8; 32] {
        &self.blake3
    }
}
