//! A port before a server of TCP that lets pass what a greeting takes, and from then on one byte a second of what the
//! server sends: a parent whose bytes come, and no block ever does. What clients send passes at once.
//!
//! UDP does not pass, so who comes this way comes by TCP.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use super::host::Host;
use crate::pause;

/// Certificates, a greeting and what one is told of who has what are shorter; a block is longer.
const QUICK_BYTES: u64 = 48 << 10;
const REST: Duration = Duration::from_secs(1);

/// Opens such a port at 10.77.1.`number` of `host`, with the port number of `to`, for as long as the process lives, and
/// says where it is.
///
/// # Panics
/// When it cannot be listened on.
pub fn trickling_port(host: &Host, number: u8, to: SocketAddr) -> SocketAddr {
    let own = SocketAddr::new(host.add_address(number).into(), to.port());
    host.namespace().enter(|| {
        let listener = TcpListener::bind(own).expect("the address is the host's");
        // Threads that are started inside stay inside.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                thread::spawn(move || TcpStream::connect(to).and_then(|server| carry(client, server)));
            }
        });
    });
    own
}

fn carry(mut client: TcpStream, mut server: TcpStream) -> io::Result<()> {
    let (mut asking, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut asking, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Both);
    });
    io::copy(&mut (&mut server).take(QUICK_BYTES), &mut client)?;
    let mut byte = [0];
    while server.read(&mut byte)? == 1 {
        client.write_all(&byte)?;
        pause(REST);
    }
    client.shutdown(Shutdown::Write)
}
