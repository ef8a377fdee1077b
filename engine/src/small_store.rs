//! A small store on a real directory, for tests of the engine's inside.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::content::ContentSpec;
use crate::content_id::{ContentId, Naming, RegistryScope};
use crate::layout::Layout;
use crate::ring::Backend;
use crate::store::{Store, StoreOptions};

/// Where its contents come from.
pub(crate) const REGISTRY: &str = "https://registry.example:443";

/// Who reads them.
pub(crate) fn scope() -> RegistryScope {
    RegistryScope::of_origin(REGISTRY)
}

/// Of 16 MiB.
pub(crate) fn open(directory: &Path, backend: Backend, pool_blocks: usize) -> Store {
    let options = StoreOptions {
        data_dir: directory.to_owned(),
        capacity_bytes: Some(16 << 20),
        backend,
        pool_blocks,
        ttl: None,
    };
    Store::open(&options).unwrap()
}

/// Bytes that tell their place and their content.
pub(crate) fn sample(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// The content that these bytes are.
pub(crate) fn spec(bytes: &[u8]) -> ContentSpec {
    ContentSpec {
        id: ContentId::from_bytes(Sha256::digest(bytes).into()),
        naming: Naming::Digest,
        layout: Layout::new(bytes.len() as u64).unwrap(),
        registry: REGISTRY.into(),
        media_type: String::new(),
        validator: String::new(),
    }
}
