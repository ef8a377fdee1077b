//! What others do to slabs beneath the store, which never becomes an answer.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use darter_engine::ring::run_shard;
use darter_engine::store::{ReadError, Verified, WriteError};
use darter_engine::{Content, ContentSpec, Store, Verification};

use crate::setting::{
    CAPACITY, REGISTRY, backends, blocks_of, check, cut_slab, found, hashed, options, put, put_whole,
    read_whole, sample, scope, spec, verdict,
};

#[test]
fn a_changed_byte_on_disk_is_never_served() {
    check(async |store, directory| {
        let bytes = sample(6, 1 << 20);
        let content = put_whole(&store, &bytes).await;
        store.flush().await.unwrap();
        // Past the second within which a check is not repeated.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        let slab =
            OpenOptions::new().read(true).write(true).open(directory.join("store/slab-00000")).unwrap();
        let mut byte = [0];
        slab.read_exact_at(&mut byte, 300_000).unwrap();
        slab.write_all_at(&[byte[0] ^ 1], 300_000).unwrap();
        let error = read_whole(&store, &content).await.unwrap_err();
        assert!(matches!(error, ReadError::Absent(block) if block.number() == 4), "{error}");
        assert_eq!(store.stats().checks_failed, 1);
        // Only that piece is gone, and it can be brought again.
        let layout = content.layout();
        assert_eq!(store.present_prefix(&content, scope(), layout.run(8, 16).unwrap()), layout.run(8, 16));
        put(&store, &content, &bytes, layout.run(4, 8).unwrap()).await.unwrap();
        assert_eq!(read_whole(&store, &content).await.unwrap(), bytes);
    });
}

#[test]
fn a_slab_cut_short_is_given_up_until_the_next_start() {
    for (backend, left_bytes) in backends().into_iter().flat_map(|backend| [(backend, 0), (backend, 600_000)])
    {
        let directory = tempfile::tempdir().unwrap();
        let bytes = sample(63, (1 << 20) + 7);
        let store = Store::open(&options(directory.path(), backend)).unwrap();
        run_shard(backend, async {
            let content = put_whole(&store, &bytes).await;
            let unread = put_whole(&store, &sample(66, 300_000)).await;
            assert_eq!(verdict(&store, &content).await, Verification::Passed);
            store.flush().await.unwrap();
            cut_slab(directory.path(), left_bytes);
            assert!(matches!(read_whole(&store, &content).await, Err(ReadError::Absent(_))));
            assert_eq!(store.stats().slabs_out_of_service, 1);
            // A file that is long again is not believed: nobody knows what was lost.
            cut_slab(directory.path(), CAPACITY);
            let first = content.layout().run(0, 1).unwrap();
            assert!(matches!(store.read(&content, scope(), first).await, Err(ReadError::Absent(_))));
            assert!(store.reserve(&content, first).await.is_err(), "there is no other slab");
            // Pieces that nobody asks for are given up too, and the records told.
            while content.held_pieces() + unread.held_pieces() > 0 {
                store.flush().await.unwrap();
            }
        })
        .unwrap();
        store.close();
        drop(store);
        let store = Store::open(&options(directory.path(), backend)).unwrap();
        run_shard(backend, async {
            assert_eq!(store.stats().slabs_out_of_service, 0);
            let content = found(&store, &bytes).unwrap();
            assert_eq!(content.held_pieces(), 0);
            put(&store, &content, &bytes, content.layout().whole().unwrap()).await.unwrap();
            assert_eq!(read_whole(&store, &content).await.unwrap(), bytes);
        })
        .unwrap();
        store.close();
    }
}

