//! The front as a proxy for https: `CONNECT`, against curl and clients that mean no good.
//!
//! A tunnel carries what two others say; where the configuration has an authority, TLS of some hosts ends at the front,
//! and then their blobs are cached.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use darter_tests::cli::darter;
use darter_tests::gate::{Gate, GateOptions, Kind};
use darter_tests::need::{Need, need};
use darter_tests::{Blob, ConnectProxy, Daemon, Io, Origin, Request, on_both_io, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

on_both_io!(
    a_tunnel_carries_what_curl_and_a_registry_say,
    each_side_ends_when_it_likes,
    blobs_of_curl_are_cached_where_its_tls_ends_here,
    a_slab_that_is_cut_short_ends_no_daemon,
);

const CURL: Need = Need::Program { name: "curl", package: "curl" };
const OPENSSL: Need = Need::Program { name: "openssl", package: "openssl" };
/// A few requests of the front: 4 MiB each.
const BLOB_BYTES: u64 = (9 << 20) + 77;
const PATIENCE: Duration = Duration::from_secs(60);

fn a_tunnel_carries_what_curl_and_a_registry_say(io: Io) {
    if !need("a_tunnel_carries_what_curl_and_a_registry_say", &[CURL]) {
        return;
    }
    let scene = Scene::start();
    let daemon = Daemon::builder().over(io).allow_registry(&scene.gate.host()).start();
    let blob = scene.origin.blob(1, BLOB_BYTES);
    for _ in 0..2 {
        let (status, body) = scene.curl(&daemon, scene.gate.certificate(), &blob, &[]);
        assert_eq!((status, body == blob.bytes(blob.whole())), (200, true));
    }
    // They have spoken to each other, and nobody else has heard it.
    let asked = scene.gate.seen_of(&http::Method::GET, Kind::Blob);
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|seen| seen.asked.header("via").is_none()), "{asked:?}");
    let metrics = daemon.metrics();
    assert!(
        metrics.sum_where("darter_tunnel_bytes_total", &["towards=\"client\""]) > 2.0 * BLOB_BYTES as f64
    );
    assert_eq!(metrics.sum_where("darter_connect_requests_total", &["fate=\"tunnel\""]), 2.0);
    assert_eq!(metrics.sum("darter_cache_contents"), 0.0);
    wait_until(PATIENCE, || daemon.metrics().sum("darter_tunnels") == 0.0, || "a tunnel stays open".into());
}

#[test]
fn who_may_not_be_reached_is_not() {
    let witness = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let port = witness.local_addr().expect("an address").port();
    witness.set_nonblocking(true).expect("a socket takes options");
    let closed = closed_address();
    let daemon = Daemon::builder().registry("http://127.0.0.1:1").allow_registry(&closed.to_string()).start();
    let check = |target: &str, status: u16, words: &str| {
        let (told, text) = told(daemon.front(), target);
        assert_eq!(told, status, "{target}: {text}");
        assert!(text.contains(words), "{target}: {text}");
    };
    for host in
        ["127.0.0.1", "0x7f000001", "127.1", "localhost", "LOCALHOST.", "[::1]", "[::ffff:127.0.0.1]", "0"]
    {
        check(&format!("{host}:{port}"), 403, "--allow-registry");
    }
    check("169.254.169.254:443", 403, "a cloud's metadata address");
    check("metadata.google.internal:443", 403, "a name for local use");
    check("10.0.0.5:443", 403, "a private address");
    // Public, and no port of https.
    check(
        "8.8.8.8:22",
        403,
        "only port 443 is open without that: start darter with --allow-registry 8.8.8.8:22",
    );
    check("registry.example:80", 403, "--allow-registry registry.example:80");
    check("registry.example", 400, "no valid port");
    check("user@registry.example:443", 400, "no valid host");
    check("registry.example:0", 400, "no valid port");
    check(&closed.to_string(), 502, "cannot be reached");
    let refused = witness.accept().map(drop).expect_err("nobody has come").kind();
    assert_eq!(refused, ErrorKind::WouldBlock);
    let metrics = daemon.metrics();
    assert_eq!(metrics.sum_where("darter_connect_requests_total", &["fate=\"refused\""]), 16.0);
    assert_eq!(metrics.sum_where("darter_connect_requests_total", &["fate=\"failed\""]), 1.0);
}

