//! What readers ask a fetch for, and what comes back.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_engine::{BlockIndex, BlockRun, Content, ContentId, Naming, RegistryScope};
use darter_transport::cluster::Spreading;
use darter_transport::wire::Spread;
use tokio::sync::{mpsc, oneshot};

use super::boots::Boots;
use super::look::Movement;
use crate::access::OwnersWord;
use crate::front::range::Wanted;
use crate::origin::{OriginError, Target, Verdict};

/// One content under one registry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FetchKey {
    /// Name of the content.
    pub id: ContentId,
    /// Registry that its bytes come from.
    pub scope: RegistryScope,
    /// What the name is the hash of.
    pub naming: Naming,
}

/// Why a content or a block does not come. Verdicts are told to those who asked alike, the rest to all who wait.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    /// The origin refused: pass its answer on.
    #[error("the registry answered {}", .0.status)]
    Verdict(Arc<Verdict>),
    /// The origin cannot be reached or used: 502.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// Above the store's capacity, or without a length: stream it past the store.
    #[error("the content cannot be kept")]
    Unkeepable,
    /// Queues are full: 503.
    #[error("too much is being fetched already")]
    Busy,
    /// What was asked for lies beyond the end: 416.
    #[error("the content ends at {length_bytes} bytes")]
    Unsatisfiable {
        /// Its length, as the origin told it.
        length_bytes: u64,
    },
    /// The origin's bytes were not those of the digest a short time ago: 502.
    #[error("the registry delivers bytes that are not those of the digest")]
    WrongDigest,
}

/// A block that was waited for.
#[derive(Clone, Debug)]
pub enum Arrival {
    /// Its bytes, from the network.
    Bytes(BlockIndex, Bytes),
    /// Read it from the store.
    InStore(BlockIndex),
    /// It does not come.
    Failed(BlockIndex, FetchError),
}

/// Who waits for a block, and with whose credentials it may be asked for.
#[derive(Clone, Debug)]
pub(super) struct Waiter {
    pub(super) arrivals: mpsc::Sender<Arrival>,
    pub(super) target: Rc<Target>,
}

impl Waiter {
    /// The channel has room for every block of its demand, so telling never waits.
    pub(super) fn tell(&self, arrival: Arrival) {
        let _ = self.arrivals.try_send(arrival);
    }

    pub(super) fn is_there(&self) -> bool {
        !self.arrivals.is_closed()
    }
}

/// A message to the shard that owns a content's fetch.
#[derive(Debug)]
pub(crate) enum Message {
    /// What is this content? Its answer brings the first bytes with it.
    Describe {
        key: FetchKey,
        target: Target,
        wanted: Wanted,
        reply: oneshot::Sender<Result<Arc<Content>, FetchError>>,
    },
    /// Bring these blocks.
    Bring { content: Arc<Content>, key: FetchKey, target: Target, demand: Demand },
    /// Bring what is still absent, behind all readers.
    Prefetch { content: Arc<Content>, key: FetchKey, target: Target },
    /// A client begins to read this lazily: what earlier boots did is to be followed, or else this one is recorded.
    Boot { content: Arc<Content>, key: FetchKey, target: Target, boots: Arc<Boots> },
    /// A boot will want these blocks next, in this order.
    Ahead { content: Arc<Content>, key: FetchKey, target: Target, blocks: Vec<BlockIndex> },
    /// May this client read this, as the owner in the cluster knows it?
    Prove { id: ContentId, target: Target, reply: oneshot::Sender<Option<OwnersWord>> },
    /// Take all of this from other nodes, and from no origin, for as long as `ended` is waited for.
    Preheat { content: Arc<Content>, key: FetchKey, target: Target, ended: oneshot::Sender<()> },
    /// Have all nodes do that.
    Spread { ask: Spread, to: mpsc::Sender<Spreading> },
    /// A seed has found the bytes of this content to be wrong.
    Purge { key: FetchKey },
    /// What is on its way?
    Look { reply: oneshot::Sender<Movement> },
}

/// What one reader waits for, and what will follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reading {
    /// At most [`DEMAND_BLOCKS_MAX`](super::DEMAND_BLOCKS_MAX) of it are taken.
    pub run: BlockRun,
    /// Blocks that the reader will want next: brought too, but nobody waits for them yet.
    pub ahead: Option<BlockRun>,
    /// The reader takes all that follows: then others may give blocks in any order, if these come in this time.
    pub patience: Option<Duration>,
}

/// A reader with its way back.
#[derive(Debug)]
pub(crate) struct Demand {
    pub(crate) reading: Reading,
    pub(crate) arrivals: mpsc::Sender<Arrival>,
}
