//! An origin that answers by a script, so that every byte of an answer is the test's own.
//!
//! The demo's registry misbehaves in the ways that registries are known for; this one in any way at all.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::pause;

/// How often a connection that hangs looks whether its test is over.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A request as it came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// Of all requests of this origin, from 0.
    pub number: usize,
    /// Method, target and version.
    pub line: String,
    headers: Vec<(String, String)>,
}

/// One step of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Lines of a head; the empty line is added.
    Head(String),
    /// Bytes of a body. They are counted.
    Body(Vec<u8>),
    /// Bytes that are neither.
    Raw(Vec<u8>),
    /// Nothing for a while.
    Pause(Duration),
    /// The end of the connection, in order.
    Close,
    /// Nothing more, until the other side closes or the test is over.
    Hang,
}

/// An origin on loopback. Stops when dropped.
#[derive(Debug)]
pub struct Scripted {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    asked: Mutex<Vec<Asked>>,
    body_bytes: AtomicU64,
    over: AtomicBool,
}

impl Scripted {
    /// Answers each request with the steps that the script gives for it. Without [`Step::Close`] or [`Step::Hang`]
    /// the connection is kept for the next one.
    ///
    /// # Panics
    /// When nothing can listen on loopback.
    pub fn start(script: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be listened on");
        let address = listener.local_addr().expect("a listener has an address");
        let (shared, script) = (Arc::new(Shared::default()), Arc::new(script));
        let serving = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if serving.over.load(Ordering::Relaxed) {
                    return;
                }
                let (shared, script) = (serving.clone(), script.clone());
                thread::spawn(move || serve(&stream, &shared, &*script));
            }
        });
        Scripted { address, shared }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked().clone()
    }

    /// Bytes of bodies that were sent so far.
    pub fn body_bytes(&self) -> u64 {
        self.shared.body_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    /// Only ever pushed to, so a panic elsewhere does not make it wrong.
    fn asked(&self) -> MutexGuard<'_, Vec<Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked {
    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let named = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str())
    }

    /// The path and the query.
    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    /// The bytes of a content of `len` bytes that are asked for; all of them without a range.
    pub fn range(&self, len: u64) -> Range<u64> {
        let Some(range) = self.header("Range").and_then(|range| range.strip_prefix("bytes=")) else {
            return 0..len;
        };
        let (first, last) = range.split_once('-').expect("a daemon's own range");
        let number = |text: &str| text.parse::<u64>().expect("a daemon's own range");
        match (first, last) {
            ("", suffix) => len.saturating_sub(number(suffix))..len,
            (first, "") => number(first)..len,
            (first, last) => number(first)..len.min(number(last) + 1),
        }
    }
}

fn serve(stream: &TcpStream, shared: &Shared, script: &dyn Fn(&Asked) -> Vec<Step>) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    while let Some((line, headers)) = read_head(&mut reader) {
        let asked = {
            let mut known = shared.asked();
            let asked = Asked { number: known.len(), line, headers };
            known.push(asked.clone());
            asked
        };
        for step in script(&asked) {
            if shared.over.load(Ordering::Relaxed) || !take(step, stream, shared) {
                return;
            }
        }
    }
}

/// False when the connection is over.
fn take(step: Step, mut stream: &TcpStream, shared: &Shared) -> bool {
    match step {
        Step::Head(head) => stream.write_all(format!("{head}\r\n\r\n").as_bytes()).is_ok(),
        Step::Raw(bytes) => stream.write_all(&bytes).is_ok(),
        Step::Body(bytes) => {
            let sent = stream.write_all(&bytes).is_ok();
            if sent {
                shared.body_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            sent
        }
        Step::Pause(time) => {
            pause(time);
            true
        }
        Step::Close => {
            let _ = stream.shutdown(Shutdown::Write);
            // Read to its end, so that the end of ours is no reset.
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            while stream.read(&mut [0; 4096]).is_ok_and(|got| got > 0) {}
            false
        }
        Step::Hang => {
            let _ = stream.set_read_timeout(Some(LOOK_EVERY));
            while !shared.over.load(Ordering::Relaxed) {
                match stream.read(&mut [0; 4096]) {
                    Ok(0) => return false,
                    Ok(_) => {}
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                    Err(_) => return false,
                }
            }
            false
        }
    }
}

/// The first line and the headers of the next request; `None` at the end.
fn read_head(reader: &mut BufReader<&TcpStream>) -> Option<(String, Vec<(String, String)>)> {
    let mut line = || {
        let mut text = String::new();
        let got = reader.read_line(&mut text).ok()?;
        (got > 0).then(|| text.trim_end().to_owned())
    };
    let first = line()?;
    let mut headers = Vec::new();
    loop {
        let header = line()?;
        let Some((name, value)) = header.split_once(':') else { return Some((first, headers)) };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Client, Request};

    #[test]
    fn says_what_the_script_says() {
        let origin = Scripted::start(|asked| match asked.number {
            0 => vec![Step::Head("HTTP/1.1 200 OK\r\nContent-Length: 2".into()), Step::Body(b"ab".into())],
            _ => vec![
                Step::Head("HTTP/1.1 206 X\r\nContent-Length: 9".into()),
                Step::Body(b"c".into()),
                Step::Close,
            ],
        });
        let mut client = Client::new(origin.host().parse().expect("an address"));
        let answer = client.fetch(&Request::get("/a?b")).expect("a whole answer");
        assert_eq!((answer.status(), answer.body), (200, b"ab".into()));
        let cut = client.fetch(&Request::get("/").range(5..8)).expect_err("the body is cut");
        assert_eq!(cut.kind(), ErrorKind::UnexpectedEof);
        let asked = origin.asked();
        assert_eq!((asked[0].target(), asked[0].range(10)), ("/a?b", 0..10));
        assert_eq!(asked[1].range(7), 5..7);
        assert_eq!(origin.body_bytes(), 3);
    }
}
