//! The generator of load: some keep-alive connections, one request at a time on each, as nydusd's.
//!
//! One thread and one epoll, so that it takes little of its core and the server is what limits. Heads are read and
//! checked, bodies counted; their bytes are compared in [`check`], once, before anything is measured.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use mio::{Events, Interest, Poll, Token};

use crate::workload::{Request, Subject, Workload};

/// nydusd's mirror client keeps a handful.
pub(crate) const CONNECTIONS: usize = 8;
const BODY_BUFFER_BYTES: usize = 256 << 10;
const HEAD_BYTES_MAX: usize = 4096;
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What came of one burst of load.
#[derive(Clone, Debug)]
pub(crate) struct Burst {
    /// Answers, all of them whole.
    pub(crate) answers: u64,
    /// Body bytes.
    pub(crate) bytes: u64,
    /// From the first request to the last byte.
    pub(crate) elapsed: Duration,
    /// From a request to the last byte of its answer, sorted.
    latencies: Vec<Duration>,
}

impl Burst {
    /// The latency that this part of the answers did not exceed.
    pub(crate) fn latency(&self, part: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((last as f64 * part) as usize).copied().unwrap_or_default()
    }
}

/// Asks for `duration`, then lets the last answers end.
pub(crate) fn burst(
    server: SocketAddr,
    subject: &Subject,
    workload: Workload,
    duration: Duration,
    seed: u64,
) -> anyhow::Result<Burst> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut connections = (0..CONNECTIONS)
        .map(|_| {
            let stream = connect(server)?;
            stream.set_nonblocking(true)?;
            Ok(Connection::new(mio::net::TcpStream::from_std(stream)))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut poll = Poll::new()?;
    for (number, connection) in connections.iter_mut().enumerate() {
        poll.registry().register(&mut connection.stream, Token(number), Interest::READABLE)?;
    }

    let mut body = vec![0; BODY_BUFFER_BYTES];
    let mut events = Events::with_capacity(CONNECTIONS);
    let mut burst = Burst { answers: 0, bytes: 0, elapsed: Duration::ZERO, latencies: Vec::new() };
    let started = Instant::now();
    for connection in &mut connections {
        connection.send(subject.request(workload, &mut random))?;
    }
    let mut busy = CONNECTIONS;
    while busy > 0 {
        poll.poll(&mut events, Some(SILENCE_MAX))?;
        ensure!(!events.is_empty(), "the server was silent for {} s", SILENCE_MAX.as_secs());
        for event in &events {
            let connection = &mut connections[event.token().0];
            let Some((bytes, latency)) = connection.receive(&mut body)? else { continue };
            burst.answers += 1;
            burst.bytes += bytes;
            burst.latencies.push(latency);
            if started.elapsed() < duration {
                connection.send(subject.request(workload, &mut random))?;
            } else {
                busy -= 1;
            }
        }
    }
    burst.elapsed = started.elapsed();
    burst.latencies.sort_unstable();
    Ok(burst)
}

/// Asks once and compares every byte with what `right` gives.
pub(crate) fn check(
    server: SocketAddr,
    request: Request,
    right: impl FnOnce(u64, &mut [u8]) -> io::Result<()>,
) -> anyhow::Result<()> {
    let (start, bytes) = (request.start, request.bytes as usize);
    let stream = connect(server)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let mut connection = Connection::new(stream);
    connection.send(request)?;
    let mut seen = Vec::with_capacity(bytes);
    while connection.asked.as_ref().is_some_and(|asked| asked.body_left.is_none()) {
        connection.receive_head()?;
    }
    seen.append(&mut connection.head);
    let rest = bytes.checked_sub(seen.len()).context("more came than was announced")?;
    (&mut connection.stream).take(rest as u64).read_to_end(&mut seen)?;
    let mut expected = vec![0; bytes];
    right(start, &mut expected)?;
    ensure!(seen == expected, "{server} answered wrong bytes at {start}");
    Ok(())
}

fn connect(server: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(server).with_context(|| format!("cannot connect to {server}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection, blocking or not.
struct Connection<S> {
    stream: S,
    /// What has come of the head; once that is read, what came of the body with it.
    head: Vec<u8>,
    asked: Option<Asked>,
}

/// A request without its whole answer.
struct Asked {
    request: Request,
    since: Instant,
    /// `None` until the head is there.
    body_left: Option<u64>,
}

impl<S: Read + Write> Connection<S> {
    fn new(stream: S) -> Self {
        Self { stream, head: Vec::with_capacity(HEAD_BYTES_MAX), asked: None }
    }

    /// The request is far smaller than an empty socket buffer, so that it goes out whole.
    fn send(&mut self, request: Request) -> io::Result<()> {
        self.stream.write_all(request.head.as_bytes())?;
        self.asked = Some(Asked { request, since: Instant::now(), body_left: None });
        Ok(())
    }

    /// Takes what has come. When that ends an answer: its bytes, and how long it took.
    fn receive(&mut self, buffer: &mut [u8]) -> anyhow::Result<Option<(u64, Duration)>> {
        loop {
            let Some(asked) = &mut self.asked else { bail!("the server sends what nobody asked for") };
            let done = match &mut asked.body_left {
                None => {
                    let more = self.receive_head()?;
                    let came = self.head.len() as u64;
                    match self.asked.as_mut().and_then(|asked| asked.body_left.as_mut()) {
                        Some(left) => {
                            *left = left.checked_sub(came).context("more came than was announced")?;
                            self.head.clear();
                        }
                        None if more => continue,
                        None => return Ok(None),
                    }
                    false
                }
                Some(left) => {
                    let wanted = buffer.len().min(*left as usize);
                    match self.stream.read(&mut buffer[..wanted]) {
                        Ok(0) if wanted > 0 => bail!("the server ended an answer early"),
                        Ok(bytes) => *left -= bytes as u64,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                        Err(error) => return Err(error.into()),
                    }
                    *left == 0
                }
            };
            if done && let Some(asked) = self.asked.take() {
                return Ok(Some((asked.request.bytes, asked.since.elapsed())));
            }
        }
    }

    /// Reads on in the head, and understands it when it is whole. False if nothing has come.
    fn receive_head(&mut self) -> anyhow::Result<bool> {
        let mut part = [0; HEAD_BYTES_MAX];
        match self.stream.read(&mut part) {
            Ok(0) => bail!("the server closed the connection before its answer"),
            Ok(bytes) => self.head.extend_from_slice(&part[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut answer = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(head_bytes) = answer.parse(&self.head)? else { return Ok(true) };
        let Some(asked) = &mut self.asked else { bail!("the server sends what nobody asked for") };
        let length = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
        let length: Option<u64> =
            length.and_then(|length| std::str::from_utf8(length.value).ok()?.parse().ok());
        ensure!(
            answer.code == Some(asked.request.status) && length == Some(asked.request.bytes),
            "the server answered {:?} with {length:?} bytes, where {} with {} was due",
            answer.code,
            asked.request.status,
            asked.request.bytes,
        );
        asked.body_left = length;
        self.head.drain(..head_bytes);
        Ok(true)
    }
}
