//! The socket of a connection, watched: it tells the flow when bytes move, and holds what was read ahead.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::flow::Flow;

/// What is read at once while no request is under way. A head that is longer, or comes in parts, is hyper's to wait
/// for.
const READ_BYTES: usize = 16 << 10;

thread_local! {
    /// What a shard reads into. Nothing of it is kept when another connection's turn comes.
    static READ: RefCell<Box<[u8; READ_BYTES]>> = RefCell::new(Box::new([0; READ_BYTES]));
}

/// What comes of listening while no request is under way.
pub(super) enum Heard {
    /// A request whose answer is made.
    Hit,
    /// Something else, or a part of something.
    Else,
    /// Nothing, and nothing more will come.
    End,
}

/// The socket, watched. Whoever has the connection shuts it down, and not hyper.
pub(super) struct Line {
    pub(super) stream: Rc<RefCell<TcpStream>>,
    pub(super) flow: Rc<Flow>,
    /// What was read and belongs to no request yet: it is read first.
    pub(super) seen: Bytes,
}

impl Line {
    /// Listens for a request. `hit` says how long the head was of what it has answered; what is behind it, or all if
    /// it has answered nothing, is seen and kept.
    pub(super) fn poll_hear(
        &mut self,
        context: &mut Context<'_>,
        mut hit: impl FnMut(&[u8]) -> Option<usize>,
    ) -> Poll<io::Result<Heard>> {
        if self.flow.stopping.get() {
            return Poll::Ready(self.hear_the_last());
        }
        if !self.seen.is_empty() {
            let head_bytes = hit(&self.seen);
            self.seen.advance(head_bytes.unwrap_or(0));
            return Poll::Ready(Ok(head_bytes.map_or(Heard::Else, |_| Heard::Hit)));
        }
        READ.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(&mut buffer[..]);
            ready!(Pin::new(&mut *self).poll_read(context, &mut buffer))?;
            let bytes = buffer.filled();
            if bytes.is_empty() {
                return Poll::Ready(Ok(Heard::End));
            }
            let head_bytes = hit(bytes);
            self.seen = Bytes::copy_from_slice(&bytes[head_bytes.unwrap_or(0)..]);
            Poll::Ready(Ok(head_bytes.map_or(Heard::Else, |_| Heard::Hit)))
        })
    }

    /// What has come before the daemon stops is still answered: by hyper, which says that it is the last. The runtime
    /// may not know of it yet, so the system is asked.
    fn hear_the_last(&mut self) -> io::Result<Heard> {
        if self.seen.is_empty() {
            let read = READ.with_borrow_mut(|buffer| {
                let (bytes, _) =
                    rustix::net::recv(&*self.stream.borrow(), &mut buffer[..], RecvFlags::DONTWAIT)?;
                Ok(Bytes::copy_from_slice(&buffer[..bytes]))
            });
            self.seen = match read {
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Bytes::new(),
                read => read?,
            };
            if !self.seen.is_empty() {
                self.flow.read(self.seen.len())?;
            }
        }
        Ok(if self.seen.is_empty() { Heard::End } else { Heard::Else })
    }

    /// Ready when the client has ended its side, or the connection is broken: nobody waits for an answer.
    pub(super) fn poll_left(&self, context: &mut Context<'_>) -> Poll<io::Error> {
        let mut byte = [0];
        match ready!(self.stream.borrow_mut().poll_peek(context, &mut ReadBuf::new(&mut byte))) {
            Ok(0) => Poll::Ready(io::ErrorKind::UnexpectedEof.into()),
            // It asks ahead.
            Ok(_) => Poll::Pending,
            Err(error) => Poll::Ready(error),
        }
    }

    pub(super) fn written(&self, written: Poll<io::Result<usize>>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(_)) => self.flow.wrote(),
            Poll::Ready(Err(_)) => {}
            Poll::Pending if self.flow.insist.get() => {
                let sent = rustix::net::send(
                    &*self.stream.borrow(),
                    bytes,
                    SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
                );
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
        if !line.seen.is_empty() {
            let bytes = line.seen.len().min(buffer.remaining());
            buffer.put_slice(&line.seen.split_to(bytes));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut *line.stream.borrow_mut()).poll_read(context, buffer))?;
        match buffer.filled().len() - before {
            0 => Poll::Ready(Ok(())),
            bytes => Poll::Ready(line.flow.read(bytes)),
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let line = self.get_mut();
        let written = Pin::new(&mut *line.stream.borrow_mut()).poll_write(context, bytes);
        line.written(written, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let line = self.get_mut();
        let written = Pin::new(&mut *line.stream.borrow_mut()).poll_write_vectored(context, slices);
        let first = slices.iter().find(|slice| !slice.is_empty());
        line.written(written, first.map_or(&[], |slice| &slice[..]))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper calls this when its own buffer is empty.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flow.settled.set(true);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
