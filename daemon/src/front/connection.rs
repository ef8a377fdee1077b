//! One client's connection: what it may take of the node, and how it ends.
//!
//! A head that comes whole, and whose answer is [at hand](super::hit), is answered here; until the next one comes the
//! connection has no buffer. hyper speaks HTTP in every other case, for as long as it takes: it gets what was read, and
//! gives the connection back when it has answered and waits for a head. A request that has a body, and one after which
//! the connection is not to be kept, it keeps to the end.
//!
//! [`Line`] stands between them and the socket, and sees when bytes move; what may stand still how long is said by
//! [`Flow`]. What is read of a request is bounded by hyper: 32 KiB of head (431), and a buffer that is no longer than
//! that of one read.
//!
//! However it ends, the client is told before and never by a reset: what is still on its way reaches it, then the
//! end; what it goes on sending is read and dropped for some seconds. A reset would make its system throw away bytes
//! that it has and has not read, and containerd resumes after an early end, but not after a reset.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{Method, Request, Response, Version, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::Fronts;
use super::body::{AnswerBody, Batch, BodyError};
use super::ending::Ending;
use super::flow::{Allowance, Answering, End, Flow};
use super::hit::{Answer, Responder};
use super::line::{Heard, Line};
use crate::metrics::Shed;

/// The longest head of a request. Tokens of registries have up to 8 KiB, and some clients send two.
const HEAD_BYTES_MAX: usize = 32 << 10;
const HEADERS_MAX: usize = 128;
/// What hyper reads at once, and what it has left to write when it asks for more of a body. A body comes in batches
/// of up to 1 MiB, so this does not cut writes.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// Slices of one write; a system takes up to 1024.
const SLICES_MAX: usize = 64;
/// How long answers under way may still take when the daemon stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a client that has just connected may take to ask when the daemon stops. What it sends is on its way: a
/// client takes an end without a word on a new connection for a failure, and on one that it has kept for none.
const FIRST_WORD_AT_STOP: Duration = Duration::from_millis(250);
/// How long a client that was answered for the last time may go on sending.
const LINGER: Duration = Duration::from_secs(10);
/// The same when the daemon stops.
const LINGER_AT_STOP: Duration = Duration::from_secs(1);
/// How much it may still send.
const LINGER_BYTES_MAX: usize = 64 << 20;
/// How long a connection that finds no place may take to send something and to take its refusal.
const TURN_AWAY_WITHIN: Duration = Duration::from_secs(1);

/// Serves one connection until its client leaves or the daemon stops.
pub(crate) async fn serve(fronts: Rc<Fronts>, stream: TcpStream, stop: watch::Receiver<bool>) {
    let front = fronts.now();
    let store = front.sources.store.clone();
    let is_pressed = Box::new(move || store.is_lent_out());
    let flow = Rc::new(Flow::new(Allowance::OF_CLIENTS, front.shared.heads.clone(), is_pressed));
    let answers = front.sources.answers.clone();
    drop(front);
    let mut responder = Responder::new(fronts.clone());
    let hit = move |bytes: &[u8], answer: &mut Answer| responder.answer(bytes, answer);
    let answer = move |request| {
        let front = fronts.now();
        async move {
            let (answer, ending) = front.answer(request).await;
            (answer, Some(ending))
        }
    };
    if converse(stream, flow, hit, answer, stop).await {
        answers.shed(Shed::Heads);
    }
}

/// An answer, and what is told when all of it has gone out.
type Answered = (Response<AnswerBody>, Option<Ending>);

/// `hit` answers at once what it can; `answer` answers everything. True if the connection was refused for want of room
/// for its head.
async fn converse<A: Future<Output = Answered>>(
    stream: TcpStream,
    flow: Rc<Flow>,
    hit: impl FnMut(&[u8], &mut Answer) -> Option<usize>,
    answer: impl Fn(Request<Incoming>) -> A,
    mut stop: watch::Receiver<bool>,
) -> bool {
    // Whatever ends the talk, the stream is left.
    let stream = Rc::new(RefCell::new(stream));
    let end = {
        let line = Line { stream: stream.clone(), flow: flow.clone(), seen: Bytes::new() };
        let mut talk = std::pin::pin!(talk(line, hit, answer));
        tokio::select! {
            end = until_end(|context| talk.as_mut().poll(context), &flow) => end,
            _ = stop.wait_for(|stop| *stop) => {
                let mut ending = std::pin::pin!(until_end(|context| talk.as_mut().poll(context), &flow));
                let asked = async {
                    if !flow.is_unheard() {
                        return None;
                    }
                    tokio::time::timeout(FIRST_WORD_AT_STOP, ending.as_mut()).await.ok()
                };
                match asked.await {
                    Some(end) => end,
                    None => {
                        flow.stopping.set(true);
                        tokio::time::timeout(DRAIN_TIMEOUT, ending).await.unwrap_or(End::Cut)
                    }
                }
            }
        }
    };
    // The talk is over, so nobody else has it.
    let Some(stream) = Rc::into_inner(stream) else { return false };
    let is_shed = matches!(end, End::NoHeadRoom);
    let mut stream = stream.into_inner();
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
    is_shed
}

