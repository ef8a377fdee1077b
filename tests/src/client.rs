//! A blocking HTTP/1.1 client that hides nothing: the head before the body, a body that was cut is an error,
//! and an answer dropped half-read closes its connection, as a client that has lost interest does.
//!
//! Absent on purpose: redirects (the daemon must never send one), cookies, compression, TLS.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

use crate::net::Namespace;

/// Longer than any answer that is still alive may pause; a test that waits this long has failed.
const STALLED: Duration = Duration::from_secs(60);
/// Heads larger than this are refused, as real clients do.
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 64;

/// One connection to a server, opened when first needed and kept between requests.
#[derive(Debug)]
pub struct Client {
    server: SocketAddr,
    namespace: Option<Namespace>,
    kept: Option<BufReader<TcpStream>>,
}

impl Client {
    /// A client of that server; connects with the first request.
    pub fn new(server: SocketAddr) -> Client {
        Client { server, namespace: None, kept: None }
    }

    /// A client that runs in another namespace than its test.
    pub fn inside(namespace: &Namespace, server: SocketAddr) -> Client {
        Client { namespace: Some(namespace.clone()), ..Client::new(server) }
    }

    /// The same with a connection that is still to be opened.
    #[must_use]
    pub fn anew(self) -> Client {
        Client { kept: None, ..self }
    }

    /// Sends the request and waits for the head of its answer.
    ///
    /// # Errors
    /// What the socket says; `UnexpectedEof` when the server closed before a whole head; `InvalidData` for
    /// what is not HTTP. A connection kept from an earlier request that turns out to be closed is replaced
    /// once.
    pub fn send(&mut self, request: &Request) -> io::Result<Reading<'_>> {
        if let Some(kept) = self.kept.take()
            && let Ok((connection, head)) = exchange(kept, request)
        {
            return Reading::new(self, connection, head, request);
        }
        let stream = match &self.namespace {
            Some(namespace) => namespace.connect(self.server)?,
            None => TcpStream::connect(self.server)?,
        };
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STALLED))?;
        stream.set_write_timeout(Some(STALLED))?;
        let (connection, head) = exchange(BufReader::with_capacity(256 << 10, stream), request)?;
        Reading::new(self, connection, head, request)
    }

    /// Sends the request and reads the whole answer.
    ///
    /// # Errors
    /// As [`Client::send`], and `UnexpectedEof` for a body shorter than announced.
    pub fn fetch(&mut self, request: &Request) -> io::Result<Answer> {
        self.send(request)?.finish()
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Request {
    method: &'static str,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// `GET target`; the target goes out as it stands, so it may be a path or an absolute URL.
    pub fn get(target: impl Into<String>) -> Request {
        Request { method: "GET", target: target.into(), headers: Vec::new(), body: Vec::new() }
    }

    /// `GET` and the like.
    pub fn method(&self) -> &'static str {
        self.method
    }

    /// `HEAD target`.
    pub fn head(target: impl Into<String>) -> Request {
        Request { method: "HEAD", ..Request::get(target) }
    }

    /// `POST target` with an empty body.
    pub fn post(target: impl Into<String>) -> Request {
        Request { method: "POST", ..Request::get(target) }.header("Content-Length", "0")
    }

    /// `DELETE target`.
    pub fn delete(target: impl Into<String>) -> Request {
        Request { method: "DELETE", ..Request::get(target) }
    }

    /// `PUT target` with this body.
    pub fn put(target: impl Into<String>, body: Vec<u8>) -> Request {
        let length = body.len().to_string();
        Request { method: "PUT", body, ..Request::get(target) }.header("Content-Length", length)
    }

    /// With the fields of a form as its body, as clients ask for tokens.
    pub fn form(mut self, fields: &str) -> Request {
        self.headers.retain(|(name, _)| name != "Content-Length");
        self.body = fields.as_bytes().to_vec();
        self.header("Content-Length", fields.len().to_string())
            .header("Content-Type", "application/x-www-form-urlencoded")
    }

    /// With this value as its body.
    pub fn json(mut self, value: &serde_json::Value) -> Request {
        self.headers.retain(|(name, _)| name != "Content-Length");
        self.body = value.to_string().into_bytes();
        let length = self.body.len().to_string();
        self.header("Content-Length", length).header("Content-Type", "application/json")
    }

    /// With one more header.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Request {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Asks for these bytes only; the range is not empty.
    pub fn range(self, bytes: Range<u64>) -> Request {
        assert!(!bytes.is_empty(), "HTTP has no empty range");
        self.header("Range", format!("bytes={}-{}", bytes.start, bytes.end - 1))
    }

    fn write(&self, to: &mut impl Write, host: SocketAddr) -> io::Result<()> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        let named = |name: &str| self.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        if !named("Host") {
            text += &format!("Host: {host}\r\n");
        }
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        to.write_all(text.as_bytes())?;
        to.write_all(&self.body)
    }
}

