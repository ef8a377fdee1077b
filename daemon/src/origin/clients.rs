//! The HTTP clients of one shard: one for what nobody configured, one for each way in which a configured registry is
//! spoken to.
//!
//! They are apart because the guard's exemption is by host and port, of which a resolver sees only the host; and
//! because a client certificate is shown to the registry that it is for, and to nobody else.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder};
use url::Url;

use super::guard::{Guard, Refusal, Way};
use super::proxies::Proxies;
use super::resolver::PublicOnly;
use crate::config::{RegistryHost, Settings, TlsSetting};

/// How long a connection may take to come up. Within the front's 3.5 s, so that a dead registry is told in time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long an origin may be silent in the middle of an answer.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(20);
const IDLE_CONNECTIONS_PER_HOST: usize = 16;

/// What the clients are made of; the same for all shards.
#[derive(Clone, Debug)]
pub struct OriginOptions {
    /// Where requests may go.
    pub guard: Guard,
    /// Distinct; the first is that of all who are not listed.
    tls: Vec<TlsSetting>,
}

/// The clients of one shard.
#[derive(Debug)]
pub(super) struct Clients {
    guard: Guard,
    proxies: Proxies,
    guarded: Client,
    /// By the numbers that the guard gives.
    configured: Vec<Client>,
}

impl OriginOptions {
    /// As configured: the registry of requests that name none, those that are listed, those that are allowed.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let mut tls = vec![TlsSetting::verified(settings.origin_tls_verified)];
        let mut hosts = Vec::new();
        for registry in &settings.registries {
            let known = tls.iter().position(|known| known.is_like(&registry.tls));
            let number = known.unwrap_or(tls.len());
            if known.is_none() {
                tls.push(registry.tls.clone());
            }
            hosts.push((registry.host.clone(), number));
        }
        let allowed = settings.allowed_registries.iter().cloned();
        hosts.extend(allowed.chain([RegistryHost::from(&settings.registry)]).map(|host| (host, 0)));
        Self { guard: Guard::new(hosts), tls }
    }

    /// Nothing is held back: for tests whose every registry is on loopback.
    #[cfg(test)]
    pub(crate) fn open() -> Self {
        Self { guard: Guard::open(), tls: vec![TlsSetting::verified(true)] }
    }
}

impl Clients {
    /// Each with a connection pool of its own.
    ///
    /// # Errors
    /// The system's certificates cannot be read.
    pub(super) fn new(options: &OriginOptions) -> Result<Self, reqwest::Error> {
        let configured = options.tls.iter().map(|tls| builder(tls).build()).collect::<Result<_, _>>()?;
        let guarded = builder(&options.tls[0]).no_proxy().dns_resolver(PublicOnly::new()).build()?;
        Ok(Self { guard: options.guard.clone(), proxies: Proxies::of_environment(), guarded, configured })
    }

    /// Whether somebody has configured whoever is at a URL.
    pub(super) fn is_configured(&self, url: &Url) -> bool {
        matches!(self.guard.way(url, &self.proxies), Ok(Way::Configured(_)))
    }

    /// The client that may speak to a URL.
    ///
    /// # Errors
    /// Nobody may.
    pub(super) fn of(&self, url: &Url) -> Result<&Client, Refusal> {
        Ok(match self.guard.way(url, &self.proxies)? {
            Way::Configured(number) => &self.configured[number],
            // It connects to the proxy alone: by the same rules of the environment as were asked here.
            Way::Proxied => &self.configured[0],
            Way::Guarded => &self.guarded,
        })
    }
}

fn builder(tls: &TlsSetting) -> ClientBuilder {
    let builder = Client::builder()
        .redirect(Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(SILENCE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_PER_HOST)
        .tcp_nodelay(true);
    tls.apply(builder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Surroundings, parse, resolve};

    #[test]
    fn there_is_one_client_for_each_way_of_speaking() {
        let check = |configuration: &str, expected: usize| {
            let raw = parse("f", configuration.as_bytes()).unwrap();
            let settings = resolve(&raw, &[], &Surroundings::default()).unwrap().settings;
            assert_eq!(OriginOptions::new(&settings).tls.len(), expected, "{configuration}");
        };
        check("", 1);
        check("proxy: {registries: [{host: a}, {host: b}, {host: c, insecure: false}]}", 1);
        check("proxy: {registries: [{host: a, insecure: true}, {host: b, insecure: true}]}", 2);
        check("proxy: {security: {insecure: true}, registries: [{host: a, insecure: true}]}", 1);
        check("proxy: {registries: [{host: a, ca: x}, {host: b, ca: x}, {host: c, ca: y}]}", 3);
    }
}
