//! A bare connection to where a client wants to speak itself: by the same guard and the same proxies of the environment
//! as requests of this node's own, to the address that was checked.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Uri, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use url::{Host, Url};

use super::clients::Clients;
use super::guard::{Refusal, Way};
use super::resolver::{self, NotPublic};
use super::via::NodeId;

/// How long all of it may take: names, addresses, a proxy's own connection.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one address may take, where others are left.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(3);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
/// The longest head of a proxy's answer.
const HEAD_BYTES_MAX: usize = 8 << 10;
const FIELDS_MAX: usize = 64;

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The destination guard holds it back: nobody was asked.
    #[error("a connection to {authority} {refusal}")]
    Forbidden { authority: String, refusal: Refusal },
    #[error("{authority} cannot be reached: {reason}")]
    Unreachable { authority: String, reason: String },
    #[error("{authority} has not answered within {} s", DIAL_TIMEOUT.as_secs())]
    Late { authority: String },
    /// Of the environment.
    #[error(
        "{authority} is to be reached through the proxy {proxy} of the environment (HTTPS_PROXY), {reason}"
    )]
    Proxy { authority: String, proxy: String, reason: String },
}

impl Clients {
    /// Which way leads to a URL.
    ///
    /// # Errors
    /// None may be gone.
    pub(super) fn way(&self, url: &Url) -> Result<Way, Refusal> {
        self.guard.way(url, &self.proxies)
    }

    /// A connection to the host and port of a URL, and what has come on it already.
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn dial(&self, url: &Url) -> Result<(TcpStream, Bytes), DialError> {
        let authority = authority(url);
        let until = Instant::now() + DIAL_TIMEOUT;
        let dialed = timeout_at(until, self.dial_without_end(url, &authority, until)).await;
        dialed.unwrap_or(Err(DialError::Late { authority }))
    }

    async fn dial_without_end(
        &self,
        url: &Url,
        authority: &str,
        until: Instant,
    ) -> Result<(TcpStream, Bytes), DialError> {
        let forbidden = |refusal| DialError::Forbidden { authority: authority.to_owned(), refusal };
        let way = self.way(url).map_err(forbidden)?;
        if let Some(proxy) = self.proxies.intercept(url).filter(|_| way != Way::Guarded) {
            let (uri, authorization) = (proxy.uri().clone(), proxy.basic_auth().cloned());
            let through = through(&uri, authorization, authority, until).await;
            return through.map_err(|reason| DialError::Proxy {
                authority: authority.to_owned(),
                proxy: named(&uri),
                reason,
            });
        }
        let unreachable = |error: io::Error| DialError::Unreachable {
            authority: authority.to_owned(),
            reason: error.to_string(),
        };
        let mut addresses = self.addresses(url).await.map_err(unreachable)?;
        if way == Way::Guarded {
            addresses = resolver::public_of(addresses)
                .map_err(|NotPublic(address)| forbidden(Refusal::resolved(url, address)))?;
        }
        Ok((connect(&addresses, until).await.map_err(unreachable)?, Bytes::new()))
    }

    async fn addresses(&self, url: &Url) -> io::Result<Vec<SocketAddr>> {
        let port = url.port_or_known_default().unwrap_or_default();
        let mut found = match url.host() {
            Some(Host::Ipv4(address)) => vec![SocketAddr::new(address.into(), port)],
            Some(Host::Ipv6(address)) => vec![SocketAddr::new(address.into(), port)],
            Some(Host::Domain(name)) => resolver::look_up(self.lookups.clone(), name.to_owned()).await?,
            None => Vec::new(),
        };
        found.iter_mut().for_each(|address| address.set_port(port));
        Ok(found)
    }
}

/// The first that answers.
async fn connect(addresses: &[SocketAddr], until: Instant) -> io::Result<TcpStream> {
    let mut failed = io::Error::other("its name leads to no address");
    for address in addresses.iter().take(ADDRESSES_MAX) {
        let by = until.min(Instant::now() + ADDRESS_TIMEOUT);
        failed = match timeout_at(by, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => error,
            Err(_) => io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")),
        };
    }
    Err(failed)
}

