//! What a digest proves, and who may read what it has not proved.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_engine::ring::{Backend, run_shard};
use darter_engine::store::{ReadError, WriteError};
use darter_engine::{ContentSpec, Layout, RegistryScope, Store, Verification};

use crate::setting::{
    OTHER, REGISTRY, blocks_of, check, fed_whole, found, hashed, options, put, read_whole, sample, scope,
    spec, verdict,
};

#[test]
fn wrong_bytes_for_a_digest_are_purged() {
    check(async |store, _| {
        let bytes = sample(11, 1 << 20);
        let mut wrong = bytes.clone();
        wrong[77_777] ^= 1;
        let content = store.create(&spec(&bytes)).unwrap();
        put(&store, &content, &wrong, content.layout().whole().unwrap()).await.unwrap();
        assert_eq!(verdict(&store, &content).await, Verification::Wrong);
        while found(&store, &bytes).is_some() {
            content.changed().await;
        }
        assert!(matches!(read_whole(&store, &content).await, Err(ReadError::Absent(_))));
        assert!(
            store.reserve(&content, content.layout().whole().unwrap()).await.is_err(),
            "nothing is kept for it"
        );
    });
}

#[test]
fn unverified_bytes_are_found_under_their_registry_only() {
    check(async |store, _| {
        let bytes = sample(12, 1 << 20);
        let elsewhere = RegistryScope::of_origin("https://other.example:443");
        let content = store.create(&spec(&bytes)).unwrap();
        let layout = content.layout();
        put(&store, &content, &bytes, layout.run(0, 15).unwrap()).await.unwrap();
        assert!(found(&store, &bytes).is_some() && store.find(&spec(&bytes).id, elsewhere).is_none());
        put(&store, &content, &bytes, layout.run(15, 16).unwrap()).await.unwrap();
        assert_eq!(verdict(&store, &content).await, Verification::Passed);
        while store.find(&spec(&bytes).id, elsewhere).is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn bytes_from_the_network_carry_the_digest_where_nothing_is_kept() {
    check(async |store, _| {
        let bytes = sample(13, 5 << 16);
        let content = store.create(&spec(&bytes)).unwrap();
        let whole = content.layout().whole().unwrap();
        for (block, part) in whole.blocks().zip(blocks_of(&bytes, content.layout(), whole)) {
            store.feed(&content, block, part);
        }
        assert_eq!(verdict(&store, &content).await, Verification::Passed);
        assert_eq!(store.stats().used_bytes, 0);
    });
}

#[test]
fn a_removed_content_stays_hidden_whoever_still_writes_to_it() {
    check(async |store, _| {
        let bytes = sample(50, 5 << 16);
        let content = fed_whole(&store, &bytes).await;
        let run = content.layout().run(0, 1).unwrap();
        let reservation = Arc::new(store.reserve(&content, run).await.unwrap());
        store.remove(&content);
        let blocks = hashed(blocks_of(&bytes, content.layout(), run));
        let late = store.write(&reservation, run.first(), blocks, REGISTRY).await;
        assert!(matches!(late, Err(WriteError::Gone)));
        drop(reservation);
        let again = store.create(&spec(&bytes)).unwrap();
        assert!(!again.is_gone());
        store.reserve(&again, run).await.unwrap();
    });
}

#[test]
fn when_a_verdict_falls_the_content_belongs_to_the_registry_of_its_newest_bytes() {
    check(async |store, _| {
        let bytes = sample(51, 5 << 16);
        let content = fed_whole(&store, &bytes).await;
        let layout = content.layout();
        let reservation = Arc::new(store.reserve(&content, layout.whole().unwrap()).await.unwrap());
        let parts = hashed(blocks_of(&bytes, layout, layout.whole().unwrap()));
        store.write(&reservation, layout.block(0).unwrap(), parts[..1].to_vec(), REGISTRY).await.unwrap();
        assert_eq!(content.verification(), Verification::Passed, "those are the bytes that were proved");
        let wrong = hashed([Bytes::from(vec![0x66; 1 << 16])]);
        store.write(&reservation, layout.block(1).unwrap(), wrong.clone(), REGISTRY).await.unwrap();
        let refused = store.write(&reservation, layout.block(2).unwrap(), wrong, OTHER).await;
        assert!(matches!(refused, Err(WriteError::OtherRegistry)));
        // Whoever got hold of it while it was verified reads nothing of it under the other registry.
        let other = RegistryScope::of_origin(OTHER);
        let run = layout.run(0, 1).unwrap();
        assert!(store.read(&content, scope(), run).await.is_ok());
        assert!(matches!(store.read(&content, other, run).await, Err(ReadError::Absent(_))));
        assert!(!store.has(&content, other, run.first()));
    });
}

#[test]
fn an_empty_answer_proves_no_digest() {
    let directory = tempfile::tempdir().unwrap();
    let real = sample(52, 1 << 20);
    let store = Store::open(&options(directory.path(), Backend::Pool)).unwrap();
    run_shard(Backend::Pool, async {
        let lie = ContentSpec { layout: Layout::new(0).unwrap(), registry: OTHER.into(), ..spec(&real) };
        let content = store.create(&lie).unwrap();
        assert_eq!(content.verification(), Verification::Wrong);
        store.set_pinned(&content, true);
        store.flush().await.unwrap();
    })
    .unwrap();
    store.close();
    drop(store);
    let store = Store::open(&options(directory.path(), Backend::Pool)).unwrap();
    assert!(found(&store, &real).is_none());
    store.close();
}

#[test]
fn who_waits_for_the_digest_of_a_dropped_content_is_told() {
    check(async |store, _| {
        let bytes = sample(61, 5 << 16);
        let content = store.create(&spec(&bytes)).unwrap();
        store.remove(&content);
        let whole = content.layout().whole().unwrap();
        for (block, part) in whole.blocks().zip(blocks_of(&bytes, content.layout(), whole)) {
            store.feed(&content, block, part);
        }
        assert_eq!(verdict(&store, &content).await, Verification::Passed);
        assert!(found(&store, &bytes).is_none(), "and stays hidden");
    });
}
