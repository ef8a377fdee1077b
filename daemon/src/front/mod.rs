//! The HTTP front: where nydusd and containerd connect.
//!
//! A connection answers what is at hand by itself (`hit`), and leaves the rest to hyper (`connection`).
//!
//! A range request goes: [`route`] → [`content`] → `store.find` → [`access`](crate::access) → [`reader`] → slices of
//! the mapping, or the [fetch](crate::fetch) for what is absent. A manifest by its tag becomes a content in
//! `manifest`. What is no content goes through `pass`.

pub mod body;
pub mod connect;
pub(crate) mod connection;
pub mod content;
mod ending;
mod flow;
pub mod head;
mod hit;
mod line;
mod manifest;
pub mod options;
pub(crate) mod parting;
mod pass;
mod possession;
pub mod range;
pub mod reader;
mod realms;
pub(crate) mod recent;
pub mod route;
#[cfg(test)]
mod tests;
pub mod trouble;
mod welcome;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::sync::watch;
use tracing::Instrument;

use self::body::AnswerBody;
use self::connect::inside::as_of_a_proxy;
use self::connect::{ConnectError, Opened, Place, Seats};
use self::connection::Answered;
use self::content::{ContentRequest, Outcome};
use self::ending::{Came, Ending, Unsettled};
use self::flow::Heads;
use self::head::PlainGet;
use self::manifest::Named;
use self::range::Wanted;
use self::reader::Sources;
use self::realms::Realms;
use self::recent::{Question, Recent, Reply};
use self::route::{Errand, Kind, Route, Routing, What};
use self::trouble::Trouble;
use self::welcome::Welcomes;
use crate::config::Registry;
use crate::fetch::FetchError;
use crate::metrics::{Fate, Shed, Source};
use crate::origin::via::NodeId;
use crate::origin::{Origin, Target};
use crate::policy::Policy;
use crate::termination::Termination;
use crate::trace::{RequestId, Span, Tracer};

/// What the fronts of all shards know together.
#[derive(Debug)]
pub(crate) struct Shared {
    realms: Realms,
    welcomes: Welcomes,
    heads: Arc<Heads>,
    recent: Recent,
    seats: Arc<Seats>,
}

impl Shared {
    /// Of a node with so many seats for what a CONNECT opens.
    pub(crate) fn new(seats: Arc<Seats>) -> Self {
        Self {
            realms: Realms::default(),
            welcomes: Welcomes::default(),
            heads: Arc::default(),
            recent: Recent::default(),
            seats,
        }
    }

    /// For what a CONNECT opens.
    fn seats(&self) -> &Arc<Seats> {
        &self.seats
    }

    /// What was answered lately.
    pub(crate) fn recent(&self) -> &Recent {
        &self.recent
    }
}

/// The front of one shard under one policy.
#[derive(Clone, Debug)]
pub(crate) struct Front {
    pub(crate) routing: Routing,
    pub(crate) sources: Sources,
    pub(crate) origin: Origin,
    pub(crate) shared: Arc<Shared>,
    pub(crate) tracer: Tracer,
    /// For which hosts TLS ends here, if for any.
    pub(crate) termination: Option<Arc<Termination>>,
}

/// The front of one shard as its policy changes.
#[derive(Debug)]
pub(crate) struct Fronts {
    policies: RefCell<watch::Receiver<Policy>>,
    now: RefCell<Rc<Front>>,
    /// The same, made when it is first wanted.
    in_tls: RefCell<Option<Rc<Front>>>,
    changes: Cell<u64>,
}

impl Fronts {
    /// Begins with a front that was made of the policy seen last.
    pub(crate) fn new(front: Front, policies: watch::Receiver<Policy>) -> Self {
        let now = RefCell::new(Rc::new(front));
        Self { policies: RefCell::new(policies), now, in_tls: RefCell::default(), changes: Cell::new(0) }
    }

    /// The front for a request that begins now. Takes no lock unless the policy has changed.
    pub(crate) fn now(&self) -> Rc<Front> {
        let mut policies = self.policies.borrow_mut();
        // An error: the daemon stops, and nothing changes any more.
        if policies.has_changed().unwrap_or(false) {
            let policy = policies.borrow_and_update().clone();
            let front = self.now.borrow().under(policy);
            self.now.replace(Rc::new(front));
            self.in_tls.take();
            self.changes.set(self.changes.get() + 1);
        }
        self.now.borrow().clone()
    }

    /// The same for a request within TLS that ends here: all bytes of its answer are looked at.
    fn now_in_tls(&self) -> Rc<Front> {
        let now = self.now();
        self.in_tls.borrow_mut().get_or_insert_with(|| Rc::new(now.for_tls())).clone()
    }

