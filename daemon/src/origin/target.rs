//! Where a request goes and with whose credentials.

use http::{HeaderMap, HeaderName, header};
use url::Url;

use crate::config::Registry;

/// A URL at a registry with the client's own headers for it.
#[derive(Clone, Debug)]
pub struct Target {
    registry: Registry,
    url: Url,
    headers: HeaderMap,
}

/// Headers that end at each hop (RFC 9110, section 7.6.1) or that the next request makes anew.
const NOT_FORWARDED: [HeaderName; 10] = [
    header::CONNECTION,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::CONTENT_LENGTH,
    HeaderName::from_static("keep-alive"),
];

impl Target {
    /// `path_and_query` at a registry. Of the client's headers those stay that are meant for the registry.
    /// `None` if the path is none that a URL can have.
    pub fn new(registry: Registry, path_and_query: &str, client: &HeaderMap) -> Option<Self> {
        let base = Url::parse(&registry.to_string()).ok()?;
        let url = base.join(path_and_query).ok()?;
        // A path like `//host/…` would leave the registry.
        if url.origin() != base.origin() {
            return None;
        }
        Some(Self { registry, url, headers: end_to_end(client) })
    }

    /// The registry.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The URL at the registry.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The headers that go with it.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Whether the origin's verdict on one is its verdict on the other: the same address with the same credentials.
    pub fn asks_like(&self, other: &Self) -> bool {
        let same = |name| self.headers.get_all(&name).iter().eq(other.headers.get_all(&name));
        self.url == other.url && same(header::AUTHORIZATION) && same(header::COOKIE)
    }

    /// The same place for bytes of a blob: the client's range and conditions are not the origin's business.
    #[must_use]
    pub fn for_blob(mut self) -> Self {
        for name in [
            header::RANGE,
            header::IF_RANGE,
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            header::IF_MODIFIED_SINCE,
            header::IF_UNMODIFIED_SINCE,
        ] {
            self.headers.remove(name);
        }
        self
    }
}

/// Without hop-by-hop headers, those that `Connection` names, and those meant for us.
pub(crate) fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let ours = name.as_str().starts_with("x-dragonfly-");
        if !ours && !NOT_FORWARDED.contains(name) && !named.contains(name) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> Registry {
        "http://127.0.0.1:5000".parse().unwrap()
    }

    #[test]
    fn a_path_cannot_leave_the_registry() {
        let url =
            |path| Target::new(registry(), path, &HeaderMap::new()).map(|target| target.url().to_string());
        assert_eq!(url("/v2/a/b?x=1"), Some("http://127.0.0.1:5000/v2/a/b?x=1".into()));
        assert_eq!(url("//elsewhere/v2/"), None);
        assert_eq!(url("http://elsewhere/v2/"), None);
        assert_eq!(url("/\\elsewhere"), None);
    }

    #[test]
    fn headers_for_one_hop_end_here() {
        let mut client = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("connection", "close, x-private"),
            ("x-private", "1"),
            ("x-dragonfly-registry", "http://r"),
            ("host", "front"),
            ("accept", "*/*"),
        ] {
            client.insert(name, value.parse().unwrap());
        }
        let target = Target::new(registry(), "/", &client).unwrap();
        let mut names: Vec<_> = target.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "authorization"]);
    }
}
