//! Complaints about parents, and the check of the accused: the owner takes the block itself. One node's word expels
//! nobody.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::Server;
use crate::block_set::BlockSet;
use crate::exchange::ExchangeError;
use crate::node::{Node, NodeId};
use crate::tracker::Grievance;
use crate::wire::{BlockDigest, Complain, Message, Take};

/// Nodes that are checked at a time by one shard. Who is still wrong will be complained of again.
const CHECKS_MAX: usize = 8;
/// A node that has not sent the block by then has not sent wrong bytes.
const CHECKED_WITHIN: Duration = Duration::from_secs(5);

/// Who is being checked.
#[derive(Debug, Default)]
pub(super) struct Checks {
    accused: BTreeSet<NodeId>,
}

impl Checks {
    #[cfg(test)]
    pub(super) fn accused_count(&self) -> usize {
        self.accused.len()
    }
}

impl Server {
    /// A node complains of its parent.
    pub(super) fn complain(&self, from: &NodeId, complaint: &Complain) {
        let grievance = self.books.map().tracker.complain(from, complaint, Instant::now());
        match grievance {
            Grievance::Noted => {}
            Grievance::Expelled => {
                tracing::warn!(node = %complaint.parent, "several nodes got wrong bytes from this one: it is not named to others for ten minutes");
            }
            Grievance::Check => self.check(complaint),
        }
    }

    fn check(&self, complaint: &Complain) {
        let Some(me) = self.me.upgrade() else { return };
        let accused = self.books.map().tracker.node(&complaint.parent).cloned();
        // Without a digest there is nothing to check against.
        let digest = self.books.attestations().digest(&complaint.plot, complaint.place.into());
        let (Some(accused), Some(digest)) = (accused, digest) else { return };
        {
            let mut checks = self.checks.borrow_mut();
            if checks.accused.len() >= CHECKS_MAX || !checks.accused.insert(accused.id) {
                return;
            }
        }
        let complaint = complaint.clone();
        tokio::task::spawn_local(async move {
            let sends = timeout(CHECKED_WITHIN, me.sends_wrong_bytes(&accused, &complaint, digest)).await;
            if sends == Ok(true) {
                tracing::warn!(node = %accused.id, content = %complaint.plot.content, place = complaint.place,
                    "this node sends wrong bytes: it is not named to others for ten minutes; see to its disk and memory");
                me.books.map().tracker.expel(&accused.id, Instant::now());
            }
            me.checks.borrow_mut().accused.remove(&accused.id);
        });
    }

    /// Takes the block from the accused. What it does not send, because it does not hold it or cannot be reached, is not
    /// wrong.
    async fn sends_wrong_bytes(&self, accused: &Node, complaint: &Complain, digest: BlockDigest) -> bool {
        let block = self.block_of(accused, complaint).await;
        matches!(block, Ok(Some(found)) if found != digest)
    }

    async fn block_of(
        &self,
        accused: &Node,
        complaint: &Complain,
    ) -> Result<Option<BlockDigest>, ExchangeError> {
        let (plot, place) = (complaint.plot, u32::from(complaint.place));
        // How long the block is has to be known.
        let bytes = self.site(&plot).and_then(|site| {
            let layout = site.content.layout();
            Some(layout.block_bytes(plot.span.block(layout, place)?))
        });
        let (Some(bytes), Some(session)) = (bytes, self.session(accused).await) else { return Ok(None) };
        let mut exchange = session.ask(Take { plot, places: BlockSet::one(place), wait_ms: 0 }).await?;
        match exchange.next().await? {
            Some(Message::Blocks(blocks)) if blocks.places() == Some(place..place + 1) => {}
            _ => return Ok(None),
        }
        let buffer = self.store.pool().take().await;
        let block = exchange.read_block(buffer, bytes).await?;
        Ok(Some(blake3::hash(&block).into()))
    }
}
