//! The admin port: whether the daemon lives, what it counts, and what it holds.
//!
//! `/server/ping`, `/healthz`, `/readyz` ([`health`]) and `/metrics` are for probes and scrapers, `/api/v1` is for the commands of
//! `darter` and the status [`page`] at `/` ([`api`] has its words, `docs/openapi.yaml` all of it). Calls pass the [`guard`]
//! first; probes and scrapes do not.

pub(crate) mod api;
mod cells;
mod concerns;
pub(crate) mod connection;
mod contents;
pub(crate) mod guard;
pub(crate) mod health;
mod history;
mod page;
pub(crate) mod peers;
pub(crate) mod preheat;
pub(crate) mod reach;
pub(crate) mod reference;
mod requests;
mod status;
pub(crate) mod token;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use darter_engine::{Content, Store};
use darter_transport::cluster::Shared;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{Either, Full, StreamBody};
use hyper::body::Incoming;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use url::form_urlencoded;

use self::api::{Code, ConfigProblem, PAGE_DEFAULT, Problem, Refused, ReloadedInfo};
use self::connection::Places;
use self::contents::{Order, PageAsked};
use self::guard::Ends;
use self::history::{History, Sample};
use self::peers::PeersInfo;
use self::preheat::{Bring, NotBrought, Wanted};
use self::reference::ContentRef;
use self::requests::LatestInfo;
pub(crate) use self::status::Watched;
use self::status::{FetchesInfo, HeldInfo, OwnInfo, StatusInfo};
use crate::config::Registry;
use crate::fetch::Movement;
use crate::metrics::Metrics;
use crate::reload::{Reload, ReloadError};

/// Contents that are read through at a time: each keeps a disk busy.
const VERIFICATIONS_MAX: usize = 1;
/// Who tries out tokens fills no log.
const WRONG_TOKEN_TOLD_EVERY: Duration = Duration::from_secs(10);
const NO_CLUSTER: &str = "this node is in no cluster: it was started without --cluster-secret FILE or cluster.secretFile; \
     `darter cluster init` makes that file";

/// What the admin port tells of.
#[derive(Debug)]
pub(crate) struct Admin {
    store: Store,
    /// Unless they are not to be served.
    metrics: Option<Arc<Metrics>>,
    reload: Rc<Reload>,
    bring: Rc<dyn Bring>,
    /// That this node is in, if it is in one.
    cluster: Option<Arc<Shared>>,
    since: Instant,
    watched: Watched,
    history: RefCell<History>,
    listings: Semaphore,
    verifications: Semaphore,
    preheats: Arc<Semaphore>,
    wrong_token_told: Cell<Option<Instant>>,
}

/// Whole, or as it comes.
type Answer = Response<Either<Full<Bytes>, StreamBody<preheat::Lines>>>;

impl Admin {
    /// Of a node that is in no cluster yet, whose contents `bring` brings, and whose shards are `watched`.
    pub(crate) fn new(
        store: Store,
        metrics: Option<Arc<Metrics>>,
        reload: Rc<Reload>,
        bring: Rc<dyn Bring>,
        watched: Watched,
    ) -> Self {
        Self {
            store,
            metrics,
            reload,
            bring,
            cluster: None,
            since: Instant::now(),
            watched,
            history: RefCell::default(),
            listings: Semaphore::new(contents::LISTINGS_MAX),
            verifications: Semaphore::new(VERIFICATIONS_MAX),
            preheats: Arc::new(Semaphore::new(preheat::PREHEATS_MAX)),
            wrong_token_told: Cell::default(),
        }
    }

    /// The same of a node that is in this cluster.
    pub(crate) fn in_cluster(self, cluster: Arc<Shared>) -> Self {
        Self { cluster: Some(cluster), ..self }
    }

    /// Serves connections, and notes each second what has moved, for as long as the future lives.
    pub(crate) async fn serve(self: Rc<Self>, listener: TcpListener) {
        let (serving, noting) = (self.clone().accept(listener), self.note_what_moves());
        tokio::select! {
            () = serving => {}
            () = noting => {}
        }
    }

