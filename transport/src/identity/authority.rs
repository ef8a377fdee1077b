//! The authority of a role: the CA that every node derives from the same secret.
//!
//! Its key is Ed25519, whose secret is any 32 bytes: those that HKDF-SHA256 gives. Its name holds a hash of the public
//! key. With both alike on all nodes there is no CA certificate to carry about: who holds the secret, or only the
//! public key, knows the trust anchor.

use std::time::{Duration, SystemTime};

use aws_lc_rs::hkdf;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SerialNumber,
};
use rustls::pki_types::{CertificateDer, Der, PrivatePkcs8KeyDer, TrustAnchor};

use super::secrets::{NoRandomness, Secret};
use super::trust::name_of;
use crate::node::Role;

/// How far back a leaf is dated: clocks of nodes may differ by this much.
pub const BACKDATED: Duration = Duration::from_secs(3600);
/// How long a leaf is good from the moment in which it was issued.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);

const SALT: &[u8] = b"darter cluster 1";
const KEY_BYTES: usize = 32;

/// A role's authority, with the power to issue.
#[derive(Debug)]
pub(super) struct Authority {
    role: Role,
    key: Key,
}

impl Authority {
    /// The authority that this secret is; the same on every node.
    pub(super) fn from_secret(role: Role, secret: &Secret) -> Self {
        let info: &[u8] = match role {
            Role::Seed => b"seed authority ed25519",
            Role::Peer => b"peer authority ed25519",
        };
        Self { role, key: Key::from_secret(&derived(secret, info)) }
    }

    /// What it is known by.
    pub(super) fn public_key(&self) -> [u8; KEY_BYTES] {
        self.key.public
    }

    /// A leaf for the node that holds `node`, good from [`BACKDATED`] before `now` until [`LEAF_LIFETIME`] after.
    pub(super) fn issue(&self, node: &Key, now: SystemTime) -> Result<CertificateDer<'static>, IssueError> {
        self.issue_named(node, name_of(self.role), now)
    }

    /// With another name only in tests: it is refused.
    pub(super) fn issue_named(
        &self,
        node: &Key,
        name: &str,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, IssueError> {
        let mut serial = [0; 16];
        aws_lc_rs::rand::fill(&mut serial).map_err(|_| NoRandomness)?;
        // A positive number without a leading zero has one encoding.
        serial[0] = serial[0] & 0x7f | 0x40;
        let mut leaf = CertificateParams::new([name.to_owned()])?;
        leaf.distinguished_name = distinguished_name("darter node");
        leaf.serial_number = Some(SerialNumber::from_slice(&serial));
        leaf.not_before = now.checked_sub(BACKDATED).unwrap_or(now).into();
        leaf.not_after = (now + LEAF_LIFETIME).into();
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let mut issuer = CertificateParams::default();
        issuer.distinguished_name = distinguished_name(&authority_name(self.role, &self.key.public));
        issuer.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = Issuer::new(issuer, &self.key.pair);
        Ok(leaf.signed_by(&node.pair, &issuer)?.der().clone())
    }
}

/// Why a node cannot issue itself a certificate.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IssueError {
    /// No random numbers.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The certificate could not be written; a fault of ours, or a clock far off.
    #[error("cannot write a certificate (is this machine's clock right?): {0}")]
    Certificate(#[from] rcgen::Error),
}

/// The trust anchor of a role's authority, from its public key alone.
pub(super) fn anchor(role: Role, public: &[u8; KEY_BYTES]) -> TrustAnchor<'static> {
    TrustAnchor {
        subject: Der::from(distinguished_name_der(&authority_name(role, public))),
        subject_public_key_info: Der::from(public_key_info_fields(public)),
        name_constraints: None,
    }
}

/// An Ed25519 key: an authority's or a node's.
#[derive(Debug)]
pub(super) struct Key {
    pair: KeyPair,
    public: [u8; KEY_BYTES],
}

impl Key {
    pub(super) fn from_secret(secret: &Secret) -> Self {
        // Any 32 bytes are a secret key, and what this library has written it also reads.
        let pair = Ed25519KeyPair::from_seed_unchecked(&secret.0).expect("any 32 bytes are a key");
        let public = pair.public_key().as_ref().try_into().expect("32 bytes");
        let pkcs8 = pair.to_pkcs8v1().expect("a key can be written");
        let pkcs8 = PrivatePkcs8KeyDer::from(pkcs8.as_ref());
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &rcgen::PKCS_ED25519);
        Self { pair: pair.expect("what was written is read"), public }
    }

    /// PKCS #8, for TLS.
    pub(super) fn pkcs8(&self) -> PrivatePkcs8KeyDer<'static> {
        self.pair.serialize_der().into()
    }

    /// The SubjectPublicKeyInfo of its certificates.
    pub(super) fn public_key_info(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }
}

fn derived(secret: &Secret, info: &[u8]) -> Secret {
    let mut bytes = [0; 32];
    let from = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(&secret.0);
    let info = [info];
    let filled = from.expand(&info, hkdf::HKDF_SHA256).and_then(|key| key.fill(&mut bytes));
    filled.expect("one hash is asked of it");
    Secret(bytes)
}

fn authority_name(role: Role, public: &[u8; KEY_BYTES]) -> String {
    let role = match role {
        Role::Seed => "seeds",
        Role::Peer => "peers",
    };
    format!("darter {role} {}", &blake3::hash(public).to_hex()[..16])
}

fn distinguished_name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

/// The fields of the DER SEQUENCE that [`distinguished_name`] becomes (X.501: a SET of a SEQUENCE of id-at-commonName
/// and a UTF8String), which is what a trust anchor holds.
fn distinguished_name_der(common: &str) -> Vec<u8> {
    let length = u8::try_from(common.len()).ok().filter(|length| *length < 100);
    let length = length.expect("names of authorities are short: lengths take one byte");
    let mut der = vec![0x31, length + 9, 0x30, length + 7, 0x06, 3, 0x55, 0x04, 0x03, 0x0c, length];
    der.extend_from_slice(common.as_bytes());
    der
}

/// The fields of an Ed25519 key's SubjectPublicKeyInfo (RFC 8410).
fn public_key_info_fields(public: &[u8; KEY_BYTES]) -> Vec<u8> {
    [&[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00][..], public].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_the_same_on_every_node_and_in_every_version() {
        let check = |role, secret: u8, expected: &str| {
            let authority = Authority::from_secret(role, &Secret([secret; 32]));
            assert_eq!(crate::identity::hex::text_of(&authority.public_key()), expected);
        };
        // Computed with Python's hmac and OpenSSL: a node that derives others cannot join.
        check(Role::Seed, 1, "c26ea04095be6e8a1e8f7b99199a91c67c1d16fcd3ba554266cdf16eef4e9865");
        check(Role::Peer, 1, "975acb537104c5254f99de143d6d8e03560be8b0dae639f98216b142b588eef7");
        check(Role::Seed, 2, "88726302d07607635b88f5729080e68931143a35452f8333f7a4c9c85a242709");
    }

    #[test]
    fn the_anchor_is_that_of_a_certificate_that_the_authority_signs_for_itself() {
        for role in [Role::Seed, Role::Peer] {
            let authority = Authority::from_secret(role, &Secret([7; 32]));
            let mut own = CertificateParams::default();
            own.distinguished_name = distinguished_name(&authority_name(role, &authority.public_key()));
            own.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let own = own.self_signed(&authority.key.pair).expect("signed");
            let expected = webpki::anchor_from_trusted_cert(own.der()).expect("a CA certificate");
            assert_eq!(anchor(role, &authority.public_key()), expected.to_owned());
        }
    }
}
