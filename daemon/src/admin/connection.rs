//! Connections to the admin port: how many there are, and what becomes of those that stand still.
//!
//! A probe is to be answered whatever viewers do. So nobody waits for a place: where all are taken, the connection on
//! which nothing has moved for longest is closed, one whose call is being worked on only if all are. And who takes
//! nothing of its answer is let go.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::error::Error;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

const CONNECTIONS_MAX: usize = 64;
/// From the end of an answer to that of the next request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take nothing of its answer.
const UNTAKEN: Duration = Duration::from_secs(15);

/// The connections that are open.
#[derive(Debug)]
pub(crate) struct Places {
    open: RefCell<Vec<Rc<Place>>>,
    count_max: usize,
    untaken: Duration,
}

/// One of them.
#[derive(Debug)]
struct Place {
    moved_at: Cell<Instant>,
    /// Calls that are being worked on, or whose answers come bit by bit.
    at_work: Cell<u32>,
    to_leave: Notify,
}

/// A connection's place, until this is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    places: Rc<Places>,
    place: Rc<Place>,
}

impl Default for Places {
    fn default() -> Self {
        Self { open: RefCell::default(), count_max: CONNECTIONS_MAX, untaken: UNTAKEN }
    }
}

impl Places {
    /// A place for a connection that begins. Another one has to leave if there is none.
    pub(crate) fn take(self: &Rc<Self>) -> Taken {
        let now = Instant::now();
        let place =
            Rc::new(Place { moved_at: Cell::new(now), at_work: Cell::new(0), to_leave: Notify::new() });
        let mut open = self.open.borrow_mut();
        while open.len() >= self.count_max {
            let longest =
                (0..open.len()).min_by_key(|at| (open[*at].at_work.get() > 0, open[*at].moved_at.get()));
            let Some(longest) = longest else { break };
            open.swap_remove(longest).to_leave.notify_one();
        }
        open.push(place.clone());
        Taken { places: self.clone(), place }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.places.open.borrow_mut().retain(|place| !Rc::ptr_eq(place, &self.place));
    }
}

/// Serves one connection until its client leaves or stands still, or another one needs its place.
pub(crate) async fn serve<B, F>(stream: TcpStream, taken: Taken, answer: impl Fn(Request<Incoming>) -> F)
where
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + 'static,
    F: Future<Output = Response<B>>,
{
    let place = &taken.place;
    let service = service_fn(|request: Request<Incoming>| {
        let at_work = AtWork::begin(place);
        let answer = answer(request);
        async move {
            let (head, body) = answer.await.into_parts();
            Ok::<_, Infallible>(Response::from_parts(head, Sent { body, _at_work: at_work }))
        }
    });
    let untaken = Box::pin(tokio::time::sleep(Duration::ZERO));
    let (place, untaken_max) = (place.clone(), taken.places.untaken);
    let line = Line { stream, place, untaken, untaken_max, is_blocked: false };
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    tokio::select! {
        ended = server.serve_connection(TokioIo::new(line), service) => if let Err(error) = ended {
            tracing::debug!(%error, "an admin connection ended early");
        },
        () = taken.place.to_leave.notified() => {
            tracing::debug!("an admin connection was closed: another one needed its place");
        }
    }
}

/// A call that is being worked on, until this is dropped with the body of its answer.
struct AtWork(Rc<Place>);

impl AtWork {
    fn begin(place: &Rc<Place>) -> Self {
        place.at_work.set(place.at_work.get() + 1);
        Self(place.clone())
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.at_work.set(self.0.at_work.get() - 1);
    }
}

/// A body that ends a call's work.
struct Sent<B> {
    body: B,
    _at_work: AtWork,
}

impl<B: Body + Unpin> Body for Sent<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The socket, watched.
struct Line {
    stream: TcpStream,
    place: Rc<Place>,
    /// When the client has taken nothing for too long; counts while `is_blocked`.
    untaken: Pin<Box<Sleep>>,
    untaken_max: Duration,
    is_blocked: bool,
}

