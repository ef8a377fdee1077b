//! TLS on TCP: two tasks per connection that move the parts of [`Mux`], and the halves of its streams.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::error::{LaneError, printable};
use super::mux::{Effects, HEAD_BYTES, Head, Mux, MuxError};
use super::{IDLE_TIMEOUT, KEEP_ALIVE};
use crate::identity::Identity;

/// What is gathered before the socket is asked.
const BUFFER_BYTES: usize = 64 << 10;
/// The name that TLS wants to be told and that means nothing.
pub(super) const NAME: &str = "darter.internal";

/// The connection ended by breaking a rule: what the other side is told beside the rule.
const CODE_VIOLATION: u32 = u32::MAX;

/// A connection, for as long as somebody holds it or one of its streams.
#[derive(Debug)]
pub(super) struct TcpLane {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    mux: Mutex<State>,
    work: Notify,
    arrived: Notify,
    may_open: Notify,
    over: Notify,
}

#[derive(Debug)]
struct State {
    mux: Mux,
    /// Why it is over.
    over: Option<LaneError>,
}

impl TcpLane {
    /// Connects and shakes hands; the certificates of the other side come with it.
    pub(super) async fn connect(
        remote: SocketAddr,
        identity: &Identity,
    ) -> Result<(Self, Vec<CertificateDer<'static>>), LaneError> {
        let tcp = TcpStream::connect(remote).await.map_err(|error| LaneError::of_io(&error))?;
        let _ = tcp.set_nodelay(true);
        let name = ServerName::try_from(NAME).map_err(|error| LaneError::Lost(error.to_string()))?;
        let connector = TlsConnector::from(Arc::clone(identity.client()));
        let tls = connector.connect(name, tcp).await.map_err(|error| LaneError::of_io(&error))?;
        let chain = owned(tls.get_ref().1.peer_certificates());
        Ok((Self::start(tls, true), chain))
    }

    /// Shakes hands with who has connected.
    pub(super) async fn accept(
        tcp: TcpStream,
        identity: &Identity,
    ) -> Result<(Self, Vec<CertificateDer<'static>>), LaneError> {
        let _ = tcp.set_nodelay(true);
        let acceptor = TlsAcceptor::from(Arc::clone(identity.server()));
        let tls = acceptor.accept(tcp).await.map_err(|error| LaneError::of_io(&error))?;
        let chain = owned(tls.get_ref().1.peer_certificates());
        Ok((Self::start(tls, false), chain))
    }

    fn start(tls: impl AsyncRead + AsyncWrite + Send + 'static, dialler: bool) -> Self {
        let shared = Arc::new(Shared {
            mux: Mutex::new(State { mux: Mux::new(dialler), over: None }),
            work: Notify::new(),
            arrived: Notify::new(),
            may_open: Notify::new(),
            over: Notify::new(),
        });
        let (from, to) = tokio::io::split(tls);
        let (reading, writing) = (Arc::clone(&shared), Arc::clone(&shared));
        tokio::spawn(async move {
            let end = tokio::select! {
                end = receive(&reading, from) => end,
                () = reading.ended() => return,
            };
            reading.end(end);
        });
        tokio::spawn(async move {
            if let Err(error) = send(&writing, to).await {
                writing.end(LaneError::of_io(&error));
            }
        });
        Self { shared }
    }

    pub(super) async fn open(self: &Arc<Self>) -> Result<TcpStreamHalves, LaneError> {
        self.next(&self.shared.may_open, Mux::open).await
    }

    pub(super) async fn accept_stream(self: &Arc<Self>) -> Result<TcpStreamHalves, LaneError> {
        self.next(&self.shared.arrived, Mux::accept).await
    }

    async fn next(
        self: &Arc<Self>,
        told: &Notify,
        take: impl Fn(&mut Mux) -> Option<u32>,
    ) -> Result<TcpStreamHalves, LaneError> {
        loop {
            let waiting = told.notified();
            let taken = take(&mut self.shared.lock()?.mux);
            if let Some(stream) = taken {
                // Several may have been told of as one, and others may wait.
                told.notify_one();
                // What was stopped before it was taken up is answered now.
                self.shared.work.notify_one();
                let send = TcpSend { lane: Arc::clone(self), stream };
                return Ok((send, TcpRecv { lane: Arc::clone(self), stream, offset: 0 }));
            }
            waiting.await;
        }
    }

