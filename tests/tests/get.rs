//! `darter get` through a real daemon, and against a front that misbehaves: what a digest names is checked, what was
//! cut or killed is gone on with, and what is wrong gets no name.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use darter::demo::registry::{self, Digest, Faults, RegistryOptions};
use darter_tests::cli::{Ran, command, ran};
use darter_tests::need::{Need, need};
use darter_tests::{Blob, Daemon, Mounted, Origin, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const REPOSITORY: &str = "team/app";
const OCI: &str = "application/vnd.oci.image";

/// A directory to fetch into, and a front to fetch through.
struct Getter {
    directory: TempDir,
    front: SocketAddr,
}

impl Getter {
    fn new(front: SocketAddr) -> Getter {
        Getter { directory: TempDir::new().expect("a temporary directory can be made"), front }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("out")
    }

    fn part(&self) -> PathBuf {
        self.directory.path().join("out.part")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = command(&[&["get"], args].concat());
        command.arg("--front").arg(self.front.to_string()).arg("-o").arg(self.path());
        command
    }

    fn get(&self, args: &[&str]) -> Ran {
        ran(self.command(args))
    }

    fn start(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary can be executed")
    }

    /// What is in the directory, sorted.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).expect("the directory is there");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }

    fn part_bytes(&self) -> u64 {
        fs::metadata(self.part()).map_or(0, |part| part.len())
    }

    fn holds(&self, bytes: &[u8]) {
        let found = fs::read(self.path()).expect("the file is there");
        assert!(found == bytes, "{} bytes, and not the {} expected", found.len(), bytes.len());
        assert_eq!(self.names(), ["out"], "nothing is left beside it");
    }
}

fn daemon(origin: &Origin) -> Daemon {
    Daemon::builder().registry(&origin.url()).capacity("128MiB").prefetch(false).start()
}

fn url(origin: &Origin, blob: &Blob) -> String {
    format!("{}{}", origin.url(), blob.target())
}

/// As slow as a test needs that wants to interfere.
fn slow() -> Origin {
    Origin::with(RegistryOptions { bandwidth_bytes_per_s: Some(8 * MIB), ..RegistryOptions::default() })
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("a child can be signalled by its parent");
}

#[test]
fn a_blob_comes_into_its_file_and_is_not_asked_for_again() {
    let origin = Origin::start();
    let blob = origin.blob(1, 9 * MIB + 3);
    let daemon = daemon(&origin);
    let getter = Getter::new(daemon.front());
    let got = getter.get(&[&url(&origin, &blob)]);
    assert_eq!((got.status, got.err.as_str()), (0, ""));
    assert_eq!(got.out, format!("{}  9.1 MiB  {}\n", getter.path().display(), blob.digest()));
    getter.holds(&blob.bytes(blob.whole()));

    drop(daemon);
    // Nobody has to be asked for what is there.
    let again = getter.get(&[&url(&origin, &blob), "--json"]).json();
    let expected = [
        ("digest", Value::from(blob.digest())),
        ("length_bytes", blob.len().into()),
        ("already_there", true.into()),
    ];
    for (name, value) in expected {
        assert_eq!(again[name], value, "{again}");
    }
}

#[test]
fn a_killed_run_is_gone_on_with() {
    let origin = slow();
    let blob = origin.blob(1, 40 * MIB + 3);
    let daemon = daemon(&origin);
    let tap = Tap::on(daemon.front());
    let getter = Getter::new(tap.address);
    let mut child = getter.start(&[&url(&origin, &blob)]);
    wait_until(Duration::from_secs(60), || getter.part_bytes() > 2 * MIB, || "nothing comes".into());
    child.kill().expect("a child can be killed");
    child.wait().expect("a child can be waited for");
    let kept = getter.part_bytes();
    assert!(kept < blob.len() && !getter.path().exists());

    let before = tap.heads().len();
    let got = getter.get(&[&url(&origin, &blob), "--json"]).json();
    assert_eq!(got["resumed_from_bytes"], kept);
    getter.holds(&blob.bytes(blob.whole()));
    assert_eq!(range(&tap.heads()[0]), None);
    assert_eq!(range(&tap.heads()[before]), usize::try_from(kept).ok(), "only the rest is asked for");
}

#[test]
fn ctrl_c_keeps_what_has_come_and_says_how_to_go_on() {
    for (stop, name) in [(Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM")] {
        let origin = slow();
        let blob = origin.blob(1, 40 * MIB);
        let daemon = daemon(&origin);
        let getter = Getter::new(daemon.front());
        let child = getter.start(&[&url(&origin, &blob)]);
        wait_until(Duration::from_secs(60), || getter.part_bytes() > MIB, || "nothing comes".into());
        signal(&child, stop);
        let output = child.wait_with_output().expect("a child can be waited for");
        let err = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(130), "{name}: {err}");
        assert!(err.contains("out.part") && err.contains("the same command goes on"), "{name}: {err}");
        let kept = getter.part_bytes();
        assert!(kept > MIB && kept < blob.len(), "{name}: {kept}");
        let got = getter.get(&[&url(&origin, &blob), "--json"]).json();
        assert_eq!(got["resumed_from_bytes"], kept, "{name}");
        getter.holds(&blob.bytes(blob.whole()));
    }
}

#[test]
fn a_long_fetch_tells_how_far_it_is() {
    let origin =
        Origin::with(RegistryOptions { bandwidth_bytes_per_s: Some(2 * MIB), ..RegistryOptions::default() });
    let blob = origin.blob(1, 12 * MIB);
    let daemon = daemon(&origin);
    let getter = Getter::new(daemon.front());
    let got = getter.get(&[&url(&origin, &blob)]);
    assert_eq!(got.status, 0, "{got:?}");
    let lines: Vec<_> = got.err.lines().collect();
    assert!(!lines.is_empty(), "{got:?}");
    for line in lines {
        assert!(
            line.contains("MiB of 12.0 MiB, ") && line.contains(" MiB/s") && !line.contains('\x1b'),
            "{line}"
        );
    }
}

#[test]
fn a_terminal_gets_a_bar() {
    if !need("a_terminal_gets_a_bar", &[Need::Program { name: "script", package: "bsdutils" }]) {
        return;
    }
    let origin =
        Origin::with(RegistryOptions { bandwidth_bytes_per_s: Some(2 * MIB), ..RegistryOptions::default() });
    let blob = origin.blob(1, 6 * MIB);
    let daemon = daemon(&origin);
    let getter = Getter::new(daemon.front());
    let get = getter.command(&[&url(&origin, &blob)]);
    let words = [get.get_program()].into_iter().chain(get.get_args());
    let line = words.map(|word| word.to_str().expect("UTF-8")).collect::<Vec<_>>().join(" ");
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null());
    let shown = ran(script);
    assert_eq!(shown.status, 0, "{shown:?}");
    let bars: Vec<_> = shown.out.split('\r').filter(|part| part.starts_with("\x1b[K[")).collect();
    assert!(!bars.is_empty() && bars.iter().all(|bar| bar.contains(" MiB/s")), "{shown:?}");
    assert!(shown.out.trim_end().ends_with(&blob.digest()), "{shown:?}");
    getter.holds(&blob.bytes(blob.whole()));
}

