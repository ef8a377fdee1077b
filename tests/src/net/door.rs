//! A way from one namespace into another for TCP: a listener in the one, connections in the other, bytes carried
//! between them. So a client that knows nothing of namespaces reaches a front in one, and a front a registry outside.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use super::namespace::Namespace;
use crate::daemon::{free_port, own_loopback_address};

/// A door, open as long as the process lives.
#[derive(Clone, Copy, Debug)]
pub struct Door {
    address: SocketAddr,
}

impl Door {
    /// On loopback here; behind it is `to`, as `inside` sees it.
    ///
    /// # Panics
    /// When the port is taken.
    pub fn into(inside: &Namespace, to: SocketAddr) -> Door {
        let listener = TcpListener::bind((own_loopback_address(), free_port()));
        let inside = inside.clone();
        Door::open(listener.expect("the port is this process's own"), move || inside.connect(to))
    }

    /// At an address of the namespace; behind it is `to`, as it is seen here.
    ///
    /// # Panics
    /// When the address cannot be listened on.
    pub fn out_of(inside: &Namespace, listen: SocketAddr, to: SocketAddr) -> Door {
        let listener = inside.enter(|| TcpListener::bind(listen));
        Door::open(listener.expect("the address is the host's"), move || TcpStream::connect(to))
    }

    /// Where to knock.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn open(
        listener: TcpListener,
        connect: impl Fn() -> io::Result<TcpStream> + Clone + Send + 'static,
    ) -> Door {
        let address = listener.local_addr().expect("a listener has an address");
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let connect = connect.clone();
                thread::spawn(move || {
                    // A front that is down closes, which is what a client sees of a refusal behind a proxy.
                    connect().and_then(|server| carry_both_ways(client, server))
                });
            }
        });
        Door { address }
    }
}

fn carry_both_ways(client: TcpStream, server: TcpStream) -> io::Result<()> {
    let (client_too, server_too) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || carry(client_too, server_too));
    carry(server, client);
    Ok(())
}

/// Until one side ends; the other learns of it when all has been carried.
fn carry(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = (to.shutdown(Shutdown::Write), from.shutdown(Shutdown::Read));
}
