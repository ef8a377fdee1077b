//! A reverse proxy in front of a registry, which sees every request: what was asked, by whom, and how many bytes
//! went back. It can also stand in the way: hold bodies, cut one, ask for credentials, or be gone.
//!
//! A registry with two gates tells apart who came through the front and who went round it.
//!
//! Absent on purpose: anything of the front's own, so that both cannot be wrong in the same way.

use std::convert::Infallible;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsAcceptor;

use crate::daemon::free_address;
use crate::wait_until;

/// Longest body of a request: a token request's form.
const FORM_BYTES_MAX: usize = 64 << 10;
/// Longest wait for a request that is certain to come.
const SEEN_WITHIN: Duration = Duration::from_secs(30);

/// What a request is for, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A blob by its digest.
    Blob,
    /// A manifest or index by its digest.
    ManifestByDigest,
    /// A manifest or index by a tag.
    ManifestByTag,
    /// A token.
    Token,
    /// Anything else, `/v2/` for example.
    Other,
}

impl Kind {
    fn of(path: &str) -> Self {
        match () {
            () if path.contains("/blobs/sha256:") => Self::Blob,
            () if path.contains("/manifests/sha256:") => Self::ManifestByDigest,
            () if path.contains("/manifests/") => Self::ManifestByTag,
            () if path == "/token" => Self::Token,
            () => Self::Other,
        }
    }
}

/// A request that has come.
#[derive(Clone, Debug)]
pub struct Asked {
    /// GET, HEAD, POST.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// Every header.
    pub headers: HeaderMap,
    /// The body, of a form.
    pub body: Bytes,
}

impl Asked {
    /// What it is for.
    pub fn kind(&self) -> Kind {
        Kind::of(self.path())
    }

    /// Without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The credentials, as they were sent.
    pub fn authorization(&self) -> Option<&str> {
        self.header("authorization")
    }
}

/// A request and what became of it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The request.
    pub asked: Asked,
    /// Of the answer; 0 while there is none.
    pub status: u16,
    /// Bytes of the body that have gone out.
    pub body_bytes: u64,
}

/// An answer of the gate's own.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Headers beside the length.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

/// Decides whether a request is answered by the gate itself.
pub type Guard = dyn Fn(&Asked) -> Option<Reply> + Send + Sync;

/// A gate. Its address stays the same while it is closed and opened again.
#[derive(Debug)]
pub struct Gate {
    address: SocketAddr,
    shared: Arc<Shared>,
    running: Option<Running>,
}

/// How a gate is made.
#[derive(Default)]
pub struct GateOptions {
    /// The registry behind; none: every request that the guard lets pass is 404.
    pub upstream: Option<SocketAddr>,
    /// Who is let through.
    pub guard: Option<Arc<Guard>>,
    /// Where it listens; none: at an address and port of this process alone.
    pub address: Option<SocketAddr>,
    /// With a certificate of its own, which nobody trusts who has not been given it.
    pub tls: bool,
    /// A name that the certificate is for, beside the address.
    pub name: Option<&'static str>,
}

impl Gate {
    /// A gate in front of that registry, open to all.
    pub fn before(upstream: SocketAddr) -> Self {
        Self::with(GateOptions { upstream: Some(upstream), ..GateOptions::default() })
    }

    /// A gate that leads nowhere: what a client takes for its registry, to see that it does not go there.
    pub fn to_nowhere() -> Self {
        Self::with(GateOptions::default())
    }

