//! What is to be written, for which wishes, or why nothing is. Values only.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::tree::TreeError;
use crate::config::Registry;

/// What the flags say.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// As clients reach it.
    pub(super) front: SocketAddr,
    pub(super) admin: SocketAddr,
    /// Every registry, or the client's only one.
    pub(super) every: bool,
    /// And these.
    pub(super) registries: Vec<Registry>,
    /// Instead of the snapshotter's choice.
    pub(super) nydusd_config: Option<String>,
}

impl Wanted {
    /// With what earlier runs have asked for; the later one counts where both name a registry.
    #[must_use]
    pub(super) fn with_earlier(mut self, earlier: &Asked) -> Self {
        self.every |= earlier.every;
        for registry in earlier.registries.iter().filter_map(|registry| registry.parse().ok()) {
            if !self.registries.iter().any(|known| user_name(known) == user_name(&registry)) {
                self.registries.push(registry);
            }
        }
        self
    }

    pub(super) fn asked(&self) -> Asked {
        let registries = self.registries.iter().map(ToString::to_string).collect();
        Asked { every: self.every, registries }
    }
}

/// For which registries files were written, as it is kept beside them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) every: bool,
    pub(super) registries: Vec<String>,
}

/// The files of one client. Empty if all is as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Plan {
    pub(super) changes: Vec<Change>,
    /// What is left for the user to do, in order.
    pub(super) next: Vec<String>,
    /// What it is for.
    pub(super) asked: Asked,
}

/// One file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Change {
    /// Absolute, below the root.
    pub(super) path: String,
    /// What is in it now; `None`: it is not there.
    pub(super) before: Option<Vec<u8>>,
    /// What will be in it.
    pub(super) after: Vec<u8>,
}

/// Why there is no plan. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error("{path}: {why}")]
    File { path: String, why: String },
}

impl Refusal {
    pub(super) fn new(path: impl Into<String>, why: impl Into<String>) -> Self {
        Self::File { path: path.into(), why: why.into() }
    }
}

/// As users and clients name a registry: Docker Hub by its old name.
pub(super) fn user_name(registry: &Registry) -> String {
    match registry.authority().as_str() {
        "registry-1.docker.io" => "docker.io".to_owned(),
        authority => authority.to_owned(),
    }
}

/// The first line of what darter writes as a whole.
pub(super) fn first_line(client: &str) -> String {
    format!("# Written by `darter init {client}`; `darter init {client} --undo` takes it away.\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Wanted {
        /// With the ports of a daemon with the defaults; of no registry: of every one.
        pub(in super::super) fn of(registries: Vec<Registry>) -> Self {
            let address = |port| ([127, 0, 0, 1], port).into();
            let (front, admin) = (address(65001), address(40901));
            Self { front, admin, every: registries.is_empty(), registries, nydusd_config: None }
        }
    }

    #[test]
    fn what_was_asked_for_is_kept_and_added_to() {
        let of = |registries: &[&str]| {
            Wanted::of(registries.iter().map(|registry| registry.parse().expect("a registry")).collect())
        };
        let check = |earlier: &[&str], now: &[&str], every, expected: &[&str]| {
            let both = of(now).with_earlier(&of(earlier).asked()).asked();
            assert_eq!(
                (both.every, both.registries),
                (every, expected.iter().map(|text| (*text).to_owned()).collect())
            );
        };
        check(&["https://a"], &["https://b"], false, &["https://b", "https://a"]);
        check(&[], &["https://b"], true, &["https://b"]);
        check(&["https://b"], &[], true, &["https://b"]);
        // Its scheme was corrected.
        check(&["https://b:5000"], &["http://b:5000"], false, &["http://b:5000"]);
    }
}