#[test]
fn wrong_bytes_get_no_name() {
    let origin = Origin::start();
    let blob = origin.blob(1, 3 * MIB);
    origin.faults(Faults { flip_byte_at: Some(MIB), ..Faults::default() });
    let daemon = daemon(&origin);
    let getter = Getter::new(daemon.front());
    let got = getter.get(&[&url(&origin, &blob)]);
    assert!(
        got.status == 1 || got.status == 5,
        "the daemon finds it first, and says so or breaks off: {got:?}"
    );
    assert!(!getter.path().exists(), "{got:?}");
    // When the registry is right again, so is the file: what was kept of the wrong bytes does no harm. The daemon
    // may remember the wrong copy for a minute.
    drop(daemon);
    origin.faults(Faults::default());
    let healthy = self::daemon(&origin);
    let getter = Getter { directory: getter.directory, front: healthy.front() };
    assert_eq!(getter.get(&[&url(&origin, &blob)]).status, 0);
    getter.holds(&blob.bytes(blob.whole()));
}

#[test]
fn a_front_that_lies_is_found_out() {
    let bytes = sample(100_000);
    let digest = Digest::of(b"something else");
    let front = Server::start(move |_| answer("200 OK", "", &bytes));
    let getter = Getter::new(front.address);
    let got = getter.get(&[&format!("http://r.example/v2/a/blobs/{digest}")]);
    got.failed(5, &["other bytes than its digest says", "nothing of it is kept"]);
    assert_eq!(getter.names(), [""; 0]);
}