    /// Any gate.
    ///
    /// # Panics
    /// When its address is taken.
    pub fn with(options: GateOptions) -> Self {
        let address = options.address.unwrap_or_else(free_address);
        let certificate = options.tls.then(|| own_certificate(address, options.name));
        let shared = Arc::new(Shared {
            upstream: options.upstream,
            guard: options.guard,
            certificate: certificate.as_ref().map(|made| made.cert.pem()),
            tls: certificate.as_ref().map(acceptor),
            seen: Mutex::default(),
            hold: watch::Sender::new(None),
            cut: Mutex::default(),
        });
        let mut gate = Self { address, shared, running: None };
        gate.open();
        gate
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `HOST:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// `http://HOST:PORT`, or `https://`.
    pub fn url(&self) -> String {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The certificate of a gate that speaks TLS, as PEM.
    ///
    /// # Panics
    /// When it does not.
    pub fn certificate(&self) -> &str {
        self.shared.certificate.as_deref().expect("a gate with TLS")
    }

    /// Every request since the start or the last [`Gate::forget`].
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// The requests of that method and kind.
    pub fn seen_of(&self, method: &Method, kind: Kind) -> Vec<Seen> {
        let mut seen = self.seen();
        seen.retain(|seen| seen.asked.method == *method && seen.asked.kind() == kind);
        seen
    }

    /// Every request in a line, for a message.
    pub fn lines(&self) -> String {
        let line = |Seen { asked, status, .. }: Seen| format!("{} {} {status}\n", asked.method, asked.target);
        self.seen().into_iter().map(line).collect()
    }

    /// How many GETs of that kind there were.
    pub fn gets(&self, kind: Kind) -> usize {
        self.seen_of(&Method::GET, kind).len()
    }

    /// Bytes of blobs that have gone out.
    pub fn blob_bytes(&self) -> u64 {
        self.seen_of(&Method::GET, Kind::Blob).iter().map(|seen| seen.body_bytes).sum()
    }

    /// Begins a new count.
    pub fn forget(&self) {
        lock(&self.shared.seen).clear();
    }

    /// Waits for a GET of a blob whose body has begun.
    ///
    /// # Panics
    /// When there is none in half a minute.
    pub fn wait_for_blob(&self) {
        let begun = || self.seen_of(&Method::GET, Kind::Blob).iter().any(|seen| seen.body_bytes > 0);
        wait_until(SEEN_WITHIN, begun, || format!("no blob was asked for:\n{}", self.lines()));
    }

    /// A body of a blob stops after so many bytes, and goes on when what this returns is dropped: an origin as slow
    /// as the test needs it, without a clock.
    #[must_use]
    pub fn hold_after(&self, bytes: u64) -> Held<'_> {
        self.shared.hold.send_replace(Some(bytes));
        Held(self)
    }

    /// Cuts the next body of a blob that is longer, after so many bytes.
    pub fn cut_next_after(&self, bytes: u64) {
        *lock(&self.shared.cut) = Some(bytes);
    }

    /// Refuses connections from now on and ends those that there are.
    pub fn close(&mut self) {
        self.running = None;
    }

    /// Opens again.
    ///
    /// # Panics
    /// When somebody else listens there now.
    pub fn open(&mut self) {
        let listener = TcpListener::bind(self.address)
            .unwrap_or_else(|error| panic!("the gate cannot listen at {}: {error}", self.address));
        listener.set_nonblocking(true).expect("a socket can be non-blocking");
        self.running = Some(Running::start(listener, Arc::clone(&self.shared)));
    }
}

/// While it lives, bodies are held. A test that fails drops it as well, and nobody waits for ever.
#[derive(Debug)]
pub struct Held<'gate>(&'gate Gate);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.shared.hold.send_replace(None);
    }
}

/// A thread with a runtime, which ends with this.
struct Running {
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(listener: TcpListener, shared: Arc<Shared>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime can be made");
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = listen(listener, shared) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Running")
    }
}

/// What a gate's connections share.
struct Shared {
    upstream: Option<SocketAddr>,
    guard: Option<Arc<Guard>>,
    tls: Option<TlsAcceptor>,
    certificate: Option<String>,
    seen: Mutex<Vec<Seen>>,
    hold: watch::Sender<Option<u64>>,
    cut: Mutex<Option<u64>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Shared").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Cut>>>;

/// Why a body ends before its time.
#[derive(Debug)]
struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("cut")
    }
}

impl std::error::Error for Cut {}

async fn listen(listener: TcpListener, shared: Arc<Shared>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("the socket is non-blocking");
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            match shared.tls.clone() {
                None => serve(socket, shared).await,
                // A client that does not like the certificate leaves.
                Some(tls) => {
                    if let Ok(socket) = tls.accept(socket).await {
                        serve(socket, shared).await;
                    }
                }
            }
        });
    }
}

