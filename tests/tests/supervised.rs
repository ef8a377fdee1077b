//! The daemon under a service manager: it says when it serves, reads its configuration and stops, it lives as long as it is
//! healthy, and takes over sockets that outlive it. The manager is a stand-in: systemd's protocols, without systemd.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use darter_tests::need::need;
use darter_tests::{Daemon, HeldUp, Request, Secrets, built, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Until a fault is taken for one.
const LONG: Duration = Duration::from_secs(30);

/// The socket of the manager.
struct Manager {
    socket: UnixDatagram,
    address: String,
    /// Where a socket with a path is.
    _home: TempDir,
}

impl Manager {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let path = home.path().join("notify");
        Self::at(SocketAddr::from_pathname(&path).expect("a short path"), path.display().to_string(), home)
    }

    /// Without a path, as systemd has it for its users' services. The sandbox keeps the daemon from reaching such a socket.
    fn without_path() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let name = home.path().display().to_string();
        Self::at(SocketAddr::from_abstract_name(&name).expect("a short name"), format!("@{name}"), home)
    }

    fn at(place: SocketAddr, address: String, home: TempDir) -> Self {
        let socket = UnixDatagram::bind_addr(&place).expect("a socket can be made");
        socket.set_read_timeout(Some(LONG)).expect("a socket has a timeout");
        Self { socket, address, _home: home }
    }

    fn address(&self) -> String {
        self.address.clone()
    }

    /// The next word that is none of the watchdog's.
    fn hear(&self) -> String {
        loop {
            let word = self.hear_any();
            if word != "WATCHDOG=1" {
                return word;
            }
        }
    }

    fn hear_any(&self) -> String {
        let mut word = [0; 256];
        let length = self.socket.recv(&mut word).expect("the daemon says something");
        String::from_utf8(word[..length].to_vec()).expect("text")
    }
}

#[test]
fn the_manager_is_told_of_each_change() {
    for manager in [Manager::new(), Manager::without_path()] {
        is_told_of_each_change(&manager);
    }
}

fn is_told_of_each_change(manager: &Manager) {
    let mut daemon =
        Daemon::builder().config("verbose: false\n").env("NOTIFY_SOCKET", &manager.address()).start();
    assert_eq!(manager.hear(), "READY=1");
    daemon.reconfigure("verbose: true\n");
    daemon.signal(Signal::HUP);
    let reloading = manager.hear();
    let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("systemd's form");
    assert!(since.parse::<u64>().is_ok_and(|since| since > 0), "{reloading:?}");
    assert_eq!(manager.hear(), "READY=1");
    // What is wrong is not taken up, and the daemon serves on.
    daemon.reconfigure("verbose: perhaps\n");
    daemon.signal(Signal::HUP);
    assert!(manager.hear().starts_with("RELOADING=1\n"));
    assert_eq!(manager.hear(), "READY=1");
    daemon.stop();
    assert_eq!(manager.hear(), "STOPPING=1");
}

#[test]
fn a_start_that_fails_is_never_ready() {
    let manager = Manager::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let secrets = Secrets::init();
    let builder = Daemon::builder().switch("--seed").env("NOTIFY_SOCKET", &manager.address());
    let builder = builder.flag("--cluster-secret", &secrets.of_seeds().display().to_string());
    let (status, log) = builder.flag("--peer-listen", &address).start_refused();
    assert!(!status.success() && log.contains(&address), "{log}");
    manager.socket.set_nonblocking(true).expect("a socket can be");
    let mut word = [0; 16];
    assert!(manager.socket.recv(&mut word).is_err(), "{:?}", String::from_utf8_lossy(&word));
}

/// The watchdog's words come while all shards have their turn, and stop when one has not: then a manager restarts the node.
#[test]
fn a_stuck_shard_silences_the_watchdog() {
    let test = "a_stuck_shard_silences_the_watchdog";
    if !need(test, &[HeldUp::NEED]) {
        return;
    }
    let manager = Manager::new();
    let builder = Daemon::builder().shards(2).env("NOTIFY_SOCKET", &manager.address());
    let daemon = builder.env("WATCHDOG_USEC", "500000").start();
    for _ in 0..3 {
        while manager.hear_any() != "WATCHDOG=1" {}
    }
    let stuck = HeldUp::thread(daemon.pid(), "darter-shard-1");
    let is_stuck = || {
        let health = daemon.admin_client().fetch(&Request::get("/healthz"));
        health.is_ok_and(|health| health.status() == 503)
    };
    wait_until(LONG * 2, is_stuck, || "nobody sees that a shard hangs".to_owned());
    // Those that were said before.
    manager.socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a socket has a timeout");
    let mut word = [0; 64];
    let mut late = 0;
    while manager.socket.recv(&mut word).is_ok() {
        late += 1;
        assert!(late < 200, "the watchdog hears of a node with a stuck shard");
    }
    drop(stuck);
    manager.socket.set_read_timeout(Some(LONG * 2)).expect("a socket has a timeout");
    assert_eq!(manager.hear_any(), "WATCHDOG=1", "the shard has its turn again");
}

