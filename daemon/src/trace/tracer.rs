//! Which requests are recorded, and where their spans go.

use std::num::NonZeroU128;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use tokio::sync::mpsc;

use super::chance;
use super::context::{TRACEPARENT, TraceContext};
use super::span::{Kind, Record, Span, Trace};
use crate::metrics::{SpanFate, Traces};

/// Spans that wait for their export, of at most some kilobytes each.
pub(super) const QUEUE_SPANS_MAX: usize = 4096;

/// Decides what is recorded. Records nothing by default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tracer(Option<Arc<Sampling>>);

#[derive(Debug)]
struct Sampling {
    /// Of 2^64 numbers those below this one.
    below: u64,
    /// Not even the highest number is left out.
    all: bool,
    recorder: Recorder,
}

/// The way of spans that have ended to their export.
#[derive(Clone, Debug)]
pub(super) struct Recorder {
    queue: mpsc::Sender<Record>,
    counts: Arc<Traces>,
}

impl Recorder {
    /// Never waits.
    pub(super) fn take(&self, record: Record) {
        if self.queue.try_send(record).is_err() {
            self.counts.add(SpanFate::Dropped, 1);
        }
    }
}

impl Tracer {
    /// Of requests that come without a context `ratio` of all are recorded, 0 to 1.
    pub(crate) fn new(ratio: f64, counts: Arc<Traces>) -> (Self, mpsc::Receiver<Record>) {
        let (queue, ended) = mpsc::channel(QUEUE_SPANS_MAX);
        // Saturates.
        let below = (ratio * 2f64.powi(64)) as u64;
        let sampling = Sampling { below, all: ratio >= 1.0, recorder: Recorder { queue, counts } };
        (Self(Some(Arc::new(sampling))), ended)
    }

    /// Whether the context of a request with this head has to be looked at.
    pub(crate) fn is_asked_by(&self, headers: &HeaderMap) -> bool {
        self.0.is_some() && headers.contains_key(TRACEPARENT)
    }

    /// A client's request that has come at that time: recorded if its context says so, not recorded if it says not,
    /// and if it has none by chance.
    pub(crate) fn request(&self, headers: &HeaderMap, since: Instant) -> Span {
        match self.0.as_ref().and_then(|_| TraceContext::of(headers)) {
            Some(parent) => self.continued(Some(parent)).span(REQUEST, Kind::Server).since(since),
            None => self.request_without_context(since),
        }
    }

    /// The same, where the head is known to have no context.
    pub(crate) fn request_without_context(&self, since: Instant) -> Span {
        let Some(sampling) = &self.0 else { return Span::default() };
        let number = chance::number();
        if number >= sampling.below && !sampling.all {
            return Span::default();
        }
        // By other numbers than that, which is a small one where few are recorded.
        let trace = u128::from(chance::number()) << 64 | u128::from(chance::id().get());
        let context = TraceContext::begun(NonZeroU128::new(trace).unwrap_or(NonZeroU128::MIN), chance::id());
        Span::begun(sampling.recorder.clone(), REQUEST, Kind::Server, context).since(since)
    }

    /// What another node, or a client, has begun; nothing if that is not recorded.
    pub(crate) fn continued(&self, parent: Option<TraceContext>) -> Trace {
        match (&self.0, parent.filter(TraceContext::is_sampled)) {
            (Some(sampling), Some(parent)) => Trace::below(sampling.recorder.clone(), parent),
            _ => Trace::default(),
        }
    }
}

/// Of a request of which nothing is known yet.
const REQUEST: &str = "HTTP";

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn tracer(ratio: f64) -> (Tracer, mpsc::Receiver<Record>, Arc<Traces>) {
        let counts = Arc::new(Traces::default());
        let (tracer, ended) = Tracer::new(ratio, counts.clone());
        (tracer, ended, counts)
    }

    fn head(context: &'static str) -> HeaderMap {
        [(TRACEPARENT, HeaderValue::from_static(context))].into_iter().collect()
    }

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    #[test]
    fn a_parent_decides_and_else_chance() {
        let check = |ratio, headers: &HeaderMap, expected: std::ops::RangeInclusive<usize>| {
            let (tracer, ..) = tracer(ratio);
            let recorded = |_: &usize| tracer.request(headers, Instant::now()).context().is_some();
            let count = (0..1000).filter(recorded).count();
            assert!(expected.contains(&count), "{count} of 1000 by {ratio} with {headers:?}");
        };
        let none = HeaderMap::new();
        check(0.0, &none, 0..=0);
        // Beyond that once in 10^20.
        check(0.5, &none, 350..=650);
        check(1.0, &none, 1000..=1000);
        check(0.0, &head(SAMPLED), 1000..=1000);
        check(1.0, &head(UNSAMPLED), 0..=0);
        check(1.0, &head("00-nonsense-01"), 1000..=1000);
        check(0.0, &head("00-nonsense-01"), 0..=0);
    }

    #[test]
    fn what_follows_is_below_what_it_follows_from() {
        let (tracer, mut ended, _) = tracer(0.0);
        let mut request = tracer.request(&head(SAMPLED), Instant::now());
        let mut fetch = request.trace().span("fetch", Kind::Internal);
        fetch.set("darter.content", || "a");
        fetch.set("darter.content", || "é".repeat(1000));
        fetch.add("darter.blocks", 2);
        fetch.add("darter.blocks", 3);
        fetch.fail(&"it is gone");
        request.rename(|| "GET".into());
        drop((fetch, request));
        let (fetch, request) = (ended.try_recv().unwrap(), ended.try_recv().unwrap());
        let given = TraceContext::parse(SAMPLED.as_bytes()).unwrap();
        assert_eq!((request.parent, request.has_remote_parent), (Some(given.span), true));
        assert_eq!((fetch.parent, fetch.has_remote_parent), (Some(request.context.span), false));
        assert_eq!((fetch.context.trace, request.context.trace), (given.trace, given.trace));
        assert_ne!(fetch.context.span, request.context.span);
        assert_eq!((&*fetch.name, &*request.name, fetch.kind), ("fetch", "GET", Kind::Internal));
        let expected = [("darter.content", "é".repeat(300).into()), ("darter.blocks", 5_u64.into())];
        assert_eq!(fetch.attributes, expected);
        assert_eq!(fetch.error.as_deref(), Some("it is gone"));
        assert!(fetch.took <= request.took && request.started <= fetch.started);
    }

    #[test]
    fn what_is_not_recorded_is_nothing() {
        for tracer in [tracer(1.0).0, Tracer::default()] {
            let mut span = tracer.request(&head(UNSAMPLED), Instant::now());
            span.set("never", || -> u64 { panic!("no value is made") });
            span.rename(|| panic!("nor a name"));
            let below = span.trace().span("below", Kind::Client);
            assert_eq!((span.context(), below.context(), span.trace().context()), (None, None, None));
        }
        assert!(tracer(0.0).0.is_asked_by(&head(UNSAMPLED)) && !tracer(1.0).0.is_asked_by(&HeaderMap::new()));
        assert!(!Tracer::default().is_asked_by(&head(SAMPLED)));
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let (tracer, mut ended, counts) = tracer(1.0);
        for _ in 0..QUEUE_SPANS_MAX + 7 {
            drop(tracer.request_without_context(Instant::now()));
        }
        assert_eq!(counts.count(SpanFate::Dropped), 7);
        let mut waiting = 0;
        while ended.try_recv().is_ok() {
            waiting += 1;
        }
        assert_eq!(waiting, QUEUE_SPANS_MAX);
    }
}
