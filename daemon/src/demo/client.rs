//! The client that measures: HTTP/1.1 over connections it keeps, bodies checked as they stream in.
//!
//! It does what containerd and nydusd do at the wire: a redirect is followed, and remembered for the same
//! blob, as nydusd does. It has no pool, no retries and no TLS, so that what is measured is the other side.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, LOCATION, RANGE};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::registry::{Blob, Digest};

/// How long the other side may be silent. nydusd gives up after 5 s, containerd after 30 s.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How much of an error's body is shown.
const ERROR_BODY_BYTES_MAX: usize = 2048;

/// What a node of the demo says of itself is a few kilobytes.
const JSON_BYTES_MAX: usize = 1 << 20;

/// Why a blob, or a part of it, did not arrive as it is.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection.
    #[error("no connection to {host}: {reason}")]
    Connect {
        /// Who was called.
        host: String,
        /// What the kernel said.
        reason: std::io::Error,
    },
    /// The connection failed in the middle.
    #[error("the connection to {host} failed: {reason}")]
    Broken {
        /// With whom.
        host: String,
        /// What hyper said.
        reason: hyper::Error,
    },
    /// Nothing came for too long.
    #[error("{host} sent nothing for {} s", SILENCE_MAX.as_secs())]
    Silent {
        /// Who should have sent.
        host: String,
    },
    /// Another status than the expected one.
    #[error("{host} answered {status} where {expected} was due: {body}")]
    Status {
        /// Who answered.
        host: String,
        /// The status.
        status: StatusCode,
        /// The one that was due.
        expected: StatusCode,
        /// The beginning of the body.
        body: String,
    },
    /// A redirect that leads nowhere.
    #[error("{host} redirected to {location:?}, which is no http address")]
    Redirect {
        /// Who answered.
        host: String,
        /// Where to.
        location: String,
    },
    /// More or fewer bytes than there are.
    #[error("{got} bytes arrived where {due} were due")]
    Length {
        /// Bytes that arrived.
        got: u64,
        /// Bytes that should have.
        due: u64,
    },
    /// A whole blob with another digest than its name.
    #[error("the content of {due} arrived as {got}")]
    WrongDigest {
        /// Digest of what arrived.
        got: Digest,
        /// The name.
        due: Digest,
    },
    /// A range with other content than the blob has there.
    #[error("the byte at offset {offset} is wrong")]
    WrongByte {
        /// Offset in the blob.
        offset: u64,
    },
}

/// Where requests go, and for whom they are meant.
#[derive(Clone, Debug)]
pub(super) struct Route {
    /// `HOST:PORT` to connect to.
    pub(super) host: String,
    /// The registry's URL for `X-Dragonfly-Registry`; `None` when it is the registry that is asked.
    pub(super) registry: Option<String>,
}

/// One reader: a connection to the route's host, and one to the host that it redirects to.
#[derive(Debug)]
pub(super) struct Client {
    route: Route,
    connections: HashMap<String, SendRequest<Empty<Bytes>>>,
    /// Path of a blob → where it was found.
    redirects: HashMap<String, Uri>,
}

impl Client {
    pub(super) fn new(route: Route) -> Self {
        Self { route, connections: HashMap::new(), redirects: HashMap::new() }
    }

    /// Whether `GET path` is answered with 200.
    pub(super) async fn ping(&mut self, path: &str) -> Result<(), FetchError> {
        let host = self.route.host.clone();
        let answer = self.send(&host, path, None).await?;
        expect(&host, answer, StatusCode::OK).await.map(drop)
    }

