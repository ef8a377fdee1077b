//! The cluster as the daemon sees it: one [`Shared`] of the node, one [`Cluster`] of each shard.
//!
//! A node without a cluster is its own seed: it owns everything, so that all is [`Pulled::GoToOrigin`].

use std::rc::Rc;
use std::sync::Arc;

use darter_engine::{BlockRun, Content, ContentId, RegistryScope, Scope, Store};
use tokio::sync::mpsc;

use crate::node::Node;
use crate::pull::{Pulled, Wanted};
use crate::wire::{Describe, Description, Proof, Prove, Refused};

/// What the shards of a node share.
#[derive(Debug)]
pub struct Shared {
    own: Node,
}

impl Shared {
    /// Of this node.
    pub fn new(own: Node) -> Arc<Self> {
        Arc::new(Self { own })
    }

    /// This node.
    pub fn own(&self) -> &Node {
        &self.own
    }
}

/// One shard's part in the cluster.
#[derive(Debug)]
pub struct Cluster {
    shared: Arc<Shared>,
    _store: Store,
}

impl Cluster {
    /// Begins to answer and to ask. To be called on the shard's runtime, inside a `LocalSet`.
    pub fn start(shared: Arc<Shared>, store: Store) -> Rc<Self> {
        Rc::new(Self { shared, _store: store })
    }

    /// What the shards share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What is this content? Asked of its owner. `None`: this node is the owner, or the cluster cannot say: ask the
    /// origin.
    pub async fn describe(&self, _ask: Describe) -> Option<Result<Description, Refused>> {
        None
    }

    /// Blocks of a content from the cluster, each checked against its attested digest, in any order. Whoever
    /// drops the receiver wants them no longer; what it does not take stays with its sender. Never refuses: when too much
    /// goes on, [`Pulled::GoToOrigin`] is said of all.
    pub fn pull(&self, wanted: &Wanted) -> mpsc::Receiver<Pulled> {
        let (to, from) = mpsc::channel(1);
        // There is room for one.
        let _ = to.try_send(Pulled::GoToOrigin(wanted.run));
        from
    }

    /// These blocks are in the store now, wherever they came from: others are told. `registry` is whose bytes they are.
    /// Does not wait.
    pub fn stored(&self, _content: &Arc<Content>, _registry: RegistryScope, _run: BlockRun) {}

    /// These blocks were found gone. Does not wait.
    pub fn lost(&self, _content: &Arc<Content>, _registry: RegistryScope, _run: BlockRun) {}

    /// May this client read this? Asked of the owner. `None`: this node is the owner, or the cluster cannot say: ask
    /// the registry.
    pub async fn prove(&self, _ask: Prove) -> Option<Result<Proof, Refused>> {
        None
    }

    /// The bytes of this content are not those of its name, this node has found out: if it is a seed, all nodes drop
    /// them. Does not wait.
    pub fn wrong(&self, _content: ContentId, _scope: Scope) {}

    /// A client reads these blocks: the ones to bring next, because another node's boot went on like that, in their
    /// order. Empty until two of its reads have been as on the list.
    pub fn read(&self, _content: &Arc<Content>, _registry: RegistryScope, _run: BlockRun) -> Vec<BlockRun> {
        Vec::new()
    }

    /// Tells all that this node goes, and closes what is open. What is asked after this is [`Pulled::GoToOrigin`].
    pub async fn leave(&self) {}
}
