//! How far a content's SHA-256 has been fed, in order.
//!
//! The digest of a blob can be checked only when the blob is whole. A running hash is fed block by block as the
//! frontier grows: from the store, and from the network's bytes where a block could not be kept, or is still on its way
//! to the disk. A block that is written *behind* the frontier starts it anew: what the hash has seen is no longer what
//! is held. Unless it is the same: of blocks that were hashed from the network their BLAKE3 is remembered for a while,
//! because their write may come after.
//!
//! The ledger's lock is held for moments. [`Frontier::advance`] hashes outside of it, into a copy that counts only
//! if nobody has written that block meanwhile; it is called by the hasher thread alone.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::content::Verification;
use crate::content_id::ContentId;
use crate::layout::{BlockIndex, Layout};

/// Blocks from the network that wait for their turn: 1 MiB for each content.
const FED_BLOCKS_MAX: usize = 16;
/// Blocks that were hashed from the network and may still be written: more than are ever on their way to the disk.
const UNWRITTEN_MAX: usize = 1024;
/// Of these, those that are remembered beyond the verdict: what the last request brought.
const UNWRITTEN_AFTER_VERDICT_MAX: u32 = 64;

#[derive(Debug)]
pub(crate) struct Frontier {
    ledger: Mutex<Ledger>,
    running: Mutex<Running>,
}

#[derive(Debug)]
struct Ledger {
    /// Next block to hash; the number of blocks once all are.
    next: u32,
    verdict: Verdict,
    /// The next block was not there when it was looked for.
    stalled: bool,
    /// In the hasher's queue.
    queued: bool,
    /// Raised by a write behind the frontier.
    epoch: u64,
    /// The next block was written since the hasher began to look at it.
    rewritten: bool,
    /// Blocks that were not kept, or not yet.
    fed: BTreeMap<u32, Bytes>,
    /// BLAKE3 of blocks that were hashed from the network's bytes.
    unwritten: BTreeMap<u32, [u8; 32]>,
}

#[derive(Clone, Debug, Default)]
struct Running {
    epoch: u64,
    sha256: Sha256,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Pending,
    Passed,
    Wrong,
}

/// What an advance came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Advance {
    /// A block is missing, or more are to come.
    Pending,
    /// The digest is right.
    Passed,
    /// The digest is wrong.
    Wrong,
}

/// What a write means for the digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Noted {
    /// Nothing that was proved.
    Pending,
    /// It is part of what was proved.
    Proved,
    /// The verdict that stood is taken back.
    VerdictFell,
    /// The bytes were found wrong: nothing more is kept for this content.
    Wrong,
}

impl Frontier {
    /// At the first block. An empty content is right or wrong by its name alone.
    pub(crate) fn new(layout: Layout, id: &ContentId) -> Self {
        let verdict = match layout.block_count() {
            0 if Sha256::digest(b"").as_slice() == id.as_bytes() => Verdict::Passed,
            0 => Verdict::Wrong,
            _ => Verdict::Pending,
        };
        Self::at(0, verdict)
    }

    /// As a record says that the whole digest was right.
    pub(crate) fn passed(layout: Layout, id: &ContentId) -> Self {
        match layout.block_count() {
            0 => Self::new(layout, id),
            blocks => Self::at(blocks, Verdict::Passed),
        }
    }

