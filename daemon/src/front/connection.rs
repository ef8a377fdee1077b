//! One client's connection: what it may take of the node, and how it ends.
//!
//! hyper speaks HTTP. [`Line`] stands between it and the socket, and sees when bytes move: a head that does not come
//! to its end, a client that takes nothing of its answer, a connection that is kept and not used each have a time, and
//! heads that are not whole yet have a budget of the whole node. What is read of a request is bounded by hyper: 32 KiB
//! of head (431), and a buffer that is no longer than that of one read.
//!
//! However it ends, the client is told before and never by a reset: what is still on its way reaches it, then the
//! end; what it goes on sending is read and dropped for some seconds. A reset would make its system throw away bytes
//! that it has and has not read, and containerd resumes after an early end, but not after a reset.

use std::cell::Cell;
use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::Fronts;
use super::body::{AnswerBody, Batch, BodyError};

/// The longest head of a request. Tokens of registries have up to 8 KiB, and some clients send two.
const HEAD_BYTES_MAX: usize = 32 << 10;
const HEADERS_MAX: usize = 128;
/// What hyper reads at once, and what it has left to write when it asks for more of a body. A body comes in batches
/// of up to 1 MiB, so this does not cut writes.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// Bytes of unfinished heads that the node holds beyond [`HEAD_BYTES_OWN`] of each.
const HEADS_BYTES_MAX: usize = 32 << 20;
/// So much of a head every connection may hold: the heads of clients that mean well fit.
const HEAD_BYTES_OWN: usize = 4 << 10;
/// How long answers under way may still take when the daemon stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a client that was answered for the last time may go on sending.
const LINGER: Duration = Duration::from_secs(10);
/// The same when the daemon stops.
const LINGER_AT_STOP: Duration = Duration::from_secs(1);
/// How much it may still send.
const LINGER_BYTES_MAX: usize = 64 << 20;
/// How long a connection that finds no place may take to send something and to take its refusal.
const TURN_AWAY_WITHIN: Duration = Duration::from_secs(1);

/// How long a connection may stand still.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    /// From the first byte of a head to its last, and for the first one from the beginning of the connection.
    head: Duration,
    /// Between an answer and the next request.
    idle: Duration,
    /// Without taking a byte of an answer.
    untaken: Duration,
    /// The same while what clients have not taken keeps others waiting.
    pressed: Duration,
    /// Without a byte in any direction while a request is being answered. Every wait for an origin is shorter.
    unmoved: Duration,
}

impl Allowance {
    const OF_CLIENTS: Self = Self {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(90),
        untaken: Duration::from_secs(60),
        pressed: Duration::from_secs(5),
        unmoved: Duration::from_secs(120),
    };
}

/// Bytes of heads under way on the whole node.
#[derive(Debug, Default)]
pub(super) struct Heads {
    held_bytes: AtomicUsize,
}

/// One connection's part of [`Heads`].
#[derive(Debug)]
struct HeadRoom {
    heads: Arc<Heads>,
    held_bytes: Cell<usize>,
}

/// Why a connection ends.
#[derive(Debug)]
enum End {
    /// As HTTP has it: the client or hyper is done, or one of them has failed.
    Http(hyper::Result<()>),
    /// A head takes too long.
    SlowHead,
    /// Heads of all connections take too much.
    NoHeadRoom,
    /// Nothing was asked for a long time.
    Idle,
    /// The client does not take its answer, or does not send the body that it has promised.
    Stuck,
    /// The daemon stops, and the answer was not at its end.
    Cut,
}

/// What has moved on a connection, told by [`Line`] and by the requests being answered.
struct Flow {
    allowance: Allowance,
    /// Whether others wait for what clients have not taken.
    is_pressed: Box<dyn Fn() -> bool>,
    room: HeadRoom,
    /// Requests whose answers hyper has not got whole yet: 0 or 1.
    answering: Cell<u32>,
    /// Since when a head is waited for that has begun.
    head_since: Cell<Option<Instant>>,
    head_bytes: Cell<usize>,
    /// Something was read while a request was being answered: its body, or the next head.
    read_ahead: Cell<bool>,
    /// When a byte last moved.
    moved_at: Cell<Instant>,
    /// The system takes no more bytes for the client.
    blocked: Cell<bool>,
    /// The next write that the runtime would not try is to be tried all the same.
    insist: Cell<bool>,
    no_head_room: Cell<bool>,
}

