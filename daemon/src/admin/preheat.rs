//! `POST /api/v1/preheat?url=URL&to=seeds`: brings a content before anybody wants it, and tells how far it is.
//!
//! The answer goes on for as long as the content comes, a line of JSON at a time ([`Line`]); who hangs up stops it.
//! What the registry refuses is passed on as it came, so that who asked can ask it for a token and try again.
//!
//! What brings it is a [`Bring`]: [`ThroughFront`] reads it through this daemon's own front, as any client would. In a
//! cluster its owner then has it too, for that is how a node gets what it lacks; when it is to be brought to all nodes, the
//! seeds are told so after that, and tell theirs.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_engine::Naming;
use darter_transport::cluster::{Shared, Spreading};
use darter_transport::wire::{Spread, Text};
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{self, LocalBoxStream};
use futures_util::{FutureExt, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body::Frame;
use http_body_util::{BodyExt, Empty};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::{Instant, timeout};
use url::Url;

use super::api::{Code, Problem};
use super::reach::{AllNodes, SpreadInfo, SpreadingInfo};
use super::token::Token;
use super::{bad_request, parameter};
use crate::cluster::errand;
use crate::commands::front_request;
use crate::commands::wire::{self, HttpError};
use crate::config::Registry;
use crate::fetch::WeakFetches;
use crate::front::route::{Errand, Route, What};
use crate::origin::Target;
use crate::policy::Policy;

/// Contents that are brought at a time; each is one more reader.
pub(super) const PREHEATS_MAX: usize = 16;
/// How long the front may be silent: it waits for slow registries for 30 s.
const SILENCE: Duration = Duration::from_secs(90);
/// The body of a refusal that is passed on.
const REFUSAL_BYTES_MAX: usize = 16 << 10;
/// Between two lines.
const TOLD_EVERY: Duration = Duration::from_millis(250);
/// A line comes at least so often.
const TOLD_ANYWAY_AFTER: Duration = Duration::from_secs(10);
/// What seeds have said and is not looked at yet.
const HEARD_MAX: usize = 16;
/// Lines that whoever asked has not read yet.
const LINES_MAX: usize = 4;
/// Of a refusal, what may be of use to who asked.
const PASSED_ON: [&str; 4] = ["www-authenticate", "retry-after", "content-type", "x-dragonfly-error-type"];

/// A line of the answer. The last one is another than `coming`; an answer that ends without has been cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// So far.
    Coming {
        /// That have come, or were there.
        come_bytes: u64,
        /// Of the whole, if that is known.
        length_bytes: Option<u64>,
    },
    /// It is here and at its owner, and comes to all nodes.
    Spreading(SpreadingInfo),
    /// All is there.
    Done {
        /// Of the whole.
        come_bytes: u64,
        /// If it was to be brought to all nodes: to which it was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spread: Option<SpreadInfo>,
    },
    /// It is not.
    Failed {
        /// For people.
        message: String,
    },
}

/// To which nodes a content is brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Whereto {
    /// To the seeds that own it. A node without a cluster is its own seed.
    #[default]
    Seeds,
    /// To every node of the cluster.
    All,
}

impl FromStr for Whereto {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "seeds" => Ok(Self::Seeds),
            "all" => Ok(Self::All),
            _ => Err("expected seeds or all"),
        }
    }
}

impl fmt::Display for Whereto {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Seeds => "seeds",
            Self::All => "all",
        })
    }
}

/// What is to be brought.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// http or https.
    pub(crate) url: Url,
    /// Of a path below `/v2/`: whose it is.
    pub(crate) registry: Option<Registry>,
    pub(crate) to: Whereto,
    /// What the registry is shown.
    pub(crate) authorization: Option<HeaderValue>,
}