    pub(super) fn close(&self, code: u32, reason: &str) {
        self.shared.close(code, reason, LaneError::ClosedHere);
    }

    pub(super) async fn closed(&self) -> LaneError {
        self.shared.ended().await;
        self.shared.lock().err().unwrap_or(LaneError::ClosedHere)
    }
}

impl Drop for TcpLane {
    fn drop(&mut self) {
        self.close(0, "");
    }
}

pub(super) type TcpStreamHalves = (TcpSend, TcpRecv);

/// Where a stream is written to.
#[derive(Debug)]
pub(super) struct TcpSend {
    lane: Arc<TcpLane>,
    stream: u32,
}

impl TcpSend {
    pub(super) async fn write(&mut self, mut data: Bytes) -> Result<(), LaneError> {
        poll_fn(|cx| {
            let mut state = match self.lane.shared.lock() {
                Ok(state) => state,
                Err(error) => return Poll::Ready(Err(error)),
            };
            let (before, written) = (data.len(), state.mux.write(self.stream, &mut data));
            if data.len() < before {
                self.lane.shared.work.notify_one();
            }
            match written {
                Ok(true) => Poll::Ready(Ok(())),
                Ok(false) => {
                    state.mux.wake_writer(self.stream, cx.waker().clone());
                    Poll::Pending
                }
                Err(error) => Poll::Ready(Err(error.into())),
            }
        })
        .await
    }

    /// Waits until all has gone to the socket.
    pub(super) async fn drained(&mut self) -> Result<(), LaneError> {
        poll_fn(|cx| {
            let mut state = match self.lane.shared.lock() {
                Ok(state) => state,
                Err(error) => return Poll::Ready(Err(error)),
            };
            match state.mux.is_drained(self.stream) {
                Ok(true) => Poll::Ready(Ok(())),
                Ok(false) => {
                    state.mux.wake_writer(self.stream, cx.waker().clone());
                    Poll::Pending
                }
                Err(error) => Poll::Ready(Err(error.into())),
            }
        })
        .await
    }

    /// `None`: all was written.
    pub(super) fn end(&mut self, code: Option<u32>) {
        if let Ok(mut state) = self.lane.shared.lock() {
            state.mux.end(self.stream, code);
        }
        self.lane.shared.work.notify_one();
    }
}

impl Drop for TcpSend {
    fn drop(&mut self) {
        self.lane.shared.settle(|mux| mux.sender_gone(self.stream));
    }
}

/// Where a stream is read from.
#[derive(Debug)]
pub(super) struct TcpRecv {
    lane: Arc<TcpLane>,
    stream: u32,
    offset: u64,
}

