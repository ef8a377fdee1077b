//! A node's own certificate with all that goes with it, and the place that holds the one in use.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ServerConfig};

use super::authority::{Authority, IssueError, LEAF_LIFETIME};
use super::member::Member;
use super::node_key::NodeKey;
use super::refusal::Refusal;
use super::secrets::{ClusterSecrets, SeedKey};
use super::tls;
use super::trust::Trust;
use crate::node::Role;

/// The part of a leaf's life after which a node issues itself the next one.
const RENEWED_AFTER: Duration = Duration::from_secs(LEAF_LIFETIME.as_secs() / 2);
/// How often certificates from files are looked at again.
const FILES_RELOADED_AFTER: Duration = Duration::from_secs(3600);

/// Who this node is, and whom it believes, from one moment until [`renew_at`](Self::renew_at).
pub struct Identity {
    own: Member,
    trust: Arc<Trust>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    renew_at: SystemTime,
}

impl Identity {
    /// From the cluster's secrets: the node issues itself a leaf for `role`.
    ///
    /// # Errors
    /// The secrets are those of peers and `role` is that of a seed; no leaf could be issued.
    pub fn from_secrets(
        secrets: &ClusterSecrets,
        role: Role,
        key: &NodeKey,
        now: SystemTime,
    ) -> Result<Self, IdentityError> {
        let issuing = secrets.issuing(now);
        let authority = match (role, &issuing.seed) {
            (Role::Peer, _) => Authority::from_secret(Role::Peer, &issuing.peer),
            (Role::Seed, SeedKey::Secret(secret)) => Authority::from_secret(Role::Seed, secret),
            (Role::Seed, SeedKey::Public(_)) => return Err(IdentityError::NoSeedSecret),
        };
        let chain = vec![authority.issue(&key.key, now)?];
        let renewed = now + RENEWED_AFTER;
        let renew_at = secrets.next_issuing_at(now).map_or(renewed, |next| next.min(renewed));
        Self::new(Trust::in_secrets(secrets), chain, key.key.pkcs8().into(), now, renew_at)
    }

    /// From PEM: certificates of the authorities that are believed, the node's own chain, and its key. Its role is the
    /// DNS name in its certificate, [`SEED_NAME`](super::SEED_NAME) or [`PEER_NAME`](super::PEER_NAME).
    ///
    /// # Errors
    /// One of them cannot be read, or the node would refuse itself.
    pub fn from_pem(ca: &[u8], cert: &[u8], key: &[u8], now: SystemTime) -> Result<Self, IdentityError> {
        let certificates = |pem| CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        let unreadable = |which| move |source: pem::Error| IdentityError::Pem { which, source };
        let authorities = certificates(ca).map_err(unreadable("ca"))?;
        if authorities.is_empty() {
            return Err(unreadable("ca")(pem::Error::NoItemsFound));
        }
        let trust = Trust::in_authorities(&authorities).map_err(IdentityError::Authority)?;
        let chain = certificates(cert).map_err(unreadable("cert"))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(unreadable("key"))?;
        Self::new(trust, chain, key, now, now + FILES_RELOADED_AFTER)
    }

    fn new(
        trust: Trust,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        now: SystemTime,
        renew_at: SystemTime,
    ) -> Result<Self, IdentityError> {
        let own = trust.member(&chain, now).map_err(IdentityError::Own)?;
        let trust = Arc::new(trust);
        let (server, client) = tls::configs(&trust, chain, key).map_err(IdentityError::Tls)?;
        Ok(Self { own, trust, server: Arc::new(server), client: Arc::new(client), renew_at })
    }

    /// This node, as others see it.
    #[must_use]
    pub fn own(&self) -> Member {
        self.own
    }

    /// Whom it believes.
    #[must_use]
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// When to make the next identity from the same source.
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        self.renew_at
    }

    /// TLS of incoming connections.
    pub(crate) fn server(&self) -> &Arc<ServerConfig> {
        &self.server
    }

    /// TLS of outgoing connections.
    pub(crate) fn client(&self) -> &Arc<ClientConfig> {
        &self.client
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("own", &self.own)
            .field("renew_at", &self.renew_at)
            .finish_non_exhaustive()
    }
}

/// The identity in use. Handshakes take the one that is there when they begin; connections that stand are left alone.
#[derive(Debug)]
pub struct Identities(RwLock<Arc<Identity>>);

impl Identities {
    /// Begins with this one.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self(RwLock::new(Arc::new(identity)))
    }

    /// The one in use.
    #[must_use]
    pub fn current(&self) -> Arc<Identity> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From the next handshake on, this one.
    pub fn replace(&self, identity: Identity) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(identity);
    }
}

/// Why a node has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file for peers, and a node that is to be a seed.
    #[error(
        "these secrets are those of peers and cannot make a seed: give seeds the file that holds `seed-secret`"
    )]
    NoSeedSecret,
    /// No leaf.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// A file that is no PEM.
    #[error("cannot read cluster.tls.{which} as PEM: {source}")]
    Pem {
        /// Its key.
        which: &'static str,
        /// What is wrong.
        source: pem::Error,
    },
    /// A file that holds no CA.
    #[error("cluster.tls.ca holds something that is no certificate: {0}")]
    Authority(webpki::Error),
    /// Other nodes would refuse this one.
    #[error("other nodes would refuse this one: {0}")]
    Own(Refusal),
    /// Certificate and key do not fit.
    #[error(
        "cluster.tls.cert and cluster.tls.key do not make an identity (is the key that of the certificate?): {0}"
    )]
    Tls(rustls::Error),
}

/// Identities that no honest node has.
#[cfg(test)]
impl Identity {
    /// What a peer can make of its secret: a certificate with the name of a seed. It does not look at itself.
    pub(crate) fn forged_seed(secrets: &ClusterSecrets, now: SystemTime) -> Self {
        let key = NodeKey::generate().expect("randomness");
        let honest = Self::from_secrets(secrets, Role::Peer, &key, now).expect("an identity");
        let authority = Authority::from_secret(Role::Peer, &secrets.issuing(now).peer);
        let forged = authority.issue_named(&key.key, super::SEED_NAME, now).expect("issued");
        let configs = tls::configs(&honest.trust, vec![forged], key.key.pkcs8().into());
        let (server, client) = configs.expect("a right key");
        Self { server: Arc::new(server), client: Arc::new(client), ..honest }
    }

    /// One that connects without showing anything.
    pub(crate) fn without_certificate(secrets: &ClusterSecrets, now: SystemTime) -> Self {
        let key = NodeKey::generate().expect("randomness");
        let honest = Self::from_secrets(secrets, Role::Peer, &key, now).expect("an identity");
        let mut client = ClientConfig::clone(&honest.client);
        client.client_auth_cert_resolver = Arc::new(NoCertificate);
        Self { client: Arc::new(client), ..honest }
    }
}

#[cfg(test)]
#[derive(Debug)]
struct NoCertificate;

#[cfg(test)]
impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
