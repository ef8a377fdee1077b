//! Certificates of an authority that is none of ours, as PEM, for tests.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// One that signed itself.
pub(crate) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = of("CERTIFICATE", params.self_signed(&key).expect("signed").der());
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Its own certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    pub(crate) fn key(&self) -> KeyPair {
        KeyPair::generate().expect("a key")
    }

    /// A certificate with this DNS name.
    pub(crate) fn leaf(&self, name: &str, key: &KeyPair) -> String {
        let leaf = CertificateParams::new([name.to_owned()]);
        let leaf = leaf.and_then(|leaf| leaf.signed_by(key, &self.issuer)).expect("signed");
        of("CERTIFICATE", leaf.der())
    }
}

pub(crate) fn of_key(key: &KeyPair) -> String {
    of("PRIVATE KEY", &key.serialize_der())
}

fn of(kind: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in der.chunks(3) {
        let bits =
            three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let at = (bits >> (18 - 6 * digit) & 63) as usize;
            text.push(if digit <= three.len() { char::from(DIGITS[at]) } else { '=' });
        }
    }
    format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n")
}
