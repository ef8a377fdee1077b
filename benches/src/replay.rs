//! A boot once more: the requests of a trace, as fast as the other side answers.
//!
//! The order within a connection is kept, and no request starts before those that started earlier on other
//! connections. A redirect is followed and remembered for the blob, as nydusd 2.1 does. Connections are made when they
//! are first needed, and count.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use mio::{Events, Interest, Poll, Token};

use crate::connection::{BODY_BUFFER_BYTES, Connection, SILENCE_MAX, connect};
use crate::load::Burst;
use crate::trace::Trace;
use crate::workload::{Request, Subject};

/// Where a connection goes.
const HOME: usize = 0;
const AWAY: usize = 1;

struct Replay<'a> {
    subject: &'a Subject,
    server: SocketAddr,
    /// Where the blob has been redirected to.
    away: Option<(SocketAddr, Subject)>,
    poll: Poll,
    readers: Vec<Reader>,
}

/// One connection of the trace: to the server, and to where that redirects to.
#[derive(Default)]
struct Reader {
    streams: [Option<Connection<mio::net::TcpStream>>; 2],
    /// When its request began that is not answered yet.
    since: Option<Instant>,
}

/// Replays a trace on new connections.
pub(crate) fn replay(server: SocketAddr, subject: &Subject, trace: &Trace) -> anyhow::Result<Burst> {
    let readers = (0..trace.connections()).map(|_| Reader::default()).collect();
    let mut replay = Replay { subject, server, away: None, poll: Poll::new()?, readers };
    let mut body = vec![0; BODY_BUFFER_BYTES];
    let mut events = Events::with_capacity(2 * replay.readers.len());
    let mut burst = Burst::default();
    let mut reads = trace.reads.iter().peekable();
    let mut under_way = 0;
    let started = Instant::now();
    loop {
        while let Some(read) = reads.next_if(|read| replay.readers[read.connection].since.is_none()) {
            let bytes = read.range.end - read.range.start;
            replay.ask(read.connection, Instant::now(), subject.range(read.range.start, bytes))?;
            under_way += 1;
        }
        if under_way == 0 {
            break;
        }
        replay.poll.poll(&mut events, Some(SILENCE_MAX))?;
        ensure!(!events.is_empty(), "the server was silent for {} s", SILENCE_MAX.as_secs());
        for event in &events {
            let Some((bytes, latency)) = replay.receive(event.token(), &mut body)? else { continue };
            under_way -= 1;
            burst.answers += 1;
            burst.bytes += bytes;
            burst.latencies.push(latency);
        }
    }
    burst.elapsed = started.elapsed();
    burst.latencies.sort_unstable();
    Ok(burst)
}

impl Replay<'_> {
    fn ask(&mut self, number: usize, since: Instant, request: Request) -> anyhow::Result<()> {
        let (place, server, request) = match &self.away {
            Some((storage, subject)) => (AWAY, *storage, subject.range(request.start, request.bytes)),
            None => (HOME, self.server, request),
        };
        let reader = &mut self.readers[number];
        reader.since = Some(since);
        let connection = match &mut reader.streams[place] {
            Some(connection) => connection,
            none => {
                let stream = connect(server)?;
                stream.set_nonblocking(true)?;
                let mut stream = mio::net::TcpStream::from_std(stream);
                let token = Token(2 * number + place);
                self.poll.registry().register(&mut stream, token, Interest::READABLE)?;
                none.insert(Connection::new(stream))
            }
        };
        Ok(connection.send(request)?)
    }

    /// Bytes and time of a read that has ended.
    fn receive(&mut self, token: Token, body: &mut [u8]) -> anyhow::Result<Option<(u64, Duration)>> {
        let (number, place) = (token.0 / 2, token.0 % 2);
        let Some(connection) = &mut self.readers[number].streams[place] else { return Ok(None) };
        let Some(answer) = connection.receive(body)? else { return Ok(None) };
        let since = self.readers[number].since.take().context("an answer without a request")?;
        let Some(location) = answer.location else {
            return Ok(Some((answer.request.bytes, since.elapsed())));
        };
        let (host, path) = (location.strip_prefix("http://"))
            .and_then(|rest| rest.split_at_checked(rest.find('/')?))
            .with_context(|| format!("a redirect to {location:?}"))?;
        let subject = Subject { path: path.to_owned(), ..self.subject.clone() };
        self.away = Some((host.parse()?, subject));
        self.ask(number, since, answer.request)?;
        Ok(None)
    }
}
