//! The daemon behind a proxy that the environment names: registries are asked through it, and what must not be reached
//! is not asked of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use darter_tests::{Answer, Daemon, Origin, Request};

#[test]
fn registries_are_asked_through_the_proxy_and_guarded_by_name() {
    let proxy = Proxy::start();
    let straight = Origin::start();
    let daemon = Daemon::builder()
        .origin(&straight)
        .env("HTTP_PROXY", &proxy.url())
        .env("HTTPS_PROXY", &proxy.url())
        .env("NO_PROXY", "127.0.0.1")
        .start();
    let log = daemon.log();
    assert!(
        log.contains(&format!("through the proxy {}", proxy.address)),
        "the start says nothing of it: {log}"
    );
    let ask = |registry: &str| -> Answer {
        let request = Request::get("/v2/a/manifests/latest").header("X-Dragonfly-Registry", registry);
        daemon.client().fetch(&request).expect("the front answers")
    };

    // In the clear by URL, over TLS by CONNECT; nobody but the proxy knows the names.
    assert_eq!(
        (ask("http://registry.invalid").status(), proxy.asked().last().cloned()),
        (200, Some("GET http://registry.invalid/v2/a/manifests/latest HTTP/1.1".to_owned()))
    );
    assert_eq!(ask("https://registry.invalid").status(), 502);
    assert_eq!(proxy.asked().last().map(String::as_str), Some("CONNECT registry.invalid:443 HTTP/1.1"));
    // What is configured and not for the proxy is asked straight.
    let before = proxy.asked().len();
    assert_eq!(ask(&straight.url()).status(), 404);
    assert!(straight.registry().counts().total().requests > 0);
    // What must not be reached is not reached through it either.
    for registry in
        ["http://169.254.169.254", "http://localhost:1", "http://0x0a000001", "https://[::ffff:10.0.0.1]"]
    {
        let answer = ask(registry);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(
            (answer.status(), answer.header("X-Dragonfly-Error-Type")),
            (502, Some("proxy")),
            "{registry}"
        );
        assert!(text.contains("--allow-registry"), "{registry}: {text}");
    }
    assert_eq!(proxy.asked().len(), before, "{:?}", proxy.asked());
}

/// Answers whatever it is asked for itself, and opens no tunnel.
struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("a listener has an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noting = asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let noting = noting.clone();
                thread::spawn(move || answer(stream, &noting));
            }
        });
        Self { address, asked }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The first lines of the requests so far.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(stream: TcpStream, asked: &Mutex<Vec<String>>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let head: Vec<_> = lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let first = head.first()?.clone();
    let status = if first.starts_with("CONNECT") { 503 } else { 200 };
    asked.lock().unwrap().push(first);
    let mut stream = stream;
    let body = "content-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    stream.write_all(format!("HTTP/1.1 {status} X\r\n{body}").as_bytes()).ok()?;
    stream.shutdown(std::net::Shutdown::Write).ok()?;
    stream.read_to_end(&mut Vec::new()).ok().map(drop)
}