fn each_side_ends_when_it_likes(io: Io) {
    let server = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = server.local_addr().expect("an address");
    let daemon = Daemon::builder().over(io).allow_registry(&address.to_string()).start();
    let much: Vec<u8> = (0..3_000_000_u32).map(|number| (number / 7) as u8).collect();
    for client_ends_first in [true, false] {
        // What is sent behind the request, before its answer, is for the other end as well.
        let client = connect(daemon.front(), address, b"hello");
        let (mut other, _) = server.accept().expect("the front has connected");
        other.set_read_timeout(Some(PATIENCE)).expect("a socket takes options");
        let mut hello = [0; 5];
        other.read_exact(&mut hello).expect("it comes");
        assert_eq!(&hello, b"hello");
        let (first, second) = if client_ends_first { (&client, &other) } else { (&other, &client) };
        for (mut from, mut to) in [(first, second), (second, first)] {
            thread::scope(|threads| {
                threads.spawn(|| {
                    from.write_all(&much).expect("it is taken");
                    from.shutdown(Shutdown::Write).expect("it is open");
                });
                let mut got = Vec::new();
                to.read_to_end(&mut got).expect("an end, and no reset");
                assert!(got == much, "{} bytes of {}", got.len(), much.len());
            });
        }
    }
    wait_until(PATIENCE, || daemon.metrics().sum("darter_tunnels") == 0.0, || "a tunnel stays open".into());
}

#[test]
fn a_client_that_takes_nothing_holds_little_and_keeps_nobody() {
    let server = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = server.local_addr().expect("an address");
    let daemon = Daemon::builder().allow_registry(&address.to_string()).shards(1).start();
    let mut stuck = connect(daemon.front(), address, b"");
    let (mut other, _) = server.accept().expect("the front has connected");
    let sent = Arc::new(AtomicU64::new(0));
    let counting = sent.clone();
    let sending = thread::spawn(move || {
        for number in 0..400_u64 {
            other.write_all(&[number as u8; 1 << 18]).expect("the front takes it");
            counting.fetch_add(1 << 18, Ordering::Relaxed);
        }
    });
    // Until nothing goes on: what the system holds on both ways, and what the front does.
    let (mut last, mut since) = (0, Instant::now());
    let stands_still = || {
        let now = sent.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        now > 0 && since.elapsed() > Duration::from_secs(1)
    };
    wait_until(PATIENCE, stands_still, || "it goes on and on".into());
    assert!(sent.load(Ordering::Relaxed) < 64 << 20, "{sent:?} bytes went where nobody takes them");
    // Others on the same shard are served meanwhile.
    let mut client = connect(daemon.front(), address, b"ping");
    let (mut other, _) = server.accept().expect("the front has connected");
    let mut ping = [0; 4];
    other.read_exact(&mut ping).expect("it comes");
    other.write_all(b"pong").expect("it is taken");
    client.read_exact(&mut ping).expect("it comes");
    assert_eq!(&ping, b"pong");
    // And then it takes all of it.
    let mut got = Vec::new();
    stuck.read_to_end(&mut got).expect("an end, and no reset");
    sending.join().expect("no panic");
    let is_right = |(number, chunk): (usize, &[u8])| chunk.iter().all(|byte| *byte == number as u8);
    assert_eq!(got.len(), 400 << 18);
    assert!(got.chunks(1 << 18).enumerate().all(is_right), "other bytes than were sent");
}

