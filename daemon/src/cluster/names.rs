//! Looks up where the seeds of one target are.
//!
//! A host is the system's to look up, as everywhere. The names of `dns://` and `dns+srv://` are asked for at the name
//! servers of `/etc/resolv.conf` with its search domains: the system looks up no SRV records. Nothing is remembered
//! here; whoever asks again is told anew.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{Name, RData};
use tokio::net::lookup_host;
use tokio::time::timeout;
use url::Host;

use super::join::ADDRESSES_MAX;
use crate::config::{HostName, JoinTarget};

/// Targets of SRV records that are looked up at a time.
const LOOKUPS_MAX: usize = 8;
/// For one name at the name servers: two tries at three servers with the times of `resolv.conf` take less.
const DNS_TIMEOUT: Duration = Duration::from_secs(40);

/// Why a target has no addresses.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotFound {
    #[error("the system does not know it: {0}")]
    System(#[from] io::Error),
    #[error("the name servers do not know it: {0}")]
    Dns(#[from] NetError),
    #[error("the name servers do not answer")]
    Silent,
    #[error("it has no addresses")]
    Nothing,
    #[error("none of the hosts that its SRV records name has an address")]
    NoHost,
}

/// Who is asked for names.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Instead of those in `/etc/resolv.conf`.
    #[cfg(test)]
    pub(super) server: Option<SocketAddr>,
}

/// Where the seeds of a target are, looked up once; or why that is not known.
pub(crate) async fn look_up(target: &JoinTarget) -> Result<Vec<SocketAddr>, String> {
    Names::default().addresses(target).await.map_err(|error| error.to_string())
}

impl Names {
    /// The addresses of a target in the order in which they are to be tried: at least one, at most [`ADDRESSES_MAX`],
    /// each once, and alike for alike records.
    pub(super) async fn addresses(&self, target: &JoinTarget) -> Result<Vec<SocketAddr>, NotFound> {
        let mut addresses = match target {
            JoinTarget::Host { host: Host::Ipv4(ip), port } => vec![SocketAddr::from((*ip, *port))],
            JoinTarget::Host { host: Host::Ipv6(ip), port } => vec![SocketAddr::from((*ip, *port))],
            JoinTarget::Host { host: Host::Domain(name), port } => {
                // In the order of the system, which knows what is near (RFC 6724).
                return bounded(lookup_host((name.as_str(), *port)).await?.collect());
            }
            JoinTarget::Every { name, port } => {
                let name = Name::from_ascii(name.as_str()).map_err(NetError::from)?;
                ip_addresses(&self.resolver()?, name, *port).await?
            }
            JoinTarget::Service { name } => return bounded(self.of_service(name).await?),
        };
        // Name servers turn their answers round.
        addresses.sort_unstable();
        bounded(addresses)
    }

    /// RFC 2782; the weights are not looked at, since one seed that answers is enough.
    async fn of_service(&self, name: &HostName) -> Result<Vec<SocketAddr>, NotFound> {
        let resolver = self.resolver()?;
        let answer = timeout(DNS_TIMEOUT, resolver.srv_lookup(name.as_str())).await;
        let answer = answer.map_err(|_| NotFound::Silent)??;
        let mut services: Vec<_> = answer
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                // A root for a target says that there is no such service.
                RData::SRV(service) if !service.target.is_root() && service.port != 0 => {
                    Some((service.priority, service.target.clone(), service.port))
                }
                _ => None,
            })
            .collect();
        services.sort_unstable();
        services.dedup();
        services.truncate(ADDRESSES_MAX);
        if services.is_empty() {
            return Err(NotFound::Nothing);
        }
        let found = stream::iter(services).map(|(priority, target, port)| {
            let resolver = &resolver;
            async move {
                let found = ip_addresses(resolver, target, port).await;
                found.map(|found| found.into_iter().map(move |address| (priority, address)))
            }
        });
        let found: Vec<_> = found.buffer_unordered(LOOKUPS_MAX).collect().await;
        let mut found: Vec<_> = found.into_iter().flatten().flatten().collect();
        found.sort_unstable();
        if found.is_empty() {
            return Err(NotFound::NoHost);
        }
        Ok(found.into_iter().map(|(_, address)| address).collect())
    }

    /// Made anew each time: `/etc/resolv.conf` may have changed.
    fn resolver(&self) -> Result<TokioResolver, NotFound> {
        let mut builder = self.builder()?;
        let options = builder.options_mut();
        options.cache_size = 0;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        Ok(builder.build()?)
    }

    #[cfg(not(test))]
    fn builder(&self) -> Result<Builder, NotFound> {
        Ok(TokioResolver::builder_tokio()?)
    }

    #[cfg(test)]
    fn builder(&self) -> Result<Builder, NotFound> {
        use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};

        let Some(server) = self.server else { return Ok(TokioResolver::builder_tokio()?) };
        let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
        connections.iter_mut().for_each(|connection| connection.port = server.port());
        let server = NameServerConfig::new(server.ip(), true, connections);
        let config = ResolverConfig::from_parts(
            None,
            vec![Name::from_ascii("search.test.").map_err(NetError::from)?],
            vec![server],
        );
        Ok(TokioResolver::builder_with_config(config, Default::default()))
    }
}

type Builder = hickory_resolver::ResolverBuilder<hickory_resolver::net::runtime::TokioRuntimeProvider>;

async fn ip_addresses(resolver: &TokioResolver, name: Name, port: u16) -> Result<Vec<SocketAddr>, NotFound> {
    let answer = timeout(DNS_TIMEOUT, resolver.lookup_ip(name)).await.map_err(|_| NotFound::Silent)??;
    Ok(answer.iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

fn bounded(addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, NotFound> {
    let mut bounded: Vec<SocketAddr> = Vec::new();
    for address in addresses {
        if !bounded.contains(&address) {
            bounded.push(address);
        }
        if bounded.len() == ADDRESSES_MAX {
            break;
        }
    }
    if bounded.is_empty() { Err(NotFound::Nothing) } else { Ok(bounded) }
}
