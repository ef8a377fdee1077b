//! What is written is read, from memory and from the disk.

use std::sync::Arc;
use std::time::Duration;

use darter_engine::ring::run_shard;
use darter_engine::store::ReadError;
use darter_engine::{Store, StoreOptions};

use crate::setting::{
    backends, check, drop_page_cache, options, put, put_whole, read_whole, sample, scope, spec,
};

#[test]
fn what_is_written_is_read() {
    check(async |store, _| {
        let bytes = sample(1, 3_000_001);
        let content = put_whole(&store, &bytes).await;
        assert_eq!(read_whole(&store, &content).await.unwrap(), bytes);
        let layout = content.layout();
        let run = layout.covering(&(70_000..400_000)).unwrap();
        let range = layout.bytes(run);
        let part = store.read(&content, scope(), run).await.unwrap().concat();
        assert_eq!(part, bytes[range.start as usize..range.end as usize]);
    });
}

#[test]
fn a_block_that_was_not_written_is_absent() {
    check(async |store, _| {
        let bytes = sample(2, 1 << 20);
        let content = store.create(&spec(&bytes)).unwrap();
        let layout = content.layout();
        put(&store, &content, &bytes, layout.run(3, 6).unwrap()).await.unwrap();
        let whole = layout.whole().unwrap();
        assert!(
            matches!(store.read(&content, scope(), whole).await, Err(ReadError::Absent(block)) if block.number() == 0)
        );
        assert_eq!(store.present_prefix(&content, scope(), whole), None);
        assert_eq!(store.present_prefix(&content, scope(), layout.run(3, 16).unwrap()), layout.run(3, 6));
        assert_eq!(
            store.read(&content, scope(), layout.run(3, 6).unwrap()).await.unwrap().concat().len(),
            3 << 16
        );
    });
}

#[test]
fn a_cold_page_is_read_and_checked() {
    check(async |store, directory| {
        let bytes = sample(3, 2_000_000);
        let content = put_whole(&store, &bytes).await;
        store.flush().await.unwrap();
        drop_page_cache(directory);
        assert_eq!(read_whole(&store, &content).await.unwrap(), bytes);
        assert!(store.stats().cold_reads > 0);
    });
}

#[test]
fn what_is_in_memory_is_lent_and_what_is_not_is_left() {
    check(async |store, directory| {
        const BYTES: u64 = 2_000_000;
        let bytes = sample(3, BYTES as usize);
        let content = put_whole(&store, &bytes).await;
        store.flush().await.unwrap();
        // The hasher lets go of what it has read a moment after its verdict.
        while store.stats().leases > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop_page_cache(directory);
        let mut lent = Vec::new();
        assert!(!store.lend(&content, scope(), 0..BYTES, &mut lent));
        assert!(lent.is_empty() && store.stats().leases == 0, "{lent:?}");
        assert_eq!(read_whole(&store, &content).await.unwrap(), bytes);
        for range in [0..BYTES, 0..1, 65_535..65_537, 300_000..1_900_001, BYTES - 1..BYTES] {
            assert!(store.lend(&content, scope(), range.clone(), &mut lent), "{range:?}");
            assert!(store.stats().leases > 0);
            let joined: Vec<u8> = lent.drain(..).flat_map(|slice| slice.as_ref().to_vec()).collect();
            assert!(joined == bytes[range.start as usize..range.end as usize], "{range:?}");
        }
        assert_eq!(store.stats().leases, 0);
        store.remove(&content);
        assert!(!store.lend(&content, scope(), 0..1, &mut lent) && lent.is_empty());
    });
}

#[test]
fn all_who_wait_for_a_buffer_have_one_in_the_end() {
    const READERS: u32 = 200;
    for backend in backends() {
        let directory = tempfile::tempdir().unwrap();
        let few = StoreOptions { pool_blocks: 16, ..options(directory.path(), backend) };
        let store = Store::open(&few).unwrap();
        run_shard(backend, async {
            let bytes = sample(4, 1 << 20);
            let content = put_whole(&store, &bytes).await;
            store.flush().await.unwrap();
            drop_page_cache(directory.path());
            let bytes = Arc::new(bytes);
            let mut readers = tokio::task::JoinSet::new();
            for reader in 0..READERS {
                let (store, content, bytes) = (store.clone(), content.clone(), bytes.clone());
                readers.spawn_local(async move {
                    let run = content.layout().run(reader % 16, reader % 16 + 1).unwrap();
                    let block = store.read_one(&content, scope(), run.first()).await.unwrap();
                    // As a slow client has it in hand; the others wait meanwhile.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    let range = content.layout().bytes(run);
                    assert!(block == bytes[range.start as usize..range.end as usize]);
                });
            }
            let all = tokio::time::timeout(Duration::from_secs(60), readers.join_all());
            all.await.expect("nobody is passed over for ever");
            assert_eq!(store.pool().in_use(), 0);
        })
        .unwrap();
        store.close();
    }
}

#[test]
fn a_long_cold_read_is_read_in_parts_and_loses_nothing() {
    for backend in backends() {
        let directory = tempfile::tempdir().unwrap();
        let wide = StoreOptions {
            capacity_bytes: Some(128 << 20),
            // A quarter of them may be lent at once.
            pool_blocks: 8192,
            ..options(directory.path(), backend)
        };
        let store = Store::open(&wide).unwrap();
        run_shard(backend, async {
            let bytes = sample(62, 70 << 20);
            let content = put_whole(&store, &bytes).await;
            store.flush().await.unwrap();
            drop_page_cache(directory.path());
            assert!(read_whole(&store, &content).await.unwrap() == bytes);
            assert_eq!(content.held_pieces(), content.layout().piece_count());
            assert!(store.stats().cold_reads > 0);
        })
        .unwrap();
        store.close();
    }
}