/// With limits that are tight: 16 of 64 connections.
#[test]
fn tunnels_leave_room_for_others_and_make_room_when_they_end() {
    if !need(
        "tunnels_leave_room_for_others_and_make_room_when_they_end",
        &[Need::Program { name: "prlimit", package: "util-linux" }],
    ) {
        return;
    }
    let server = Echo::start();
    let daemon =
        Daemon::builder().allow_registry(&server.address.to_string()).open_files(640).shards(1).start();
    let mut tunnels: Vec<TcpStream> = (0..16).map(|_| connect(daemon.front(), server.address, b"")).collect();
    let (status, text) = told(daemon.front(), &server.address.to_string());
    assert!(status == 503 && text.contains("as many tunnels are open"), "{status} {text}");
    let ping = daemon.client().fetch(&Request::get("/server/ping")).expect("others are served");
    assert_eq!(ping.status(), 200);
    assert_eq!(daemon.metrics().sum("darter_tunnels"), 16.0);
    for tunnel in &mut tunnels {
        tunnel.write_all(b"!").expect("it is open");
        tunnel.read_exact(&mut [0]).expect("it is open");
    }
    drop(tunnels.pop());
    wait_until(PATIENCE, || daemon.metrics().sum("darter_tunnels") == 15.0, || "no place is free".into());
    let mut tunnel = connect(daemon.front(), server.address, b"!");
    tunnel.read_exact(&mut [0]).expect("it is open");
}

#[test]
fn a_daemon_that_stops_ends_tunnels_in_order() {
    let server = Echo::start();
    let mut daemon = Daemon::builder().allow_registry(&server.address.to_string()).start();
    let idle: Vec<TcpStream> = (0..5).map(|_| connect(daemon.front(), server.address, b"x")).collect();
    wait_until(PATIENCE, || daemon.metrics().sum("darter_tunnels") == 5.0, || "they are not open".into());
    daemon.stop();
    for mut tunnel in idle {
        let mut got = Vec::new();
        tunnel.read_to_end(&mut got).expect("an end, and no reset");
        assert_eq!(got, b"x", "what was said before comes");
    }
    assert!(!daemon.log().contains("cut because the daemon stops"), "they were waited for in vain");
}

/// Names are the proxy's to look up, which leads wherever it likes.
#[test]
fn a_proxy_of_the_environment_is_gone_through() {
    let server = Echo::start();
    let proxy = ConnectProxy::start(server.address);
    let daemon = Daemon::builder().env("HTTPS_PROXY", &proxy.url()).allow_registry("a.test:5000").start();
    let mut tunnel = TcpStream::connect(daemon.front()).expect("the front listens");
    tunnel
        .write_all(b"CONNECT a.test:5000 HTTP/1.1\r\nProxy-Authorization: Basic eA==\r\n\r\n")
        .expect("sent");
    assert_eq!(status_of(&mut tunnel), 200);
    tunnel.write_all(b"hello").expect("it is open");
    let mut hello = [0; 5];
    tunnel.read_exact(&mut hello).expect("it comes back");
    assert_eq!(&hello, b"hello");
    let asked = proxy.asked();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].starts_with("CONNECT a.test:5000 HTTP/1.1\r\n"), "{asked:?}");
    assert!(asked[0].to_ascii_lowercase().contains("\r\nvia: 1.1 darter-"), "{asked:?}");
    assert!(!asked[0].contains("eA=="), "what a client says to us goes on: {asked:?}");
}

#[test]
fn a_proxy_of_the_environment_that_leads_back_here_is_found_out() {
    // Its address is known before it starts.
    let address = darter_tests::free_address();
    let daemon =
        Daemon::builder().env("HTTPS_PROXY", &format!("http://{address}")).allow_registry("a.test").start();
    let relay = TcpListener::bind(address).expect("an address of this process");
    let front = daemon.front();
    thread::spawn(move || {
        for client in relay.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(front) else { return };
            let (Ok(mut from), Ok(mut to)) = (client.try_clone(), server.try_clone()) else { return };
            thread::spawn(move || std::io::copy(&mut from, &mut to));
            let (mut from, mut to) = (server, client);
            thread::spawn(move || std::io::copy(&mut from, &mut to));
        }
    });
    let (status, text) = told(front, "a.test:443");
    assert_eq!(status, 502, "{text}");
    assert!(text.contains("(HTTPS_PROXY), which refuses with 502"), "{text}");
    assert!(daemon.log().contains("has been through this front before"), "{}", daemon.log());
}

