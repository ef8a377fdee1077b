//! Who is fetching what: the one place that coalesces.
//!
//! A content's fetch is owned by one shard, chosen by the hash of its name, and reached by message from all
//! shards through [`Fetches`]. The owner describes unknown contents (one request, however many readers ask) and
//! keeps one `active::Active` for each content that has blocks on their way.

mod active;
mod ahead;
mod boots;
mod bulk;
mod by_cluster;
mod copies;
mod demand;
mod gather;
mod landing;
mod look;
mod owner;
mod pace;
mod patience;
mod places;
mod plan;
mod preheat;
mod pulled;
mod remembered;
mod subscription;
mod transfer;
mod turns;

use std::sync::Arc;
use std::time::Instant;

use darter_engine::{BlockRun, Content, ContentId};
use darter_transport::cluster::Spreading;
use darter_transport::wire::Spread;
use tokio::sync::{mpsc, oneshot};

pub use demand::{Arrival, FetchError, FetchKey, Reading};
pub use subscription::Subscription;

use self::boots::Boots;
use self::demand::{Demand, Message};
use self::plan::REQUEST_BLOCKS_MAX;
use crate::access::OwnersWord;
use crate::front::range::Wanted;
use crate::origin::Target;

pub(crate) use self::copies::Copies;
pub(crate) use self::look::{Movement, Moving};
pub(crate) use self::owner::Owner;
pub(crate) use self::pace::Pace;
pub(crate) use self::patience::Patience;
pub(crate) use self::turns::Turns;

/// Messages on their way to one shard; beyond that readers are told to come back.
const MESSAGES_MAX: usize = 4096;
/// Blocks that one request to the origin asks for: 4 MiB. Reading ahead goes by so much.
pub const ORIGIN_REQUEST_BLOCKS: u32 = REQUEST_BLOCKS_MAX;
/// Longest run of one demand, so that its channel has room for every block.
pub const DEMAND_BLOCKS_MAX: u32 = REQUEST_BLOCKS_MAX + 1;

/// What the fetches of a node may take, all together.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    pub(crate) prefetch_pace: Arc<Pace>,
    pub(crate) turns: Turns,
    pub(crate) copies: Copies,
}

/// The way to every content's fetch; cheap to clone, for all shards.
#[derive(Clone, Debug)]
pub struct Fetches {
    owners: Arc<[mpsc::Sender<Message>]>,
    boots: Arc<Boots>,
}

/// Ends with the shards, and not they with it.
#[derive(Clone, Debug)]
pub(crate) struct WeakFetches {
    owners: Arc<[mpsc::WeakSender<Message>]>,
    boots: Arc<Boots>,
}

impl WeakFetches {
    /// `None` once the shards end.
    pub(crate) fn upgrade(&self) -> Option<Fetches> {
        let owners: Option<Vec<_>> = self.owners.iter().map(mpsc::WeakSender::upgrade).collect();
        Some(Fetches { owners: owners?.into(), boots: self.boots.clone() })
    }
}

/// The receiving end of one shard.
#[derive(Debug)]
pub(crate) struct Inbox(mpsc::Receiver<Message>);

impl Fetches {
    /// The way to `shards` shards, and the end that each of them serves.
    pub(crate) fn new(shards: usize) -> (Self, Vec<Inbox>) {
        let (owners, inboxes): (Vec<_>, Vec<_>) =
            (0..shards).map(|_| mpsc::channel(MESSAGES_MAX)).map(|(to, from)| (to, Inbox(from))).unzip();
        (Self { owners: owners.into(), boots: Arc::new(Boots::new()) }, inboxes)
    }

    /// Learns what an unknown content is. The first bytes that this brings are kept.
    ///
    /// # Errors
    /// The origin refused or cannot be used, or the content cannot be kept.
    pub async fn describe(
        &self,
        key: FetchKey,
        target: Target,
        wanted: Wanted,
    ) -> Result<Arc<Content>, FetchError> {
        let (reply, answer) = oneshot::channel();
        self.send(key.id, Message::Describe { key, target, wanted, reply })?;
        answer.await.unwrap_or(Err(FetchError::Busy))
    }

