//! The way of ended spans to a collector: OTLP over HTTP, in batches, from one task of the control thread.
//!
//! A collector that is away is tried again and again with the same batch; meanwhile the queue fills, and what does not
//! fit is dropped and counted. It is said once in the log, and once more when it is back.

use std::sync::Arc;
use std::time::Duration;

use http::header;
use reqwest::redirect::Policy;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use super::Tracer;
use super::otlp::{self, Resource};
use super::span::Record;
use crate::config::TracingSettings;
use crate::metrics::{SpanFate, Traces};
use crate::origin::innermost;

/// Spans of one export.
const BATCH_MAX: usize = 512;
/// How long a span waits for others to be exported with.
const GATHERED_FOR: Duration = Duration::from_secs(1);
/// How long a collector may take for one batch.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);
/// How long one that does not answer is left alone.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// How long the end of the daemon may wait for what is left.
const FLUSHED_WITHIN: Duration = Duration::from_secs(1);
/// Of a collector's answer, which is read to use its connection again.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Why there is no exporter.
#[derive(Debug, thiserror::Error)]
#[error("the client of the traces' collector cannot be made: {0}; are CA certificates installed?")]
pub struct NoExporter(String);

/// An exporter at work.
#[derive(Debug)]
pub(crate) struct Exporting {
    task: JoinHandle<()>,
    end: oneshot::Sender<()>,
}

impl Exporting {
    /// Begins, and gives out the tracer whose spans are exported. `node` tells this process from others of its service. To
    /// be called inside a `LocalSet`.
    ///
    /// # Errors
    /// There is no client for the collector.
    pub(crate) fn start(
        settings: &TracingSettings,
        node: &str,
        counts: Arc<Traces>,
    ) -> Result<(Tracer, Self), NoExporter> {
        let builder = reqwest::Client::builder().redirect(Policy::none()).timeout(TAKEN_WITHIN);
        let client = builder.user_agent(concat!("darter/", env!("CARGO_PKG_VERSION"))).build();
        let client = client.map_err(|error| NoExporter(innermost(&error)))?;
        let (tracer, queue) = Tracer::new(settings.sample_ratio, counts.clone());
        let (end, ending) = oneshot::channel();
        let (url, resource) = (settings.endpoint.clone(), resource(node, |name| std::env::var(name).ok()));
        let exporter = Exporter { client, url, resource, queue, counts, ending, is_away: false };
        Ok((tracer, Self { task: tokio::task::spawn_local(exporter.run()), end }))
    }

    /// Exports what is left, for a second at most.
    pub(crate) async fn finish(self) {
        let _ = self.end.send(());
        let aborting = self.task.abort_handle();
        if timeout(FLUSHED_WITHIN, self.task).await.is_err() {
            aborting.abort();
            tracing::debug!("the last spans have found no collector");
        }
    }
}

struct Exporter {
    client: reqwest::Client,
    url: Url,
    resource: Resource,
    queue: mpsc::Receiver<Record>,
    counts: Arc<Traces>,
    /// Told, or dropped, when the daemon stops.
    ending: oneshot::Receiver<()>,
    /// It has been said that the collector does not answer, or refuses.
    is_away: bool,
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
enum Untaken {
    /// Another time it may be.
    #[error("{0}")]
    Away(String),
    /// It never will be.
    #[error("it answered {0}")]
    Refused(http::StatusCode),
}

impl Exporter {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while self.gather(&mut batch).await {
            self.deliver(&batch).await;
            batch.clear();
        }
    }

    /// The next spans; false when there are none and the daemon stops.
    async fn gather(&mut self, batch: &mut Vec<Record>) -> bool {
        let until = loop {
            tokio::select! {
                count = self.queue.recv_many(batch, BATCH_MAX) => {
                    if count == 0 { return false }
                    break Instant::now() + GATHERED_FOR;
                }
                _ = &mut self.ending, if !self.queue.is_closed() => self.queue.close(),
            }
        };
        while batch.len() < BATCH_MAX && !self.queue.is_closed() {
            let room = BATCH_MAX - batch.len();
            let more = self.queue.recv_many(batch, room);
            tokio::select! {
                more = timeout_at(until, more) => if !more.is_ok_and(|count| count > 0) { break },
                _ = &mut self.ending => self.queue.close(),
            }
        }
        true
    }

