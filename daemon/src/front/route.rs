//! What a request to the front is about: pure.
//!
//! The upstream is, in this order: the host of an absolute-form request (the front as a forward proxy),
//! `X-Dragonfly-Registry`, the query parameter `ns`, the configured registry.

use std::net::SocketAddr;
use std::sync::Arc;

use darter_engine::{ContentId, Naming};
use http::{HeaderMap, Method, Uri};
use url::form_urlencoded;

use super::options::{OptionError, Options};
use crate::config::{Registry, RegistryHost, Rules, Settings};

/// Where requests may go and which of them are for the cache.
#[derive(Clone, Debug)]
pub struct Routing {
    registry: Registry,
    dynamic: bool,
    allowed: Vec<RegistryHost>,
    open_to_others: bool,
    rules: Rules,
    filter: Arc<[String]>,
    prefetch: bool,
}

/// What is to be done with a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// `/server/ping`: whether the front lives.
    Ping,
    /// Something is wanted of a registry.
    Errand(Errand),
}

/// What is wanted of a registry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Errand {
    /// Where it comes from.
    pub upstream: Upstream,
    /// What it is.
    pub what: What,
    /// Query parameters that do not tell contents apart.
    pub filter: Arc<[String]>,
    /// The rest of a content is to be brought behind a range.
    pub prefetch: bool,
}

/// What a request is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// A content that goes through the cache.
    Content {
        /// Its name.
        id: ContentId,
        /// What kind of content it is.
        kind: Kind,
    },
    /// A manifest by its tag: the registry says which content that is now.
    Tag,
    /// Anything else goes to the registry as it is.
    Other,
}

impl What {
    /// How such requests are called where few names are wanted: a space and the path's pattern, or nothing.
    pub(crate) fn route(self) -> &'static str {
        match self {
            Self::Content { kind: Kind::Blob, .. } => " /v2/{name}/blobs/{digest}",
            Self::Content { kind: Kind::Manifest, .. } => " /v2/{name}/manifests/{digest}",
            Self::Tag => " /v2/{name}/manifests/{tag}",
            Self::Content { kind: Kind::Url, .. } | Self::Other => "",
        }
    }
}

/// Kinds of contents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A blob of a repository, by its digest.
    Blob,
    /// A manifest or index of a repository, by its digest. Its media type matters to clients.
    Manifest,
    /// Whatever a URL stands for, as long as its validator stays the same.
    Url,
}

impl Kind {
    /// What the name of such a content is the hash of.
    pub fn naming(self) -> Naming {
        match self {
            Self::Blob | Self::Manifest => Naming::Digest,
            Self::Url => Naming::Url,
        }
    }
}

/// A registry, and what to ask of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upstream {
    /// The registry.
    pub registry: Registry,
    /// Path and query, without the parameters that were meant for the front.
    pub path_and_query: String,
}

/// Why a request has no route. The message is for whoever configured the client.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RouteError {
    /// A registry was named in a way that cannot be read.
    #[error("{what} names no registry ({value:?}): expected https://HOST[:PORT]")]
    Registry {
        /// Which header or parameter.
        what: &'static str,
        /// What it said.
        value: String,
    },
    /// The front is open to others and the registry is not configured.
    #[error(
        "{registry} is not among the registries of this node, whose front is open to others: start darter with --allow-registry {authority}, or add it to proxy.allowedRegistries"
    )]
    NotAllowed {
        /// The registry that was asked for.
        registry: String,
        /// Its host and port.
        authority: String,
    },
    /// A header of the request asks for something that is refused.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The client's own priority says that this is not to be had.
    #[error("x-dragonfly-priority: 1 forbids this content")]
    Forbidden,
}

impl Routing {
    /// As configured.
    pub fn new(settings: &Settings) -> Self {
        Self {
            registry: settings.registry.clone(),
            dynamic: settings.registry_dynamic,
            allowed: settings.allowed_registries.clone(),
            open_to_others: is_open_to_others(settings.front),
            rules: settings.rules.clone(),
            filter: settings.filter_params.clone().into(),
            prefetch: settings.prefetch,
        }
    }

