//! Where a request goes and with whose credentials.

use std::borrow::Cow;

use darter_engine::RegistryScope;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use url::Url;

use super::via::NodeId;
use crate::access::{Claim, Credential, Repository};
use crate::config::Registry;
use crate::trace::{Span, Trace};

/// A URL at a registry with the client's own headers for it.
#[derive(Clone, Debug)]
pub struct Target {
    registry: Registry,
    scope: RegistryScope,
    url: Url,
    headers: HeaderMap,
    claim: Claim,
    /// Of the query's parameters those that are credentials.
    filter: Vec<String>,
    /// Not to be asked of the cluster: another node has sent it here, or nobody there could help.
    straight: bool,
    /// Nobody's request: the registry is not asked with it.
    nobodys: bool,
    /// What is asked with it is a part of this.
    trace: Trace,
}

/// Headers that end at each hop (RFC 9110, section 7.6.1) or that the next request makes anew. `Proxy-Connection` is
/// what curl and others say to a forward proxy.
const NOT_FORWARDED: [HeaderName; 11] = [
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
    HeaderName::from_static("proxy-connection"),
];

impl Target {
    /// `path_and_query` at a registry. Of the client's headers those stay that are meant for the registry; `Via`
    /// says that the request has come by here. `filter` names the query parameters that do not tell contents apart: they
    /// are credentials.
    /// `None` if the path is none that a URL can have.
    pub fn new(
        registry: Registry,
        path_and_query: &str,
        client: &HeaderMap,
        filter: &[String],
    ) -> Option<Self> {
        let origin = registry.to_string();
        let base = Url::parse(&origin).ok()?;
        let url = base.join(path_and_query).ok()?;
        // A path like `//host/…` would leave the registry.
        if url.origin() != base.origin() {
            return None;
        }
        let mut headers = end_to_end(client);
        NodeId::of_this_process().append_to(&mut headers);
        let claim = Claim {
            repository: Repository::of(&origin, url.path()),
            credential: Credential::of(&headers, url.query().unwrap_or_default(), filter),
        };
        let occurs = |name: &&String| url.query_pairs().any(|(parameter, _)| parameter == name.as_str());
        let filter = filter.iter().filter(occurs).cloned().collect();
        let scope = RegistryScope::of_origin(&origin);
        Some(Self {
            registry,
            scope,
            url,
            headers,
            claim,
            filter,
            straight: false,
            nobodys: false,
            trace: Trace::default(),
        })
    }

    /// For what is taken from other nodes without any client's request: it names whose bytes they are, and no registry is
    /// asked with it. `None` where the registry has no URLs.
    pub fn of_nobody(registry: Registry) -> Option<Self> {
        let target = Self::new(registry, "/", &HeaderMap::new(), &[])?;
        Some(Self { nobodys: true, ..target })
    }

    /// Whether it is no client's.
    pub fn is_nobodys(&self) -> bool {
        self.nobodys
    }

    /// The same, as a part of that.
    #[must_use]
    pub(crate) fn within(mut self, trace: Trace) -> Self {
        self.trace = trace;
        self
    }

    /// The same as a part of a span, or itself where that is not recorded.
    pub(crate) fn below(&self, span: &Span) -> Cow<'_, Self> {
        match span.context() {
            Some(_) => Cow::Owned(self.clone().within(span.trace())),
            None => Cow::Borrowed(self),
        }
    }

    /// What is asked with it is a part of this.
    pub(crate) fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The same, to be asked of the registry by this node itself.
    #[must_use]
    pub fn straight(mut self) -> Self {
        self.straight = true;
        self
    }

    /// The same, to be asked of the cluster first.
    #[must_use]
    pub fn by_cluster(mut self) -> Self {
        self.straight = false;
        self
    }

    /// Whether this node itself asks the registry, whoever owns the content.
    pub fn is_straight(&self) -> bool {
        self.straight
    }

    /// Names of the query's parameters that are credentials.
    pub fn filter(&self) -> &[String] {
        &self.filter
    }

    /// The same with another path below the same repository, and the same credential.
    #[must_use]
    pub fn at(mut self, path: &str) -> Self {
        self.url.set_path(path);
        self
    }

    /// The registry.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The realm that the registry has named, in place of the registry, with a query of the client's.
    #[must_use]
    pub fn to_realm(mut self, mut realm: Url, query: Option<&str>) -> Self {
        if query.is_some() {
            realm.set_query(query);
        }
        self.url = realm;
        self
    }

    /// Under which unverified bytes of it are kept.
    pub fn scope(&self) -> RegistryScope {
        self.scope
    }

    /// What needs a proof before any of it is read.
    pub fn claim(&self) -> Claim {
        self.claim
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
        self.url == other.url && self.claim.credential == other.claim.credential
    }

    /// As somebody asks who has no credential.
    #[must_use]
    pub fn without_credential(mut self) -> Self {
        self.headers.remove(header::AUTHORIZATION);
        self.headers.remove(header::COOKIE);
        self.claim = self.claim.public();
        self
    }

    /// With another `Authorization`, for the same claim.
    #[must_use]
    pub fn with_authorization(mut self, value: HeaderValue) -> Self {
        self.headers.insert(header::AUTHORIZATION, value);
        self
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
        let url = |path| {
            Target::new(registry(), path, &HeaderMap::new(), &[]).map(|target| target.url().to_string())
        };
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
        let target = Target::new(registry(), "/", &client, &[]).unwrap();
        let mut names: Vec<_> = target.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "authorization", "via"]);
        assert!(NodeId::of_this_process().is_in(target.headers()));
    }
}
