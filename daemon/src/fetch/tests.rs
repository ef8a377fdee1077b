//! An owner and its fetches against an origin whose answers each test writes down.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use darter_engine::ring::Backend;
use darter_engine::{Naming, RegistryScope, Store, StoreOptions};
use http::{HeaderMap, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;
use crate::access::{Access, Lasting};
use crate::metrics::Metrics;
use crate::origin::OriginError;
use crate::policy::Policy;

const BUFFERS: usize = 256;
const BLOCK: u64 = 64 << 10;

type Answer = Response<Full<Bytes>>;

/// What the origin is asked, as its script sees it.
struct Asked {
    path: String,
    credentials: String,
    /// First and last byte.
    range: (usize, usize),
}

/// A store, one owner, and the way to it.
struct Node {
    store: Store,
    fetches: Fetches,
    origin: SocketAddr,
    asked: Rc<RefCell<Vec<String>>>,
    _directory: TempDir,
}

fn blob(length: usize) -> Bytes {
    (0..length).map(|at| (at / 11) as u8).collect::<Vec<_>>().into()
}

fn answer(status: u16, headers: &[(header::HeaderName, String)], body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status.try_into().unwrap();
    for (name, value) in headers {
        answer.headers_mut().insert(name, value.parse().unwrap());
    }
    answer
}

/// The asked part of a blob, said to be of `length` bytes.
fn part(blob: &Bytes, asked: &Asked, length: usize) -> Answer {
    let (first, last) = (asked.range.0, asked.range.1.min(blob.len() - 1));
    let range = format!("bytes {first}-{last}/{length}");
    answer(206, &[(header::CONTENT_RANGE, range)], blob.slice(first..=last))
}

fn with_node<F: Future<Output = ()>>(
    script: impl Fn(&Asked) -> Answer + 'static,
    test: impl FnOnce(Node) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let node = Node::start(script).await;
        let store = node.store.clone();
        test(node).await;
        store.close();
    });
}

impl Node {
    async fn start(script: impl Fn(&Asked) -> Answer + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreOptions {
            data_dir: directory.path().into(),
            capacity_bytes: Some(64 << 20),
            backend: Backend::Pool,
            pool_blocks: BUFFERS,
            ttl: None,
        })
        .unwrap();
        let (fetches, mut inboxes) = Fetches::new(1);
        let pace = Arc::new(Pace::new(u64::MAX));
        let owner = Owner::new(
            store.clone(),
            Access::new(Lasting { proof: Duration::from_secs(300), grace: Duration::ZERO }),
            Policy::open(),
            Metrics::new("pool"),
            Bounds { prefetch_pace: pace, turns: Turns::within(None), copies: Copies::within(None) },
        );
        tokio::task::spawn_local(owner.run(inboxes.remove(0)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = listener.local_addr().unwrap();
        let asked = Rc::new(RefCell::new(Vec::new()));
        tokio::task::spawn_local(serve(listener, Rc::new(script), asked.clone()));
        Self { store, fetches, origin, asked, _directory: directory }
    }

    fn key(&self, blob: &[u8]) -> FetchKey {
        let scope = RegistryScope::of_origin(&format!("http://{}", self.origin));
        FetchKey { id: ContentId::from_bytes(Sha256::digest(blob).into()), scope, naming: Naming::Digest }
    }

    fn target(&self, credentials: &str) -> Target {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, credentials.parse().unwrap());
        let registry = format!("http://{}", self.origin).parse().unwrap();
        Target::new(registry, "/v2/a/blobs/x", &headers, &[]).unwrap()
    }

    async fn describe(&self, blob: &[u8], wanted: Wanted) -> Result<Arc<Content>, FetchError> {
        self.fetches.describe(self.key(blob), self.target("good"), wanted).await
    }

    /// The arrival of one block, demanded with those credentials.
    async fn bring(&self, blob: &[u8], content: &Arc<Content>, block: u32, credentials: &str) -> Arrival {
        let run = content.layout().run(block, block + 1).unwrap();
        let target = self.target(credentials);
        let reading = Reading { run, ahead: None, patience: None };
        let mut subscription = self.fetches.bring(content, self.key(blob), target, reading).unwrap();
        subscription.block(run.first()).await
    }

    fn requests(&self) -> usize {
        self.asked.borrow().len()
    }
}

async fn serve(
    listener: tokio::net::TcpListener,
    script: Rc<impl Fn(&Asked) -> Answer + 'static>,
    log: Rc<RefCell<Vec<String>>>,
) {
    while let Ok((socket, _)) = listener.accept().await {
        let (script, log) = (script.clone(), log.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let text = |name| request.headers().get(name).map_or("", |value| value.to_str().unwrap());
            let (first, last) =
                text(header::RANGE).strip_prefix("bytes=").and_then(|range| range.split_once('-')).unwrap();
            let asked = Asked {
                path: request.uri().path().into(),
                credentials: text(header::AUTHORIZATION).into(),
                range: (first.parse().unwrap(), last.parse().unwrap()),
            };
            log.borrow_mut().push(asked.path.clone());
            let answer = script(&asked);
            async move {
                // So that readers meet.
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok::<_, Infallible>(answer)
            }
        });
        tokio::task::spawn_local(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
    }
}

fn status_of<T: std::fmt::Debug>(refused: Result<T, FetchError>) -> u16 {
    match refused {
        Err(FetchError::Verdict(verdict)) => verdict.status.as_u16(),
        other => panic!("a verdict was expected, not {other:?}"),
    }
}

