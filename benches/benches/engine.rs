//! What the engine takes for one thing at a time, on one core, inside the runtime of a shard.
//!
//! Store and data stay in memory unless a name says cold. Names are `group/backend/case`; throughput is of the bytes
//! that a reader gets or a fetch brings, so a run of blocks around 11.5 KB counts as 11.5 KB.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::async_executor::AsyncExecutor;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use darter_engine::format::{ContentRecord, SlotRecord};
use darter_engine::ring::{Backend, run_shard};
use darter_engine::{
    BLOCK_BYTES, BlockRun, Content, ContentId, ContentSpec, HashedBlock, Layout, Naming, RegistryScope,
    Store, StoreOptions, Verification,
};
use sha2::Digest;

const REGISTRY: &str = "https://registry.example:443";
/// Median of nydusd 2.1.1, its prefetch, and nydusd 2.3 and later.
const RANGES: [(&str, u64); 3] = [("11.5 KB", 11_500), ("128 KiB", 128 << 10), ("1 MiB", 1 << 20)];
const CONTENT_BYTES: u64 = 64 << 20;
const MIB_BLOCKS: u32 = (1 << 20) / BLOCK_BYTES;

criterion_group! {
    name = engine;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_secs(1));
    targets = sums, records, hits, cold_reads, writes
}
criterion_main!(engine);

/// The checks that every block goes through, on one core.
fn sums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sum");
    for (name, bytes) in [("64 KiB", BLOCK_BYTES as usize), ("1 MiB", 1 << 20)] {
        let data = sample(bytes);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("crc32", name), |bench| bench.iter(|| crc32fast::hash(&data)));
        group.bench_function(BenchmarkId::new("BLAKE3", name), |bench| bench.iter(|| blake3::hash(&data)));
        group.bench_function(BenchmarkId::new("SHA-256", name), |bench| {
            bench.iter(|| sha2::Sha256::digest(&data));
        });
    }
    group.finish();
}

/// A store of 1 TB has four million slots; its start decodes a record for each.
fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record");
    let slot = SlotRecord {
        index: 7,
        sequence: 9,
        tenure: 3,
        content: 2,
        id: ContentId::of_name("sample"),
        piece: 1,
        generation: 4,
        held: true,
        presence: 0b1111,
        crc32: [1, 2, 3, 4],
        blake3: [[5; 32]; 4],
    };
    let slot_bytes = slot.encode(1);
    let content = ContentRecord {
        index: 7,
        sequence: 9,
        tenure: 3,
        id: ContentId::of_name("sample"),
        length_bytes: CONTENT_BYTES,
        live: true,
        verified: true,
        pinned: false,
        naming: Naming::Digest,
        created_at_s: 1_790_000_000,
        used_at_s: 1_790_000_000,
        expires_at_s: 0,
        passed_at_s: 1_790_000_000,
        scope: RegistryScope::of_origin(REGISTRY),
        registry: REGISTRY.into(),
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
        validator: String::new(),
    };
    let content_bytes = content.encode(1);
    group.bench_function("slot/encode", |bench| bench.iter(|| black_box(&slot).encode(1)));
    group.bench_function("slot/decode", |bench| {
        bench.iter(|| SlotRecord::decode(black_box(&slot_bytes), 7, 1).expect("it was encoded"));
    });
    group.bench_function("content/encode", |bench| bench.iter(|| black_box(&content).encode(1)));
    group.bench_function("content/decode", |bench| {
        bench.iter(|| ContentRecord::decode(black_box(&content_bytes), 7, 1).expect("it was encoded"));
    });
    group.finish();
}

