//! The admin port: whether the daemon lives, and what it counts.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_engine::Store;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::metrics::Metrics;

const CONNECTIONS_MAX: usize = 64;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What the admin port tells of.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) store: Store,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) metrics_enabled: bool,
}

impl Admin {
    /// Serves connections for as long as the future lives.
    pub(crate) async fn serve(self: Rc<Self>, listener: TcpListener) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(room) = room.clone().acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the admin port cannot accept connections for the moment");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let admin = self.clone();
            tokio::task::spawn_local(async move {
                let _room = room;
                let service = service_fn(move |request| {
                    let admin = admin.clone();
                    async move { Ok::<_, Infallible>(admin.answer(&request)) }
                });
                let mut server = http1::Builder::new();
                server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
                if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                    tracing::debug!(%error, "an admin connection ended early");
                }
            });
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "darter: GET or HEAD\n".into());
        }
        match request.uri().path() {
            "/server/ping" => text(StatusCode::OK, "text/plain", "pong\n".into()),
            "/metrics" if self.metrics_enabled => {
                text(StatusCode::OK, OPENMETRICS, self.metrics.text(&self.store))
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "text/plain",
                "darter: there are /server/ping and /metrics (unless metrics.enable is false)\n".into(),
            ),
        }
    }
}

fn text(status: StatusCode, media_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}