#[test]
fn a_refusal_is_told_to_the_reader_that_it_is_about_and_to_nobody_else() {
    let blob = blob(200 * BLOCK as usize);
    let bytes = blob.clone();
    let script = move |asked: &Asked| match asked.credentials.as_str() {
        "good" => part(&bytes, asked, bytes.len()),
        _ => answer(401, &[], Bytes::new()),
    };
    with_node(script, async move |node| {
        let first = Wanted::Span { first: 0, last: 9 };
        let bad = node.fetches.describe(node.key(&blob), node.target("bad"), first);
        let (bad, good) = tokio::join!(bad, node.describe(&blob, first));
        assert_eq!(status_of(bad), 401);
        let content = good.expect("its credentials are good");
        let (bad, good) =
            tokio::join!(node.bring(&blob, &content, 150, "bad"), node.bring(&blob, &content, 150, "good"));
        assert!(matches!(bad, Arrival::Failed(_, FetchError::Verdict(_))), "{bad:?}");
        assert!(matches!(good, Arrival::Bytes(..)), "{good:?}");
    });
}

#[test]
fn a_bare_416_makes_no_content() {
    let unsatisfied = |_: &Asked| answer(416, &[(header::CONTENT_RANGE, "bytes */100".into())], Bytes::new());
    with_node(unsatisfied, async |node| {
        let beyond = node.describe(b"x", Wanted::From { first: 1 << 20 }).await;
        assert!(matches!(beyond, Err(FetchError::Unsatisfiable { length_bytes: 100 })), "{beyond:?}");
        let within = node.describe(b"x", Wanted::Whole).await;
        assert!(matches!(within, Err(FetchError::Origin(OriginError::Unusable { .. }))), "{within:?}");
        assert!(node.store.contents().is_empty());
    });
}

#[test]
fn only_the_empty_content_has_no_bytes() {
    with_node(
        |_| answer(200, &[], Bytes::new()),
        async |node| {
            let some = node.describe(b"x", Wanted::Whole).await;
            assert!(matches!(some, Err(FetchError::Origin(OriginError::Unusable { .. }))), "{some:?}");
            assert_eq!(node.describe(b"", Wanted::Whole).await.unwrap().layout().length_bytes(), 0);
        },
    );
}

#[test]
fn a_wrong_length_does_not_spoil_a_blob_for_good() {
    let blob = blob(100 * BLOCK as usize);
    let bytes = blob.clone();
    // The first answer tells twice the length.
    let lies = std::cell::Cell::new(true);
    let script = move |asked: &Asked| part(&bytes, asked, bytes.len() * if lies.take() { 2 } else { 1 });
    with_node(script, async move |node| {
        let first = Wanted::Span { first: 0, last: 9 };
        let content = node.describe(&blob, first).await.unwrap();
        assert_eq!(content.layout().length_bytes(), blob.len() as u64 * 2);
        let arrival = node.bring(&blob, &content, 90, "good").await;
        assert!(matches!(arrival, Arrival::Failed(_, FetchError::Origin(_))), "{arrival:?}");
        let again = node.describe(&blob, first).await.unwrap();
        assert_eq!(again.layout().length_bytes(), blob.len() as u64);
    });
}

#[test]
fn wrong_bytes_are_not_asked_for_again_at_once() {
    let wrong = blob(3 * BLOCK as usize);
    let script = move |asked: &Asked| part(&wrong, asked, wrong.len());
    with_node(script, async |node| {
        node.describe(b"other bytes", Wanted::Whole).await.unwrap();
        let refused = async {
            while !matches!(node.describe(b"other bytes", Wanted::Whole).await, Err(FetchError::WrongDigest))
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), refused).await.expect("it is remembered");
        assert!(node.requests() <= 2, "asked {} times", node.requests());
    });
}

#[test]
fn an_origin_that_sends_the_whole_is_asked_once() {
    let blob = blob(160 * BLOCK as usize);
    let bytes = blob.clone();
    let whole = move |_: &Asked| answer(200, &[], bytes.clone());
    with_node(whole, async move |node| {
        let content = node.describe(&blob, Wanted::Span { first: 0, last: 9 }).await.unwrap();
        for block in [159, 10, 80] {
            let arrival = node.bring(&blob, &content, block, "good").await;
            assert!(!matches!(arrival, Arrival::Failed(..)), "{arrival:?}");
        }
        assert_eq!(node.requests(), 1);
    });
}

#[test]
fn a_registry_that_redirects_is_asked_again_only_when_the_address_has_expired() {
    let blob = blob(200 * BLOCK as usize);
    let bytes = blob.clone();
    let uses = std::cell::Cell::new(0);
    let script = move |asked: &Asked| match asked.path.as_str() {
        "/storage" if uses.replace(uses.get() + 1) == 2 => answer(403, &[], Bytes::new()),
        "/storage" => part(&bytes, asked, bytes.len()),
        _ => answer(307, &[(header::LOCATION, "/storage".into())], Bytes::new()),
    };
    with_node(script, async move |node| {
        let content = node.describe(&blob, Wanted::Span { first: 0, last: 9 }).await.unwrap();
        for block in [70, 110, 150] {
            let arrival = node.bring(&blob, &content, block, "good").await;
            assert!(matches!(arrival, Arrival::Bytes(..)), "{arrival:?}");
        }
        let asked = node.asked.borrow();
        let at_registry = asked.iter().filter(|path| *path != "/storage").count();
        assert_eq!(at_registry, 2, "{asked:?}");
    });
}
