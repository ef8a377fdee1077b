//! What a request to the front is about: pure.
//!
//! The upstream is, in this order: the host of an absolute-form request (the front as a forward proxy),
//! `X-Dragonfly-Registry`, the query parameter `ns`, the configured registry.

use std::net::SocketAddr;

use darter_engine::{ContentId, RegistryScope};
use http::{HeaderMap, Method, Uri};
use url::form_urlencoded;

use crate::config::{Registry, RegistryHost, Rules, Settings};

/// Where requests may go and which of them are for the cache.
#[derive(Clone, Debug)]
pub struct Routing {
    registry: Registry,
    dynamic: bool,
    allowed: Vec<RegistryHost>,
    open_to_others: bool,
    rules: Rules,
}

/// What is to be done with a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// `/server/ping`: whether the front lives.
    Ping,
    /// A blob that goes through the cache.
    Blob {
        /// Where it comes from.
        upstream: Upstream,
        /// Its digest.
        id: ContentId,
    },
    /// Anything else goes to the registry as it is.
    Pass(Upstream),
}

/// A registry, and what to ask of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upstream {
    /// The registry.
    pub registry: Registry,
    /// Path and query, without the parameters that were meant for the front.
    pub path_and_query: String,
}

impl Upstream {
    /// Under which unverified bytes are kept.
    pub fn scope(&self) -> RegistryScope {
        RegistryScope::of_origin(&self.registry.to_string())
    }
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
        let registry = self.upstream(uri, headers)?;
        let path_and_query = without_ns(uri);
        let blob = (*method == Method::GET && self.rules.cache(&path_and_query))
            .then(|| blob_digest(uri.path()))
            .flatten();
        let upstream = Upstream { registry, path_and_query };
        Ok(match blob {
            Some(id) => Route::Blob { upstream, id },
            None => Route::Pass(upstream),
        })
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

/// The digest of `…/blobs/sha256:<64 hex digits>`.
fn blob_digest(path: &str) -> Option<ContentId> {
    let (repository, digest) = path.rsplit_once("/blobs/sha256:")?;
    let named = repository.strip_prefix("/v2/").is_some_and(|name| !name.is_empty());
    named.then(|| digest.parse().ok())?
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

    fn check(uri: &str, registry: Option<&str>, expected_registry: &str, expected_path: &str) {
        let uri = uri.replace("DIGEST", DIGEST);
        match route(&routing(&[]), &uri, registry).unwrap() {
            Route::Blob { upstream, .. } | Route::Pass(upstream) => {
                assert_eq!(upstream.registry.to_string(), expected_registry, "{uri}");
                assert_eq!(upstream.path_and_query, expected_path.replace("DIGEST", DIGEST), "{uri}");
            }
            Route::Ping => panic!("{uri} is no ping"),
        }
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
    fn only_gets_of_blobs_by_digest_go_through_the_cache() {
        let is_blob = |method: Method, uri: &str| {
            let uri = uri.replace("DIGEST", DIGEST).parse().unwrap();
            matches!(routing(&[]).route(&method, &uri, &HeaderMap::new()), Ok(Route::Blob { .. }))
        };
        assert!(is_blob(Method::GET, "/v2/a/b/c/blobs/DIGEST"));
        assert!(!is_blob(Method::HEAD, "/v2/a/blobs/DIGEST"));
        assert!(!is_blob(Method::GET, "/v2/a/manifests/DIGEST"));
        assert!(!is_blob(Method::GET, "/v2//blobs/DIGEST"));
        assert!(!is_blob(Method::GET, "/v2/a/blobs/sha256:123"));
        assert!(!is_blob(Method::GET, "/v2/a/blobs/DIGEST/x"));
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
