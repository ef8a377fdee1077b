//! What becomes of what readers ask for and the store has not.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};

/// What a reader waits for together with others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Coalesced {
    /// Blocks.
    Blocks,
    /// What a content is.
    Description,
}

/// Of one node.
#[derive(Debug, Default)]
pub(crate) struct Fetches {
    coalesced: Family<[(&'static str, &'static str); 1], Counter>,
    unkept_bytes: Counter,
    boots_recorded: Counter,
    boots_followed: Counter,
    boot_ahead_blocks: Counter,
}

impl Coalesced {
    fn labels(self) -> [(&'static str, &'static str); 1] {
        [("what", if self == Self::Blocks { "blocks" } else { "description" })]
    }
}

impl Fetches {
    pub(super) fn register(&self, registry: &mut Registry) {
        for what in [Coalesced::Blocks, Coalesced::Description] {
            let _ = self.coalesced.get_or_create(&what.labels());
        }
        registry.register(
            "coalesced_requests",
            "Requests of readers that waited for what another reader had asked for",
            self.coalesced.clone(),
        );
        registry.register_with_unit(
            "unkept",
            "Bytes that were served and found no place in the store",
            Unit::Bytes,
            self.unkept_bytes.clone(),
        );
        registry.register(
            "boots_recorded",
            "Lazy reads of a content whose order the cluster was told",
            self.boots_recorded.clone(),
        );
        registry.register(
            "boots_followed",
            "Lazy reads of a content of which the cluster knew an order",
            self.boots_followed.clone(),
        );
        registry.register(
            "boot_ahead_blocks",
            "Blocks of 64 KiB that other nodes sent ahead of such a read",
            self.boot_ahead_blocks.clone(),
        );
    }

    /// A reader waits for what another one has asked for.
    pub(crate) fn coalesced(&self, what: Coalesced) {
        self.coalesced.get_or_create(&what.labels()).inc();
    }

    pub(crate) fn unkept(&self, bytes: usize) {
        self.unkept_bytes.inc_by(bytes as u64);
    }

    pub(super) fn all_unkept_bytes(&self) -> u64 {
        self.unkept_bytes.get()
    }

    /// The cluster was told how a content was read.
    pub(crate) fn boot_recorded(&self) {
        self.boots_recorded.inc();
    }

    /// The cluster knew how a content is read.
    pub(crate) fn boot_followed(&self) {
        self.boots_followed.inc();
    }

    /// Blocks came ahead of a boot.
    pub(crate) fn brought_ahead(&self, blocks: usize) {
        self.boot_ahead_blocks.inc_by(blocks as u64);
    }
}
