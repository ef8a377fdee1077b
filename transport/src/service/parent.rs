//! What a node answers as a parent: blocks that it holds, and what it gets.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use darter_engine::store::ReadError;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::refusal::{Stop, because, busy};
use super::uploads::Upload;
use super::{Server, Site};
use crate::block_set::BlockSet;
use crate::exchange::Exchange;
use crate::node::Node;
use crate::span::{Plot, place_of};
use crate::wire::{Code, End, Have, Take};

/// Blocks that are read and sent at a time: 1 MiB. Whoever takes nothing keeps no more of the store busy.
const SENT_AT_ONCE: u32 = 16;
/// A child that waits for blocks that are about to come waits no longer.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// What comes within this time is told together.
pub(super) const TOLD_EVERY: Duration = Duration::from_millis(20);
/// How long a read waits for a buffer.
const BUFFER_WITHIN: Duration = Duration::from_millis(200);

impl Server {
    /// Sends what is held of these blocks; with time to wait, what comes in that time as well. What is on its way from the
    /// origin is waited for in any case: this node was the owner a moment ago, or is it, and nobody else has it.
    pub(super) async fn take(&self, asker: &Node, take: &Take, exchange: &mut Exchange) -> Result<(), Stop> {
        let Some(site) = self.site(&take.plot) else {
            return Err(because(Code::NotHeld, "nothing of this content is here").into());
        };
        let wait = Duration::from_millis(take.wait_ms.into()).min(WAIT_MAX);
        let (deadline, from_origin_by) = (Instant::now() + wait, Instant::now() + WAIT_MAX);
        let mut left = take.places.and(&site.blocks);
        loop {
            let mut changes = site.board.changes();
            let ready = self.held_of(&site, &left);
            if !ready.is_empty() {
                let upload = match wait.is_zero() {
                    true => self.books.uploads.try_bulk(asker.id),
                    false => self.books.uploads.turn(asker.id).await,
                };
                let upload = upload.ok_or_else(|| busy(self.books.uploads.takes()))?;
                // What could not be read is gone, and is not looked for again.
                self.send(&site, &ready, &upload, exchange).await?;
                left = left.minus(&ready);
            }
            let deadline = match left.and(&site.board.bringing()).is_empty() {
                true => deadline,
                false => from_origin_by,
            };
            if left.is_empty() || timeout_at(deadline, changes.changed()).await.is_err() {
                break;
            }
        }
        Ok(exchange.send(End {}).await?)
    }

    /// Sends these blocks as far as they can be read; which of them went out.
    pub(super) async fn send(
        &self,
        site: &Site,
        places: &BlockSet,
        upload: &Upload,
        exchange: &mut Exchange,
    ) -> Result<BlockSet, Stop> {
        let (layout, mut left, mut sent) = (site.content.layout(), *places, BlockSet::EMPTY);
        while let Some(mut places) = left.runs(SENT_AT_ONCE).next() {
            let Some(run) = site.plot.span.run(layout, &places) else { break };
            let read = match self.store.read(&site.content, site.registry, run).await {
                // Few can be lent, and a run wants them all at once.
                Err(ReadError::NoBuffers) => {
                    places.end = places.start + 1;
                    let one = self.store.read_one(&site.content, site.registry, run.first());
                    let one = timeout(BUFFER_WITHIN, one).await.map_err(|_| busy(BUFFER_WITHIN))?;
                    one.map(|bytes| vec![bytes])
                }
                read => read,
            };
            match read {
                Ok(bytes) => {
                    let of_run = BlockSet::run(places.start, places.end - places.start);
                    upload.pace(bytes.iter().map(Bytes::len).sum()).await;
                    exchange.send_blocks(places, bytes).await?;
                    sent.add(&of_run);
                    left = left.minus(&of_run);
                }
                Err(ReadError::Absent(block)) => {
                    let place = place_of(block);
                    self.lost(site, place);
                    left.remove(place);
                }
                Err(ReadError::NoBuffers) => return Err(busy(BUFFER_WITHIN).into()),
            }
        }
        Ok(sent)
    }

    /// Tells what is held, and then what comes and goes, until the watcher ends it. A seed tells the digests too.
    pub(super) async fn watch(self: &Rc<Self>, plot: &Plot, exchange: &mut Exchange) -> Result<(), Stop> {
        self.not_wrong(plot).await?;
        let Some(board) = self.board(plot) else { return Err(busy(Duration::from_secs(1)).into()) };
        let mut changes = board.changes();
        let (mut told, mut attested) = (BlockSet::EMPTY, BlockSet::EMPTY);
        let mut is_first = true;
        loop {
            changes.borrow_and_update();
            let now = Instant::now();
            let held = board.held();
            if is_first || held != told {
                let load = self.books.load();
                exchange.send(Have { held: held.minus(&told), lost: told.minus(&held), load }).await?;
                (told, is_first) = (held, false);
            }
            if self.books.seeds.is_seed() {
                let new = self.books.attestations().known(plot).minus(&attested);
                self.tell_digests(plot, &new, exchange).await?;
                attested.add(&new);
                if !held.minus(&attested).is_empty() {
                    self.hash_in_the_background(plot, &board);
                }
            }
            tokio::select! {
                _ = changes.changed() => {}
                said = exchange.next() => return match said? {
                    None => Ok(()),
                    Some(_) => Err(because(Code::Malformed, "a watcher only ends its stream").into()),
                },
            }
            sleep_until(now + TOLD_EVERY).await;
        }
    }
}