impl TcpRecv {
    pub(super) async fn read(&mut self, bytes_max: usize) -> Result<Option<(u64, Bytes)>, LaneError> {
        let part = poll_fn(|cx| {
            let mut state = self.lane.shared.state();
            match state.mux.read(self.stream, bytes_max) {
                Ok(part) => {
                    if part.is_some() {
                        self.lane.shared.work.notify_one();
                    }
                    Poll::Ready(Ok(part))
                }
                Err(Some(error)) => Poll::Ready(Err(error.into())),
                Err(None) => {
                    // What came before the end is still read.
                    if let Some(over) = &state.over {
                        return Poll::Ready(Err(over.clone()));
                    }
                    state.mux.wake_reader(self.stream, cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await?;
        Ok(part.map(|part| {
            let offset = self.offset;
            self.offset += part.len() as u64;
            (offset, part)
        }))
    }

    pub(super) fn stop(&mut self, code: u32) {
        if let Ok(mut state) = self.lane.shared.lock() {
            state.mux.stop(self.stream, code);
        }
        self.lane.shared.work.notify_one();
    }
}

impl Drop for TcpRecv {
    fn drop(&mut self) {
        self.lane.shared.settle(|mux| mux.receiver_gone(self.stream));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.mux.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state of a connection that is not over.
    fn lock(&self) -> Result<MutexGuard<'_, State>, LaneError> {
        let state = self.state();
        match &state.over {
            Some(over) => Err(over.clone()),
            None => Ok(state),
        }
    }

    fn settle(&self, change: impl FnOnce(&mut Mux) -> Effects) {
        let effects = change(&mut self.state().mux);
        self.tell(effects);
    }

    fn tell(&self, effects: Effects) {
        if effects.arrived {
            self.arrived.notify_one();
        }
        if effects.may_open {
            self.may_open.notify_one();
        }
        if effects.work {
            self.work.notify_one();
        }
    }

    fn close(&self, code: u32, reason: &str, why: LaneError) {
        self.state().mux.close(code, reason);
        self.end(why);
    }

    /// The first end counts.
    fn end(&self, why: LaneError) {
        let mut state = self.state();
        state.over.get_or_insert(why);
        state.mux.wake_all();
        drop(state);
        self.work.notify_one();
        for waiting in [&self.arrived, &self.may_open, &self.over] {
            waiting.notify_waiters();
        }
    }

    async fn ended(&self) {
        loop {
            let waiting = self.over.notified();
            tokio::pin!(waiting);
            // Else an end between the look and the wait would be missed.
            waiting.as_mut().enable();
            if self.state().over.is_some() {
                return;
            }
            waiting.await;
        }
    }
}

/// Reads parts until the connection is over.
async fn receive(shared: &Shared, from: impl AsyncRead + Unpin) -> LaneError {
    let mut from = BufReader::with_capacity(BUFFER_BYTES, from);
    loop {
        let mut head = [0; HEAD_BYTES];
        let head = match timeout(IDLE_TIMEOUT, from.read_exact(&mut head)).await {
            Ok(Ok(_)) => Head::decode(head),
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return LaneError::Lost("the other node ended it without a word".into());
            }
            Ok(Err(error)) => return LaneError::of_io(&error),
            Err(_) => return LaneError::TimedOut,
        };
        let received = match head {
            Ok(head) => match timeout(IDLE_TIMEOUT, payload(&mut from, head.payload_bytes())).await {
                Ok(Ok(reason)) if let Head::Close { code, .. } = head => {
                    return LaneError::Closed { code, reason: printable(&reason) };
                }
                Ok(Ok(payload)) => shared.state().mux.receive(head, payload),
                Ok(Err(error)) => return LaneError::of_io(&error),
                Err(_) => return LaneError::TimedOut,
            },
            Err(violation) => Err(violation),
        };
        match received {
            Ok(effects) => shared.tell(effects),
            Err(violation) => {
                shared.close(CODE_VIOLATION, &violation.to_string(), violation.into());
                return violation.into();
            }
        }
    }
}

/// Into a buffer of its own: a short part must not keep a long buffer.
async fn payload(from: &mut (impl AsyncRead + Unpin), bytes: usize) -> io::Result<Bytes> {
    let mut payload = BytesMut::zeroed(bytes);
    from.read_exact(&mut payload).await?;
    Ok(payload.freeze())
}

/// Writes parts until the connection is over.
async fn send(shared: &Shared, to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut to = BufWriter::with_capacity(BUFFER_BYTES, to);
    loop {
        let (part, over) = {
            let mut state = shared.state();
            (state.mux.next(), state.over.is_some())
        };
        if let Some((Head::Fin { .. } | Head::Reset { .. }, _)) = part {
            // It may have been the last end of a stream of ours.
            shared.may_open.notify_one();
        }
        match part {
            Some((head, payload)) => {
                let written = async {
                    to.write_all(&head.encode()).await?;
                    to.write_all(&payload).await?;
                    if let Head::Close { .. } = head { to.flush().await } else { Ok(()) }
                };
                timeout(IDLE_TIMEOUT, written)
                    .await
                    .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                if let Head::Close { .. } = head {
                    let _ = timeout(IDLE_TIMEOUT, to.shutdown()).await;
                    return Ok(());
                }
            }
            None if over => return Ok(()),
            None => {
                timeout(IDLE_TIMEOUT, to.flush())
                    .await
                    .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                if timeout(KEEP_ALIVE, shared.work.notified()).await.is_err() {
                    shared.state().mux.say_here();
                }
            }
        }
    }
}

fn owned(chain: Option<&[CertificateDer<'_>]>) -> Vec<CertificateDer<'static>> {
    chain.unwrap_or_default().iter().map(|certificate| certificate.clone().into_owned()).collect()
}

impl From<MuxError> for LaneError {
    fn from(error: MuxError) -> Self {
        match error {
            MuxError::Reset(code) => Self::Reset(code),
            MuxError::Stopped(code) => Self::Stopped(code),
            MuxError::Ended => Self::ClosedHere,
        }
    }
}
