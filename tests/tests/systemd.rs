//! The units of `deploy/systemd` under systemd itself: the service starts as its own user, serves a pull, is restarted with
//! its cache warm and without a refused connection, reads its configuration again, and is started anew when it hangs.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use darter_tests::need::{Need, need};
use darter_tests::{
    Client, Daemon, Knocks, Metrics, Origin, Request, Systemd, free_at_localhost, wait_until,
};

const WITHIN: Duration = Duration::from_secs(60);
const BLOB_BYTES: u64 = 8 << 20;

/// A machine with the units, at addresses of the test's own.
struct Installed {
    machine: Systemd,
    front: SocketAddr,
    admin: SocketAddr,
    profiles: SocketAddr,
}

impl Installed {
    fn boot(registry: &Origin) -> Self {
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
        let read = |name: &str| fs::read_to_string(units.join(name)).expect("it is there");
        let (front, admin) = Daemon::free_addresses();
        // It is there, whatever else listens where.
        let profiles = free_at_localhost();
        let own = |socket: &str, from: &str, to: SocketAddr| {
            let text = read(socket);
            assert!(text.contains(from), "{text}");
            text.replace(from, &to.to_string())
        };
        let front_socket = own("darter-front.socket", "127.0.0.1:65001", front);
        let admin_socket = own("darter-admin.socket", "127.0.0.1:40901", admin);
        // A third of half a minute; and no more files than this machine gives.
        let service = read("darter.service").replace("WatchdogSec=30", "WatchdogSec=10");
        let service =
            service.replace("LimitNOFILE=1048576", &format!("LimitNOFILE={}", Systemd::open_files_max()));
        let host = registry.address();
        let configuration = format!(
            "storage: {{capacity: 64MiB, io: ring}}\n\
             sandbox: {{mode: required}}\n\
             pprofPort: {}\n\
             proxy:\n  tcpListen: {{listen: {}, port: {}}}\n  registryMirror: {{url: 'http://{host}'}}\n\
             health:\n  tcpListen: {{listen: {}, port: {}}}\n",
            profiles.port(),
            front.ip(),
            front.port(),
            admin.ip(),
            admin.port(),
        );
        let sysusers = read("sysusers.d/darter.conf");
        let machine = Systemd::boot(&[
            ("/etc/systemd/system/darter.service", &service),
            ("/etc/systemd/system/darter-front.socket", &front_socket),
            ("/etc/systemd/system/darter-admin.socket", &admin_socket),
            ("/etc/sysusers.d/darter.conf", &sysusers),
            ("/etc/darter/darter.yaml", &configuration),
        ]);
        // As the head of the unit says it.
        assert_eq!(machine.exec(&["systemd-sysusers"]).status, 0);
        machine.systemctl(&["daemon-reload"]);
        machine.systemctl(&[
            "enable",
            "--now",
            "darter-front.socket",
            "darter-admin.socket",
            "darter.service",
        ]);
        Self { machine, front, admin, profiles }
    }

    fn metrics(&self) -> Metrics {
        let answer = Client::new(self.admin).fetch(&Request::get("/metrics")).expect("/metrics answers");
        Metrics::parse(std::str::from_utf8(&answer.body).expect("text"))
    }

    fn pid(&self) -> String {
        self.machine.property("darter.service", "MainPID")
    }
}