async fn talk<A: Future<Output = Answered>>(
    mut line: Line,
    mut hit: impl FnMut(&[u8], &mut Answer) -> Option<usize>,
    answer: impl Fn(Request<Incoming>) -> A,
) -> io::Result<()> {
    let mut at_hand = Answer::default();
    loop {
        match poll_fn(|context| line.poll_hear(context, |bytes| hit(bytes, &mut at_hand))).await? {
            Heard::Hit => send(&mut line, &mut at_hand).await?,
            // In a box, so that a connection that does without has no room for it.
            Heard::Else => match Box::pin(with_hyper(line, &answer)).await? {
                Some(back) => line = back,
                None => return Ok(()),
            },
            Heard::End => return Ok(()),
        }
    }
}

/// Sends an answer that is made, and the rest of it as it comes.
async fn send(line: &mut Line, answer: &mut Answer) -> io::Result<()> {
    let under_way = Answering::begin(&line.flow);
    line.flow.read_ahead.set(!line.seen.is_empty());
    write_all(line, &mut answer.unsent()).await?;
    answer.lent.clear();
    while let Some(rest) = &mut answer.rest {
        let batch = poll_fn(|context| match Pin::new(&mut *rest).poll_frame(context) {
            // Who has left waits for nothing; whoever brings the rest should know.
            Poll::Pending => line.poll_left(context).map(Err),
            Poll::Ready(batch) => Poll::Ready(batch.transpose().map_err(io::Error::other)),
        });
        match batch.await?.map(Frame::into_data) {
            Some(Ok(mut batch)) => write_all(line, &mut batch).await?,
            Some(Err(_)) | None => break,
        }
    }
    if let Some(ending) = answer.ending.take() {
        ending.all_sent();
    }
    answer.clear();
    drop(under_way);
    Ok(())
}