async fn serve(socket: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let answer = service_fn(|request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(shared.answer(request).await) }
    });
    // A client that leaves early, or a cut body, is nothing to report.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
}

impl Shared {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let Ok(body) = Limited::new(body, FORM_BYTES_MAX).collect().await else {
            return own(&Reply { status: 400, headers: Vec::new(), body: String::new() });
        };
        let target = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
        let asked = Asked { method: head.method, target, headers: head.headers, body: body.to_bytes() };
        let place = {
            let mut seen = lock(&self.seen);
            seen.push(Seen { asked: asked.clone(), status: 0, body_bytes: 0 });
            seen.len() - 1
        };
        let answer = match self.guard.as_ref().and_then(|guard| guard(&asked)) {
            Some(reply) => own(&reply),
            None => self.pass(&asked, place).await,
        };
        if let Some(seen) = lock(&self.seen).get_mut(place) {
            seen.status = answer.status().as_u16();
        }
        answer
    }

    async fn pass(self: &Arc<Self>, asked: &Asked, place: usize) -> Response<Body> {
        let Some(upstream) = self.upstream else {
            return own(&Reply { status: 404, headers: Vec::new(), body: String::new() });
        };
        match send(upstream, asked).await {
            Ok(answer) => {
                let (mut head, body) = answer.into_parts();
                for hop in [header::CONNECTION, header::TRANSFER_ENCODING] {
                    head.headers.remove(hop);
                }
                let is_blob = asked.kind() == Kind::Blob;
                Response::from_parts(head, Passing::body(body, Arc::clone(self), place, is_blob))
            }
            Err(error) => own(&Reply { status: 502, headers: Vec::new(), body: error.to_string() }),
        }
    }
}

/// One request on a connection of its own.
async fn send(
    upstream: SocketAddr,
    asked: &Asked,
) -> Result<Response<Incoming>, Box<dyn std::error::Error + Send + Sync>> {
    let socket = TcpStream::connect(upstream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(asked.method.clone()).uri(&asked.target);
    for (name, value) in &asked.headers {
        if name != header::CONNECTION && name != header::CONTENT_LENGTH && name != header::TRANSFER_ENCODING {
            request = request.header(name, value);
        }
    }
    Ok(sender.send_request(request.body(Full::new(asked.body.clone()))?).await?)
}

fn own(reply: &Reply) -> Response<Body> {
    let mut answer = Response::builder()
        .status(StatusCode::from_u16(reply.status).expect("a status"))
        .header(header::CONTENT_LENGTH, reply.body.len())
        .header(header::CONTENT_TYPE, "application/json");
    for (name, value) in &reply.headers {
        answer = answer.header(*name, value);
    }
    let body = Frame::data(Bytes::from(reply.body.clone()));
    answer.body(StreamBody::new(stream::iter([Ok(body)]).boxed())).expect("headers of a test are valid")
}

/// A body on its way from the registry.
struct Passing {
    body: Incoming,
    pending: Bytes,
    sent_bytes: u64,
    hold: Option<watch::Receiver<Option<u64>>>,
    cut_after: Option<u64>,
    shared: Arc<Shared>,
    place: usize,
}

impl Passing {
    fn body(body: Incoming, shared: Arc<Shared>, place: usize, is_blob: bool) -> Body {
        let length_bytes = hyper::body::Body::size_hint(&body).exact().unwrap_or(0);
        let cut_after = {
            let mut cut = lock(&shared.cut);
            if is_blob && cut.is_some_and(|after| after < length_bytes) { cut.take() } else { None }
        };
        let hold = is_blob.then(|| shared.hold.subscribe());
        let passing = Self { body, pending: Bytes::new(), sent_bytes: 0, hold, cut_after, shared, place };
        StreamBody::new(
            stream::unfold(passing, async |mut passing| Some((passing.next().await?, passing))).boxed(),
        )
    }

    async fn next(&mut self) -> Option<Result<Frame<Bytes>, Cut>> {
        while self.pending.is_empty() {
            match self.body.frame().await? {
                Ok(frame) => self.pending = frame.into_data().unwrap_or_default(),
                Err(_) => return Some(Err(Cut)),
            }
        }
        if self.cut_after == Some(self.sent_bytes) {
            // hyper sends what it has when a body makes it wait, and forgets it when a body fails at once.
            tokio::task::yield_now().await;
            return Some(Err(Cut));
        }
        let mut most = self.cut_after.map_or(u64::MAX, |after| after - self.sent_bytes);
        if let Some(hold) = &mut self.hold {
            let sent_bytes = self.sent_bytes;
            let may_go = |limit: &Option<u64>| limit.is_none_or(|limit| limit > sent_bytes);
            let limit = *hold.wait_for(may_go).await.ok()?;
            most = most.min(limit.map_or(u64::MAX, |limit| limit - sent_bytes));
        }
        let part_bytes = self.pending.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        let part = self.pending.split_to(part_bytes);
        self.sent_bytes += part.len() as u64;
        // The count may have begun anew.
        if let Some(seen) = lock(&self.shared.seen).get_mut(self.place) {
            seen.body_bytes += part.len() as u64;
        }
        Some(Ok(Frame::data(part)))
    }
}

/// Signed by itself, for that address and that name.
fn own_certificate(address: SocketAddr, name: Option<&str>) -> rcgen::CertifiedKey<rcgen::KeyPair> {
    let names: Vec<_> = name.map(str::to_owned).into_iter().chain([address.ip().to_string()]).collect();
    rcgen::generate_simple_self_signed(names).expect("a certificate")
}

fn acceptor(made: &rcgen::CertifiedKey<rcgen::KeyPair>) -> TlsAcceptor {
    let key = rustls_key(made);
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider knows the usual versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a certificate goes with its key");
    TlsAcceptor::from(Arc::new(config))
}

fn rustls_key(
    made: &rcgen::CertifiedKey<rcgen::KeyPair>,
) -> tokio_rustls::rustls::pki_types::PrivateKeyDer<'static> {
    tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into()
}

