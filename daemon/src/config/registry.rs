//! Registries: which scheme, host and port a reference means.
//!
//! The one place that knows that Docker Hub has several names: `docker.io` and `index.docker.io` in what people
//! write, `registry-1.docker.io` on the wire. References of the configuration and of requests are read alike.

use std::fmt;
use std::str::FromStr;

use url::{Host, Url};

/// How a registry is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// The port that a URL without one means.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

/// A registry to speak to: `https://registry-1.docker.io`, `http://127.0.0.1:5000`.
///
/// Two references to the same scheme, host and port are equal: the host is in lower case, an IP address in its
/// usual form, the port written out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Registry {
    scheme: Scheme,
    host: Host<String>,
    port: u16,
}

/// Why a text names no registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// It has another scheme, or none where one is needed.
    #[error("it does not begin with http:// or https://")]
    Scheme,
    /// A scheme stands where only a host may.
    #[error("it has a scheme")]
    UnwantedScheme,
    /// The host is missing or malformed.
    #[error("it has no valid host")]
    Host,
    /// The port is no number from 1 to 65535.
    #[error("it has no valid port")]
    Port,
    /// A user name or password: those belong to the client's requests.
    #[error("it has a user name or password")]
    Credentials,
    /// A path, query or fragment.
    #[error("it has more than a host and port")]
    Excess,
}

impl Registry {
    /// Reads what a client may write, in `X-Dragonfly-Registry` or `ns`: a URL, or a bare `HOST[:PORT]` that
    /// means https.
    ///
    /// # Errors
    /// The text names no registry.
    pub fn from_reference(text: &str) -> Result<Self, RegistryError> {
        if text.contains("://") { text.parse() } else { format!("https://{text}").parse() }
    }

    /// How it is spoken to.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Name or address, normalised.
    #[must_use]
    pub const fn host(&self) -> &Host<String> {
        &self.host
    }

    /// Written out or the scheme's.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// `HOST` or `HOST:PORT`, as in the `Host` header: without the scheme's own port.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Registry {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, RegistryError> {
        // `Url` would strip these silently.
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(RegistryError::Host);
        }
        let url = Url::parse(text).map_err(|error| match error {
            url::ParseError::RelativeUrlWithoutBase => RegistryError::Scheme,
            url::ParseError::InvalidPort => RegistryError::Port,
            _ => RegistryError::Host,
        })?;
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(RegistryError::Scheme),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(RegistryError::Credentials);
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(RegistryError::Excess);
        }
        let host = canonical(url.host().ok_or(RegistryError::Host)?.to_owned())?;
        let port = url.port().unwrap_or(scheme.default_port());
        if port == 0 {
            return Err(RegistryError::Port);
        }
        Ok(Self { scheme, host, port })
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}://{}", self.scheme, self.authority())
    }
}

/// `HOST[:PORT]`: registries that a host names, whatever the scheme.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistryHost {
    host: Host<String>,
    port: Option<u16>,
}

impl RegistryHost {
    /// Whether the registry is this one. Without a port, only the default port of the registry's scheme is
    /// meant: what else listens on that host was not named.
    #[must_use]
    pub fn names(&self, registry: &Registry) -> bool {
        self.host == registry.host && self.port.unwrap_or(registry.scheme.default_port()) == registry.port
    }

    /// The registry of that scheme that is meant.
    pub(crate) fn over(&self, scheme: Scheme) -> Registry {
        Registry { scheme, host: self.host.clone(), port: self.port.unwrap_or(scheme.default_port()) }
    }
}

impl From<&Registry> for RegistryHost {
    fn from(registry: &Registry) -> Self {
        Self { host: registry.host.clone(), port: Some(registry.port) }
    }
}

impl FromStr for RegistryHost {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, RegistryError> {
        if text.contains("://") {
            return Err(RegistryError::UnwantedScheme);
        }
        if text.contains(['/', '?', '#']) {
            return Err(RegistryError::Excess);
        }
        // The colons of an IPv6 address stand before its bracket.
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let host = canonical(Host::parse(host).map_err(|_| RegistryError::Host)?)?;
        let port = match port {
            Some(port) => Some(port.parse().ok().filter(|port: &u16| *port != 0).ok_or(RegistryError::Port)?),
            None => None,
        };
        Ok(Self { host, port })
    }
}

