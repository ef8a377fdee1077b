//! The Debian package: what is in it, and its life on a new Debian under systemd, from the first installation through an
//! upgrade to the last trace.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use darter_tests::cli::{Ran, ran};
use darter_tests::gate::{Gate, Seen};
use darter_tests::need::{Need, need};
use darter_tests::net::{Door, Namespace};
use darter_tests::{
    Client, DebianPackage, DebianRegistry, Image, Knocks, Request, Systemd, built, wait_until,
};

const REPOSITORY: &str = "team/app";
/// Where the package has the daemon listen.
const FRONT: &str = "127.0.0.1:65001";
const ADMIN: &str = "127.0.0.1:40901";
/// Where the registry is, seen from the machine.
const REGISTRY: &str = "127.0.0.1:5000";

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn source(path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn it_has_what_a_package_has() {
    if !need("it_has_what_a_package_has", &DebianPackage::NEEDS) {
        return;
    }
    let package = DebianPackage::make(&[]);
    let field = |name: &str| package.dpkg("--field", &[name]).out.trim().to_owned();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!((field("Package"), field("Version")), ("darter".into(), format!("{version}-1")));
    for needed in ["libc6 (", "ca-certificates", "systemd-sysusers"] {
        assert!(field("Depends").contains(needed), "{}", field("Depends"));
    }
    assert_eq!(package.dpkg("--info", &["conffiles"]).out, "/etc/darter/darter.yaml\n");

    let root = tempfile::tempdir().expect("a temporary directory can be made");
    let place = root.path().to_str().expect("a plain path");
    package.dpkg("--extract", &[place]);
    let read = |path: &str| {
        fs::read_to_string(root.path().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    for (installed, own) in [
        ("etc/darter/darter.yaml", "deploy/darter.yaml"),
        ("usr/lib/systemd/system/darter.service", "deploy/systemd/darter.service"),
        ("usr/lib/systemd/system/darter-front.socket", "deploy/systemd/darter-front.socket"),
        ("usr/lib/systemd/system/darter-admin.socket", "deploy/systemd/darter-admin.socket"),
        ("usr/lib/sysusers.d/darter.conf", "deploy/systemd/sysusers.d/darter.conf"),
        ("usr/share/doc/darter/copyright", "deploy/debian/copyright"),
        ("usr/share/doc/darter/CHANGELOG.md", "CHANGELOG.md"),
    ] {
        assert_eq!(read(installed), source(own), "{installed}");
    }
    for (completions, word) in [
        ("usr/share/bash-completion/completions/darter", "complete -F _darter"),
        ("usr/share/zsh/vendor-completions/_darter", "#compdef darter"),
        ("usr/share/fish/vendor_completions.d/darter.fish", "complete -c darter"),
    ] {
        assert!(read(completions).contains(word), "{completions}");
    }
    // A page for each command, as `darter man` writes them.
    let pages = tempfile::tempdir().expect("a temporary directory can be made");
    let pages_path = pages.path().to_str().expect("a plain path");
    assert_eq!(darter_tests::cli::darter(&["man", "--out", pages_path]).status, 0);
    let names = |directory: &Path| -> BTreeSet<String> {
        let entries = fs::read_dir(directory).expect("there are pages");
        entries.map(|entry| entry.expect("a page").file_name().into_string().expect("a plain name")).collect()
    };
    let expected: BTreeSet<String> = names(pages.path()).iter().map(|name| format!("{name}.gz")).collect();
    assert!(expected.contains("darter-serve.1.gz"), "{expected:?}");
    assert_eq!(names(&root.path().join("usr/share/man/man1")), expected);

    // Profiles name functions by what is left of the symbols.
    let program = root.path().join("usr/bin/darter");
    let metadata = fs::metadata(&program).expect("the program is there");
    assert_eq!(metadata.mode() & 0o777, 0o755);
    assert!(metadata.len() < fs::metadata(built("darter")).expect("it is built").len(), "it is not stripped");
    let mut sections = Command::new("readelf");
    sections.args(["--wide", "--sections"]).arg(program);
    let sections = ran(sections).out;
    assert!(sections.contains(" .symtab "), "the names of functions are gone: {sections}");
    assert!(!sections.contains(" .debug_line "), "what only debuggers read is there: {sections}");
    // The first line of Debian's own is the version that is packaged.
    let first = source("deploy/debian/changelog").lines().next().expect("a line").to_owned();
    assert!(first.starts_with(&format!("darter ({version}-1) ")), "{first}");
}

#[test]
fn the_same_sources_give_the_same_package() {
    if !need("the_same_sources_give_the_same_package", &DebianPackage::NEEDS) {
        return;
    }
    let [one, other] = [(); 2].map(|()| fs::read(DebianPackage::make(&[]).file()).expect("it is there"));
    assert!(one == other, "two packages of one binary differ");
}

/// A new Debian, on which somebody has written down what is to hold before they install the package.
struct Machine {
    systemd: Systemd,
    network: Namespace,
}

impl Machine {
    fn boot(registry: &Gate) -> Self {
        let network = Namespace::new().expect("the test has what it needs");
        Door::out_of(&network, address(REGISTRY), registry.address());
        let configuration = format!(
            "storage: {{capacity: 64MiB}}\nproxy:\n  registryMirror: {{url: 'http://{REGISTRY}'}}\nsandbox: {{mode: required}}\n"
        );
        // As `systemctl edit darter` writes it.
        let limits = format!("[Service]\nLimitNOFILE={}\n", Systemd::open_files_max());
        let files = [
            ("/etc/darter/darter.yaml", &*configuration),
            ("/etc/systemd/system/darter.service.d/override.conf", &*limits),
        ];
        Self { systemd: Systemd::boot_debian(&network, &files), network }
    }

    fn dpkg(&self, args: &[&str]) -> Ran {
        let done = self.systemd.exec(&[&["env", "DEBIAN_FRONTEND=noninteractive", "dpkg"], args].concat());
        assert_eq!(done.status, 0, "dpkg {args:?}: {done:?}\n{}", self.systemd.journal());
        done
    }

    fn install(&self, package: &DebianPackage) {
        fs::copy(package.file(), self.systemd.path("/root/darter.deb")).expect("a file can be copied");
        // What somebody has written is kept.
        self.dpkg(&["--force-confold", "--install", "/root/darter.deb"]);
    }

    /// Reads all of the image through the front.
    fn pull(&self, image: &Image) {
        let mut client = self.network.enter(|| {
            let mut client = Client::new(address(FRONT));
            client.fetch(&Request::get("/v2/")).expect("the front answers");
            client
        });
        let mut read = |path: String, expected: &[u8]| {
            let request = Request::get(format!("/v2/{REPOSITORY}/{path}"));
            let request = request.header("Accept", image.tagged().media_type);
            let answer = client.fetch(&request).expect("an answer");
            assert_eq!(answer.status(), 200, "{path}: {}", self.systemd.journal());
            assert!(answer.body == expected, "{path} has other bytes");
        };
        read("manifests/v1".into(), &image.tagged().bytes);
        for blob in image.blobs() {
            read(format!("blobs/{}", blob.digest()), &blob.bytes);
        }
    }

    fn pid(&self) -> String {
        self.systemd.property("darter.service", "MainPID")
    }

    /// Pulls once more, for which the registry gives nothing: it is asked what the tag names now, as clients ask it.
    fn is_warm(&self, gate: &Gate, image: &Image, after: &str) {
        gate.forget();
        self.pull(image);
        let is_of_content =
            |seen: &Seen| seen.asked.method != http::Method::HEAD && seen.asked.path() != "/v2/";
        assert!(!gate.seen().iter().any(is_of_content), "the cache is cold after {after}: {}", gate.lines());
    }
}

#[test]
fn a_service_of_its_own_user_through_restart_upgrade_and_removal() {
    let test = "a_service_of_its_own_user_through_restart_upgrade_and_removal";
    let more = [DebianRegistry::NEED, Need::Landlock];
    let needs = [&DebianPackage::NEEDS[..], &Systemd::NEEDS, &Systemd::NEEDS_OF_DEBIAN, &more].concat();
    if !need(test, &needs) {
        return;
    }
    let (registry, image) = (DebianRegistry::start(), Image::build(0x64_6562, &[6 << 20, 300_000]));
    registry.push(&image, REPOSITORY, "v1");
    let gate = Gate::before(registry.address());
    let machine = Machine::boot(&gate);
    let systemd = &machine.systemd;

    machine.install(&DebianPackage::make(&[]));
    for unit in ["darter.service", "darter-front.socket", "darter-admin.socket"] {
        assert_eq!(systemd.property(unit, "ActiveState"), "active", "{unit}: {}", systemd.journal());
        assert_eq!(systemd.systemctl(&["is-enabled", unit]), "enabled");
    }
    let user = systemd.exec(&["id", "--user", "darter"]).out;
    let status = systemd.exec(&["cat", &format!("/proc/{}/status", machine.pid())]).out;
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("a user");
    assert!(ids.split_whitespace().all(|id| id == user.trim()) && user.trim() != "0", "{user}: {ids}");
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("CapEff:\t0000000000000000"), "{status}");
    let state = fs::metadata(systemd.path("/var/lib/darter")).expect("the state directory is there");
    assert_eq!((state.uid().to_string(), state.mode() & 0o777), (user.trim().to_owned(), 0o700));

    machine.pull(&image);
    assert_eq!(gate.blob_bytes(), image.blob_bytes());

    let pid = machine.pid();
    systemd.systemctl(&["restart", "darter.service"]);
    assert_ne!(machine.pid(), pid);
    machine.is_warm(&gate, &image, "a restart");

    // An upgrade refuses nobody, and keeps what somebody has written and what is cached.
    let (pid, next) = (machine.pid(), format!("{}-2", env!("CARGO_PKG_VERSION")));
    let newer = DebianPackage::make(&["--deb-version", &next]);
    let (front, admin) =
        (|| machine.network.connect(address(FRONT)), || machine.network.connect(address(ADMIN)));
    let knocks = Knocks::during(&[&front, &admin], |_| machine.install(&newer));
    assert!(knocks.made() > 0 && knocks.refused() == 0, "{knocks:?}");
    assert_eq!(machine.dpkg(&["--status", "darter"]).out.matches(&format!("Version: {next}\n")).count(), 1);
    assert_ne!(machine.pid(), pid, "the old program runs on");
    let configuration = fs::read_to_string(systemd.path("/etc/darter/darter.yaml")).expect("it is there");
    assert!(configuration.contains(REGISTRY), "{configuration}");
    machine.is_warm(&gate, &image, "an upgrade");

    machine.dpkg(&["--remove", "darter"]);
    let is_gone = || machine.network.connect(address(FRONT)).is_err();
    wait_until(std::time::Duration::from_secs(30), is_gone, || "somebody still listens".into());
    assert!(!systemd.path("/usr/bin/darter").exists());
    assert!(systemd.path("/var/lib/darter/store").exists(), "what is cached outlives a removal");
    machine.dpkg(&["--purge", "darter"]);
    for path in ["/var/lib/darter", "/etc/darter/darter.yaml"] {
        assert!(!systemd.path(path).exists(), "{path} outlives a purge");
    }
    let units = systemd.exec(&["systemctl", "list-unit-files", "--no-legend", "darter*"]).out;
    assert_eq!(units.trim(), "", "traces of its units are left");
}