#[test]
fn what_is_cut_is_asked_for_from_there() {
    let bytes = sample(300_000);
    let digest = Digest::of(&bytes);
    let served = bytes.clone();
    let front = Server::start(move |head| match range(head) {
        // Announced in full, and cut.
        None => head_of("200 OK", "", served.len()) + &served[..100_000],
        Some(first) if first < 250_000 => {
            head_of("206 Partial Content", &content_range(first, served.len()), served.len() - first)
                + &served[first..first + 75_000]
        }
        Some(first) => answer("206 Partial Content", &content_range(first, served.len()), &served[first..]),
    });
    let getter = Getter::new(front.address);
    let got = getter.get(&[&format!("http://r.example/v2/a/blobs/{digest}")]);
    assert_eq!(got.status, 0, "{got:?}");
    getter.holds(&bytes);
    let ranges: Vec<_> = front.heads().iter().map(|head| range(head)).collect();
    assert_eq!(ranges, [None, Some(100_000), Some(175_000), Some(250_000)]);
}

#[test]
fn a_server_that_never_brings_more_is_given_up() {
    let bytes = sample(100_000);
    let digest = Digest::of(&bytes);
    let front = Server::start(move |head| match range(head) {
        None => head_of("200 OK", "", bytes.len()) + &bytes[..1000],
        Some(first) => {
            head_of("206 Partial Content", &content_range(first, bytes.len()), bytes.len() - first)
        }
    });
    let getter = Getter::new(front.address);
    let got = getter.get(&[&format!("http://r.example/v2/a/blobs/{digest}")]);
    got.failed(1, &["out.part has what has come", "the same command goes on"]);
    assert_eq!(getter.part_bytes(), 1000);
}

#[test]
fn a_part_of_other_bytes_is_not_mixed_in() {
    let (old, new) = (sample(200_000), vec![7; 150_000]);
    let version = Arc::new(Mutex::new(0));
    let (now, first, second) = (version.clone(), old.clone(), new.clone());
    // No digest names it; an ETag says whether it is still the same.
    let server = Server::start(move |head| {
        let (bytes, etag) =
            if *now.lock().unwrap() == 0 { (&first, "\"old\"") } else { (&second, "\"new\"") };
        let tag = format!("ETag: {etag}\r\n");
        match (range(head), header(head, "if-range")) {
            (Some(from), Some(asked)) if asked == etag => {
                answer("206 Partial Content", &(content_range(from, bytes.len()) + &tag), &bytes[from..])
            }
            (Some(_), None) => panic!("a range without If-Range: {head}"),
            (None, _) if *now.lock().unwrap() == 0 => head_of("200 OK", &tag, bytes.len()) + &bytes[..90_000],
            _ => answer("200 OK", &tag, bytes),
        }
    });
    // Cut in the middle, and gone on with while it is the same.
    let getter = Getter::new(server.address);
    let got = getter.get(&["http://files.example/a.bin", "--json"]);
    assert_eq!(got.json()["length_bytes"], 200_000, "{got:?}");
    getter.holds(&old);
    // The targets are absolute: the front is a forward proxy for what is not below /v2/.
    assert!(
        server.heads().iter().all(|head| head.starts_with("GET http://files.example/a.bin HTTP/1.1\r\n"))
    );

    // A part from a killed run, and then the file changes.
    fs::rename(getter.path(), getter.part()).expect("a file can be renamed");
    fs::File::options()
        .write(true)
        .open(getter.part())
        .and_then(|part| part.set_len(50_000))
        .expect("it can be cut");
    let source = json!({ "content": format!("url:{}", &sha256(b"http://files.example/a.bin")), "validator": "\"old\"" });
    fs::write(getter.directory.path().join("out.part.json"), source.to_string()).expect("it can be written");
    *version.lock().unwrap() = 1;
    let got = getter.get(&["http://files.example/a.bin", "--json"]);
    assert_eq!(got.json()["resumed_from_bytes"], 0, "{got:?}");
    getter.holds(&new);
    assert_eq!(
        server.heads().last().map(|head| (range(head), header(head, "if-range").map(str::to_owned))),
        Some((Some(50_000), Some("\"old\"".into())))
    );

    // A part of which nothing is known is not used.
    fs::rename(getter.path(), getter.part()).expect("a file can be renamed");
    assert_eq!(getter.get(&["http://files.example/a.bin"]).status, 0);
    getter.holds(&new);
    assert_eq!(server.heads().last().and_then(|head| range(head)), None);
}

