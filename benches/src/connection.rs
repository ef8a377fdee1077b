//! A keep-alive connection of a client, one request at a time, blocking or not.
//!
//! Heads are read and checked, bodies counted.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::workload::Request;

const HEAD_BYTES_MAX: usize = 4096;
/// How long a server may be silent.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Longest part of a body that is read at once.
pub(crate) const BODY_BUFFER_BYTES: usize = 256 << 10;

pub(crate) fn connect(server: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(server).with_context(|| format!("cannot connect to {server}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Connection<S> {
    pub(crate) stream: S,
    /// What has come of the head; once that is read, what came of the body with it.
    head: Vec<u8>,
    asked: Option<Asked>,
}

/// A request without its whole answer.
#[derive(Debug)]
struct Asked {
    request: Request,
    since: Instant,
    /// `None` until the head is there.
    body_left: Option<u64>,
    location: Option<String>,
    any_length: bool,
}

/// What came of a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) request: Request,
    /// From the request to the last byte.
    pub(crate) latency: Duration,
    /// Instead of the bytes: where they are.
    pub(crate) location: Option<String>,
}

impl<S: Read + Write> Connection<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, head: Vec::with_capacity(HEAD_BYTES_MAX), asked: None }
    }

    /// The request is far smaller than an empty socket buffer, so that it goes out whole.
    pub(crate) fn send(&mut self, request: Request) -> io::Result<()> {
        let since = Instant::now();
        self.stream.write_all(request.head.as_bytes())?;
        self.asked = Some(Asked { request, since, body_left: None, location: None, any_length: false });
        Ok(())
    }

    /// Takes what has come; when that ends an answer, that.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> anyhow::Result<Option<Answer>> {
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
                // A small body has come with its head; to read nothing would be to wait.
                Some(0) => true,
                Some(left) => {
                    let wanted = buffer.len().min(*left as usize);
                    match self.stream.read(&mut buffer[..wanted]) {
                        Ok(0) => bail!("the server ended an answer early"),
                        Ok(bytes) => *left -= bytes as u64,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                        Err(error) => return Err(error.into()),
                    }
                    *left == 0
                }
            };
            if done && let Some(asked) = self.asked.take() {
                let Asked { request, since, location, .. } = asked;
                return Ok(Some(Answer { request, latency: since.elapsed(), location }));
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
        let text = |name: &str| {
            let header = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(header.value).ok()
        };
        let length: Option<u64> = text("content-length").and_then(|length| length.parse().ok());
        asked.location = text("location").filter(|_| answer.code == Some(307)).map(str::to_owned);
        let any_length = asked.any_length && answer.code == Some(asked.request.status) && length.is_some();
        ensure!(
            any_length
                || asked.location.is_some() && length.is_some()
                || answer.code == Some(asked.request.status) && length == Some(asked.request.bytes),
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

impl Connection<TcpStream> {
    /// The bytes of the answer to what was sent last.
    pub(crate) fn body(&mut self) -> anyhow::Result<Vec<u8>> {
        let left = loop {
            match &self.asked {
                None => bail!("nothing was asked"),
                Some(Asked { body_left: Some(left), .. }) => break *left as usize,
                Some(_) => self.receive_head()?,
            };
        };
        self.asked = None;
        let mut seen = std::mem::take(&mut self.head);
        let rest = left.checked_sub(seen.len()).context("more came than was announced")?;
        (&mut self.stream).take(rest as u64).read_to_end(&mut seen)?;
        ensure!(seen.len() == left, "the server ended an answer early");
        Ok(seen)
    }

    /// The same where the request does not say how many bytes are right.
    pub(crate) fn body_of_any_length(&mut self) -> anyhow::Result<Vec<u8>> {
        if let Some(asked) = &mut self.asked {
            asked.any_length = true;
        }
        self.body()
    }
}
