//! Who a node is, and whom it believes: mutual TLS between all nodes of a cluster, always.
//!
//! A cluster is a seed secret and a peer secret ([`ClusterSecrets`], the file that `darter cluster init` writes). Each
//! is the authority of one role: every node derives the same key and name from it, and issues itself a leaf that
//! lives for a day. A node that is to be a peer needs no seed secret; its file holds the seeds' public key in its
//! place. Or certificates come from files, and the role is a DNS name in them.
//!
//! Everything but `files` is pure: bytes and the time in, an [`Identity`] or a refusal out. [`Identities`] holds the
//! one that is in use, so that a rotation of secrets or the renewal of a leaf disturbs no connection.
//!
//! Not here: what a role may do (the protocol asks `Member::role`), and sockets.

mod authority;
pub mod files;
mod hex;
#[expect(clippy::module_inception)]
mod identity;
mod member;
mod node_key;
mod refusal;
mod secrets;
mod tls;
mod trust;

pub use authority::{BACKDATED, LEAF_LIFETIME};
pub use identity::{Identities, Identity, IdentityError};
pub use member::Member;
pub use node_key::NodeKey;
pub use refusal::Refusal;
pub use secrets::{ADDED_ISSUES_AFTER, ClusterSecrets, GENERATIONS_MAX, SECRETS_BYTES_MAX, SecretsError};
pub use tls::ALPN;
pub use trust::{PEER_NAME, SEED_NAME, Trust};
