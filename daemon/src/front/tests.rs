//! Blobs from a registry through a store, without a socket to a client.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use darter_engine::ring::{Backend, run_shard};
use darter_engine::{ContentId, Naming, RegistryScope, Store, StoreOptions};
use futures_util::{FutureExt, StreamExt};
use http::{HeaderMap, Response, StatusCode};
use tempfile::TempDir;

use super::Made;
use super::body::AnswerBody;
use super::content::{self, ContentRequest, Outcome};
use super::range::Wanted;
use super::reader::{Reader, Sources};
use super::route::Kind;
use super::trouble::Trouble;
use crate::access::{Access, Lasting};
use crate::demo::registry::{Blob, Faults, Registry, RegistryOptions};
use crate::fetch::{Bounds, Copies, FetchKey, Fetches, Owner, Pace, Turns};
use crate::metrics::{Metrics, Source};
use crate::origin::{Origin, Target};
use crate::policy::Policy;

/// Not a multiple of a block.
const BLOB_BYTES: u64 = (2 << 20) + 999;

struct Node {
    sources: Sources,
    metrics: Arc<Metrics>,
    registry: Registry,
    _directory: TempDir,
}

/// Runs a test on a shard of its own, with so many block buffers.
fn with_node(buffers: usize, test: impl AsyncFnOnce(&Node)) {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        data_dir: directory.path().into(),
        capacity_bytes: Some(64 << 20),
        backend: Backend::Pool,
        pool_blocks: buffers,
        ttl: None,
    };
    let store = Store::open(&options).unwrap();
    let registry = Registry::start(RegistryOptions::default()).unwrap();
    let (fetches, mut inboxes) = Fetches::new(1);
    let metrics = Metrics::new("pool");
    let access = Access::new(Lasting { proof: Duration::from_secs(300), grace: Duration::ZERO });
    let origin = Origin::open();
    let sources = Sources {
        store: store.clone(),
        access: access.clone(),
        origin: origin.clone(),
        fetches,
        answers: metrics.of_a_shard(),
        looked_at: false,
    };
    let node = Node { sources, metrics: metrics.clone(), registry, _directory: directory };
    run_shard(Backend::Pool, async {
        let pace = Arc::new(Pace::new(u64::MAX));
        let bounds = Bounds { prefetch_pace: pace, turns: Turns::within(None), copies: Copies::within(None) };
        let owner = Owner::new(store.clone(), access, Policy::open(), metrics, bounds);
        tokio::task::spawn_local(owner.run(inboxes.remove(0)));
        test(&node).await;
    })
    .unwrap();
    store.close();
}

impl Node {
    fn blob(&self, seed: u64) -> (Blob, ContentId) {
        let blob = Blob::synthetic(seed, BLOB_BYTES);
        let digest = self.registry.add_blob("app", blob.clone()).to_string();
        (blob, digest.trim_start_matches("sha256:").parse().unwrap())
    }

    fn target(&self, id: ContentId) -> Target {
        let registry = self.registry.url().parse().unwrap();
        Target::new(registry, &format!("/v2/app/blobs/sha256:{id}"), &HeaderMap::new(), &[]).unwrap()
    }

    async fn made(&self, id: ContentId, range: Option<&str>) -> Result<Made, Trouble> {
        let request = ContentRequest {
            id,
            kind: Kind::Blob,
            target: self.target(id),
            wanted: Wanted::parse(range),
            of_version: None,
            prefetch: false,
        };
        let Outcome::Answer(made) = content::answer(&self.sources, &request).await? else {
            panic!("the store can hold it")
        };
        Ok(made)
    }

    /// The status and all of the body, or the trouble.
    async fn get(&self, id: ContentId, range: &str) -> Result<(StatusCode, Vec<u8>), Trouble> {
        Self::read(self.made(id, Some(range)).await?.answer).await
    }

    async fn read(answer: Response<AnswerBody>) -> Result<(StatusCode, Vec<u8>), Trouble> {
        let status = answer.status();
        let body = match answer.into_body() {
            AnswerBody::Parts(parts) => parts.into_iter().flatten().collect(),
            AnswerBody::Stream { mut parts, .. } => {
                let mut body = Vec::new();
                while let Some(Ok(part)) = parts.next().await {
                    body.extend_from_slice(&part);
                }
                body
            }
        };
        Ok((status, body))
    }
}

