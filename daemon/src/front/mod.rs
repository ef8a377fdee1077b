//! The HTTP front: where nydusd and containerd connect.
//!
//! A range request goes: [`route`] → [`blob`] → `store.find` → [`reader`] → slices of the mapping, or the
//! [fetch](crate::fetch) for what is absent. What is not a blob goes through `pass`.

pub mod blob;
pub mod body;
mod pass;
pub mod range;
pub mod reader;
pub mod route;
pub mod trouble;

use std::convert::Infallible;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;

use self::blob::{BlobRequest, Outcome};
use self::body::AnswerBody;
use self::range::Wanted;
use self::reader::Sources;
use self::route::{Route, Routing};
use self::trouble::Trouble;
use crate::metrics::Source;
use crate::origin::{Origin, Target};

/// How long a client may take for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest head of a request; and, since hyper has one limit for both, the most that one write takes along.
const BUFFER_BYTES_MAX: usize = 1 << 20;
const HEADERS_MAX: usize = 128;
/// How long answers under way may still take when the daemon stops.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// The front of one shard.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) routing: Routing,
    pub(crate) sources: Sources,
    pub(crate) origin: Origin,
    pub(crate) prefetch: bool,
}

impl Front {
    /// Serves one connection until its client leaves or the daemon stops.
    pub(crate) async fn serve(self: Rc<Self>, stream: TcpStream, mut stop: watch::Receiver<bool>) {
        let front = self.clone();
        let service = service_fn(move |request| {
            let front = front.clone();
            async move { Ok::<_, Infallible>(front.answer(request).await) }
        });
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(BUFFER_BYTES_MAX);
        server.max_headers(HEADERS_MAX);
        let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            ended = connection.as_mut() => return log_end(ended),
            _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
        }
        match tokio::time::timeout(DRAIN_TIMEOUT, connection).await {
            Ok(ended) => log_end(ended),
            Err(_) => tracing::warn!("an answer was cut because the daemon stops"),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        let started = Instant::now();
        let shown = tracing::enabled!(tracing::Level::DEBUG)
            .then(|| (request.method().clone(), request.uri().path().to_owned()));
        let (answer, source) = match self.dispatch(request).await {
            Ok(answered) => answered,
            Err(trouble) => {
                let (answer, source) = trouble.answer();
                if source == Source::Own {
                    tracing::warn!(%trouble, "a request was refused");
                }
                (answer, source)
            }
        };
        let (status, elapsed) = (answer.status().as_u16(), started.elapsed());
        self.sources.metrics.answered(source, status, elapsed);
        if let Some((method, path)) = shown {
            tracing::debug!(%method, path, status, ?source, elapsed_ms = elapsed.as_secs_f64() * 1e3, "answered");
        }
        answer
    }

    async fn dispatch(&self, request: Request<Incoming>) -> Result<(Response<AnswerBody>, Source), Trouble> {
        let metrics = &self.sources.metrics;
        match self.routing.route(request.method(), request.uri(), request.headers())? {
            Route::Ping => Ok((Response::new(AnswerBody::full(Bytes::from_static(b"pong\n"))), Source::Own)),
            Route::Pass(upstream) => {
                let target = Target::new(upstream.registry, &upstream.path_and_query, request.headers())
                    .ok_or(Trouble::Request("the path is none that a registry can have"))?;
                Ok((pass::pass(&self.origin, metrics, &target, request).await?, Source::Pass))
            }
            Route::Blob { upstream, id } => {
                let target =
                    Target::new(upstream.registry.clone(), &upstream.path_and_query, request.headers())
                        .ok_or(Trouble::Request("the path is none that a registry can have"))?;
                let range = request.headers().get(header::RANGE).and_then(|value| value.to_str().ok());
                let wanted = Wanted::parse(range);
                let untouched = target.clone();
                let target = target.for_blob();
                let blob = BlobRequest { id, upstream, target, wanted, prefetch: self.prefetch };
                match blob::answer(&self.sources, blob).await? {
                    Outcome::Answer(answer, source) => Ok((answer, source)),
                    Outcome::PassThrough(blob) => {
                        Ok((pass::pass_blob(&self.origin, metrics, &untouched, blob.id).await?, Source::Pass))
                    }
                }
            }
        }
    }
}

fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        // Clients leave in the middle as a matter of course.
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests;