/// What a hit costs before its bytes go to the socket: found by name, seen to be here, and lent from the mapping.
/// Every block was checked within the last second, as in a busy boot; see `sum/crc32` for the others.
fn hits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hit");
    for backend in backends() {
        let bench = StoreBench::new(backend, 4 * CONTENT_BYTES);
        let content = bench.put();
        let (id, scope) = (content.id(), RegistryScope::of_origin(REGISTRY));
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new(backend.to_string(), "find"), |b| {
            b.iter(|| bench.store.find(black_box(&id), scope).expect("it is here"));
        });
        for (name, bytes) in RANGES {
            group.throughput(Throughput::Bytes(bytes));
            group.bench_function(BenchmarkId::new(backend.to_string(), name), |b| {
                let mut random = fastrand::Rng::with_seed(1);
                let store = &bench.store;
                b.to_async(Shard(backend)).iter(|| {
                    let start = random.u64(..CONTENT_BYTES - bytes);
                    async move {
                        let content = store.find(&id, scope).expect("it is here");
                        let run = content.layout().covering(&(start..start + bytes)).expect("it is inside");
                        let run = store.present_prefix(&content, scope, run).expect("it is here");
                        black_box(store.read(&content, scope, run).await.expect("it is readable"))
                    }
                });
            });
        }
    }
    group.finish();
}

/// Reads of what is on disk only, one at a time: the disk's latency more than the engine's work.
fn cold_reads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cold read");
    group.sample_size(10);
    let scope = RegistryScope::of_origin(REGISTRY);
    for backend in backends() {
        let bench = StoreBench::new(backend, 4 * CONTENT_BYTES);
        let content = bench.put();
        for (name, bytes) in RANGES {
            group.throughput(Throughput::Bytes(bytes));
            group.bench_function(BenchmarkId::new(backend.to_string(), name), |b| {
                b.to_async(Shard(backend)).iter_custom(|iterations| {
                    let (bench, content) = (&bench, &content);
                    async move {
                        let mut random = fastrand::Rng::with_seed(iterations);
                        let mut taken = Duration::ZERO;
                        for _ in 0..iterations {
                            bench.drop_page_cache();
                            let start = random.u64(..CONTENT_BYTES - bytes);
                            let run =
                                content.layout().covering(&(start..start + bytes)).expect("it is inside");
                            let started = Instant::now();
                            black_box(bench.store.read(content, scope, run).await.expect("it is readable"));
                            taken += started.elapsed();
                        }
                        taken
                    }
                });
            });
        }
        assert_eq!(bench.store.stats().hot_reads, 0, "what was to be cold was in memory");
    }
    group.finish();
}

/// What a fetch hands over: slots reserved, blocks summed and hashed (`sum/…`), written, published. Into free slots;
/// and into a full store, where for each piece that comes an older one must have gone, with its record.
fn writes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("write");
    group.sample_size(10);
    for backend in backends() {
        for (room, capacity) in [("free", 4 * CONTENT_BYTES), ("full", CONTENT_BYTES)] {
            for (name, blocks) in [("64 KiB", 1), ("1 MiB", MIB_BLOCKS)] {
                let bench = StoreBench::new(backend, capacity);
                let block = Bytes::from(sample(BLOCK_BYTES as usize));
                group.throughput(Throughput::Bytes(u64::from(blocks * BLOCK_BYTES)));
                group.bench_function(BenchmarkId::new(format!("{backend}/{room}"), name), |b| {
                    b.to_async(Shard(backend)).iter_custom(|iterations| {
                        let (bench, block) = (&bench, &block);
                        async move { bench.write(iterations, blocks, block, room == "free").await }
                    });
                });
            }
        }
    }
    group.finish();
}

/// Runs a routine as a shard would.
struct Shard(Backend);

impl AsyncExecutor for Shard {
    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        run_shard(self.0, future).expect("a runtime can be made")
    }
}

/// A store in a directory of its own; `TMPDIR` says on which disk.
struct StoreBench {
    backend: Backend,
    store: Store,
    directory: tempfile::TempDir,
}

