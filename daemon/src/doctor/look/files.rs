//! Files of secrets and certificates that the configuration names, and the places of seeds.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use darter_transport::node::Role;
use futures_util::{StreamExt, stream};
use tokio::time::timeout;
use x509_parser::pem::Pem;

use super::super::identity::{CertificateSeen, Identity, Life, Use};
use crate::cluster::look_up;
use crate::config::{HijackSettings, IdentitySource, Settings};

/// The longest file of certificates that is looked at.
const PEM_BYTES_MAX: u64 = 1 << 20;
/// For a place of seeds.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
const LOOKUPS_MAX: usize = 8;

/// What the files are. What cannot be read or used is a problem of the configuration, and said there.
pub(in super::super) fn look(settings: &Settings) -> Identity {
    let mut identity = Identity::default();
    let (mut certificates, mut private) = (Vec::new(), Vec::new());
    for registry in &settings.registries {
        let files = registry.tls.files();
        certificates.extend(files.ca.map(|path| (path, Use::Authorities)));
        certificates.extend(files.certificate.map(|path| (path, Use::Chain)));
        private.extend(files.key);
    }
    if let Some([certificate, key]) = settings.hijack.as_ref().map(HijackSettings::files) {
        certificates.push((certificate.to_owned(), Use::Chain));
        private.push(key.to_owned());
    }
    match settings.cluster.as_ref().map(|cluster| (cluster.role, &cluster.identity)) {
        Some((role, IdentitySource::Secrets(path))) => {
            let is_good = darter_transport::identity::files::secrets(path)
                .is_ok_and(|secrets| role == Role::Peer || secrets.make_seeds());
            let role = match role {
                Role::Seed => "seed",
                Role::Peer => "peer",
            };
            identity.by_secrets = is_good.then(|| role.to_owned());
            private.push(path.clone());
        }
        Some((_, IdentitySource::Files { ca, cert, key })) => {
            certificates.extend([(ca.clone(), Use::Authorities), (cert.clone(), Use::Chain)]);
            private.push(key.clone());
        }
        None => {}
    }
    certificates.sort_unstable();
    certificates.dedup();
    private.sort_unstable();
    private.dedup();
    identity.certificates = certificates.into_iter().filter_map(certificate).collect();
    identity.private = private.into_iter().filter_map(mode).collect();
    identity
}

fn mode(path: PathBuf) -> Option<(PathBuf, u32)> {
    let mode = fs::metadata(&path).ok()?.permissions().mode() & 0o777;
    Some((path, mode))
}

/// When the certificates in a file are valid; `None`: there are none.
fn certificate((path, used_as): (PathBuf, Use)) -> Option<CertificateSeen> {
    let pem = bounded(&path)?;
    let mut lives = Vec::new();
    for pem in Pem::iter_from_buffer(&pem).flatten() {
        if let Ok(certificate) = pem.parse_x509() {
            let validity = certificate.validity();
            lives.push(Life {
                begins_at_s: validity.not_before.timestamp(),
                ends_at_s: validity.not_after.timestamp(),
            });
        }
    }
    (!lives.is_empty()).then_some(CertificateSeen { path, used_as, lives })
}

fn bounded(path: &Path) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(PEM_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Addresses of seeds, and the places that have none.
pub(in super::super) async fn seeds(settings: &Settings) -> (Vec<SocketAddr>, Vec<(String, String)>) {
    let targets = settings.cluster.iter().flat_map(|cluster| &cluster.join);
    let mut looked_up = stream::iter(targets)
        .map(|target| async move {
            let found = timeout(LOOKUP_TIMEOUT, look_up(target)).await;
            let silent = |_| Err(format!("no answer within {} s", LOOKUP_TIMEOUT.as_secs()));
            (target.to_string(), found.unwrap_or_else(silent))
        })
        .buffered(LOOKUPS_MAX);
    let (mut addresses, mut missing) = (Vec::new(), Vec::new());
    while let Some((place, found)) = looked_up.next().await {
        match found {
            Ok(found) => addresses.extend(found),
            Err(reason) => missing.push((place, reason)),
        }
    }
    (addresses, missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::pem::Authority;

    #[test]
    fn certificates_and_their_lives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        fs::write(&path, [Authority::new().pem(), Authority::new().pem()].concat()).unwrap();
        let seen = certificate((path.clone(), Use::Authorities)).unwrap();
        assert_eq!((seen.used_as, seen.lives.len()), (Use::Authorities, 2));
        assert!(seen.lives.iter().all(|life| life.begins_at_s < life.ends_at_s));
        fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(certificate((path, Use::Chain)).is_none(), "what cannot be used is said elsewhere");
    }
}
