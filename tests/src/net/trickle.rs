//! A port before a server of TCP that lets pass what a greeting takes, and from then on one byte a second of what the
//! server sends: a parent whose bytes come, and no block ever does. What clients send passes at once.
//!
//! UDP does not pass, so who comes this way comes by TCP.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::host::Host;
use crate::pause;

/// Certificates, a greeting and what one is told of who has what are shorter; a block is longer.
const QUICK_BYTES: u64 = 48 << 10;
const REST: Duration = Duration::from_secs(1);

/// Such a port. It stays open for as long as the process lives.
#[derive(Debug)]
pub struct TricklingPort {
    address: SocketAddr,
    held_up: Arc<Mutex<BTreeSet<IpAddr>>>,
}

impl TricklingPort {
    /// Opens one at 10.77.1.`number` of `host`, with the port number of `to`.
    ///
    /// # Panics
    /// When it cannot be listened on.
    #[must_use]
    pub fn open(host: &Host, number: u8, to: SocketAddr) -> Self {
        let address = SocketAddr::new(host.add_address(number).into(), to.port());
        let held_up = Arc::default();
        let seen = Arc::clone(&held_up);
        host.namespace().enter(|| {
            let listener = TcpListener::bind(address).expect("the address is the host's");
            // Threads that are started inside stay inside.
            thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    let seen = Arc::clone(&seen);
                    thread::spawn(move || {
                        TcpStream::connect(to).and_then(|server| carry(client, server, &seen))
                    });
                }
            });
        });
        Self { address, held_up }
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Those who were sent more than passes at once, so far.
    ///
    /// # Panics
    /// When a thread of its connections has.
    #[must_use]
    pub fn held_up(&self) -> BTreeSet<IpAddr> {
        self.held_up.lock().expect("no holder panics").clone()
    }
}

fn carry(mut client: TcpStream, mut server: TcpStream, held_up: &Mutex<BTreeSet<IpAddr>>) -> io::Result<()> {
    let who = client.peer_addr()?.ip();
    let (mut asking, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut asking, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Both);
    });
    io::copy(&mut (&mut server).take(QUICK_BYTES), &mut client)?;
    let mut byte = [0];
    while server.read(&mut byte)? == 1 {
        held_up.lock().expect("no holder panics").insert(who);
        client.write_all(&byte)?;
        pause(REST);
    }
    client.shutdown(Shutdown::Write)
}
