//! What the daemon lends to this crate: its way to the origin.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use darter_engine::{BlockIndex, BlockRun, Content, ContentId, RegistryScope, Scope};
use tokio::sync::mpsc;

use crate::wire::{Describe, Errand, Preheat, Proof, Prove, Refused};

/// A future of one shard.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What a seed does for others at the origin. One of each shard, called on it.
pub trait Origin: 'static {
    /// What is it? Makes the content in the store. With `forwarded` this node is the owner and asks the origin; without it
    /// owns only a span, and asks the content's owner first. Who only wants blocks has not said whether the name is a digest:
    /// then `by_digest` is true, and the errand knows better.
    fn describe(&self, ask: Describe) -> LocalBoxFuture<'_, Result<Arc<Content>, Refused>>;

    /// Brings these blocks from the origin. Each is given as soon as it is whole; once the store holds it, that is told
    /// with [`Books::stored`](super::Books::stored). What finds no room in the store is given all the same. The future
    /// ends when all have come, or will not. It is not asked twice for a block at a time.
    fn bring(
        &self,
        bring: Bring,
        blocks: mpsc::Sender<(BlockIndex, Bytes)>,
    ) -> LocalBoxFuture<'_, Result<(), Refused>>;

    /// May the client of this errand read this? It is not asked twice at a time for the same content and errand.
    fn prove(&self, ask: Prove) -> LocalBoxFuture<'_, Result<Proof, Refused>>;

    /// A seed says that this node shall have all of a content. The content, made in the store if it was not there, and what
    /// takes all of it from other nodes, and from no origin: that ends when all is held, or nothing more comes, and leaves
    /// off behind the span at which it is when it is dropped.
    #[expect(clippy::result_large_err, reason = "a refusal is made once, and sent")]
    fn preheat(&self, told: &Preheat) -> Result<(Arc<Content>, LocalBoxFuture<'_, ()>), Refused>;

    /// A seed says that the bytes of this content are wrong: nothing of it is to be kept or served.
    fn purged(&self, content: ContentId, scope: Scope);
}

/// What is to be brought.
#[derive(Clone, Debug)]
pub struct Bring {
    /// The content.
    pub content: Arc<Content>,
    /// Whose bytes.
    pub registry: RegistryScope,
    /// Which blocks: at most [`RUN_BLOCKS_MAX`](crate::wire::RUN_BLOCKS_MAX), all of one span.
    pub run: BlockRun,
    /// The request of the client for whom they are brought.
    pub errand: Errand,
}