/// Status and headers of an answer.
#[derive(Clone, Debug)]
pub struct AnswerHead {
    /// The status code.
    pub status: u16,
    headers: Vec<(String, String)>,
}

impl AnswerHead {
    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The announced length of the body, in bytes.
    pub fn content_length(&self) -> Option<u64> {
        self.header("Content-Length")?.parse().ok()
    }

    fn parse(text: &[u8]) -> io::Result<AnswerHead> {
        let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut answer = httparse::Response::new(&mut fields);
        answer.parse(text).map_err(invalid)?;
        let headers = answer.headers.iter().map(|field| {
            let value = String::from_utf8(field.value.to_vec()).map_err(invalid)?;
            Ok((field.name.to_owned(), value))
        });
        Ok(AnswerHead {
            status: answer.code.ok_or_else(|| invalid("a head without a status"))?,
            headers: headers.collect::<io::Result<_>>()?,
        })
    }

    fn says(&self, name: &str, token: &str) -> bool {
        self.header(name).is_some_and(|value| value.to_ascii_lowercase().contains(token))
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status and headers.
    pub head: AnswerHead,
    /// The body, as long as announced.
    pub body: Vec<u8>,
}

impl Answer {
    /// The status code.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }
}

/// An answer whose head has come and whose body is being read. Dropped before its end, it closes the
/// connection.
#[derive(Debug)]
pub struct Reading<'client> {
    head: AnswerHead,
    rest: Rest,
    connection: Option<BufReader<TcpStream>>,
    client: &'client mut Client,
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug)]
enum Rest {
    /// That many bytes are to come.
    Bytes(u64),
    /// That many bytes of this chunk are to come, then a line with the size of the next.
    Chunk(u64),
    /// The server closes at the end.
    UntilClosed,
}

impl<'client> Reading<'client> {
    /// Status and headers.
    pub fn head(&self) -> &AnswerHead {
        &self.head
    }

    /// Reads the body to its end.
    ///
    /// # Errors
    /// What the socket says, and `UnexpectedEof` for a body shorter than announced.
    pub fn finish(mut self) -> io::Result<Answer> {
        let mut body = Vec::new();
        self.read_to_end(&mut body)?;
        Ok(Answer { head: self.head.clone(), body })
    }

    fn new(
        client: &'client mut Client,
        mut connection: BufReader<TcpStream>,
        head: AnswerHead,
        request: &Request,
    ) -> io::Result<Reading<'client>> {
        let empty = request.method == "HEAD" || matches!(head.status, 204 | 304);
        let rest = if empty {
            Rest::Bytes(0)
        } else if head.says("Transfer-Encoding", "chunked") {
            Rest::Chunk(chunk_size(&mut connection)?)
        } else {
            head.content_length().map_or(Rest::UntilClosed, Rest::Bytes)
        };
        let mut reading = Reading { head, rest, connection: Some(connection), client };
        reading.keep_if_ended();
        Ok(reading)
    }

    /// Hands the connection back for the next request once the body is over.
    fn keep_if_ended(&mut self) {
        if matches!(self.rest, Rest::Bytes(0) | Rest::Chunk(0)) {
            let connection = self.connection.take();
            self.client.kept = connection.filter(|_| !self.head.says("Connection", "close"));
        }
    }
}