#[test]
fn a_url_that_is_no_blob_goes_through_the_daemon_as_a_forward_proxy() {
    let bytes = sample(500_000);
    let served = bytes.clone();
    let server = Server::start(move |_| answer("200 OK", "", &served));
    let daemon = Daemon::builder().allow_registry(&server.address.to_string()).start();
    let getter = Getter::new(daemon.front());
    let got = getter.get(&[&format!("http://{}/some/file.bin?x=1", server.address)]);
    assert_eq!(got.status, 0, "{got:?}");
    getter.holds(&bytes);
    assert!(server.heads()[0].starts_with("GET /some/file.bin?x=1 HTTP/1.1\r\n"), "{:?}", server.heads());
}

#[test]
fn refusals_are_told_as_what_they_are() {
    let origin = Origin::start();
    let blob = origin.blob(1, 100);
    let daemon = daemon(&origin);
    let getter = Getter::new(daemon.front());
    let missing = format!("{}/v2/library/scenario/blobs/{}", origin.url(), Digest::of(b"x"));
    getter.get(&[&missing]).failed(3, &["404", "BLOB_UNKNOWN"]);
    let server = Server::start(|_| answer("403 Forbidden", "", b"\x1b[31mno\x07"));
    let refused = Getter::new(server.address).get(&[&url(&origin, &blob)]);
    refused.failed(1, &["403", "[31mno", "docker login"]);
    assert!(!refused.err.contains(['\x1b', '\x07']), "{refused:?}");
}

#[test]
fn a_place_that_cannot_be_written_to_is_told() {
    let origin = Origin::start();
    let blob = origin.blob(1, 5 * MIB);
    let daemon = daemon(&origin);
    let getter = Getter::new(daemon.front());
    fs::create_dir(getter.path()).expect("a directory can be made");
    getter.get(&[&url(&origin, &blob)]).failed(1, &["is a directory", "-o"]);
    let nowhere = Getter { directory: TempDir::new().expect("a temporary directory"), front: getter.front };
    nowhere.directory.path().metadata().expect("it is there");
    fs::remove_dir(nowhere.directory.path()).expect("it is empty");
    nowhere.get(&[&url(&origin, &blob)]).failed(1, &["out.part", "No such file", "-o"]);
}

#[test]
fn a_full_disk_keeps_what_has_come() {
    if !need("a_full_disk_keeps_what_has_come", &[Need::Root]) {
        return;
    }
    let origin = Origin::start();
    let blob = origin.blob(1, 9 * MIB);
    let daemon = daemon(&origin);
    let getter = Getter::new(daemon.front());
    {
        let _small = Mounted::tmpfs(getter.directory.path(), 4 * MIB);
        let got = getter.get(&[&url(&origin, &blob)]);
        got.failed(1, &["out.part", "No space left on device", "make room"]);
        assert!(getter.part_bytes() > 3 * MIB && !getter.path().exists());
    }
    assert_eq!(getter.get(&[&url(&origin, &blob)]).status, 0);
}

/// An image for two platforms, whose larger layer is `layer`.
struct Image {
    origin: Origin,
    layers: [registry::Blob; 3],
    amd64: Digest,
}

