//! What requests go by and may change while the daemon runs: where they may go, and as whom.
//!
//! Each shard has a policy of its own, since its clients of registries are its own, and finds it in a channel that no
//! other shard reads. A policy is replaced as a whole; a request keeps the one that it has begun with.

use std::sync::Arc;

use crate::config::{HijackSettings, Settings};
use crate::front::route::Routing;
use crate::metrics::Registries;
use crate::origin::{Origin, OriginOptions, innermost};
use crate::termination::Termination;

/// Of one shard.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) routing: Routing,
    pub(crate) origin: Origin,
    /// For which hosts TLS of clients ends here, if for any; one for all shards.
    pub(crate) termination: Option<Arc<Termination>>,
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
        let termination = settings.hijack.as_ref().and_then(HijackSettings::termination);
        let one = || {
            let origin =
                Origin::new(&options).map_err(|error| NoClient(innermost(&error)))?.counted(counts.clone());
            Ok(Self { routing: routing.clone(), origin, termination: termination.clone() })
        };
        std::iter::repeat_with(one).take(count).collect()
    }

    /// One that holds nothing back and never changes: for tests whose every registry is on loopback.
    #[cfg(test)]
    pub(crate) fn open() -> tokio::sync::watch::Receiver<Self> {
        let settings = crate::config::load(None, &[]).expect("defaults are right").settings;
        let routing = Routing::new(&settings);
        tokio::sync::watch::channel(Self { routing, origin: Origin::open(), termination: None }).1
    }
}
