//! A registry with an authority of its own that wants to see a certificate: `proxy.registries[]`, against the server of
//! OpenSSL.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use darter_tests::cli::darter;
use darter_tests::need::{Need, need};
use darter_tests::{Answer, Daemon, Request, wait_until};

#[test]
fn a_registry_is_spoken_to_as_configured() {
    let test = "a_registry_is_spoken_to_as_configured";
    if !need(test, &[Need::Program { name: "openssl", package: "openssl" }]) {
        return;
    }
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let pki = home.path();
    certificate(pki, "ca", None);
    certificate(pki, "server", Some("ca"));
    certificate(pki, "client", Some("ca"));
    let server = Server::start(pki);
    let ask = |settings: &str| -> Answer {
        let settings = settings.replace("PKI", pki.to_str().expect("a plain path"));
        let list = format!("proxy:\n  registries:\n  - {{host: '{}'{settings}}}\n", server.address);
        let daemon = Daemon::builder().config(&list).start();
        let request = Request::get("/").header("X-Dragonfly-Registry", format!("https://{}", server.address));
        daemon.client().fetch(&request).expect("the front answers")
    };
    let client = ", cert: PKI/client.pem, key: PKI/client.key";
    for settings in [format!(", ca: PKI/ca.pem{client}"), format!(", insecure: true{client}")] {
        let answer = ask(&settings);
        assert_eq!(answer.status(), 200, "{settings}: {:?}", String::from_utf8_lossy(&answer.body));
    }
    // Its authority is not the system's; and it wants to know who asks.
    for settings in ["", client, ", ca: PKI/ca.pem", ", insecure: true"] {
        let answer = ask(settings);
        assert_eq!(
            (answer.status(), answer.header("X-Dragonfly-Error-Type")),
            (502, Some("proxy")),
            "{settings}"
        );
    }
}

#[test]
fn files_that_were_replaced_are_read_again() {
    let test = "files_that_were_replaced_are_read_again";
    if !need(test, &[Need::Program { name: "openssl", package: "openssl" }]) {
        return;
    }
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let pki = home.path();
    certificate(pki, "ca", None);
    certificate(pki, "server", Some("ca"));
    certificate(pki, "client", Some("ca"));
    certificate(pki, "stranger", None);
    let server = Server::start(pki);
    let copy = |from: &str, to: &str| {
        fs::copy(pki.join(from), pki.join(to)).expect("a certificate can be replaced");
    };
    copy("ca.pem", "used-ca.pem");
    copy("stranger.pem", "used.pem");
    copy("stranger.key", "used.key");
    let list = format!(
        "proxy:\n  registries:\n  - {{host: '{}', ca: PKI/used-ca.pem, cert: PKI/used.pem, key: PKI/used.key}}\n",
        server.address
    );
    let list = list.replace("PKI", pki.to_str().expect("a plain path"));
    let daemon = Daemon::builder().config(&list).start();
    let reload = || darter(&["reload", "--admin", &daemon.admin().to_string()]);
    let request = Request::get("/").header("X-Dragonfly-Registry", format!("https://{}", server.address));
    let status = || daemon.client().fetch(&request).expect("the front answers").status();
    assert_eq!(status(), 502, "the registry does not know the stranger");

    copy("client.pem", "used.pem");
    reload().failed(2, &["darter.yaml:3: proxy.registries[0].key: ", "used.key cannot be used: "]);
    copy("client.key", "used.key");
    assert_eq!(status(), 502, "nothing has been read again");
    let ran = reload();
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(
        ran.out.starts_with("proxy.registries: host: ") && ran.out.contains(" (other content)\n"),
        "{ran:?}"
    );
    assert_eq!(status(), 200);
    assert!(reload().out.ends_with("nothing has changed\n"));

    copy("stranger.pem", "used-ca.pem");
    assert_eq!(reload().status, 0);
    assert_eq!(status(), 502, "the authority of the registry is not known any more");
}

/// `NAME.pem` and `NAME.key`, signed by an authority or by itself.
fn certificate(pki: &Path, name: &str, signed_by: Option<&str>) {
    let mut openssl = Command::new("openssl");
    openssl.current_dir(pki).args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
    ]);
    openssl.args(["-nodes", "-days", "2", "-subj", &format!("/CN={name}")]);
    openssl.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")]);
    openssl.args(["-addext", "subjectAltName=IP:127.0.0.1"]);
    if let Some(ca) = signed_by {
        openssl.args(["-CA", &format!("{ca}.pem"), "-CAkey", &format!("{ca}.key")]);
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    }
    let made = openssl.output().expect("openssl can be executed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// A server that tells whoever shows a certificate what was agreed on. Ended when dropped.
struct Server {
    address: SocketAddr,
    child: Child,
}

impl Server {
    fn start(pki: &Path) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("loopback has free ports");
        let log = fs::File::create(pki.join("log")).expect("the log can be written");
        let child = Command::new("openssl")
            .current_dir(pki)
            .args(["s_server", "-accept", &address.to_string(), "-www", "-quiet"])
            .args(["-cert", "server.pem", "-key", "server.key", "-CAfile", "ca.pem"])
            .args(["-Verify", "1", "-verify_return_error"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("openssl can be executed");
        let log = pki.join("log");
        let said = move || format!("openssl does not listen: {:?}", fs::read_to_string(&log));
        wait_until(Duration::from_secs(20), || TcpStream::connect(address).is_ok(), said);
        Self { address, child }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