impl Line {
    fn written(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.is_blocked = false;
            self.place.moved_at.set(Instant::now());
            return written;
        }
        if !std::mem::replace(&mut self.is_blocked, true) {
            self.untaken.as_mut().reset(Instant::now() + self.untaken_max);
        }
        ready!(self.untaken.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing of its answer")))
    }
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let line = self.get_mut();
        ready!(Pin::new(&mut line.stream).poll_read(context, buffer))?;
        line.place.moved_at.set(Instant::now());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let line = self.get_mut();
        let written = Pin::new(&mut line.stream).poll_write(context, bytes);
        line.written(written, context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let line = self.get_mut();
        let written = Pin::new(&mut line.stream).poll_write_vectored(context, slices);
        line.written(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Full;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Times after which a test has failed.
    const LONG: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(100);

    /// A server of so many connections: `/work` takes for ever, `/much` is more than a socket holds.
    fn with_server<F: Future<Output = ()>>(
        (count_max, untaken): (usize, Duration),
        test: impl FnOnce(std::net::SocketAddr, Rc<Places>) -> F,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let places = Rc::new(Places { open: RefCell::default(), count_max, untaken });
            let taking = places.clone();
            tokio::task::spawn_local(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::task::spawn_local(serve(stream, taking.take(), answer));
                }
            });
            tokio::time::timeout(Duration::from_secs(60), test(address, places)).await.expect("in time");
        });
    }

    async fn answer(request: Request<Incoming>) -> Response<Full<Bytes>> {
        match request.uri().path() {
            "/work" => std::future::pending().await,
            "/much" => Response::new(Full::new(vec![7; 32 << 20].into())),
            _ => Response::new(Full::new("pong".into())),
        }
    }

    async fn ask(address: std::net::SocketAddr, path: &str) -> TcpStream {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        client
    }

    async fn is_answered(client: &mut TcpStream) {
        let mut head = [0; 15];
        client.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
    }

    #[test]
    fn who_comes_gets_the_place_of_who_stood_still_for_longest() {
        with_server((3, LONG), async |address, places| {
            // The oldest one is being worked for.
            let mut at_work = ask(address, "/work").await;
            while !places.open.borrow().iter().any(|place| place.at_work.get() == 1) {
                tokio::time::sleep(SHORT / 10).await;
            }
            let mut untaken = ask(address, "/much").await;
            is_answered(&mut untaken).await;
            tokio::time::sleep(SHORT).await;
            let mut kept = ask(address, "/").await;
            is_answered(&mut kept).await;
            let mut probe = ask(address, "/").await;
            is_answered(&mut probe).await;
            assert_eq!(places.open.borrow().len(), 3);
            // Closed in the middle of its answer.
            let mut rest = Vec::new();
            let _ = untaken.read_to_end(&mut rest).await;
            assert!(rest.len() < 32 << 20, "{} bytes", rest.len());
            kept.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let mut text = String::new();
            while text.matches("pong").count() < 2 {
                let mut part = [0; 1024];
                let read = kept.read(&mut part).await.unwrap();
                assert!(read > 0, "the end after {text}");
                text.push_str(std::str::from_utf8(&part[..read]).unwrap());
            }
            assert!(at_work.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
            // Where all are worked for, there is a place all the same.
            let _others = [ask(address, "/work").await, ask(address, "/work").await];
            while places.open.borrow().iter().any(|place| place.at_work.get() == 0) {
                tokio::time::sleep(SHORT / 10).await;
            }
            is_answered(&mut ask(address, "/").await).await;
            assert_eq!(at_work.read(&mut [0]).await.unwrap_or(0), 0, "it had to leave");
        });
    }

    #[test]
    fn who_takes_nothing_of_its_answer_is_let_go() {
        with_server((3, SHORT), async |address, places| {
            let _client = ask(address, "/much").await;
            while places.open.borrow().is_empty() {
                tokio::time::sleep(SHORT / 10).await;
            }
            while !places.open.borrow().is_empty() {
                tokio::time::sleep(SHORT).await;
            }
        });
    }
}
