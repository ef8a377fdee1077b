//! The destination guard: which way a request may go, if any.
//!
//! A client, a registry's redirect or its token realm may name any host. What an operator has not configured is asked
//! only at public addresses, so that nobody can use the daemon to reach what only the daemon reaches. Three things
//! stay true:
//!
//! * every URL comes by here before a connection is made, the first one, each redirect and each realm alike;
//! * a literal address, in whatever form it was written (the URL parser has brought it into its usual one), and a name
//!   for local use are refused here; any other name is checked on the addresses that it resolves to, and those are
//!   the ones that are connected to (`resolver`);
//! * what is configured is exempt by host *and* port: its neighbours on the same host are not.
//!
//! Behind a proxy of the environment names are resolved by the proxy: there only what is said here holds.

use std::fmt;
use std::net::IpAddr;

use url::{Host, Url};

use super::destination::Destination;
use super::proxies::Proxies;
use crate::config::{Registry, RegistryHost};

/// What an operator has configured to be asked.
#[derive(Clone, Debug)]
pub struct Guard(Named);

#[derive(Clone, Debug)]
enum Named {
    /// Each with the number of the client that speaks to it. The first that fits counts.
    Hosts(Vec<(RegistryHost, usize)>),
    #[cfg(test)]
    Everything,
}

/// Which client a request takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// The destination is configured; the client has this number.
    Configured(usize),
    /// Through the environment's proxy, which resolves the name.
    Proxied,
    /// Straight, to public addresses only.
    Guarded,
}

/// Why nobody was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    authority: String,
    address: Option<IpAddr>,
    destination: Destination,
}

impl Guard {
    /// Of what is configured: hosts, each with the number of the client that speaks to it.
    pub(super) fn new(hosts: Vec<(RegistryHost, usize)>) -> Self {
        Self(Named::Hosts(hosts))
    }

    /// Nothing is held back: for tests whose every registry is on loopback.
    #[cfg(test)]
    pub(crate) fn open() -> Self {
        Self(Named::Everything)
    }

    /// The way to a URL.
    ///
    /// # Errors
    /// It is not configured, and its host is not one of the internet.
    pub fn way(&self, url: &Url, proxies: &Proxies) -> Result<Way, Refusal> {
        if let Some(client) = self.configured(url) {
            return Ok(Way::Configured(client));
        }
        let destination = url.host().map_or(Destination::Reserved, |host| Destination::of_host(&host));
        if !destination.is_public() {
            let address = match url.host() {
                Some(Host::Ipv4(address)) => Some(address.into()),
                Some(Host::Ipv6(address)) => Some(address.into()),
                Some(Host::Domain(_)) | None => None,
            };
            return Err(Refusal { authority: authority(url), address, destination });
        }
        Ok(if proxies.take(url) { Way::Proxied } else { Way::Guarded })
    }

    fn configured(&self, url: &Url) -> Option<usize> {
        match &self.0 {
            Named::Hosts(hosts) => {
                let registry = registry_of(url)?;
                hosts.iter().find(|(host, _)| host.names(&registry)).map(|(_, client)| *client)
            }
            #[cfg(test)]
            Named::Everything => Some(0),
        }
    }
}

impl Refusal {
    /// Of a URL whose name resolves to this address, and to no public one.
    pub(super) fn resolved(url: &Url, address: IpAddr) -> Self {
        let destination = Destination::of(address);
        Self { authority: authority(url), address: Some(address), destination }
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { authority, address, destination } = self;
        write!(out, "leads to {authority}, which is ")?;
        match address {
            // A literal need not be said twice.
            Some(address) if !authority.contains(&address.to_string()) => {
                write!(out, "at {address}, {destination}")?;
            }
            _ => write!(out, "{destination}")?,
        }
        write!(
            out,
            ", and not configured: if it is meant, start darter with --allow-registry {authority}, or add it to \
             proxy.allowedRegistries"
        )
    }
}

/// A URL's scheme, host and port, whatever else it has.
fn registry_of(url: &Url) -> Option<Registry> {
    url.origin().ascii_serialization().parse().ok()
}

