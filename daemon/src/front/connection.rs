//! One client's connection: what it may take of the node, and how it ends.
//!
//! A head that comes whole, and whose answer is [at hand](super::hit), is answered here; until the next one comes the
//! connection has no buffer. hyper speaks HTTP in every other case, for as long as it takes: it gets what was read, and
//! gives the connection back when it has answered and waits for a head. A request that has a body, and one after which
//! the connection is not to be kept, it keeps to the end.
//!
//! After a CONNECT ([`connect`](super::connect)) the connection is a tunnel, or hyper's within TLS that ends here.
//!
//! [`Line`] stands between them and the socket, and sees when bytes move; what may stand still how long is said by
//! [`Flow`]. What is read of a request is bounded by hyper: 32 KiB of head (431), and a buffer that is no longer than
//! that of one read.
//!
//! However it ends, the client is told before and never by a reset: what is still on its way reaches it, then the
//! end; what it goes on sending is read and dropped for some seconds. A reset would make its system throw away bytes
//! that it has and has not read, and containerd resumes after an early end, but not after a reset.

use std::cell::{Cell, RefCell};
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
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;

use super::Fronts;
use super::body::{AnswerBody, Batch, BodyError};
use super::connect::carry::carry;
use super::connect::{FarEnd, Inside, Opened};
use super::ending::Ending;
use super::flow::{Allowance, Answering, End, Flow, Tunnelled};
use super::hit::{Answer, Responder};
use super::line::{Heard, Line};
use super::parting::{TURN_AWAY_WITHIN, let_go, refuse};
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
    let answer = move |request, inside: Option<Rc<Inside>>| {
        let front = match inside {
            Some(_) => fronts.now_in_tls(),
            None => fronts.now(),
        };
        async move { front.answer(request, inside.as_deref().map(|inside| &inside.place)).await }
    };
    if converse(stream, flow, hit, answer, stop).await {
        answers.shed(Shed::Heads);
    }
}

/// An answer and what follows it.
pub(super) struct Answered {
    pub(super) answer: Response<AnswerBody>,
    /// Told when all of it has gone out.
    pub(super) ending: Option<Ending>,
    /// What the connection is from then on.
    pub(super) opened: Option<Opened>,
}

/// `hit` answers at once what it can; `answer` answers everything. True if the connection was refused for want of room
/// for its head.
async fn converse<A: Future<Output = Answered>>(
    stream: TcpStream,
    flow: Rc<Flow>,
    hit: impl FnMut(&[u8], &mut Answer) -> Option<usize>,
    answer: impl Fn(Request<Incoming>, Option<Rc<Inside>>) -> A,
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
        End::SlowHead | End::NoHeadRoom if flow.tunnelled.get().is_some() => {
            tracing::debug!("a connection ended because a handshake or a head took too long, or too much");
        }
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
    answer: impl Fn(Request<Incoming>, Option<Rc<Inside>>) -> A,
) -> io::Result<()> {
    let flow = line.flow.clone();
    let mut at_hand = Answer::default();
    loop {
        match poll_fn(|context| line.poll_hear(context, |bytes| hit(bytes, &mut at_hand))).await? {
            Heard::Hit => send(&mut line, &mut at_hand).await?,
            // In a box, so that a connection that does without has no room for it.
            Heard::Else => {
                // It may be the beginning of a head that came with the one before it.
                flow.head_bytes.set(flow.head_bytes.get().max(line.seen.len()));
                let ended = Box::pin(with_hyper(line, &flow, |request| answer(request, None))).await?;
                line = ended.io;
                if !ended.unread.is_empty() {
                    line.seen = [ended.unread, std::mem::take(&mut line.seen)].concat().into();
                }
                match ended.next {
                    Next::Heads => {}
                    Next::End => return Ok(()),
                    Next::Opened(opened) => return Box::pin(open(line, opened, &answer)).await,
                }
            }
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

/// What a CONNECT has opened, to its end.
async fn open<A: Future<Output = Answered>>(
    line: Line,
    opened: Opened,
    answer: &impl Fn(Request<Incoming>, Option<Rc<Inside>>) -> A,
) -> io::Result<()> {
    let flow = line.flow.clone();
    let Opened { seat, end } = opened;
    let is_carried = matches!(end, FarEnd::Upstream(_));
    let tunnelled = flow.tunnelled.get_or_init(|| Tunnelled { seat, is_carried });
    let counts = tunnelled.seat.counts();
    let inside = match end {
        FarEnd::Upstream(upstream) => {
            let _under_way = Answering::begin(&flow);
            return carry(line, upstream, counts).await;
        }
        FarEnd::Here(inside) => inside,
    };
    // A handshake has the time and the room of a head.
    flow.await_head();
    let tls = match TlsAcceptor::from(inside.tls.clone()).accept(line).await {
        Ok(tls) => tls,
        Err(error) => {
            counts.handshake_failed();
            tracing::debug!(place = %inside.place, %error, "a TLS handshake of a client came to nothing");
            return Ok(());
        }
    };
    flow.await_head();
    // Only hyper reads what is within.
    flow.hypers.set(true);
    let within = |request| answer(request, Some(inside.clone()));
    let mut tls = Box::pin(with_hyper(tls, &flow, within)).await?.io;
    // Who looks at nothing but the end of TLS sees that nothing was cut off.
    let _ = tokio::time::timeout(TURN_AWAY_WITHIN, tls.shutdown()).await;
    Ok(())
}

/// What hyper leaves.
struct Ended<I> {
    io: I,
    /// Read by it, and belonging to no request.
    unread: Bytes,
    next: Next,
}

/// What comes on a connection after hyper's turn.
enum Next {
    /// The next head.
    Heads,
    /// What a CONNECT has opened.
    Opened(Opened),
    /// Nothing.
    End,
}

/// hyper's turn: with what was heard, until it has answered and waits for a head, or has answered a CONNECT, or to the
/// end.
async fn with_hyper<I: AsyncRead + AsyncWrite + Unpin, A: Future<Output = Answered>>(
    io: I,
    flow: &Rc<Flow>,
    answer: impl Fn(Request<Incoming>) -> A,
) -> io::Result<Ended<I>> {
    flow.asked_hyper.set(false);
    let opened = Cell::new(None);
    let service = service_fn(|request: Request<Incoming>| {
        let under_way = Answering::begin(flow);
        let is_plain = request.version() == Version::HTTP_11
            && request.body().is_end_stream()
            && request.method() != Method::CONNECT
            && !request.headers().contains_key(header::CONNECTION);
        flow.asked_hyper.set(true);
        flow.hypers.set(flow.hypers.get() || !is_plain);
        let (is_head, answer, opened) = (request.method() == Method::HEAD, answer(request), &opened);
        // In a box, so that a connection that is only kept has no room for an answer's state.
        Box::pin(async move {
            let Answered { answer, ending, opened: opens } = answer.await;
            opened.set(opens);
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
    let mut connection = server.serve_connection(TokioIo::new(io), service);
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
    let next = match opened.take() {
        Some(opened) => Next::Opened(opened),
        None if is_back => Next::Heads,
        None => Next::End,
    };
    Ok(Ended { io: parts.io.into_inner(), unread: parts.read_buf, next })
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
                ready!(poll_sleep(sleep.as_mut(), flow.look_at(now, due), context));
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
mod tests;
