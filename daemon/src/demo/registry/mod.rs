//! A small OCI distribution registry on loopback: the origin of the demo and the test double of the
//! whole-system tests.
//!
//! It speaks what a puller needs of the [distribution spec]: `/v2/`, GET and HEAD of blobs with single
//! ranges, GET and HEAD of manifests by tag and digest, errors as JSON, and (when asked for) the redirect of
//! every blob to a storage host with signed addresses, as the large public registries do it. Latency,
//! bandwidth and faults are options, and every request and body byte is counted, because what a test or the
//! demo wants to know is how often the origin was asked.
//!
//! Deliberately not here: pushes, catalogue, authentication, TLS; and any code shared with the front, so that
//! a mistake in the front's range arithmetic cannot hide behind the same mistake here.
//!
//! [distribution spec]: https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md

mod blob;
mod body;
mod catalog;
mod digest;
mod faults;
mod ledger;
mod pace;
mod range;
mod service;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

pub use self::blob::Blob;
pub use self::digest::{Digest, ParseDigestError};
pub use self::faults::Faults;
pub use self::ledger::{Counts, RequestLine, Tally};

use self::service::{Role, Service};

/// How a [`Registry`] behaves.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// Where it listens; port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// Added before each answer, redirects and storage included: the round trip to a remote registry.
    pub latency: Duration,
    /// Body bytes per second over all connections together; `None` is as fast as loopback goes.
    pub bandwidth_bytes_per_s: Option<u64>,
    /// Answer blob requests with 307 to a second listener, whose addresses are signed and which, as S3 does,
    /// refuses a request that carries `Authorization` as well.
    pub redirect_blobs: bool,
    /// Where clients find that second listener, when it is behind something; `None`: at its own address.
    pub storage_seen_at: Option<SocketAddr>,
    /// What goes wrong with blobs.
    pub faults: Faults,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            latency: Duration::ZERO,
            bandwidth_bytes_per_s: None,
            redirect_blobs: false,
            storage_seen_at: None,
            faults: Faults::default(),
        }
    }
}

/// A running registry, on a thread with a runtime of its own. It stops when dropped.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    storage: Option<SocketAddr>,
    service: Arc<Service>,
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Registry {
    /// Binds its listeners and starts to serve. Connections are accepted once this returns.
    ///
    /// # Errors
    /// The address cannot be bound, or the thread or its runtime cannot be started.
    pub fn start(options: RegistryOptions) -> io::Result<Self> {
        let front = bind(options.listen)?;
        let address = front.local_addr()?;
        let storage = match options.redirect_blobs {
            true => Some(bind(SocketAddr::new(address.ip(), 0))?),
            false => None,
        };
        let storage_address = storage.as_ref().map(TcpListener::local_addr).transpose()?;
        let service = Arc::new(Service::new(
            &options,
            storage_address.map(|own| options.storage_seen_at.unwrap_or(own)),
        ));

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (shutdown, stopped) = oneshot::channel();
        let listeners: Vec<_> = std::iter::once((front, Role::Front))
            .chain(storage.map(|socket| (socket, Role::Storage)))
            .collect();
        let serving = Arc::clone(&service);
        let thread = thread::Builder::new().name("demo-registry".into()).spawn(move || {
            runtime.block_on(async move {
                for (listener, role) in listeners {
                    tokio::spawn(service::listen(listener, role, Arc::clone(&serving)));
                }
                // A dropped sender stops it as well. The runtime's end closes all connections.
                let _ = stopped.await;
            });
        })?;
        Ok(Self {
            address,
            storage: storage_address,
            service,
            shutdown: Some(shutdown),
            thread: Some(thread),
        })
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where blobs are redirected to, if they are: `127.0.0.1:PORT` of the second listener.
    pub fn storage_host(&self) -> Option<String> {
        self.storage.map(|address| address.to_string())
    }

    /// Puts `blob` into the repository `repo` and returns its digest. The same blob in two repositories is
    /// stored once, but visible only where it was added.
    pub fn add_blob(&self, repo: &str, blob: Blob) -> Digest {
        self.service.catalog().add_blob(repo, blob)
    }

    /// Puts a manifest into the repository `repo`, by its digest and as `tag`.
    pub fn add_manifest(&self, repo: &str, tag: &str, media_type: &str, body: Bytes) -> Digest {
        self.service.catalog().add_manifest(repo, tag, media_type, body)
    }

    /// What was asked for and sent since the start or the last [`reset_counts`](Self::reset_counts).
    pub fn counts(&self) -> Counts {
        self.service.ledger().counts()
    }

    /// Sets the counts back to zero and forgets the request lines. An answer still under way is counted
    /// neither before nor after.
    pub fn reset_counts(&self) {
        self.service.ledger().reset();
    }

    /// The last requests, oldest first; at most [`RequestLine::KEPT`].
    pub fn requests(&self) -> Vec<RequestLine> {
        self.service.ledger().requests()
    }

    /// Changes what goes wrong, for requests that arrive from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.service.set_faults(faults);
    }

    /// Closes all connections and waits for the thread. The same happens on drop; this says it aloud.
    pub fn stop(self) {}
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.shutdown.take());
        if let Some(thread) = self.thread.take() {
            // A panic of its thread has been printed by the panic hook; nothing is left to do with it.
            let _ = thread.join();
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests;