    /// The JSON that `GET path` is answered with; `null` for anything else than JSON.
    pub(super) async fn json(&mut self, path: &str) -> Result<serde_json::Value, FetchError> {
        let host = self.route.host.clone();
        let answer = self.send(&host, path, None).await?;
        let body = Limited::new(expect(&host, answer, StatusCode::OK).await?.into_body(), JSON_BYTES_MAX);
        let body = in_time(&host, body.collect()).await?.map(|body| body.to_bytes()).unwrap_or_default();
        Ok(serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Reads all of `blob`; `arrived` is told the size of each chunk. The digest is checked on the way, as
    /// containerd does.
    pub(super) async fn pull(
        &mut self,
        repo: &str,
        blob: &Blob,
        mut arrived: impl FnMut(usize),
    ) -> Result<(), FetchError> {
        let mut sha256 = Sha256::new();
        let path = blob_path(repo, blob);
        let got = self
            .stream(&path, None, |chunk, _| {
                sha256.update(chunk);
                arrived(chunk.len());
                Ok(())
            })
            .await?;
        if got != blob.len() {
            return Err(FetchError::Length { got, due: blob.len() });
        }
        match Digest::from(sha256.finalize()) {
            digest if digest == blob.digest() => Ok(()),
            digest => Err(FetchError::WrongDigest { got: digest, due: blob.digest() }),
        }
    }

    /// Reads `range` of `blob`, which must come as `expected`.
    pub(super) async fn read(
        &mut self,
        repo: &str,
        blob: &Blob,
        range: &Range<u64>,
        expected: &[u8],
    ) -> Result<(), FetchError> {
        let due = expected.len() as u64;
        let got = self
            .stream(&blob_path(repo, blob), Some(range), |chunk, offset| {
                let end = offset + chunk.len() as u64;
                let Some(expected) = expected.get(offset as usize..end as usize) else {
                    return Err(FetchError::Length { got: end, due });
                };
                // One comparison in the good case; the offset is only worth a search when it is wrong.
                match chunk == expected {
                    true => Ok(()),
                    false => {
                        let wrong = chunk.iter().zip(expected).take_while(|(got, due)| got == due).count();
                        Err(FetchError::WrongByte { offset: range.start + offset + wrong as u64 })
                    }
                }
            })
            .await?;
        if got == due { Ok(()) } else { Err(FetchError::Length { got, due }) }
    }

    /// Hands each chunk of the body and its offset in the body to `check`; returns how many bytes came.
    async fn stream(
        &mut self,
        path: &str,
        range: Option<&Range<u64>>,
        mut check: impl FnMut(&[u8], u64) -> Result<(), FetchError>,
    ) -> Result<u64, FetchError> {
        let expected = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        let (host, answer) = self.find(path, range).await?;
        let mut body = expect(&host, answer, expected).await?.into_body();
        let mut offset = 0;
        while let Some(frame) = in_time(&host, body.frame()).await? {
            let frame = frame.map_err(|reason| FetchError::Broken { host: host.clone(), reason })?;
            if let Some(chunk) = frame.data_ref() {
                check(chunk, offset)?;
                offset += chunk.len() as u64;
            }
        }
        Ok(offset)
    }

    /// Asks where the blob was found last, or else the route's host, and follows one redirect.
    async fn find(
        &mut self,
        path: &str,
        range: Option<&Range<u64>>,
    ) -> Result<(String, Response<Incoming>), FetchError> {
        if let Some(uri) = self.redirects.get(path) {
            return self.ask_storage(&uri.clone(), range).await;
        }
        let host = self.route.host.clone();
        let answer = self.send(&host, path, range).await?;
        if answer.status() != StatusCode::TEMPORARY_REDIRECT {
            return Ok((host, answer));
        }
        let location = answer.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let location = location.unwrap_or_default().to_owned();
        // Read to its end, so that the connection can be used again.
        let _ = Limited::new(answer.into_body(), ERROR_BODY_BYTES_MAX).collect().await;
        match location.parse::<Uri>() {
            Ok(uri) if uri.scheme_str() == Some("http") && uri.authority().is_some() => {
                self.redirects.insert(path.to_owned(), uri.clone());
                self.ask_storage(&uri, range).await
            }
            _ => Err(FetchError::Redirect { host, location }),
        }
    }

    async fn ask_storage(
        &mut self,
        uri: &Uri,
        range: Option<&Range<u64>>,
    ) -> Result<(String, Response<Incoming>), FetchError> {
        let host = uri.authority().map(ToString::to_string).unwrap_or_default();
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let answer = self.send(&host, target, range).await?;
        Ok((host, answer))
    }

    async fn send(
        &mut self,
        host: &str,
        target: &str,
        range: Option<&Range<u64>>,
    ) -> Result<Response<Incoming>, FetchError> {
        let mut request = Request::get(target).header(HOST, host);
        if let Some(registry) = &self.route.registry {
            request = request.header("X-Dragonfly-Registry", registry);
        }
        if let Some(range) = range {
            request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        }
        let request = request.body(Empty::new()).expect("targets and hosts have been in a header before");
        let broken = |reason| FetchError::Broken { host: host.to_owned(), reason };
        let sender = self.connection(host).await?;
        in_time(host, sender.send_request(request)).await?.map_err(broken)
    }

    /// The connection to `host`, a new one if there is none or it has been closed.
    async fn connection(&mut self, host: &str) -> Result<&mut SendRequest<Empty<Bytes>>, FetchError> {
        let usable = match self.connections.get_mut(host) {
            Some(sender) => in_time(host, sender.ready()).await?.is_ok(),
            None => false,
        };
        if !usable {
            let failed = |reason| FetchError::Connect { host: host.to_owned(), reason };
            let socket = in_time(host, TcpStream::connect(host)).await?.map_err(failed)?;
            socket.set_nodelay(true).map_err(failed)?;
            let (sender, connection) = http1::handshake(TokioIo::new(socket))
                .await
                .map_err(|reason| FetchError::Broken { host: host.to_owned(), reason })?;
            // It ends with the sender; what went wrong is told to the request under way.
            tokio::spawn(connection);
            self.connections.insert(host.to_owned(), sender);
        }
        Ok(self.connections.get_mut(host).expect("inserted above, or there before"))
    }
}

/// `/v2/REPO/blobs/DIGEST`
pub(super) fn blob_path(repo: &str, blob: &Blob) -> String {
    format!("/v2/{repo}/blobs/{}", blob.digest())
}

async fn in_time<T>(host: &str, step: impl Future<Output = T>) -> Result<T, FetchError> {
    timeout(SILENCE_MAX, step).await.map_err(|_| FetchError::Silent { host: host.to_owned() })
}

async fn expect(
    host: &str,
    answer: Response<Incoming>,
    expected: StatusCode,
) -> Result<Response<Incoming>, FetchError> {
    let status = answer.status();
    if status == expected {
        return Ok(answer);
    }
    let body = Limited::new(answer.into_body(), ERROR_BODY_BYTES_MAX).collect();
    let body = match in_time(host, body).await? {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        Err(_) => String::new(),
    };
    Err(FetchError::Status { host: host.to_owned(), status, expected, body })
}

#[cfg(test)]
mod tests {
    use super::super::registry::{Faults, Registry, RegistryOptions};
    use super::*;

    const REPO: &str = "app";

    async fn against<T>(
        options: RegistryOptions,
        check: impl AsyncFnOnce(&Registry, Client, &Blob) -> T,
    ) -> T {
        let registry = Registry::start(options).unwrap();
        let blob = Blob::synthetic(1, 500_000);
        registry.add_blob(REPO, blob.clone());
        let client = Client::new(Route { host: registry.host(), registry: None });
        check(&registry, client, &blob).await
    }

    #[tokio::test]
    async fn pulls_and_reads_over_one_connection() {
        against(RegistryOptions::default(), async |registry, mut client, blob| {
            let mut arrived = 0;
            client.pull(REPO, blob, |bytes| arrived += bytes).await.unwrap();
            assert_eq!(arrived, 500_000);
            let mut expected = vec![0; 70_000];
            blob.read_exact_at(&mut expected, 300_001).unwrap();
            client.read(REPO, blob, &(300_001..370_001), &expected).await.unwrap();
            client.ping("/v2/").await.unwrap();
            assert!(registry.requests().iter().all(|request| request.connection == 0));
        })
        .await;
    }

    #[tokio::test]
    async fn a_redirect_is_followed_and_remembered_for_its_blob() {
        let options = RegistryOptions { redirect_blobs: true, ..RegistryOptions::default() };
        against(options, async |registry, mut client, blob| {
            for offset in [10, 20, 30] {
                let mut expected = [0; 10];
                blob.read_exact_at(&mut expected, offset).unwrap();
                client.read(REPO, blob, &(offset..offset + 10), &expected).await.unwrap();
            }
            let counts = registry.counts();
            assert_eq!((counts.redirect.requests, counts.blob_get.requests), (1, 3));
        })
        .await;
    }

    #[tokio::test]
    async fn nothing_wrong_goes_unnoticed() {
        against(RegistryOptions::default(), async |registry, mut client, blob| {
            let mut expected = vec![0; 200_000];
            blob.read_exact_at(&mut expected, 100_000).unwrap();
            let mut with = async |faults| {
                registry.set_faults(faults);
                let pull = client.pull(REPO, blob, |_| ()).await;
                let read = client.read(REPO, blob, &(100_000..300_000), &expected).await;
                (pull.unwrap_err(), read.unwrap_err())
            };
            let (pull, read) = with(Faults { flip_byte_at: Some(200_000), ..Faults::default() }).await;
            assert!(matches!(pull, FetchError::WrongDigest { .. }), "{pull}");
            assert!(matches!(read, FetchError::WrongByte { offset: 200_000 }), "{read}");
            let (pull, read) = with(Faults { cut_body_after: Some(100_000), ..Faults::default() }).await;
            assert!(matches!(pull, FetchError::Broken { .. }), "{pull}");
            assert!(matches!(read, FetchError::Broken { .. }), "{read}");
            let (pull, read) = with(Faults { status: Some(503), ..Faults::default() }).await;
            assert!(matches!(&pull, FetchError::Status { body, .. } if body.contains("errors")), "{pull}");
            assert!(matches!(read, FetchError::Status { .. }), "{read}");
            registry.set_faults(Faults { ignore_range: true, ..Faults::default() });
            let read = client.read(REPO, blob, &(100_000..300_000), &expected).await.unwrap_err();
            assert!(matches!(read, FetchError::Status { .. }), "{read}");
        })
        .await;
    }
}
