//! `darter init`: real clients read through the front with the files that it writes, and past it when they were taken
//! back; and the files are exactly what they were.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use darter_tests::cli::{Ran, darter};
use darter_tests::gate::{Gate, Kind};
use darter_tests::need::need;
use darter_tests::{Containerd, Daemon, DebianRegistry, Image, Skopeo};
use tempfile::TempDir;

const REPOSITORY: &str = "team/app";
const SEED: u64 = 0x696e_6974;

/// Runs `darter init` on a root.
fn init(client: &str, root: &Path, more: &[&str]) -> Ran {
    let root = root.to_str().expect("a plain path");
    darter(&[&["init", client, "--root", root], more].concat())
}

fn done(ran: &Ran) -> &str {
    assert_eq!((ran.status, &*ran.err), (0, ""), "{ran:?}");
    &ran.out
}

/// Every file, directory and link below a directory, what it holds and its mode.
fn all(below: &Path) -> BTreeMap<String, (Vec<u8>, u32)> {
    let mut all = BTreeMap::new();
    let mut left = vec![below.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).expect("it can be listed") {
            let path = entry.expect("an entry").path();
            let found = fs::symlink_metadata(&path).expect("it is there");
            let held = if found.is_file() { fs::read(&path).expect("it can be read") } else { Vec::new() };
            all.insert(path.display().to_string(), (held, found.permissions().mode()));
            if found.is_dir() {
                left.push(path);
            }
        }
    }
    all
}

fn requests(daemon: &Daemon) -> f64 {
    daemon.metrics().sum("darter_requests_total")
}

#[test]
fn containerd_reads_through_the_front_until_it_is_undone() {
    let test = "containerd_reads_through_the_front_until_it_is_undone";
    let [root, program] = Containerd::NEEDS;
    if !need(test, &[root, program, DebianRegistry::NEED]) {
        return;
    }
    let registry = DebianRegistry::start();
    let image = Image::build(SEED, &[3 << 20, 100_000]).with_index();
    registry.push(&image, REPOSITORY, "v1");
    let gate = Gate::before(registry.address());
    let daemon = Daemon::builder().allow_registry(&gate.host()).prefetch(false).start();
    let containerd = Containerd::start();
    let reference = format!("{}/{REPOSITORY}:v1", gate.host());
    let front = daemon.front().to_string();
    let (root, hosts) = (containerd.root(), containerd.root().join("certs.d"));
    let before = all(&hosts);

    let flags = ["--front", &front, "--registry", &gate.url()];
    let written = init("containerd", root, &flags);
    let file = hosts.join(gate.host()).join("hosts.toml");
    assert!(done(&written).contains(&format!("{}: written", file.display())), "{written:?}");
    assert!(written.out.contains("next: nothing") && written.out.contains("--undo"), "{written:?}");
    let again = init("containerd", root, &flags);
    assert!(done(&again).contains("is as it should be"), "{again:?}");

    containerd.pull(&reference).unwrap();
    containerd.check(&reference);
    let asked = requests(&daemon);
    assert!(asked > 0.0, "containerd went past the front: {}", gate.lines());
    assert_eq!(gate.blob_bytes(), image.blob_bytes());

    let undone = init("containerd", root, &["--undo"]);
    assert!(done(&undone).contains("as it was before"), "{undone:?}");
    assert_eq!(all(&hosts), before);
    containerd.remove(&reference);
    gate.forget();
    containerd.pull(&reference).unwrap();
    assert_eq!(requests(&daemon), asked, "containerd still asks the front");
    assert_eq!(gate.blob_bytes(), image.blob_bytes());
    init("containerd", root, &["--undo"]).failed(3, &["nothing to undo"]);
}

/// podman, buildah and CRI-O read the same files by the same code.
#[test]
fn skopeo_reads_through_the_front_until_it_is_undone() {
    let test = "skopeo_reads_through_the_front_until_it_is_undone";
    if !need(test, &[Skopeo::NEED, DebianRegistry::NEED]) {
        return;
    }
    let registry = DebianRegistry::start();
    let image = Image::build(SEED, &[1 << 20, 100]);
    registry.push(&image, REPOSITORY, "v1");
    let (gate, nothing) = (Gate::before(registry.address()), Gate::to_nowhere());
    let daemon = Daemon::builder().registry(&gate.url()).prefetch(false).start();
    let front = daemon.front().to_string();
    let skopeo = Skopeo::unconfigured();
    let to = tempfile::tempdir().expect("a temporary directory can be made");
    let reference = format!("{}/{REPOSITORY}:v1", nothing.host());
    for client in ["podman", "crio"] {
        let before = all(skopeo.root());
        let written = init(client, skopeo.root(), &["--front", &front, "--registry", &nothing.url()]);
        assert!(done(&written).contains(&format!("--registry {}", nothing.url())), "{written:?}");
        skopeo.copy(&reference, &to.path().join(client)).unwrap();
        assert!(nothing.seen().is_empty(), "skopeo went round the front: {}", nothing.lines());
        let asked = requests(&daemon);
        assert!(asked > 0.0);
        done(&init(client, skopeo.root(), &["--undo"]));
        assert_eq!(all(skopeo.root()), before);
        // The registry that it turns to has nothing.
        skopeo.copy(&reference, &to.path().join("undone")).unwrap_err();
        assert_eq!(requests(&daemon), asked, "skopeo still asks the front");
    }
    assert_eq!(gate.blob_bytes(), image.blob_bytes());
    assert!(gate.gets(Kind::Blob) > 0);
}

