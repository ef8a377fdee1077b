//! The store as its users see it: what is written is read, survives a restart, gives way, and never lies.
//! Every case runs with both I/O backends.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use darter_engine::ring::{Backend, run_shard};
use darter_engine::store::{ReadError, Reservation, Verified, WriteError};
use darter_engine::{
    BLOCK_BYTES, BlockRun, Content, ContentId, ContentSpec, Layout, Naming, RegistryScope, Store,
    StoreOptions, Verification,
};
use sha2::{Digest, Sha256};

const REGISTRY: &str = "https://registry.example:443";
const CAPACITY: u64 = 16 << 20;

fn scope() -> RegistryScope {
    RegistryScope::of_origin(REGISTRY)
}

fn backends() -> Vec<Backend> {
    match Backend::probe() {
        Ok(()) => vec![Backend::Ring, Backend::Pool],
        Err(reason) => {
            eprintln!("SKIPPED: the ring's half of this test: {reason}");
            vec![Backend::Pool]
        }
    }
}

fn options(directory: &Path, backend: Backend) -> StoreOptions {
    StoreOptions {
        data_dir: directory.to_owned(),
        capacity_bytes: Some(CAPACITY),
        backend,
        pool_blocks: 256,
        ttl: None,
    }
}

/// Runs one case per backend in a directory of its own.
fn check(case: impl AsyncFn(Store, &Path)) {
    for backend in backends() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&options(directory.path(), backend)).unwrap();
        run_shard(backend, case(store.clone(), directory.path())).unwrap();
        store.close();
    }
}

/// Bytes that tell their place and their content.
fn sample(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

fn spec(bytes: &[u8]) -> ContentSpec {
    ContentSpec {
        id: ContentId::from_bytes(Sha256::digest(bytes).into()),
        naming: Naming::Digest,
        layout: Layout::new(bytes.len() as u64).unwrap(),
        registry: REGISTRY.into(),
        media_type: "application/octet-stream".into(),
        validator: String::new(),
    }
}

fn blocks_of(bytes: &[u8], layout: Layout, run: BlockRun) -> Vec<Bytes> {
    let range = layout.bytes(run);
    bytes[range.start as usize..range.end as usize]
        .chunks(BLOCK_BYTES as usize)
        .map(Bytes::copy_from_slice)
        .collect()
}

/// The keeper is niced, and on a busy machine makes room later than a fetch would wait for it.
async fn reserve(store: &Store, content: &Arc<Content>, run: BlockRun) -> Reservation {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match store.reserve(content, run).await {
            Ok(reservation) => return reservation,
            Err(no_room) => assert!(Instant::now() < deadline && !content.is_gone(), "{no_room}"),
        }
    }
}

async fn put(store: &Store, content: &Arc<Content>, bytes: &[u8], run: BlockRun) -> Result<(), WriteError> {
    let reservation = Arc::new(reserve(store, content, run).await);
    store.write(&reservation, run.first(), blocks_of(bytes, content.layout(), run), REGISTRY).await
}

async fn put_whole(store: &Store, bytes: &[u8]) -> Arc<Content> {
    let content = store.create(&spec(bytes)).unwrap();
    let mut rest = content.layout().whole();
    while let Some(run) = rest {
        put(store, &content, bytes, run.take(16)).await.unwrap();
        rest = run.skip(16);
    }
    content
}

async fn read_whole(store: &Store, content: &Content) -> Result<Vec<u8>, ReadError> {
    Ok(store.read(content, scope(), content.layout().whole().unwrap()).await?.concat())
}

async fn verdict(store: &Store, content: &Arc<Content>) -> Verification {
    loop {
        let changed = content.changed();
        store.advance(content);
        match content.verification() {
            Verification::Pending { stalled: false, .. } => changed.await,
            settled => return settled,
        }
    }
}

fn found(store: &Store, bytes: &[u8]) -> Option<Arc<Content>> {
    store.find(&spec(bytes).id, scope())
}

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

/// Takes the slabs' clean pages out of memory; mapped pages stay where a reader touched them.
fn drop_page_cache(directory: &Path) {
    for entry in std::fs::read_dir(directory.join("store")).unwrap() {
        let file = std::fs::File::open(entry.unwrap().path()).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}

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

#[test]
fn a_changed_byte_on_disk_is_never_served() {
    check(async |store, directory| {
        let bytes = sample(6, 1 << 20);
        let content = put_whole(&store, &bytes).await;
        store.flush().await.unwrap();
        // Past the second within which a check is not repeated.
        tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
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

fn cut_slab(directory: &Path, bytes: u64) {
    OpenOptions::new().write(true).open(directory.join("store/slab-00000")).unwrap().set_len(bytes).unwrap();
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
        let blocks = blocks_of(&bytes, content.layout(), whole);
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
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
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

const OTHER: &str = "https://other.example:443";

/// Passed, with nothing kept.
async fn fed_whole(store: &Store, bytes: &[u8]) -> Arc<Content> {
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

#[test]
fn a_removed_content_stays_hidden_whoever_still_writes_to_it() {
    check(async |store, _| {
        let bytes = sample(50, 5 << 16);
        let content = fed_whole(&store, &bytes).await;
        let run = content.layout().run(0, 1).unwrap();
        let reservation = Arc::new(store.reserve(&content, run).await.unwrap());
        store.remove(&content);
        let blocks = blocks_of(&bytes, content.layout(), run);
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
        let parts = blocks_of(&bytes, layout, layout.whole().unwrap());
        store.write(&reservation, layout.block(0).unwrap(), parts[..1].to_vec(), REGISTRY).await.unwrap();
        assert_eq!(content.verification(), Verification::Passed, "those are the bytes that were proved");
        let wrong = vec![Bytes::from(vec![0x66; 1 << 16])];
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
fn a_flush_of_a_closed_store_ends() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&options(directory.path(), Backend::Pool)).unwrap();
    store.close();
    run_shard(Backend::Pool, async { assert!(store.flush().await.is_err()) }).unwrap();
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
fn unused_content_expires() {
    let directory = tempfile::tempdir().unwrap();
    let ttl = Some(std::time::Duration::ZERO);
    let store = Store::open(&StoreOptions { ttl, ..options(directory.path(), Backend::Pool) }).unwrap();
    let bytes = sample(15, 1 << 18);
    run_shard(Backend::Pool, async {
        drop(put_whole(&store, &bytes).await);
        // The sweep comes every ten seconds.
        for _ in 0..600 {
            if found(&store, &bytes).is_none() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("still there after a minute");
    })
    .unwrap();
    store.close();
}
