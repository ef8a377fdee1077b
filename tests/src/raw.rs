//! A client that sends any bytes whatever, and says how the connection ended: in order, or by a reset.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Longer than the daemon lets any connection stand still that is not idle between requests.
const STALLED: Duration = Duration::from_secs(60);

/// One connection to the front.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
}

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The other side closed, and all that it sent has come.
    Closed,
    /// A reset, which may have cost bytes.
    Reset,
}

/// One answer out of all that came over a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawAnswer {
    /// The status code.
    pub status: u16,
    /// Names and values as they stood there, each line with its end.
    pub head: String,
    /// As long as was announced, or shorter when the connection ended before.
    pub body: Vec<u8>,
    /// Whether the body is as long as was announced.
    pub whole: bool,
}

impl Raw {
    /// Connects.
    ///
    /// # Panics
    /// When nobody listens there.
    pub fn connect(server: SocketAddr) -> Raw {
        let stream = TcpStream::connect(server).expect("the front listens");
        stream.set_nodelay(true).expect("a socket takes options");
        stream.set_read_timeout(Some(STALLED)).expect("a socket takes options");
        stream.set_write_timeout(Some(STALLED)).expect("a socket takes options");
        Raw { stream }
    }

    /// Sends bytes, or fails because the other side has closed.
    ///
    /// # Errors
    /// What the socket says.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends bytes.
    ///
    /// # Panics
    /// When the other side has closed.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the front takes what is sent");
    }

    /// Sends nothing more.
    pub fn end(&mut self) {
        // Fails when the other side has closed already.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The next byte that comes, so that an answer is known to have begun; `None` at the end.
    ///
    /// # Errors
    /// What the socket says.
    pub fn byte(&mut self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        let got = self.stream.read(&mut byte)?;
        Ok((got == 1).then_some(byte[0]))
    }

    /// Reads until the other side ends.
    ///
    /// # Panics
    /// When it does not end and sends nothing for a minute.
    pub fn read_to_end(&mut self) -> (Vec<u8>, End) {
        let (mut bytes, mut part) = (Vec::new(), vec![0; 64 << 10]);
        let started = Instant::now();
        loop {
            match self.stream.read(&mut part) {
                Ok(0) => return (bytes, End::Closed),
                Ok(got) => bytes.extend_from_slice(&part[..got]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return (bytes, End::Reset),
                Err(error) => panic!(
                    "{error} after {:?} and {} bytes: {:?}",
                    started.elapsed(),
                    bytes.len(),
                    String::from_utf8_lossy(&bytes[..bytes.len().min(300)]),
                ),
            }
        }
    }

    /// Sends bytes and the end, and reads all answers.
    ///
    /// # Panics
    /// As [`Raw::read_to_end`], and when what comes is not HTTP, or the connection is reset.
    pub fn ask(mut self, bytes: impl AsRef<[u8]>) -> Vec<RawAnswer> {
        // A server that has refused the beginning need not take the rest.
        let _ = self.try_send(bytes);
        self.answers()
    }

    /// Reads all answers to what was sent.
    ///
    /// # Panics
    /// As [`Raw::ask`].
    pub fn answers(mut self) -> Vec<RawAnswer> {
        let (bytes, end) = self.read_to_end();
        assert_eq!(end, End::Closed, "after {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(300)]));
        RawAnswer::all_of(&bytes)
    }
}

impl RawAnswer {
    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// The answers in what came, in order; of bodies that have a length.
    ///
    /// # Panics
    /// When that is not HTTP.
    pub fn all_of(bytes: &[u8]) -> Vec<RawAnswer> {
        let (mut answers, mut rest) = (Vec::new(), bytes);
        while !rest.is_empty() {
            let end = rest.windows(4).position(|window| window == b"\r\n\r\n");
            let end = end.unwrap_or_else(|| panic!("no head: {:?}", String::from_utf8_lossy(rest)));
            let head = std::str::from_utf8(&rest[..end]).expect("a head is text").to_owned();
            let status = head.strip_prefix("HTTP/1.").and_then(|line| line.get(2..5)?.parse().ok());
            let status = status.unwrap_or_else(|| panic!("no answer: {head:?}"));
            let mut answer = RawAnswer { status, head, body: Vec::new(), whole: true };
            rest = &rest[end + 4..];
            let announced =
                answer.header("Content-Length").map_or(0, |length| length.parse().expect("digits"));
            answer.whole = announced <= rest.len();
            answer.body = rest[..announced.min(rest.len())].to_vec();
            rest = &rest[answer.body.len()..];
            answers.push(answer);
        }
        answers
    }
}
