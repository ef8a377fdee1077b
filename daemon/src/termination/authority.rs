//! The authority that clients of the forward proxy believe, and the certificates that it signs for hosts.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use url::Host;

use crate::front::connect::Place;

/// A client's clock may be behind.
const BACKDATED: Duration = Duration::from_secs(3600);
/// How long a certificate of a host holds.
const LEAF_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// The longest common name (RFC 5280, appendix A.1).
const COMMON_NAME_BYTES_MAX: usize = 64;
/// Certificates that lead from it to an authority that is believed.
const CHAIN_MAX: usize = 8;

/// An authority with its key.
pub(crate) struct Authority {
    /// Its certificate, and those that lead from it to its own authority.
    chain: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
    ends_at: SystemTime,
    /// That of every host.
    leaf: KeyPair,
    provider: Arc<CryptoProvider>,
}

/// Why an authority cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    #[error("it has no `-----BEGIN CERTIFICATE-----`, or what follows is none: {0}")]
    Certificate(String),
    #[error("it has no private key of a kind that is known (PKCS #8, SEC 1 or PKCS #1): {0}")]
    Key(String),
    #[error("it is the certificate of a server, not of an authority: `darter proxy init` makes one")]
    NoAuthority,
    #[error("it has ended: make a new one with `darter proxy init`, and have clients trust it")]
    Ended,
    #[error("certificates by it are not right; is the key its own? {0}")]
    Unfit(String),
    #[error("no certificate can be made for this host: {0}")]
    Leaf(String),
}

impl Authority {
    /// Of what two files hold, tried out.
    ///
    /// # Errors
    /// They are not those of an authority whose certificates hold now.
    pub(crate) fn of_pem(certificate: &[u8], key: &[u8], now: SystemTime) -> Result<Self, AuthorityError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
            .take(CHAIN_MAX)
            .collect::<Result<_, _>>()
            .map_err(|error| AuthorityError::Certificate(error.to_string()))?;
        let own = chain.first().ok_or_else(|| AuthorityError::Certificate("there is none".into()))?;
        let ends_at = end_of(own)?;
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|error| AuthorityError::Key(error.to_string()))?;
        let key = KeyPair::try_from(&key).map_err(|error| AuthorityError::Key(error.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(own, key)
            .map_err(|error| AuthorityError::Certificate(error.to_string()))?;
        let leaf = KeyPair::generate().map_err(|error| AuthorityError::Leaf(error.to_string()))?;
        let authority = Self { chain, issuer, ends_at, leaf, provider: Arc::new(default_provider()) };
        authority.try_out(now)?;
        Ok(authority)
    }

    /// For a host whose name no authority is kept from.
    fn try_out(&self, now: SystemTime) -> Result<(), AuthorityError> {
        if now >= self.ends_at {
            return Err(AuthorityError::Ended);
        }
        let unfit = |error: &dyn fmt::Display| AuthorityError::Unfit(error.to_string());
        let mut roots = RootCertStore::empty();
        roots.add(self.chain[0].clone()).map_err(|error| unfit(&error))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone());
        let verifier = verifier.build().map_err(|error| unfit(&error))?;
        let host = Host::Domain("darter.invalid".to_owned());
        let leaf = self.leaf_for(&host, now)?;
        let name = ServerName::try_from("darter.invalid").map_err(|error| unfit(&error))?;
        let since = now.duration_since(SystemTime::UNIX_EPOCH).map_err(|error| unfit(&error))?;
        let now = UnixTime::since_unix_epoch(since);
        match verifier.verify_server_cert(&leaf, &[], &name, &[], now) {
            Ok(_) => Ok(()),
            // It is for some hosts only, and this is none of them; the signature was looked at before.
            Err(error) if error.to_string().contains("NameConstraintViolation") => Ok(()),
            Err(error) => Err(unfit(&error)),
        }
    }

    /// How a client that wants to speak to that place is answered: by HTTP/1.1, under that host's name and no other.
    ///
    /// # Errors
    /// No certificate can be made for it.
    pub(crate) fn server_config(
        &self,
        place: &Place,
        now: SystemTime,
    ) -> Result<ServerConfig, AuthorityError> {
        if now >= self.ends_at {
            return Err(AuthorityError::Ended);
        }
        let failed = |error: &dyn fmt::Display| AuthorityError::Leaf(error.to_string());
        let mut chain = vec![self.leaf_for(place.host(), now)?];
        chain.extend(self.chain.iter().cloned());
        let key = PrivateKeyDer::try_from(self.leaf.serialize_der()).map_err(|error| failed(&error))?;
        let key = self.provider.key_provider.load_private_key(key).map_err(|error| failed(&error))?;
        let only = OnlyFor { place: place.clone(), certified: Arc::new(CertifiedKey::new(chain, key)) };
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(only));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Nothing is kept of a client that has gone.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn leaf_for(
        &self,
        host: &Host<String>,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let failed = |error: rcgen::Error| AuthorityError::Leaf(error.to_string());
        let name = match host {
            Host::Domain(name) => name.clone(),
            // Without brackets, so that it becomes an address.
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        let mut leaf = CertificateParams::new([name.clone()]).map_err(failed)?;
        leaf.distinguished_name = DistinguishedName::new();
        // OpenSSL takes an address there for a name, of which constraints may know nothing.
        match host {
            Host::Domain(_) if name.len() <= COMMON_NAME_BYTES_MAX => {
                leaf.distinguished_name.push(DnType::CommonName, name);
            }
            _ => leaf.distinguished_name.push(DnType::OrganizationName, "darter forward proxy"),
        }
        leaf.not_before = now.checked_sub(BACKDATED).unwrap_or(now).into();
        leaf.not_after = (now + LEAF_LIFETIME).min(self.ends_at).into();
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        Ok(leaf.signed_by(&self.leaf, &self.issuer).map_err(failed)?.der().clone())
    }
}

