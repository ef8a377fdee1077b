//! `darter preheat`: what is wanted later is brought now, and costs the registry nothing then.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use darter::demo::registry::{self, RegistryOptions};
use darter_tests::cli::{Ran, command, ran};
use darter_tests::one_answer::{OneAnswer, answer, header};
use darter_tests::token_registry::{TokenRegistry, basic};
use darter_tests::{Client, Daemon, Image, Origin, Request, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const REPOSITORY: &str = "team/app";

fn daemon(registry: &str) -> Daemon {
    Daemon::builder().registry(registry).capacity("128MiB").prefetch(false).start()
}

fn preheat(daemon: &Daemon, args: &[&str]) -> Ran {
    let (front, admin) = (daemon.front().to_string(), daemon.admin().to_string());
    ran(command(&[&["preheat", "--front", &front, "--admin", &admin], args].concat()))
}

/// Puts an image there, under the tag `1.0`.
fn put(origin: &Origin, image: &Image) {
    for blob in image.blobs() {
        origin.registry().add_blob(REPOSITORY, registry::Blob::bytes(blob.bytes.clone()));
    }
    for manifest in image.manifests() {
        let bytes = manifest.bytes.clone().into();
        origin.registry().add_manifest(REPOSITORY, "1.0", manifest.media_type, bytes);
    }
}

fn name(origin: &Origin) -> String {
    format!("{}/{REPOSITORY}:1.0", origin.registry().host())
}

#[test]
fn an_image_is_there_before_anybody_wants_it() {
    let origin = Origin::start();
    let image = Image::build(1, &[3 * MIB as usize, 50_000]).with_index();
    put(&origin, &image);
    let daemon = daemon(&origin.url());
    let args = [&*name(&origin), "--plain-http", "--platform", "linux/amd64"];
    let done = preheat(&daemon, &[&args[..], &["--json"]].concat()).json();
    let expected = json!({
        "what": name(&origin), "to": "seeds", "platform": "linux/amd64", "contents": 3,
        "digest": image.manifests()[0].digest(), "length_bytes": image.blob_bytes(),
    });
    assert_eq!(done, expected);
    let asked_bytes = origin.blob_bytes();
    assert_eq!(asked_bytes, image.blob_bytes(), "each byte once");
    let mut client = daemon.client();
    for blob in image.blobs() {
        let target = format!("/v2/{REPOSITORY}/blobs/{}", blob.digest());
        let answer = client.fetch(&Request::get(target)).expect("the front answers");
        assert_eq!((answer.status(), answer.body == blob.bytes), (200, true));
    }
    assert_eq!(origin.blob_bytes(), asked_bytes, "nothing more is asked for");

    let again = preheat(&daemon, &args);
    assert_eq!((again.status, again.err.as_str()), (0, ""));
    assert_eq!(again.out, format!("{}  linux/amd64  3 contents, 3.1 MiB, are at the seeds\n", name(&origin)));
    assert_eq!(origin.blob_bytes(), asked_bytes, "nothing more is asked for");
}

#[test]
fn a_url_is_brought_as_well() {
    let origin = Origin::start();
    let blob = origin.blob(1, 2 * MIB + 5);
    let daemon = daemon(&origin.url());
    let done = preheat(&daemon, &[&format!("{}{}", origin.url(), blob.target()), "--json"]).json();
    assert_eq!((&done["contents"], &done["length_bytes"]), (&json!(1), &json!(blob.len())));
    assert_eq!(origin.blob_bytes(), blob.len());
    let answer = daemon.client().fetch(&blob.get()).expect("the front answers");
    assert!(answer.body == blob.bytes(blob.whole()));
    assert_eq!(origin.blob_bytes(), blob.len());
}

/// Without a cluster a node is its own seed, and all nodes.
#[test]
fn one_node_is_all_nodes() {
    let origin = Origin::start();
    let image = Image::build(1, &[100_000]);
    put(&origin, &image);
    let daemon = daemon(&origin.url());
    let done = preheat(&daemon, &[&name(&origin), "--plain-http", "--to", "all", "--json"]).json();
    let told = (&done["to"], &done["nodes"], &done["nodes_done"], &done["not_reached"]);
    assert_eq!(told, (&json!("all"), &json!(1), &json!(1), &json!([])));
    assert_eq!(origin.blob_bytes(), image.blob_bytes());
}

#[test]
fn what_is_not_there_is_told() {
    let origin = Origin::start();
    put(&origin, &Image::build(1, &[1000]));
    let daemon = daemon(&origin.url());
    let missing = format!("{}/{REPOSITORY}:2.0", origin.registry().host());
    preheat(&daemon, &[&missing, "--plain-http"]).failed(3, &["404", "MANIFEST_UNKNOWN"]);
    let args = [&*name(&origin), "--plain-http", "--platform", "linux/arm64"];
    preheat(&daemon, &args).failed(3, &["is for linux/amd64 only", "linux/arm64"]);
    let blob = format!("{}/v2/{REPOSITORY}/blobs/sha256:{}", origin.url(), "0".repeat(64));
    preheat(&daemon, &[&blob]).failed(3, &["404"]);
    assert_eq!(preheat(&daemon, &[&name(&origin), "--to", "some"]).status, 2);
}

#[test]
fn a_private_image_is_asked_for_with_its_token() {
    let origin = Origin::start();
    let image = Image::build(1, &[100_000]);
    put(&origin, &image);
    let tokens = TokenRegistry::before(origin.address());
    tokens.allow("alice", REPOSITORY);
    let door = tokens.door();
    let host = door.address().to_string();
    let realm = tokens.realm().address().to_string();
    let daemon = Daemon::builder()
        .registry(&format!("http://{host}"))
        .allow_registry(&realm)
        .capacity("64MiB")
        .prefetch(false)
        .start();
    let docker = TempDir::new().expect("a temporary directory");
    let auths = json!({ "auths": { &host: { "auth": basic("alice") } } });
    fs::write(docker.path().join("config.json"), auths.to_string()).expect("it can be written");
    let (front, admin) = (daemon.front().to_string(), daemon.admin().to_string());
    let as_user = |what: &str, docker: &TempDir| {
        let mut command = command(&["preheat", what, "--front", &front, "--admin", &admin]);
        command.env("DOCKER_CONFIG", docker.path());
        command
    };
    let image_name = format!("{host}/{REPOSITORY}:1.0");
    let nobody = TempDir::new().expect("a temporary directory");
    let mut refused = as_user(&image_name, &nobody);
    refused.arg("--plain-http");
    ran(refused).failed(1, &["docker login"]);
    let mut allowed = as_user(&image_name, &docker);
    allowed.args(["--plain-http", "--json"]);
    assert_eq!(ran(allowed).json()["length_bytes"], image.blob_bytes());
    // Without a manifest before it, the first refusal is that of the blob.
    let blob = format!("http://{host}/v2/{REPOSITORY}/blobs/{}", image.blobs()[0].digest());
    assert_eq!(ran(as_user(&blob, &docker)).status, 0);
    ran(as_user(&blob, &nobody)).failed(1, &["docker login"]);
}

/// An admin port that says these lines.
fn lines(lines: &[Value]) -> Vec<u8> {
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    answer("200 OK", "Content-Type: application/x-ndjson\r\n", body.as_bytes())
}

fn against(admin: &OneAnswer) -> Ran {
    let admin = admin.address.to_string();
    ran(command(&["preheat", "http://r.example/file", "--admin", &admin, "--json"]))
}

#[test]
fn what_breaks_off_is_tried_again_and_at_last_given_up() {
    let told = std::sync::atomic::AtomicU32::new(0);
    let coming = json!({ "coming": { "come_bytes": 4, "length_bytes": 9 } });
    let admin = OneAnswer::start(move |head| {
        assert!(
            head.starts_with("POST /api/v1/preheat?url=http%3A%2F%2Fr.example%2Ffile&to=seeds "),
            "{head}"
        );
        assert!(header(head, "host").is_some_and(|host| host.starts_with("127.0.0.1:")), "{head}");
        match told.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => lines(std::slice::from_ref(&coming)),
            1 => lines(&[json!({ "failed": { "message": "a cut" } })]),
            2 => {
                let busy = json!({ "error": { "code": "busy", "message": "too many" } });
                answer("503 Service Unavailable", "", busy.to_string().as_bytes())
            }
            _ => lines(&[coming.clone(), json!({ "done": { "come_bytes": 9 } })]),
        }
    });
    assert_eq!(against(&admin).json()["length_bytes"], 9);

    let broken = OneAnswer::start(|_| lines(&[json!({ "failed": { "message": "the disk is full" } })]));
    against(&broken).failed(1, &["the disk is full", "the same command goes on"]);
    assert_eq!(broken.heads().len(), 5);
    let other = OneAnswer::start(|_| answer("200 OK", "", b"hello\n"));
    against(&other).failed(1, &["is no line"]);
    let refusing = OneAnswer::start(|_| {
        let refused = json!({ "error": { "code": "forbidden", "message": "not from here" } });
        answer("403 Forbidden", "", refused.to_string().as_bytes())
    });
    against(&refusing).failed(1, &["not from here"]);
}