async fn write_all(line: &mut Line, unsent: &mut impl Buf) -> io::Result<()> {
    poll_fn(|context| {
        while unsent.has_remaining() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let filled = unsent.chunks_vectored(&mut slices);
            match ready!(Pin::new(&mut *line).poll_write_vectored(context, &slices[..filled]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => unsent.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}

/// hyper's turn: with what was heard, until it has answered and waits for a head, which gives the line back, or to the
/// end.
async fn with_hyper<A: Future<Output = Answered>>(
    line: Line,
    answer: &impl Fn(Request<Incoming>) -> A,
) -> io::Result<Option<Line>> {
    let flow = line.flow.clone();
    flow.asked_hyper.set(false);
    // It may be the beginning of a head that came with the one before it.
    flow.head_bytes.set(flow.head_bytes.get().max(line.seen.len()));
    let service = service_fn(|request: Request<Incoming>| {
        let under_way = Answering::begin(&flow);
        let is_plain = request.version() == Version::HTTP_11
            && request.body().is_end_stream()
            && !request.headers().contains_key(header::CONNECTION);
        flow.asked_hyper.set(true);
        flow.hypers.set(flow.hypers.get() || !is_plain);
        let (is_head, answer) = (request.method() == Method::HEAD, answer(request));
        // In a box, so that a connection that is only kept has no room for an answer's state.
        Box::pin(async move {
            let (answer, ending) = answer.await;
            Ok::<_, Infallible>(answer.map(|body| Sending { body, is_head, ending, _under_way: under_way }))
        })
    });
    let mut server = http1::Builder::new();
    server.max_header_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX).max_buf_size(BUFFER_BYTES_MAX);
    // Times are kept here: hyper's one for a head begins while nothing is asked yet.
    server.header_read_timeout(None);
    // Told of the stop before it has read anything, it would end without an answer.
    let is_last = flow.stopping.get();
    server.keep_alive(!is_last);
    let mut connection = server.serve_connection(TokioIo::new(line), service);
    let mut is_told = is_last;
    let is_back = poll_fn(|context| {
        if flow.stopping.get() && !is_told {
            is_told = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        match connection.poll_without_shutdown(context) {
            Poll::Ready(ended) => Poll::Ready(ended.map(|()| false).map_err(io::Error::other)),
            Poll::Pending if flow.is_back() => Poll::Ready(Ok(true)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await?;
    let parts = connection.into_parts();
    let mut line = parts.io.into_inner();
    if !parts.read_buf.is_empty() {
        line.seen = [parts.read_buf, std::mem::take(&mut line.seen)].concat().into();
    }
    Ok(is_back.then_some(line))
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
async fn until_end(mut connection: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>, flow: &Flow) -> End {
    let mut sleep = std::pin::pin!(tokio::time::sleep_until(flow.due().0));
    poll_fn(|context| {
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

/// A body that tells when hyper is done with it.
struct Sending {
    body: AnswerBody,
    /// Its body stays here.
    is_head: bool,
    ending: Option<Ending>,
    _under_way: Answering,
}

impl Body for Sending {
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

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(ending) = self.ending.take()
            && (self.is_head || self.body.is_end_stream())
        {
            ending.all_sent();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use bytes::Bytes;
    use futures_util::StreamExt;
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::front::flow::{HEADS_BYTES_MAX, Heads};
    use crate::front::head::PlainGet;

    /// Times after which a test has failed.
    const LONG: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(100);
    const PATIENT: Allowance =
        Allowance { head: LONG, idle: LONG, untaken: LONG, pressed: SHORT, unmoved: LONG };

    thread_local! {
        /// Whether the last connection ended for want of room for its head.
        static WAS_SHED: Cell<bool> = const { Cell::new(false) };
    }

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
            let answer = move |_| async move { (Response::new(body()), None) };
            let (_stop, stopping) = watch::channel(false);
            tokio::task::spawn_local(async move {
                WAS_SHED.set(converse(stream, flow, hit, answer, stopping).await);
            });
            tokio::time::timeout(Duration::from_secs(60), test(client, heads)).await.expect("in time");
        });
    }

    /// Answers what is asked of `/hit`.
    fn hit(bytes: &[u8], answer: &mut Answer) -> Option<usize> {
        let get = PlainGet::read(bytes).filter(|get| get.uri.path() == "/hit")?;
        answer.head = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhit!".into();
        Some(get.head_bytes)
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

    /// The bodies of all answers to requests that are sent at once, and whether more is then answered.
    fn check_turns(requests: &str, bodies: &str, is_kept: bool) {
        with_client(PATIENT, pong, async |mut client, _| {
            client.write_all(requests.as_bytes()).await.unwrap();
            let mut text = String::new();
            let mut part = [0; 4096];
            let seen = |text: &str| -> String {
                text.split("\r\n\r\n").skip(1).filter_map(|body| body.get(..4)).collect()
            };
            while seen(&text).len() < bodies.len() {
                let read = client.read(&mut part).await.unwrap();
                assert!(read > 0, "{requests:?}: the end after {text}");
                text.push_str(std::str::from_utf8(&part[..read]).unwrap());
            }
            assert_eq!(seen(&text), bodies, "{requests:?}");
            if is_kept {
                client.write_all(b"GET /hit HTTP/1.1\r\nConnection: close\r\n\r\n").await.unwrap();
            }
            let text = rest(client).await;
            assert_eq!(text.contains("\r\nconnection: close\r\n"), is_kept, "{requests:?}: {text}");
        });
    }

    #[test]
    fn hyper_and_we_take_turns_in_the_order_of_the_requests() {
        let (hit, miss) = ("GET /hit HTTP/1.1\r\n\r\n", "GET /miss HTTP/1.1\r\n\r\n");
        check_turns(hit, "hit!", true);
        check_turns(miss, "pong", true);
        // hyper answers what it has read.
        check_turns(&[hit, hit, miss, miss, hit].concat(), "hit!hit!pongpongpong", true);
        let with_body = "POST /hit HTTP/1.1\r\nContent-Length: 31\r\n\r\nGET /hit HTTP/1.1\r\nTwo: three\r\n";
        assert_eq!(with_body.split_once("\r\n\r\n").unwrap().1.len(), 31);
        check_turns(&[hit, with_body].concat(), "hit!pong", true);
        let old = "GET /hit HTTP/1.0\r\n\r\n";
        check_turns(&[hit, old].concat(), "hit!pong", false);
        let last = "GET /hit HTTP/1.1\r\nConnection: close\r\n\r\n";
        check_turns(&[miss, last].concat(), "pongpong", false);
    }

    #[test]
    fn hyper_gives_the_connection_back() {
        with_client(PATIENT, pong, async |mut client, _| {
            for (path, body) in [("/miss", "pong"), ("/hit", "hit!"), ("/miss", "pong"), ("/hit", "hit!")] {
                client.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
                let mut text = String::new();
                while !text.ends_with(body) {
                    let mut part = [0; 4096];
                    let read = client.read(&mut part).await.unwrap();
                    assert!(read > 0, "{path}: the end after {text}");
                    text.push_str(std::str::from_utf8(&part[..read]).unwrap());
                }
            }
        });
    }

    #[test]
    fn a_head_in_parts_behind_an_answer_is_waited_for() {
        with_client(Allowance { head: SHORT, ..PATIENT }, pong, async |mut client, _| {
            client.write_all(b"GET /hit HTTP/1.1\r\n\r\nGET /hi").await.unwrap();
            let text = rest(client).await;
            assert!(text.contains("hit!HTTP/1.1 408 "), "{text}");
        });
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
            while !WAS_SHED.get() {
                tokio::time::sleep(SHORT).await;
            }
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
