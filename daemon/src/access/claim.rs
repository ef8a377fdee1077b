//! Who asks for what: a repository of a registry, and the credential to read it with.

use http::{HeaderMap, header};
use url::form_urlencoded;

/// A repository of one registry, as a hash: what a registry gives access to. A URL outside of any repository is one
/// of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Repository([u8; 32]);

/// What a client shows to be let in: the hash of `Authorization`, `Cookie`, and the query parameters that do not
/// tell contents apart (those of a signed address).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Credential([u8; 32]);

/// A repository and a credential: what needs a proof.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Claim {
    /// What is read.
    pub repository: Repository,
    /// With what.
    pub credential: Credential,
}

impl Repository {
    pub(super) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The repository that a path of the distribution API is about, or the path itself. `registry` is its canonical
    /// origin, `scheme://host:port`.
    pub fn of(registry: &str, path: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(registry.as_bytes()).update(&[0]);
        match repository_name(path) {
            Some(name) => hasher.update(b"repository\0").update(name.as_bytes()),
            None => hasher.update(b"path\0").update(path.as_bytes()),
        };
        Self(hasher.finalize().into())
    }
}

impl Credential {
    pub(super) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// No credential at all.
    pub const NONE: Self = Self([0; 32]);

    /// Of a request's headers and query. `filter` names the parameters that do not tell contents apart.
    pub fn of(headers: &HeaderMap, query: &str, filter: &[String]) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut is_empty = true;
        let mut add = |kind: &[u8], value: &[u8]| {
            is_empty = false;
            // The length keeps neighbouring values apart.
            hasher.update(kind).update(&(value.len() as u64).to_le_bytes()).update(value);
        };
        for (kind, name) in [(b"a", header::AUTHORIZATION), (b"c", header::COOKIE)] {
            headers.get_all(name).iter().for_each(|value| add(kind, value.as_bytes()));
        }
        if !query.is_empty() {
            let filtered = |name: &str| filter.iter().any(|filtered| filtered == name);
            for (name, value) in form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| filtered(name)) {
                add(b"n", name.as_bytes());
                add(b"v", value.as_bytes());
            }
        }
        if is_empty { Self::NONE } else { Self(hasher.finalize().into()) }
    }
}

impl Claim {
    /// The same repository without a credential: what holds for it holds for everyone.
    #[must_use]
    pub fn public(self) -> Self {
        Self { credential: Credential::NONE, ..self }
    }
}

/// `library/app` of `/v2/library/app/blobs/…` and the like: the part before the last word of the API.
pub fn repository_name(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/v2/")?;
    let end = ["/blobs/", "/manifests/", "/tags/", "/referrers/"]
        .iter()
        .filter_map(|word| rest.rfind(word))
        .max()?;
    Some(&rest[..end]).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_one_repository() {
        let check = |path, expected| assert_eq!(repository_name(path), expected, "{path}");
        check("/v2/library/app/blobs/sha256:00", Some("library/app"));
        check("/v2/library/app/manifests/latest", Some("library/app"));
        check("/v2/a/blobs/b/manifests/latest", Some("a/blobs/b"));
        check("/v2/a/tags/list", Some("a"));
        check("/v2/", None);
        check("/v2//blobs/x", None);
        check("/models/a/blobs/x", None);
        let of = |path| Repository::of("http://r", path);
        assert_eq!(of("/v2/a/blobs/x"), of("/v2/a/manifests/y"));
        assert_ne!(of("/v2/a/blobs/x"), of("/v2/b/blobs/x"));
        assert_ne!(of("/v2/a/blobs/x"), Repository::of("http://s", "/v2/a/blobs/x"));
        assert_ne!(of("/file"), of("/other"));
    }

    #[test]
    fn what_is_shown_makes_the_credential() {
        let filter = ["Signature".to_owned(), "Expires".to_owned()];
        let of = |authorization: &str, query: &str| {
            let mut headers = HeaderMap::new();
            if !authorization.is_empty() {
                headers.insert(header::AUTHORIZATION, authorization.parse().unwrap());
            }
            Credential::of(&headers, query, &filter)
        };
        assert_eq!(of("", ""), Credential::NONE);
        assert_eq!(of("", "version=1"), Credential::NONE);
        assert_ne!(of("Bearer a", ""), Credential::NONE);
        assert_ne!(of("Bearer a", ""), of("Bearer b", ""));
        assert_ne!(of("", "Signature=a"), of("", "Signature=b"));
        assert_ne!(of("", "Signature=a"), Credential::NONE);
        assert_eq!(of("Bearer a", "version=1"), of("Bearer a", "version=2"));
    }
}