impl fmt::Debug for Authority {
    /// Its key is nobody's business.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Authority")
    }
}

/// When the certificate of an authority ends.
fn end_of(certificate: &CertificateDer<'_>) -> Result<SystemTime, AuthorityError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| AuthorityError::Certificate(error.to_string()))?;
    let constraints = parsed.basic_constraints().ok().flatten();
    let usage = parsed.key_usage().ok().flatten();
    let may_sign = usage.is_none_or(|usage| usage.value.key_cert_sign());
    if !constraints.is_some_and(|constraints| constraints.value.ca) || !may_sign {
        return Err(AuthorityError::NoAuthority);
    }
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    // No end that a clock of this machine can be compared with is no end.
    let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    end.ok_or_else(|| AuthorityError::Certificate("its end is too far off".into()))
}

/// The certificate of one place. Who asks for another server's gets none.
#[derive(Debug)]
struct OnlyFor {
    place: Place,
    certified: Arc<CertifiedKey>,
}

impl ResolvesServerCert for OnlyFor {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.place.is_named_by(hello.server_name()).then(|| self.certified.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Made, make};
    use super::*;

    fn authority(hosts: &[&str]) -> Authority {
        let now = SystemTime::now();
        let hosts: Vec<_> = hosts.iter().map(|host| Host::parse(host).unwrap()).collect();
        let Made { certificate, key } = make(&hosts, now).unwrap();
        Authority::of_pem(certificate.as_bytes(), key.as_bytes(), now).unwrap()
    }

    /// Whether a client that believes the authority takes its certificate for a host as that of a server.
    fn is_believed(authority: &Authority, host: &str, server: &str, at: SystemTime) -> Result<(), String> {
        let leaf = authority.leaf_for(&Host::parse(host).unwrap(), SystemTime::now()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority.chain[0].clone()).unwrap();
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), authority.provider.clone());
        let name = ServerName::try_from(server.to_owned()).unwrap();
        let at = UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH).unwrap());
        let verified = verifier.build().unwrap().verify_server_cert(&leaf, &[], &name, &[], at);
        verified.map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn certificates_are_for_one_host_and_some_days() {
        let authority = authority(&[]);
        let now = SystemTime::now();
        assert_eq!(is_believed(&authority, "ghcr.io", "ghcr.io", now), Ok(()));
        assert_eq!(is_believed(&authority, "10.0.0.5", "10.0.0.5", now), Ok(()));
        assert_eq!(is_believed(&authority, "[::1]", "::1", now), Ok(()));
        assert_eq!(is_believed(&authority, "ghcr.io", "ghcr.io", now - BACKDATED / 2), Ok(()));
        let long = format!("{}.test", "a".repeat(63));
        assert_eq!(is_believed(&authority, &long, &long, now), Ok(()));
        assert!(is_believed(&authority, "ghcr.io", "a.ghcr.io", now).is_err());
        assert!(is_believed(&authority, "ghcr.io", "ghcr.io", now + LEAF_LIFETIME + BACKDATED).is_err());
    }

    #[test]
    fn one_for_some_hosts_is_believed_for_no_other() {
        let authority = authority(&["ghcr.io", "10.0.0.5"]);
        let now = SystemTime::now();
        for host in ["ghcr.io", "a.ghcr.io", "10.0.0.5"] {
            assert_eq!(is_believed(&authority, host, host, now), Ok(()), "{host}");
        }
        for host in ["ghcr.io.test", "example.test", "10.0.0.6"] {
            assert!(is_believed(&authority, host, host, now).is_err(), "{host}");
        }
        for (only, host) in [("ghcr.io", "10.0.0.5"), ("ghcr.io", "[::1]"), ("10.0.0.5", "ghcr.io")] {
            let (authority, server) = (self::authority(&[only]), host.trim_matches(['[', ']']));
            assert_eq!(is_believed(&authority, only, only, now), Ok(()), "{only}");
            assert!(is_believed(&authority, host, server, now).is_err(), "{host} by one for {only}");
        }
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        let now = SystemTime::now();
        let Made { certificate, key } = make(&[], now).unwrap();
        let other = make(&[], now).unwrap();
        let of = |certificate: &str, key: &str, at| {
            Authority::of_pem(certificate.as_bytes(), key.as_bytes(), at).map(drop).unwrap_err()
        };
        assert!(matches!(of(&certificate, &other.key, now), AuthorityError::Unfit(_)));
        assert!(matches!(of("text", &key, now), AuthorityError::Certificate(_)));
        assert!(matches!(of(&certificate, "text", now), AuthorityError::Key(_)));
        assert!(matches!(of(&certificate, &certificate, now), AuthorityError::Key(_)));
        let later = now + Duration::from_secs(100 * 365 * 86_400);
        assert_eq!(of(&certificate, &key, later), AuthorityError::Ended);
        let server = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        assert_eq!(
            of(&server.cert.pem(), &server.signing_key.serialize_pem(), now),
            AuthorityError::NoAuthority
        );
        // For some hosts only, none of which it is tried with.
        let few = make(&[Host::parse("a.test").unwrap()], now).unwrap();
        assert!(matches!(of(&few.certificate, &other.key, now), AuthorityError::Unfit(_)));
    }
}
