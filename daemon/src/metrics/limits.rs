//! How often limits were reached: what an operator may raise, or has to live with.

use darter_transport::limits::Hits;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// A limit of this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Limit {
    /// A body of a registry waited for its turn: as many as memory allows were being read.
    OriginBodies,
    /// A fetch found a disk that does not keep up, and what came was not kept.
    Disk,
    /// A reader was told to come back: too many wait for one block, or too much is being fetched.
    Fetches,
}

/// Of one node.
#[derive(Debug, Default)]
pub(crate) struct Limits(Family<[(&'static str, &'static str); 1], Counter>);

impl Limit {
    fn name(self) -> &'static str {
        match self {
            Self::OriginBodies => "origin_bodies",
            Self::Disk => "disk",
            Self::Fetches => "fetches",
        }
    }
}

impl Limits {
    pub(super) fn register(&self, registry: &mut Registry) {
        for limit in [Limit::OriginBodies, Limit::Disk, Limit::Fetches] {
            let _ = self.0.get_or_create(&[("limit", limit.name())]);
        }
        self.take_over(Hits::default());
        registry.register("limits_hit", "Times that a limit held something up or back", self.0.clone());
    }

    /// It was reached once more.
    pub(crate) fn hit(&self, limit: Limit) {
        self.0.get_or_create(&[("limit", limit.name())]).inc();
    }

    pub(super) fn take_over(&self, hits: Hits) {
        let Hits { upload_bandwidth, download_bandwidth, upload_places } = hits;
        for (limit, hits) in [
            ("upload_bandwidth", upload_bandwidth),
            ("download_bandwidth", download_bandwidth),
            ("upload_places", upload_places),
        ] {
            super::raise(&self.0.get_or_create(&[("limit", limit)]), hits);
        }
    }
}
