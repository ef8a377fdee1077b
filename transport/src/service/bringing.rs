//! Blocks from the origin, for whoever asks the owner: each is asked for once, however many wait for it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_engine::{BlockIndex, Content, RegistryScope};
use tokio::sync::mpsc;
use tokio::time::{timeout, timeout_at};

use super::board::{Claim, ErrandKey};
use super::refusal::{Stop, because, busy};
use super::{Bring, Server, Site};
use crate::block_set::BlockSet;
use crate::exchange::Exchange;
use crate::node::NodeId;
use crate::span::{Plot, place_of};
use crate::wire::{Code, Errand, RUN_BLOCKS_MAX};

/// Requests to the origin that a shard has under way for others.
pub(super) const BRINGS_MAX: usize = 64;
/// The same for one request of another node.
const BRINGS_OF_ONE: usize = 4;
/// Blocks between the origin and their digest.
const BLOCKS_AHEAD: usize = 8;
/// How long the store takes, at most, to hold a block that has come.
const STORED_WITHIN: Duration = Duration::from_secs(1);
/// The other node waits for the owner for 3 s: if nothing has changed by far later than that, it is not there.
const NOTHING_FOR: Duration = Duration::from_secs(10);

/// For whom blocks are sent.
pub(super) struct For<'a> {
    /// The node.
    pub(super) asker: NodeId,
    /// Its client's request.
    pub(super) errand: &'a Errand,
}

impl Server {
    /// Sends these blocks: what is held at once, the others as they come. Digests go before the blocks.
    pub(super) async fn send_as_they_come(
        self: &Rc<Self>,
        site: &Site,
        whom: &For<'_>,
        places: &BlockSet,
        exchange: &mut Exchange,
    ) -> Result<(), Stop> {
        let key: ErrandKey = blake3::hash(whom.errand).into();
        let since = site.board.refusals_noted();
        let (mut left, mut tried) = (*places, BlockSet::EMPTY);
        let mut changes = site.board.changes();
        while !left.is_empty() {
            changes.borrow_and_update();
            let bringing = site.board.bringing();
            let ready = self.held_of(site, &left);
            if ready.is_empty()
                && let Some((place, bytes)) = site.board.given(&left)
            {
                let turn = self.books.uploads.turn(whom.asker).await;
                let upload = turn.ok_or_else(|| busy(self.books.uploads.takes()))?;
                self.tell_digests(&site.plot, &BlockSet::one(place), exchange).await?;
                upload.pace(bytes.len()).await;
                exchange.send_blocks(place..place + 1, vec![bytes]).await?;
                left.remove(place);
                continue;
            }
            if !ready.is_empty() {
                let turn = self.books.uploads.turn(whom.asker).await;
                let upload = turn.ok_or_else(|| busy(self.books.uploads.takes()))?;
                self.hash(site, &ready).await;
                self.tell_digests(&site.plot, &ready, exchange).await?;
                let sent = self.send(site, &ready, &upload, exchange).await?;
                left = left.minus(&sent);
                continue;
            }
            if let Some(refused) = site.board.refusal(&left, &key, since) {
                return Err(refused.into());
            }
            if self.books.is_wrong(&site.plot.content, site.plot.scope) || site.content.is_gone() {
                self.not_wrong(&site.plot).await?;
                return Err(because(Code::Internal, "the content was dropped while it was brought").into());
            }
            let open = left.minus(&bringing);
            if !open.and(&tried).is_empty() {
                // It was brought and is not here: there was no room for it.
                return Err(because(Code::Unkept, "it came and is not kept here").into());
            }
            if !open.is_empty() {
                tried.add(&open);
                self.bring(site, whom.errand, &open);
                continue;
            }
            // Who asked may have gone meanwhile; what is brought for it is brought all the same.
            if timeout(NOTHING_FOR, changes.changed()).await.is_err() {
                return Err(because(Code::OriginTrouble, "the origin sends nothing").into());
            }
        }
        Ok(())
    }