impl Image {
    fn put(origin: Origin) -> Image {
        let layers =
            [(1, 6 * MIB), (2, 70_000), (3, 1)].map(|(seed, len)| registry::Blob::synthetic(seed, len));
        let mut amd64 = None;
        let mut manifests = Vec::new();
        for (architecture, layers) in [("arm64", &layers[2..]), ("amd64", &layers[..2])] {
            let config = json!({ "os": "linux", "architecture": architecture, "rootfs": {} }).to_string();
            let config = registry::Blob::bytes(config);
            for blob in layers.iter().chain([&config]) {
                origin.registry().add_blob(REPOSITORY, blob.clone());
            }
            let described: Vec<_> =
                layers.iter().map(|layer| descriptor("layer.v1.tar+gzip", layer)).collect();
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": format!("{OCI}.manifest.v1+json"),
                "config": descriptor("config.v1+json", &config),
                "layers": described,
            });
            let body = manifest.to_string();
            let media_type = format!("{OCI}.manifest.v1+json");
            let digest =
                origin.registry().add_manifest(REPOSITORY, architecture, &media_type, body.clone().into());
            amd64 = Some(digest);
            manifests.push(json!({
                "mediaType": media_type,
                "digest": digest.to_string(),
                "size": body.len(),
                "platform": { "os": "linux", "architecture": architecture },
            }));
        }
        let index = json!({ "schemaVersion": 2, "mediaType": format!("{OCI}.index.v1+json"), "manifests": manifests });
        let media_type = format!("{OCI}.index.v1+json");
        origin.registry().add_manifest(REPOSITORY, "1.0", &media_type, index.to_string().into());
        Image { origin, layers, amd64: amd64.expect("it was put in last") }
    }

    fn name(&self, tag: &str) -> String {
        format!("{}/{REPOSITORY}{tag}", self.origin.registry().host())
    }
}

fn descriptor(media_type: &str, blob: &registry::Blob) -> Value {
    json!({ "mediaType": format!("{OCI}.{media_type}"), "digest": blob.digest().to_string(), "size": blob.len() })
}

/// Checks each blob against its name; how many there are.
fn right_blobs(layout: &Path) -> usize {
    let blobs: Vec<_> = fs::read_dir(layout.join("blobs/sha256")).expect("blobs").collect();
    for blob in &blobs {
        let path = blob.as_ref().expect("an entry").path();
        let found = sha256(&fs::read(&path).expect("a blob"));
        assert_eq!(path.file_name().and_then(|name| name.to_str()), Some(&*found));
    }
    blobs.len()
}

fn index_of(layout: &Path) -> Value {
    serde_json::from_slice(&fs::read(layout.join("index.json")).expect("an index")).expect("JSON")
}

