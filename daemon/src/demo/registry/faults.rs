//! Faults are a value, so that a test states what goes wrong in one line.

/// What goes wrong with answers to blob GETs, at the storage host when blobs are redirected. The default is
/// nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Answer with this status and an error body instead of the blob.
    pub status: Option<u16>,
    /// Answer a range request with 200 and the whole blob.
    pub ignore_range: bool,
    /// Close the connection in order (no reset) after so many body bytes of each answer.
    pub cut_body_after: Option<u64>,
    /// Send nothing more after so many body bytes of each answer, and keep the connection open.
    pub stall_after: Option<u64>,
    /// Invert the byte at this offset of the blob, so that its digest no longer holds.
    pub flip_byte_at: Option<u64>,
}