    /// Begins to bring those of these blocks that nobody brings.
    pub(super) fn bring(self: &Rc<Self>, site: &Site, errand: &Errand, places: &BlockSet) {
        let mut claim = site.board.claim(places);
        // Somebody has brought them since they were looked at.
        for place in self.held_of(site, claim.left()).places() {
            claim.came(place);
        }
        let runs: Vec<Claim> = claim.left().runs(RUN_BLOCKS_MAX).map(|run| claim.split(&run)).collect();
        let mut lanes: Vec<Vec<Claim>> = (0..BRINGS_OF_ONE.min(runs.len())).map(|_| Vec::new()).collect();
        for (number, run) in runs.into_iter().enumerate() {
            lanes[number % BRINGS_OF_ONE].push(run);
        }
        for lane in lanes {
            let job = Job {
                server: self.clone(),
                content: site.content.clone(),
                registry: site.registry,
                plot: site.plot,
                errand: errand.clone(),
            };
            tokio::task::spawn_local(async move {
                for claim in lane {
                    job.run(claim).await;
                }
            });
        }
    }
}

/// Runs of one plot that are brought one after the other.
struct Job {
    server: Rc<Server>,
    content: Arc<Content>,
    registry: RegistryScope,
    plot: Plot,
    errand: Errand,
}

impl Job {
    /// Brings the blocks of a claim, which are neighbours.
    async fn run(&self, mut claim: Claim) {
        let key: ErrandKey = blake3::hash(&self.errand).into();
        let Ok(one) = self.server.brings.acquire().await else { return };
        let places = *claim.left();
        let Some(run) = places.runs(RUN_BLOCKS_MAX).next() else { return };
        let Some(run) = self.plot.span.run(self.content.layout(), &run) else { return };
        let (content, registry, errand) = (self.content.clone(), self.registry, self.errand.clone());
        let (to, mut blocks) = mpsc::channel(BLOCKS_AHEAD);
        let bringing = self.server.origin.bring(Bring { content, registry, run, errand }, to);
        let mut given = BlockSet::EMPTY;
        let noting = async {
            while let Some((block, bytes)) = blocks.recv().await {
                if run.contains(block) && !claim.left().and(&BlockSet::one(place_of(block))).is_empty() {
                    given.insert(place_of(block));
                    self.came(&mut claim, block, bytes);
                }
            }
        };
        let (brought, ()) = tokio::join!(bringing, noting);
        drop(one);
        claim.failed(&places.minus(&given), brought.err().map(|refused| (&key, refused)));
        self.until_it_is_stored(&mut claim).await;
        claim.board().take_back(&places);
    }

    fn came(&self, claim: &mut Claim, block: BlockIndex, bytes: Bytes) {
        let place = place_of(block);
        if self.content.is_gone() {
            // Its bytes were wrong, perhaps; nothing is attested of it.
            return;
        }
        self.server.books.attest(&self.plot, place, &[blake3::hash(&bytes).into()]);
        if self.server.store.has(&self.content, self.registry, block) {
            claim.came(place);
        } else {
            claim.board().give(place, bytes);
        }
    }

    /// What was given and is not held counts as on its way for a while: it is not to be asked for again. What is not
    /// held then is not kept.
    async fn until_it_is_stored(&self, claim: &mut Claim) {
        let deadline = tokio::time::Instant::now() + STORED_WITHIN;
        let mut changes = claim.board().changes();
        loop {
            changes.borrow_and_update();
            let left = *claim.left();
            for place in left.places() {
                let block = self.plot.span.block(self.content.layout(), place);
                if block.is_some_and(|block| self.server.store.has(&self.content, self.registry, block)) {
                    claim.came(place);
                }
            }
            if claim.left().is_empty() || timeout_at(deadline, changes.changed()).await.is_err() {
                return;
            }
        }
    }
}
