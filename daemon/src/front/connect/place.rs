//! `HOST:PORT`, as a CONNECT names where to: pure.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::Authority;
use url::{Host, Url};

use crate::config::Registry;

/// Longest name of the DNS, without a final dot.
const NAME_BYTES_MAX: usize = 253;
/// Longest text that is read: such a name, a dot, and a port that may have zeros before it.
const BYTES_MAX: usize = 300;
const HTTPS_PORT: u16 = 443;

/// A host and a port. A name is in lower case, without a final dot, and an address in its usual form.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    host: Host<String>,
    port: u16,
}

/// Why a text is no such place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoPlace {
    /// Empty, malformed, or with a user's name.
    #[error("it has no valid host")]
    Host,
    /// None, 0, or no number.
    #[error("it has no valid port")]
    Port,
}

impl Place {
    /// What a request of CONNECT names.
    ///
    /// # Errors
    /// Its target is anything but `HOST:PORT`.
    pub fn of_connect(uri: &Uri) -> Result<Self, NoPlace> {
        let is_plain = uri.scheme().is_none() && uri.path_and_query().is_none();
        uri.authority().filter(|_| is_plain).ok_or(NoPlace::Host)?.as_str().parse()
    }

    /// What the `Host` of a request over TLS says, where the port may be missing.
    ///
    /// # Errors
    /// It is no such place.
    pub fn of_host_header(text: &str) -> Result<Self, NoPlace> {
        match port_of(text) {
            Some(_) => text.parse(),
            None => Ok(Self { host: host(text)?, port: HTTPS_PORT }),
        }
    }

    /// Name or address.
    #[must_use]
    pub fn host(&self) -> &Host<String> {
        &self.host
    }

    /// Never 0.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is the port of https, which needs no configuration.
    #[must_use]
    pub fn has_https_port(&self) -> bool {
        self.port == HTTPS_PORT
    }

    /// What is there, if it speaks https.
    ///
    /// # Errors
    /// The host is none that a URL can have.
    pub fn url(&self) -> Result<Url, NoPlace> {
        Url::parse(&format!("https://{self}/")).map_err(|_| NoPlace::Host)
    }

    /// The same as a registry, of which Docker Hub's names are one.
    ///
    /// # Errors
    /// The host is none that a registry can have.
    pub fn registry(&self) -> Result<Registry, NoPlace> {
        format!("https://{self}").parse().map_err(|_| NoPlace::Host)
    }

    /// As a URL has it: without the port of https.
    ///
    /// # Errors
    /// The host is none that a URL can have.
    pub fn authority(&self) -> Result<Authority, NoPlace> {
        let text = if self.has_https_port() { self.host.to_string() } else { self.to_string() };
        text.parse().map_err(|_| NoPlace::Host)
    }

    /// Whether a TLS client that has named that server, or none, means this one. An address is never named.
    #[must_use]
    pub fn is_named_by(&self, server_name: Option<&str>) -> bool {
        match (server_name, &self.host) {
            (None, _) => true,
            (Some(name), Host::Domain(host)) => without_dot(name).eq_ignore_ascii_case(host),
            (Some(_), Host::Ipv4(_) | Host::Ipv6(_)) => false,
        }
    }
}

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        if text.len() > BYTES_MAX {
            return Err(NoPlace::Host);
        }
        let (before, digits) = port_of(text).ok_or(NoPlace::Port)?;
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let port = digits.parse().ok().filter(|port| is_number && *port != 0).ok_or(NoPlace::Port)?;
        Ok(Self { host: host(before)?, port })
    }
}

/// Always with the port.
impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.host, self.port)
    }
}

/// The colons of an IPv6 address stand in brackets.
fn port_of(text: &str) -> Option<(&str, &str)> {
    text.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'))
}

fn host(text: &str) -> Result<Host<String>, NoPlace> {
    // Names of other scripts come in ASCII. An authority of HTTP may have a user and his password before the host.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if text.is_empty() || without_dot(text).len() > NAME_BYTES_MAX || !text.bytes().all(is_plain) {
        return Err(NoPlace::Host);
    }
    match Host::parse(text).map_err(|_| NoPlace::Host)? {
        Host::Domain(name) => match without_dot(&name) {
            // In its one form it may be longer than it was; with a port it still has to be a text that is read.
            name if name.len() > NAME_BYTES_MAX => Err(NoPlace::Host),
            // A second final dot would be one that is left.
            name if name.split('.').any(str::is_empty) => Err(NoPlace::Host),
            // A dot may have hidden that it ends in a number, and so is an address.
            name => Host::parse(name).map_err(|_| NoPlace::Host),
        },
        address => Ok(address),
    }
}

fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, NoPlace>) {
        let place = text.parse::<Place>().map(|place| place.to_string());
        assert_eq!(place.as_deref().map_err(|error| *error), expected, "{text}");
    }

    #[test]
    fn places_have_one_form() {
        check("ghcr.io:443", Ok("ghcr.io:443"));
        check("GHCR.io.:443", Ok("ghcr.io:443"));
        check("10.0.0.5:5000", Ok("10.0.0.5:5000"));
        check("0x7f000001:443", Ok("127.0.0.1:443"));
        check("127.1.:443", Ok("127.0.0.1:443"));
        check("[0:0::1]:8443", Ok("[::1]:8443"));
        check("registry:1", Ok("registry:1"));
    }

    /// What a `Host` names without a port is read again with one.
    #[test]
    fn a_name_is_as_long_as_those_of_the_dns() {
        let name = |bytes: usize| ["a".repeat(63).as_str(); 5].join(".")[..bytes].to_owned();
        for (bytes, is_place) in [(253, true), (254, false), (298, false)] {
            let place = Place::of_host_header(&name(bytes));
            assert_eq!(place.is_ok(), is_place, "{bytes}");
            if let Ok(place) = place {
                assert_eq!(place.to_string().parse(), Ok(place));
            }
        }
        assert!(Place::of_host_header(&format!("{}.", name(253))).is_ok());
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in [
            ":443",
            ".:443",
            "a..:443",
            "a..b:443",
            ".a:443",
            "a b:443",
            "user@host:443",
            "a/b:443",
            "a\\b:1",
            "a%2e:443",
            "[::1:443",
        ] {
            check(text, Err(NoPlace::Host));
        }
        for text in [
            "",
            ":",
            "ghcr.io",
            "ghcr.io:",
            "ghcr.io:0",
            "ghcr.io:65536",
            "ghcr.io:+443",
            "ghcr.io:44 3",
            "[::1]",
        ] {
            check(text, Err(NoPlace::Port));
        }
        check(&format!("{}:443", "a.".repeat(200)), Err(NoPlace::Host));
    }

    #[test]
    fn only_an_authority_is_a_target_of_connect() {
        let of = |uri: &str| Place::of_connect(&uri.parse().unwrap()).map(|place| place.to_string());
        assert_eq!(of("ghcr.io:443").as_deref(), Ok("ghcr.io:443"));
        for uri in ["https://ghcr.io:443/", "/ghcr.io:443", "https://ghcr.io", "*"] {
            assert_eq!(of(uri), Err(NoPlace::Host), "{uri}");
        }
        assert_eq!(of("user:secret@ghcr.io:443"), Err(NoPlace::Host));
    }

    #[test]
    fn a_host_header_may_leave_the_port_out() {
        let of = |text: &str| Place::of_host_header(text).map(|place| place.to_string());
        assert_eq!(of("Ghcr.io").as_deref(), Ok("ghcr.io:443"));
        assert_eq!(of("ghcr.io:5000").as_deref(), Ok("ghcr.io:5000"));
        assert_eq!(of("[::1]").as_deref(), Ok("[::1]:443"));
        assert_eq!(of("ghcr.io:"), Err(NoPlace::Port));
        assert_eq!(of("a,b"), Err(NoPlace::Host));
    }

    #[test]
    fn a_url_of_https_needs_no_port() {
        let authority = |text: &str| text.parse::<Place>().unwrap().authority().unwrap().to_string();
        assert_eq!(authority("ghcr.io:443"), "ghcr.io");
        assert_eq!(authority("ghcr.io:80"), "ghcr.io:80");
        assert_eq!(authority("[::1]:443"), "[::1]");
    }

    #[test]
    fn a_server_name_is_that_of_the_place_or_none() {
        let named = |place: &str, name| place.parse::<Place>().unwrap().is_named_by(name);
        assert!(named("ghcr.io:443", Some("ghcr.io")));
        assert!(named("ghcr.io:443", Some("GHCR.IO.")));
        assert!(named("ghcr.io:443", None));
        assert!(named("10.0.0.5:443", None));
        assert!(!named("ghcr.io:443", Some("evil.ghcr.io")));
        assert!(!named("ghcr.io:443", Some("ghcr.i")));
        assert!(!named("10.0.0.5:443", Some("ghcr.io")));
    }

    proptest! {
        #[test]
        fn a_place_is_read_back_as_it_is_written(text in "[a-zA-Z0-9.:@/\\[\\]-]{0,40}") {
            if let Ok(place) = text.parse::<Place>() {
                prop_assert_eq!(place.to_string().parse::<Place>(), Ok(place.clone()));
                prop_assert!(place.port() != 0);
            }
        }

        #[test]
        fn any_text_is_read_without_a_panic(text: String) {
            let _ = text.parse::<Place>().map(|place| (place.url(), place.registry(), place.authority()));
            let _ = Place::of_host_header(&text);
        }
    }
}
