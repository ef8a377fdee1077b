//! The HTTP front: where nydusd and containerd connect.
//!
//! A range request goes: [`route`] → [`blob`] → `store.find` → [`reader`] → slices of the mapping, or the
//! [fetch](crate::fetch) for what is absent. What is not a blob goes through `pass`.

pub mod blob;
pub mod body;
pub(crate) mod connection;
mod pass;
pub mod range;
pub mod reader;
pub mod route;
pub mod trouble;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response, header};
use hyper::body::Incoming;

use self::blob::{BlobRequest, Outcome};
use self::body::AnswerBody;
use self::connection::Heads;
use self::range::Wanted;
use self::reader::Sources;
use self::route::{Route, Routing};
use self::trouble::Trouble;
use crate::metrics::Source;
use crate::origin::{Origin, Target};

/// The front of one shard.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) routing: Routing,
    pub(crate) sources: Sources,
    pub(crate) origin: Origin,
    pub(crate) prefetch: bool,
    /// Those of the whole node.
    pub(crate) heads: Arc<Heads>,
}

impl Front {
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

#[cfg(test)]
mod tests;
