//! The front's connections, and the shards that serve them.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Of one node.
#[derive(Debug)]
pub(crate) struct Front {
    connections: Gauge,
    shed: Counter,
    longest_poll_seconds: Histogram,
}

impl Front {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let front = Self {
            connections: Gauge::default(),
            shed: Counter::default(),
            longest_poll_seconds: Histogram::new([
                0.0001, 0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.025, 0.1,
            ]),
        };
        registry.register(
            "connections_shed",
            "Connections closed because too many were open",
            front.shed.clone(),
        );
        registry.register("connections", "Connections open at the front", front.connections.clone());
        registry.register_with_unit(
            "shard_longest_poll",
            "Of each 100 ms in which a shard was at work: the longest time that one task kept it",
            Unit::Seconds,
            front.longest_poll_seconds.clone(),
        );
        front
    }

    pub(crate) fn connection_opened(&self) {
        self.connections.inc();
    }

    pub(crate) fn connection_closed(&self) {
        self.connections.dec();
    }

    pub(crate) fn connection_shed(&self) {
        self.shed.inc();
    }

    pub(super) fn open_connections(&self) -> u64 {
        u64::try_from(self.connections.get()).unwrap_or(0)
    }

    pub(super) fn shed_connections(&self) -> u64 {
        self.shed.get()
    }

    /// A window of a shard's work has ended.
    pub(crate) fn longest_poll(&self, longest: Duration) {
        self.longest_poll_seconds.observe(longest.as_secs_f64());
    }
}