    /// The route of a request.
    ///
    /// # Errors
    /// It names a registry that cannot be read, or one that this front does not serve.
    pub fn route(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Route, RouteError> {
        if uri.path() == "/server/ping" && uri.authority().is_none() {
            return Ok(Route::Ping);
        }
        let options = Options::read(headers)?;
        if options.forbidden {
            return Err(RouteError::Forbidden);
        }
        let registry = self.upstream(uri, headers)?;
        let upstream = Upstream { registry, path_and_query: without_ns(uri) };
        let filter = match &options.filter {
            Some(names) => names.as_slice().into(),
            None => self.filter.clone(),
        };
        let what = match *method {
            Method::GET | Method::HEAD => self.what(uri, &upstream, &filter, &options),
            _ => What::Other,
        };
        let prefetch = options.prefetch.unwrap_or(self.prefetch);
        Ok(Route::Errand(Errand { upstream, what, filter, prefetch }))
    }

    fn what(&self, uri: &Uri, upstream: &Upstream, filter: &[String], options: &Options) -> What {
        let whole = uri.authority().map(|_| format!("{}{}", upstream.registry, upstream.path_and_query));
        let compared = whole.as_deref().unwrap_or(&upstream.path_and_query);
        let is_cached = options.use_p2p.unwrap_or_else(|| self.rules.cache(compared));
        let path = uri.path();
        let content = |id, kind| What::Content { id, kind };
        match reference(path) {
            Some(("blobs", digest)) if is_cached => {
                digest_of(digest).map_or(What::Other, |id| content(id, Kind::Blob))
            }
            Some(("manifests", _)) if options.use_p2p == Some(false) || self.rules.direct(compared) => {
                What::Other
            }
            Some(("manifests", digest)) if digest.contains(':') => {
                digest_of(digest).map_or(What::Other, |id| content(id, Kind::Manifest))
            }
            Some(("manifests", tag)) if !tag.is_empty() => What::Tag,
            None if is_cached && !path.starts_with("/v2/") => {
                content(name_of(upstream, filter, options), Kind::Url)
            }
            _ => What::Other,
        }
    }

    fn upstream(&self, uri: &Uri, headers: &HeaderMap) -> Result<Registry, RouteError> {
        let named = |what, value: &str| {
            Registry::from_reference(value)
                .map_err(|_| RouteError::Registry { what, value: value.chars().take(200).collect() })
        };
        let registry = if let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) {
            named("the request's URL", &format!("{scheme}://{authority}"))?
        } else if !self.dynamic {
            self.registry.clone()
        } else if let Some(value) = headers.get("x-dragonfly-registry") {
            named("X-Dragonfly-Registry", value.to_str().unwrap_or("?").trim_end_matches('/'))?
        } else if let Some(value) = ns_of(uri) {
            named("the parameter ns", &value)?
        } else {
            self.registry.clone()
        };
        let configured =
            registry == self.registry || self.allowed.iter().any(|allowed| allowed.names(&registry));
        if self.open_to_others && !configured {
            let authority = registry.authority();
            return Err(RouteError::NotAllowed { registry: registry.to_string(), authority });
        }
        Ok(registry)
    }
}

fn is_open_to_others(front: SocketAddr) -> bool {
    !front.ip().to_canonical().is_loopback()
}

fn parameters(uri: &Uri) -> impl Iterator<Item = (std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)> {
    form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
}

fn ns_of(uri: &Uri) -> Option<String> {
    parameters(uri).find(|(name, _)| name == "ns").map(|(_, value)| value.into_owned())
}

/// `ns` is containerd's word to a mirror; the registry's own URL does not have it. All else stays to the letter.
fn without_ns(uri: &Uri) -> String {
    let kept: Vec<&str> = uri
        .query()
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter(|parameter| parameter.split('=').next() != Some("ns"))
        .collect();
    if kept.is_empty() { uri.path().to_owned() } else { format!("{}?{}", uri.path(), kept.join("&")) }
}

/// `blobs` or `manifests` and what follows, of a path of the distribution API.
fn reference(path: &str) -> Option<(&str, &str)> {
    let (rest, reference) = path.strip_prefix("/v2/")?.rsplit_once('/')?;
    let (repository, word) = rest.rsplit_once('/')?;
    (!repository.is_empty() && matches!(word, "blobs" | "manifests")).then_some((word, reference))
}