#[test]
fn the_service_lives_under_systemd() {
    let kernel = [Need::IoUring, Need::Landlock];
    if !need("the_service_lives_under_systemd", &[&Systemd::NEEDS[..], &kernel].concat()) {
        return;
    }
    let registry = Origin::start();
    let blob = registry.blob(1, BLOB_BYTES);
    let installed = Installed::boot(&registry);
    let machine = &installed.machine;
    // The start has waited until it serves.
    assert_eq!(machine.property("darter.service", "ActiveState"), "active");
    assert_eq!(machine.property("darter.service", "Type"), "notify", "nobody waits until it is ready");
    let status = machine.exec(&["cat", &format!("/proc/{}/status", installed.pid())]).out;
    let uid =
        status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("a user").split_whitespace().next();
    let state = fs::metadata(machine.path("/var/lib/darter")).expect("the state directory is there");
    assert_eq!((uid, state.mode() & 0o777), (Some(&*state.uid().to_string()), 0o700));
    assert_ne!(state.uid(), 0, "it runs as root");
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("CapEff:\t0000000000000000"), "{status}");
    assert_eq!(
        installed.metrics().sum_where("darter_build_info", &["io=\"ring\""]),
        1.0,
        "io_uring is refused"
    );

    blob.read(&mut Client::new(installed.front), blob.whole()).expect("a pull");
    assert_eq!(registry.blob_bytes(), BLOB_BYTES);

    let profile = Request::get("/debug/pprof/profile?seconds=1");
    let profile = Client::new(installed.profiles).fetch(&profile).expect("an answer");
    assert_eq!(profile.status(), 200, "{}", String::from_utf8_lossy(&profile.body));

    // systemd has the ports, too, and the doctor knows whose they are.
    let doctor = [
        "darter",
        "doctor",
        "--json",
        "--config",
        "/etc/darter/darter.yaml",
        "--data-dir",
        "/var/lib/darter",
    ];
    let found: serde_json::Value = serde_json::from_str(&machine.exec(&doctor).out).expect("JSON");
    for (port, address) in [("front", installed.front), ("admin port", installed.admin)] {
        let findings =
            found["groups"].as_array().expect("groups").iter().flat_map(|group| group["findings"].as_array());
        let finding =
            findings.flatten().find(|finding| finding["check"] == port).expect("the port is looked at");
        assert_eq!(finding["level"], "ok", "{finding}");
        assert_eq!(finding["seen"], format!("{address}: darter listens, process {}", installed.pid()));
    }

    restarts_refuse_nobody(&installed);
    registry.forget();
    blob.read(&mut Client::new(installed.front), blob.whole()).expect("a pull");
    assert_eq!(registry.blob_bytes(), 0, "the cache is cold after a restart");

    // Reloaded, by the same process.
    let pid = installed.pid();
    let file = machine.path("/etc/darter/darter.yaml");
    let text = fs::read_to_string(&file).expect("it is there");
    fs::write(&file, text + "download: {prefetch: true}\n").expect("it can be written");
    machine.systemctl(&["reload", "darter.service"]);
    let taken_up = || machine.journal().contains("download.prefetch");
    wait_until(WITHIN, taken_up, || "what was edited is not taken up".to_owned());
    assert_eq!(
        (machine.property("darter.service", "ActiveState"), installed.pid()),
        ("active".to_owned(), pid.clone())
    );

    // It hangs, and nobody but the watchdog sees that.
    assert_eq!(machine.property("darter.service", "NRestarts"), "0");
    machine.systemctl(&["kill", "--signal=STOP", "darter.service"]);
    let restarted = || machine.property("darter.service", "NRestarts") == "1" && installed.pid() != pid;
    wait_until(WITHIN, restarted, || "the watchdog does not bite".to_owned());
    registry.forget();
    blob.read(&mut Client::new(installed.front), blob.whole()).expect("a pull");
    assert_eq!(registry.blob_bytes(), 0, "the cache is cold after a crash");

    machine.systemctl(&["stop", "darter.service"]);
    assert_eq!(machine.property("darter.service", "Result"), "success");
}

/// Connections are made without a pause while the service is restarted three times.
fn restarts_refuse_nobody(installed: &Installed) {
    let (front, admin) = (|| TcpStream::connect(installed.front), || TcpStream::connect(installed.admin));
    let knocks = Knocks::during(&[&front, &admin], |knocks| {
        for _ in 0..3 {
            let (pid, before) = (installed.pid(), knocks.made());
            installed.machine.systemctl(&["restart", "darter.service"]);
            assert_ne!(installed.pid(), pid);
            assert!(knocks.made() > before);
        }
    });
    assert_eq!(knocks.refused(), 0, "{knocks:?}");
}
