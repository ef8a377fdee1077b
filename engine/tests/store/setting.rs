//! A small store, contents for it, and what is done with them again and again.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use darter_engine::ring::{Backend, run_shard};
use darter_engine::store::{ReadError, Reservation, WriteError};
use darter_engine::{
    BLOCK_BYTES, BlockRun, Content, ContentId, ContentSpec, HashedBlock, Layout, Naming, RegistryScope,
    Store, StoreOptions, Verification,
};
use sha2::{Digest, Sha256};

pub(crate) const REGISTRY: &str = "https://registry.example:443";

pub(crate) const CAPACITY: u64 = 16 << 20;

pub(crate) const OTHER: &str = "https://other.example:443";

pub(crate) fn scope() -> RegistryScope {
    RegistryScope::of_origin(REGISTRY)
}

pub(crate) fn backends() -> Vec<Backend> {
    match Backend::probe() {
        Ok(()) => vec![Backend::Ring, Backend::Pool],
        Err(reason) => {
            eprintln!("SKIPPED: the ring's half of this test: {reason}");
            vec![Backend::Pool]
        }
    }
}

pub(crate) fn options(directory: &Path, backend: Backend) -> StoreOptions {
    StoreOptions {
        data_dir: directory.to_owned(),
        capacity_bytes: Some(CAPACITY),
        backend,
        pool_blocks: 256,
        ttl: None,
    }
}

/// Runs one case per backend in a directory of its own.
pub(crate) fn check(case: impl AsyncFn(Store, &Path)) {
    for backend in backends() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&options(directory.path(), backend)).unwrap();
        run_shard(backend, case(store.clone(), directory.path())).unwrap();
        store.close();
    }
}

/// Bytes that tell their place and their content.
pub(crate) fn sample(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

pub(crate) fn spec(bytes: &[u8]) -> ContentSpec {
    ContentSpec {
        id: ContentId::from_bytes(Sha256::digest(bytes).into()),
        naming: Naming::Digest,
        layout: Layout::new(bytes.len() as u64).unwrap(),
        registry: REGISTRY.into(),
        media_type: "application/octet-stream".into(),
        validator: String::new(),
    }
}

pub(crate) fn blocks_of(bytes: &[u8], layout: Layout, run: BlockRun) -> Vec<Bytes> {
    let range = layout.bytes(run);
    bytes[range.start as usize..range.end as usize]
        .chunks(BLOCK_BYTES as usize)
        .map(Bytes::copy_from_slice)
        .collect()
}

/// The keeper is niced, and on a busy machine makes room later than a fetch would wait for it.
pub(crate) async fn reserve(store: &Store, content: &Arc<Content>, run: BlockRun) -> Reservation {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match store.reserve(content, run).await {
            Ok(reservation) => return reservation,
            Err(no_room) => assert!(Instant::now() < deadline && !content.is_gone(), "{no_room}"),
        }
    }
}

pub(crate) fn hashed(blocks: impl IntoIterator<Item = Bytes>) -> Vec<HashedBlock> {
    blocks.into_iter().map(HashedBlock::new).collect()
}

pub(crate) async fn put(
    store: &Store,
    content: &Arc<Content>,
    bytes: &[u8],
    run: BlockRun,
) -> Result<(), WriteError> {
    let reservation = Arc::new(reserve(store, content, run).await);
    store.write(&reservation, run.first(), hashed(blocks_of(bytes, content.layout(), run)), REGISTRY).await
}

pub(crate) async fn put_whole(store: &Store, bytes: &[u8]) -> Arc<Content> {
    let content = store.create(&spec(bytes)).unwrap();
    let mut rest = content.layout().whole();
    while let Some(run) = rest {
        put(store, &content, bytes, run.take(16)).await.unwrap();
        rest = run.skip(16);
    }
    content
}

pub(crate) async fn read_whole(store: &Store, content: &Content) -> Result<Vec<u8>, ReadError> {
    Ok(store.read(content, scope(), content.layout().whole().unwrap()).await?.concat())
}

pub(crate) async fn verdict(store: &Store, content: &Arc<Content>) -> Verification {
    loop {
        let changed = content.changed();
        store.advance(content);
        match content.verification() {
            Verification::Pending { stalled: false, .. } => changed.await,
            settled => return settled,
        }
    }
}

pub(crate) fn found(store: &Store, bytes: &[u8]) -> Option<Arc<Content>> {
    store.find(&spec(bytes).id, scope())
}

/// Passed, with nothing kept.
pub(crate) async fn fed_whole(store: &Store, bytes: &[u8]) -> Arc<Content> {
    let content = store.create(&spec(bytes)).unwrap();
    let whole = content.layout().whole().unwrap();
    for (block, part) in whole.blocks().zip(blocks_of(bytes, content.layout(), whole)) {
        store.feed(&content, block, part);
    }
    assert_eq!(verdict(store, &content).await, Verification::Passed);
    while !content.serves(RegistryScope::of_origin(OTHER)) {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    content
}

/// Takes the slabs' clean pages out of memory; mapped pages stay where a reader touched them.
pub(crate) fn drop_page_cache(directory: &Path) {
    for entry in std::fs::read_dir(directory.join("store")).unwrap() {
        let file = std::fs::File::open(entry.unwrap().path()).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}

pub(crate) fn cut_slab(directory: &Path, bytes: u64) {
    OpenOptions::new().write(true).open(directory.join("store/slab-00000")).unwrap().set_len(bytes).unwrap();
}
