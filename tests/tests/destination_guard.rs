//! What the daemon is not made to reach: addresses that only this machine or its network knows, which no operator has
//! configured, however they are named.
//!
//! The large scenario runs in a network namespace of its own, where addresses of all kinds are on the loopback
//! interface, public ones too, and where names are what its own name server says. So whoever the daemon connects to
//! is there to count it.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use darter_tests::need::{Need, need};
use darter_tests::{Answer, Daemon, Request};

/// The port of every listener in the namespace: an answer that changes keeps it.
const PORT: u16 = 5000;
const PUBLIC: &str = "93.184.216.34";
const PUBLIC_V6: &str = "2606:2800:220:1::1";
/// Where nobody may be asked, by kind.
const HELD_BACK: [&str; 8] =
    ["127.0.0.1", "127.8.8.8", "10.1.2.3", "192.168.7.7", "100.64.0.1", "169.254.169.254", "fd00::5", "::1"];
/// Set where the scenario runs inside of its namespace.
const INSIDE: &str = "DARTER_TEST_INSIDE";
const BLOB: &str = "/v2/a/blobs/sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
/// Of which nothing is cached.
const UNKNOWN_BLOB: &str =
    "/v2/a/blobs/sha256:e85afb9ae5eecd08f395b9777442e2642fb94dc49bd2d92f7c0a2763cb419f40";
const MANIFEST: &str = "/v2/a/manifests/latest";

