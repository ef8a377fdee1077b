//! The registry: requests to it, and what its answers mean.
//!
//! Each shard has clients of its own, so that their connections belong to the shard's runtime. Redirects are followed
//! here, without credentials across hosts; the client of the front never sees one. Where a request may go at all,
//! [`guard`] says, before each hop.

mod answer;
pub mod answer_head;
pub mod challenge;
mod clients;
pub mod content_range;
pub mod destination;
pub mod guard;
mod proof;
pub mod proxies;
mod resolver;
mod target;
pub mod via;

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, header};
use url::Url;

use self::clients::Clients;
use self::guard::Refusal;
use self::resolver::NotPublic;
use crate::metrics::Registries;
use crate::trace::context::{TRACEPARENT, TRACESTATE, TraceContext};
use crate::trace::{Kind, Span, Trace};

pub use answer::{BlobAnswer, BlobStream, Verdict};
pub use clients::OriginOptions;
pub use proof::OriginHead;
pub use target::Target;
pub(crate) use target::end_to_end;

const REDIRECTS_MAX: usize = 8;

/// Which bytes of a content a request asks its origin for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// `first..=last`, which may reach beyond the end.
    Span {
        /// First byte.
        first: u64,
        /// Last byte.
        last: u64,
    },
    /// The last so many bytes.
    Suffix {
        /// How many.
        bytes: u64,
    },
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OriginError {
    /// Nobody answered, or the connection broke: another try may help.
    #[error("{registry} cannot be reached: {reason}")]
    Unreachable {
        /// Which registry.
        registry: String,
        /// What the network said.
        reason: String,
    },
    /// It answered what cannot be used; another try would get the same.
    #[error("{registry} answered what cannot be used: {reason}")]
    Unusable {
        /// Which registry.
        registry: String,
        /// What was wrong.
        reason: String,
    },
    /// The destination guard held the request back; nobody was asked, and another try would not be either.
    #[error("a request to {registry} {refusal}")]
    Forbidden {
        /// Which registry, or which realm.
        registry: String,
        /// Where it leads to, why that is not asked, and what to do.
        refusal: Refusal,
    },
}

impl OriginError {
    /// What happened, without the registry's name.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Unreachable { reason, .. } | Self::Unusable { reason, .. } => reason.clone(),
            Self::Forbidden { refusal, .. } => refusal.to_string(),
        }
    }

    /// Whether neither another try nor another time changes it.
    pub fn is_for_good(&self) -> bool {
        matches!(self, Self::Unusable { .. })
    }
}

/// Where a registry redirected a request to. Real registries do that with every blob, to addresses that are good
/// for some minutes.
#[derive(Clone, Debug)]
pub struct Place(Url);

/// The head of an answer, and the request as it is recorded: it ends with this.
type Answered = (reqwest::Response, Span);

/// The client of one shard.
#[derive(Clone, Debug)]
pub struct Origin {
    clients: Arc<Clients>,
    counts: Arc<Registries>,
}

impl Origin {
    /// Clients with connection pools of their own.
    ///
    /// # Errors
    /// The system's certificates cannot be read.
    pub fn new(options: &OriginOptions) -> Result<Self, reqwest::Error> {
        Ok(Self { clients: Arc::new(Clients::new(options)?), counts: Arc::default() })
    }

    /// The same, whose requests are counted there.
    #[must_use]
    pub(crate) fn counted(self, counts: Arc<Registries>) -> Self {
        Self { counts, ..self }
    }

    /// Holds nothing back: for tests whose every registry is on loopback.
    #[cfg(test)]
    pub(crate) fn open() -> Self {
        Self::new(&OriginOptions::open()).expect("the system has certificates")
    }

    /// Asks for bytes of a blob, at the registry or where it has redirected such a request to before. Also tells
    /// where the answer came from, if that was not the registry's own address of the blob.
    ///
    /// # Errors
    /// No answer, or one that makes no sense. A refusal is an answer: [`BlobAnswer::Verdict`].
    pub async fn blob(
        &self,
        target: &Target,
        ask: Ask,
        place: Option<&Place>,
    ) -> Result<(BlobAnswer, Option<Place>), OriginError> {
        let mut headers = target.headers().clone();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let range = match ask {
            Ask::Span { first, last } => format!("bytes={first}-{last}"),
            Ask::Suffix { bytes } => format!("bytes=-{bytes}"),
        };
        if let Ok(range) = HeaderValue::try_from(range) {
            headers.insert(header::RANGE, range);
        }
        let ((response, span), url) = self.follow(target, Method::GET, headers, place).await?;
        let mut answer = BlobAnswer::read(target.registry(), ask, response).await?;
        if let BlobAnswer::Bytes(stream) = &mut answer {
            stream.is_read_in(span);
        }
        Ok((answer, (url != *target.url()).then_some(Place(url))))
    }

    /// Sends a request without a body as it is and follows redirects of GET and HEAD.
    ///
    /// # Errors
    /// No answer, or redirects without an end.
    pub async fn pass(&self, target: &Target, method: Method) -> Result<reqwest::Response, OriginError> {
        Ok(self.follow(target, method, target.headers().clone(), None).await?.0.0)
    }

    /// Sends a request with a body as it is. Its redirects are the client's to follow.
    ///
    /// # Errors
    /// No answer.
    pub async fn pass_with_body(
        &self,
        target: &Target,
        method: Method,
        body: reqwest::Body,
    ) -> Result<reqwest::Response, OriginError> {
        let registry = target.registry().to_string();
        let request = self.request(&registry, method, target.url())?.headers(target.headers().clone());
        let answer = self.dispatch(&registry, request.body(body), target.trace()).await;
        Ok(answer.map_err(|error| failed(registry, target.url(), &error))?.0)
    }

