//! Names of hosts that nobody has configured, resolved to public addresses only.
//!
//! reqwest connects to what this returns, so the address that was checked is the one that is connected to: a name
//! that answers differently the next time is checked the next time.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

use super::destination::Destination;

/// Lookups at a time of one shard. Each holds a thread until the system's resolver answers or gives up.
const LOOKUPS_MAX: usize = 16;
/// How long a lookup may take, its wait for a thread included. As long as a connection may take to come up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);
/// Addresses of one name that are looked at.
const ADDRESSES_MAX: usize = 64;

/// The system's resolver, of whose answers the public addresses are used.
#[derive(Debug)]
pub(super) struct PublicOnly(Arc<Semaphore>);

/// A name has addresses, and none of them is public. Found again below reqwest's own error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the name leads to {0} and to no public address")]
pub(super) struct NotPublic(pub(super) IpAddr);

impl PublicOnly {
    pub(super) fn new() -> Self {
        Self(places())
    }
}

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let places = self.0.clone();
        Box::pin(async move {
            let found = look_up(places, name.as_str().to_owned()).await?;
            let public = public_of(found)?;
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Places for the lookups of one shard.
pub(super) fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(LOOKUPS_MAX))
}

/// The addresses of a name, of whatever kind they are, with port 0.
pub(super) async fn look_up(places: Arc<Semaphore>, name: String) -> io::Result<Vec<SocketAddr>> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the name was not resolved in time");
    tokio::time::timeout(LOOKUP_TIMEOUT, look_up_without_end(places, name)).await.map_err(late)?
}

async fn look_up_without_end(places: Arc<Semaphore>, name: String) -> io::Result<Vec<SocketAddr>> {
    let place = places.acquire_owned().await.map_err(io::Error::other)?;
    let looking = tokio::task::spawn_blocking(move || {
        // It is given back when the system's resolver has answered, not when nobody waits for it any more.
        let _place = place;
        // The port is the URL's; whoever connects puts it in.
        (name.as_str(), 0).to_socket_addrs().map(|found| found.take(ADDRESSES_MAX).collect())
    });
    looking.await.map_err(io::Error::other)?
}

/// Pure: the public addresses, or the first one if none is.
pub(super) fn public_of(mut found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, NotPublic> {
    let first = found.first().map(SocketAddr::ip);
    found.retain(|address| Destination::of(address.ip()).is_public());
    match first {
        Some(first) if found.is_empty() => Err(NotPublic(first)),
        _ => Ok(found),
    }
}

/// The guard's verdict below an error of reqwest's, if that is what ended the request.
pub(super) fn not_public(error: &(dyn std::error::Error + 'static)) -> Option<NotPublic> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_mix_only_public_addresses_are_used() {
        let check = |found: &[&str], expected: Result<&[&str], &str>| {
            let addresses = |texts: &[&str]| -> Vec<SocketAddr> {
                texts.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 0)).collect()
            };
            let expected = expected.map(addresses).map_err(|first| NotPublic(first.parse().unwrap()));
            assert_eq!(public_of(addresses(found)), expected, "{found:?}");
        };
        check(&["8.8.8.8", "2606:4700::1"], Ok(&["8.8.8.8", "2606:4700::1"]));
        check(&["127.0.0.1", "8.8.8.8", "::1"], Ok(&["8.8.8.8"]));
        check(&["10.0.0.1", "127.0.0.1"], Err("10.0.0.1"));
        check(&["::ffff:127.0.0.1"], Err("::ffff:127.0.0.1"));
        check(&[], Ok(&[]));
    }
}
