//! A server of one answer per connection, as simple as a scenario of cut and lying answers can have it.
//!
//! [`crate::Scripted`] answers step by step and keeps connections; this one is for clients that ask once.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A server of one answer per connection, which notes what it was asked.
#[derive(Debug)]
pub struct OneAnswer {
    /// Where it listens.
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl OneAnswer {
    /// Answers each head so.
    ///
    /// # Panics
    /// When nothing can listen on loopback.
    pub fn start(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> OneAnswer {
        OneAnswer::serving(move |head, client| {
            // A client that has seen enough leaves.
            let _ = client.write_all(&answer(head));
        })
    }

    /// Does more with a connection than answer it.
    ///
    /// # Panics
    /// When nothing can listen on loopback.
    pub fn serving(serve: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> OneAnswer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = listener.local_addr().expect("a bound socket has an address");
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (noted, serve) = (heads.clone(), Arc::new(serve));
        // It ends with the process.
        thread::spawn(move || {
            for client in listener.incoming() {
                let (mut client, noted, serve) =
                    (client.expect("a connection"), noted.clone(), serve.clone());
                thread::spawn(move || {
                    let head = read_head(&client);
                    if !head.is_empty() {
                        noted.lock().expect("no holder panics").push(head.clone());
                        serve(&head, &mut client);
                        let _ = client.shutdown(Shutdown::Write);
                        // Read to the end, so that closing sends no reset ahead of the answer.
                        let _ = client.read_to_end(&mut Vec::new());
                    }
                });
            }
        });
        OneAnswer { address, heads }
    }

    /// The heads of all requests so far.
    ///
    /// # Panics
    /// When an answer has panicked.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no holder panics").clone()
    }

    /// In front of a front, through which one sees: what goes to it is noted.
    ///
    /// # Panics
    /// When nothing can listen on loopback.
    pub fn tap(front: SocketAddr) -> OneAnswer {
        OneAnswer::serving(move |head, client| {
            let mut server = TcpStream::connect(front).expect("the front listens");
            server.write_all(head.as_bytes()).expect("the front reads");
            let _ = std::io::copy(&mut server, client);
        })
    }
}

fn read_head(client: &TcpStream) -> String {
    let mut reader = BufReader::new(client);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return String::new();
        }
    }
    head
}

/// A header's value.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    fields.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// The first byte that a head asks for.
pub fn range(head: &str) -> Option<usize> {
    header(head, "range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

/// The line that says which bytes of how many follow.
pub fn content_range(first: usize, length: usize) -> String {
    format!("Content-Range: bytes {first}-{}/{length}\r\n", length - 1)
}

/// A whole answer.
pub fn answer(status: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    partly(status, fields, body.len(), body)
}

/// An answer that announces `length` bytes, and as many of them as there are.
pub fn partly(status: &str, fields: &str, length: usize, bytes: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), bytes].concat()
}