impl Read for Reading<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(connection) = &mut self.connection else { return Ok(0) };
        let most = match self.rest {
            Rest::Bytes(left) | Rest::Chunk(left) => {
                into.len().min(usize::try_from(left).unwrap_or(usize::MAX))
            }
            Rest::UntilClosed => into.len(),
        };
        let got = connection.read(&mut into[..most]).map_err(stalled)?;
        match &mut self.rest {
            Rest::Bytes(left) | Rest::Chunk(left) if got == 0 && most > 0 => {
                let missing = format!("the body ended {left} bytes early");
                return Err(io::Error::new(ErrorKind::UnexpectedEof, missing));
            }
            Rest::Bytes(left) => *left -= got as u64,
            Rest::Chunk(left) => {
                *left -= got as u64;
                if *left == 0 {
                    line(connection)?;
                    *left = chunk_size(connection)?;
                }
            }
            Rest::UntilClosed => {}
        }
        self.keep_if_ended();
        Ok(got)
    }
}

/// Writes the request and reads up to the end of the answer's head.
fn exchange(
    mut connection: BufReader<TcpStream>,
    request: &Request,
) -> io::Result<(BufReader<TcpStream>, AnswerHead)> {
    let server = connection.get_ref().peer_addr()?;
    request.write(connection.get_mut(), server)?;
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let mut rest = (&mut connection).take(HEAD_BYTES_MAX as u64);
        if rest.read_until(b'\n', &mut text).map_err(stalled)? == 0 {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed before the head was whole"));
        }
        if text.len() > HEAD_BYTES_MAX {
            return Err(invalid("a head without end"));
        }
    }
    Ok((connection, AnswerHead::parse(&text)?))
}

/// The size line of a chunk; after the last one, of size 0, the empty trailer is consumed too.
fn chunk_size(connection: &mut BufReader<TcpStream>) -> io::Result<u64> {
    let text = line(connection)?;
    let size = u64::from_str_radix(text.split(';').next().unwrap_or_default().trim(), 16).map_err(invalid)?;
    if size == 0 {
        while !line(connection)?.is_empty() {}
    }
    Ok(size)
}

fn line(connection: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut text = String::new();
    if connection.take(HEAD_BYTES_MAX as u64).read_line(&mut text)? == 0 {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed inside a chunked body"));
    }
    Ok(text.trim_end().to_owned())
}

/// A read that took too long is reported as one that would block.
fn stalled(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock => io::Error::new(ErrorKind::TimedOut, format!("silent for {STALLED:?}")),
        _ => error,
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Fetches once from a server that says exactly `answer` and closes.
    fn against(answer: &'static [u8], request: &Request) -> io::Result<Answer> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut client = Client::new(listener.local_addr()?);
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the client connects");
            let mut lines = BufReader::new(stream.try_clone().expect("a socket can be shared")).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            stream.write_all(answer).expect("the client reads");
        });
        let answer = client.fetch(request);
        server.join().expect("the server ends");
        answer
    }

    #[test]
    fn reads_each_framing() {
        let cases: [&[u8]; 3] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\nhello",
        ];
        for case in cases {
            let answer = against(case, &Request::get("/")).expect("a whole answer");
            assert_eq!((answer.status(), answer.body.as_slice()), (200, b"hello".as_slice()));
        }
    }

    #[test]
    fn a_head_answer_has_no_body() {
        let answer = against(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", &Request::head("/"));
        assert_eq!(answer.expect("a whole answer").head.content_length(), Some(5));
    }

    #[test]
    fn a_cut_body_is_an_error() {
        let cases: [&[u8]; 2] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhell",
        ];
        for case in cases {
            let error = against(case, &Request::get("/")).expect_err("the body is cut");
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        }
    }
}
