//! What gives way when there is no room, and what does not.

use std::time::Duration;

use darter_engine::ring::{Backend, run_shard};
use darter_engine::{Store, StoreOptions};

use crate::setting::{
    CAPACITY, check, found, options, put, put_whole, read_whole, reserve, sample, scope, spec,
};

#[test]
fn a_working_set_above_capacity_evicts_and_stays_right() {
    check(async |store, _| {
        let blobs: Vec<Vec<u8>> = (0..12).map(|seed| sample(100 + seed, 3 << 20)).collect();
        for round in 0..2 {
            for bytes in &blobs {
                let content = store.create(&spec(bytes)).unwrap();
                let layout = content.layout();
                for block in layout.whole().unwrap().blocks() {
                    let run = layout.run(block.number(), block.number() + 1).unwrap();
                    if !store.has(&content, scope(), block) {
                        put(&store, &content, bytes, run).await.unwrap();
                    }
                    let range = layout.bytes(run);
                    let seen = store.read(&content, scope(), run).await.unwrap().concat();
                    assert!(seen == bytes[range.start as usize..range.end as usize], "round {round}");
                }
            }
        }
        let stats = store.stats();
        assert!(stats.evicted_pieces > 60, "{stats:?}");
        assert!(stats.used_bytes <= stats.capacity_bytes);
    });
}

#[test]
fn pinned_and_leased_pieces_stay() {
    check(async |store, _| {
        let pinned = sample(7, 2 << 20);
        let content = put_whole(&store, &pinned).await;
        store.set_pinned(&content, true);
        let leased = sample(8, 1 << 20);
        let held = put_whole(&store, &leased).await;
        let slices = store.read(&held, scope(), held.layout().whole().unwrap()).await.unwrap();
        for seed in 20..40 {
            put_whole(&store, &sample(seed, 2 << 20)).await;
        }
        assert_eq!(read_whole(&store, &content).await.unwrap(), pinned);
        assert_eq!(slices.concat(), leased);
    });
}

#[test]
fn without_room_a_reservation_is_refused_and_nothing_is_held() {
    check(async |store, _| {
        let big = spec(&sample(9, CAPACITY as usize));
        let content = store.create(&big).unwrap();
        let whole = content.layout().whole().unwrap();
        let all = store.reserve(&content, whole).await.unwrap();
        let other = store.create(&spec(&sample(10, 100))).unwrap();
        assert!(store.reserve(&other, other.layout().whole().unwrap()).await.is_err());
        drop(all);
        reserve(&store, &other, other.layout().whole().unwrap()).await;
        assert_eq!(store.stats().leases, 0);
    });
}

#[test]
fn when_the_table_is_full_the_oldest_content_gives_way() {
    check(async |store, _| {
        for seed in 0..200u8 {
            let bytes = sample(seed, 10);
            put_whole(&store, &bytes).await;
            assert_eq!(read_whole(&store, &found(&store, &bytes).unwrap()).await.unwrap(), bytes);
        }
        assert!(store.stats().contents <= 64);
    });
}

#[test]
fn leased_garbage_does_not_stop_eviction() {
    let directory = tempfile::tempdir().unwrap();
    let wide = StoreOptions {
        capacity_bytes: Some(128 << 20),
        pool_blocks: 2048,
        ..options(directory.path(), Backend::Pool)
    };
    let store = Store::open(&wide).unwrap();
    run_shard(Backend::Pool, async {
        let slow = put_whole(&store, &sample(60, 20 << 20)).await;
        let held = store.read(&slow, scope(), slow.layout().whole().unwrap()).await.unwrap();
        assert!(store.stats().leases >= 80, "the mapping was lent, not copied");
        store.remove(&slow);
        for seed in 0..30u8 {
            put_whole(&store, &sample(100 + seed, 6 << 20)).await;
        }
        drop(held);
    })
    .unwrap();
    store.close();
}

#[test]
fn unused_content_expires() {
    let directory = tempfile::tempdir().unwrap();
    let ttl = Some(Duration::ZERO);
    let store = Store::open(&StoreOptions { ttl, ..options(directory.path(), Backend::Pool) }).unwrap();
    let bytes = sample(15, 1 << 18);
    run_shard(Backend::Pool, async {
        drop(put_whole(&store, &bytes).await);
        // The sweep comes every ten seconds.
        for _ in 0..600 {
            if found(&store, &bytes).is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("still there after a minute");
    })
    .unwrap();
    store.close();
}
