//! Nodes of one cluster on loopback, where the system chooses the ports.

use tempfile::TempDir;

use crate::cli::darter;
use crate::{Builder, Daemon};

/// The node says which port it got.
const LISTEN: &str = "127.0.0.1:0";

/// The secrets of a cluster whose nodes are on loopback.
#[derive(Debug)]
pub struct Secrets(TempDir);

impl Secrets {
    /// As `darter cluster init` makes them.
    #[expect(clippy::new_without_default, reason = "it runs a program")]
    pub fn new() -> Secrets {
        let directory = TempDir::with_prefix("darter-test-").expect("a temporary directory can be made");
        let secrets = Secrets(directory);
        let made = darter(&["cluster", "init", "--out", &secrets.of_seeds()]);
        assert_eq!(made.status, 0, "{made:?}");
        secrets
    }

    fn of_seeds(&self) -> String {
        self.0.path().join("cluster.secret").display().to_string()
    }

    /// A seed, to be given a registry and started.
    pub fn seed(&self, zone: &str) -> Builder {
        let seed = Daemon::builder().flag("--cluster-secret", &self.of_seeds()).switch("--seed");
        seed.flag("--peer-listen", LISTEN).flag("--zone", zone)
    }

    /// A peer that finds its cluster at that seed's address, to be given a registry and started.
    pub fn peer(&self, zone: &str, seed: &str) -> Builder {
        let secret = self.of_seeds() + ".peer";
        let peer = Daemon::builder().flag("--cluster-secret", &secret).flag("--join", seed);
        peer.flag("--peer-listen", LISTEN).flag("--zone", zone).prefetch(false)
    }
}
