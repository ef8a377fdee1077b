//! What became of the spans of recorded requests.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// What became of a span.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SpanFate {
    /// The collector has it.
    Exported,
    /// There was no room for it: the collector is slower than spans come, or away.
    Dropped,
    /// The collector did not take it.
    Refused,
}

/// Of one node.
#[derive(Debug, Default)]
pub(crate) struct Traces(Family<[(&'static str, &'static str); 1], Counter>);

impl SpanFate {
    const ALL: [Self; 3] = [Self::Exported, Self::Dropped, Self::Refused];

    fn labels(self) -> [(&'static str, &'static str); 1] {
        let fate = match self {
            Self::Exported => "exported",
            Self::Dropped => "dropped",
            Self::Refused => "refused",
        };
        [("fate", fate)]
    }
}

impl Traces {
    pub(super) fn register(&self, registry: &mut Registry) {
        for fate in SpanFate::ALL {
            let _ = self.0.get_or_create(&fate.labels());
        }
        registry.register(
            "trace_spans",
            "Spans of recorded requests, by what became of them",
            self.0.clone(),
        );
    }

    /// That has become of so many more.
    pub(crate) fn add(&self, fate: SpanFate, spans: u64) {
        self.0.get_or_create(&fate.labels()).inc_by(spans);
    }

    #[cfg(test)]
    pub(crate) fn count(&self, fate: SpanFate) -> u64 {
        self.0.get_or_create(&fate.labels()).get()
    }
}
