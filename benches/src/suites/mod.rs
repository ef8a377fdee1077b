//! What is compared, one file a comparison. Each sets its servers up, has them warmed and checked, lets them have their
//! turns, and says what its figures should be.

pub(crate) mod beside;
pub(crate) mod boots;
pub(crate) mod cold;
pub(crate) mod eviction;
pub(crate) mod first_block;
pub(crate) mod hits;
pub(crate) mod many_peers;
pub(crate) mod node_to_node;
pub(crate) mod observed;
pub(crate) mod remote;
pub(crate) mod second_node;
pub(crate) mod start;

use darter::demo::registry::{Blob, Digest, Registry};

use crate::workload::Subject;

/// Where blobs are.
const REPOSITORY: &str = "bench/app";

/// Where a registry has a blob.
pub(crate) fn blob_path(digest: impl std::fmt::Display) -> String {
    format!("/v2/{REPOSITORY}/blobs/{digest}")
}

/// A blob as clients name it.
fn subject(registry: &str, digest: Digest, bytes: u64) -> Subject {
    Subject { path: blob_path(digest), bytes, registry: registry.to_owned() }
}

/// Puts a blob into a registry.
fn publish(registry: &Registry, blob: &Blob) -> Subject {
    subject(&registry.url(), registry.add_blob(REPOSITORY, blob.clone()), blob.len())
}
