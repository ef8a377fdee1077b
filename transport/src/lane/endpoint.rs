//! One shard's part of the lanes: who may come in, and how others are reached.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{fmt, io};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::clamp::{ClampedSocket, PacketCounts};
use super::connection::{Connection, Lane};
use super::error::{ConnectError, LaneError};
use super::steering::ShardSockets;
use super::tcp::{NAME, TcpLane};
use super::{HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, LaneKind, QUIC_PATIENCE, quic};
use crate::identity::{Identities, Identity, Member};

/// Connections that are ready and that nobody has accepted yet; further ones wait in their handshake.
const READY_MAX: usize = 16;
/// After a failure of `accept`, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What the side that connects says on its first stream, and what it is answered: only now it knows that its own
/// certificate was taken, for in TLS 1.3 a client is done before the server has looked at it.
const TAKEN: &[u8] = b"darter";

/// By which lanes a node reaches others. It can be reached by both.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Lanes {
    /// By QUIC, and by TCP where that does not answer within [`QUIC_PATIENCE`].
    #[default]
    Auto,
    /// Only by QUIC.
    Quic,
    /// Only by TCP.
    Tcp,
}

/// One shard's sockets at work. Lives on the runtime that it was started on.
pub struct Endpoint {
    quic: quinn::Endpoint,
    socket: Arc<ClampedSocket>,
    local: SocketAddr,
    identities: Arc<Identities>,
    lanes: Lanes,
    ready: Mutex<mpsc::Receiver<Connection>>,
    accepting: [JoinHandle<()>; 2],
}

impl Endpoint {
    /// Begins to accept; needs a tokio runtime.
    ///
    /// # Errors
    /// The system does not give what a socket needs.
    pub fn start(sockets: ShardSockets, identities: Arc<Identities>, lanes: Lanes) -> io::Result<Self> {
        let local = sockets.local_addr()?;
        let (quic, socket) = quic::endpoint(sockets.udp, sockets.shard)?;
        let tcp = TcpListener::from_std(sockets.tcp)?;
        let (ready, ready_here) = mpsc::channel(READY_MAX);
        let gate = Arc::new(Gate {
            identities: Arc::clone(&identities),
            quic: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            tcp: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            ready,
        });
        quic.set_server_config(Some(quic::server(&identities.current()).map_err(io::Error::other)?));
        let accepting =
            [tokio::spawn(accept_quic(quic.clone(), Arc::clone(&gate))), tokio::spawn(accept_tcp(tcp, gate))];
        Ok(Self { quic, socket, local, identities, lanes, ready: Mutex::new(ready_here), accepting })
    }

    /// Where it listens, on UDP and TCP.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// By what it reaches others.
    #[cfg(test)]
    pub(crate) fn lanes(&self) -> Lanes {
        self.lanes
    }

    /// This node, as others see it now.
    #[must_use]
    pub fn own(&self) -> Member {
        self.identities.current().own()
    }

    /// Packets that came to this shard.
    #[must_use]
    pub fn packet_counts(&self) -> PacketCounts {
        self.socket.counts()
    }

    /// The next connection that another node has made; `None` after [`close`](Self::close).
    pub async fn accept(&self) -> Option<Connection> {
        self.ready.lock().await.recv().await
    }

    /// Connects to another node. Both sides have taken each other's certificate when this returns.
    ///
    /// # Errors
    /// What went wrong on each lane that was tried.
    pub async fn connect(&self, remote: SocketAddr) -> Result<Connection, ConnectError> {
        self.connect_by(self.lanes, remote).await
    }