/// Sockets that the manager holds.
struct Sockets {
    front: TcpListener,
    admin: TcpListener,
    data: TempDir,
}

impl Sockets {
    fn open() -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a free port");
        Self {
            front: listen(),
            admin: listen(),
            data: tempfile::tempdir().expect("a temporary directory can be made"),
        }
    }

    /// A daemon that is given them as systemd gives them: from 3 on, with their names.
    fn start(&self, names: &str, front: &str) -> Child {
        let give = |listener: &TcpListener| {
            Stdio::from(OwnedFd::from(listener.try_clone().expect("a socket can be shared")))
        };
        let admin = self.admin.local_addr().expect("an address").to_string();
        let mut shell = Command::new("/bin/sh");
        shell.env_clear();
        // `$$` is the daemon's own process id: `exec` keeps it.
        shell.args(["-c", "exec 3<&0 4<&1 0</dev/null 1>&2; export LISTEN_PID=$$; exec \"$@\"", "sh"]);
        shell.arg(built("darter")).args([
            "serve",
            "--front",
            front,
            "--admin",
            &admin,
            "--capacity",
            "64MiB",
        ]);
        shell.arg("--data-dir").arg(self.data.path().join("data"));
        shell.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", names);
        shell.stdin(give(&self.front)).stdout(give(&self.admin)).stderr(Stdio::piped());
        shell.spawn().expect("a shell")
    }

    fn front(&self) -> String {
        self.front.local_addr().expect("an address").to_string()
    }

    /// A connection that has asked.
    fn ask(&self) -> TcpStream {
        let mut connection =
            TcpStream::connect(self.admin.local_addr().expect("an address")).expect("it listens");
        connection.set_read_timeout(Some(LONG)).expect("a socket has a timeout");
        connection
            .write_all(b"GET /server/ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .expect("a request");
        connection
    }
}

fn answered(mut connection: TcpStream) -> bool {
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("an answer, and its end");
    answer.starts_with("HTTP/1.1 200 ")
}

fn stop(mut child: Child) -> String {
    kill_process(Pid::from_child(&child), Signal::TERM).expect("a child can be signalled by its parent");
    ended(&mut child)
}

fn ended(child: &mut Child) -> String {
    let mut said = String::new();
    let errors = child.stderr.as_mut().expect("its errors are here");
    errors.read_to_string(&mut said).expect("text");
    child.wait().expect("a child can be waited for");
    said
}

#[test]
fn who_connects_during_a_restart_is_answered() {
    let sockets = Sockets::open();
    let first = sockets.start("front:admin", &sockets.front());
    assert!(answered(sockets.ask()));
    stop(first);
    // Nobody runs: the connection waits in the socket, and is not refused.
    let waiting = sockets.ask();
    let mut at_front = TcpStream::connect(sockets.front()).expect("the front is not refused either");
    let second = sockets.start("front:admin", &sockets.front());
    assert!(answered(waiting));
    at_front.set_read_timeout(Some(LONG)).expect("a socket has a timeout");
    let head =
        "GET /v2/ HTTP/1.1\r\nHost: a\r\nX-Dragonfly-Registry: https://10.0.0.1\r\nConnection: close\r\n\r\n";
    at_front.write_all(head.as_bytes()).expect("a request");
    let mut answer = String::new();
    at_front.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    let said = stop(second);
    assert!(said.contains("darter is ready"), "{said}");
}

/// Whether the front is open to others is told by the configuration, so it has to be right.
#[test]
fn a_socket_that_listens_elsewhere_is_refused() {
    let sockets = Sockets::open();
    let mut child = sockets.start("front:admin", "127.0.0.1:1");
    let said = ended(&mut child);
    assert!(
        said.contains("the socket `front` of the service manager listens at ")
            && said.contains("127.0.0.1:1"),
        "{said}"
    );
    // One with a name that the daemon does not know is left alone.
    let other = sockets.start("other:admin", "127.0.0.1:0");
    assert!(answered(sockets.ask()));
    stop(other);
}