/// A root with docker's configuration.
fn docker(text: &str) -> TempDir {
    let root = tempfile::tempdir().expect("a temporary directory can be made");
    fs::create_dir_all(root.path().join("etc/docker")).expect("a directory can be made");
    fs::write(daemon_json(root.path()), text).expect("a file can be written");
    let mode = fs::Permissions::from_mode(0o640);
    fs::set_permissions(daemon_json(root.path()), mode).expect("its owner may");
    root
}

fn daemon_json(root: &Path) -> std::path::PathBuf {
    root.join("etc/docker/daemon.json")
}

const DOCKER: &str = "{\n    \"log-driver\": \"local\",\n    \"registry-mirrors\": [\n        \"https://mirror.example\"\n    ]\n}\n";

#[test]
fn dockers_other_settings_stay_as_they_are_written() {
    let root = docker(DOCKER);
    let before = all(root.path());
    let written = init("docker", root.path(), &[]);
    assert!(done(&written).contains("changed; as it was: "), "{written:?}");
    assert!(written.out.contains("next: have docker read it: systemctl reload docker"), "{written:?}");
    let text = fs::read_to_string(daemon_json(root.path())).expect("it is there");
    let mirror = "[\n        \"http://127.0.0.1:65001\",\n        \"https://mirror.example\"";
    assert_eq!(text, DOCKER.replace("[\n        \"https://mirror.example\"", mirror));
    let mode = fs::metadata(daemon_json(root.path())).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    // Where the report says that it is, the file is as it was.
    let backup = written.out.lines().next().and_then(|line| line.split(": ").last()).expect("a path");
    assert_eq!(fs::read_to_string(backup).expect("a copy"), DOCKER);
    // Another address takes the place of the first, and the way back leads to the beginning.
    let other = init("docker", root.path(), &["--front", "127.0.0.1:7001"]);
    done(&other);
    let text = fs::read_to_string(daemon_json(root.path())).expect("it is there");
    assert!(text.contains(":7001\"") && !text.contains(":65001\""), "{text}");
    done(&init("docker", root.path(), &["--undo"]));
    assert_eq!(all(root.path()), before);
}

#[test]
fn print_shows_and_writes_nothing() {
    let root = docker(DOCKER);
    let before = all(root.path());
    let printed = init("docker", root.path(), &["--print"]);
    // What is left to do is beside the files.
    assert!(printed.status == 0 && printed.err.contains("next: have docker read it"), "{printed:?}");
    assert!(printed.out.starts_with("# /etc/docker/daemon.json\n{\n"), "{printed:?}");
    assert!(printed.out.contains("\"http://127.0.0.1:65001\",\n"), "{printed:?}");
    let printed = init("containerd", root.path(), &["--print"]);
    assert!(printed.out.contains("_default/hosts.toml\n"), "{printed:?}");
    assert_eq!(all(root.path()), before);
}

#[test]
fn what_somebody_has_edited_since_is_not_touched() {
    let root = docker(DOCKER);
    done(&init("docker", root.path(), &[]));
    let edited =
        fs::read_to_string(daemon_json(root.path())).expect("it is there").replace("local", "journald");
    fs::write(daemon_json(root.path()), &edited).expect("a file can be written");
    let before = all(root.path());
    for more in [&["--undo"][..], &[], &["--front", "127.0.0.1:7001"]] {
        let refused = init("docker", root.path(), more);
        refused.failed(1, &["daemon.json has changed since", "by hand", "then remove"]);
    }
    assert_eq!(all(root.path()), before);
}