    /// Connects to another node by these lanes, if the node uses them at all.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_by(&self, lanes: Lanes, remote: SocketAddr) -> Result<Connection, ConnectError> {
        let identity = self.identities.current();
        let attempts = Attempts { endpoint: self, identity: &identity, remote };
        match if self.lanes == Lanes::Auto { lanes } else { self.lanes } {
            Lanes::Quic => attempts.one(LaneKind::Quic).await.map_err(|error| attempts.failed(vec![error])),
            Lanes::Tcp => attempts.one(LaneKind::Tcp).await.map_err(|error| attempts.failed(vec![error])),
            Lanes::Auto => attempts.both().await,
        }
    }

    /// Accepts no more and closes all QUIC connections of this shard; those on TCP end with their last holder.
    pub async fn close(&self, code: u32, reason: &str) {
        self.accepting.iter().for_each(JoinHandle::abort);
        self.quic.close(quinn::VarInt::from_u32(code), reason.as_bytes());
        // The other sides are told, if they can be.
        let _ = timeout(Duration::from_secs(1), self.quic.wait_idle()).await;
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.accepting.iter().for_each(JoinHandle::abort);
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("local", &self.local)
            .field("lanes", &self.lanes)
            .finish_non_exhaustive()
    }
}

/// The tries of one `connect`.
struct Attempts<'a> {
    endpoint: &'a Endpoint,
    identity: &'a Identity,
    remote: SocketAddr,
}

impl Attempts<'_> {
    async fn one(&self, kind: LaneKind) -> Result<Connection, (LaneKind, LaneError)> {
        let attempt = async {
            let (lane, chain) = match kind {
                LaneKind::Quic => {
                    let config =
                        quic::client(self.identity).map_err(|error| LaneError::Lost(error.to_string()))?;
                    let connecting = self.endpoint.quic.connect_with(config, self.remote, NAME);
                    let connecting = connecting.map_err(|error| LaneError::Lost(error.to_string()))?;
                    let connection = connecting.await?;
                    let chain = quic::chain(&connection);
                    (Lane::Quic(connection), chain)
                }
                LaneKind::Tcp => {
                    let (tcp, chain) = TcpLane::connect(self.remote, self.identity).await?;
                    (Lane::Tcp(Arc::new(tcp)), chain)
                }
            };
            let member =
                self.identity.trust().member(&chain, SystemTime::now()).map_err(LaneError::Refused)?;
            let (mut send, mut recv) = lane.open().await?;
            send.write(Bytes::from_static(TAKEN)).await?;
            send.finish();
            recv.read_message::<{ TAKEN.len() }, _, _>(taken).await?.ok_or(LaneError::CutShort)?;
            Ok(Connection::new(lane, self.remote, member))
        };
        let ended = timeout(HANDSHAKE_TIMEOUT, attempt).await;
        ended.unwrap_or(Err(LaneError::TimedOut)).map_err(|error| (kind, error))
    }

    /// QUIC, and after [`QUIC_PATIENCE`] TCP beside it; the first that stands is taken. A refusal ends it: the other
    /// lane would end in the same one.
    async fn both(&self) -> Result<Connection, ConnectError> {
        let quic = self.one(LaneKind::Quic);
        tokio::pin!(quic);
        let first = tokio::select! {
            ended = &mut quic => Some(ended),
            () = sleep(QUIC_PATIENCE) => None,
        };
        match first {
            Some(Ok(connection)) => Ok(connection),
            Some(Err((lane, error))) if error.is_refusal() => Err(self.failed(vec![(lane, error)])),
            Some(Err(first)) => {
                let second = self.one(LaneKind::Tcp).await;
                second.map_err(|second| self.failed(vec![first, second]))
            }
            None => {
                let tcp = self.one(LaneKind::Tcp);
                tokio::pin!(tcp);
                let (ended, other) = tokio::select! {
                    ended = &mut quic => (ended, LaneKind::Tcp),
                    ended = &mut tcp => (ended, LaneKind::Quic),
                };
                let first = match ended {
                    Err(first) if !first.1.is_refusal() => first,
                    ended => return ended.map_err(|error| self.failed(vec![error])),
                };
                let second = match other {
                    // Nothing has come on it yet, and TCP gets nowhere either: most likely nobody is there.
                    LaneKind::Quic => {
                        let late = Err((LaneKind::Quic, LaneError::TimedOut));
                        timeout(QUIC_PATIENCE, quic).await.unwrap_or(late)
                    }
                    LaneKind::Tcp => tcp.await,
                };
                second.map_err(|second| self.failed(vec![first, second]))
            }
        }
    }

    fn failed(&self, attempts: Vec<(LaneKind, LaneError)>) -> ConnectError {
        ConnectError { remote: self.remote, attempts }
    }
}