    /// Asks for blocks.
    ///
    /// # Errors
    /// The owner's queue is full.
    pub fn bring(
        &self,
        content: &Arc<Content>,
        key: FetchKey,
        target: Target,
        reading: Reading,
    ) -> Result<Subscription, FetchError> {
        let run = reading.run.take(DEMAND_BLOCKS_MAX);
        let (to, arrivals) = mpsc::channel(run.len() as usize);
        let demand = Demand { reading: Reading { run, ..reading }, arrivals: to };
        self.send(key.id, Message::Bring { content: content.clone(), key, target, demand })?;
        Ok(Subscription::new(run, arrivals))
    }

    /// Brings the rest of a content, behind all readers. Does nothing when queues are full.
    pub fn prefetch(&self, content: &Arc<Content>, key: FetchKey, target: Target) {
        let _ = self.send(key.id, Message::Prefetch { content: content.clone(), key, target });
    }

    /// Takes all of a content from other nodes, and from no origin, until all is here or nothing more comes: then what is
    /// returned resolves. Who drops it wants no more.
    ///
    /// # Errors
    /// The owner's queue is full.
    pub(crate) fn preheat(
        &self,
        content: &Arc<Content>,
        key: FetchKey,
        target: Target,
    ) -> Result<oneshot::Receiver<()>, FetchError> {
        let (ended, waiting) = oneshot::channel();
        self.send(key.id, Message::Preheat { content: content.clone(), key, target, ended })?;
        Ok(waiting)
    }

    /// Has all nodes of the cluster do that with a content; see [`Cluster::spread`](darter_transport::cluster::Cluster).
    ///
    /// # Errors
    /// The owner's queue is full.
    pub(crate) fn spread(&self, ask: Spread, to: mpsc::Sender<Spreading>) -> Result<(), FetchError> {
        self.send(ask.content, Message::Spread { ask, to })
    }

    /// Boots are recorded and followed from now on: there is a cluster.
    pub(crate) fn follow_boots(&self) {
        self.boots.turn_on();
    }

    /// A client reads a part of a content that is not all here: that may be a boot.
    pub(crate) fn begin_boot(&self, content: &Arc<Content>, key: FetchKey, target: &Target) {
        if self.boots.begin(key, content.layout(), Instant::now()) {
            let (content, target, boots) = (content.clone(), target.clone(), self.boots.clone());
            if self.send(key.id, Message::Boot { content, key, target, boots }).is_err() {
                self.boots.give_up(&key);
            }
        }
    }

    /// A client reads this run, with which `target` goes to the origin: if it boots, what follows may be brought ahead.
    /// To be called for each short read, hit or not.
    pub(crate) fn read_lazily(
        &self,
        content: &Arc<Content>,
        key: FetchKey,
        run: BlockRun,
        target: impl FnOnce() -> Target,
    ) {
        if !self.boots.may_be_under_way(&key.id) {
            return;
        }
        let blocks = self.boots.read(&key, run, Instant::now());
        if !blocks.is_empty() {
            let message = Message::Ahead { content: content.clone(), key, target: target(), blocks };
            // Where the queue is full, they come when they are asked for.
            let _ = self.send(key.id, message);
        }
    }

    /// What the owner in the cluster says of a client's claim; `None` where the registry is to be asked.
    pub(crate) async fn prove(&self, id: &ContentId, target: &Target) -> Option<OwnersWord> {
        let (reply, answer) = oneshot::channel();
        self.send(*id, Message::Prove { id: *id, target: target.clone(), reply }).ok()?;
        answer.await.ok()?
    }

    /// A seed says that the bytes of this content are wrong.
    pub(crate) fn purge(&self, key: FetchKey) {
        let _ = self.send(key.id, Message::Purge { key });
    }

    /// The same, without keeping the shards at work.
    pub(crate) fn downgrade(&self) -> WeakFetches {
        let owners = self.owners.iter().map(mpsc::Sender::downgrade).collect();
        WeakFetches { owners, boots: self.boots.clone() }
    }

    fn send(&self, id: ContentId, message: Message) -> Result<(), FetchError> {
        let owner = (id.spread() % self.owners.len() as u64) as usize;
        self.owners[owner].try_send(message).map_err(|_| FetchError::Busy)
    }
}

#[cfg(test)]
mod tests;