fn bytes_of(blob: &Blob) -> Vec<u8> {
    let mut bytes = vec![0; BLOB_BYTES as usize];
    blob.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn every_way_to_ask_for_all_bytes_waits_for_the_digest() {
    for range in ["", "bytes=0-", "bytes=0-99999999", "bytes=-99999999"] {
        with_node(256, async |node| {
            let (_, id) = node.blob(1);
            node.registry.set_faults(Faults { flip_byte_at: Some(100_000), ..Faults::default() });
            if let Ok((_, body)) = node.get(id, range).await {
                assert!((body.len() as u64) < BLOB_BYTES, "wrong bytes went out whole for {range:?}");
            }
        });
    }
}

#[test]
fn body_bytes_are_counted_as_they_are_sent() {
    with_node(256, async |node| {
        let (blob, id) = node.blob(2);
        let (status, body) = node.get(id, "bytes=65530-65539").await.unwrap();
        assert_eq!((status, &body[..]), (StatusCode::PARTIAL_CONTENT, &bytes_of(&blob)[65_530..65_540]));
        let text = node.metrics.text(&node.sources.store, None);
        let counted = |line: &&str| line.starts_with("darter_body_bytes_total");
        let counts: Vec<&str> =
            text.lines().filter(counted).filter_map(|line| line.split(' ').next_back()).collect();
        assert_eq!(counts.iter().map(|count| count.parse::<u64>().unwrap()).sum::<u64>(), 10, "{text}");
    });
}

#[test]
fn a_reader_whose_future_is_dropped_at_every_step_loses_nothing() {
    with_node(32, async |node| {
        let (blob, id) = node.blob(3);
        let key =
            FetchKey { id, scope: RegistryScope::of_origin(&node.registry.url()), naming: Naming::Digest };
        let described =
            node.sources.fetches.describe(key, node.target(id), Wanted::Span { first: 0, last: 9 });
        let content = described.await.unwrap();
        let mut reader = Reader::new(node.sources.clone(), content, key, node.target(id), 0..BLOB_BYTES);
        let body = RefCell::new(Vec::new());
        while reader.left_bytes() > 0 {
            tokio::select! {
                biased;
                part = reader.next() => {
                    body.borrow_mut().extend_from_slice(&part.unwrap().unwrap().bytes);
                }
                () = tokio::task::yield_now() => {}
            }
        }
        assert!(body.into_inner() == bytes_of(&blob));
    });
}

#[test]
fn where_an_answer_came_from_is_known_at_its_end() {
    with_node(128, async |node| {
        let (_, id) = node.blob(7);
        let whole = async || {
            let Made { answer, source, has_asked, came } = node.made(id, None).await.unwrap();
            let came = came.expect("it is longer than its first part");
            assert_eq!(came.source(), source);
            let body = Node::read(answer).await.unwrap().1;
            assert_eq!(body.len() as u64, BLOB_BYTES);
            // Of what is on its way to the store, the next one would find nothing there.
            while node.sources.store.pool().in_use() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            (source, came.source(), has_asked)
        };
        node.get(id, "bytes=0-1000").await.unwrap();
        while node.sources.store.pool().in_use() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // It began with what was here.
        assert_eq!(whole().await, (Source::Cache, Source::Origin, false));
        assert_eq!(whole().await, (Source::Cache, Source::Cache, false));
        node.sources.access.set_lasting(Lasting { proof: Duration::ZERO, grace: Duration::ZERO });
        assert_eq!(whole().await, (Source::Cache, Source::Cache, true), "the registry says who may read");
    });
}

#[test]
fn who_leaves_while_something_is_fetched_had_no_hit() {
    with_node(128, async |node| {
        let (_, id) = node.blob(8);
        node.get(id, "bytes=0-1000").await.unwrap();
        while node.sources.store.pool().in_use() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        node.registry.set_faults(Faults { status: Some(500), ..Faults::default() });
        let Made { answer, source, came, .. } = node.made(id, None).await.unwrap();
        let came = came.expect("there is more");
        assert_eq!((source, came.source()), (Source::Cache, Source::Cache));
        let AnswerBody::Stream { mut parts, .. } = answer.into_body() else { panic!("there is more") };
        parts.next().await.unwrap().unwrap();
        assert!(parts.next().now_or_never().is_none(), "nothing comes");
        drop(parts);
        assert_eq!(came.source(), Source::Origin);
    });
}
