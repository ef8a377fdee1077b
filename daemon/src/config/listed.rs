//! `proxy.registries`: registries that are spoken to in a way of their own, and the files that this takes.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use reqwest::{Certificate, ClientBuilder, Identity};

use super::error::Problem;
use super::layers::Source;
use super::registry::RegistryHost;
use super::{Resolved, keys};
use crate::origin::innermost;
use crate::sandbox;

/// Bytes of the longest PEM file that is read; the whole bundle of a distribution has a quarter of that.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// One item of the list.
#[derive(Clone, Debug)]
pub struct ListedRegistry {
    /// Which registry.
    pub host: RegistryHost,
    /// How it is spoken to over TLS.
    pub tls: TlsSetting,
}

/// How a registry proves who it is, and how we do.
#[derive(Clone, Debug)]
pub struct TlsSetting {
    verified: bool,
    ca: Option<PathBuf>,
    /// Certificate and key.
    client: Option<(PathBuf, PathBuf)>,
    /// What the files say, once they have been read.
    authorities: Vec<Certificate>,
    identity: Option<Identity>,
}

/// Of a registry, or of how this node proves to it who it is.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    /// Authorities that registries are believed by.
    pub(crate) ca: Option<PathBuf>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

impl TlsSetting {
    /// Without files: the system's authorities decide, or nobody does.
    pub(crate) fn verified(verified: bool) -> Self {
        Self::new(verified, None, None)
    }

    pub(super) fn new(verified: bool, ca: Option<PathBuf>, client: Option<(PathBuf, PathBuf)>) -> Self {
        Self { verified, ca, client, authorities: Vec::new(), identity: None }
    }

    /// Whether the registry must prove who it is.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.verified
    }

    /// The files that it is made of.
    pub(crate) fn files(&self) -> TlsFiles {
        let (certificate, key) = self.client.clone().unzip();
        TlsFiles { ca: self.ca.clone(), certificate, key }
    }

    /// Whether one client can speak in both ways.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.verified == other.verified && self.ca == other.ca && self.client == other.client
    }

    /// A client that speaks so.
    pub(crate) fn apply(&self, builder: ClientBuilder) -> ClientBuilder {
        let builder = builder.tls_danger_accept_invalid_certs(!self.verified);
        let builder = match self.authorities.as_slice() {
            [] => builder,
            authorities => builder.tls_certs_merge(authorities.iter().cloned()),
        };
        match &self.identity {
            Some(identity) => builder.identity(identity.clone()),
            None => builder,
        }
    }

    /// Reads the files, and says which keys name them and what is in them. The error has the key of the item that is
    /// wrong, and what is wrong.
    fn read(&mut self) -> Result<Vec<(&'static keys::Key, blake3::Hash)>, (&'static keys::Key, String)> {
        let mut contents = Vec::new();
        if let Some(path) = &self.ca {
            let wrong = |text| (&keys::REGISTRY_CA, text);
            let bytes = pem(path).map_err(wrong)?;
            self.authorities = certificates(path, &bytes).map_err(wrong)?;
            contents.push((&keys::REGISTRY_CA, blake3::hash(&bytes)));
            // An authority that cannot be used is found out when a client is made.
            self.try_out().map_err(|error| wrong(malformed(path, &error)))?;
        }
        if let Some((certificate, key)) = &self.client {
            let wrong = |text| (&keys::REGISTRY_CERT, text);
            let mut both = pem(certificate).map_err(wrong)?;
            certificates(certificate, &both).map_err(wrong)?;
            contents.push((&keys::REGISTRY_CERT, blake3::hash(&both)));
            let wrong = |text| (&keys::REGISTRY_KEY, text);
            if key != certificate {
                let bytes = pem(key).map_err(wrong)?;
                contents.push((&keys::REGISTRY_KEY, blake3::hash(&bytes)));
                both.push(b'\n');
                both.extend(bytes);
            }
            self.identity =
                Some(Identity::from_pem(&both).map_err(|error| wrong(malformed(key, &innermost(&error))))?);
            self.try_out().map_err(|error| wrong(malformed(key, &error)))?;
        }
        Ok(contents)
    }

    /// A key that belongs to another certificate is found out here too.
    fn try_out(&self) -> Result<(), String> {
        self.apply(reqwest::Client::builder()).build().map(drop).map_err(|error| innermost(&error))
    }
}

