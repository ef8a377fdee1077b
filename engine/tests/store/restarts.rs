//! What a start finds, after a clean stop and without one.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use darter_engine::ring::{Backend, run_shard};
use darter_engine::{ContentSpec, Naming, Store, Verification};

use crate::setting::{
    CAPACITY, backends, found, options, put, put_whole, read_whole, sample, scope, spec, verdict,
};

#[test]
fn a_restart_finds_what_was_durable() {
    for backend in backends() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = sample(4, 1_500_000);
        let store = Store::open(&options(directory.path(), backend)).unwrap();
        run_shard(backend, async {
            let content = put_whole(&store, &bytes).await;
            assert_eq!(verdict(&store, &content).await, Verification::Passed);
            store.set_pinned(&content, true);
            store.flush().await.unwrap();
            let stat = store.stat(&content);
            assert_eq!((stat.durable_pieces, stat.pieces), (6, 6));
            let (mut survey, mut seen) = (store.survey(&content), Vec::new());
            assert!(survey.step(4, |piece, blocks| seen.push((piece, blocks))), "two are left");
            assert!(!survey.step(4, |piece, blocks| seen.push((piece, blocks))));
            assert_eq!(seen, [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4), (5, 3)]);
            let stepped = survey.end();
            assert_eq!((stepped.held_bytes, stepped.durable_pieces), (bytes.len() as u64, 6));
        })
        .unwrap();
        store.close();
        drop(store);
        let store = Store::open(&options(directory.path(), backend)).unwrap();
        assert!(store.clean_start());
        let content = found(&store, &bytes).unwrap();
        assert_eq!(content.verification(), Verification::Passed);
        assert!(content.pinned());
        assert_eq!(content.media_type(), "application/octet-stream");
        run_shard(backend, async { assert_eq!(read_whole(&store, &content).await.unwrap(), bytes) }).unwrap();
        store.close();
    }
}

#[test]
fn a_piece_grows_over_several_commits_and_restarts() {
    for backend in backends() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = sample(5, 4 << 16);
        for block in 0..4 {
            let store = Store::open(&options(directory.path(), backend)).unwrap();
            run_shard(backend, async {
                let content = store.create(&spec(&bytes)).unwrap();
                assert_eq!(content.held_pieces(), u32::from(block > 0));
                put(&store, &content, &bytes, content.layout().run(block, block + 1).unwrap()).await.unwrap();
                store.flush().await.unwrap();
                let run = content.layout().run(0, block + 1).unwrap();
                assert_eq!(
                    store.read(&content, scope(), run).await.unwrap().concat(),
                    bytes[..(block as usize + 1) << 16]
                );
            })
            .unwrap();
            store.close();
        }
    }
}

/// A store that is left as a crash leaves it: nothing is closed, and another one opens a copy of its files.
#[test]
fn what_was_flushed_is_found_without_a_clean_stop() {
    for backend in backends() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = sample(63, 3 << 20);
        let store = Store::open(&options(directory.path(), backend)).unwrap();
        let after_crash = tempfile::tempdir().unwrap();
        run_shard(backend, async {
            let content = put_whole(&store, &bytes).await;
            store.flush().await.unwrap();
            assert_eq!(store.stat(&content).durable_pieces, 12);
            std::fs::create_dir(after_crash.path().join("store")).unwrap();
            for entry in std::fs::read_dir(directory.path().join("store")).unwrap() {
                let from = entry.unwrap().path();
                std::fs::copy(&from, after_crash.path().join("store").join(from.file_name().unwrap()))
                    .unwrap();
            }
        })
        .unwrap();
        store.close();
        let store = Store::open(&options(after_crash.path(), backend)).unwrap();
        assert!(!store.clean_start());
        let content = found(&store, &bytes).unwrap();
        run_shard(backend, async { assert!(read_whole(&store, &content).await.unwrap() == bytes) }).unwrap();
        store.close();
    }
}

#[test]
fn a_removed_content_is_gone_after_a_restart_too() {
    for backend in backends() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = sample(14, 1 << 20);
        let store = Store::open(&options(directory.path(), backend)).unwrap();
        run_shard(backend, async {
            let content = put_whole(&store, &bytes).await;
            store.flush().await.unwrap();
            store.remove(&content);
            assert!(found(&store, &bytes).is_none());
            store.flush().await.unwrap();
        })
        .unwrap();
        store.close();
        drop(store);
        let store = Store::open(&options(directory.path(), backend)).unwrap();
        assert!(found(&store, &bytes).is_none());
        assert_eq!((store.stats().used_bytes, store.stats().contents), (0, 0));
        store.close();
    }
}

