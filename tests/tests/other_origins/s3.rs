//! A real server of S3, and lists of one that names objects as it likes.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use darter_tests::cli::{Ran, command, ran};
use darter_tests::gate::{Gate, GateOptions, Reply, Seen};
use darter_tests::need::{Need, need};
use darter_tests::{Blob, Daemon, Request, S3Server, Scripted, Secrets, wait_until};
use serde_json::Value;
use tempfile::TempDir;

use super::{OBJECT_BYTES, PATIENCE, fetched, names, tree, whole};

const S3: [Need; 1] = [S3Server::NEED];

#[test]
fn an_object_leaves_the_service_once_and_its_signature_is_told_to_nobody() {
    if !need("an_object_leaves_the_service_once_and_its_signature_is_told_to_nobody", &S3) {
        return;
    }
    let scene = Scene::start();
    let blob = scene.put("team/model.bin", 1, OBJECT_BYTES);
    let got = scene.get(&["s3://models/team/model.bin", "--json"]).json();
    assert_eq!(got["digest"], blob.digest());
    assert!(fs::read(scene.out()).unwrap() == blob.bytes(blob.whole()), "the bytes are others");
    assert_eq!(scene.object_bytes("team/model.bin"), OBJECT_BYTES);
    assert_eq!(names(scene.directory.path()), ["out"], "nothing is left beside it");

    fs::remove_file(scene.out()).unwrap();
    // Within one second it would be the same signature.
    let second = unix_second();
    wait_until(PATIENCE, || unix_second() > second, || "the clock stands still".to_owned());
    assert_eq!(scene.get(&["s3://models/team/model.bin", "--json"]).json()["digest"], blob.digest());
    assert_eq!(scene.object_bytes("team/model.bin"), OBJECT_BYTES, "the second one came from the service");
    let asked = scene.asked_of("team/model.bin");
    let (signed, unsigned): (Vec<_>, Vec<_>) =
        asked.iter().partition(|seen| !signature(&seen.asked.target).is_empty());
    assert!(
        signed.iter().all(|seen| seen.asked.method == "GET"),
        "a signature is good for GET only: {asked:?}"
    );
    // Whether anyone may read is asked without one; the answer may be on its way.
    assert!(unsigned.iter().all(|seen| matches!(seen.status, 0 | 403)), "{unsigned:?}");
    assert!(!scene.daemon.log().contains("is public"), "somebody's signature was taken for everybody's");
    let signatures: Vec<_> = signed.iter().map(|seen| signature(&seen.asked.target)).collect();
    assert!(signatures.iter().all(|signature| signature.len() == 64), "{signatures:?}");
    assert_ne!(signatures.first(), signatures.last(), "the second run signed for itself");

    let ls = ran(command(&["ls", "--admin", &scene.daemon.admin().to_string()]));
    let ls_json = ran(command(&["ls", "--json", "--admin", &scene.daemon.admin().to_string()]));
    let told = ["/api/v1/contents", "/api/v1/requests", "/api/v1/status", "/api/v1/history", "/metrics"].map(
        |path| {
            let answer = scene.daemon.admin_client().fetch(&Request::get(path)).unwrap();
            assert_eq!(answer.status(), 200, "{path}");
            String::from_utf8_lossy(&answer.body).into_owned()
        },
    );
    assert!(told[1].contains("/models/team/model.bin"), "the requests are told: {}", told[1]);
    let all = [scene.daemon.log(), ls.out, ls_json.out, told.concat()].concat();
    for secret in
        signatures.iter().map(String::as_str).chain([S3Server::SECRET, S3Server::KEY_ID, "X-Amz-Signature"])
    {
        assert!(!all.contains(secret), "{secret} is told to whoever looks");
    }
}