impl Wanted {
    /// Of a call's query and heads. An `Authorization` that has the admin port's own token is not the registry's.
    pub(super) fn of(uri: &Uri, headers: &HeaderMap, token: Option<&Token>) -> Result<Self, Problem> {
        let text = parameter(uri, "url").ok_or_else(|| bad_request("url: missing; expected http(s)://…"))?;
        let url: Url = text.parse().map_err(|error| bad_request(format!("url: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(bad_request("url: expected http(s)://HOST…"));
        }
        let authorization = headers.get(header::AUTHORIZATION);
        let authorization = authorization.filter(|value| !token.is_some_and(|token| token.is_in(value)));
        let to = parameter(uri, "to").map(|text| text.parse()).transpose();
        Ok(Self {
            registry: front_request::registry_of(&url),
            to: to.map_err(|error| bad_request(format!("to: {error}")))?.unwrap_or_default(),
            authorization: authorization.cloned(),
            url,
        })
    }
}

/// What brings contents.
pub(crate) trait Bring: fmt::Debug {
    /// Begins; what it returns is dropped when nobody wants it any more.
    fn bring(&self, wanted: Wanted) -> LocalBoxFuture<'_, Result<Coming, NotBrought>>;
}

/// A content that comes.
pub(crate) struct Coming {
    /// Of the whole, if that is known.
    pub(crate) length_bytes: Option<u64>,
    /// How many bytes more are there; an error for people ends it.
    pub(crate) more: LocalBoxStream<'static, Result<u64, String>>,
    /// How it then comes to all nodes, if it is to; an error for people ends it.
    pub(crate) spread: Option<LocalBoxFuture<'static, Result<mpsc::Receiver<Spreading>, String>>>,
}

/// Why nothing comes.
#[derive(Debug)]
pub(crate) enum NotBrought {
    /// The registry, or the daemon in its place, refuses: status, heads and body.
    Refused(StatusCode, HeaderMap, Bytes),
    /// It cannot be.
    Problem(Problem),
}

impl From<HttpError> for NotBrought {
    fn from(error: HttpError) -> Self {
        Self::Problem(Problem::new(Code::Failed, format!("the front of this daemon: {error}")))
    }
}

/// Reads a content through the daemon's own front.
#[derive(Clone, Debug)]
pub(crate) struct ThroughFront {
    front: SocketAddr,
    /// The way to all nodes, in a cluster.
    others: Option<Others>,
}

/// The way to the other nodes of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Others {
    pub(crate) shared: Arc<Shared>,
    /// Weak, because the shards' inboxes close with the last front.
    pub(crate) fetches: WeakFetches,
    /// Which content a request is about.
    pub(crate) policy: watch::Receiver<Policy>,
}

impl Others {
    /// What is asked of the seeds for that request.
    fn spread(&self, request: &Request<Empty<Bytes>>) -> Result<Spread, Problem> {
        let failed = |message: &str| Problem::new(Code::Failed, message);
        if self.shared.seeds().live().is_empty() {
            let message = "this node has reached no seed yet, and seeds know the nodes: look at cluster.join and at the \
                           log of this daemon";
            return Err(failed(message));
        }
        let route = self.policy.borrow().routing.route(&Method::GET, request.uri(), request.headers());
        let errand = match route.map_err(bad_request)? {
            Route::Errand(errand) => errand,
            Route::Ping => return Err(bad_request("url: there is nothing to bring")),
        };
        let Errand { upstream, what, filter, .. } = errand;
        let What::Content { id, kind } = what else {
            return Err(failed(
                "only what the cache keeps by itself, such as a blob, can be brought to all nodes",
            ));
        };
        let target = Target::new(upstream.registry, &upstream.path_and_query, request.headers(), &filter);
        let target = target.ok_or_else(|| bad_request("url: the path is none that a registry can have"))?;
        let target = target.for_blob();
        let told = errand::pack(&target);
        Ok(Spread {
            content: id,
            by_digest: kind.naming() == Naming::Digest,
            registry: target.scope(),
            origin: Text::cut(&target.registry().to_string()),
            errand: told.ok_or_else(|| failed("the request is too long to be told to other nodes"))?,
        })
    }

    async fn begin(self, ask: Spread) -> Result<mpsc::Receiver<Spreading>, String> {
        let (to, heard) = mpsc::channel(HEARD_MAX);
        let fetches = self.fetches.upgrade().ok_or("this daemon is stopping")?;
        fetches.spread(ask, to).map_err(|error| error.to_string())?;
        Ok(heard)
    }
}

impl ThroughFront {
    /// `front` is where the front listens, perhaps at all addresses.
    pub(crate) fn new(front: SocketAddr) -> Self {
        let ip = match front.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        Self { front: SocketAddr::new(ip, front.port()), others: None }
    }

    /// The same of a node that is in a cluster.
    pub(crate) fn in_cluster(self, others: Others) -> Self {
        Self { others: Some(others), ..self }
    }