#[test]
fn loopback_is_not_asked_in_any_form() {
    let witness = Witness::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let daemon = Daemon::builder().registry("http://127.0.0.1:1").start();
    let port = witness.address.port();
    for host in
        ["127.0.0.1", "2130706433", "0x7f000001", "017700000001", "127.1", "0x7f.0.0.01", "127.0.0.1."]
    {
        check_refused(&ask(&daemon, &format!("http://{host}:{port}")), &format!("127.0.0.1:{port}"));
    }
    for (host, shown) in [
        ("localhost", "localhost"),
        ("LOCALHOST.", "localhost"),
        ("[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
        ("[::ffff:7f00:1]", "[::ffff:7f00:1]"),
        ("[0:0::1]", "[::1]"),
        ("0", "0.0.0.0"),
        ("[::]", "[::]"),
    ] {
        check_refused(&ask(&daemon, &format!("http://{host}:{port}")), &format!("{shown}:{port}"));
    }
    // A name and a password are refused already where the registry is read.
    for answer in ask(&daemon, &format!("http://ghcr.io@127.0.0.1:{port}")) {
        assert_eq!((answer.status(), answer.header("X-Dragonfly-Error-Type")), (502, Some("proxy")));
    }
    assert_eq!(witness.connections(), 0);
    // What is configured is asked, at that port and at no other.
    let allowing =
        Daemon::builder().registry("http://127.0.0.1:1").allow_registry(&format!("127.0.0.1:{port}")).start();
    for answer in ask(&allowing, &format!("http://0x7f.1:{port}")) {
        assert!(answer.status() < 300, "{:?}", answer.head);
    }
    assert!(witness.connections() > 0);
}

#[test]
fn in_a_network_of_its_own() {
    let test = "in_a_network_of_its_own";
    let program = |name, package| Need::Program { name, package };
    if env::var_os(INSIDE).is_some() {
        return inside();
    }
    if !need(test, &[Need::Root, program("unshare", "util-linux"), program("ip", "iproute2")]) {
        return;
    }
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    fs::write(home.path().join("resolv.conf"), "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        .unwrap();
    fs::write(home.path().join("nsswitch.conf"), "hosts: files dns\n").unwrap();
    let addresses = HELD_BACK.iter().chain([&PUBLIC, &PUBLIC_V6]).copied();
    let addresses: Vec<_> =
        addresses.filter(|address| !["127.0.0.1", "127.8.8.8", "::1"].contains(address)).collect();
    let script = "set -e; home=$1; addresses=$2; shift 2; ip link set lo up
        for address in $addresses; do ip address add \"$address\" dev lo nodad; done
        for file in resolv.conf nsswitch.conf; do mount --bind \"$home/$file\" \"/etc/$file\"; done
        exec \"$@\"";
    let status = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", script, "sh"])
        .arg(home.path())
        .arg(addresses.join(" "))
        .arg(env::current_exe().expect("a test knows its own path"))
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status();
    assert!(status.expect("unshare can be executed").success(), "the scenario failed in its namespace");
}

fn inside() {
    let at = |address: &str| SocketAddr::new(address.parse().expect("an address"), PORT);
    let held_back: Vec<_> = HELD_BACK.iter().map(|address| Witness::start(at(address))).collect();
    let public = Witness::start(at(PUBLIC));
    let public_v6 = Witness::start(at(PUBLIC_V6));
    let names = Names::start();
    let daemon = Daemon::builder().registry("http://127.0.0.1:1").start();
    let asked = || held_back.iter().map(Witness::connections).sum::<usize>();

    // Public addresses need no configuration: what is counted below could be asked.
    for (host, witness) in [
        (PUBLIC.to_owned(), &public),
        (format!("[{PUBLIC_V6}]"), &public_v6),
        ("public.example".into(), &public),
    ] {
        let before = witness.connections();
        for answer in ask(&daemon, &format!("http://{host}:{PORT}")) {
            assert!(answer.status() < 300, "{host}: {:?} {}", answer.head, text(&answer));
        }
        assert!(witness.connections() > before, "{host}");
    }

    // Named by the client.
    for address in HELD_BACK {
        let host = match address.contains(':') {
            true => format!("[{address}]:{PORT}"),
            false => format!("{address}:{PORT}"),
        };
        check_refused(&ask(&daemon, &format!("http://{host}")), &host);
    }
    // By names that lead there.
    for name in ["loopback.example", "private.example", "metadata.example", "six.example"] {
        check_refused(&ask(&daemon, &format!("http://{name}:{PORT}")), &format!("{name}:{PORT}"));
    }
    // Of a mix, only the public addresses.
    for answer in ask(&daemon, &format!("http://mixed.example:{PORT}")) {
        assert!(answer.status() < 300, "{}", text(&answer));
    }
    // By a redirect of a registry that may be asked, with a name and a password too.
    for (location, shown) in [
        ("169.254.169.254:5000/latest/meta-data", "169.254.169.254:5000"),
        ("2852039166:5000/", "169.254.169.254:5000"),
        ("0xa9fea9fe:5000/", "169.254.169.254:5000"),
        ("0251.0376.0251.0376:5000/", "169.254.169.254:5000"),
        ("[::ffff:169.254.169.254]:5000/", "[::ffff:a9fe:a9fe]:5000"),
        ("public.example@10.1.2.3:5000/", "10.1.2.3:5000"),
        ("user:pass@127.8.8.8:5000/", "127.8.8.8:5000"),
        ("metadata.example:5000/", "metadata.example:5000"),
        ("localhost:5000/", "localhost:5000"),
        ("[fd00::5]:5000/", "[fd00::5]:5000"),
    ] {
        public.says(Some(format!("307 X\r\nlocation: http://{location}")));
        let blob = || Request::get(UNKNOWN_BLOB);
        for request in [blob(), blob().range(0..2), Request::get(MANIFEST)] {
            let request = request.header("X-Dragonfly-Registry", format!("http://{PUBLIC}:{PORT}"));
            check_refused(&[daemon.client().fetch(&request).expect("the front answers")], shown);
        }
    }
    // By a realm: for a client that sends its token request to the mirror, and for the daemon itself, which tries the
    // repository as anybody would.
    for host in ["169.254.169.254", "metadata.example", "user:pass@10.1.2.3", "0xa9fea9fe"] {
        let challenge = format!("Bearer realm=\"http://{host}:{PORT}/token\",service=\"x\"");
        public.says(Some(format!("401 X\r\nwww-authenticate: {challenge}")));
        let ask = |request: Request| {
            let request = request.header("X-Dragonfly-Registry", format!("http://{PUBLIC}:{PORT}"));
            daemon.client().fetch(&request.header("Authorization", host)).expect("the front answers")
        };
        // Cached, and not known to be in that repository.
        let elsewhere = BLOB.replace("/a/", "/private/");
        assert_eq!(ask(Request::get(elsewhere)).status(), 401, "the registry's verdict");
        assert_eq!(ask(Request::get("/v2/")).status(), 401);
        let shown = match host.rsplit('@').next() {
            Some("0xa9fea9fe") => "169.254.169.254",
            host => host.expect("a host"),
        };
        check_refused(&[ask(Request::post("/token"))], &format!("{shown}:{PORT}"));
    }
    public.says(None);
    // By an answer of the name server that changes from one request to the next.
    let changing = format!("http://changing.example:{PORT}");
    let request = Request::get("/v2/").header("X-Dragonfly-Registry", &changing);
    let first = daemon.client().fetch(&request).expect("the front answers");
    assert_eq!(first.status(), 200, "{}", text(&first));
    check_refused(&ask(&daemon, &changing), &format!("changing.example:{PORT}"));
    assert!(names.asked("changing.example") > 1, "the name was looked up once only");

    // By a tunnel, to the port that needs no configuration.
    let tls_port = |address: &str| SocketAddr::new(address.parse().expect("an address"), 443);
    let tls_held_back: Vec<_> = HELD_BACK.iter().map(|address| Witness::start(tls_port(address))).collect();
    let tls_public = Witness::start(tls_port(PUBLIC));
    for host in [PUBLIC, "public.example", "mixed.example"] {
        let told = tunnel(&daemon, host);
        assert!(told.starts_with("HTTP/1.1 200 ") && told.ends_with("hello"), "{host}: {told}");
    }
    assert_eq!(tls_public.connections(), 3);
    let names =
        ["loopback.example", "private.example", "metadata.example", "six.example", "changing.example"];
    for host in HELD_BACK.into_iter().chain(names) {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let told = tunnel(&daemon, &host);
        let cure = format!("--allow-registry {host}, or add it");
        assert!(told.starts_with("HTTP/1.1 403 ") && told.contains(&cure), "{host}: {told}");
    }
    assert_eq!(tls_held_back.iter().map(Witness::connections).sum::<usize>(), 0);

    // A host that is not for the environment's proxy is guarded in full.
    let proxied = Daemon::builder()
        .registry("http://127.0.0.1:1")
        .env("http_proxy", &format!("http://{PUBLIC}:{PORT}"))
        .env("no_proxy", "private.example")
        .start();
    check_refused(
        &ask(&proxied, &format!("http://private.example:{PORT}")),
        &format!("private.example:{PORT}"),
    );

    assert_eq!(asked(), 0, "somebody was asked who may not be");
}

/// A blob, a part of one, what is no blob, and a request with a body, all at that registry.
fn ask(daemon: &Daemon, registry: &str) -> Vec<Answer> {
    let requests =
        [Request::get(BLOB), Request::get(BLOB).range(0..2), Request::get(MANIFEST), Request::head(MANIFEST)];
    let requests = requests.into_iter().chain([Request::post("/v2/a/blobs/uploads/")]);
    requests
        .map(|request| request.header("X-Dragonfly-Registry", registry))
        .map(|request| daemon.client().fetch(&request).expect("the front answers"))
        .collect()
}

/// What comes of a CONNECT, and of a request through what it has opened.
fn tunnel(daemon: &Daemon, host: &str) -> String {
    let mut stream = TcpStream::connect(daemon.front()).expect("the front listens");
    let requests = format!("CONNECT {host}:443 HTTP/1.1\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).expect("a socket takes options");
    stream.write_all(requests.as_bytes()).expect("it is taken");
    let mut told = Vec::new();
    stream.read_to_end(&mut told).expect("an end, and no reset");
    String::from_utf8(told).expect("text")
}

#[track_caller]
fn check_refused(answers: &[Answer], shown: &str) {
    for answer in answers {
        let text = text(answer);
        assert_eq!(answer.status(), 502, "{shown}: {text}");
        assert_eq!(answer.header("X-Dragonfly-Error-Type"), Some("proxy"), "{shown}: {text}");
        let cure = format!("--allow-registry {shown}, or add it to proxy.allowedRegistries");
        // A HEAD has no body.
        assert!(answer.body.is_empty() || text.contains(&cure), "{shown}: {text}");
    }
    assert!(answers.iter().any(|answer| !answer.body.is_empty()), "{shown}: no answer says what to do");
}

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// Counts who connects, and answers like a registry: `hello`, or what it is told to. Each connection has one answer, so that
/// the next request makes another.
struct Witness {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    head: Arc<Mutex<Option<String>>>,
}

impl Witness {
    fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        let witness = Self {
            address: listener.local_addr().expect("a listener has an address"),
            connections: Arc::default(),
            head: Arc::default(),
        };
        let (connections, head) = (witness.connections.clone(), witness.head.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                connections.fetch_add(1, Ordering::Relaxed);
                let head = head.clone();
                thread::spawn(move || answer(stream, head.lock().unwrap().clone()));
            }
        });
        witness
    }

    /// The status and the first header of its answers from now on.
    fn says(&self, head: Option<String>) {
        *self.head.lock().unwrap() = head;
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

fn answer(stream: TcpStream, says: Option<String>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let head = lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty());
    let method = head.collect::<Vec<_>>().first()?.split(' ').next()?.to_owned();
    let body = if method == "HEAD" { "" } else { "hello" };
    let close = "content-length: 5\r\nconnection: close\r\n";
    let says = says.unwrap_or("200 X".into());
    let text = format!("HTTP/1.1 {says}\r\n{close}\r\n{body}");
    let mut stream = stream;
    stream.write_all(text.as_bytes()).ok()?;
    // The client closes first, so that no reset takes the answer away.
    stream.shutdown(std::net::Shutdown::Write).ok()?;
    stream.read_to_end(&mut Vec::new()).ok().map(drop)
}

/// A name server with few names, one of which changes.
struct Names(Arc<Mutex<HashMap<String, usize>>>);

impl Names {
    fn start() -> Self {
        let socket =
            UdpSocket::bind("127.0.0.1:53").expect("root may listen on port 53 of its own namespace");
        let asked = Arc::new(Mutex::new(HashMap::new()));
        let counting = asked.clone();
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                if let Some(answer) = answer_query(&query[..length], &counting) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self(asked)
    }

    /// How often a name's IPv4 addresses were asked for.
    fn asked(&self, name: &str) -> usize {
        self.0.lock().unwrap().get(name).copied().unwrap_or(0)
    }
}

const A: u16 = 1;
const AAAA: u16 = 28;

/// An answer in the format of RFC 1035, section 4, to a query with one question.
fn answer_query(query: &[u8], asked: &Mutex<HashMap<String, usize>>) -> Option<Vec<u8>> {
    let question = query.get(12..)?;
    let mut labels = Vec::new();
    let mut at = 0;
    while question.get(at).is_some_and(|length| *length > 0) {
        let end = at + 1 + usize::from(question[at]);
        labels.push(String::from_utf8_lossy(question.get(at + 1..end)?).to_lowercase());
        at = end;
    }
    let kind = u16::from_be_bytes(question.get(at + 1..at + 3)?.try_into().ok()?);
    let name = labels.join(".");
    let mut asked = asked.lock().unwrap();
    let times = asked.entry(name.clone()).or_default();
    *times += usize::from(kind == A);
    let addresses: &[&str] = match name.as_str() {
        "public.example" => &[PUBLIC],
        "loopback.example" => &["127.0.0.1"],
        "private.example" => &["10.1.2.3"],
        "metadata.example" => &["169.254.169.254"],
        "six.example" => &["fd00::5"],
        "mixed.example" => &["10.1.2.3", PUBLIC, "::1"],
        "changing.example" if *times <= 1 => &[PUBLIC],
        "changing.example" => &["169.254.169.254"],
        _ => &[],
    };
    let mut records = Vec::new();
    for address in addresses.iter().map(|address| address.parse().expect("an address")) {
        let (of, data) = match address {
            IpAddr::V4(address) => (A, address.octets().to_vec()),
            IpAddr::V6(address) => (AAAA, address.octets().to_vec()),
        };
        if of == kind {
            records.push((of, data));
        }
    }
    let mut answer = query[..2].to_vec();
    // A response without an error, with one question.
    answer.extend([0x81, 0x80, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    answer.extend(question.get(..at + 5)?);
    for (kind, data) in records {
        // The name of the question; class IN; 0 s to live.
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 0, 0, data.len() as u8]);
        answer.extend(data);
    }
    Some(answer)
}