fn blobs_of_curl_are_cached_where_its_tls_ends_here(io: Io) {
    if !need("blobs_of_curl_are_cached_where_its_tls_ends_here", &[CURL]) {
        return;
    }
    let scene = Scene::start();
    let authority = Authority::of(&scene);
    let daemon = scene.terminating(&authority, &scene.gate.host()).over(io).prefetch(false).start();
    let blob = scene.origin.blob(1, BLOB_BYTES);
    let known = authority.certificate();
    // curl believes the authority, and would not believe the registry.
    let (status, body) = scene.curl(&daemon, &known, &blob, &[]);
    assert_eq!((status, body == blob.bytes(blob.whole())), (200, true));
    assert!(scene.gate.blob_bytes() >= BLOB_BYTES);
    let sent = scene.gate.blob_bytes();
    assert!(sent < BLOB_BYTES + (1 << 20), "{sent} bytes");
    for range in ["0-99999", "4000000-"] {
        let (status, body) = scene.curl(&daemon, &known, &blob, &["--range", range]);
        let (first, last) = range.split_once('-').expect("a range");
        let first: u64 = first.parse().expect("a number");
        let last = last.parse().map_or(BLOB_BYTES, |last: u64| last + 1);
        assert_eq!((status, body == blob.bytes(first..last)), (206, true));
    }
    let (status, body) = scene.curl(&daemon, &known, &blob, &[]);
    assert_eq!((status, body == blob.bytes(blob.whole())), (200, true));
    assert_eq!(scene.gate.blob_bytes(), sent, "the registry gave something twice: {}", scene.gate.lines());
    // The mirror has the same content, and needs no other.
    let mirrored = blob.get().header("X-Dragonfly-Registry", scene.gate.url());
    let answer = daemon.client().fetch(&mirrored).expect("the front answers");
    assert!(answer.status() == 200 && answer.body == blob.bytes(blob.whole()));
    assert_eq!(scene.gate.blob_bytes(), sent);
    let metrics = daemon.metrics();
    assert_eq!(metrics.sum_where("darter_connect_requests_total", &["fate=\"terminated\""]), 4.0);
    assert_eq!(metrics.sum("darter_tunnel_bytes_total"), 0.0);
    // What the registry refuses is refused, and 404 is its own word.
    let unknown = Blob::synthetic(2, 100);
    assert_eq!(scene.curl(&daemon, &known, &unknown, &[]).0, 404);
}

#[test]
fn who_asks_for_another_server_is_refused() {
    if !need("who_asks_for_another_server_is_refused", &[CURL, OPENSSL]) {
        return;
    }
    let scene = Scene::start();
    let authority = Authority::of(&scene);
    let daemon = scene.terminating(&authority, &scene.gate.host()).start();
    let handshake = |arguments: &[&str]| -> Output {
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-proxy", &daemon.front().to_string(), "-connect", &scene.gate.host()]);
        openssl.args(["-CAfile", &authority.file(), "-verify_return_error", "-brief"]).args(arguments);
        openssl.stdin(Stdio::null()).output().expect("openssl can be executed")
    };
    let right = handshake(&["-noservername"]);
    assert!(right.status.success(), "{right:?}");
    let other = handshake(&["-servername", "other.test"]);
    assert!(!other.status.success() && String::from_utf8_lossy(&other.stderr).contains("alert"), "{other:?}");
    let only_h2 = handshake(&["-noservername", "-alpn", "h2"]);
    assert!(!only_h2.status.success(), "{only_h2:?}");
    let old = handshake(&["-noservername", "-tls1_2"]);
    assert!(old.status.success(), "{old:?}");
    let failed = || daemon.metrics().sum("darter_client_handshakes_failed_total");
    wait_until(PATIENCE, || failed() == 2.0, || format!("{} handshakes failed", failed()));
    // Nor is what a request says another server's.
    let blob = scene.origin.blob(1, 1000);
    let (status, body) = scene.curl(&daemon, &authority.certificate(), &blob, &["-H", "Host: other.test"]);
    assert_eq!(status, 421, "{}", String::from_utf8_lossy(&body));
    // Who does not know the authority leaves.
    let gate = scene.gate.certificate();
    assert_eq!(scene.curl(&daemon, gate, &blob, &[]).0, 0);
    assert_eq!(scene.gate.seen().len(), 0, "{}", scene.gate.lines());
}