/// Reads the files of all listed registries. What is wrong is every one that cannot be read or used, with the place
/// where it was named.
pub(super) fn read_files(resolved: &mut Resolved) -> Vec<Problem> {
    let mut problems = Vec::new();
    let effective = &mut resolved.effective;
    let in_item = |key: &keys::Key, index: usize| key.path.replace("[]", &format!("[{index}]"));
    for (index, registry) in resolved.settings.registries.iter_mut().enumerate() {
        match registry.tls.read() {
            Ok(contents) => {
                for (key, content) in contents {
                    let key = in_item(key, index);
                    effective
                        .iter_mut()
                        .filter(|row| row.key == key)
                        .for_each(|row| row.content = Some(content));
                }
            }
            Err((key, text)) => {
                let key = in_item(key, index);
                let row = effective.iter().find(|row| row.key == key);
                let source = row.map_or(Source::Default, |row| row.source.clone());
                problems.push(Problem { source, key, text });
            }
        }
    }
    problems
}

/// What a PEM file holds, or why not.
pub(super) fn pem(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("{} cannot be read: {error}{}", path.display(), sandbox::hint(&error)))?;
    if bytes.len() as u64 > PEM_BYTES_MAX {
        return Err(format!("{} is longer than {PEM_BYTES_MAX} bytes", path.display()));
    }
    Ok(bytes)
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<Certificate>, String> {
    let certificates =
        Certificate::from_pem_bundle(pem).map_err(|error| malformed(path, &innermost(&error)))?;
    if certificates.is_empty() {
        return Err(malformed(path, "it has no `-----BEGIN CERTIFICATE-----`"));
    }
    Ok(certificates)
}

fn malformed(path: &Path, why: &str) -> String {
    format!("{} cannot be used: {why}", path.display())
}

#[cfg(test)]
mod tests {
    use super::super::load;

    /// A certificate that signed itself, for `registry.test`, and its key; and the key of another.
    const CERTIFICATE: &str = include_str!("testdata/certificate.pem");
    const KEY: &str = include_str!("testdata/key.pem");
    const OTHER_KEY: &str = include_str!("testdata/other-key.pem");

    /// What is said of a listed registry with these lines, `DIR` being where the files are.
    fn said(lines: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        for (name, text) in
            [("c.pem", CERTIFICATE), ("k.pem", KEY), ("other.pem", OTHER_KEY), ("text.pem", "no certificate")]
        {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let bad = CERTIFICATE.replacen("MII", "AAA", 1);
        std::fs::write(dir.path().join("bad.pem"), bad).unwrap();
        let file = dir.path().join("darter.yaml");
        let text = format!("proxy:\n  registries:\n  - host: r\n    {}\n", lines.replace("DIR", home));
        std::fs::write(&file, text).unwrap();
        let said = load(Some(&file), &[]).map_or_else(|error| error.to_string(), |_| "ok".into());
        said.replace(home, "DIR")
    }

    #[track_caller]
    fn check(lines: &str, expected: &str) {
        let said = said(lines);
        assert!(said == expected || expected != "ok" && said.starts_with(expected), "{said}");
    }

    #[test]
    fn files_are_read_at_the_start() {
        check("ca: DIR/c.pem", "ok");
        check("ca: DIR/c.pem\n    cert: DIR/c.pem\n    key: DIR/k.pem", "ok");
        let place = "DIR/darter.yaml:4: proxy.registries[0]";
        check("ca: DIR/none.pem", &format!("{place}.ca: DIR/none.pem cannot be read: No such file"));
        check("ca: DIR/text.pem", &format!("{place}.ca: DIR/text.pem cannot be used: it has no"));
        check("ca: DIR/bad.pem", &format!("{place}.ca: DIR/bad.pem cannot be used: "));
        check("ca: /dev/zero", &format!("{place}.ca: /dev/zero is longer than 1048576 bytes"));
        check(
            "cert: DIR/text.pem\n    key: DIR/k.pem",
            &format!("{place}.cert: DIR/text.pem cannot be used: it has no"),
        );
        let place = "DIR/darter.yaml:5: proxy.registries[0]";
        check(
            "cert: DIR/c.pem\n    key: DIR/none.pem",
            &format!("{place}.key: DIR/none.pem cannot be read: No such file"),
        );
        check(
            "cert: DIR/c.pem\n    key: DIR/text.pem",
            &format!("{place}.key: DIR/text.pem cannot be used: "),
        );
        check(
            "cert: DIR/c.pem\n    key: DIR/other.pem",
            &format!("{place}.key: DIR/other.pem cannot be used: "),
        );
    }
}