/// Of `sha256:<64 hex digits>`.
pub(super) fn digest_of(text: &str) -> Option<ContentId> {
    text.strip_prefix("sha256:")?.parse().ok()
}

/// The name of what a URL stands for: without the parameters that do not tell contents apart, with tag and
/// application, which do.
fn name_of(upstream: &Upstream, filter: &[String], options: &Options) -> ContentId {
    let (path, query) = upstream.path_and_query.split_once('?').unwrap_or((&upstream.path_and_query, ""));
    let mut canonical = format!("{}{path}", upstream.registry);
    let mut separator = '?';
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let name =
            form_urlencoded::parse(parameter.as_bytes()).next().map(|(name, _)| name).unwrap_or_default();
        if !filter.iter().any(|filtered| *filtered == name) {
            canonical.push(separator);
            canonical.push_str(parameter);
            separator = '&';
        }
    }
    for text in [&options.tag, &options.application] {
        canonical.push('\n');
        canonical.push_str(text.as_deref().unwrap_or_default());
    }
    ContentId::of_name(&canonical)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e85afb9ae5eecd08f395b9777442e2642fb94dc49bd2d92f7c0a2763cb419f40";

    fn routing(flags: &[&str]) -> Routing {
        use clap::Parser;
        let flags = ["darter", "serve"].into_iter().chain(flags.iter().copied());
        let crate::cli::Command::Serve(serve) = crate::cli::Cli::parse_from(flags).command else {
            panic!("serve was asked for")
        };
        Routing::new(&crate::config::load(None, &serve.overrides()).unwrap().settings)
    }

    fn route(routing: &Routing, uri: &str, registry: Option<&str>) -> Result<Route, RouteError> {
        let mut headers = HeaderMap::new();
        if let Some(registry) = registry {
            headers.insert("x-dragonfly-registry", registry.parse().unwrap());
        }
        routing.route(&Method::GET, &uri.parse().unwrap(), &headers)
    }

    fn errand(routing: &Routing, uri: &str, registry: Option<&str>) -> Errand {
        match route(routing, uri, registry).unwrap() {
            Route::Errand(errand) => errand,
            Route::Ping => panic!("{uri} is no ping"),
        }
    }

    fn check(uri: &str, registry: Option<&str>, expected_registry: &str, expected_path: &str) {
        let uri = uri.replace("DIGEST", DIGEST);
        let upstream = errand(&routing(&[]), &uri, registry).upstream;
        assert_eq!(upstream.registry.to_string(), expected_registry, "{uri}");
        assert_eq!(upstream.path_and_query, expected_path.replace("DIGEST", DIGEST), "{uri}");
    }

    #[test]
    fn the_upstream_is_named_by_url_header_parameter_or_configuration() {
        let path = "/v2/library/app/blobs/DIGEST";
        check(path, None, "https://registry-1.docker.io", path);
        check(path, Some("http://127.0.0.1:5000"), "http://127.0.0.1:5000", path);
        check("/v2/a/blobs/DIGEST?ns=ghcr.io", None, "https://ghcr.io", "/v2/a/blobs/DIGEST");
        check(
            "/v2/a/blobs/DIGEST?x=1&ns=ghcr.io&y=%20",
            None,
            "https://ghcr.io",
            "/v2/a/blobs/DIGEST?x=1&y=%20",
        );
        check("/v2/a/blobs/DIGEST?ns=docker.io", None, "https://registry-1.docker.io", "/v2/a/blobs/DIGEST");
        check(
            "/v2/a/manifests/latest?ns=127.0.0.1%3A5000",
            None,
            "https://127.0.0.1:5000",
            "/v2/a/manifests/latest",
        );
        check("http://r:5000/v2/a/blobs/DIGEST", Some("http://other"), "http://r:5000", "/v2/a/blobs/DIGEST");
    }

    #[test]
    fn what_a_request_is_about() {
        let routing = routing(&[]);
        let check = |method: Method, uri: &str, header: Option<(&'static str, &str)>, expected: &str| {
            let headers: HeaderMap = header
                .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
                .into_iter()
                .collect();
            let parsed = uri.replace("DIGEST", DIGEST).parse().unwrap();
            let seen = match routing.route(&method, &parsed, &headers) {
                Ok(Route::Errand(Errand { what: What::Content { kind, .. }, .. })) => format!("{kind:?}"),
                Ok(Route::Errand(Errand { what, .. })) => format!("{what:?}"),
                other => panic!("{uri}: {other:?}"),
            };
            assert_eq!(seen, expected, "{method} {uri} {header:?}");
        };
        check(Method::GET, "/v2/a/b/c/blobs/DIGEST", None, "Blob");
        check(Method::HEAD, "/v2/a/blobs/DIGEST", None, "Blob");
        check(Method::PUT, "/v2/a/blobs/DIGEST", None, "Other");
        check(Method::GET, "http://r/v2/a/blobs/DIGEST", None, "Blob");
        check(Method::GET, "/v2/a/blobs/DIGEST", Some(("x-dragonfly-use-p2p", "false")), "Other");
        check(Method::GET, "/v2/a/manifests/DIGEST", None, "Manifest");
        check(Method::GET, "/v2/a/manifests/latest", None, "Tag");
        check(Method::GET, "/v2/a/manifests/latest", Some(("x-dragonfly-use-p2p", "false")), "Other");
        check(Method::GET, "/v2/a/manifests/sha512:00", None, "Other");
        check(Method::GET, "/v2/a/manifests/", None, "Other");
        check(Method::GET, "/v2//blobs/DIGEST", None, "Other");
        check(Method::GET, "/v2/a/blobs/sha256:123", None, "Other");
        check(Method::GET, "/v2/a/blobs/DIGEST/x", None, "Other");
        check(Method::GET, "/v2/a/tags/list", None, "Other");
        check(Method::GET, "/models/a.bin", None, "Other");
        check(Method::GET, "/models/a.bin", Some(("x-dragonfly-use-p2p", "true")), "Url");
    }

    #[test]
    fn signed_addresses_of_one_content_have_one_name() {
        let name = |path: &str, tag: &str| {
            let options = Options { tag: Some(tag.into()), ..Options::default() };
            let registry = "http://r".parse().unwrap();
            let upstream = Upstream { registry, path_and_query: path.into() };
            name_of(&upstream, &["Expires".into(), "Signature".into()], &options)
        };
        assert_eq!(name("/a?x=1&Signature=b&Expires=2", ""), name("/a?Expires=3&x=1&Signature=c", ""));
        assert_eq!(name("/a?Signature=b", ""), name("/a", ""));
        assert_ne!(name("/a?x=1", ""), name("/a?x=2", ""));
        assert_ne!(name("/a", "t"), name("/a", ""));
    }

    #[test]
    fn what_no_client_may_ask_for_is_refused() {
        let headers: HeaderMap =
            [(http::HeaderName::from_static("x-dragonfly-output-path"), "/etc/passwd".parse().unwrap())]
                .into_iter()
                .collect();
        let refused = routing(&[]).route(&Method::GET, &"/v2/a/blobs/x".parse().unwrap(), &headers);
        assert!(matches!(refused, Err(RouteError::Option(_))));
    }

    #[test]
    fn a_front_that_is_open_to_others_serves_configured_registries_only() {
        let routing = routing(&["--front", "0.0.0.0:65001", "--allow-registry", "ghcr.io"]);
        assert!(route(&routing, "/v2/a/manifests/x", None).is_ok());
        assert!(route(&routing, "/v2/a/manifests/x", Some("https://ghcr.io")).is_ok());
        let refused = route(&routing, "/v2/a/manifests/x", Some("http://10.0.0.1:5000")).unwrap_err();
        assert!(refused.to_string().contains("--allow-registry 10.0.0.1:5000"), "{refused}");
    }

    #[test]
    fn what_names_no_registry_is_an_error_that_says_so() {
        let refused = route(&routing(&[]), "/v2/a/manifests/x", Some("ftp://x")).unwrap_err();
        assert!(refused.to_string().contains("X-Dragonfly-Registry"), "{refused}");
    }
}
