//! From a request to its answer.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LOCATION, RANGE,
};
use http::response::Builder;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;

use super::body::{self, Body};
use super::catalog::{Catalog, Manifest};
use super::ledger::{Entry, Kind, Ledger, RequestLine};
use super::pace::Pace;
use super::range::Wanted;
use super::{Blob, Digest, Faults, RegistryOptions};

/// Kept small so that what is counted as sent is nearly what has left; see `Tally::body_bytes`.
const WRITE_BUFFER_BYTES: usize = 64 << 10;

/// Which of the two hosts a listener plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The registry itself.
    Front,
    /// The object storage that it redirects to.
    Storage,
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Service {
    latency: Duration,
    storage: Option<SocketAddr>,
    ledger: Arc<Ledger>,
    catalog: Mutex<Catalog>,
    faults: Mutex<Faults>,
    pace: Option<Mutex<Pace>>,
    connections: AtomicU64,
}

/// Accepts connections until the runtime ends.
pub(super) async fn listen(listener: TcpListener, role: Role, service: Arc<Service>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("the socket is non-blocking");
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Out of descriptors: some come back when connections close.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // Only costs latency when it fails.
        let _ = socket.set_nodelay(true);
        let service = Arc::clone(&service);
        let connection = service.connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let exchange = Exchange { service: Arc::clone(&service), role, connection };
                async move { Ok::<_, Infallible>(exchange.answer(&request).await) }
            });
            // A client that leaves early, or a cut body, is nothing to report.
            let _ = http1::Builder::new()
                .max_buf_size(WRITE_BUFFER_BYTES)
                .serve_connection(TokioIo::new(socket), answer)
                .await;
        });
    }
}

impl Service {
    pub(super) fn new(options: &RegistryOptions, storage: Option<SocketAddr>) -> Self {
        Self {
            latency: options.latency,
            storage,
            ledger: Arc::new(Ledger::new()),
            catalog: Mutex::default(),
            faults: Mutex::new(options.faults),
            pace: options.bandwidth_bytes_per_s.map(|rate| Mutex::new(Pace::new(rate))),
            connections: AtomicU64::new(0),
        }
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) fn catalog(&self) -> MutexGuard<'_, Catalog> {
        lock(&self.catalog)
    }

    pub(super) fn set_faults(&self, faults: Faults) {
        *lock(&self.faults) = faults;
    }

    /// Waits until the bandwidth allows `bytes` more.
    pub(super) async fn paced(&self, bytes: u64) {
        if let Some(pace) = &self.pace {
            let departure = lock(pace).reserve(bytes, Instant::now());
            wait_until(departure).await;
        }
    }
}

/// tokio's timer rounds up to whole milliseconds, a time that has come already included.
async fn wait_until(time: Instant) {
    if time > Instant::now() {
        tokio::time::sleep_until(time.into()).await;
    }
}

/// Values behind these locks are replaced or changed whole, so a panic elsewhere does not make them wrong.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request and who asks.
struct Exchange {
    service: Arc<Service>,
    role: Role,
    connection: u64,
}