/// What is here is no reason to give it to anybody.
#[test]
fn who_cannot_sign_gets_nothing_of_what_is_here() {
    if !need("who_cannot_sign_gets_nothing_of_what_is_here", &S3) {
        return;
    }
    let scene = Scene::start();
    scene.put("secret.bin", 1, OBJECT_BYTES);
    assert_eq!(scene.get(&["s3://models/secret.bin"]).status, 0);
    let target = scene.asked_of("secret.bin")[0].asked.target.clone();
    let (path, query) = target.split_once('?').expect("it is signed");
    let forged = query.replace(&signature(&target), &"0".repeat(64));
    let filter = query.split('&').filter_map(|part| part.split('=').next()).collect::<Vec<_>>().join("&");
    let before = scene.object_bytes("secret.bin");
    for query in ["", &format!("?{forged}")] {
        for range in [None, Some(0..100)] {
            let request = Request::get(format!("http://{}{path}{query}", scene.gate.host()))
                .header("X-Dragonfly-Use-P2P", "true")
                .header("X-Dragonfly-Filtered-Query-Params", filter.clone());
            let request = range.into_iter().fold(request, Request::range);
            let answer = scene.daemon.client().fetch(&request).unwrap();
            assert_eq!(answer.status(), 403, "{query}");
            assert!(answer.body.starts_with(b"<?xml"), "the service's own words: {answer:?}");
        }
    }
    assert_eq!(scene.object_bytes("secret.bin"), before);

    let mut wrong = scene.getting(&["s3://models/secret.bin"]);
    wrong.env("AWS_SECRET_ACCESS_KEY", "wrong");
    fs::remove_file(scene.out()).unwrap();
    ran(wrong).failed(1, &["403", "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"]);
    let mut nobody = scene.getting(&["s3://models/secret.bin"]);
    S3Server::as_nobody(&mut nobody);
    ran(nobody).failed(1, &["s3://models/secret.bin", "AWS_ACCESS_KEY_ID", "--storage-anonymous"]);
    let mut anyone = scene.getting(&["s3://models/secret.bin", "--storage-anonymous"]);
    S3Server::as_nobody(&mut anyone);
    ran(anyone).failed(1, &["403", "AccessDenied"]);
    let mut list = scene.getting(&["-r", "s3://models/"]);
    list.env("AWS_SECRET_ACCESS_KEY", "wrong");
    ran(list).failed(1, &["s3://models/ cannot be listed", "SignatureDoesNotMatch", "AWS_ACCESS_KEY_ID"]);
    assert!(names(scene.directory.path()).is_empty(), "nothing is left: {:?}", names(scene.directory.path()));
    scene.get(&["s3://models/absent"]).failed(3, &["404"]);
}