/// Serves one connection until its client leaves or the daemon stops.
pub(crate) async fn serve(fronts: Rc<Fronts>, stream: TcpStream, stop: watch::Receiver<bool>) {
    let front = fronts.now();
    let store = front.sources.store.clone();
    let is_pressed = Box::new(move || store.is_lent_out());
    let flow = Rc::new(Flow::new(Allowance::OF_CLIENTS, front.shared.heads.clone(), is_pressed));
    drop(front);
    let answer = move |request| {
        let front = fronts.now();
        async move { front.answer(request).await }
    };
    converse(stream, flow, answer, stop).await;
}

async fn converse<A: Future<Output = Response<AnswerBody>>>(
    stream: TcpStream,
    flow: Rc<Flow>,
    answer: impl Fn(Request<Incoming>) -> A + Unpin,
    mut stop: watch::Receiver<bool>,
) {
    let answering = flow.clone();
    let service = service_fn(move |request| {
        let under_way = Answering::begin(&answering);
        let answer = answer(request);
        // In a box, so that a connection that is only kept has no room for an answer's state.
        Box::pin(async move {
            let answer = answer.await;
            Ok::<_, Infallible>(answer.map(|body| Told { body, _under_way: under_way }))
        })
    });
    let mut server = http1::Builder::new();
    server.max_header_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX).max_buf_size(BUFFER_BYTES_MAX);
    // Times are kept here: hyper's one for a head begins while nothing is asked yet.
    server.header_read_timeout(None);
    let line = Line { stream, flow: flow.clone() };
    let mut connection = server.serve_connection(TokioIo::new(line), service);
    let end = tokio::select! {
        end = until_end(|context| connection.poll_without_shutdown(context), &flow) => end,
        _ = stop.wait_for(|stop| *stop) => {
            Pin::new(&mut connection).graceful_shutdown();
            let ending = until_end(|context| connection.poll_without_shutdown(context), &flow);
            tokio::time::timeout(DRAIN_TIMEOUT, ending).await.unwrap_or(End::Cut)
        }
    };
    let mut stream = connection.into_parts().io.into_inner().stream;
    match end {
        End::Http(Ok(())) | End::Idle => {}
        // Clients leave in the middle as a matter of course.
        End::Http(Err(error)) => tracing::debug!(%error, "a connection ended early"),
        End::Cut => tracing::warn!("an answer was cut because the daemon stops"),
        End::Stuck => tracing::debug!("a connection ended because nothing moved on it"),
        End::SlowHead if flow.head_bytes.get() == 0 => {}
        End::SlowHead => refuse(&mut stream, "408 Request Timeout", "the head took too long to come").await,
        End::NoHeadRoom => {
            let why = "too many requests are only half here; ask again";
            refuse(&mut stream, "503 Service Unavailable", why).await;
        }
    }
    drop(flow);
    let stopping = async {
        let _ = stop.wait_for(|stop| *stop).await;
        tokio::time::sleep(LINGER_AT_STOP).await;
    };
    tokio::select! {
        () = let_go(stream) => {}
        () = tokio::time::sleep(LINGER) => {}
        () = stopping => {}
    }
}

/// Tells a client for whom there is no place, and ends within two seconds.
pub(crate) async fn turn_away(mut stream: TcpStream) {
    let told = async {
        // An answer to a question that is not asked yet would look like a fault.
        let _ = tokio::time::timeout(TURN_AWAY_WITHIN, stream.readable()).await;
        let why = "this node serves as many connections as it may";
        refuse(&mut stream, "503 Service Unavailable", why).await;
        let _ = tokio::time::timeout(TURN_AWAY_WITHIN, let_go(stream)).await;
    };
    told.await;
}

/// An answer without hyper, where no other has begun. It fits into any socket's buffer or is not sent.
async fn refuse(stream: &mut TcpStream, status: &str, why: &str) {
    let body = format!("darter: {why}\n");
    let answer = format!(
        "HTTP/1.1 {status}\r\nRetry-After: 1\r\nX-Dragonfly-Error-Type: proxy\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len(),
    );
    let _ = tokio::time::timeout(TURN_AWAY_WITHIN, stream.write_all(answer.as_bytes())).await;
}