    /// How often the front that [`Self::now`] gives has changed: what was made of another is not for this one.
    fn changes(&self) -> u64 {
        self.changes.get()
    }
}

/// An answer whose head is made.
#[derive(Debug)]
struct Made {
    answer: Response<AnswerBody>,
    /// Whose it is, as far as it is there.
    source: Source,
    /// A registry, or the owner in the cluster, was asked before.
    has_asked: bool,
    /// Told of what follows.
    came: Option<Came>,
}

impl Made {
    /// One that is there as a whole, or that a registry sends.
    fn of(answer: Response<AnswerBody>, source: Source) -> Self {
        Self { answer, source, has_asked: false, came: None }
    }

    fn having_asked(self) -> Self {
        Self { has_asked: true, ..self }
    }
}

type Making = Result<Made, Trouble>;

/// A request, and what is known when the head of its answer is made.
struct Begins<'a> {
    method: &'a Method,
    path: &'a str,
    registry: Option<&'a Registry>,
    started: Instant,
    source: Source,
    status: StatusCode,
    has_asked: bool,
    body_bytes: Option<u64>,
    trouble: Option<String>,
    /// Unless the connection has answered by itself.
    id: Option<&'a RequestId>,
    span: Span,
}

impl Begins<'_> {
    /// What its span says of it. Of what it asked for the path: there may be a signature in the query.
    fn record(&mut self) {
        let span = &mut self.span;
        span.set("http.request.method", || self.method.as_str());
        span.set("url.scheme", || "http");
        span.set("url.path", || self.path);
        span.set("http.response.status_code", || self.status.as_u16());
        if let Some(bytes) = self.body_bytes {
            span.set("http.response.body.size", || bytes);
        }
        if let Some(registry) = self.registry {
            span.set("darter.registry", || registry.to_string());
        }
        if let Some(id) = self.id {
            span.set("darter.request.id", || id.as_str());
        }
        // What the client has done wrong is no fault of the one who tells it so.
        if self.status.is_server_error() {
            match &self.trouble {
                Some(trouble) => span.fail(trouble),
                None => span.fail(&self.status),
            }
        }
    }
}

/// What is learned of a request on its way.
#[derive(Default)]
struct Learned {
    registry: Option<Registry>,
    span: Span,
    opened: Option<Opened>,
}

impl Front {
    fn under(&self, Policy { routing, origin, termination }: Policy) -> Self {
        let sources = Sources { origin: origin.clone(), ..self.sources.clone() };
        Self { routing, sources, origin, termination, ..self.clone() }
    }

    fn for_tls(&self) -> Self {
        Self { sources: Sources { looked_at: true, ..self.sources.clone() }, ..self.clone() }
    }

    /// The answer and what follows it. `inside`: the request has come over TLS that ends here in that place's stead.
    async fn answer(&self, request: Request<Incoming>, inside: Option<&Place>) -> Answered {
        let started = Instant::now();
        // Neither is a copy: a method is a number, and the bytes of a URL are shared.
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let id = RequestId::of(request.headers());
        let span = self.tracer.request(request.headers(), started);
        let mut learned = Learned { span, ..Learned::default() };
        let logged = logged(&id, &learned.span);
        let dispatched = self.dispatch(request, inside, &mut learned).instrument(logged.clone()).await;
        let (made, trouble) = match dispatched {
            Ok(made) => (made, None),
            Err(trouble) => {
                let (answer, source) = trouble.answer();
                if trouble.is_of_load() {
                    self.sources.answers.shed(Shed::Busy);
                }
                if source == Source::Own {
                    tracing::warn!(parent: &logged, %trouble, "a request was refused");
                }
                (Made::of(answer, source), Some(trouble.to_string()))
            }
        };
        let Made { mut answer, source, has_asked, came } = made;
        let headers = answer.headers_mut();
        if let Some(of_registry) =
            headers.insert(RequestId::HEADER, id.value()).filter(|it| *it != id.value())
        {
            headers.insert(RequestId::OF_REGISTRY, of_registry);
        }
        let begins = Begins {
            method: &method,
            // A CONNECT has no path.
            path: uri.authority().filter(|_| method == Method::CONNECT).map_or(uri.path(), Authority::as_str),
            registry: learned.registry.as_ref(),
            started,
            source,
            status: answer.status(),
            has_asked,
            body_bytes: answer.body().length(),
            trouble,
            id: Some(&id),
            span: learned.span,
        };
        let ending = Some(self.begin(begins, came));
        Answered { answer, ending, opened: learned.opened }
    }

