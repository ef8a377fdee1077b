//! Five hundred clients that take 1 KiB in a second, each of another large blob, and half of them end by a reset.
//!
//! What they hold of the daemon is bounded while they stay, whatever they have asked for, and comes back when they
//! leave, however they do. Those that hold what others wait for may be ended before; a byte that they get is right.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use darter::demo::registry;
use darter_tests::need::{Need, need};
use darter_tests::{Blob, Daemon, Io, Origin, SetAtEnd, on_both_io, p99, pause, wait_until};
use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};

on_both_io!(slow_readers_hold_little_and_leave_nothing);

const MIB: u64 = 1 << 20;
const READERS: u64 = 500;
const READER_BYTES_PER_S: usize = 1 << 10;
/// More than all buffers between the daemon and a client hold, and four times the store in all.
const BLOB_BYTES: u64 = 4 * MIB;
const CAPACITY: &str = "512MiB";
/// All block buffers, 128 MiB; the copies for slow clients, 32; what the HTTP client holds of bodies, 32, and as much in
/// the holes that its buffers leave in the heap; and 64 for the rest of a daemon that has a thousand connections.
const MEMORY_KIB_MAX: u64 = (128 + 32 + 2 * 32 + 64) << 10;

/// Made once for both.
static LARGE: LazyLock<Vec<registry::Blob>> = LazyLock::new(|| {
    (0..READERS).map(|reader| registry::Blob::synthetic(100 + reader, BLOB_BYTES + reader)).collect()
});

fn slow_readers_hold_little_and_leave_nothing(io: Io) {
    // A client, its connection at the registry, and as many again on the way.
    if !need("slow_readers_hold_little_and_leave_nothing", &[Need::OpenFiles(4000)]) {
        return;
    }
    let origin = Origin::start();
    let hot = origin.blob(1, 8 * MIB);
    let large: Vec<Blob> = LARGE.iter().map(|content| origin.add(content.clone())).collect();
    let builder = Daemon::builder().over(io).registry(&origin.url()).capacity(CAPACITY);
    let daemon = builder.prefetch(false).start();
    hot.read(&mut daemon.client(), hot.whole()).expect("a whole answer");
    let quiet = p99(&daemon, &hot);

    let over = AtomicBool::new(false);
    let (beside, most_kib, readers) = thread::scope(|scope| {
        let _over = SetAtEnd(&over);
        let reading = scope.spawn(|| read_slowly(&daemon, &large, &over));
        let most_kib = scope.spawn(|| most_memory_kib(&daemon, &over));
        let connected = || daemon.metrics().sum("darter_connections") > READERS as f64 / 2.0;
        wait_until(Duration::from_secs(60), connected, || "the readers do not come".to_owned());
        // Until they have taken what the sockets hold by themselves.
        pause(Duration::from_secs(5));
        let beside = p99(&daemon, &hot);
        over.store(true, Ordering::SeqCst);
        let most_kib = most_kib.join().expect("memory can be read");
        (beside, most_kib, reading.join().expect("slow readers are served right"))
    });
    let begun = readers.iter().filter(|reader| reader.taken_bytes > 0).count();
    let ended = readers.iter().filter(|reader| reader.ended).count();
    let (leases, buffers) =
        (|| daemon.metrics().sum("darter_cache_leases"), || daemon.metrics().sum("darter_buffers_bytes"));
    println!(
        "p99 of 128 KiB: quiet {quiet:?}, beside {READERS} slow readers {beside:?}, {:.2} times; {begun} of them have begun, {ended} were ended; {} leases, {} MiB of buffers; at most {} MiB of memory",
        beside.as_secs_f64() / quiet.as_secs_f64(),
        leases(),
        buffers() as u64 >> 20,
        most_kib >> 10,
    );
    // The store holds a quarter of what they ask for. Those for whom there is no room are told to come back.
    assert!(begun > readers.len() / 4, "{begun} readers have got anything");
    assert!(leases() + buffers() > 0.0, "nobody holds anything");
    assert!(most_kib < MEMORY_KIB_MAX, "{most_kib} KiB");

    for (number, reader) in readers.into_iter().enumerate() {
        reader.leave(number % 2 == 0);
    }
    let gone = || leases() == 0.0 && buffers() == 0.0;
    wait_until(Duration::from_secs(60), gone, || {
        format!("{} leases and {} bytes of buffers stay", leases(), buffers())
    });
    hot.read(&mut daemon.client(), hot.whole()).expect("a whole answer");
}

