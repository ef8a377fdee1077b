//! What requests go by and may change while the daemon runs: where they may go, and as whom.
//!
//! Each shard has a policy of its own, since its clients of registries are its own, and finds it in a channel that no
//! other shard reads. A policy is replaced as a whole; a request keeps the one that it has begun with.

use std::sync::Arc;

use crate::config::Settings;
use crate::front::route::Routing;
use crate::metrics::Registries;
use crate::origin::{Origin, OriginOptions, innermost};

/// Of one shard.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) routing: Routing,
    pub(crate) origin: Origin,
}

/// Why there is none.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "the client of registries cannot be made: {0}; are CA certificates installed, and does SSL_CERT_FILE, if it is set, name a file with some?"
)]
pub struct NoClient(String);

impl Policy {
    /// One for each of `count` shards; their requests are counted in `counts`. Reads the system's certificates: not for a shard's thread.
    ///
    /// # Errors
    /// There are no certificates, or they cannot be read.
    pub(crate) fn for_shards(
        settings: &Settings,
        count: usize,
        counts: &Arc<Registries>,
    ) -> Result<Vec<Self>, NoClient> {
        let (routing, options) = (Routing::new(settings), OriginOptions::new(settings));
        let one = || {
            let origin = Origin::new(&options).map_err(|error| NoClient(innermost(&error)))?;
            Ok(Self { routing: routing.clone(), origin: origin.counted(counts.clone()) })
        };
        std::iter::repeat_with(one).take(count).collect()
    }

    /// One that holds nothing back and never changes: for tests whose every registry is on loopback.
    #[cfg(test)]
    pub(crate) fn open() -> tokio::sync::watch::Receiver<Self> {
        let settings = crate::config::load(None, &[]).expect("defaults are right").settings;
        tokio::sync::watch::channel(Self { routing: Routing::new(&settings), origin: Origin::open() }).1
    }
}
