//! Digests of blocks that a seed holds and nobody has told it: computed from the store when somebody asks for them,
//! a few blocks at a time, so that the shard's sockets are looked after.

use std::rc::Rc;
use std::sync::Arc;

use darter_engine::store::Touch;

use super::board::Board;
use super::refusal::Stop;
use super::{Server, Site};
use crate::block_set::BlockSet;
use crate::exchange::Exchange;
use crate::span::{Plot, SPAN_BLOCKS};
use crate::wire::{Attested, List};

/// Blocks that are hashed in one go: 256 KiB, some 100 µs.
const HASHED_AT_ONCE: u32 = 4;

impl Server {
    /// Sends what is known of the digests of these blocks.
    pub(super) async fn tell_digests(
        &self,
        plot: &Plot,
        places: &BlockSet,
        exchange: &mut Exchange,
    ) -> Result<(), Stop> {
        if places.is_empty() {
            return Ok(());
        }
        for (first, digests) in self.books.attestations().runs(plot, places) {
            let (first, digests) = (first as u16, List::first_of(digests));
            exchange.send(Attested { first, digests }).await?;
        }
        Ok(())
    }

    /// Computes the digests of those of these blocks that are held and not attested. What cannot be read has none.
    pub(super) async fn hash(&self, site: &Site, places: &BlockSet) {
        if !self.books.seeds.is_seed() {
            return;
        }
        let known = self.books.attestations().known(&site.plot);
        let unknown = self.held_of(site, &places.minus(&known));
        for places in unknown.runs(HASHED_AT_ONCE) {
            let Some(run) = site.plot.span.run(site.content.layout(), &places) else { return };
            // Nothing is read for the digests of what was purged meanwhile.
            if site.content.is_gone() {
                return;
            }
            match self.store.read_copied(&site.content, site.registry, run, Touch::Ignored).await {
                Ok(bytes) => {
                    let digests: Vec<_> = bytes.iter().map(|block| blake3::hash(block).into()).collect();
                    self.books.attest(&site.plot, places.start, &digests);
                }
                Err(error) => tracing::debug!(%error, "blocks cannot be read for their digests"),
            }
            tokio::task::yield_now().await;
        }
    }

    /// The same for all that is held of a plot; one plot at a time on a shard, and once at a time for each.
    pub(super) fn hash_in_the_background(self: &Rc<Self>, plot: &Plot, board: &Arc<Board>) {
        let Some(turn) = board.turn_to_hash() else { return };
        let Some(site) = self.site(plot) else { return };
        let server = self.clone();
        tokio::task::spawn_local(async move {
            let Ok(_one) = server.hashes.acquire().await else { return };
            server.hash(&site, &BlockSet::first(SPAN_BLOCKS)).await;
            drop(turn);
        });
    }
}