/// Tells the end and reads what the client still sends until it ends too.
async fn let_go(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut left_bytes = LINGER_BYTES_MAX;
    while left_bytes > 0 && stream.readable().await.is_ok() {
        let mut dropped = [0; 4096];
        match stream.try_read(&mut dropped) {
            Ok(0) => return,
            Ok(bytes) => left_bytes = left_bytes.saturating_sub(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Polls a connection until it ends or something on it takes too long.
async fn until_end(
    mut connection: impl FnMut(&mut Context<'_>) -> Poll<hyper::Result<()>>,
    flow: &Flow,
) -> End {
    let mut sleep = std::pin::pin!(tokio::time::sleep_until(flow.due().0));
    std::future::poll_fn(|context| {
        loop {
            if let Poll::Ready(ended) = connection(context) {
                return Poll::Ready(if flow.no_head_room.get() { End::NoHeadRoom } else { End::Http(ended) });
            }
            let ((due, end), now) = (flow.due(), Instant::now());
            if now < due && !flow.outstays(now) {
                let look = if flow.blocked.get() { due.min(now + flow.allowance.pressed) } else { due };
                ready!(poll_sleep(sleep.as_mut(), look, context));
            } else if flow.insist.take() || !flow.blocked.get() {
                return Poll::Ready(end);
            } else {
                // The system calls a socket writable when a third of its buffer is free: at 10 KiB a second that
                // may take minutes. Whether it takes bytes now is the question.
                flow.insist.set(true);
            }
        }
    })
    .await
}

/// Ready when the time has come to look again. A timer that is due too early is left as it is: most never fire.
fn poll_sleep(mut sleep: Pin<&mut Sleep>, due: Instant, context: &mut Context<'_>) -> Poll<()> {
    if due < sleep.deadline() {
        sleep.as_mut().reset(due);
    }
    ready!(sleep.as_mut().poll(context));
    sleep.as_mut().reset(due);
    sleep.poll(context)
}

impl Flow {
    fn new(allowance: Allowance, heads: Arc<Heads>, is_pressed: Box<dyn Fn() -> bool>) -> Self {
        let now = Instant::now();
        Self {
            allowance,
            is_pressed,
            room: HeadRoom { heads, held_bytes: Cell::new(0) },
            answering: Cell::new(0),
            // Who connects has something to ask.
            head_since: Cell::new(Some(now)),
            head_bytes: Cell::new(0),
            read_ahead: Cell::new(false),
            moved_at: Cell::new(now),
            blocked: Cell::new(false),
            insist: Cell::new(false),
            no_head_room: Cell::new(false),
        }
    }

    /// When the connection ends if nothing moves before, and why.
    fn due(&self) -> (Instant, End) {
        let Allowance { head, idle, untaken, unmoved, .. } = self.allowance;
        match (self.blocked.get(), self.answering.get(), self.head_since.get()) {
            (true, ..) => (self.moved_at.get() + untaken, End::Stuck),
            (false, 1.., _) => (self.moved_at.get() + unmoved, End::Stuck),
            (false, 0, Some(since)) => (since + head, End::SlowHead),
            (false, 0, None) => (self.moved_at.get() + idle, End::Idle),
        }
    }

    /// Whether others need what this client does not take.
    fn outstays(&self, now: Instant) -> bool {
        self.blocked.get() && now >= self.moved_at.get() + self.allowance.pressed && (self.is_pressed)()
    }

    fn request_begins(&self) {
        self.answering.set(self.answering.get() + 1);
        self.head_since.set(None);
        self.head_bytes.set(0);
        self.room.hold(0);
        self.moved_at.set(Instant::now());
    }

    fn answer_ends(&self) {
        let now = Instant::now();
        self.answering.set(self.answering.get() - 1);
        self.head_since.set(self.read_ahead.take().then_some(now));
        self.moved_at.set(now);
    }

    fn read(&self, bytes: usize) -> io::Result<()> {
        let now = Instant::now();
        self.moved_at.set(now);
        if self.answering.get() > 0 {
            self.read_ahead.set(true);
            return Ok(());
        }
        self.head_since.set(self.head_since.get().or(Some(now)));
        self.head_bytes.set(self.head_bytes.get() + bytes);
        if self.room.hold(self.head_bytes.get().saturating_sub(HEAD_BYTES_OWN)) {
            return Ok(());
        }
        self.no_head_room.set(true);
        Err(io::Error::other("heads of requests take too much memory"))
    }

    fn wrote(&self) {
        self.blocked.set(false);
        self.insist.set(false);
        self.moved_at.set(Instant::now());
    }

    fn write_waits(&self) {
        if !self.blocked.replace(true) {
            self.moved_at.set(Instant::now());
        }
    }
}

impl HeadRoom {
    /// Changes what is held to so many bytes; false if that is more than the node has left.
    fn hold(&self, bytes: usize) -> bool {
        let held = self.held_bytes.get();
        if bytes <= held {
            self.heads.held_bytes.fetch_sub(held - bytes, Ordering::Relaxed);
        } else {
            let more = bytes - held;
            if self.heads.held_bytes.fetch_add(more, Ordering::Relaxed) + more > HEADS_BYTES_MAX {
                self.heads.held_bytes.fetch_sub(more, Ordering::Relaxed);
                return false;
            }
        }
        self.held_bytes.set(bytes);
        true
    }
}

impl Drop for HeadRoom {
    fn drop(&mut self) {
        self.hold(0);
    }
}

/// A request is being answered, until this is dropped with the answer's body.
struct Answering(Rc<Flow>);

impl Answering {
    fn begin(flow: &Rc<Flow>) -> Self {
        flow.request_begins();
        Self(flow.clone())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answer_ends();
    }
}

/// A body that tells when hyper is done with it.
struct Told {
    body: AnswerBody,
    _under_way: Answering,
}

impl Body for Told {
    type Data = Batch;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Batch>, BodyError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The socket, watched. It is shut down by [`let_go`] and not by hyper.
struct Line {
    stream: TcpStream,
    flow: Rc<Flow>,
}

impl Line {
    fn written(&self, written: Poll<io::Result<usize>>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(_)) => self.flow.wrote(),
            Poll::Ready(Err(_)) => {}
            Poll::Pending if self.flow.insist.get() => {
                let sent = rustix::net::send(&self.stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
                match sent {
                    Ok(sent) => {
                        self.flow.wrote();
                        return Poll::Ready(Ok(sent));
                    }
                    Err(rustix::io::Errno::AGAIN) => {}
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
            }
            Poll::Pending => self.flow.write_waits(),
        }
        written
    }
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let line = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut line.stream).poll_read(context, buffer))?;
        match buffer.filled().len() - before {
            0 => Poll::Ready(Ok(())),
            bytes => Poll::Ready(line.flow.read(bytes)),
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let line = self.get_mut();
        let written = Pin::new(&mut line.stream).poll_write(context, bytes);
        line.written(written, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let line = self.get_mut();
        let written = Pin::new(&mut line.stream).poll_write_vectored(context, slices);
        let first = slices.iter().find(|slice| !slice.is_empty());
        line.written(written, first.map_or(&[], |slice| &slice[..]))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::StreamExt;
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Times after which a test has failed.
    const LONG: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(100);
    const PATIENT: Allowance =
        Allowance { head: LONG, idle: LONG, untaken: LONG, pressed: SHORT, unmoved: LONG };

    /// A client of a connection with that allowance, whose answers are all `body`, and the heads of its node.
    fn with_client<F: Future<Output = ()>>(
        allowance: Allowance,
        body: fn() -> AnswerBody,
        test: impl FnOnce(TcpStream, Arc<Heads>) -> F,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let heads = Arc::new(Heads::default());
            // A test lets others wait by this.
            let pressing = heads.clone();
            let is_pressed = Box::new(move || pressing.held_bytes.load(Ordering::Relaxed) > 0);
            let flow = Rc::new(Flow::new(allowance, heads.clone(), is_pressed));
            let answer = move |_| async move { Response::new(body()) };
            let (_stop, stopping) = watch::channel(false);
            tokio::task::spawn_local(converse(stream, flow, answer, stopping));
            tokio::time::timeout(Duration::from_secs(60), test(client, heads)).await.expect("in time");
        });
    }

    fn pong() -> AnswerBody {
        AnswerBody::full(Bytes::from_static(b"pong"))
    }

    thread_local! {
        /// Whether an endless body is there, if one ever was.
        static ENDLESS: Cell<Option<bool>> = const { Cell::new(None) };
    }

    struct IsThere;

    impl Drop for IsThere {
        fn drop(&mut self) {
            ENDLESS.set(Some(false));
        }
    }

    /// 1 TiB.
    fn endless() -> AnswerBody {
        ENDLESS.set(Some(true));
        let is_there = IsThere;
        let parts = futures_util::stream::repeat_with(move || {
            let _ = &is_there;
            Ok(Bytes::from_static(&[7; 65_536]))
        });
        AnswerBody::Stream { parts: parts.boxed_local(), left_bytes: Some(1 << 40) }
    }

    /// The status of the answer that begins.
    async fn status(client: &mut TcpStream) -> String {
        let mut answer = [0; 12];
        client.read_exact(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[9..]).into_owned()
    }

    /// What the client gets until the other side ends; a reset is a failure.
    async fn rest(mut client: TcpStream) -> String {
        let mut text = Vec::new();
        client.read_to_end(&mut text).await.expect("no reset");
        String::from_utf8_lossy(&text).into_owned()
    }

    #[test]
    fn a_head_that_does_not_come_to_its_end_is_told() {
        with_client(Allowance { head: SHORT, ..PATIENT }, pong, async |mut client, _| {
            client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
            assert!(rest(client).await.starts_with("HTTP/1.1 408 "));
        });
    }

    #[test]
    fn a_client_that_says_nothing_is_told_nothing() {
        with_client(Allowance { head: SHORT, ..PATIENT }, pong, async |client, _| {
            assert_eq!(rest(client).await, "");
        });
    }

    #[test]
    fn the_time_for_a_head_begins_with_its_first_byte() {
        with_client(Allowance { head: LONG, idle: SHORT * 5, ..PATIENT }, pong, async |mut client, _| {
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            assert_eq!(status(&mut client).await, "200");
            client.write_all(b"GET /").await.unwrap();
            // Longer than the connection may be idle, which it is not.
            tokio::time::sleep(SHORT * 10).await;
            client.write_all(b" HTTP/1.1\r\n\r\n").await.unwrap();
            assert_eq!(rest(client).await.matches("pong").count(), 2);
        });
    }

    #[test]
    fn heads_beyond_the_budget_are_refused_and_short_ones_are_not() {
        with_client(PATIENT, pong, async |mut client, heads| {
            heads.held_bytes.store(HEADS_BYTES_MAX - 1000, Ordering::Relaxed);
            let head = |padding| format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(padding));
            client.write_all(head(4000).as_bytes()).await.unwrap();
            assert_eq!(status(&mut client).await, "200");
            client.write_all(head(8000).as_bytes()).await.unwrap();
            let text = rest(client).await;
            assert!(text.contains("HTTP/1.1 503 "), "{text}");
            assert_eq!(heads.held_bytes.load(Ordering::Relaxed), HEADS_BYTES_MAX - 1000, "given back");
        });
    }

    #[test]
    fn a_client_that_takes_nothing_is_let_go_and_what_it_has_ends_in_order() {
        with_client(Allowance { untaken: SHORT, ..PATIENT }, endless, async |mut client, _| {
            // Unread bytes in the other direction would make a hasty end a reset.
            client.write_all(&b"GET / HTTP/1.1\r\n\r\n".repeat(10_000)).await.unwrap();
            while ENDLESS.get() != Some(false) {
                tokio::time::sleep(SHORT).await;
            }
            assert!(rest(client).await.len() > 65_536);
        });
    }

    #[test]
    fn a_client_that_takes_nothing_is_let_go_sooner_when_others_wait() {
        with_client(PATIENT, endless, async |mut client, heads| {
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            tokio::time::sleep(SHORT * 5).await;
            assert_eq!(ENDLESS.get(), Some(true), "nobody waits yet");
            heads.held_bytes.store(1, Ordering::Relaxed);
            while ENDLESS.get() != Some(false) {
                tokio::time::sleep(SHORT).await;
            }
            assert!(rest(client).await.len() > 65_536);
        });
    }

    #[test]
    fn a_client_that_takes_little_is_served_on() {
        with_client(Allowance { untaken: SHORT * 5, ..PATIENT }, endless, async |mut client, _| {
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            let mut part = vec![0; 256 << 10];
            // All in all much longer than without a byte, and each time less than what makes a socket writable.
            for _ in 0..15 {
                client.read_exact(&mut part).await.unwrap();
                tokio::time::sleep(SHORT).await;
            }
            for _ in 0..64 {
                client.read_exact(&mut part).await.expect("it goes on");
            }
        });
    }

    #[test]
    fn a_body_without_room_to_write_is_not_taken_further_than_a_batch() {
        thread_local!(static TAKEN: Cell<usize> = const { Cell::new(0) });
        let counted = || {
            let parts = futures_util::stream::repeat_with(|| {
                TAKEN.set(TAKEN.get() + 1);
                Ok(Bytes::from_static(&[7; 65_536]))
            });
            AnswerBody::Stream { parts: parts.boxed_local(), left_bytes: Some(1 << 40) }
        };
        with_client(PATIENT, counted, async |mut client, _| {
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            let mut taken = (0, Instant::now());
            // Until the system's buffers are full: nothing more is taken for a while.
            while taken.1.elapsed() < SHORT * 5 {
                tokio::time::sleep(SHORT).await;
                if taken.0 != TAKEN.get() {
                    taken = (TAKEN.get(), Instant::now());
                }
            }
            // What the system holds comes, and behind it at most a batch and the rest of one.
            let held = TAKEN.get() * 65_536;
            let mut got = 0;
            let mut part = vec![0; 64 << 10];
            while let Ok(more) = client.try_read(&mut part) {
                got += more;
            }
            assert!(held < got + (3 << 20), "{held} bytes taken where {got} were sent");
        });
    }
}
