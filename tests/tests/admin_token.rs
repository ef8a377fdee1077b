//! The token of the admin port: with it another machine may change something, without it none may, and pages of other
//! sites never.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use darter_tests::cli::{Ran, command, darter, ran};
use darter_tests::need::need;
use darter_tests::net::{Host, NETWORK, Network};
use darter_tests::{Asked, Client, Daemon, Request, Scripted, Step};
use serde_json::Value;
use tempfile::TempDir;

const TOKEN: &str = "c2FtcGxlIHRva2VuIG9mIGEgdGVzdA==";
const NEXT: &str = "YW5vdGhlciB0b2tlbiBvZiBhIHRlc3Q=";
/// Nobody listens there.
const NOWHERE: &str = "proxy: {registryMirror: {url: 'http://127.0.0.1:1'}}\n";

/// A file that holds a token.
struct TokenFile {
    _directory: Option<TempDir>,
    path: PathBuf,
}

impl TokenFile {
    fn of(text: &str) -> TokenFile {
        let directory = TempDir::new().expect("a temporary directory");
        let path = directory.path().join("token");
        TokenFile { _directory: Some(directory), path }.holding(text)
    }

    /// Beside the configuration, where a daemon that runs may read what was not there when it started.
    fn beside(daemon: &Daemon, text: &str) -> TokenFile {
        TokenFile { _directory: None, path: daemon.data_dir().with_file_name("token") }.holding(text)
    }

    fn holding(self, text: &str) -> TokenFile {
        self.write(text);
        self.mode(0o600);
        self
    }

    fn write(&self, text: &str) {
        fs::write(&self.path, text).expect("the file can be written");
    }

    fn mode(&self, mode: u32) {
        fs::set_permissions(&self.path, fs::Permissions::from_mode(mode)).expect("the mode can be set");
    }

    fn shown(&self) -> &str {
        self.path.to_str().expect("UTF-8")
    }

    /// The configuration that names it.
    fn config(&self) -> String {
        format!("{NOWHERE}health: {{tokenFile: '{}'}}\n", self.shown())
    }
}

/// A daemon whose admin port others reach, and a machine beside its own.
struct Machines {
    daemon: Daemon,
    own: Host,
    other: Host,
    _network: Network,
}

impl Machines {
    fn start(config: &str) -> Machines {
        let network = Network::new(1500);
        let (own, other) = (network.attach(), network.attach());
        let builder = Daemon::builder().config(config).capacity("64MiB");
        let daemon = builder.on(&network, &own).admin_on(own.address().into()).start();
        Machines { daemon, own, other, _network: network }
    }

    /// A call from the other machine.
    fn call(&self, request: &Request) -> (u16, Value) {
        let mut client = Client::inside(self.other.namespace(), self.daemon.admin());
        let answer = client.fetch(request).expect("the admin port answers");
        if answer.status() == 401 {
            assert_eq!(answer.header("WWW-Authenticate"), Some("Bearer"));
        }
        (answer.status(), serde_json::from_slice(&answer.body).expect("the API speaks JSON"))
    }

    #[track_caller]
    fn check(&self, request: &Request, status: u16, words: &str) {
        let (seen, body) = self.call(request);
        assert_eq!(seen, status, "{body}");
        assert!(body.to_string().contains(words), "no {words:?} in {body}");
    }

    /// A command on one of the machines.
    fn run(&self, host: &Host, args: &[&str], environment: Option<&Path>) -> Ran {
        let admin = self.daemon.admin().to_string();
        let mut command = command(&[args, &["--admin", &admin]].concat());
        command.env_remove("DARTER_TOKEN_FILE");
        command.envs(environment.map(|path| ("DARTER_TOKEN_FILE", path)));
        host.namespace().enter(|| ran(command))
    }
}

fn reload() -> Request {
    Request::post("/api/v1/reload")
}

fn bearing(token: &str) -> Request {
    reload().header("Authorization", format!("Bearer {token}"))
}