#[test]
fn who_takes_over_a_record_is_found_after_a_restart() {
    // Named by URL, so that no verdict writes the new content's record for another reason.
    let by_url = |bytes: &[u8]| ContentSpec { naming: Naming::Url, ..spec(bytes) };
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&options(directory.path(), Backend::Pool)).unwrap();
    run_shard(Backend::Pool, async {
        for seed in 0..100u8 {
            let bytes = sample(seed, 10);
            let content = store.create(&by_url(&bytes)).unwrap();
            put(&store, &content, &bytes, content.layout().whole().unwrap()).await.unwrap();
        }
        store.flush().await.unwrap();
        for seed in 85..100 {
            let stat = store.stat(&found(&store, &sample(seed, 10)).unwrap());
            assert_eq!(stat.durable_pieces, 1, "{seed}");
        }
    })
    .unwrap();
    store.close();
    drop(store);
    let store = Store::open(&options(directory.path(), Backend::Pool)).unwrap();
    let lost: Vec<u8> = (85..100)
        .filter(|seed| found(&store, &sample(*seed, 10)).is_none_or(|content| content.held_pieces() == 0))
        .collect();
    assert_eq!(lost, [0u8; 0]);
    store.close();
}

#[test]
fn pieces_whose_content_record_was_lost_are_adopted_by_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Store::open(&options(directory.path(), Backend::Pool)).unwrap();
    let (first, second) = (sample(53, 1 << 20), sample(54, 1 << 20));
    let store = open();
    run_shard(Backend::Pool, async {
        // All but the last block: no verdict, so its record is written once.
        let content = store.create(&spec(&first)).unwrap();
        put(&store, &content, &first, content.layout().run(0, 15).unwrap()).await.unwrap();
        store.flush().await.unwrap();
    })
    .unwrap();
    store.close();
    drop(store);
    // One bad sector in the table of contents: the only record of the first content.
    let records = OpenOptions::new().write(true).open(directory.path().join("store/records")).unwrap();
    records.write_all_at(&[0xff; 512], 16_384).unwrap();
    let store = open();
    assert!(found(&store, &first).is_none());
    run_shard(Backend::Pool, async {
        let content = store.create(&spec(&second)).unwrap();
        put(&store, &content, &second, content.layout().run(0, 1).unwrap()).await.unwrap();
        store.flush().await.unwrap();
    })
    .unwrap();
    store.close();
    drop(store);
    let store = open();
    let content = found(&store, &second).unwrap();
    assert_eq!(content.held_pieces(), 1, "the first content's pieces are not the second's");
    store.close();
}

#[test]
fn no_record_can_panic_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Store::open(&options(directory.path(), Backend::Pool)).unwrap();
    open().close();
    let path = directory.path().join("store/records");
    let records = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut store_id = [0; 8];
    records.read_exact_at(&mut store_id, 32).unwrap();
    for (tenure, length_bytes) in [(u64::MAX, 10u64), (7, u64::MAX), (8, 1 << 47), (9, CAPACITY + 1)] {
        let mut record = [0u8; 512];
        record[..4].copy_from_slice(b"DCNT");
        record[8] = 1;
        record[16..24].copy_from_slice(&store_id);
        record[24..32].copy_from_slice(&tenure.to_le_bytes());
        record[64..72].copy_from_slice(&length_bytes.to_le_bytes());
        record[72] = 1;
        let sum = crc32fast::hash(&record[..508]);
        record[508..].copy_from_slice(&sum.to_le_bytes());
        records.write_all_at(&record, 16_384).unwrap();
        let store = open();
        assert_eq!(store.stats().contents, 0, "{tenure} {length_bytes}");
        store.close();
    }
}

#[test]
fn a_flush_of_a_closed_store_ends() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&options(directory.path(), Backend::Pool)).unwrap();
    store.close();
    run_shard(Backend::Pool, async { assert!(store.flush().await.is_err()) }).unwrap();
}