    fn at(next: u32, verdict: Verdict) -> Self {
        let ledger = Ledger {
            next,
            verdict,
            stalled: false,
            queued: false,
            epoch: 0,
            rewritten: false,
            fed: BTreeMap::new(),
            unwritten: BTreeMap::new(),
        };
        Self { ledger: Mutex::new(ledger), running: Mutex::default() }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn verification(&self, layout: Layout) -> Verification {
        let ledger = self.ledger();
        match ledger.verdict {
            Verdict::Passed => Verification::Passed,
            Verdict::Wrong => Verification::Wrong,
            Verdict::Pending => {
                // With all blocks hashed the verdict is about to come; the last one stands for that moment.
                let next = ledger.next.min(layout.block_count().saturating_sub(1));
                match layout.block(next) {
                    // What is queued will be looked at again with all that was written since.
                    Some(next) => Verification::Pending { next, stalled: ledger.stalled && !ledger.queued },
                    None => Verification::Wrong,
                }
            }
        }
    }

    /// True if it was not in the hasher's queue before.
    pub(crate) fn enter_queue(&self) -> bool {
        let mut ledger = self.ledger();
        ledger.stalled = false;
        !std::mem::replace(&mut ledger.queued, true)
    }

    /// Called before the work, so that a block written during it brings the content back.
    pub(crate) fn leave_queue(&self) {
        let mut ledger = self.ledger();
        ledger.stalled = false;
        ledger.queued = false;
    }

    /// Whether another turn would get further: the next block was not found missing, and there is no verdict.
    pub(crate) fn goes_on(&self) -> bool {
        let ledger = self.ledger();
        ledger.verdict == Verdict::Pending && !ledger.stalled
    }

    /// Bytes of a block that is not kept, for when its turn is near. Too many or too early ones are let go.
    pub(crate) fn feed(&self, block: BlockIndex, bytes: Bytes) {
        let mut ledger = self.ledger();
        let early = block.number().checked_sub(ledger.next);
        if early.is_some_and(|early| early < FED_BLOCKS_MAX as u32) {
            ledger.fed.insert(block.number(), bytes);
        }
    }

    /// A block with this BLAKE3 is about to be written. Behind the frontier the hash starts anew, unless these are the
    /// bytes that it has seen.
    pub(crate) fn note_write(&self, block: BlockIndex, blake3: &[u8; 32]) -> Noted {
        let mut ledger = self.ledger();
        if ledger.verdict == Verdict::Wrong {
            return Noted::Wrong;
        }
        ledger.fed.remove(&block.number());
        ledger.rewritten |= block.number() == ledger.next;
        if block.number() >= ledger.next {
            return Noted::Pending;
        }
        if ledger.unwritten.remove(&block.number()).as_ref() == Some(blake3) {
            return if ledger.verdict == Verdict::Passed { Noted::Proved } else { Noted::Pending };
        }
        ledger.next = 0;
        ledger.epoch += 1;
        ledger.fed.clear();
        ledger.unwritten.clear();
        let fell = std::mem::replace(&mut ledger.verdict, Verdict::Pending) == Verdict::Passed;
        if fell { Noted::VerdictFell } else { Noted::Pending }
    }

    /// Hashes as many blocks as there are, at most `blocks_max`. `read` brings a block from the store.
    pub(crate) fn advance(
        &self,
        layout: Layout,
        id: &ContentId,
        blocks_max: usize,
        mut read: impl FnMut(BlockIndex) -> Option<Bytes>,
    ) -> Advance {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..blocks_max {
            let (block, fed) = {
                let mut ledger = self.ledger();
                if running.epoch != ledger.epoch {
                    *running = Running { epoch: ledger.epoch, sha256: Sha256::new() };
                }
                let Some(block) = layout.block(ledger.next) else { break };
                ledger.rewritten = false;
                ledger.fed = ledger.fed.split_off(&block.number());
                (block, ledger.fed.remove(&block.number()))
            };
            let of_network = fed.as_ref().map(|bytes| blake3::hash(bytes).into());
            let hashed = fed.or_else(|| read(block)).map(|bytes| {
                let mut hashed = running.clone();
                hashed.sha256.update(&bytes);
                hashed
            });
            let mut ledger = self.ledger();
            if ledger.epoch != running.epoch || ledger.rewritten {
                continue;
            }
            let Some(hashed) = hashed else {
                ledger.stalled = true;
                // Their turn may never come, and they hold buffers that fetches need.
                drop(ledger.fed.split_off(&(block.number() + 1)));
                return Advance::Pending;
            };
            *running = hashed;
            ledger.next = block.number() + 1;
            if let Some(blake3) = of_network {
                ledger.unwritten.insert(block.number(), blake3);
                if ledger.unwritten.len() > UNWRITTEN_MAX {
                    ledger.unwritten.pop_first();
                }
            }
        }
        let mut ledger = self.ledger();
        let whole = ledger.next == layout.block_count() && ledger.epoch == running.epoch;
        if ledger.verdict != Verdict::Pending || !whole {
            return Advance::Pending;
        }
        let right = running.sha256.clone().finalize().as_slice() == id.as_bytes();
        ledger.verdict = if right { Verdict::Passed } else { Verdict::Wrong };
        let last = layout.block_count().saturating_sub(UNWRITTEN_AFTER_VERDICT_MAX);
        ledger.unwritten = ledger.unwritten.split_off(&last);
        if right { Advance::Passed } else { Advance::Wrong }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of no block here.
    const OTHER: [u8; 32] = [0xee; 32];

    fn content(blocks: u32) -> (Layout, Vec<Bytes>, ContentId) {
        let layout = Layout::new(u64::from(blocks) * 65536 - 100).unwrap();
        let bytes: Vec<Bytes> = layout
            .whole()
            .unwrap()
            .blocks()
            .map(|block| Bytes::from(vec![block.number() as u8; layout.block_bytes(block) as usize]))
            .collect();
        let id = ContentId::from_bytes(Sha256::digest(bytes.concat()).into());
        (layout, bytes, id)
    }

    #[test]
    fn blocks_in_any_order_end_in_a_verdict() {
        let (layout, bytes, id) = content(5);
        let frontier = Frontier::new(layout, &id);
        let at = |number: u32| layout.block(number).unwrap();
        frontier.feed(at(1), bytes[1].clone());
        assert_eq!(frontier.advance(layout, &id, 64, |_| None), Advance::Pending);
        assert_eq!(frontier.verification(layout), Verification::Pending { next: at(0), stalled: true });
        frontier.feed(at(1), bytes[1].clone());
        frontier.feed(at(0), bytes[0].clone());
        frontier.advance(layout, &id, 64, |_| None);
        assert_eq!(frontier.verification(layout), Verification::Pending { next: at(2), stalled: true });
        let from_store = |block: BlockIndex| Some(bytes[block.number() as usize].clone());
        assert_eq!(frontier.advance(layout, &id, 64, from_store), Advance::Passed);
        assert_eq!(frontier.verification(layout), Verification::Passed);
    }

    /// Blocks that were read here and there of many contents once kept their buffers for good.
    #[test]
    fn behind_a_missing_block_no_bytes_are_kept() {
        let (layout, bytes, id) = content(5);
        let frontier = Frontier::new(layout, &id);
        frontier.feed(layout.block(3).unwrap(), bytes[3].clone());
        assert!(!bytes[3].is_unique());
        frontier.advance(layout, &id, 64, |_| None);
        assert!(bytes[3].is_unique());
    }

    /// A daemon once spent a core on a content that had passed and came to the queue once more.
    #[test]
    fn with_a_verdict_or_a_missing_block_there_is_nothing_to_go_on_with() {
        let (layout, bytes, id) = content(3);
        let frontier = Frontier::new(layout, &id);
        let from_store = |block: BlockIndex| Some(bytes[block.number() as usize].clone());
        frontier.advance(layout, &id, 1, from_store);
        assert!(frontier.goes_on());
        frontier.advance(layout, &id, 1, |_| None);
        assert!(!frontier.goes_on());
        assert_eq!(frontier.advance(layout, &id, 64, from_store), Advance::Passed);
        assert_eq!(frontier.advance(layout, &id, 64, from_store), Advance::Pending);
        assert!(!frontier.goes_on());
    }

    #[test]
    fn one_wrong_byte_is_wrong_for_good() {
        let (layout, mut bytes, id) = content(3);
        bytes[1] = Bytes::from(vec![9; 65536]);
        let from_store = |block: BlockIndex| Some(bytes[block.number() as usize].clone());
        let frontier = Frontier::new(layout, &id);
        assert_eq!(frontier.advance(layout, &id, 64, from_store), Advance::Wrong);
        assert_eq!(frontier.note_write(layout.block(0).unwrap(), &OTHER), Noted::Wrong);
        assert_eq!(frontier.verification(layout), Verification::Wrong);
    }

    #[test]
    fn a_block_written_behind_the_frontier_takes_the_verdict_back() {
        let (layout, bytes, id) = content(3);
        let frontier = Frontier::new(layout, &id);
        let from_store = |block: BlockIndex| Some(bytes[block.number() as usize].clone());
        frontier.advance(layout, &id, 64, from_store);
        assert_eq!(frontier.note_write(layout.block(1).unwrap(), &OTHER), Noted::VerdictFell);
        assert!(matches!(frontier.verification(layout), Verification::Pending { .. }));
        assert_eq!(frontier.advance(layout, &id, 64, from_store), Advance::Passed);
    }

    /// A pull whose blocks were on their way to a slow disk once hashed all of it for each of its requests.
    #[test]
    fn what_was_hashed_from_the_network_may_be_written_behind_the_frontier() {
        let (layout, bytes, id) = content(3);
        let at = |number: u32| layout.block(number).unwrap();
        let written = |number: u32| blake3::hash(&bytes[number as usize]).into();
        let frontier = Frontier::new(layout, &id);
        frontier.feed(at(0), bytes[0].clone());
        frontier.feed(at(1), bytes[1].clone());
        frontier.advance(layout, &id, 64, |_| None);
        assert_eq!(frontier.note_write(at(0), &written(0)), Noted::Pending);
        assert_eq!(frontier.verification(layout), Verification::Pending { next: at(2), stalled: true });
        // Not twice: what was written may have been lost since. And never other bytes.
        for (number, blake3) in [(0, written(0)), (1, OTHER)] {
            let frontier = Frontier::new(layout, &id);
            frontier.feed(at(0), bytes[0].clone());
            frontier.feed(at(1), bytes[1].clone());
            frontier.advance(layout, &id, 64, |_| None);
            assert_eq!(frontier.note_write(at(0), &written(0)), Noted::Pending);
            assert_eq!(frontier.note_write(at(number), &blake3), Noted::Pending);
            assert_eq!(frontier.verification(layout), Verification::Pending { next: at(0), stalled: true });
        }
        // The last ones may come after the verdict.
        frontier.feed(at(2), bytes[2].clone());
        assert_eq!(frontier.advance(layout, &id, 64, |_| None), Advance::Passed);
        assert_eq!(frontier.note_write(at(2), &written(2)), Noted::Proved);
        assert_eq!(frontier.note_write(at(2), &written(2)), Noted::VerdictFell);
    }

    #[test]
    fn a_write_in_front_of_the_frontier_changes_nothing() {
        let (layout, bytes, id) = content(3);
        let frontier = Frontier::new(layout, &id);
        frontier.feed(layout.block(0).unwrap(), bytes[0].clone());
        frontier.advance(layout, &id, 64, |_| None);
        assert_eq!(frontier.note_write(layout.block(1).unwrap(), &OTHER), Noted::Pending);
    }

    #[test]
    fn a_block_written_while_it_is_hashed_is_hashed_again() {
        let (layout, bytes, id) = content(3);
        let frontier = Frontier::new(layout, &id);
        let mut first_look = true;
        let verdict = frontier.advance(layout, &id, 64, |block| {
            if block.number() == 1 && std::mem::take(&mut first_look) {
                // Other bytes than those that are stored in this moment.
                assert_eq!(frontier.note_write(block, &OTHER), Noted::Pending);
                return Some(Bytes::from(vec![0xee; 65536]));
            }
            Some(bytes[block.number() as usize].clone())
        });
        assert_eq!(verdict, Advance::Passed);
    }

    #[test]
    fn an_empty_content_is_right_by_its_name_only() {
        let empty = Layout::new(0).unwrap();
        let name = |bytes: &[u8]| ContentId::from_bytes(Sha256::digest(bytes).into());
        assert_eq!(Frontier::new(empty, &name(b"")).verification(empty), Verification::Passed);
        assert_eq!(Frontier::new(empty, &name(b"x")).verification(empty), Verification::Wrong);
        assert_eq!(Frontier::passed(empty, &name(b"x")).verification(empty), Verification::Wrong);
    }
}