impl Exchange {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let at = self.service.ledger.now();
        wait_until(Instant::now() + self.service.latency).await;
        let target = Target::parse(self.role, request.uri().path());
        let verdict = self.decide(&target, request);
        let entry = self.service.ledger.enter(
            match verdict {
                Verdict::Redirect(_) => Kind::Redirect,
                _ => target.kind(request.method()),
            },
            RequestLine {
                at,
                connection: self.connection,
                method: request.method().to_string(),
                target: request.uri().path_and_query().map_or_else(String::new, ToString::to_string),
                range: header(request, RANGE).map(str::to_owned),
                status: verdict.status().as_u16(),
                body_bytes: 0,
            },
        );
        self.carry_out(verdict, request.method() == Method::HEAD, entry)
    }

    fn decide(&self, target: &Target<'_>, request: &Request<Incoming>) -> Verdict {
        let method = request.method();
        if method != Method::GET && method != Method::HEAD {
            return Verdict::Refuse(Refusal::UNSUPPORTED);
        }
        let catalog = self.service.catalog();
        match target {
            Target::Base => Verdict::Welcome,
            Target::Blob { repo, digest } => {
                let Some(repository) = catalog.repository(repo) else {
                    return Verdict::Refuse(Refusal::NAME_UNKNOWN);
                };
                let Ok(digest) = digest.parse::<Digest>() else {
                    return Verdict::Refuse(Refusal::DIGEST_INVALID);
                };
                match (repository.blob(&digest), self.service.storage) {
                    (None, _) => Verdict::Refuse(Refusal::BLOB_UNKNOWN),
                    (Some(_), Some(storage)) => Verdict::Redirect(signed(storage, &digest)),
                    (Some(blob), None) => self.serve_blob(request, blob),
                }
            }
            Target::Manifest { repo, reference } => {
                match catalog.repository(repo).map(|repository| repository.manifest(reference)) {
                    None => Verdict::Refuse(Refusal::NAME_UNKNOWN),
                    Some(None) => Verdict::Refuse(Refusal::MANIFEST_UNKNOWN),
                    Some(Some(manifest)) => Verdict::Manifest(manifest.clone()),
                }
            }
            Target::Stored { digest } => {
                let Some(digest) = digest.parse::<Digest>().ok() else {
                    return Verdict::Refuse(Refusal::BLOB_UNKNOWN);
                };
                if request.headers().contains_key(AUTHORIZATION) {
                    return Verdict::Refuse(Refusal::TWO_AUTHORIZATIONS);
                }
                if request.uri().query() != Some(&*signature(&digest)) {
                    return Verdict::Refuse(Refusal::SIGNATURE);
                }
                match catalog.stored(&digest) {
                    Some(blob) => self.serve_blob(request, blob),
                    None => Verdict::Refuse(Refusal::BLOB_UNKNOWN),
                }
            }
            Target::Unknown => Verdict::Refuse(Refusal::NOT_FOUND),
        }
    }

    fn serve_blob(&self, request: &Request<Incoming>, blob: &Blob) -> Verdict {
        let faults = match *request.method() {
            Method::GET => *lock(&self.service.faults),
            _ => Faults::default(),
        };
        if let Some(status) = faults.status.and_then(|status| StatusCode::from_u16(status).ok()) {
            return Verdict::Refuse(Refusal { status, ..Refusal::FAULT });
        }
        let range = header(request, RANGE).filter(|_| !faults.ignore_range);
        Verdict::Blob { blob: blob.clone(), wanted: Wanted::parse(range, blob.len()), faults }
    }

    fn carry_out(&self, verdict: Verdict, head: bool, entry: Entry) -> Response<Body> {
        let answer = Response::builder().status(verdict.status());
        let in_memory = |answer: Builder, bytes: Bytes| {
            let answer = answer.header(CONTENT_LENGTH, bytes.len());
            (answer, if head { body::empty() } else { body::full(bytes, &entry) })
        };
        let (answer, body) = match verdict {
            Verdict::Welcome => in_memory(answer.header(CONTENT_TYPE, "application/json"), "{}".into()),
            Verdict::Redirect(location) => in_memory(answer.header(LOCATION, location), Bytes::new()),
            Verdict::Refuse(refusal) => {
                in_memory(answer.header(CONTENT_TYPE, "application/json"), refusal.body())
            }
            Verdict::Manifest(manifest) => in_memory(
                content_headers(answer, &manifest.digest).header(CONTENT_TYPE, manifest.media_type),
                manifest.body,
            ),
            Verdict::Blob { blob, wanted: Wanted::Unsatisfiable, .. } => {
                (answer.header(CONTENT_RANGE, format!("bytes */{}", blob.len())), body::empty())
            }
            Verdict::Blob { blob, wanted, faults } => {
                let mut answer = content_headers(answer, &blob.digest())
                    .header(CONTENT_TYPE, "application/octet-stream")
                    .header(ACCEPT_RANGES, "bytes");
                let range = match wanted {
                    Wanted::Part(range) => {
                        let (first, last) = (range.start, range.end - 1);
                        answer = answer.header(CONTENT_RANGE, format!("bytes {first}-{last}/{}", blob.len()));
                        range
                    }
                    _ => 0..blob.len(),
                };
                answer = answer.header(CONTENT_LENGTH, range.end - range.start);
                let service = Arc::clone(&self.service);
                (answer, if head { body::empty() } else { body::part(service, blob, range, faults, entry) })
            }
        };
        answer.body(body).expect("headers are made of digests, numbers and checked media types")
    }
}