#[test]
fn what_is_none_of_darters_is_refused_and_nothing_is_left() {
    let root = docker("{ not json");
    let hosts = root.path().join("etc/containerd/certs.d/_default");
    fs::create_dir_all(&hosts).expect("a directory can be made");
    fs::write(hosts.join("hosts.toml"), "server = \"https://theirs.example\"\n")
        .expect("a file can be written");
    std::os::unix::fs::symlink("/tmp", root.path().join("etc/nydus")).expect("a link can be made");
    let before = all(root.path());
    init("docker", root.path(), &[]).failed(1, &["daemon.json: it is no JSON", "left alone"]);
    init("containerd", root.path(), &[]).failed(1, &["hosts.toml", "left alone", "127.0.0.1:65001"]);
    init("nydus", root.path(), &[]).failed(1, &["etc/nydus", "leads out of"]);
    init("podman", root.path(), &["--front", "0.0.0.0:65001"]).failed(2, &["no client can connect there"]);
    init("podman", root.path(), &["--registry", "http://a", "--registry", "http://b"])
        .failed(2, &["name one"]);
    init("docker", root.path(), &["--registry", "https://ghcr.io"]).failed(1, &["Docker Hub alone"]);
    init("docker", Path::new("/nonexistent"), &[]).failed(1, &["cannot open /nonexistent"]);
    assert_eq!(all(root.path()), before);
}

fn hosts(root: &Path, host: &str) -> std::path::PathBuf {
    root.join("etc/containerd/certs.d").join(host).join("hosts.toml")
}

/// Each run adds to what earlier ones have asked for, and the way back leads to the beginning.
#[test]
fn what_was_asked_for_earlier_stays() {
    let root = tempfile::tempdir().expect("a temporary directory can be made");
    let own = hosts(root.path(), "own.example");
    fs::create_dir_all(own.parent().expect("a directory")).expect("a directory can be made");
    fs::write(&own, "server = \"http://own.example\"\n").expect("a file can be written");
    let before = all(root.path());
    let text = |host: &str| fs::read_to_string(hosts(root.path(), host)).expect("it is there");
    done(&init("containerd", root.path(), &["--registry", "https://a.example"]));
    let every = init("containerd", root.path(), &[]);
    assert!(done(&every).contains("own.example goes past darter"), "{every:?}");
    assert!(every.out.contains("X-Dragonfly-Registry = \"http://own.example\""), "{every:?}");
    let flags = ["--front", "127.0.0.1:7001", "--registry", "http://b.example:5000"];
    done(&init("containerd", root.path(), &flags));
    for host in ["_default", "a.example", "b.example:5000"] {
        assert!(text(host).contains("127.0.0.1:7001"), "{host}: {}", text(host));
    }
    assert_eq!(text("own.example"), "server = \"http://own.example\"\n");
    let again = init("containerd", root.path(), &flags[..2]);
    assert!(done(&again).contains("is as it should be") && !again.out.contains("written"), "{again:?}");
    // One that cannot be has all others stay.
    let all_three = all(root.path());
    init("containerd", root.path(), &["--registry", "http://own.example"])
        .failed(1, &["left alone", "X-Dragonfly-Registry = \"http://own.example\""]);
    assert_eq!(all(root.path()), all_three);
    done(&init("containerd", root.path(), &["--undo"]));
    assert_eq!(all(root.path()), before);

    // These have one only, and what is taken back is told.
    done(&init("nydus", root.path(), &["--registry", "https://a.example"]));
    done(&init("nydus", root.path(), &["--registry", "https://b.example"]));
    let mirrors = root.path().join("etc/nydus/certs.d");
    assert!(mirrors.join("a.example/hosts.toml").exists() && mirrors.join("b.example/hosts.toml").exists());
    fs::write(root.path().join("etc/nydus/nydusd-config.json"), NYDUSD).expect("a file can be written");
    let proxy = init("nydus", root.path(), &[]);
    assert!(done(&proxy).contains("a.example/hosts.toml: as it was before; an earlier"), "{proxy:?}");
    init("nydus", root.path(), &["--nydusd-config", "n.json"]).failed(2, &["from that root on"]);
}

const NYDUSD: &str =
    "{\"device\": {\"backend\": {\"type\": \"registry\", \"config\": {\"scheme\": \"https\"}}}}\n";

/// The second file cannot be written: a directory stands in its place.
#[test]
fn all_files_are_written_or_none() {
    let root = tempfile::tempdir().expect("a temporary directory can be made");
    fs::create_dir_all(root.path().join("etc/containerd/certs.d")).expect("a directory can be made");
    fs::write(root.path().join("etc/containerd/certs.d/b.example"), "in the way")
        .expect("a file can be written");
    let before = all(root.path());
    // Beside hosts it may lie.
    let every = init("containerd", root.path(), &[]);
    assert!(done(&every).contains("_default/hosts.toml: written"), "{every:?}");
    let flags = ["--registry", "https://a.example", "--registry", "https://b.example"];
    let written = all(root.path());
    init("containerd", root.path(), &flags).failed(1, &["b.example"]);
    assert_eq!(all(root.path()), written, "the first stays");
    done(&init("containerd", root.path(), &["--undo"]));
    init("containerd", root.path(), &flags).failed(1, &["b.example"]);
    assert_eq!(all(root.path()), before);
}