    /// Tries until the collector has taken them or says that it never will; once, when the daemon stops.
    async fn deliver(&mut self, batch: &[Record]) {
        let (body, count) = (bytes::Bytes::from(otlp::encode(&self.resource, batch)), batch.len() as u64);
        loop {
            let untaken = match self.send(body.clone()).await {
                Ok(()) => {
                    if std::mem::take(&mut self.is_away) {
                        tracing::info!(collector = %self.url, "spans are exported again");
                    }
                    return self.counts.add(SpanFate::Exported, count);
                }
                Err(untaken) => untaken,
            };
            if !std::mem::replace(&mut self.is_away, true) {
                tracing::warn!(
                    collector = %self.url, reason = %untaken,
                    "spans are not exported; what finds no room until they are is dropped. Is tracing.endpoint right, and does the collector run?"
                );
            }
            if matches!(untaken, Untaken::Refused(_)) || self.queue.is_closed() {
                return self.counts.add(SpanFate::Refused, count);
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN_AFTER) => {}
                _ = &mut self.ending => self.queue.close(),
            }
        }
    }

    async fn send(&self, body: bytes::Bytes) -> Result<(), Untaken> {
        let request =
            self.client.post(self.url.clone()).header(header::CONTENT_TYPE, "application/x-protobuf");
        let mut answer = request.body(body).send().await.map_err(|error| Untaken::Away(innermost(&error)))?;
        let (status, mut read) = (answer.status(), 0);
        while read < ANSWER_BYTES_MAX
            && let Ok(Some(part)) = answer.chunk().await
        {
            read += part.len();
        }
        match status.as_u16() {
            200..300 => Ok(()),
            // Those that OTLP says to try again.
            429 | 502 | 503 | 504 => Err(Untaken::Away(format!("it answered {status}"))),
            _ => Err(Untaken::Refused(status)),
        }
    }
}

/// Whose spans these are, also by the variables that OpenTelemetry has for that.
fn resource(node: &str, variable: impl Fn(&str) -> Option<String>) -> Resource {
    let mut all: Resource = vec![
        ("service.name".into(), "darter".into()),
        ("service.version".into(), env!("CARGO_PKG_VERSION").into()),
        ("service.instance.id".into(), node.into()),
    ];
    let mut set = |key: &str, value: String| {
        all.retain(|(known, _)| known != key);
        all.push((key.to_owned(), value));
    };
    // `key1=value1,key2=value2`, percent-encoded.
    for pair in variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default().split(',') {
        if let Some((key, value)) = pair.split_once('=').filter(|(key, _)| !key.trim().is_empty()) {
            set(key.trim(), percent_decoded(value.trim()));
        }
    }
    if let Some(name) = variable("OTEL_SERVICE_NAME").filter(|name| !name.is_empty()) {
        set("service.name", name);
    }
    all
}

fn percent_decoded(text: &str) -> String {
    // A form has `+` for a space, which is a plus here.
    let pair = format!("={}", text.replace('+', "%2B").replace('&', "%26"));
    url::form_urlencoded::parse(pair.as_bytes())
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_whose_spans_these_are() {
        let check = |attributes: Option<&str>, name: Option<&str>, expected: &[(&str, &str)]| {
            let variable = |variable: &str| match variable {
                "OTEL_SERVICE_NAME" => name.map(str::to_owned),
                _ => attributes.map(str::to_owned),
            };
            let seen = resource("n1", variable);
            for (key, value) in expected {
                let found: Vec<_> = seen.iter().filter(|(known, _)| known == key).collect();
                assert_eq!(found, [&((*key).to_owned(), (*value).to_owned())], "{seen:?}");
            }
            assert_eq!(seen.len(), expected.len().max(3), "{seen:?}");
        };
        check(None, None, &[("service.name", "darter"), ("service.instance.id", "n1")]);
        check(Some(""), Some(""), &[("service.name", "darter")]);
        check(
            Some("deployment.environment.name=a%20b, service.name = x ,nonsense,=y,k8s.pod.name=p+1"),
            None,
            &[
                ("deployment.environment.name", "a b"),
                ("service.name", "x"),
                ("k8s.pod.name", "p+1"),
                ("service.instance.id", "n1"),
                ("service.version", env!("CARGO_PKG_VERSION")),
            ],
        );
        check(Some("service.name=x"), Some("y"), &[("service.name", "y")]);
    }
}
