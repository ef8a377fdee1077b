//! A TCP relay between a client and the front, which can cut one connection in the middle of an answer.
//!
//! The cut is a clean end (FIN), as of a proxy that is restarted: containerd resumes after that, and not after a
//! reset.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A relay. Its threads end with their connections, and the one that listens with the test.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    cut_after: u64,
    has_cut: AtomicBool,
    requests: Mutex<Vec<u8>>,
}

impl Relay {
    /// A relay to that address, which ends the first connection that has carried more than `bytes` of answers.
    ///
    /// # Panics
    /// When no port is free.
    pub fn cutting_once_after(bytes: u64, to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let (has_cut, requests) = (AtomicBool::new(false), Mutex::default());
        let shared = Arc::new(Shared { to, cut_after: bytes, has_cut, requests });
        let relay = Self { address, shared: Arc::clone(&shared) };
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.carry(client));
            }
        });
        relay
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether a connection has been cut.
    pub fn has_cut(&self) -> bool {
        self.shared.has_cut.load(Ordering::Acquire)
    }

    /// Every byte that clients have sent, as text: the heads of their requests.
    pub fn requests(&self) -> String {
        let requests = self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&requests).into_owned()
    }
}

impl Shared {
    fn carry(&self, mut client: TcpStream) {
        let Ok(mut server) = TcpStream::connect(self.to) else { return };
        let (Ok(mut asking), Ok(mut to_server)) = (client.try_clone(), server.try_clone()) else { return };
        thread::scope(|threads| {
            threads.spawn(move || {
                let mut part = [0; 16 << 10];
                while let Ok(got @ 1..) = asking.read(&mut part) {
                    self.requests.lock().unwrap_or_else(PoisonError::into_inner).extend(&part[..got]);
                    if to_server.write_all(&part[..got]).is_err() {
                        break;
                    }
                }
                // The client has left. After a cut this also reads on until it has, so that nothing is reset.
                let _ = to_server.shutdown(Shutdown::Write);
            });
            let (mut part, mut carried) = ([0; 16 << 10], 0);
            while let Ok(got @ 1..) = server.read(&mut part) {
                if client.write_all(&part[..got]).is_err() {
                    break;
                }
                carried += got as u64;
                if carried > self.cut_after && !self.has_cut.swap(true, Ordering::AcqRel) {
                    break;
                }
            }
            let _ = client.shutdown(Shutdown::Write);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::{Client, Origin};

    #[test]
    fn cuts_once_and_cleanly() {
        let origin = Origin::start();
        let blob = origin.blob(1, 400_000);
        let relay = Relay::cutting_once_after(100_000, origin.address());
        let mut client = Client::new(relay.address());
        let cut = client.fetch(&blob.get()).map(|answer| answer.body.len());
        assert_eq!(cut.expect_err("the first is cut").kind(), ErrorKind::UnexpectedEof);
        assert!(relay.has_cut());
        let answer = client.fetch(&blob.get_range(100_000..400_000)).expect("the next is whole");
        assert_eq!(answer.body, blob.bytes(100_000..400_000));
        assert!(relay.requests().contains("Range: bytes=100000-399999"), "{}", relay.requests());
    }
}