/// A tunnel of a proxy, or why there is none: to follow its name.
async fn through(
    proxy: &Uri,
    authorization: Option<http::HeaderValue>,
    authority: &str,
    until: Instant,
) -> Result<(TcpStream, Bytes), String> {
    if proxy.scheme_str().is_some_and(|scheme| scheme != "http") {
        return Err("which is none of http; tunnels take no other".into());
    }
    let host =
        proxy.host().ok_or("which has no host")?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let place = (host, proxy.port_u16().unwrap_or(80));
    let addresses =
        tokio::net::lookup_host(place).await.map_err(|error| format!("which is not found: {error}"))?;
    let addresses: Vec<SocketAddr> = addresses.collect();
    let mut stream =
        connect(&addresses, until).await.map_err(|error| format!("which cannot be reached: {error}"))?;
    let broken = |error: io::Error| format!("which broke off: {error}");
    stream.write_all(&head(authority, authorization)).await.map_err(broken)?;
    let mut seen = BytesMut::new();
    loop {
        if stream.read_buf(&mut seen).await.map_err(broken)? == 0 {
            return Err("which ended the connection without an answer".into());
        }
        match answer_of(&seen)? {
            Some((head_bytes, 200..=299)) => {
                seen.advance(head_bytes);
                return Ok((stream, seen.freeze()));
            }
            Some((_, status)) => return Err(format!("which refuses with {status}")),
            None if seen.len() < HEAD_BYTES_MAX => {}
            None => return Err("whose answer has no end".into()),
        }
    }
}

/// A request for a tunnel. It says that it has come by here, so that a proxy that leads back here is found out.
fn head(authority: &str, authorization: Option<http::HeaderValue>) -> Vec<u8> {
    let mut headers = HeaderMap::new();
    NodeId::of_this_process().append_to(&mut headers);
    if let Some(authorization) = authorization {
        headers.insert(header::PROXY_AUTHORIZATION, authorization);
    }
    let mut head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n").into_bytes();
    for (name, value) in &headers {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    head
}

/// Pure: the length of the head of a proxy's answer and its status, once the head is whole; or what is wrong with it.
fn answer_of(bytes: &[u8]) -> Result<Option<(usize, u16)>, String> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut answer = httparse::Response::new(&mut fields);
    let malformed = |_| "whose answer is none of HTTP".to_owned();
    Ok(match answer.parse(bytes).map_err(malformed)? {
        httparse::Status::Complete(head_bytes) => answer.code.map(|status| (head_bytes, status)),
        httparse::Status::Partial => None,
    })
}

/// Without a name or password.
fn named(proxy: &Uri) -> String {
    match (proxy.host().unwrap_or_default(), proxy.port_u16()) {
        (host, Some(port)) => format!("{host}:{port}"),
        (host, None) => host.to_owned(),
    }
}

/// `HOST:PORT`.
fn authority(url: &Url) -> String {
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{}:{port}", url.host_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxys_answer_is_read_to_its_end_and_no_further() {
        let head = "HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n";
        let whole = format!("{head}bytes of the tunnel");
        for bytes in 0..head.len() {
            assert_eq!(answer_of(&whole.as_bytes()[..bytes]), Ok(None), "{bytes}");
        }
        assert_eq!(answer_of(whole.as_bytes()), Ok(Some((head.len(), 200))));
        assert_eq!(answer_of(b"HTTP/1.0 407 X\r\n\r\n"), Ok(Some((18, 407))));
        assert!(answer_of(b"SSH-2.0-OpenSSH\r\n").is_err());
    }

    #[test]
    fn a_proxy_is_asked_as_whom_the_environment_says_and_by_whom() {
        let text = String::from_utf8(head("ghcr.io:443", Some("Basic eA==".parse().unwrap()))).unwrap();
        assert!(text.starts_with("CONNECT ghcr.io:443 HTTP/1.1\r\nHost: ghcr.io:443\r\n"), "{text}");
        assert!(
            text.contains("\r\nproxy-authorization: Basic eA==\r\n") && text.ends_with("\r\n\r\n"),
            "{text}"
        );
        assert!(text.contains(&format!("\r\nvia: 1.1 {}\r\n", NodeId::of_this_process())), "{text}");
    }
}
