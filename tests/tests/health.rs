//! A supervisor asks whether the node is to be restarted, and whether it is to be sent anybody.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use darter::demo::registry::RegistryOptions;
use darter_tests::need::need;
use darter_tests::{Daemon, HeldUp, Io, Origin, Request, Secrets, on_both_io, wait_until};
use rustix::net::sockopt;
use rustix::process::Signal;

on_both_io!(a_node_that_drains_is_healthy_and_not_ready);

fn ask(daemon: &Daemon, path: &str) -> (u16, String) {
    let answer = daemon.admin_client().fetch(&Request::get(path)).expect("the admin port answers");
    (answer.status(), String::from_utf8(answer.body).expect("text"))
}

fn a_node_that_drains_is_healthy_and_not_ready(io: Io) {
    // Four seconds for the whole blob: the stop comes in the middle.
    let bandwidth_bytes_per_s = Some(4 << 20);
    let origin = Origin::with(RegistryOptions { bandwidth_bytes_per_s, ..RegistryOptions::default() });
    let blob = origin.blob(1, 16 << 20);
    let mut daemon = Daemon::builder().over(io).registry(&origin.url()).start();
    assert_eq!(ask(&daemon, "/healthz"), (200, "healthy\n".into()));
    assert_eq!(ask(&daemon, "/readyz"), (200, "ready\n".into()));

    let mut client = daemon.client();
    let mut reading = client.send(&blob.get()).expect("the front answers");
    reading.read_exact(&mut [0; 1 << 10]).expect("the download begins");
    daemon.signal(Signal::TERM);
    let mut last = (0, String::new());
    let stops = || {
        last = ask(&daemon, "/readyz");
        last.0 == 503
    };
    wait_until(Duration::from_secs(10), stops, || "it is still ready".to_owned());
    assert!(last.1.starts_with("stopping: ") && last.1.lines().count() == 1, "{last:?}");
    assert_eq!(ask(&daemon, "/healthz"), (200, "healthy\n".into()), "whoever restarts it cuts an answer");
    let mut rest = Vec::new();
    reading.read_to_end(&mut rest).expect("the download goes on to its end");
    assert!(daemon.wait(Duration::from_secs(30)).success());
}

#[test]
fn a_node_without_seeds_is_ready_and_says_that_it_is_alone() {
    let (origin, secrets) = (Origin::start(), Secrets::init());
    let blob = origin.blob(1, 1 << 20);
    // Nobody listens there.
    let peer = secrets.peer("127.0.0.1:1").origin(&origin).start();
    let (status, body) = ask(&peer, "/readyz");
    assert_eq!((status, body.lines().next()), (200, Some("ready")), "{body}");
    assert!(body.contains("no seed of the cluster is reached yet"), "{body}");
    blob.read(&mut peer.client(), blob.whole()).expect("it serves");
}

/// More than the daemon has places for, each with more to take than the system holds for it.
const VIEWERS: usize = 80;

#[test]
fn viewers_that_take_nothing_keep_no_probe_waiting() {
    let daemon = Daemon::builder().registry("http://127.0.0.1:1").start();
    let asked = format!("GET /page/style.css HTTP/1.1\r\nHost: {}\r\n\r\n", daemon.admin()).repeat(500);
    let viewers: Vec<TcpStream> = (0..VIEWERS)
        .map(|_| {
            let mut viewer = TcpStream::connect(daemon.admin()).expect("the admin port listens");
            sockopt::set_socket_recv_buffer_size(&viewer, 4096).expect("a socket takes options");
            viewer.set_nonblocking(true).expect("a socket takes options");
            // One that had to leave is told so by a failure.
            let _ = viewer.write(asked.as_bytes());
            viewer
        })
        .collect();
    for path in ["/healthz", "/readyz", "/server/ping", "/metrics"] {
        assert_eq!(ask(&daemon, path).0, 200, "{path}");
    }
    drop(viewers);
}

#[test]
fn a_page_whose_name_was_made_to_mean_loopback_reads_nothing() {
    let daemon = Daemon::builder().registry("http://127.0.0.1:1").start();
    let as_named = |path: &str, host: &str| {
        let mut stream = TcpStream::connect(daemon.admin()).expect("the admin port listens");
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("it takes a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer.split(' ').nth(1).expect("a status").to_owned()
    };
    for path in ["/", "/page/page.js", "/api/v1/status", "/api/v1/contents", "/api/v1/requests"] {
        assert_eq!(as_named(path, "rebound.example:40901"), "403", "{path}");
        assert_eq!(as_named(path, &daemon.admin().to_string()), "200", "{path}");
        assert_eq!(as_named(path, "localhost:8000"), "200", "{path}: through a tunnel");
    }
    for path in ["/healthz", "/readyz", "/server/ping", "/metrics"] {
        assert_eq!(as_named(path, "node7.example"), "200", "{path}: a probe names the node as it likes");
    }
}

#[test]
fn a_stuck_shard_is_named_until_it_goes_on() {
    if !need("a_stuck_shard_is_named_until_it_goes_on", &[HeldUp::NEED]) {
        return;
    }
    let daemon = Daemon::builder().registry("http://127.0.0.1:1").shards(2).start();
    assert_eq!(ask(&daemon, "/healthz").0, 200);
    let held_up = HeldUp::thread(daemon.pid(), "darter-shard-1");
    let mut last = (0, String::new());
    let is_unhealthy = || {
        last = ask(&daemon, "/healthz");
        last.0 == 503
    };
    wait_until(Duration::from_secs(60), is_unhealthy, || "nobody sees that a shard hangs".to_owned());
    assert!(last.1.starts_with("shard 1 has not had a turn for "), "{last:?}");
    assert_eq!(last.1.lines().count(), 1, "the other one works: {last:?}");
    let (status, body) = ask(&daemon, "/readyz");
    assert!(status == 503 && body.starts_with("shard 1 "), "nobody is to be sent there: {body}");
    assert_eq!(ask(&daemon, "/server/ping"), (200, "pong\n".into()), "the process answers all the same");
    drop(held_up);
    let is_healthy = || ask(&daemon, "/healthz").0 == 200;
    wait_until(Duration::from_secs(60), is_healthy, || "it does not go on".to_owned());
}
