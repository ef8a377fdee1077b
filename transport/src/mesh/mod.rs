//! Who this shard is connected to.

mod unreachable;

use std::net::SocketAddr;
use std::rc::Rc;

pub use self::unreachable::Unreachable;
use crate::exchange::Exchange;
use crate::lane::Endpoint;
use crate::node::{Node, NodeId, ZONE_BYTES_MAX};
use crate::session::Session;
use crate::wire::{Message, Text};

/// What a node says of itself in `Hello`. Its role is that of its certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Introduction {
    /// Where others reach it. With an unspecified IP others take the one that they see.
    pub address: SocketAddr,
    /// Its zone, or empty.
    pub zone: Text<ZONE_BYTES_MAX>,
    /// Slots of its store.
    pub capacity_slots: u32,
    /// Its shards.
    pub shards: u8,
    /// Name and version of the software.
    pub software: Text<63>,
}

/// What a node does with what others say. Called on the shard, and not to block it.
pub trait Service: 'static {
    /// A session has begun. Not called for one that is [apart](Session::is_apart).
    fn up(&self, session: &Rc<Session>);

    /// It has ended; called once for each [`up`](Self::up).
    fn down(&self, session: &Rc<Session>);

    /// On its control stream: `Seeds`, `Holds`, `Complain`, `Purge` or `Leaving`.
    fn told(&self, session: &Rc<Session>, message: Message);

    /// A request: the first message of a stream that the other side has opened. Spawns what it needs to answer.
    fn asked(&self, session: &Rc<Session>, request: Message, exchange: Exchange);
}

/// The connections of one shard.
#[derive(Debug)]
pub struct Mesh {}

impl Mesh {
    /// Begins to accept connections. Needs the runtime of the shard, with `spawn_local`.
    #[must_use]
    pub fn start(endpoint: Endpoint, introduction: Introduction, service: Rc<dyn Service>) -> Rc<Self> {
        let _ = (endpoint, introduction, service);
        todo!()
    }

    /// A session with this node: one that stands, or a new one. Whoever asks for it meanwhile waits for the same attempt;
    /// a node that could not be reached is left alone for a while.
    ///
    /// # Errors
    /// See [`Unreachable`].
    pub async fn session(self: &Rc<Self>, node: &Node) -> Result<Rc<Session>, Unreachable> {
        let _ = node;
        todo!()
    }

    /// A session with whoever is there: for joining, when no id is known yet.
    ///
    /// # Errors
    /// As [`session`](Self::session).
    pub async fn greet(self: &Rc<Self>, address: SocketAddr) -> Result<Rc<Session>, Unreachable> {
        let _ = address;
        todo!()
    }

    /// A connection of its own for the membership, between seeds. It is in neither [`known`](Self::known) nor
    /// [`sessions`](Self::sessions), on both sides; only `Gossip` is asked on it. The caller keeps it: it is closed when
    /// the last `Rc` of it is dropped.
    ///
    /// # Errors
    /// As [`session`](Self::session), without leaving the node alone afterwards.
    pub async fn apart(self: &Rc<Self>, address: SocketAddr) -> Result<Rc<Session>, Unreachable> {
        let _ = address;
        todo!()
    }

    /// A session with this node that stands.
    #[must_use]
    pub fn known(&self, id: &NodeId) -> Option<Rc<Session>> {
        let _ = id;
        todo!()
    }

    /// All sessions that stand; of one node there may be several.
    #[must_use]
    pub fn sessions(&self) -> Vec<Rc<Session>> {
        todo!()
    }

    /// Tells all that this node goes, answers what is being asked, and closes. What is asked meanwhile is refused.
    pub async fn leave(&self) {
        todo!()
    }
}