#[test]
fn an_image_becomes_an_oci_layout() {
    let image = Image::put(Origin::start());
    let daemon = daemon(&image.origin);
    let getter = Getter::new(daemon.front());
    let amd64 = ["--plain-http", "--platform", "linux/amd64"];
    let got = getter.get(&[&[&*image.name(":1.0"), "--json"], &amd64[..]].concat()).json();
    let layout = getter.path();
    assert_eq!((&got["digest"], &got["platform"]), (&image.amd64.to_string().into(), &"linux/amd64".into()));
    assert_eq!((&got["layers"], &got["resumed_from_bytes"]), (&2.into(), &0.into()));
    assert_eq!(fs::read(layout.join("oci-layout")).expect("it"), br#"{"imageLayoutVersion":"1.0.0"}"#);
    assert_eq!(right_blobs(&layout), 4, "manifest, configuration and two layers");
    let index = index_of(&layout);
    let entry = &index["manifests"][0];
    assert_eq!(entry["digest"], image.amd64.to_string());
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "1.0");
    assert_eq!(entry["platform"], json!({ "os": "linux", "architecture": "amd64" }));

    // The same again asks for no blob, and repairs one that is wrong.
    let hurt = layout.join("blobs/sha256").join(&image.layers[1].digest().to_string()["sha256:".len()..]);
    fs::write(&hurt, "hurt").expect("a blob can be overwritten");
    let again = getter.get(&[&[&*image.name(":1.0"), "--json"], &amd64[..]].concat()).json();
    assert_eq!(again["resumed_from_bytes"].as_u64(), again["length_bytes"].as_u64().map(|all| all - 70_000));
    assert_eq!(right_blobs(&layout), 4);

    // Another platform beside it.
    let got = getter.get(&[&image.name(":1.0"), "--plain-http", "--platform", "linux/arm64"]);
    assert_eq!(got.status, 0, "{got:?}");
    assert!(got.out.contains("linux/arm64"), "{got:?}");
    assert_eq!(right_blobs(&layout), 7);
    assert_eq!(index_of(&layout)["manifests"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_platform_that_is_not_there_is_told_with_those_that_are() {
    let image = Image::put(Origin::start());
    let daemon = daemon(&image.origin);
    let getter = Getter::new(daemon.front());
    let got = getter.get(&[&image.name(":1.0"), "--plain-http", "--platform", "linux/riscv64"]);
    got.failed(3, &["linux/riscv64", "linux/arm64, linux/amd64", "--platform"]);
    // A tag of one image tells its platform in its configuration.
    let got = getter.get(&[&image.name(":arm64"), "--plain-http", "--platform", "linux/amd64"]);
    got.failed(3, &["is for linux/arm64 only"]);
    getter.get(&[&image.name(":2.0"), "--plain-http"]).failed(3, &["404", "MANIFEST_UNKNOWN"]);
}

#[test]
fn an_image_by_digest_is_that_image() {
    let image = Image::put(Origin::start());
    let daemon = daemon(&image.origin);
    let getter = Getter::new(daemon.front());
    let got = getter.get(&[&image.name(&format!("@{}", image.amd64)), "--plain-http", "--json"]).json();
    assert_eq!(got["digest"], image.amd64.to_string());
    assert_eq!(index_of(&getter.path())["manifests"][0]["annotations"], Value::Null);
    // A registry that has another manifest under a digest than it says.
    let lying = Server::start(|_| {
        answer("200 OK", "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n", b"{}")
    });
    let getter = Getter::new(lying.address);
    let got = getter.get(&[&image.name(&format!("@{}", image.amd64)), "--plain-http"]);
    got.failed(5, &["other bytes than its digest says"]);
    assert_eq!(getter.names(), [""; 0]);
}

#[test]
fn a_killed_image_is_gone_on_with() {
    let origin =
        Origin::with(RegistryOptions { bandwidth_bytes_per_s: Some(2 * MIB), ..RegistryOptions::default() });
    let image = Image::put(origin);
    let daemon = daemon(&image.origin);
    let getter = Getter::new(daemon.front());
    let digits = &image.layers[0].digest().to_string()["sha256:".len()..];
    let part = getter.path().join(format!("blobs/sha256/{digits}.part"));
    let part_bytes = || fs::metadata(&part).map_or(0, |part| part.len());
    let args = [&*image.name(":1.0"), "--plain-http", "--platform", "linux/amd64"];
    let mut child = getter.start(&args);
    wait_until(Duration::from_secs(60), || part_bytes() > 300_000, || "nothing comes".into());
    child.kill().expect("a child can be killed");
    child.wait().expect("a child can be waited for");
    let kept = part_bytes();
    assert!(kept < 6 * MIB && !getter.path().join("index.json").exists());
    let got = getter.get(&[&args[..], &["--json"]].concat()).json();
    assert!(got["resumed_from_bytes"].as_u64() >= Some(kept), "{got}");
    assert_eq!(right_blobs(&getter.path()), 4);
}

#[test]
fn a_token_is_asked_for_where_the_registry_says_and_with_its_own_password() {
    let realm = Server::start(|head| {
        assert_eq!(header(head, "authorization"), Some("Basic bWU6c2VjcmV0"), "{head}");
        answer("200 OK", "", br#"{"token":"the-token"}"#)
    });
    let bytes = sample(1000);
    let (digest, served, realm_address) = (Digest::of(&bytes), bytes.clone(), realm.address);
    let front = Server::start(move |head| match header(head, "authorization") {
        Some("Bearer the-token") => answer("200 OK", "", &served),
        Some(other) => panic!("not for the front: {other}"),
        None => {
            let realm = format!(
                "Bearer realm=\"http://{realm_address}/token\",service=\"r\",scope=\"repository:a:pull\""
            );
            answer("401 Unauthorized", &format!("WWW-Authenticate: {realm}\r\n"), b"")
        }
    });
    let getter = Getter::new(front.address);
    let docker = TempDir::new().expect("a temporary directory");
    let auths = json!({ "auths": {
        "r.example": { "auth": "bWU6c2VjcmV0" },
        "other.example": { "auth": "b3RoZXI6c2VjcmV0" },
    } });
    fs::write(docker.path().join("config.json"), auths.to_string()).expect("it can be written");
    let mut command = getter.command(&[&format!("http://r.example/v2/a/blobs/{digest}")]);
    let got = ran({
        command.env("DOCKER_CONFIG", docker.path());
        command
    });
    assert_eq!(got.status, 0, "{got:?}");
    getter.holds(&bytes);
    assert!(
        realm.heads()[0].starts_with("GET /token?service=r&scope=repository%3Aa%3Apull HTTP/1.1\r\n"),
        "{:?}",
        realm.heads()
    );
    assert_eq!(front.heads().len(), 2);
    assert_eq!(header(&front.heads()[1], "x-dragonfly-registry"), Some("http://r.example"));
}

#[test]
fn a_password_for_a_registry_with_tls_is_not_sent_without() {
    let realm = Server::start(|head| {
        assert_eq!(header(head, "authorization"), None, "{head}");
        answer("401 Unauthorized", "", b"")
    });
    let realm_address = realm.address;
    let front = Server::start(move |head| {
        assert_eq!(header(head, "authorization"), None, "{head}");
        answer(
            "401 Unauthorized",
            &format!("WWW-Authenticate: Bearer realm=\"http://{realm_address}/token\"\r\n"),
            b"",
        )
    });
    let getter = Getter::new(front.address);
    let docker = TempDir::new().expect("a temporary directory");
    fs::write(docker.path().join("config.json"), r#"{"auths":{"r.example":{"auth":"bWU6c2VjcmV0"}}}"#)
        .expect("it can be written");
    let mut command = getter.command(&["r.example/app"]);
    let got = ran({
        command.env("DOCKER_CONFIG", docker.path());
        command
    });
    got.failed(1, &["gives out tokens at", "401", "docker login r.example"]);
    assert_eq!(realm.heads().len(), 1);
}

/// Bytes that do not repeat.
fn sample(len: u64) -> Vec<u8> {
    let blob = registry::Blob::synthetic(99, len);
    let mut bytes = vec![0; usize::try_from(len).expect("a small sample")];
    blob.read_exact_at(&mut bytes, 0).expect("generated content can be read");
    bytes
}

fn sha256(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()["sha256:".len()..].to_owned()
}

/// A server of one answer per connection, which notes what it was asked.
struct Server {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answer: impl Fn(&str) -> Bytes + Send + Sync + 'static) -> Server {
        Server::serving(move |head, client| {
            // A client that has seen enough leaves.
            let _ = client.write_all(&answer(head).0);
        })
    }

    fn serving(serve: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = listener.local_addr().expect("a bound socket has an address");
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (noted, serve) = (heads.clone(), Arc::new(serve));
        // It ends with the process.
        thread::spawn(move || {
            for client in listener.incoming() {
                let (mut client, noted, serve) =
                    (client.expect("a connection"), noted.clone(), serve.clone());
                thread::spawn(move || {
                    let head = read_head(&client);
                    if !head.is_empty() {
                        noted.lock().expect("no holder panics").push(head.clone());
                        serve(&head, &mut client);
                        let _ = client.shutdown(Shutdown::Write);
                        // Read to the end, so that closing sends no reset ahead of the answer.
                        let _ = client.read_to_end(&mut Vec::new());
                    }
                });
            }
        });
        Server { address, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no holder panics").clone()
    }
}

/// A front seen through: what goes to it is noted.
struct Tap;

impl Tap {
    fn on(front: SocketAddr) -> Server {
        Server::serving(move |head, client| {
            let mut server = TcpStream::connect(front).expect("the front listens");
            server.write_all(head.as_bytes()).expect("the front reads");
            let _ = std::io::copy(&mut server, client);
        })
    }
}

fn read_head(client: &TcpStream) -> String {
    let mut reader = BufReader::new(client);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return String::new();
        }
    }
    head
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    fields.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// The first byte that is asked for.
fn range(head: &str) -> Option<usize> {
    header(head, "range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

fn content_range(first: usize, length: usize) -> String {
    format!("Content-Range: bytes {first}-{}/{length}\r\n", length - 1)
}

/// An answer, or the beginning of one.
struct Bytes(Vec<u8>);

impl std::ops::Add<&[u8]> for Bytes {
    type Output = Bytes;

    fn add(mut self, more: &[u8]) -> Bytes {
        self.0.extend_from_slice(more);
        self
    }
}

fn head_of(status: &str, fields: &str, length: usize) -> Bytes {
    Bytes(
        format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {length}\r\nConnection: close\r\n\r\n").into(),
    )
}

fn answer(status: &str, fields: &str, body: &[u8]) -> Bytes {
    head_of(status, fields, body.len()) + body
}
