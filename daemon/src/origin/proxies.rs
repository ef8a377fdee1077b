//! The proxies of the environment: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`.
//!
//! reqwest goes by them on its own; this asks the same matcher beforehand, because a name that a proxy resolves is
//! not ours to check.

use std::fmt;
use std::sync::Arc;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use url::Url;

/// Which URLs go through a proxy.
#[derive(Clone)]
pub struct Proxies(Arc<Matcher>);

impl Proxies {
    /// Those that reqwest uses in this process.
    #[must_use]
    pub fn of_environment() -> Self {
        Self(Arc::new(Matcher::from_system()))
    }

    /// One proxy for everything but some hosts.
    #[cfg(test)]
    pub(super) fn of(proxy: &str, except: &str) -> Self {
        Self(Arc::new(Matcher::builder().all(proxy).no(except).build()))
    }

    /// No proxy at all.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self(Arc::new(Matcher::builder().build()))
    }

    /// Whether a request to this URL goes through a proxy.
    #[must_use]
    pub fn take(&self, url: &Url) -> bool {
        Uri::try_from(url.as_str()).is_ok_and(|uri| self.0.intercept(&uri).is_some())
    }

    /// The proxy through which a URL is reached, if any.
    pub(super) fn intercept(&self, url: &Url) -> Option<Intercept> {
        self.0.intercept(&Uri::try_from(url.as_str()).ok()?)
    }

    /// The proxy of a URL as `HOST:PORT`, without a name or password.
    #[must_use]
    pub fn of_url(&self, url: &Url) -> Option<String> {
        let uri = Uri::try_from(url.as_str()).ok()?;
        let proxy = self.0.intercept(&uri)?;
        Some(match (proxy.uri().host()?, proxy.uri().port_u16()) {
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_owned(),
        })
    }

    /// What the start says, if there is any proxy.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        // A host that nobody excepts by name, unless everything is excepted.
        let through = |scheme: &str| {
            let uri = Uri::try_from(format!("{scheme}://registry.invalid/")).ok()?;
            Some(self.0.intercept(&uri)?.uri().authority()?.to_string())
        };
        let proxy = through("https").or_else(|| through("http"))?;
        Some(format!(
            "by the environment (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY) registries are asked through the proxy {proxy}, \
             which resolves their names: there the destination guard sees names and literal addresses, not what names \
             lead to. Hosts in NO_PROXY are guarded in full"
        ))
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Proxies")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_names_the_proxy_and_not_its_password() {
        let warning = Proxies::of("http://me:secret@proxy.example:3128", "ghcr.io").warning().unwrap();
        assert!(
            warning.contains("the proxy proxy.example:3128,") && !warning.contains("secret"),
            "{warning}"
        );
        let url = "https://registry.example/".parse().unwrap();
        let proxies = Proxies::of("http://me:secret@proxy.example:3128", "ghcr.io");
        assert_eq!(proxies.of_url(&url).as_deref(), Some("proxy.example:3128"));
        assert_eq!(Proxies::none().of_url(&url), None);
        assert_eq!(Proxies::none().warning(), None);
        assert_eq!(Proxies::of("http://proxy.example:3128", "*").warning(), None);
    }
}