/// Each reader has a signature of its own, and all wait for the same bytes.
#[test]
fn many_at_once_cost_the_service_one_object() {
    if !need("many_at_once_cost_the_service_one_object", &S3) {
        return;
    }
    let scene = Scene::start();
    let blob = scene.put("model.bin", 1, OBJECT_BYTES);
    let directory = scene.directory.path();
    let children: Vec<_> = (0..6)
        .map(|number| {
            let mut command = scene.command(&["get", "s3://models/model.bin"]);
            command.arg("-o").arg(directory.join(number.to_string()));
            // Within one second, only this makes one signature another one than the next.
            command.env("AWS_SESSION_TOKEN", format!("token-{number}"));
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    for number in 0..6 {
        assert!(fs::read(directory.join(number.to_string())).unwrap() == blob.bytes(blob.whole()));
    }
    assert_eq!(scene.object_bytes("model.bin"), OBJECT_BYTES);
    let asked = scene.asked_of("model.bin");
    let mut signatures: Vec<_> = asked.iter().map(|seen| signature(&seen.asked.target)).collect();
    signatures.retain(|signature| !signature.is_empty());
    signatures.sort_unstable();
    signatures.dedup();
    assert_eq!(signatures.len(), 6, "each of them is asked about");
}

#[test]
fn two_nodes_cost_the_service_one_object() {
    if !need("two_nodes_cost_the_service_one_object", &S3) {
        return;
    }
    let server = S3Server::start();
    let blob = Blob::synthetic(1, OBJECT_BYTES);
    server.put("model.bin", &blob.bytes(blob.whole()));
    let gate = Gate::before(server.address());
    let secrets = Secrets::init();
    let seed = secrets.seed().registry("http://127.0.0.1:1").allow_registry(&gate.host()).start();
    let address = seed.peers()["node"]["address"].as_str().unwrap().to_owned();
    let peer = secrets.peer(&address).registry("http://127.0.0.1:1").allow_registry(&gate.host()).start();
    wait_until(PATIENCE, || peer.peers()["standing"] == "joined", || "the peer has not joined".to_owned());
    let directory = TempDir::new().unwrap();
    for (number, node) in [&peer, &seed, &peer].into_iter().enumerate() {
        let out = directory.path().join(number.to_string());
        let mut command = s3_command(&gate, node.front(), &["get", "s3://models/model.bin"]);
        command.arg("-o").arg(&out).env("AWS_SESSION_TOKEN", format!("token-{number}"));
        let got = ran(command);
        assert_eq!(got.status, 0, "{got:?}");
        assert!(fs::read(out).unwrap() == blob.bytes(blob.whole()));
    }
    let given: u64 = objects_in(&gate.seen(), "model.bin").iter().map(fetched).sum();
    assert_eq!(given, OBJECT_BYTES, "{:?}", gate.lines());
}

#[test]
fn all_below_a_directory_comes_as_the_patterns_say() {
    if !need("all_below_a_directory_comes_as_the_patterns_say", &S3) {
        return;
    }
    let scene = Scene::start();
    let objects = [
        "d/a.bin",
        "d/b.txt",
        "d/e/c d.bin",
        "d/e/ä+&.bin",
        "d/e/100%25.bin",
        "d/tmp/x.bin",
        "d/empty.bin",
        "dd/other.bin",
        "z.bin",
    ];
    for (number, key) in objects.into_iter().enumerate() {
        scene.put(key, number as u64, if key.contains("empty") { 0 } else { 70_000 + number as u64 });
    }
    let args = ["-r", "s3://models/d", "--include", "*.bin", "--exclude", "tmp/", "--json"];
    let got = scene.get(&args).json();
    assert_eq!((&got["what"], &got["objects"]), (&"s3://models/d/".into(), &5.into()), "{got}");
    assert_eq!(got["failed_objects"], 0);
    let expected = ["a.bin", "e/100%25.bin", "e/c d.bin", "e/ä+&.bin", "empty.bin"];
    assert_eq!(tree(&scene.out()), expected);
    for name in expected {
        assert!(
            fs::read(scene.out().join(name)).unwrap() == fs::read(scene.file(&format!("d/{name}"))).unwrap(),
            "{name}"
        );
    }
    // The whole bucket, into the same place; what is there is asked about again and does not come again.
    let before = scene.all_bytes();
    assert_eq!(scene.get(&args).json()["objects"], 5);
    assert_eq!(scene.all_bytes(), before, "something came twice");
    fs::remove_dir_all(scene.out()).unwrap();
    assert_eq!(scene.get(&["-r", "s3://models", "--json"]).json()["objects"], 9);
    fs::remove_dir_all(scene.out()).unwrap();
    fs::write(scene.out(), "mine").unwrap();
    scene.get(&["-r", "s3://models"]).failed(1, &["is a file"]);
    assert_eq!(fs::read(scene.out()).unwrap(), b"mine");
    fs::remove_file(scene.out()).unwrap();
    scene.get(&["-r", "s3://models/d", "--include", "*.none"]).failed(3, &["s3://models/d/"]);
    scene.get(&["-r", "s3://models/d", "--include", "[a"]).failed(2, &["[a"]);
    scene.get(&["s3://models/d", "--include", "*.bin"]).failed(2, &["--recursive"]);
}

#[test]
fn an_object_that_does_not_come_is_named_and_the_rest_does() {
    if !need("an_object_that_does_not_come_is_named_and_the_rest_does", &S3) {
        return;
    }
    let scene = Scene::refusing(|path| path.ends_with("/b.bin"));
    for (number, key) in ["d/a.bin", "d/b.bin", "d/c.bin"].into_iter().enumerate() {
        scene.put(key, number as u64, 70_000);
    }
    let got = scene.get(&["-r", "s3://models/d", "--json"]);
    got.failed(1, &["1 objects did not come", "b.bin: ", "403"]);
    let json: Value = serde_json::from_str(&got.out).unwrap();
    assert_eq!((&json["objects"], &json["failed_objects"]), (&2.into(), &1.into()), "{json}");
    assert_eq!(json["failed"][0]["name"], "b.bin");
    assert_eq!(tree(&scene.out()), ["a.bin", "c.bin"], "nothing is under a name that it should not have");
}

/// Whoever can write to a bucket names its objects.
#[test]
fn names_that_lead_elsewhere_are_refused() {
    let keys = [
        "d/good",
        "d/../../escaped",
        "d/..",
        "d/./x",
        "d/a//twice",
        "d//etc/passwd",
        "d/delete\u{7f}x",
        "d/x.part",
        "d/good",
        "elsewhere",
        "d/a/../../../up",
    ];
    let listed: String = keys
        .iter()
        .map(|key| {
            format!(
                "<Contents><Key>{key}</Key><LastModified>2026-11-27T00:00:00.000Z</LastModified><ETag>\"1\"</ETag>\
                 <Size>5</Size><StorageClass>STANDARD</StorageClass></Contents>"
            )
        })
        .collect();
    let without_elsewhere = listed.replace("<Contents><Key>elsewhere<", "<Contents><Key>d/also<");
    for (listed, is_all_below) in [(without_elsewhere, true), (listed, false)] {
        let xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><Name>b</Name><Prefix>d/</Prefix><KeyCount>{}</KeyCount>\
             <MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{listed}</ListBucketResult>",
            keys.len()
        );
        let service = Scripted::start(move |asked| {
            let body = if asked.target().contains("list-type=2") { xml.clone() } else { "bytes".to_owned() };
            whole("application/xml", body.as_bytes())
        });
        let daemon = Daemon::builder().registry("http://127.0.0.1:1").allow_registry(&service.host()).start();
        let directory = TempDir::new().unwrap();
        let out = directory.path().join("a/b/out");
        let mut command =
            command(&["get", "-r", "s3://b/d/", "--storage-endpoint", &service.url(), "--json"]);
        command.args(["--front", &daemon.front().to_string()]).arg("-o").arg(&out);
        S3Server::authorize(&mut command);
        let got = ran(command);
        if !is_all_below {
            got.failed(1, &["elsewhere", "not below it"]);
            continue;
        }
        got.failed(
            1,
            &["..: its name has the part", "(//)", "begins with /", "control character", ".part", "already"],
        );
        let json: Value = serde_json::from_str(&got.out).unwrap();
        assert_eq!(
            json["objects"].as_u64().unwrap() + json["failed_objects"].as_u64().unwrap(),
            keys.len() as u64,
            "{json}"
        );
        assert_eq!(names(directory.path()), ["a"], "nothing is outside");
        assert_eq!(names(&directory.path().join("a")), ["b"]);
        assert_eq!(names(&directory.path().join("a/b")), ["out"]);
        assert_eq!(tree(&out), ["also", "good"]);
    }
}

#[test]
fn what_was_preheated_costs_the_service_nothing_more() {
    if !need("what_was_preheated_costs_the_service_nothing_more", &S3) {
        return;
    }
    let scene = Scene::start();
    let blob = scene.put("d/a.bin", 1, OBJECT_BYTES);
    scene.put("d/b.bin", 2, 70_000);
    scene.put("d/c.txt", 3, 70_000);
    let preheated = scene.preheat(&["s3://models/d/a.bin", "--json"]).json();
    assert_eq!((&preheated["contents"], &preheated["length_bytes"]), (&1.into(), &OBJECT_BYTES.into()));
    let preheated =
        scene.preheat(&["-r", "s3://models/d", "--include", "*.bin", "--to", "all", "--json"]).json();
    assert_eq!((&preheated["contents"], &preheated["nodes_done"]), (&2.into(), &1.into()), "{preheated}");
    assert_eq!(scene.all_bytes(), OBJECT_BYTES + 70_000);
    assert_eq!(scene.get(&["s3://models/d/a.bin", "--json"]).json()["digest"], blob.digest());
    assert_eq!(scene.all_bytes(), OBJECT_BYTES + 70_000, "it came again");
    scene.preheat(&["s3://models/absent"]).failed(3, &["404"]);
    scene.preheat(&["-r", "s3://models/absent/"]).failed(3, &["s3://models/absent/"]);
}

#[test]
fn a_private_service_that_nobody_has_allowed_is_not_asked() {
    if !need("a_private_service_that_nobody_has_allowed_is_not_asked", &S3) {
        return;
    }
    let scene = Scene::start();
    scene.put("a.bin", 1, 70_000);
    let closed = Daemon::builder().registry("http://127.0.0.1:1").start();
    let mut get = s3_command(&scene.gate, closed.front(), &["get", "s3://models/a.bin"]);
    get.arg("-o").arg(scene.out());
    ran(get).failed(1, &["proxy.allowedRegistries", "--allow-registry", &scene.gate.host()]);
    assert!(scene.gate.seen().is_empty(), "{}", scene.gate.lines());
    assert!(names(scene.directory.path()).is_empty());
}

/// A server of S3, one that counts before it, and a daemon that may ask there.
struct Scene {
    server: S3Server,
    gate: Gate,
    daemon: Daemon,
    directory: TempDir,
}

impl Scene {
    fn start() -> Self {
        Self::refusing(|_| false)
    }

    /// The service refuses some paths.
    fn refusing(refused: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        let server = S3Server::start();
        let reply = || Reply { status: 403, headers: Vec::new(), body: "not this one".into() };
        let guard = move |asked: &darter_tests::gate::Asked| refused(asked.path()).then(reply);
        let gate = Gate::with(GateOptions {
            upstream: Some(server.address()),
            guard: Some(Arc::new(guard)),
            ..GateOptions::default()
        });
        let daemon = Daemon::builder()
            .registry("http://127.0.0.1:1")
            .allow_registry(&gate.host())
            .config("verbose: true\n")
            .start();
        Self { server, gate, daemon, directory: TempDir::new().unwrap() }
    }

    fn put(&self, key: &str, seed: u64, bytes: u64) -> Blob {
        let blob = Blob::synthetic(seed, bytes);
        self.server.put(key, &blob.bytes(blob.whole()));
        blob
    }

    /// The file that an object is.
    fn file(&self, key: &str) -> std::path::PathBuf {
        self.server.path(key)
    }

    fn out(&self) -> std::path::PathBuf {
        self.directory.path().join("out")
    }

    fn command(&self, args: &[&str]) -> Command {
        s3_command(&self.gate, self.daemon.front(), args)
    }

    /// `darter get`, not run yet.
    fn getting(&self, args: &[&str]) -> Command {
        let mut command = self.command(&[&["get"], args].concat());
        command.arg("-o").arg(self.out());
        command
    }

    fn get(&self, args: &[&str]) -> Ran {
        ran(self.getting(args))
    }

    fn preheat(&self, args: &[&str]) -> Ran {
        let admin = self.daemon.admin().to_string();
        ran(self.command(&[&["preheat", "--admin", &admin], args].concat()))
    }

    fn asked_of(&self, key: &str) -> Vec<Seen> {
        objects_in(&self.gate.seen(), key)
    }

    /// That the service has given of an object, without questions.
    fn object_bytes(&self, key: &str) -> u64 {
        self.asked_of(key).iter().map(fetched).sum()
    }

    fn all_bytes(&self) -> u64 {
        self.gate.seen().iter().filter(|seen| !seen.asked.target.contains("list-type=2")).map(fetched).sum()
    }
}

fn s3_command(gate: &Gate, front: SocketAddr, args: &[&str]) -> Command {
    let mut command = command(args);
    command.args(["--storage-endpoint", &gate.url(), "--front", &front.to_string()]);
    S3Server::authorize(&mut command);
    command
}

fn objects_in(seen: &[Seen], key: &str) -> Vec<Seen> {
    let path = format!("/{}/{key}", S3Server::BUCKET);
    seen.iter().filter(|seen| seen.asked.path() == path).cloned().collect()
}

fn unix_second() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn signature(target: &str) -> String {
    let value = target.split(['?', '&']).find_map(|part| part.strip_prefix("X-Amz-Signature="));
    value.unwrap_or_default().to_owned()
}