impl fmt::Display for RegistryHost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(out, "{}:{port}", self.host),
            None => write!(out, "{}", self.host),
        }
    }
}

fn canonical(host: Host<String>) -> Result<Host<String>, RegistryError> {
    let Host::Domain(name) = host else { return Ok(host) };
    // `example.com.` is `example.com`, fully qualified; TLS knows only the latter.
    match name.strip_suffix('.').unwrap_or(&name) {
        "docker.io" | "index.docker.io" => Ok(Host::Domain("registry-1.docker.io".into())),
        name if name.is_empty() || name.ends_with('.') => Err(RegistryError::Host),
        name => Ok(Host::Domain(name.into())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn urls_are_normalised() {
        let check = |text: &str, expected: Result<&str, RegistryError>| {
            let seen = text.parse::<Registry>().map(|registry| registry.to_string());
            assert_eq!(seen, expected.map(str::to_owned), "{text:?}");
        };
        check("https://index.docker.io", Ok("https://registry-1.docker.io"));
        check("https://docker.io/", Ok("https://registry-1.docker.io"));
        check("https://DOCKER.io.:443", Ok("https://registry-1.docker.io"));
        check("http://127.0.0.1:5000", Ok("http://127.0.0.1:5000"));
        check("http://0x7f.1:80/", Ok("http://127.0.0.1"));
        check("https://[::1]:5000", Ok("https://[::1]:5000"));
        check("ghcr.io", Err(RegistryError::Scheme));
        check("ftp://ghcr.io", Err(RegistryError::Scheme));
        check("https://", Err(RegistryError::Host));
        check("https://a b", Err(RegistryError::Host));
        check("https://a..", Err(RegistryError::Host));
        check("https://ghcr.io\n", Err(RegistryError::Host));
        check("https://ghcr.io:99999", Err(RegistryError::Port));
        check("https://ghcr.io:0", Err(RegistryError::Port));
        check("https://me:secret@ghcr.io", Err(RegistryError::Credentials));
        check("https://ghcr.io/v2/", Err(RegistryError::Excess));
        check("https://ghcr.io\\x", Err(RegistryError::Excess));
        check("https://ghcr.io?x", Err(RegistryError::Excess));
    }

    #[test]
    fn a_reference_without_a_scheme_means_https() {
        let check = |text: &str, expected: Option<&str>| {
            let seen = Registry::from_reference(text).ok().map(|registry| registry.to_string());
            assert_eq!(seen.as_deref(), expected, "{text:?}");
        };
        check("docker.io", Some("https://registry-1.docker.io"));
        check("localhost:5000", Some("https://localhost:5000"));
        check("http://localhost:5000", Some("http://localhost:5000"));
        check("", None);
        check("ghcr.io/library", None);
    }

    #[test]
    fn a_host_names_registries() {
        let check = |host: &str, registry: &str, expected: bool| {
            let host: RegistryHost = host.parse().expect("a host");
            assert_eq!(host.names(&registry.parse().expect("a registry")), expected, "{host} {registry}");
        };
        check("docker.io", "https://registry-1.docker.io", true);
        check("ghcr.io", "https://GHCR.io:443", true);
        check("ghcr.io", "http://ghcr.io", true);
        check("ghcr.io", "https://ghcr.io:8443", false);
        check("ghcr.io:443", "http://ghcr.io", false);
        check("127.0.0.1:5000", "http://127.1:5000", true);
        check("[::1]:5000", "http://[::1]:5000", true);
        check("[::1]", "http://[::1]", true);
        check("ghcr.io", "https://io", false);
        for text in ["", ":5000", "a:b", "a:0", "http://a", "a/b", "a@b", "::1", "a b"] {
            assert!(text.parse::<RegistryHost>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(text in r"(https?://)?([a-zA-Z0-9.:\[\]@/?#%_-]|\PC){0,24}") {
            if let Ok(registry) = Registry::from_reference(&text) {
                prop_assert_eq!(registry.to_string().parse(), Ok(registry));
            }
            if let Ok(host) = text.parse::<RegistryHost>() {
                prop_assert_eq!(host.to_string().parse(), Ok(host));
            }
        }
    }
}