    async fn note_what_moves(&self) {
        let mut each = tokio::time::interval(Duration::from_millis(history::EVERY_MS));
        each.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            each.tick().await;
            let sample = self.sample();
            self.history.borrow_mut().note(sample);
        }
    }

    fn sample(&self) -> Sample {
        self.watched.sample(&self.store, self.cluster.as_deref(), self.since.elapsed())
    }

    async fn accept(self: Rc<Self>, listener: TcpListener) {
        let places = Rc::<Places>::default();
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "the admin port cannot accept connections for the moment");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            // It fails only when the connection is gone.
            let Ok(local) = stream.local_addr() else { continue };
            let (admin, ends) = (self.clone(), Ends { local, peer });
            let answer = move |request: Request<Incoming>| {
                let admin = admin.clone();
                async move { admin.answer(&request, ends).await }
            };
            tokio::task::spawn_local(connection::serve(stream, places.take(), answer));
        }
    }

    async fn answer(&self, request: &Request<Incoming>, ends: Ends) -> Answer {
        const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        let path = request.uri().path();
        if let Some(call) = path.strip_prefix(api::ROOT).and_then(|rest| rest.strip_prefix('/')) {
            return match self.call(call, request, ends).await {
                Ok(answer) => answer,
                Err(refused) => refused.answer(),
            };
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer =
                text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "darter: GET or HEAD\n".into());
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        if let Some(answer) = page::answer(path, request.headers()) {
            return match ends.may_look(request.uri(), request.headers()) {
                Ok(()) => answer,
                Err(refusal) => {
                    text(StatusCode::FORBIDDEN, "text/plain; charset=utf-8", format!("darter: {refusal}\n"))
                }
            };
        }
        match (path, &self.metrics) {
            ("/server/ping", _) => text(StatusCode::OK, "text/plain", "pong\n".into()),
            ("/healthz", _) => told(self.watched.health.health()),
            ("/readyz", _) => told(self.watched.health.readiness(self.cluster.as_deref())),
            ("/metrics", Some(metrics)) => {
                text(StatusCode::OK, OPENMETRICS, metrics.text(&self.store, self.cluster.as_deref()))
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "text/plain",
                "darter: there are / (the status page), /server/ping, /healthz, /readyz, /metrics (unless metrics.enable is \
                 false), /api/v1/status, /api/v1/history, /api/v1/requests, /api/v1/store, /api/v1/contents, /api/v1/peers, \
                 /api/v1/preheat and /api/v1/reload\n"
                    .into(),
            ),
        }
    }

    /// One call of the API; `path` is what follows its root.
    async fn call(&self, path: &str, request: &Request<Incoming>, ends: Ends) -> Result<Answer, Refusal> {
        let segments: Vec<&str> = path.split('/').collect();
        let uri = request.uri();
        // What the path is decides which methods there are; what changes something is guarded before it is looked at.
        let (allowed, change) = match segments[..] {
            ["status" | "history" | "requests" | "store" | "contents" | "peers"] => ("GET, HEAD", false),
            ["reload" | "preheat"] => ("POST", true),
            ["contents", _] => ("GET, HEAD, DELETE", request.method() == Method::DELETE),
            ["contents", _, "pin" | "unpin" | "verify"] => ("POST", true),
            _ => return Err(Problem::new(Code::NotFound, format!("there is no {}/{path}", api::ROOT)).into()),
        };
        let method = request.method().as_str();
        if !allowed.split(", ").any(|name| name == method) {
            return Err(Refusal::Method { allowed });
        }
        let (headers, token) = (request.headers(), self.reload.admin_token());
        let allowed = match change {
            true => ends.may_change(uri, headers, token.as_ref()),
            false => ends.may_look(uri, headers),
        };
        allowed.map_err(|refusal| self.refused(&refusal))?;
        let store = &self.store;
        match segments[..] {
            ["status"] => json(&self.status().await),
            ["history"] => json(&self.history.borrow().info()),
            ["requests"] => {
                let after = number(uri, "after")?.unwrap_or(0);
                json(&LatestInfo::of(self.watched.recent(), after))
            }
            ["store"] => json(&contents::store_info(store)),
            ["peers"] => {
                let cluster =
                    self.cluster.as_ref().ok_or_else(|| Problem::new(Code::NotFound, NO_CLUSTER))?;
                let limit = number(uri, "limit")?.unwrap_or(peers::PEERS_MAX);
                json(&PeersInfo::of(cluster, self.since.elapsed()).with_at_most(limit))
            }
            ["preheat"] => self.preheated(Wanted::of(uri, headers, token.as_ref())?).await,
            ["reload"] => json(&self.reloaded().await?),
            ["contents"] => {
                let asked = page_asked(uri)?;
                // Where nobody looks at what is coming, no shard is asked.
                let is_looked_at = asked.order == Order::Use || asked.cells.is_some();
                let movement =
                    if is_looked_at { self.watched.fetches.movement().await } else { Movement::default() };
                json(&contents::page(store, &self.listings, asked, &movement).await?)
            }
            ["contents", id] => {
                let content = self.meant(id, uri)?;
                if change {
                    return json(&contents::remove(store, &content).await?);
                }
                let cells = number(uri, "cells")?;
                let movement =
                    if cells.is_some() { self.watched.fetches.movement().await } else { Movement::default() };
                json(&contents::told(store, &content, cells, &movement).await)
            }
            ["contents", id, "verify"] => {
                let content = self.meant(id, uri)?;
                let _only = self.verifications.try_acquire().map_err(|_| {
                    Problem::new(
                        Code::Busy,
                        "another content is being verified; try again when that has ended",
                    )
                })?;
                json(&contents::verify(store, content).await?)
            }
            ["contents", id, verb] => {
                json(&contents::pin(store, &self.meant(id, uri)?, verb == "pin").await?)
            }
            _ => unreachable!("the paths are those of the match above"),
        }
    }

    /// What the guard refuses. Tokens that are tried out are worth a line in the log, though not one each.
    fn refused(&self, refusal: &guard::Refusal) -> Problem {
        if let guard::Refusal::WrongToken(peer) = refusal
            && self.wrong_token_told.get().is_none_or(|told| told.elapsed() > WRONG_TOKEN_TOLD_EVERY)
        {
            self.wrong_token_told.set(Some(Instant::now()));
            tracing::warn!(%peer, "another machine shows a token that is not that of health.tokenFile; nothing is changed");
        }
        Problem::new(
            if refusal.wants_token() { Code::Unauthorized } else { Code::Forbidden },
            refusal.to_string(),
        )
    }

    async fn status(&self) -> StatusInfo {
        let (now, movement) = (self.sample(), self.watched.fetches.movement().await);
        let mut status = StatusInfo {
            version: env!("CARGO_PKG_VERSION").into(),
            io: self.store.backend().to_string(),
            at_ms: now.at_ms,
            node: self.cluster.as_deref().map(OwnInfo::of),
            concerns: Vec::new(),
            store: HeldInfo::of(&self.store, now.unkept_bytes),
            scrub: contents::scrub_info(&self.store.scrub_status()),
            bytes: now.bytes,
            requests: now.requests,
            connections: self.watched.connections(),
            fetches: FetchesInfo::from(&movement),
        };
        let (before, bad_blocks) = {
            let history = self.history.borrow();
            (history.before(now.at_ms, concerns::LATELY_MS), history.bad_blocks_lately(&now))
        };
        let last_failure = self.watched.recent().failed_within(Duration::from_millis(concerns::LATELY_MS));
        let lately = concerns::Lately { before, now, last_failure, bad_blocks };
        status.concerns = concerns::concerns(&status, &lately);
        status
    }

    async fn preheated(&self, wanted: Wanted) -> Result<Answer, Refusal> {
        let place = self.preheats.clone().try_acquire_owned();
        let place = place.map_err(|_| {
            Problem::new(
                Code::Busy,
                "too many contents are being brought; try again when one of them is there",
            )
        })?;
        match self.bring.bring(wanted).await {
            Ok(coming) => {
                let lines = StreamBody::new(preheat::lines(coming, place));
                let mut answer = Response::new(Either::Right(lines));
                let json_lines = HeaderValue::from_static("application/x-ndjson");
                answer.headers_mut().insert(header::CONTENT_TYPE, json_lines);
                Ok(answer)
            }
            Err(NotBrought::Problem(problem)) => Err(problem.into()),
            Err(NotBrought::Refused(status, headers, body)) => {
                let mut answer = Response::new(Either::Left(Full::new(body)));
                *answer.status_mut() = status;
                *answer.headers_mut() = headers;
                answer.headers_mut().insert(api::PASSED_ON, HeaderValue::from_static("true"));
                Ok(answer)
            }
        }
    }

    async fn reloaded(&self) -> Result<ReloadedInfo, Problem> {
        let file = self.reload.file().map(|file| file.display().to_string());
        match self.reload.run().await {
            Ok(reloaded) => Ok(ReloadedInfo::new(file, reloaded)),
            Err(ReloadError::Config(error)) => {
                let problems = error.problems().iter().map(ConfigProblem::from).collect();
                Err(Problem { problems, ..bad_request(&error) })
            }
            Err(error) => Err(Problem::new(Code::Failed, error.to_string())),
        }
    }

    fn meant(&self, id: &str, uri: &Uri) -> Result<Arc<Content>, Problem> {
        let reference: ContentRef = percent_decoded(id).parse().map_err(bad_request)?;
        let registry = parameter(uri, "registry");
        let registry = registry.map(|text| Registry::from_reference(&text)).transpose();
        let registry = registry
            .map_err(|error| bad_request(format!("registry: {error}; expected https://HOST[:PORT]")))?;
        contents::find(&self.store, &reference, registry.map(|registry| registry.to_string()).as_deref())
    }
}

