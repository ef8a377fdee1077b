//! A registry with one blob, that counts what it gives.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use darter_engine::{BlockIndex, ContentId, Layout, RegistryScope, Scope};

use crate::span::{Plot, SpanIndex};

pub(super) const REGISTRY: &str = "https://registry.test:443";

/// The registry, with one blob.
pub(super) struct Registry {
    pub(super) bytes: Bytes,
    /// The digest of these bytes: else every store would drop them when it has them all.
    id: ContentId,
    pub(super) given_bytes: AtomicU64,
}

impl Registry {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        let mut data = vec![0; bytes];
        blake3::Hasher::new().update(b"a blob").finalize_xof().fill(&mut data);
        let id = digest(&SHA256, &data);
        let id = ContentId::from_bytes(id.as_ref().try_into().expect("32 bytes"));
        Arc::new(Self { bytes: data.into(), id, given_bytes: AtomicU64::new(0) })
    }

    pub(super) fn layout(&self) -> Layout {
        Layout::new(self.bytes.len() as u64).unwrap()
    }

    pub(super) fn id(&self) -> ContentId {
        self.id
    }

    pub(super) fn plot(&self) -> Plot {
        let registry = RegistryScope::of_origin(REGISTRY);
        Plot { content: self.id(), scope: Scope::Registry(registry), span: SpanIndex::FIRST }
    }

    pub(super) fn of(&self, block: BlockIndex) -> Bytes {
        let range = self.layout().bytes(self.layout().run(block.number(), block.number() + 1).unwrap());
        self.bytes.slice(range.start as usize..range.end as usize)
    }

    pub(super) fn given(&self) -> u64 {
        self.given_bytes.load(Ordering::SeqCst)
    }
}