/// `HOST` or `HOST:PORT`, as `--allow-registry` takes it.
fn authority(url: &Url) -> String {
    match (registry_of(url), url.host_str()) {
        (Some(registry), _) => registry.authority(),
        (None, host) => host.unwrap_or("a URL without a host").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::OriginOptions;
    use super::*;
    use crate::config::{Override, Settings, Surroundings, parse, resolve};

    const CONFIGURATION: &str = "
proxy:
  registryMirror: {url: 'http://10.0.0.5:5000'}
  allowedRegistries: [registry.local, 'localhost:5000', '[::1]']
  registries:
  - {host: '10.0.0.6:5001', insecure: true}
";

    fn settings(configuration: &str, flags: &[Override]) -> Settings {
        let raw = parse("f", configuration.as_bytes()).unwrap();
        resolve(&raw, flags, &Surroundings::default()).unwrap().settings
    }

    fn way(url: &str, proxies: &Proxies) -> Result<Way, String> {
        let guard = OriginOptions::new(&settings(CONFIGURATION, &[])).guard;
        guard.way(&Url::parse(url).unwrap(), proxies).map_err(|refusal| refusal.to_string())
    }

    #[track_caller]
    fn check(expected: Way, urls: &[&str]) {
        for url in urls {
            assert_eq!(way(url, &Proxies::none()), Ok(expected), "{url}");
        }
    }

    #[track_caller]
    fn check_refused(url: &str, because: &str, flag: &str) {
        let refusal = way(url, &Proxies::none()).expect_err(url);
        assert!(
            refusal.contains(because) && refusal.contains(&format!("--allow-registry {flag},")),
            "{refusal}"
        );
    }

    #[test]
    fn what_is_configured_is_asked_wherever_it_is() {
        check(
            Way::Configured(0),
            &["http://10.0.0.5:5000/v2/", "https://10.5:5000/", "http://u:p@10.0.0.5:5000"],
        );
        check(
            Way::Configured(0),
            &["https://registry.local/", "http://registry.local./", "http://LOCALHOST:5000/"],
        );
        check(Way::Configured(0), &["http://[::1]/", "https://[0:0::1]:443/"]);
        check(Way::Configured(1), &["https://10.0.0.6:5001/"]);
        let mirror =
            [Override { key: "proxy.registryMirror.url", flag: "--registry", text: "http://[::1]:1".into() }];
        let guard = OriginOptions::new(&settings("", &mirror)).guard;
        let way = guard.way(&Url::parse("http://[::1]:1/v2/").unwrap(), &Proxies::none());
        assert_eq!(way, Ok(Way::Configured(0)));
    }

    #[test]
    fn its_neighbours_are_not() {
        check_refused("http://10.0.0.5/v2/", "a private address", "10.0.0.5");
        check_refused("http://10.0.0.5:5001/", "a private address", "10.0.0.5:5001");
        check_refused("http://10.0.0.6:5000/", "a private address", "10.0.0.6:5000");
        check_refused("http://localhost/", "a name for local use", "localhost");
        check_refused("https://registry.local:5000/", "a name for local use", "registry.local:5000");
        check_refused("http://[::1]:8080/", "a loopback address", "[::1]:8080");
        check_refused("http://user:10.0.0.5@127.0.0.1:5000/", "a loopback address", "127.0.0.1:5000");
        check_refused("http://0x7f000001:5000/", "a loopback address", "127.0.0.1:5000");
        check_refused("http://[::ffff:169.254.169.254]/", "a cloud's metadata address", "[::ffff:a9fe:a9fe]");
    }

    #[test]
    fn everything_else_is_asked_at_public_addresses() {
        check(Way::Guarded, &["https://ghcr.io/v2/", "http://8.8.8.8/", "http://10.0.0.5.nip.io:5000/"]);
    }

    #[test]
    fn behind_a_proxy_names_and_literals_are_still_looked_at() {
        let proxies = Proxies::of("http://10.9.9.9:3128", "direct.example,10.0.0.0/8");
        let through = |url| way(url, &proxies);
        assert_eq!(through("https://ghcr.io/"), Ok(Way::Proxied));
        assert_eq!(through("http://8.8.8.8/"), Ok(Way::Proxied));
        assert_eq!(through("https://direct.example/"), Ok(Way::Guarded));
        assert_eq!(through("http://10.0.0.5:5000/"), Ok(Way::Configured(0)));
        for url in
            ["http://127.0.0.1/", "http://metadata.google.internal/", "http://10.9.9.9:3128/", "http://0/"]
        {
            assert!(through(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_refusal_says_where_a_name_leads_to_and_what_to_do() {
        let url = Url::parse("https://registry.example:8443/v2/").unwrap();
        let refusal = Refusal::resolved(&url, "192.168.1.1".parse().unwrap()).to_string();
        assert_eq!(
            refusal,
            "leads to registry.example:8443, which is at 192.168.1.1, a private address, and not configured: if it is \
             meant, start darter with --allow-registry registry.example:8443, or add it to proxy.allowedRegistries"
        );
    }
}