#[test]
fn handshakes_have_an_end() {
    let scene = Scene::start();
    let authority = Authority::of(&scene);
    let daemon = scene.terminating(&authority, &scene.gate.host()).start();
    let open = || connect(daemon.front(), scene.gate.address(), b"");
    // Not TLS at all; a first message as long as can be written; one that does not come to its end; nothing.
    let mut garbage = open();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    let mut long = open();
    let mut hello = vec![22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
    hello.resize(5 + 0x4000, 0);
    for _ in 0..64 {
        // It ends in the middle.
        let _ = long.write_all(&hello);
    }
    let mut slow = open();
    slow.write_all(&hello[..100]).expect("sent");
    let mut silent = open();
    for stream in [&mut garbage, &mut long, &mut slow, &mut silent] {
        let mut got = Vec::new();
        stream.read_to_end(&mut got).expect("an end, and no reset");
        assert!(got.len() < 100, "{got:?}");
        assert!(!got.starts_with(b"HTTP"), "words in the clear within TLS");
    }
    wait_until(PATIENCE, || daemon.metrics().sum("darter_tunnels") == 0.0, || "one stays open".into());
}

#[test]
fn another_authority_is_taken_up_while_the_daemon_runs() {
    if !need("another_authority_is_taken_up_while_the_daemon_runs", &[CURL]) {
        return;
    }
    let scene = Scene::start();
    let [old, new] = [Authority::of(&scene), Authority::of(&scene)];
    let mut daemon = scene.terminating(&old, &scene.gate.host()).start();
    let blob = scene.origin.blob(1, 100_000);
    let status =
        |daemon: &Daemon, authority: &Authority| scene.curl(daemon, &authority.certificate(), &blob, &[]).0;
    assert_eq!((status(&daemon, &old), status(&daemon, &new)), (200, 0));
    for name in ["ca.pem", "ca-key.pem"] {
        fs::copy(new.home.path().join(name), old.home.path().join(name)).expect("a file can be replaced");
    }
    let ran = darter(&["reload", "--admin", &daemon.admin().to_string()]);
    assert!(ran.status == 0 && ran.out.contains("proxy.hijackHTTPS.key"), "{ran:?}");
    assert_eq!(status(&daemon, &new), 200);
    // And none at all: then it is a tunnel.
    daemon.reconfigure(&scene.registry());
    assert_eq!(darter(&["reload", "--admin", &daemon.admin().to_string()]).status, 0);
    assert_eq!(status(&daemon, &new), 0);
    assert_eq!(scene.curl(&daemon, scene.gate.certificate(), &blob, &[]).0, 200);
}

/// Bytes that are lent to a socket are read by the kernel, those that go into TLS by the daemon.
fn a_slab_that_is_cut_short_ends_no_daemon(io: Io) {
    if !need("a_slab_that_is_cut_short_ends_no_daemon", &[CURL]) {
        return;
    }
    let scene = Scene::start();
    let authority = Authority::of(&scene);
    let mut daemon = scene.terminating(&authority, &scene.gate.host()).over(io).start();
    let blob = scene.origin.blob(1, 64 << 20);
    let (status, body) = scene.curl(&daemon, &authority.certificate(), &blob, &[]);
    assert_eq!((status, body == blob.bytes(blob.whole())), (200, true));
    // A client that stands still in the middle: the front has more in hand than the system takes.
    let mut slow = Command::new("curl")
        .args(["--silent", "--proxy", &format!("http://{}", daemon.front()), "--cacert", &authority.file()])
        .args(["--limit-rate", "1M", &format!("{}{}", scene.gate.url(), blob.target())])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("curl can be executed");
    let curl = Pid::from_child(&slow);
    // By the store, and, when it has lost them, by the registry once more.
    let sent = || daemon.metrics().sum("darter_body_bytes_total");
    let brought = f64::from(64 << 20);
    wait_until(PATIENCE, || sent() > brought, || "nothing is sent".into());
    kill_process(curl, Signal::STOP).expect("a child can be signalled");
    let (mut last, mut same) = (0.0, 0);
    let stands_still = || {
        let now = sent();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        same > 20
    };
    wait_until(PATIENCE, stands_still, || "it goes on and on".into());
    let before = sent();
    assert!(before < (128 << 20) as f64, "all of it has been sent");
    let store = fs::read_dir(daemon.data_dir().join("store")).expect("a store").flatten();
    let slabs: Vec<_> = store.filter(|file| file.file_name().to_string_lossy().contains("slab")).collect();
    assert!(!slabs.is_empty(), "no slab is found");
    for slab in slabs {
        fs::OpenOptions::new().write(true).open(slab.path()).and_then(|file| file.set_len(0)).expect("cut");
    }
    kill_process(curl, Signal::CONT).expect("a child can be signalled");
    // It goes on with what was in hand.
    let has_gone_on = || slow.try_wait().expect("a child").is_some() || sent() > before;
    wait_until(PATIENCE, has_gone_on, || "the client does not go on".into());
    let _ = slow.kill();
    slow.wait().expect("a child");
    let is_right = || {
        let (status, body) = scene.curl(&daemon, &authority.certificate(), &blob, &[]);
        status == 200 && body == blob.bytes(blob.whole())
    };
    wait_until(PATIENCE, is_right, || "it is not to be had any more".into());
    assert!(daemon.running(), "{}", daemon.log());
}

#[test]
fn an_authority_is_made_once_and_its_key_is_its_owners() {
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let out = home.path().join("new");
    let out = out.to_str().expect("a plain path");
    let ran = darter(&["proxy", "init", "--out", out, "--host", "ghcr.io"]);
    assert!(ran.status == 0 && ran.out.contains("proxy.hijackHTTPS.cert"), "{ran:?}");
    let mode = |name: &str| {
        let file = fs::metadata(home.path().join("new").join(name)).expect("it is there");
        file.permissions().mode() & 0o777
    };
    assert_eq!(mode("ca-key.pem"), 0o600);
    assert_eq!(mode("ca.pem") & 0o400, 0o400);
    darter(&["proxy", "init", "--out", out]).failed(1, &["ca-key.pem is there already", "remove it"]);
    fs::remove_file(home.path().join("new/ca-key.pem")).expect("it is there");
    darter(&["proxy", "init", "--out", out]).failed(1, &["ca.pem is there already"]);
    assert!(!home.path().join("new/ca-key.pem").exists(), "half of a pair stays");
    darter(&["proxy", "init", "--out", out, "--host", "a/b"]).failed(2, &["--host"]);
}

/// An authority of a directory's own.
struct Authority {
    home: TempDir,
}

impl Authority {
    /// For the host of that scene.
    fn of(scene: &Scene) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let (out, host) =
            (home.path().to_str().expect("a plain path"), scene.gate.address().ip().to_string());
        let ran = darter(&["proxy", "init", "--out", out, "--host", &host]);
        assert_eq!(ran.status, 0, "{ran:?}");
        Self { home }
    }

    fn file(&self) -> String {
        self.home.path().join("ca.pem").display().to_string()
    }

    fn certificate(&self) -> String {
        fs::read_to_string(self.file()).expect("it is there")
    }
}

