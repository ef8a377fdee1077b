//! What is to be written, for which wishes, or why nothing is. Values only.

use std::net::SocketAddr;

use super::tree::TreeError;
use crate::config::Registry;

/// What the flags say.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// As clients reach it.
    pub(super) front: SocketAddr,
    pub(super) admin: SocketAddr,
    /// Empty: every registry, or the client's only one.
    pub(super) registries: Vec<Registry>,
    /// Instead of the snapshotter's choice.
    pub(super) nydusd_config: Option<String>,
}

/// The files of one client. Empty if all is as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Plan {
    pub(super) changes: Vec<Change>,
    /// What is left for the user to do, in order.
    pub(super) next: Vec<String>,
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
