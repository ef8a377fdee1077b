//! The secrets of a cluster whose nodes are on loopback.

use std::path::PathBuf;
use std::time::SystemTime;

use darter_transport::identity::{ClusterSecrets, files};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Builder, Daemon, cli};

/// The system chooses the port; the node says which.
const LISTEN: &str = "127.0.0.1:0";

/// The files of a cluster's secrets.
#[derive(Debug)]
pub struct Secrets(TempDir);

impl Secrets {
    /// As `darter cluster init` makes them.
    ///
    /// # Panics
    /// When it does not.
    pub fn init() -> Secrets {
        let secrets = Secrets::nowhere();
        let made = cli::darter(&["cluster", "init", "--out", &secrets.of_seeds().display().to_string()]);
        assert_eq!(made.status, 0, "{made:?}");
        secrets
    }

    /// Made some time ago, so that they make certificates that have expired, too.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn made_at(time: SystemTime) -> Secrets {
        let secrets = Secrets::nowhere();
        let made = ClusterSecrets::generate(time).expect("randomness");
        files::write_secrets(&secrets.of_seeds(), &made).expect("a file can be written");
        files::write_secrets(&secrets.of_peers(), &made.for_peers()).expect("a file can be written");
        secrets
    }

    fn nowhere() -> Secrets {
        Secrets(TempDir::with_prefix("darter-test-").expect("a temporary directory can be made"))
    }

    /// The file of which seeds are made.
    pub fn of_seeds(&self) -> PathBuf {
        self.0.path().join("cluster.secret")
    }

    /// The file of which peers are made.
    pub fn of_peers(&self) -> PathBuf {
        files::for_peers(&self.of_seeds())
    }

    /// A seed to be, the first one, still without a registry.
    pub fn seed(&self) -> Builder {
        let seed = Daemon::builder().switch("--seed");
        let secret = self.of_seeds().display().to_string();
        seed.flag("--cluster-secret", &secret).flag("--peer-listen", LISTEN)
    }

    /// A peer to be, that joins a seed, still without a registry.
    pub fn peer(&self, seed: &str) -> Builder {
        let secret = self.of_peers().display().to_string();
        let peer = Daemon::builder().flag("--cluster-secret", &secret);
        peer.flag("--peer-listen", LISTEN).flag("--join", seed).prefetch(false)
    }
}

impl Daemon {
    /// What `darter peers --json` says here.
    ///
    /// # Panics
    /// When it says nothing.
    pub fn peers(&self) -> Value {
        cli::darter(&["peers", "--json", "--admin", &self.admin().to_string()]).json()
    }
}
