//! Bytes between a client and whoever it has connected to, as they are.
//!
//! What one side has ended is ended at the other, and the other direction goes on. Nothing is held of a connection on
//! which nothing moves: a shard reads into one buffer, and only what the other side does not take is kept.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::front::line::Line;
use crate::metrics::{Towards, Tunnels};

/// What is read at once, and so what is held at most of each direction.
const READ_BYTES: usize = 64 << 10;
/// When the daemon stops, a tunnel ends on which nothing has moved for so long.
const QUIET_AT_STOP: Duration = Duration::from_secs(1);

thread_local! {
    /// Nothing of it is kept when another connection's turn comes.
    static READ: RefCell<Box<[u8; READ_BYTES]>> = RefCell::new(Box::new([0; READ_BYTES]));
}

/// The other end of a tunnel.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) stream: TcpStream,
    /// What it has sent already.
    pub(crate) seen: Bytes,
}

/// One direction.
#[derive(Debug)]
struct Way {
    /// Read, and not taken by the other side yet.
    held: Bytes,
    has_ended: bool,
    carried: Counter,
}

impl Way {
    fn new(held: Bytes, carried: Counter) -> Self {
        Self { held, has_ended: false, carried }
    }

    /// Ready when the end has been told.
    fn poll<F: AsyncRead, T: AsyncWrite>(
        &mut self,
        mut from: Pin<&mut F>,
        mut to: Pin<&mut T>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.held.is_empty() {
                let written = ready!(to.as_mut().poll_write(context, &self.held))?;
                self.wrote(written)?;
                self.held.advance(written);
            }
            if self.has_ended {
                return to.poll_shutdown(context);
            }
            let read = READ.with_borrow_mut(|buffer| {
                let mut buffer = ReadBuf::new(&mut buffer[..]);
                ready!(from.as_mut().poll_read(context, &mut buffer))?;
                self.has_ended = buffer.filled().is_empty();
                Poll::Ready(self.pass_on(buffer.filled(), to.as_mut(), context))
            });
            ready!(read)?;
        }
    }

    /// Writes what is taken at once, and keeps the rest.
    fn pass_on<T: AsyncWrite>(
        &mut self,
        mut bytes: &[u8],
        mut to: Pin<&mut T>,
        context: &mut Context<'_>,
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            let Poll::Ready(written) = to.as_mut().poll_write(context, bytes) else {
                self.held = Bytes::copy_from_slice(bytes);
                break;
            };
            let written = written?;
            self.wrote(written)?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    fn wrote(&self, bytes: usize) -> io::Result<()> {
        if bytes == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.carried.inc_by(bytes as u64);
        Ok(())
    }
}

/// Carries until both sides have ended, one of them fails, or the daemon stops and nothing moves any more. How long
/// nothing may move before that is the connection's to know.
pub(in crate::front) async fn carry(mut line: Line, upstream: Upstream, counts: &Tunnels) -> io::Result<()> {
    let Upstream { stream: mut server, seen } = upstream;
    let flow = line.flow.clone();
    let mut up = Way::new(Bytes::new(), counts.bytes(Towards::Server));
    let mut down = Way::new(seen, counts.bytes(Towards::Client));
    let (mut is_told_up, mut is_told_down) = (false, false);
    let mut quiet = pin!(tokio::time::sleep(QUIET_AT_STOP));
    poll_fn(|context| {
        if !is_told_up
            && let Poll::Ready(ended) = up.poll(Pin::new(&mut line), Pin::new(&mut server), context)
        {
            ended?;
            is_told_up = true;
        }
        if !is_told_down
            && let Poll::Ready(ended) = down.poll(Pin::new(&mut server), Pin::new(&mut line), context)
        {
            ended?;
            is_told_down = true;
        }
        if is_told_up && is_told_down {
            return Poll::Ready(Ok(()));
        }
        while flow.stopping.get() {
            let due = flow.moved_at.get() + QUIET_AT_STOP;
            if Instant::now() >= due {
                return Poll::Ready(Ok(()));
            }
            quiet.as_mut().reset(due);
            ready!(quiet.as_mut().poll(context));
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await.expect("in time") });
    }

    async fn carried(way: &mut Way, from: &mut tokio::io::DuplexStream, to: &mut tokio::io::DuplexStream) {
        poll_fn(|context| way.poll(Pin::new(from), Pin::new(to), context)).await.unwrap();
    }

    #[test]
    fn all_bytes_go_over_in_order_and_the_end_after_them() {
        run(async {
            let (mut client, mut from) = duplex(1 << 20);
            // Much less than is read at once.
            let (mut to, mut server) = duplex(1000);
            let sent: Vec<u8> = (0..400_000_u32).map(|number| number as u8).collect();
            let counter = Counter::default();
            let mut way = Way::new(Bytes::from_static(b"first"), counter.clone());
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            let mut got = Vec::new();
            tokio::join!(carried(&mut way, &mut from, &mut to), async {
                server.read_to_end(&mut got).await.unwrap();
            });
            assert!(got == [b"first", &sent[..]].concat(), "{} bytes came", got.len());
            assert_eq!(counter.get(), got.len() as u64);
        });
    }

    #[test]
    fn what_is_not_taken_is_not_read_further() {
        run(async {
            let (mut client, mut from) = duplex(1 << 20);
            let (mut to, _server) = duplex(1000);
            let mut way = Way::new(Bytes::new(), Counter::default());
            client.write_all(&[7; 1 << 19]).await.unwrap();
            tokio::select! {
                biased;
                () = carried(&mut way, &mut from, &mut to) => panic!("nobody takes it"),
                () = std::future::ready(()) => {}
            }
            assert!(way.held.len() < READ_BYTES, "{} bytes are held", way.held.len());
            let mut rest = vec![0; 1 << 20];
            let read = from.read(&mut rest).await.unwrap();
            assert!(read + READ_BYTES >= 1 << 19, "{read} bytes are left");
        });
    }
}