/// Why a call is not answered.
enum Refusal {
    Problem(Problem),
    Method { allowed: &'static str },
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl Refusal {
    fn answer(self) -> Answer {
        let (problem, allowed) = match self {
            Self::Problem(problem) => (problem, None),
            Self::Method { allowed } => {
                (Problem::new(Code::MethodNotAllowed, format!("expected {allowed}")), Some(allowed))
            }
        };
        let status = match problem.code {
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::BadRequest => StatusCode::BAD_REQUEST,
            Code::Ambiguous => StatusCode::CONFLICT,
            Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Code::Forbidden => StatusCode::FORBIDDEN,
            Code::Unauthorized => StatusCode::UNAUTHORIZED,
            Code::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Code::Failed | Code::Other => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let body = serde_json::to_string(&Refused { error: problem }).unwrap_or_default();
        let mut answer = text(status, "application/json", body + "\n");
        if status == StatusCode::UNAUTHORIZED {
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(allowed) = allowed {
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
        }
        answer
    }
}

fn bad_request(error: impl ToString) -> Problem {
    Problem::new(Code::BadRequest, error.to_string())
}

/// Behind which id, how many, in which order, with how many cells.
fn page_asked(uri: &Uri) -> Result<PageAsked, Problem> {
    let limit = number(uri, "limit")?.unwrap_or(PAGE_DEFAULT);
    let cells = number(uri, "cells")?;
    let order = match parameter(uri, "order").as_deref() {
        None | Some("id") => Order::Id,
        Some("use") => Order::Use,
        Some(other) => return Err(bad_request(format!("order: {other:?} is neither id nor use"))),
    };
    let after = parameter(uri, "after").map(|text| {
        let digits = text.split_once(':').map_or(&*text, |(_, digits)| digits);
        digits.parse().map_err(|error| bad_request(format!("after: {error}")))
    });
    Ok(PageAsked { after: after.transpose()?, limit, order, cells })
}

fn number<T: FromStr>(uri: &Uri, name: &str) -> Result<Option<T>, Problem> {
    let parsed = parameter(uri, name).map(|text| {
        text.parse().map_err(|_| bad_request(format!("{name}: {text:?} is no number that it can have")))
    });
    parsed.transpose()
}

fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let query = uri.query().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// A client may write the colon of `sha256:…` as `%3A`; nothing else of an id needs to be encoded.
fn percent_decoded(id: &str) -> String {
    id.replace("%3A", ":").replace("%3a", ":")
}

fn json<T: Serialize>(value: &T) -> Result<Answer, Refusal> {
    match serde_json::to_string(value) {
        Ok(body) => Ok(text(StatusCode::OK, "application/json", body + "\n")),
        Err(error) => Err(Problem::new(Code::Failed, error.to_string()).into()),
    }
}

fn told((status, body): (StatusCode, String)) -> Answer {
    text(status, "text/plain; charset=utf-8", body)
}

fn text(status: StatusCode, media_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(Bytes::from(body))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}
