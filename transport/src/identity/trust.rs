//! Whom a node believes, and as what.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::DigitallySignedStruct;
use rustls::DistinguishedName;
use rustls::SignatureScheme;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyUsage};

use super::authority;
use super::member::Member;
use super::refusal::Refusal;
use super::secrets::ClusterSecrets;
use super::secrets::SeedKey;
use super::{authority::Authority, tls};
use crate::node::Role;

/// The DNS name in the certificate of a seed. No such name is ever looked up.
pub const SEED_NAME: &str = "seed.darter.internal";
/// The DNS name in the certificate of a peer.
pub const PEER_NAME: &str = "peer.darter.internal";

/// The longest chain that is looked at: a leaf and its intermediates.
const CHAIN_MAX: usize = 5;

/// The certificates that a node believes.
#[derive(Clone, Debug)]
pub struct Trust {
    anchors: Vec<TrustAnchor<'static>>,
    /// For each anchor, the only role that it can give. `None`: the role that the certificate names.
    grants: Vec<Option<Role>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    /// All generations, seeds and peers.
    pub(super) fn in_secrets(secrets: &ClusterSecrets) -> Self {
        let both = secrets.generations().flat_map(|generation| {
            let peers = Authority::from_secret(Role::Peer, &generation.peer);
            let seeds = match &generation.seed {
                SeedKey::Secret(secret) => Authority::from_secret(Role::Seed, secret).public_key(),
                SeedKey::Public(public) => *public,
            };
            [(Role::Seed, seeds), (Role::Peer, peers.public_key())]
        });
        let (anchors, grants) =
            both.map(|(role, public)| (authority::anchor(role, &public), Some(role))).unzip();
        Self { anchors, grants, algorithms: tls::provider().signature_verification_algorithms }
    }

    /// Certificates of CAs that give the role that a leaf names.
    pub(super) fn in_authorities(authorities: &[CertificateDer<'_>]) -> Result<Self, webpki::Error> {
        let anchors = authorities.iter().map(|der| Ok(webpki::anchor_from_trusted_cert(der)?.to_owned()));
        let anchors: Vec<_> = anchors.collect::<Result<_, webpki::Error>>()?;
        let grants = vec![None; anchors.len()];
        Ok(Self { anchors, grants, algorithms: tls::provider().signature_verification_algorithms })
    }

    /// Who the holder of a chain is, the leaf first.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn member(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Member, Refusal> {
        let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        let (leaf, intermediates) = chain.split_first().ok_or(Refusal::Missing)?;
        self.verify(leaf, intermediates, KeyUsage::client_auth(), now)
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: impl ExtendedKeyUsageValidator,
        now: UnixTime,
    ) -> Result<Member, Refusal> {
        if intermediates.len() >= CHAIN_MAX {
            return Err(Refusal::Malformed);
        }
        let refusal = |error| Refusal::of_webpki(&error);
        let leaf = EndEntityCert::try_from(leaf).map_err(refusal)?;
        let path = leaf
            .verify_for_usage(self.algorithms.all, &self.anchors, intermediates, now, usage, None, None)
            .map_err(refusal)?;
        let anchored = self.anchors.iter().zip(&self.grants).find(|(anchor, _)| *anchor == path.anchor());
        let granted = anchored.and_then(|(_, granted)| *granted);
        let names: Vec<_> = leaf.valid_dns_names().collect();
        let named = match (names.contains(&SEED_NAME), names.contains(&PEER_NAME)) {
            (true, false) => Role::Seed,
            (false, true) => Role::Peer,
            _ => return Err(Refusal::NoRole),
        };
        if granted.is_some_and(|granted| granted != named) {
            return Err(Refusal::Role);
        }
        Ok(Member::of(&leaf.subject_public_key_info(), named))
    }
}

/// The name that a certificate of this role carries.
pub(super) fn name_of(role: Role) -> &'static str {
    match role {
        Role::Seed => SEED_NAME,
        Role::Peer => PEER_NAME,
    }
}

