//! The generator of load: some keep-alive connections, one request at a time on each, as nydusd's.
//!
//! One thread and one epoll, so that it takes little of its core and the server is what limits. Bytes are compared in
//! [`check`], once, before anything is measured.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use mio::{Events, Interest, Poll, Token};

use crate::connection::{BODY_BUFFER_BYTES, Connection, SILENCE_MAX, connect};
use crate::measure::Measure;
use crate::rounds::Round;
use crate::server::pause;
use crate::setting::SEED;
use crate::workload::{Request, Subject, Workload};

/// What came of one burst of load.
#[derive(Clone, Debug, Default)]
pub(crate) struct Burst {
    /// Answers, all of them whole.
    pub(crate) answers: u64,
    /// Body bytes.
    pub(crate) bytes: u64,
    /// From the first request to the last byte.
    pub(crate) elapsed: Duration,
    /// From a request to the last byte of its answer, sorted.
    pub(crate) latencies: Vec<Duration>,
}

impl Burst {
    /// The latency that this part of the answers did not exceed.
    pub(crate) fn latency(&self, part: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((last as f64 * part) as usize).copied().unwrap_or_default()
    }

    /// As a turn of a server that took `cpu` meanwhile.
    pub(crate) fn round(&self, cpu: Duration) -> Round {
        let (elapsed_s, cpu_s) = (self.elapsed.as_secs_f64(), cpu.as_secs_f64());
        Round::default()
            .with(Measure::AnswersPerS, self.answers as f64 / elapsed_s)
            .with(Measure::BytesPerS, self.bytes as f64 / elapsed_s)
            .with(Measure::ElapsedS, elapsed_s)
            .with(Measure::LatencyP50S, self.latency(0.5).as_secs_f64())
            .with(Measure::LatencyP99S, self.latency(0.99).as_secs_f64())
            .with(Measure::CpuPart, cpu_s / elapsed_s)
            .with(Measure::CpuS, cpu_s)
            .with(Measure::CpuSPerGb, cpu_s / self.bytes as f64 * 1e9)
    }
}

/// How a burst asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pattern {
    /// What for.
    pub(crate) workload: Workload,
    /// On how many connections; nydusd's mirror client keeps a handful.
    pub(crate) connections: usize,
    /// How long; then the last answers end.
    pub(crate) duration: Duration,
    /// Of the ranges' offsets.
    pub(crate) seed: u64,
}

/// Asks on each connection as soon as it has its last answer.
pub(crate) fn burst(server: SocketAddr, subjects: &[Subject], pattern: Pattern) -> anyhow::Result<Burst> {
    let mut random = fastrand::Rng::with_seed(pattern.seed);
    let mut next = || subjects[random.usize(..subjects.len())].request(pattern.workload, &mut random);
    let mut connections = (0..pattern.connections)
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
    let mut events = Events::with_capacity(pattern.connections);
    let mut burst = Burst::default();
    let started = Instant::now();
    for connection in &mut connections {
        connection.send(next())?;
    }
    let mut busy = pattern.connections;
    while busy > 0 {
        poll.poll(&mut events, Some(SILENCE_MAX))?;
        ensure!(!events.is_empty(), "the server was silent for {} s", SILENCE_MAX.as_secs());
        for event in &events {
            let connection = &mut connections[event.token().0];
            let Some(answer) = connection.receive(&mut body)? else { continue };
            ensure!(answer.location.is_none(), "the server redirects");
            burst.answers += 1;
            burst.bytes += answer.request.bytes;
            burst.latencies.push(answer.latency);
            if started.elapsed() < pattern.duration {
                connection.send(next())?;
            } else {
                busy -= 1;
            }
        }
    }
    burst.elapsed = started.elapsed();
    burst.latencies.sort_unstable();
    Ok(burst)
}

/// Asks on one connection at times that do not depend on the answers; one that is late delays the next.
pub(crate) fn paced(
    server: SocketAddr,
    subject: &Subject,
    workload: Workload,
    every: Duration,
    duration: Duration,
) -> anyhow::Result<Burst> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let stream = connect(server)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let mut connection = Connection::new(stream);
    let mut body = vec![0; BODY_BUFFER_BYTES];
    let mut burst = Burst::default();
    let started = Instant::now();
    while started.elapsed() < duration {
        connection.send(subject.request(workload, &mut random))?;
        let answer = connection.receive(&mut body)?.context("the server was silent")?;
        burst.answers += 1;
        burst.bytes += answer.request.bytes;
        burst.latencies.push(answer.latency);
        let due = started + every * burst.answers as u32;
        pause(due.saturating_duration_since(Instant::now()));
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
    let start = request.start;
    let stream = connect(server)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let mut connection = Connection::new(stream);
    connection.send(request)?;
    let seen = connection.body()?;
    let mut expected = vec![0; seen.len()];
    right(start, &mut expected)?;
    ensure!(seen == expected, "{server} answered wrong bytes at {start}");
    Ok(())
}