#[test]
fn ctrl_c_stops_the_daemon_too() {
    let origin =
        Origin::with(RegistryOptions { bandwidth_bytes_per_s: Some(MIB), ..RegistryOptions::default() });
    let blob = origin.blob(1, 40 * MIB);
    let daemon = daemon(&origin.url());
    let (front, admin) = (daemon.front().to_string(), daemon.admin().to_string());
    let url = format!("{}{}", origin.url(), blob.target());
    let mut preheating = command(&["preheat", &url, "--front", &front, "--admin", &admin]);
    let child = preheating.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    wait_until(Duration::from_secs(60), || origin.blob_bytes() > MIB, || "nothing comes".into());
    kill_process(Pid::from_child(&child), Signal::INT).expect("a child can be signalled by its parent");
    let output = child.wait_with_output().expect("a child can be waited for");
    let err = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(130), "{err}");
    assert!(err.contains("the same command goes on"), "{err}");
    // The registry sends what was asked for already, and no more.
    origin.wait_until_quiet();
    assert!(origin.blob_bytes() < blob.len() / 2, "{}", origin.blob_bytes());
}

#[test]
fn a_web_page_brings_nothing() {
    let origin = Origin::start();
    let blob = origin.blob(1, 1000);
    let daemon = daemon(&origin.url());
    let target = format!("/api/v1/preheat?url={}{}", origin.url(), blob.target());
    let mut admin = Client::new(daemon.admin());
    let foreign = Request::post(target).header("Origin", "http://evil.example");
    assert_eq!(admin.fetch(&foreign).expect("an answer").status(), 403);
    assert_eq!(origin.blob_bytes(), 0);
}