/// A registry that speaks TLS, and counts.
struct Scene {
    origin: Origin,
    gate: Gate,
    home: TempDir,
}

impl Scene {
    fn start() -> Self {
        let origin = Origin::start();
        let upstream = Some(origin.address());
        let gate = Gate::with(GateOptions { upstream, tls: true, ..GateOptions::default() });
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        fs::write(home.path().join("gate.pem"), gate.certificate()).expect("a file can be written");
        Self { origin, gate, home }
    }

    /// The registry, by its own certificate.
    fn registry(&self) -> String {
        let (host, ca) = (self.gate.host(), self.home.path().join("gate.pem"));
        format!("proxy:\n  registries: [{{host: '{host}', ca: {}}}]\n", ca.display())
    }

    /// A daemon to be that ends the TLS of that place.
    fn terminating(&self, authority: &Authority, place: &str) -> darter_tests::Builder {
        let home = authority.home.path().display();
        Daemon::builder().config(&format!(
            "{}  hijackHTTPS:\n    cert: {home}/ca.pem\n    key: {home}/ca-key.pem\n    hosts: [{{regx: '^{}$'}}]\n",
            self.registry(),
            place.replace('.', "\\."),
        ))
    }

    /// What curl gets that believes these certificates and no others; 0 where it gets no answer.
    fn curl(&self, daemon: &Daemon, believed: &str, blob: &Blob, arguments: &[&str]) -> (u16, Vec<u8>) {
        let home = tempfile::tempdir_in(self.home.path()).expect("a directory can be made");
        let (pem, body) = (home.path().join("believed.pem"), home.path().join("body"));
        fs::write(&pem, believed).expect("a file can be written");
        let mut curl = Command::new("curl");
        for (name, _) in std::env::vars().filter(|(name, _)| name.to_ascii_lowercase().ends_with("_proxy")) {
            curl.env_remove(name);
        }
        curl.args(["--silent", "--proxy", &format!("http://{}", daemon.front())]).arg("--cacert").arg(&pem);
        curl.arg("--output").arg(&body).args(["--write-out", "%{http_code}"]).args(arguments);
        curl.arg(format!("{}{}", self.gate.url(), blob.target()));
        let ran = curl.stdin(Stdio::null()).output().expect("curl can be executed");
        let status = String::from_utf8_lossy(&ran.stdout).parse().unwrap_or(0);
        (status, fs::read(&body).unwrap_or_default())
    }
}

/// A tunnel, behind whose request these bytes were sent.
fn connect(front: SocketAddr, to: SocketAddr, behind: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(front).expect("the front listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes options");
    let head = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
    stream.write_all(&[head.as_bytes(), behind].concat()).expect("sent");
    assert_eq!(status_of(&mut stream), 200);
    stream
}

/// The status and the text of an answer to a CONNECT that opens nothing.
fn told(front: SocketAddr, target: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(front).expect("the front listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes options");
    let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an end, and no reset");
    (answer[9..12].parse().expect("a status"), answer)
}

/// Of an answer that has no body: nothing behind its head is read.
fn status_of(stream: &mut TcpStream) -> u16 {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a whole head");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text");
    assert!(!head.to_ascii_lowercase().contains("content-length"), "a tunnel has no length: {head}");
    head[9..12].parse().expect("a status")
}

/// An address where nobody listens.
fn closed_address() -> SocketAddr {
    darter_tests::free_address()
}

/// Says again what it is told.
struct Echo {
    address: SocketAddr,
}

impl Echo {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || {
                    let mut from = stream.try_clone().expect("a socket can be shared");
                    let mut to = stream;
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        });
        Self { address }
    }
}
