//! A proxy of somebody else's that opens tunnels: to one address, whatever name it is asked for. So a name needs no
//! name server, and what is asked for is seen.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A running proxy. Its threads end with their connections, and the one that listens with the test.
#[derive(Debug)]
pub struct ConnectProxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl ConnectProxy {
    /// All tunnels lead there.
    ///
    /// # Panics
    /// When no port is free.
    pub fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("a listener has an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noting = asked.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let noting = noting.clone();
                // A client that leaves is nothing to report.
                thread::spawn(move || _ = serve(client, to, &noting));
            }
        });
        Self { address, asked }
    }

    /// `http://HOST:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The heads of requests so far.
    ///
    /// # Panics
    /// When a thread of the proxy did.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

fn serve(client: TcpStream, to: SocketAddr, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while reader.read_line(&mut head)? > 2 {}
    let is_tunnel = head.starts_with("CONNECT ");
    asked.lock().expect("no panic").push(head);
    let mut writer = client.try_clone()?;
    if !is_tunnel {
        return writer.write_all(b"HTTP/1.1 501 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let server = TcpStream::connect(to)?;
    let server_writes = server.try_clone()?;
    writer.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let back = thread::spawn(move || carry(server, writer));
    let carried = carry(reader, server_writes);
    _ = back.join();
    carried
}

fn carry(mut from: impl Read, mut to: TcpStream) -> io::Result<()> {
    let carried = io::copy(&mut from, &mut to);
    // Fails where the other side has closed already.
    let _ = to.shutdown(Shutdown::Write);
    carried.map(drop)
}