/// What both ways in share.
struct Gate {
    identities: Arc<Identities>,
    /// Who fills up one way with handshakes that never end leaves the other one open.
    quic: Arc<Semaphore>,
    tcp: Arc<Semaphore>,
    ready: mpsc::Sender<Connection>,
}

impl Gate {
    /// Waits for a handshake, and hands on or logs what came of it.
    async fn admit<H>(&self, remote: SocketAddr, kind: LaneKind, handshake: H)
    where
        H: Future<Output = Result<(Lane, Vec<rustls::pki_types::CertificateDer<'static>>), LaneError>>,
    {
        let admitted = async {
            let (lane, chain) = handshake.await?;
            // With what is believed now: secrets may have been replaced meanwhile.
            let trust = Arc::clone(self.identities.current().trust());
            let member = match trust.member(&chain, SystemTime::now()) {
                Ok(member) => member,
                Err(refusal) => {
                    lane.close(0, &refusal.to_string());
                    return Err(LaneError::Refused(refusal));
                }
            };
            let (mut send, mut recv) = lane.accept().await?;
            recv.read_message::<{ TAKEN.len() }, _, _>(taken).await?.ok_or(LaneError::CutShort)?;
            send.write(Bytes::from_static(TAKEN)).await?;
            send.finish();
            Ok(Connection::new(lane, remote, member))
        };
        match timeout(HANDSHAKE_TIMEOUT, admitted).await.unwrap_or(Err(LaneError::TimedOut)) {
            // Fails only when nobody accepts any more.
            Ok(connection) => _ = self.ready.send(connection).await,
            Err(error) if error.is_refusal() => {
                tracing::warn!(%remote, lane = %kind, %error, "a node was not let in");
            }
            Err(error) => tracing::debug!(%remote, lane = %kind, %error, "a handshake came to nothing"),
        }
    }
}

fn taken(word: [u8; TAKEN.len()]) -> Result<((), usize), &'static str> {
    if word == TAKEN { Ok(((), 0)) } else { Err("the first stream did not begin a connection of the lanes") }
}

async fn accept_quic(endpoint: quinn::Endpoint, gate: Arc<Gate>) {
    while let Some(incoming) = endpoint.accept().await {
        let Ok(permit) = Arc::clone(&gate.quic).try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let busy = gate.quic.available_permits() < HANDSHAKES_MAX / 2;
        if busy && !incoming.remote_address_validated() && incoming.may_retry() {
            // Fails only where it may not be done.
            let _ = incoming.retry();
            continue;
        }
        let config = match quic::server(&gate.identities.current()) {
            Ok(config) => Arc::new(config),
            Err(error) => {
                tracing::error!(%error, "no QUIC with this identity");
                incoming.refuse();
                continue;
            }
        };
        let gate = Arc::clone(&gate);
        tokio::spawn(async move {
            let remote = incoming.remote_address();
            let handshake = async {
                let connection = incoming.accept_with(config)?.await?;
                let chain = quic::chain(&connection);
                Ok((Lane::Quic(connection), chain))
            };
            gate.admit(remote, LaneKind::Quic, handshake).await;
            drop(permit);
        });
    }
}

async fn accept_tcp(listener: TcpListener, gate: Arc<Gate>) {
    loop {
        let (tcp, remote): (TcpStream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of another node");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Beyond them the kernel's queue waits.
        let Ok(permit) = Arc::clone(&gate.tcp).acquire_owned().await else { return };
        let gate = Arc::clone(&gate);
        tokio::spawn(async move {
            let identity = gate.identities.current();
            let handshake = async {
                let (tcp, chain) = TcpLane::accept(tcp, &identity).await?;
                Ok((Lane::Tcp(Arc::new(tcp)), chain))
            };
            gate.admit(remote, LaneKind::Tcp, handshake).await;
            drop(permit);
        });
    }
}
