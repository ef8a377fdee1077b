//! To find a hit allocates nothing: by name, with its place in the layout, and whether it is here. Allocations are
//! counted, so that this does not depend on how quick the machine is; how long it takes is in `benches/engine.rs`.
//!
//! Alone in its process, because the allocator counts for all of it. The store's own threads may allocate meanwhile: the
//! least of some tries is what the look-up needs.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use darter_engine::ring::{Backend, run_shard};
use darter_engine::{
    BLOCK_BYTES, ContentId, ContentSpec, HashedBlock, Layout, Naming, RegistryScope, Store, StoreOptions,
};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const REGISTRY: &str = "https://registry.example:443";
const BLOCKS: u32 = 16;
const LOOK_UPS: u64 = 1000;
const TRIES: usize = 20;

#[test]
fn a_look_up_allocates_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let store = Store::open(&StoreOptions {
        data_dir: directory.path().to_owned(),
        capacity_bytes: Some(64 << 20),
        backend: Backend::Pool,
        pool_blocks: 64,
        ttl: None,
    });
    let store = store.expect("a store can be made");
    let (id, scope) = (ContentId::of_name("hit"), RegistryScope::of_origin(REGISTRY));
    run_shard(Backend::Pool, fill(&store, id)).expect("a runtime can be made");

    let look_up = || {
        let content = store.find(black_box(&id), scope).expect("it is here");
        let wanted = 100_000..900_000;
        let run = content.layout().covering(&wanted).expect("it is inside");
        let present = store.present_prefix(&content, scope, run).expect("it is here");
        assert_eq!(present.len(), run.len());
        black_box(present);
    };
    // What a thread sets up for itself at its first look-up.
    look_up();
    let _profiler = dhat::Profiler::builder().testing().build();
    let allocations = |work: &dyn Fn()| {
        let before = dhat::HeapStats::get().total_blocks;
        (0..LOOK_UPS).for_each(|_| work());
        dhat::HeapStats::get().total_blocks - before
    };
    let least = (0..TRIES).map(|_| allocations(&look_up)).min();
    let counted = allocations(&|| drop(black_box(Box::new(0))));
    store.close();
    assert!(counted >= LOOK_UPS, "the allocator does not count: {counted}");
    assert_eq!(least, Some(0), "allocations of {LOOK_UPS} look-ups");
}

async fn fill(store: &Store, id: ContentId) {
    let content = store.create(&ContentSpec {
        id,
        naming: Naming::Url,
        layout: Layout::new(u64::from(BLOCKS * BLOCK_BYTES)).expect("it is not too long"),
        registry: REGISTRY.into(),
        media_type: "application/octet-stream".into(),
        validator: String::new(),
    });
    let content = content.expect("there is a place");
    let run = content.layout().whole().expect("it is not empty");
    let reservation = store.reserve(&content, run).await.map(Arc::new).expect("there is room");
    let blocks = run.blocks().map(|_| HashedBlock::new(Bytes::from(vec![7; BLOCK_BYTES as usize]))).collect();
    store.write(&reservation, run.first(), blocks, REGISTRY).await.expect("the disk takes it");
}