    /// Counts an answer whose head is made, and remembers it unless it is a hit. `came` is told where the rest comes from, if
    /// there is one.
    fn begin(&self, mut begins: Begins<'_>, came: Option<Came>) -> Ending {
        begins.record();
        let Begins {
            method,
            path,
            registry,
            started,
            source,
            status,
            has_asked,
            body_bytes,
            trouble,
            id,
            span,
        } = begins;
        let (answers, code, head_after) = (&self.sources.answers, status.as_u16(), started.elapsed());
        tracing::debug!(%method, path, status = code, ?source, elapsed_ms = head_after.as_secs_f64() * 1e3, "answered");
        if source != Source::Cache || !has_asked {
            answers.head_after(source, head_after);
        }
        let ending = Ending::new(answers.clone(), source, started).recorded(span);
        let fate = Fate::of(source, code);
        let is_hit = fate == Some(Fate::Hit);
        let note = || {
            let question = Question::new(method.as_str(), path, registry);
            let request_id = id.map(|id| id.as_str().into());
            (question, Reply { source, status, head_after, body_bytes, trouble, request_id })
        };
        if let (true, Some(came)) = (is_hit, &came) {
            answers.begun(code);
            let (question, reply) = note();
            let unsettled = Unsettled { shared: self.shared.clone(), question, reply };
            return ending.going_on(came.clone(), Some(unsettled));
        }
        answers.answered(source, code);
        if let Some(fate) = fate.filter(|_| !is_hit) {
            let (question, reply) = note();
            self.shared.recent.note(question, fate, reply);
        }
        match came {
            Some(came) => ending.going_on(came, None),
            None => ending,
        }
    }

    /// The content that a GET is about, if a digest names it and nothing else has to be looked at; what it wants of
    /// the content is left out.
    fn content_of(&self, get: &PlainGet) -> Option<ContentRequest> {
        // Where a request is to be known by its name, or is a part of something, that is answered for as well.
        let is_named = get.headers.contains_key(RequestId::HEADER) || self.tracer.is_asked_by(&get.headers);
        if is_named || NodeId::of_this_process().is_in(&get.headers) {
            return None;
        }
        let Route::Errand(errand) = self.routing.route(&Method::GET, &get.uri, &get.headers).ok()? else {
            return None;
        };
        let Errand { upstream, what, filter, prefetch } = errand;
        let What::Content { id, kind: kind @ (Kind::Blob | Kind::Manifest) } = what else { return None };
        let target = Target::new(upstream.registry, &upstream.path_and_query, &get.headers, &filter)?;
        let (target, wanted) = (target.for_blob(), Wanted::Whole);
        Some(ContentRequest { id, kind, target, wanted, of_version: None, prefetch })
    }

    async fn dispatch(
        &self,
        request: Request<Incoming>,
        inside: Option<&Place>,
        learned: &mut Learned,
    ) -> Making {
        if NodeId::of_this_process().is_in(request.headers()) {
            return Err(Trouble::Loop);
        }
        if *request.method() == Method::CONNECT {
            if inside.is_some() {
                return Err(ConnectError::Nested.into());
            }
            learned.span.rename(|| "CONNECT".to_owned());
            learned.opened = Some(self.connect(request.uri()).await?);
            return Ok(Made::of(Response::new(AnswerBody::empty()), Source::Pass));
        }
        let request = match inside {
            Some(place) => as_of_a_proxy(request, place)?,
            None => request,
        };
        let errand = match self.routing.route(request.method(), request.uri(), request.headers())? {
            Route::Ping => {
                let pong = AnswerBody::full(Bytes::from_static(b"pong\n"));
                return Ok(Made::of(Response::new(pong), Source::Own));
            }
            Route::Errand(errand) => errand,
        };
        let Errand { upstream, what, filter, prefetch } = errand;
        let target = Target::new(upstream.registry, &upstream.path_and_query, request.headers(), &filter)
            .ok_or(Trouble::Request("the path is none that a registry can have"))?
            .within(learned.span.trace());
        learned.span.rename(|| format!("{}{}", request.method(), what.route()));
        let registry = learned.registry.insert(target.registry().clone());
        let made = self.run(what, prefetch, target, request).await;
        let refused = match &made {
            Ok(Made { answer, source: Source::Pass, .. }) => Some((answer.status(), answer.headers())),
            Err(Trouble::Fetch(FetchError::Verdict(verdict))) => Some((verdict.status, &verdict.headers)),
            _ => None,
        };
        if let Some((StatusCode::UNAUTHORIZED, headers)) = refused {
            self.shared.realms.note(registry, headers);
        }
        made
    }

