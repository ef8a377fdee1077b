//! Some of what is counted, for people to look at.

use super::Metrics;
use super::answers::Source;

/// Since the start; bytes are those of bodies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Moved {
    /// To clients, from the store.
    pub(crate) hit_bytes: u64,
    /// To clients, just come from the network.
    pub(crate) fetched_bytes: u64,
    /// To clients, past the store.
    pub(crate) passed_bytes: u64,
    /// From registries, of contents.
    pub(crate) origin_bytes: u64,
    /// Served, and not kept.
    pub(crate) unkept_bytes: u64,
    /// Open at the front now.
    pub(crate) connections: u64,
    /// Closed because too many were open.
    pub(crate) connections_shed: u64,
}

impl Moved {
    /// Until now.
    pub(super) fn of(metrics: &Metrics) -> Self {
        let to_clients = |source| metrics.answers.body_bytes(source);
        Self {
            hit_bytes: to_clients(Source::Cache),
            fetched_bytes: to_clients(Source::Peers) + to_clients(Source::Origin),
            passed_bytes: to_clients(Source::Pass),
            origin_bytes: metrics.registries.all_blob_bytes(),
            unkept_bytes: metrics.fetches.all_unkept_bytes(),
            connections: metrics.front.open_connections(),
            connections_shed: metrics.front.shed_connections(),
        }
    }
}
