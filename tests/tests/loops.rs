//! A registry that leads back to the front: the request is refused when it comes by for the second time, and not when
//! all connections are taken.

use std::io::copy;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, OnceLock};
use std::thread;

use darter_tests::{Daemon, Request};

#[test]
fn a_request_that_comes_back_is_refused() {
    let relay = Relay::start();
    let daemon = Daemon::builder().registry(&format!("http://{}", relay.address)).start();
    relay.to.set(daemon.front()).expect("it leads nowhere yet");
    let found_out = || daemon.log().matches("has been through this front before").count();
    for target in ["/v2/a/manifests/latest", "/v2/"] {
        let before = found_out();
        let answer = daemon.client().fetch(&Request::get(target)).expect("the front answers");
        assert_eq!(answer.status(), 502, "{target}");
        // The front asks the registry, which is itself, and that one asks nobody. It asks again where it may hope.
        let times = found_out() - before;
        assert!((1..=4).contains(&times), "{target}: {times} times\n{}", daemon.log());
    }
    // What other proxies say is none of its business.
    let ping = Request::get("/server/ping").header("Via", "1.1 darter-0000000000000000, 1.0 other");
    assert_eq!(daemon.client().fetch(&ping).expect("the front answers").status(), 200);
}

/// Leads every connection to another address, which is told later.
struct Relay {
    address: SocketAddr,
    to: Arc<OnceLock<SocketAddr>>,
}

impl Relay {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("a listener has an address");
        let to = Arc::new(OnceLock::<SocketAddr>::new());
        let leads_to = to.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = leads_to.get().and_then(|to| TcpStream::connect(to).ok());
                let Some(server) = server else { continue };
                pipe(&client, &server);
                pipe(&server, &client);
            }
        });
        Self { address, to }
    }
}

fn pipe(from: &TcpStream, to: &TcpStream) {
    let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { return };
    thread::spawn(move || {
        let _ = copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
}