    async fn run(&self, what: What, prefetch: bool, target: Target, request: Request<Incoming>) -> Making {
        let method = request.method().clone();
        let (id, kind, by_digest) = match what {
            What::Content { id, kind } => (id, kind, None),
            What::Tag if method == Method::GET => match manifest::resolve(self, &target).await? {
                Named::Content(id, by_digest) => (id, Kind::Manifest, Some(*by_digest)),
                Named::Pass => return self.pass(target, what, request).await,
            },
            What::Tag | What::Other => return self.pass(target, what, request).await,
        };
        let range = request.headers().get(header::RANGE).and_then(|value| value.to_str().ok());
        let wanted = Wanted::parse(range);
        let of_version = request.headers().get(header::IF_RANGE).cloned();
        let at = by_digest.as_ref().unwrap_or(&target);
        let content =
            ContentRequest { id, kind, target: at.clone().for_blob(), wanted, of_version, prefetch };
        if method == Method::HEAD {
            return match content::known_head(&self.sources, &content) {
                Some(head) => Ok(Made::of(head, Source::Cache)),
                None => self.pass(target, what, request).await,
            };
        }
        match content::answer(&self.sources, &content).await? {
            Outcome::Answer(made) if what == What::Tag => Ok(made.having_asked()),
            Outcome::Answer(made) => Ok(made),
            Outcome::PassThrough if kind == Kind::Url => self.pass(target, what, request).await,
            Outcome::PassThrough => {
                let answer = pass::pass_by_digest(&self.origin, &self.sources.answers, at, id).await?;
                Ok(Made::of(answer, Source::Pass))
            }
        }
    }

    /// The registry itself answers; what its answer says of who may read is noted.
    async fn pass(&self, target: Target, what: What, request: Request<Incoming>) -> Making {
        let (origin, answers) = (&self.origin, &self.sources.answers);
        let target = match self.realm_of(&target, &request)? {
            Some(realm) => target.to_realm(realm, request.uri().query()),
            None => target,
        };
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let is_head = *request.method() == Method::HEAD;
        let passed = pass::pass(origin, answers, &target, request).await;
        let is_down = passed.as_ref().map_or(true, |answer| manifest::is_down(answer.status()));
        if is_read
            && is_down
            && let Some(answer) = self.answer_while_down(&target, what, is_head)
        {
            return Ok(Made::of(answer, Source::Cache).having_asked());
        }
        let answer = passed?;
        match what {
            What::Other if is_read && Welcomes::is_base(&target) => {
                self.shared.welcomes.note(&target, answer.status(), answer.headers());
            }
            _ if !answer.status().is_success() => {}
            What::Content { id, kind: Kind::Blob | Kind::Manifest } => {
                self.sources.access.prove(origin, &target, Some(&id));
            }
            What::Tag => _ = self.note_manifest(&target, answer.headers()),
            What::Content { .. } | What::Other => {}
        }
        Ok(Made::of(answer, Source::Pass))
    }

    /// The answer that the registry does not give, if it is known and its claim was proven within the grace.
    fn answer_while_down(&self, target: &Target, what: What, is_head: bool) -> Option<Response<AnswerBody>> {
        let grace = self.sources.access.grace();
        let (id, kind) = match what {
            What::Content { id, kind } if is_head => (id, kind),
            What::Tag if is_head => (self.sources.access.tag_named_last(target)?, Kind::Manifest),
            What::Other if Welcomes::is_base(target) => return self.shared.welcomes.last(target, grace),
            _ => return None,
        };
        self.sources.access.holds_while_down(target, &id).then_some(())?;
        let (target, wanted) = (target.clone(), Wanted::Whole);
        let content = ContentRequest { id, kind, target, wanted, of_version: None, prefetch: false };
        content::known_head(&self.sources, &content)
    }

    /// The realm, if this is a request for a token. What would ask a realm that is not known goes nowhere: it has a
    /// password in it.
    fn realm_of(&self, target: &Target, request: &Request<Incoming>) -> Result<Option<url::Url>, Trouble> {
        let path = target.url().path();
        // A forward proxy's client has named the host itself.
        if path.starts_with("/v2/") || request.uri().authority().is_some() {
            return Ok(None);
        }
        let realm = self.shared.realms.at(target.registry(), path);
        let asks_a_realm = *request.method() == Method::POST
            || target.url().query_pairs().any(|(name, _)| name == "service" || name == "scope");
        match realm {
            None if asks_a_realm => Err(Trouble::NoRealm),
            realm => Ok(realm),
        }
    }
}

/// What is logged about a request says which one it is.
fn logged(id: &RequestId, span: &Span) -> tracing::Span {
    // The highest level, so that it is there whatever is logged.
    match span.context() {
        Some(context) => tracing::error_span!("request", %id, trace = format_args!("{:032x}", context.trace)),
        None => tracing::error_span!("request", %id),
    }
}
