//! `proxy.hijackHTTPS`: of which clients' connections TLS ends here, and the authority that this takes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use regex::Regex;

use super::error::Problem;
use super::listed::pem;
use super::named_files::{Contents, Wrong, note};
use super::{Resolved, keys};
use crate::termination::{Authority, AuthorityError, Termination};

/// Anything for others, and writing for the group. The group may read: Kubernetes gives secrets to a pod's user so.
const MODE_REFUSED: u32 = 0o027;

/// Of which connections TLS ends here.
#[derive(Clone, Debug)]
pub struct HijackSettings {
    cert: PathBuf,
    key: PathBuf,
    /// Compared with `HOST:PORT`; matches anywhere in it, unless anchored.
    hosts: Vec<Regex>,
    /// What the files say, once they have been read.
    authority: Option<Arc<Authority>>,
}

impl HijackSettings {
    pub(super) fn new(cert: PathBuf, key: PathBuf, hosts: Vec<Regex>) -> Self {
        Self { cert, key, hosts, authority: None }
    }

    /// The files of the authority.
    pub(crate) fn files(&self) -> [&Path; 2] {
        [&self.cert, &self.key]
    }

    /// Patterns of `HOST:PORT`.
    pub(crate) fn hosts(&self) -> &[Regex] {
        &self.hosts
    }

    /// What shards go by; `None` before the files have been read.
    pub(crate) fn termination(&self) -> Option<Arc<Termination>> {
        Some(Termination::new(self.authority.clone()?, self.hosts.clone()))
    }
}

/// Reads the files, notes what is in them, and says what is wrong with them and where they were named.
pub(super) fn read_files(resolved: &mut Resolved) -> Vec<Problem> {
    let Some(hijack) = &mut resolved.settings.hijack else { return Vec::new() };
    let read = read(&hijack.cert, &hijack.key, SystemTime::now()).map(|(authority, contents)| {
        hijack.authority = Some(Arc::new(authority));
        contents
    });
    note(&mut resolved.effective, read)
}

fn read(cert: &Path, key: &Path, now: SystemTime) -> Result<(Authority, Contents), Wrong> {
    let certificate = pem(cert).map_err(|text| (&keys::HIJACK_CERT, text))?;
    let private = pem(key).map_err(|text| (&keys::HIJACK_KEY, text))?;
    let mode = fs::metadata(key).map_or(0, |file| file.permissions().mode() & 0o777);
    if mode & MODE_REFUSED != 0 {
        let key = key.display();
        let text = format!(
            "{key} has mode {mode:o}, and whoever reads it can be any host to clients of this front: chmod 600 {key} (in \
             Kubernetes defaultMode: 0400)"
        );
        return Err((&keys::HIJACK_KEY, text));
    }
    let authority = Authority::of_pem(&certificate, &private, now).map_err(|error| {
        let (of, file) = match error {
            AuthorityError::Key(_) | AuthorityError::Unfit(_) => (&keys::HIJACK_KEY, key),
            _ => (&keys::HIJACK_CERT, cert),
        };
        (of, format!("{} cannot be used: {error}", file.display()))
    })?;
    let contents = [(&keys::HIJACK_CERT, certificate), (&keys::HIJACK_KEY, private)];
    Ok((authority, contents.map(|(key, bytes)| (key, blake3::hash(&bytes))).into()))
}

#[cfg(test)]
mod tests {
    use super::super::load;
    use super::*;
    use crate::termination::{Made, make};

    #[test]
    fn files_are_read_at_the_start_and_others_may_not_read_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        let Made { certificate, key } = make(&[], SystemTime::now()).unwrap();
        let other = make(&[], SystemTime::now()).unwrap();
        let write = |name: &str, text: &str, mode| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        write("ca.pem", &certificate, 0o644);
        write("key.pem", &key, 0o600);
        write("group.pem", &key, 0o640);
        write("open.pem", &key, 0o644);
        write("other.pem", &other.key, 0o600);
        write("text.pem", "text", 0o600);
        write("both.pem", &(key.clone() + &certificate), 0o600);
        let check = |cert: &str, key: &str, expected: &str| {
            let file = dir.path().join("darter.yaml");
            let text = format!(
                "proxy:\n  hijackHTTPS:\n    cert: {home}/{cert}\n    key: {home}/{key}\n    hosts: [{{regx: x}}]\n"
            );
            fs::write(&file, text).unwrap();
            let said = load(Some(&file), &[]).map_or_else(|error| error.to_string(), |_| "ok".into());
            let said = said.replace(home, "DIR");
            assert!(said == expected || expected != "ok" && said.contains(expected), "{cert} {key}: {said}");
        };
        check("ca.pem", "key.pem", "ok");
        check("ca.pem", "group.pem", "ok");
        check("both.pem", "both.pem", "ok");
        check("none.pem", "key.pem", "yaml:3: proxy.hijackHTTPS.cert: DIR/none.pem cannot be read: ");
        check("ca.pem", "none.pem", "yaml:4: proxy.hijackHTTPS.key: DIR/none.pem cannot be read: ");
        check("ca.pem", "open.pem", "yaml:4: proxy.hijackHTTPS.key: DIR/open.pem has mode 644, and whoever");
        check(
            "text.pem",
            "key.pem",
            "yaml:3: proxy.hijackHTTPS.cert: DIR/text.pem cannot be used: it has no",
        );
        check("ca.pem", "text.pem", "yaml:4: proxy.hijackHTTPS.key: DIR/text.pem cannot be used: it has no");
        check(
            "ca.pem",
            "other.pem",
            "yaml:4: proxy.hijackHTTPS.key: DIR/other.pem cannot be used: certificates by it",
        );
    }
}