/// What a path names.
enum Target<'a> {
    Base,
    Blob { repo: &'a str, digest: &'a str },
    Manifest { repo: &'a str, reference: &'a str },
    Stored { digest: &'a str },
    Unknown,
}

impl<'a> Target<'a> {
    fn parse(role: Role, path: &'a str) -> Self {
        if role == Role::Storage {
            return path.strip_prefix("/storage/").map_or(Self::Unknown, |digest| Self::Stored { digest });
        }
        let Some(rest) = path.strip_prefix("/v2") else { return Self::Unknown };
        if rest.is_empty() || rest == "/" {
            return Self::Base;
        }
        // Repository names have slashes of their own, so the last two segments decide.
        let mut segments = rest.rsplitn(3, '/');
        match (segments.next(), segments.next(), segments.next().and_then(|repo| repo.strip_prefix('/'))) {
            (Some(digest), Some("blobs"), Some(repo)) => Self::Blob { repo, digest },
            (Some(reference), Some("manifests"), Some(repo)) => Self::Manifest { repo, reference },
            _ => Self::Unknown,
        }
    }

    fn kind(&self, method: &Method) -> Kind {
        match self {
            Self::Blob { .. } | Self::Stored { .. } if method == Method::HEAD => Kind::BlobHead,
            Self::Blob { .. } | Self::Stored { .. } => Kind::BlobGet,
            Self::Manifest { .. } => Kind::Manifest,
            Self::Base | Self::Unknown => Kind::Other,
        }
    }
}

/// How a request is answered, before any of it is sent.
enum Verdict {
    Welcome,
    Manifest(Manifest),
    Blob {
        blob: Blob,
        wanted: Wanted,
        faults: Faults,
    },
    /// To this address.
    Redirect(String),
    Refuse(Refusal),
}

impl Verdict {
    fn status(&self) -> StatusCode {
        match self {
            Self::Welcome | Self::Manifest(_) | Self::Blob { wanted: Wanted::Whole, .. } => StatusCode::OK,
            Self::Blob { wanted: Wanted::Part(_), .. } => StatusCode::PARTIAL_CONTENT,
            Self::Blob { wanted: Wanted::Unsatisfiable, .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Redirect(_) => StatusCode::TEMPORARY_REDIRECT,
            Self::Refuse(refusal) => refusal.status,
        }
    }
}

/// An error in the form of the distribution spec, section "Error Codes".
struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: &'static str,
}

impl Refusal {
    const NOT_FOUND: Self = Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", "no such path");
    const NAME_UNKNOWN: Self =
        Self::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "repository name not known to registry");
    const BLOB_UNKNOWN: Self = Self::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "blob unknown to registry");
    const MANIFEST_UNKNOWN: Self =
        Self::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown to registry");
    const DIGEST_INVALID: Self = Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", "not a sha256 digest");
    const UNSUPPORTED: Self =
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "this registry can only be read");
    const TWO_AUTHORIZATIONS: Self = Self::new(
        StatusCode::BAD_REQUEST,
        "DENIED",
        "Authorization and a signed address together: only one is allowed",
    );
    const SIGNATURE: Self =
        Self::new(StatusCode::FORBIDDEN, "DENIED", "the signature is not of this address");
    const FAULT: Self = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "a configured fault");

    const fn new(status: StatusCode, code: &'static str, message: &'static str) -> Self {
        Self { status, code, message }
    }

    fn body(&self) -> Bytes {
        json!({ "errors": [{ "code": self.code, "message": self.message }] }).to_string().into()
    }
}

fn content_headers(answer: Builder, digest: &Digest) -> Builder {
    answer.header("Docker-Content-Digest", digest.to_string()).header(ETAG, format!("\"{digest}\""))
}

fn signed(storage: SocketAddr, digest: &Digest) -> String {
    format!("http://{storage}/storage/{digest}?{}", signature(digest))
}

/// Looks like, and is checked like, the query of a signed address. The key is no secret.
fn signature(digest: &Digest) -> String {
    let mac = blake3::keyed_hash(b"the demo registry's storage key.", digest.to_string().as_bytes());
    format!("Expires=4102444800&Signature={}", mac.to_hex())
}

fn header(request: &Request<Incoming>, name: http::HeaderName) -> Option<&str> {
    request.headers().get(name)?.to_str().ok()
}