/// [`Trust`] in a handshake, as server and as client. Which name the other side was called by means nothing: whoever
/// has a certificate of the cluster is a member of it.
#[derive(Debug)]
pub(super) struct Verifier(pub(super) Arc<Trust>);

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.0.verify(end_entity, intermediates, KeyUsage::server_auth(), now);
        verified.map(|_| ServerCertVerified::assertion()).map_err(Refusal::to_tls)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A node has one certificate and needs no hint which one to send.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.0.verify(end_entity, intermediates, KeyUsage::client_auth(), now);
        verified.map(|_| ClientCertVerified::assertion()).map_err(Refusal::to_tls)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::pki_types::PrivateKeyDer;

    use super::*;
    use crate::identity::{Identity, IdentityError, LEAF_LIFETIME, NodeKey};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn now() -> SystemTime {
        UNIX_EPOCH + 20_000 * DAY
    }

    fn secrets() -> ClusterSecrets {
        ClusterSecrets::generate(now() - DAY).expect("randomness")
    }

    /// The chain that a node of these secrets would show.
    fn chain(secrets: &ClusterSecrets, role: Role, at: SystemTime) -> Vec<CertificateDer<'static>> {
        let key = NodeKey::generate().expect("randomness");
        let issuing = secrets.issuing(at);
        let SeedKey::Secret(seed) = &issuing.seed else { panic!("whole secrets") };
        let secret = if role == Role::Seed { seed } else { &issuing.peer };
        vec![Authority::from_secret(role, secret).issue(&key.key, at).expect("issued")]
    }

    #[test]
    fn a_role_is_that_of_the_authority_and_the_name_that_of_the_key() {
        let secrets = secrets();
        let key = NodeKey::generate().expect("randomness");
        // Both kinds of file know both roles.
        for trusting in [secrets.clone(), secrets.for_peers()] {
            for role in [Role::Seed, Role::Peer] {
                let identity = Identity::from_secrets(&secrets, role, &key, now()).expect("an identity");
                assert_eq!(identity.own(), Member { id: key.id(), role });
                let shown = chain(&secrets, role, now());
                let member = Trust::in_secrets(&trusting).member(&shown, now()).expect("believed");
                assert_eq!(member.role, role);
            }
        }
    }

    #[test]
    fn what_is_not_believed_is_refused_with_its_reason() {
        let (ours, foreign) = (secrets(), secrets());
        let trust = Trust::in_secrets(&ours);
        let shown = chain(&ours, Role::Peer, now());
        let check = |chain: &[CertificateDer<'_>], at, refusal| {
            assert_eq!(trust.member(chain, at).map(|member| member.role), Err(refusal));
        };
        check(&[], now(), Refusal::Missing);
        check(&[CertificateDer::from(&b"text"[..])], now(), Refusal::Malformed);
        check(&chain(&foreign, Role::Peer, now()), now(), Refusal::Foreign);
        check(&shown, now() + LEAF_LIFETIME + Duration::from_secs(1), Refusal::Expired);
        check(&shown, now() - Duration::from_secs(3601), Refusal::NotYetValid);
        check(&vec![shown[0].clone(); CHAIN_MAX + 1], now(), Refusal::Malformed);
        assert!(trust.member(&shown, now() - Duration::from_secs(3599)).is_ok());
        assert!(trust.member(&shown, now() + LEAF_LIFETIME - Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn a_peers_authority_makes_no_seed() {
        let secrets = secrets();
        let key = NodeKey::generate().expect("randomness");
        // What a peer can do with its secret: sign itself a certificate with the name of a seed.
        let forged = Authority::from_secret(Role::Peer, &secrets.issuing(now()).peer);
        let forged = forged.issue_named(&key.key, SEED_NAME, now()).expect("issued");
        let refused = Trust::in_secrets(&secrets).member(&[forged], now());
        assert_eq!(refused, Err(Refusal::Role));
        let denied = Identity::from_secrets(&secrets.for_peers(), Role::Seed, &key, now());
        assert!(matches!(denied, Err(IdentityError::NoSeedSecret)));
    }

    #[test]
    fn a_generation_is_believed_before_and_after_its_time() {
        let old = secrets();
        let mut both = old.clone();
        both.add(now()).expect("room");
        let later = now() + DAY;
        let key = NodeKey::generate().expect("randomness");
        let before = Identity::from_secrets(&both, Role::Peer, &key, now()).expect("an identity");
        assert_eq!(before.renew_at(), now() + Duration::from_secs(3600));
        // Not brought to every node yet: the old secret still issues.
        let shown = chain(&both, Role::Peer, now());
        assert!(Trust::in_secrets(&old).member(&shown, now()).is_ok());
        let shown = chain(&both, Role::Peer, later);
        assert_eq!(Trust::in_secrets(&old).member(&shown, later), Err(Refusal::Foreign));
        assert!(Trust::in_secrets(&both).member(&shown, later).is_ok());
        assert!(Trust::in_secrets(&both).member(&chain(&old, Role::Peer, later), later).is_ok());
    }

    /// PEM of anything.
    fn pem(kind: &str, der: &[u8]) -> Vec<u8> {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for three in der.chunks(3) {
            let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
                << (8 * (3 - three.len()));
            for digit in 0..4 {
                let at = (bits >> (18 - 6 * digit) & 63) as usize;
                text.push(if digit <= three.len() { char::from(DIGITS[at]) } else { '=' });
            }
        }
        format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n").into_bytes()
    }

    #[test]
    fn files_give_the_role_that_the_certificate_names() {
        let authority_key = KeyPair::generate().expect("a key");
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = pem("CERTIFICATE", authority.self_signed(&authority_key).expect("signed").der());
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().expect("a key");
        let key_pem = pem("PRIVATE KEY", &key.serialize_der());
        let check = |names: &[&str], expected: Result<Role, &str>| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            let leaf = CertificateParams::new(names).and_then(|leaf| leaf.signed_by(&key, &issuer));
            let leaf = pem("CERTIFICATE", leaf.expect("signed").der());
            let role = Identity::from_pem(&ca, &leaf, &key_pem, now()).map(|identity| identity.own().role);
            match (role.map_err(|error| error.to_string()), expected) {
                (Ok(role), Ok(expected)) => assert_eq!(role, expected),
                (Err(message), Err(expected)) => assert!(message.contains(expected), "{message}"),
                (given, expected) => panic!("{given:?} where {expected:?} was expected"),
            }
        };
        check(&["node-7.example", SEED_NAME], Ok(Role::Seed));
        check(&[PEER_NAME], Ok(Role::Peer));
        check(&["node-7.example"], Err("names no role"));
        check(&[SEED_NAME, PEER_NAME], Err("names no role"));
        let other = KeyPair::generate().expect("a key");
        let leaf =
            CertificateParams::new([PEER_NAME.to_owned()]).and_then(|leaf| leaf.signed_by(&other, &issuer));
        let leaf = pem("CERTIFICATE", leaf.expect("signed").der());
        let mixed = Identity::from_pem(&ca, &leaf, &key_pem, now()).expect_err("another key").to_string();
        assert!(mixed.contains("is the key that of the certificate?"), "{mixed}");
        let empty = Identity::from_pem(b"", &leaf, &key_pem, now()).expect_err("no CA").to_string();
        assert!(empty.contains("cluster.tls.ca"), "{empty}");
        assert!(matches!(PrivateKeyDer::try_from(key.serialize_der()), Ok(PrivateKeyDer::Pkcs8(_))));
    }
}
