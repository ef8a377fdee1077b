//! Whether a registry has what it says it has.
//!
//! A content whose digest is right is one content for all registries. But anyone can run a registry that says yes to
//! every digest, and whoever knows the digest of a private image would get its bytes out of this node by naming that
//! registry. So a registry vouches for bytes that came from another one only after it has shown some: one block of
//! the content, chosen by chance, as it is in the store. Until then its own answer is passed through.

use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;
use darter_engine::store::Touch;
use darter_engine::{BlockIndex, Content};

use super::reader::Sources;
use crate::fetch::FetchError;
use crate::origin::{Ask, BlobAnswer, BlobStream, OriginError, Target, Verdict};

/// Blocks that are looked at for one that is held.
const TRIES_MAX: u32 = 64;

/// Whether the target's registry may vouch for the content. Asks it for a block where that is not known.
///
/// # Errors
/// The registry refuses, or does not answer.
pub(super) async fn is_shown(
    sources: &Sources,
    target: &Target,
    content: &Content,
) -> Result<bool, FetchError> {
    if sources.access.is_vouched_for(target, content) {
        return Ok(true);
    }
    // Of an empty content, or one of which nothing is held, nothing can be got out of this node.
    let Some((block, held)) = held_block(sources, target, content).await else { return Ok(true) };
    let first = block.byte_offset();
    let ask = Ask::Span { first, last: first + held.len() as u64 - 1 };
    let (answer, _) = sources.origin.blob(target, ask, None).await?;
    let is_shown = match answer {
        BlobAnswer::Bytes(stream) => has_block(stream, content, first, &held).await?,
        BlobAnswer::NoLength | BlobAnswer::Unsatisfied { .. } => false,
        BlobAnswer::Verdict(verdict) => return Err(refused(verdict)),
    };
    if is_shown {
        sources.access.note_shown(target, &content.id());
    } else {
        tracing::warn!(content = %content.id(), registry = %target.registry(), "the registry does not show what it says it has: its own answer is passed through");
    }
    Ok(is_shown)
}

fn refused(verdict: Verdict) -> FetchError {
    FetchError::Verdict(std::sync::Arc::new(verdict))
}

/// A block that the registry cannot foresee, with its bytes.
async fn held_block(sources: &Sources, target: &Target, content: &Content) -> Option<(BlockIndex, Bytes)> {
    let layout = content.layout();
    let count = layout.block_count();
    for attempt in 0..TRIES_MAX.min(count) {
        let chance = RandomState::new().hash_one(attempt);
        let number = (chance % u64::from(count)) as u32;
        // From there on, so that what is held in part is found.
        let rest = layout.run(number, count)?;
        let held = |block: &BlockIndex| sources.store.has(content, target.scope(), *block);
        let Some(block) = rest.blocks().find(held) else { continue };
        let run = layout.run(block.number(), block.number() + 1)?;
        // Evicted since: the next one.
        if let Ok(parts) = sources.store.read_copied(content, target.scope(), run, Touch::Ignored).await {
            return Some((block, parts.concat().into()));
        }
    }
    None
}

/// Whether an answer holds the block, byte by byte. One that begins elsewhere is not read through.
async fn has_block(
    mut stream: BlobStream,
    content: &Content,
    first: u64,
    held: &[u8],
) -> Result<bool, OriginError> {
    if stream.length_bytes != content.layout().length_bytes() || stream.bytes.start != first {
        return Ok(false);
    }
    let mut left = held;
    while !left.is_empty() {
        let Some(part) = stream.next().await? else { return Ok(false) };
        let compared = part.len().min(left.len());
        if part[..compared] != left[..compared] {
            return Ok(false);
        }
        left = &left[compared..];
    }
    Ok(true)
}