#[test]
fn nothing_makes_a_slab_that_was_cut_short_longer() {
    check(async |store, directory| {
        let bytes = sample(64, 1 << 20);
        let content = store.create(&spec(&bytes)).unwrap();
        let whole = content.layout().whole().unwrap();
        let reservation = Arc::new(store.reserve(&content, whole).await.unwrap());
        cut_slab(directory, 100);
        let blocks = hashed(blocks_of(&bytes, content.layout(), whole));
        let error = store.write(&reservation, whole.first(), blocks, REGISTRY).await.unwrap_err();
        assert!(matches!(error, WriteError::Disk(_)), "{error}");
        // A hole below the end would read as zeros in what clients were lent.
        assert_eq!(std::fs::metadata(directory.join("store/slab-00000")).unwrap().len(), 100);
        assert_eq!(store.present_prefix(&content, scope(), whole), None);
        assert_eq!(store.stats().slabs_out_of_service, 1);
    });
}

#[test]
fn a_slab_that_was_cut_short_is_noticed_without_a_reader() {
    check(async |store, directory| {
        let content = put_whole(&store, &sample(65, 1 << 20)).await;
        cut_slab(directory, 0);
        while content.held_pieces() > 0 {
            store.flush().await.unwrap();
        }
        assert_eq!(store.stats().slabs_out_of_service, 1);
    });
}

#[test]
fn a_verification_finds_what_the_disk_changed_and_drops_no_more() {
    check(async |store, directory| {
        let bytes = sample(60, (1 << 20) + 7);
        let content = put_whole(&store, &bytes).await;
        let verify = async |store: &Store, content: &Arc<Content>| {
            let (store, content) = (store.clone(), content.clone());
            std::thread::spawn(move || store.verify(&content, || true)).join().unwrap()
        };
        let whole = Verified { checked_blocks: 17, digest_right: Some(true), ..Verified::default() };
        assert_eq!(verify(&store, &content).await, whole);
        let slab =
            OpenOptions::new().read(true).write(true).open(directory.join("store/slab-00000")).unwrap();
        let mut byte = [0];
        slab.read_exact_at(&mut byte, 300_000).unwrap();
        slab.write_all_at(&[byte[0] ^ 1], 300_000).unwrap();
        // Its piece is dropped with the first wrong block, so the three behind it are no longer here.
        let damaged = Verified { checked_blocks: 14, bad_blocks: 1, absent_blocks: 3, ..Verified::default() };
        assert_eq!(verify(&store, &content).await, damaged);
        let stat = store.stat(&content);
        assert_eq!((stat.pieces, stat.held_pieces, stat.held_bytes), (5, 4, (3 << 18) + 7));
        let absent = Verified { checked_blocks: 13, absent_blocks: 4, ..Verified::default() };
        assert_eq!(verify(&store, &content).await, absent);
        put(&store, &content, &bytes, content.layout().run(4, 8).unwrap()).await.unwrap();
        assert_eq!(verify(&store, &content).await, whole);
        let stopped = std::thread::scope(|scope| {
            let asked = std::sync::atomic::AtomicU32::new(0);
            let keep_going = move || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 3;
            scope.spawn(|| store.verify(&content, keep_going)).join().unwrap()
        });
        // Asked before each piece of four blocks.
        assert_eq!(stopped, Verified { checked_blocks: 12, stopped: true, ..Verified::default() });
    });
}

#[test]
fn a_verification_removes_a_whole_content_that_is_another() {
    check(async |store, _| {
        let bytes = sample(61, 1 << 17);
        // Right by its checksums, which were made of the bytes that came; wrong by its name.
        let other = ContentSpec { id: spec(&sample(62, 1 << 17)).id, ..spec(&bytes) };
        let content = store.create(&other).unwrap();
        put(&store, &content, &bytes, content.layout().whole().unwrap()).await.unwrap();
        let found = {
            let (store, content) = (store.clone(), content.clone());
            std::thread::spawn(move || store.verify(&content, || true)).join().unwrap()
        };
        // The hasher may have found it first, and then nothing is held any more.
        assert!(found.digest_right == Some(false) || found.absent_blocks > 0, "{found:?}");
        assert!(store.find(&other.id, scope()).is_none());
    });
}