    async fn follow(
        &self,
        target: &Target,
        method: Method,
        mut headers: HeaderMap,
        place: Option<&Place>,
    ) -> Result<(Answered, Url), OriginError> {
        let mut url = target.url().clone();
        if let Some(Place(redirected)) = place {
            keep_credentials_at_home(&url, redirected, &mut headers);
            url = redirected.clone();
        }
        for _ in 0..=REDIRECTS_MAX {
            let answered = self.send(target, method.clone(), &url, headers.clone()).await?;
            let Some(next) = redirect_of(&url, &answered.0, &method) else { return Ok((answered, url)) };
            keep_credentials_at_home(&url, &next, &mut headers);
            url = next;
        }
        Err(OriginError::Unusable {
            registry: target.registry().to_string(),
            reason: format!("more than {REDIRECTS_MAX} redirects"),
        })
    }

    /// One request without a body, for a target, to a URL that may be elsewhere.
    async fn send(
        &self,
        target: &Target,
        method: Method,
        url: &Url,
        headers: HeaderMap,
    ) -> Result<Answered, OriginError> {
        let registry = target.registry().to_string();
        let request = self.request(&registry, method, url)?.headers(headers);
        self.dispatch(&registry, request, target.trace()).await.map_err(|error| failed(registry, url, &error))
    }

    /// Sends it, and counts it. Every request goes by here.
    async fn dispatch(
        &self,
        registry: &str,
        request: reqwest::RequestBuilder,
        trace: &Trace,
    ) -> reqwest::Result<Answered> {
        let (client, request) = request.build_split();
        let mut request = request?;
        let method = request.method().clone();
        let mut span = asking(trace, &request);
        if let Some(context) = span.context() {
            self.tell(&context, &mut request);
        }
        let answer = client.execute(request).await;
        self.counts.sent(registry, &method, answer.as_ref().ok().map(reqwest::Response::status));
        match &answer {
            Ok(answer) => {
                let status = answer.status();
                span.set("http.response.status_code", || status.as_u16());
                if status.is_client_error() || status.is_server_error() {
                    span.fail(&status);
                }
            }
            Err(error) => span.fail(&innermost(error)),
        }
        Ok((answer?, span))
    }

    /// Tells a registry what its answer is a part of. A client's own context has gone to whom the client asks anyway; one
    /// that this node has begun is for registries that somebody has configured, and nobody else learns that there is one.
    fn tell(&self, context: &TraceContext, request: &mut reqwest::Request) {
        let has_clients = TraceContext::of(request.headers()).is_some();
        if !has_clients && !self.clients.is_configured(request.url()) {
            return;
        }
        if let Ok(value) = HeaderValue::try_from(context.to_string()) {
            request.headers_mut().insert(TRACEPARENT, value);
        }
        if !has_clients {
            // It belongs to a context that cannot be read.
            request.headers_mut().remove(TRACESTATE);
        }
    }

    /// A request by the client that may speak to a URL, for the registry that stands in messages. Every one comes by
    /// here.
    fn request(
        &self,
        registry: &str,
        method: Method,
        url: &Url,
    ) -> Result<reqwest::RequestBuilder, OriginError> {
        let forbidden = |refusal| OriginError::Forbidden { registry: registry.to_owned(), refusal };
        Ok(self.clients.of(url).map_err(forbidden)?.request(method, url.clone()))
    }
}

/// A request to a registry, as a span. Of its URL neither credentials nor the query, which may have a signature in it.
fn asking(trace: &Trace, request: &reqwest::Request) -> Span {
    let mut span = trace.span("GET", Kind::Client);
    let url = request.url();
    span.rename(|| request.method().to_string());
    span.set("http.request.method", || request.method().as_str());
    span.set("url.full", || format!("{}{}", url.origin().ascii_serialization(), url.path()));
    span.set("server.address", || url.host_str().unwrap_or_default());
    span.set("server.port", || url.port_or_known_default().unwrap_or_default());
    if let Some(range) = request.headers().get(header::RANGE).and_then(|value| value.to_str().ok()) {
        span.set("http.request.header.range", || range);
    }
    span
}

/// Credentials are for the host that they were given for.
fn keep_credentials_at_home(from: &Url, to: &Url, headers: &mut HeaderMap) {
    if from.origin() != to.origin() {
        headers.remove(header::AUTHORIZATION);
        headers.remove(header::COOKIE);
    }
}

/// Where the answer sends a GET or HEAD to, if it does.
fn redirect_of(url: &Url, response: &reqwest::Response, method: &Method) -> Option<Url> {
    let redirects = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    if !redirects || !matches!(*method, Method::GET | Method::HEAD) {
        return None;
    }
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    let next = url.join(location).ok()?;
    matches!(next.scheme(), "http" | "https").then_some(next)
}

/// Why a request to a URL got no answer.
fn failed(registry: String, url: &Url, error: &reqwest::Error) -> OriginError {
    match resolver::not_public(error) {
        Some(NotPublic(address)) => {
            OriginError::Forbidden { registry, refusal: Refusal::resolved(url, address) }
        }
        None => OriginError::Unreachable { registry, reason: innermost(error) },
    }
}

/// reqwest's own message repeats the URL and hides the cause; the last cause says what happened.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