    async fn begin(self, wanted: Wanted) -> Result<Coming, NotBrought> {
        let request = front_request::get(self.front, wanted.registry.as_ref(), &wanted.url);
        let mut request = request.map_err(|error| NotBrought::Problem(bad_request(error)))?;
        if let Some(authorization) = wanted.authorization {
            request.headers_mut().insert(header::AUTHORIZATION, authorization);
        }
        let spread = match (wanted.to, self.others) {
            (Whereto::Seeds, _) => None,
            // This node is all nodes.
            (Whereto::All, None) => None,
            (Whereto::All, Some(others)) => {
                let ask = others.spread(&request).map_err(NotBrought::Problem)?;
                Some(others.begin(ask).boxed_local())
            }
        };
        let answer = wire::send(self.front, request, SILENCE).await?;
        if answer.status() != StatusCode::OK {
            let (status, mut headers, body) = wire::whole(answer, REFUSAL_BYTES_MAX, SILENCE).await?;
            let passed_on = PASSED_ON.into_iter().flat_map(|name| {
                let name = header::HeaderName::from_static(name);
                let values = headers.get_all(&name).iter().cloned().collect::<Vec<_>>();
                values.into_iter().map(move |value| (name.clone(), value))
            });
            headers = passed_on.collect();
            return Err(NotBrought::Refused(status, headers, body));
        }
        let length = answer.headers().get(header::CONTENT_LENGTH);
        let length_bytes = length.and_then(|value| value.to_str().ok()?.parse().ok());
        let more = stream::unfold(Some(answer.into_body()), |body| async move {
            let mut body = body?;
            match timeout(SILENCE, body.frame()).await {
                Err(_) => Some((Err(format!("nothing came for {} s", SILENCE.as_secs())), None)),
                Ok(None) => None,
                Ok(Some(Err(error))) => Some((Err(crate::origin::innermost(&error)), None)),
                Ok(Some(Ok(frame))) => {
                    let bytes = frame.data_ref().map_or(0, Bytes::len);
                    Some((Ok(bytes as u64), Some(body)))
                }
            }
        });
        Ok(Coming { length_bytes, more: more.boxed_local(), spread })
    }
}

impl Bring for ThroughFront {
    fn bring(&self, wanted: Wanted) -> LocalBoxFuture<'_, Result<Coming, NotBrought>> {
        self.clone().begin(wanted).boxed_local()
    }
}

/// The lines of an answer.
pub(super) type Lines = LocalBoxStream<'static, Result<Frame<Bytes>, Infallible>>;

/// Tells how a content comes. It goes on coming for as long as the lines are wanted, also while nobody reads them.
pub(super) fn lines(coming: Coming, place: OwnedSemaphorePermit) -> Lines {
    let (sender, receiver) = mpsc::channel(LINES_MAX);
    tokio::task::spawn_local(async move {
        tokio::select! {
            () = tell(coming, &sender) => {}
            () = sender.closed() => tracing::debug!("nobody waits any more for a content that was to be brought"),
        }
        drop(place);
    });
    stream::unfold(receiver, |mut receiver| async move {
        let line: Line = receiver.recv().await?;
        let mut text = serde_json::to_string(&line).unwrap_or_default();
        text.push('\n');
        Some((Ok(Frame::data(text.into())), receiver))
    })
    .boxed_local()
}

async fn tell(coming: Coming, to: &mpsc::Sender<Line>) {
    let Coming { length_bytes, mut more, spread } = coming;
    let (mut come_bytes, mut told_at) = (0_u64, None::<Instant>);
    let last = loop {
        if told_at.is_none_or(|at| at.elapsed() >= TOLD_EVERY) {
            told_at = Some(Instant::now());
            // Who reads slowly misses some.
            let _ = to.try_send(Line::Coming { come_bytes, length_bytes });
        }
        match more.next().await {
            Some(Ok(bytes)) => come_bytes = come_bytes.saturating_add(bytes),
            Some(Err(message)) => break Line::Failed { message },
            None if length_bytes.is_some_and(|length| length != come_bytes) => {
                break Line::Failed { message: "it ended too early".into() };
            }
            None => break Line::Done { come_bytes, spread: None },
        }
    };
    let last = match (last, spread) {
        (Line::Done { come_bytes, .. }, Some(spread)) => match spread.await {
            Ok(heard) => Line::Done { come_bytes, spread: Some(tell_of_nodes(heard, to).await) },
            Err(message) => Line::Failed { message },
        },
        (last, _) => last,
    };
    // Who has gone needs no end.
    let _ = to.send(last).await;
}