impl StoreBench {
    fn new(backend: Backend, capacity_bytes: u64) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let store = Store::open(&StoreOptions {
            data_dir: directory.path().to_owned(),
            capacity_bytes: Some(capacity_bytes),
            backend,
            pool_blocks: 256,
            ttl: None,
        });
        Self { backend, store: store.expect("a store can be made"), directory }
    }

    /// A content that is whole, proved and durable.
    fn put(&self) -> Arc<Content> {
        let bytes = Bytes::from(sample(CONTENT_BYTES as usize));
        let id = ContentId::from_bytes(sha2::Sha256::digest(&bytes).into());
        let content = self.store.create(&spec(id, Naming::Digest)).expect("there is a place");
        let written = async {
            let mut rest = content.layout().whole();
            while let Some(run) = rest {
                let range = content.layout().bytes(run.take(MIB_BLOCKS));
                let range = range.start as usize..range.end as usize;
                let step = BLOCK_BYTES as usize;
                let blocks = range.step_by(step).map(|at| bytes.slice(at..at + step)).collect();
                write(&self.store, &content, run.take(MIB_BLOCKS), blocks).await;
                rest = run.skip(MIB_BLOCKS);
            }
            while content.verification() != Verification::Passed {
                self.store.advance(&content);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.store.flush().await.expect("the disk takes it");
        };
        run_shard(self.backend, written).expect("a runtime can be made");
        content
    }

    /// Takes as long for so many writes of so many blocks. Contents are named by URL, so that no digest runs beside.
    async fn write(&self, writes: u64, blocks: u32, block: &Bytes, make_room: bool) -> Duration {
        let mut taken = Duration::ZERO;
        let mut left = writes;
        while left > 0 {
            let name = format!("{}", fastrand::u64(..));
            let content =
                self.store.create(&spec(ContentId::of_name(&name), Naming::Url)).expect("there is a place");
            let mut rest = content.layout().whole();
            while let Some(run) = rest
                && left > 0
            {
                let parts = vec![block.clone(); blocks as usize];
                let started = Instant::now();
                write(&self.store, &content, run.take(blocks), parts).await;
                taken += started.elapsed();
                rest = run.skip(blocks);
                left -= 1;
            }
            if make_room {
                self.store.remove(&content);
                while self.store.stats().used_bytes > 0 {
                    self.store.flush().await.expect("the disk takes it");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
        taken
    }

    /// Takes the slabs' pages out of memory. They must be clean, and no read may have mapped them.
    fn drop_page_cache(&self) {
        use rustix::fs::{Advice, fadvise};
        for entry in std::fs::read_dir(self.directory.path().join("store")).expect("it is our directory") {
            let file =
                std::fs::File::open(entry.expect("it is our directory").path()).expect("it is our file");
            fadvise(&file, 0, None, Advice::DontNeed).expect("it is a file");
        }
    }
}

impl Drop for StoreBench {
    fn drop(&mut self) {
        self.store.close();
    }
}

/// Reserves, writes and lets go. A full store may refuse for a moment, while the keeper makes room.
async fn write(store: &Store, content: &Arc<Content>, run: BlockRun, blocks: Vec<Bytes>) {
    let reservation = loop {
        if let Ok(reservation) = store.reserve(content, run).await {
            break Arc::new(reservation);
        }
    };
    // Hashing is a part of what a write costs.
    let blocks = blocks.into_iter().map(HashedBlock::new).collect();
    store.write(&reservation, run.first(), blocks, REGISTRY).await.expect("the disk takes it");
}

fn backends() -> Vec<Backend> {
    match Backend::probe() {
        Ok(()) => vec![Backend::Ring, Backend::Pool],
        Err(reason) => {
            eprintln!("SKIPPED: the ring's half: {reason}");
            vec![Backend::Pool]
        }
    }
}

fn spec(id: ContentId, naming: Naming) -> ContentSpec {
    ContentSpec {
        id,
        naming,
        layout: Layout::new(CONTENT_BYTES).expect("it is not too long"),
        registry: REGISTRY.into(),
        media_type: "application/octet-stream".into(),
        validator: String::new(),
    }
}

/// Bytes that do not compress.
fn sample(bytes: usize) -> Vec<u8> {
    let mut sample = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut sample);
    sample
}