#[test]
fn another_machine_changes_something_with_the_token_only() {
    if !need("another_machine_changes_something_with_the_token_only", &NETWORK) {
        return;
    }
    let mut machines = Machines::start(NOWHERE);
    machines.check(&Request::get("/api/v1/store"), 200, "capacity_bytes");
    machines.check(&reload(), 403, "health.tokenFile");
    machines.check(&bearing(TOKEN), 403, "health.tokenFile");
    machines.run(&machines.other, &["reload"], None).failed(1, &["health.tokenFile", "--token-file"]);

    // The node's own operator gives it one, and it counts without a start.
    let file = TokenFile::beside(&machines.daemon, &format!("{TOKEN}\n"));
    machines.daemon.reconfigure(&file.config());
    let told = machines.run(&machines.own, &["reload", "--json"], None).json();
    assert_eq!(told["taken_up"][0]["key"], "health.tokenFile", "{told}");

    machines.check(&Request::get("/api/v1/store"), 200, "capacity_bytes");
    machines.check(&reload(), 401, "--token-file");
    machines.check(&bearing(NEXT), 401, "is not the one");
    machines.check(&bearing(&TOKEN[1..]), 401, "is not the one");
    machines.check(&reload().header("Authorization", TOKEN), 401, "Bearer TOKEN");
    machines.check(&bearing(TOKEN), 200, "taken_up");
    machines.check(&reload().header("X-Darter-Token", TOKEN), 200, "taken_up");
    machines.check(&bearing(TOKEN).header("Host", "node7:40901"), 200, "taken_up");
    machines.check(&Request::delete("/api/v1/contents/abcdef"), 401, "--token-file");
    let remove = Request::delete("/api/v1/contents/abcdef");
    machines.check(&remove.header("Authorization", format!("Bearer {TOKEN}")), 404, "abcdef");
    for origin in ["http://evil.example", "null", "http://node7:40901"] {
        machines.check(&bearing(TOKEN).header("Origin", origin), 403, "Origin is");
    }

    let refused = machines.run(&machines.other, &["reload"], None);
    refused.failed(1, &["--token-file", "DARTER_TOKEN_FILE"]);
    let flag = ["reload", "--token-file", file.shown()];
    assert_eq!(machines.run(&machines.other, &flag, None).status, 0);
    assert_eq!(machines.run(&machines.other, &["reload"], Some(&file.path)).status, 0);
    machines.run(&machines.other, &["rm", "abcdef"], Some(&file.path)).failed(3, &["abcdef"]);
    let preheat = ["preheat", "http://127.0.0.1:1/file", "--front", "127.0.0.1:1"];
    machines.run(&machines.other, &preheat, None).failed(1, &["--token-file"]);
    let let_in = machines.run(&machines.other, &preheat, Some(&file.path));
    assert!(!let_in.err.contains("token"), "{let_in:?}");

    // Another token in the file counts when the configuration is read again, which the old one may still ask for.
    file.write(NEXT);
    let (status, told) = machines.call(&bearing(TOKEN));
    assert_eq!((status, &told["taken_up"][0]["key"]), (200, &"health.tokenFile".into()), "{told}");
    machines.check(&bearing(TOKEN), 401, "darter reload");
    machines.check(&bearing(NEXT), 200, "taken_up");

    // What others may read is not taken up, and what held goes on to hold.
    file.write(TOKEN);
    file.mode(0o644);
    machines.check(&bearing(NEXT), 400, "chmod 600");
    machines.check(&bearing(NEXT), 400, "health.tokenFile");
    machines.run(&machines.other, &["reload"], Some(&file.path)).failed(1, &["chmod 600", "--token-file"]);

    machines.daemon.reconfigure(NOWHERE);
    machines.check(&bearing(NEXT), 200, "health.tokenFile");
    machines.check(&bearing(NEXT), 403, "health.tokenFile");
    let log = machines.daemon.log();
    assert!(log.contains("shows a token that is not that of health.tokenFile"), "{log}");
    assert!(![TOKEN, NEXT].iter().any(|token| log.contains(token)), "{log}");
}

#[test]
fn a_file_that_is_no_token_stops_the_start() {
    let refused = |file: &TokenFile| -> (ExitStatus, String) {
        Daemon::builder().config(&file.config()).start_refused()
    };
    let check = |file: &TokenFile, words: &[&str]| {
        let (status, log) = refused(file);
        assert_eq!(status.code(), Some(2), "{log}");
        for word in words.iter().chain(&["darter.yaml:2: health.tokenFile", file.shown()]) {
            assert!(log.contains(word), "no {word:?} in {log}");
        }
    };
    check(&TokenFile::of("short\n"), &["5 bytes", "/dev/urandom"]);
    check(&TokenFile::of("these words are not one token"), &["/dev/urandom"]);
    let file = TokenFile::of(TOKEN);
    file.mode(0o604);
    check(&file, &["mode 604", "chmod 600"]);
    fs::remove_file(&file.path).expect("it is there");
    check(&file, &["cannot be read", "/dev/urandom"]);
}

/// `Authorization` of a preheat is the registry's; the admin port's own token goes to no registry.
#[test]
fn no_registry_is_shown_the_token() {
    let script = |asked: &Asked| {
        let body = b"hello".to_vec();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5";
        match asked.line.starts_with("HEAD") {
            true => vec![Step::Head(head.into())],
            false => vec![Step::Head(head.into()), Step::Body(body)],
        }
    };
    let registry = Scripted::start(script);
    let file = TokenFile::of(TOKEN);
    let config = format!("health: {{tokenFile: '{}'}}\n", file.shown());
    let daemon = Daemon::builder().registry(&registry.url()).config(&config).start();
    let preheat = |path: &str, headers: &[(&str, String)]| {
        let request = Request::post(format!("/api/v1/preheat?url={}{path}", registry.url()));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        let answer = daemon.admin_client().fetch(&request).expect("the admin port answers");
        assert_eq!(answer.status(), 200, "{}", String::from_utf8_lossy(&answer.body));
        let asked = registry.asked().into_iter().filter(|asked| asked.target() == path);
        let shown: Vec<_> = asked.map(|asked| asked.header("Authorization").map(str::to_owned)).collect();
        assert!(!shown.is_empty(), "{path} was asked for");
        shown
    };
    let bearer = |token: &str| ("Authorization", format!("Bearer {token}"));
    for shown in preheat("/one", &[bearer(TOKEN)]) {
        assert_eq!(shown, None);
    }
    let both = [bearer("of-the-registry"), ("X-Darter-Token", TOKEN.to_owned())];
    for shown in preheat("/two", &both) {
        assert_eq!(shown.as_deref(), Some("Bearer of-the-registry"));
    }
    let in_a_header = |asked: &Asked| asked.header("X-Darter-Token").is_some();
    assert!(!registry.asked().iter().any(in_a_header), "it is for the admin port alone");
}

#[test]
fn a_token_that_cannot_be_read_is_told_before_anything_is_asked() {
    let nowhere = ["--admin", "127.0.0.1:1", "--token-file", "/nonexistent/token"];
    for args in [&["reload"][..], &["pin", "abcdef"], &["verify", "abcdef"]] {
        darter(&[args, &nowhere].concat()).failed(1, &["/nonexistent/token cannot be read", "umask 077"]);
    }
    // What changes nothing needs none.
    darter(&[&["stat"][..], &nowhere].concat()).failed(4, &["darter serve"]);
}