/// What is behind these locks is changed whole, so a panic elsewhere does not make it wrong.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::{Client, Origin, Request};

    #[test]
    fn counts_holds_cuts_and_closes() {
        let origin = Origin::start();
        let blob = origin.blob(1, 300_000);
        let mut gate = Gate::before(origin.address());
        let mut client = Client::new(gate.address());

        let request = blob.get_range(10..20).header("Authorization", "Bearer x");
        let reading = client.send(&request).expect("the gate answers");
        blob.check(reading, 10..20).expect("the gate answers");
        let seen = gate.seen_of(&Method::GET, Kind::Blob);
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].status, seen[0].body_bytes), (206, 10));
        assert_eq!(seen[0].asked.authorization(), Some("Bearer x"));
        let head = client.fetch(&Request::head(blob.target())).expect("the gate answers");
        assert_eq!((head.status(), head.head.content_length()), (200, Some(300_000)));
        assert_eq!(gate.gets(Kind::Blob), 1, "a HEAD is no GET");

        gate.forget();
        thread::scope(|threads| {
            let held = gate.hold_after(1000);
            let reading = threads.spawn(|| Client::new(gate.address()).fetch(&blob.get()));
            gate.wait_for_blob();
            assert_eq!(gate.blob_bytes(), 1000);
            drop(held);
            let answer = reading.join().expect("no panic").expect("the gate answers");
            assert_eq!(answer.body, blob.bytes(blob.whole()));
        });

        gate.cut_next_after(1000);
        let cut = client.fetch(&blob.get()).map(|answer| answer.body.len());
        assert_eq!(cut.expect_err("a cut body").kind(), ErrorKind::UnexpectedEof);
        assert_eq!(client.fetch(&blob.get()).expect("the next is whole").status(), 200);

        gate.close();
        assert!(client.fetch(&blob.get()).is_err(), "a closed gate answers");
        gate.open();
        assert_eq!(client.fetch(&blob.get()).expect("open again").status(), 200);
    }
}
