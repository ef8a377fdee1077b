//! A network between a node and its registry, as a relay in this process: a round trip and a rate.
//!
//! Each connection costs one round trip before its first byte arrives, each byte half a round trip in its direction,
//! and all bytes towards the node share one line of a given rate, whose queue holds [`QUEUE`]. What is not modelled:
//! TCP's slow start and losses. `tc netem` would do that, where the kernel has it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::server::pause;

const CHUNK_BYTES: usize = 16 << 10;
/// What may wait for the line, in its own time: more would be a buffer that no router should have.
const QUEUE: Duration = Duration::from_millis(20);
/// Chunks of one connection on their way: twice what the line holds in a round trip.
const CHUNKS_MAX: usize = 64;

/// How far away the other side is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Distance {
    pub(crate) round_trip: Duration,
    pub(crate) bytes_per_s: f64,
}

/// A relay that is known by its address and leads nowhere yet.
#[derive(Debug)]
pub(crate) struct LinkEnd(TcpListener);

/// A running relay; it takes no more connections once it is dropped, and those that are open end with their ends.
#[derive(Debug)]
pub(crate) struct Link {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

/// The line that all connections share: when it is free again.
#[derive(Debug)]
struct Line {
    bytes_per_s: f64,
    free_at: Mutex<Instant>,
}

impl LinkEnd {
    pub(crate) fn bind() -> io::Result<Self> {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map(Self)
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Relays to `upstream` from now on.
    pub(crate) fn lead_to(self, upstream: SocketAddr, distance: Distance) -> io::Result<Link> {
        let link = Link { address: self.address()?, stop: Arc::default() };
        let stop = link.stop.clone();
        let line = Line { bytes_per_s: distance.bytes_per_s, free_at: Mutex::new(Instant::now()) };
        let line = Arc::new(line);
        thread::Builder::new().name("link".into()).spawn(move || {
            for client in self.0.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                // What cannot be connected is closed, as by a host without a server.
                let _ = client.and_then(|client| relay(client, upstream, distance, &line));
            }
        })?;
        Ok(link)
    }
}

impl Link {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts; without it the thread ends with the process.
        let _ = TcpStream::connect(self.address);
    }
}

impl Line {
    /// When so many bytes have passed that come now.
    fn pass(&self, bytes: usize) -> Instant {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let start = (*free_at).max(Instant::now());
        *free_at = start + Duration::from_secs_f64(bytes as f64 / self.bytes_per_s);
        *free_at
    }

    fn wait_for_room(&self) {
        let free_at = *self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        pause_until(free_at - QUEUE);
    }
}

fn relay(client: TcpStream, upstream: SocketAddr, distance: Distance, line: &Arc<Line>) -> io::Result<()> {
    let connected_at = Instant::now() + distance.round_trip;
    let one_way = distance.round_trip / 2;
    let server = TcpStream::connect(upstream)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client_too, server_too, line) = (client.try_clone()?, server.try_clone()?, line.clone());
    carry(client, server, || {}, move |_| Instant::now().max(connected_at) + one_way)?;
    let passing = line.clone();
    carry(server_too, client_too, move || line.wait_for_room(), move |bytes| passing.pass(bytes) + one_way)
}

/// Two threads: one reads and says when each part arrives, one lets it arrive then.
fn carry(
    mut from: TcpStream,
    mut to: TcpStream,
    wait: impl Fn() + Send + 'static,
    arrives: impl Fn(usize) -> Instant + Send + 'static,
) -> io::Result<()> {
    let (on_its_way, arriving) = mpsc::sync_channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    thread::Builder::new().name("link-out".into()).spawn(move || {
        for (at, bytes) in arriving {
            pause_until(at);
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        // Fails where the other end has gone already.
        let _ = to.shutdown(Shutdown::Write);
    })?;
    thread::Builder::new().name("link-in".into()).spawn(move || {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            wait();
            match from.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(bytes) if on_its_way.send((arrives(bytes), buffer[..bytes].to_vec())).is_err() => break,
                Ok(_) => {}
            }
        }
    })?;
    Ok(())
}

fn pause_until(time: Instant) {
    pause(time.saturating_duration_since(Instant::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lower bounds only: a busy machine makes everything later.
    #[test]
    fn a_link_takes_its_time_and_changes_no_byte() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let distance = Distance { round_trip: Duration::from_millis(40), bytes_per_s: 1e6 };
        let link = LinkEnd::bind().unwrap().lead_to(server.local_addr().unwrap(), distance).unwrap();
        let sent: Vec<u8> = (0..100_000u32).map(|at| (at / 3) as u8).collect();
        let answer = sent.clone();
        let serving = thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut ask = [0; 3];
            stream.read_exact(&mut ask).unwrap();
            stream.write_all(&answer).unwrap();
            ask
        });
        let started = Instant::now();
        let mut client = TcpStream::connect(link.address()).unwrap();
        client.write_all(b"ask").unwrap();
        let mut came = Vec::new();
        client.read_to_end(&mut came).unwrap();
        assert_eq!((serving.join().unwrap(), came == sent), (*b"ask", true));
        // A round trip to connect, one for the answer, and 100 ms of the line.
        assert!(started.elapsed() >= Duration::from_millis(180), "{:?}", started.elapsed());
    }
}