/// Tells what the seeds say, until none of them says any more.
async fn tell_of_nodes(mut heard: mpsc::Receiver<Spreading>, to: &mpsc::Sender<Line>) -> SpreadInfo {
    let (mut nodes, mut told_at) = (AllNodes::default(), None::<Instant>);
    loop {
        match timeout(TOLD_ANYWAY_AFTER, heard.recv()).await {
            Ok(Some(spreading)) => nodes.heard(spreading),
            Ok(None) => return nodes.end(),
            Err(_) => told_at = None,
        }
        if told_at.is_none_or(|at| at.elapsed() >= TOLD_EVERY) {
            told_at = Some(Instant::now());
            let _ = to.try_send(Line::Spreading(nodes.so_far()));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    fn wanted(query: &str) -> Result<Wanted, Problem> {
        let uri = format!("/api/v1/preheat?{query}").parse().unwrap();
        Wanted::of(&uri, &HeaderMap::new(), None)
    }

    #[test]
    fn what_is_wanted_is_read() {
        let of = wanted("url=https%3A%2F%2Fghcr.io%2Fv2%2Fa%2Fblobs%2Fsha256%3A1&to=all").unwrap();
        assert_eq!((of.url.as_str(), of.to), ("https://ghcr.io/v2/a/blobs/sha256:1", Whereto::All));
        assert_eq!(of.registry, Some("https://ghcr.io".parse().unwrap()));
        let of = wanted("url=http://files.example/a").unwrap();
        assert_eq!((of.registry, of.to), (None, Whereto::Seeds));
        for wrong in ["", "url=", "url=ftp://a/b", "url=a", "url=http://a/&to=some"] {
            assert_eq!(wanted(wrong).unwrap_err().code, Code::BadRequest, "{wrong}");
        }
    }

    /// What is told of a content that comes in these steps.
    async fn told(length_bytes: Option<u64>, steps: Vec<Result<u64, String>>) -> Vec<Line> {
        let places = Arc::new(Semaphore::new(1));
        let place = places.clone().try_acquire_owned().unwrap();
        let coming = Coming { length_bytes, more: stream::iter(steps).boxed_local(), spread: None };
        let told = tokio::task::LocalSet::new()
            .run_until(async {
                let lines = lines(coming, place).collect::<Vec<_>>().await;
                // The place is free again when all is told.
                let _free = places.acquire().await.unwrap();
                lines
            })
            .await;
        let line = |frame: Result<Frame<Bytes>, Infallible>| {
            let bytes = frame.unwrap().into_data().unwrap();
            assert!(bytes.ends_with(b"\n"));
            serde_json::from_slice(&bytes).unwrap()
        };
        told.into_iter().map(line).collect()
    }

    #[tokio::test]
    async fn lines_tell_how_it_comes_and_ends() {
        let done = |come_bytes| Line::Done { come_bytes, spread: None };
        let coming = |length_bytes| Line::Coming { come_bytes: 0, length_bytes };
        assert_eq!(told(Some(7), vec![Ok(3), Ok(4)]).await, [coming(Some(7)), done(7)]);
        assert_eq!(told(None, vec![Ok(3)]).await, [coming(None), done(3)]);
        let failed = |message: &str| Line::Failed { message: message.into() };
        assert_eq!(told(Some(7), vec![Ok(3)]).await, [coming(Some(7)), failed("it ended too early")]);
        assert_eq!(told(None, vec![Err("broken".into())]).await, [coming(None), failed("broken")]);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_let_go() {
        let places = Arc::new(Semaphore::new(1));
        let place = places.clone().try_acquire_owned().unwrap();
        let coming = Coming { length_bytes: None, more: stream::pending().boxed_local(), spread: None };
        tokio::task::LocalSet::new()
            .run_until(async {
                let mut lines = lines(coming, place);
                assert!(lines.next().await.is_some());
                drop(lines);
                let _free = places.acquire().await.unwrap();
            })
            .await;
    }

    #[test]
    fn the_front_is_reached_on_this_machine() {
        let reached = |text: &str| ThroughFront::new(text.parse().unwrap()).front.to_string();
        assert_eq!(reached("0.0.0.0:1"), "127.0.0.1:1");
        assert_eq!(reached("[::]:1"), "[::1]:1");
        assert_eq!(reached("10.0.0.1:1"), "10.0.0.1:1");
    }
}
