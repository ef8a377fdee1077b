//! What `docker login` has written down: `$DOCKER_CONFIG/config.json`, or `~/.docker/config.json`.
//!
//! Only its `auths` are read; helpers that keep secrets elsewhere are not asked.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use http::HeaderValue;
use serde::Deserialize;

use crate::config::Registry;

const FILE_BYTES_MAX: u64 = 1 << 20;

/// Name and password for one registry, as `Authorization` has them.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Basic(HeaderValue);

impl fmt::Debug for Basic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Basic(…)")
    }
}

impl Basic {
    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, Auth>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(default)]
    auth: String,
}

/// What is known for that registry. A file that cannot be read or understood knows nothing.
pub(super) fn of(registry: &Registry) -> Option<Basic> {
    let directory = match std::env::var_os("DOCKER_CONFIG").filter(|path| !path.is_empty()) {
        Some(directory) => PathBuf::from(directory),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
    };
    let path = directory.join("config.json");
    if std::fs::metadata(&path).ok()?.len() > FILE_BYTES_MAX {
        return None;
    }
    find(&std::fs::read_to_string(path).ok()?, registry)
}

fn find(config: &str, registry: &Registry) -> Option<Basic> {
    let config: DockerConfig = serde_json::from_str(config).ok()?;
    let wanted = registry.authority();
    let auth = config.auths.iter().find(|(key, _)| authority_of(key) == Some(wanted.clone()))?.1;
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    if auth.auth.is_empty() || !auth.auth.bytes().all(base64) {
        return None;
    }
    let mut header = HeaderValue::try_from(format!("Basic {}", auth.auth)).ok()?;
    header.set_sensitive(true);
    Some(Basic(header))
}

/// The registry of a key: `ghcr.io`, `localhost:5000`, `https://index.docker.io/v1/`.
fn authority_of(key: &str) -> Option<String> {
    let (scheme, rest) = key.split_once("://").unwrap_or(("https", key));
    let host = rest.split('/').next()?;
    Some(format!("{scheme}://{host}").parse::<Registry>().ok()?.authority())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(registry: &str, expected: Option<&str>) {
        let config = r#"{ "auths": {
            "https://index.docker.io/v1/": { "auth": "aHVi" },
            "ghcr.io": { "auth": "Z2hjcg==" },
            "localhost:5000": { "auth": "bG9jYWw=" },
            "helper.example": {},
            "odd.example": { "auth": "a\r\nb" }
        }, "credsStore": "pass" }"#;
        let found = find(config, &registry.parse().unwrap());
        assert_eq!(found.map(|basic| basic.0), expected.map(|text| text.parse().unwrap()), "{registry}");
    }

    #[test]
    fn each_registry_has_its_own() {
        check("https://registry-1.docker.io", Some("Basic aHVi"));
        check("https://ghcr.io", Some("Basic Z2hjcg=="));
        check("http://localhost:5000", Some("Basic bG9jYWw="));
        check("https://localhost", None);
        check("https://ghcr.io.evil.example", None);
        check("https://helper.example", None);
        check("https://odd.example", None);
    }

    #[test]
    fn what_is_no_configuration_knows_nothing() {
        for config in ["", "[]", "{}", r#"{"auths": 1}"#] {
            assert_eq!(find(config, &"https://ghcr.io".parse().unwrap()), None, "{config}");
        }
    }
}