/// Reads of each blob what it is allowed, second by second, until it is over.
fn read_slowly<'a>(daemon: &Daemon, blobs: &'a [Blob], over: &AtomicBool) -> Vec<SlowReader<'a>> {
    let mut readers: Vec<_> = blobs.iter().map(|blob| SlowReader::begin(daemon.front(), blob)).collect();
    while !over.load(Ordering::SeqCst) {
        let second = Instant::now();
        readers.iter_mut().for_each(SlowReader::take_some);
        while second.elapsed() < Duration::from_secs(1) && !over.load(Ordering::SeqCst) {
            pause(Duration::from_millis(50));
        }
    }
    readers
}

/// What of the daemon's memory is no file's, at the most.
fn most_memory_kib(daemon: &Daemon, over: &AtomicBool) -> u64 {
    let mut most_kib = 0;
    while !over.load(Ordering::SeqCst) {
        most_kib = most_kib.max(daemon.memory_kib("RssAnon"));
        pause(Duration::from_millis(50));
    }
    most_kib
}

/// A client that has asked for all of a blob.
struct SlowReader<'a> {
    stream: TcpStream,
    blob: &'a Blob,
    head: Vec<u8>,
    /// Of the body; all of them were right.
    taken_bytes: u64,
    /// By the daemon: refused, or ended because others wait.
    ended: bool,
}

impl<'a> SlowReader<'a> {
    /// With the smallest buffer that the kernel gives, so that what it does not take stays with the daemon.
    fn begin(front: SocketAddr, blob: &'a Blob) -> SlowReader<'a> {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket can be made");
        sockopt::set_socket_recv_buffer_size(&socket, 4096).expect("a socket takes options");
        connect(&socket, &front).expect("the front listens");
        let mut stream = TcpStream::from(socket);
        let request = format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", blob.target());
        stream.write_all(request.as_bytes()).expect("the front takes what is sent");
        stream.set_nonblocking(true).expect("a socket takes options");
        SlowReader { stream, blob, head: Vec::new(), taken_bytes: 0, ended: false }
    }

    /// What has come, at most what it takes in a second.
    fn take_some(&mut self) {
        let mut part = [0; READER_BYTES_PER_S];
        match self.stream.read(&mut part) {
            Ok(0) => self.ended = true,
            Ok(got) => self.check(&part[..got]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => panic!("{}: {error}", self.blob.target()),
        }
    }

    fn check(&mut self, mut part: &[u8]) {
        while !part.is_empty() && !self.head.ends_with(b"\r\n\r\n") {
            self.head.push(part[0]);
            part = &part[1..];
        }
        if !self.head.starts_with(b"HTTP/1.1 200 ") {
            // Not 502: the registry is well.
            let refused = self.head.starts_with(b"HTTP/1.1 503 ");
            assert!(refused || self.head.len() < 13, "{}", String::from_utf8_lossy(&self.head));
            self.ended |= refused;
            return;
        }
        let end = self.taken_bytes + part.len() as u64;
        assert!(part == self.blob.bytes(self.taken_bytes..end), "wrong bytes behind {}", self.taken_bytes);
        self.taken_bytes = end;
    }

    fn leave(self, by_reset: bool) {
        if by_reset {
            sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).expect("a socket takes options");
        }
    }
}
