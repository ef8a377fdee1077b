//! An operator edits the configuration of a node that is in use, and has it read again: nothing stops, what can change
//! has changed when the command returns, and what is wrong changes nothing.

use std::fs;
use std::io::Read;
use std::time::Duration;

use darter::demo::registry::RegistryOptions;
use darter_tests::cli::{Ran, darter};
use darter_tests::{Blob, Client, Daemon, Io, Origin, Request, on_both_io, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

on_both_io!(a_download_under_way_ends_right);

const MIB: u64 = 1 << 20;
/// Nobody listens there.
const NOWHERE: &str = "http://127.0.0.1:1";
const SOON: Duration = Duration::from_secs(20);

/// A daemon whose configuration is a file, and a registry that it need not know.
struct Node {
    origin: Origin,
    daemon: Daemon,
    /// Kept over all changes: what holds now holds for connections that are there too.
    client: Client,
}

impl Node {
    fn start(config: &str) -> Node {
        let origin = Origin::start();
        let config = for_origin(&origin, config);
        let daemon = Daemon::builder().capacity("64MiB").config(&config).start();
        let client = daemon.client();
        Node { origin, daemon, client }
    }

    /// Edits the file; `ORIGIN` stands for the host of the registry.
    fn edit(&mut self, config: &str) {
        let config = for_origin(&self.origin, config);
        self.daemon.reconfigure(&config);
    }

    fn reload(&self, flags: &[&str]) -> Ran {
        let admin = self.daemon.admin().to_string();
        darter(&[&["reload", "--admin", &admin], flags].concat())
    }

    /// Edits the file and has it taken up.
    fn change(&mut self, config: &str) -> Value {
        self.edit(config);
        self.reload(&["--json"]).json()
    }

    /// SIGHUP, and what is logged until `word` has come.
    fn hang_up(&self, word: &str) -> String {
        let before = self.daemon.log().len();
        self.daemon.signal(Signal::HUP);
        let said = || self.daemon.log()[before..].to_owned();
        wait_until(SOON, || said().contains(word), || format!("{word:?} is not logged: {}", said()));
        said()
    }

    /// The first bytes of a blob that nobody has asked for, with the registry named by the request.
    fn status_of_a_new_blob(&mut self, seed: u64) -> (u16, String) {
        let blob = self.origin.blob(seed, MIB);
        let request = blob.get_range(0..100).header("X-Dragonfly-Registry", self.origin.url());
        let answer = self.client.fetch(&request).expect("the front answers");
        if answer.status() == 206 {
            assert_eq!(answer.body, blob.bytes(0..100));
        }
        (answer.status(), String::from_utf8_lossy(&answer.body).into_owned())
    }
}

fn for_origin(origin: &Origin, config: &str) -> String {
    config.replace("ORIGIN", &origin.registry().host())
}

const CLOSED: &str = "proxy:\n  registryMirror: {url: 'http://127.0.0.1:1'}\n";
const OPEN: &str = "proxy:\n  registryMirror: {url: 'http://127.0.0.1:1'}\n  allowedRegistries: ['ORIGIN']\n";
const READ_AGAIN: &str = "the configuration was read again";

#[test]
fn a_registry_is_allowed_and_forbidden_by_sighup() {
    let mut node = Node::start(CLOSED);
    let refused = |(status, body): (u16, String)| {
        assert_eq!(status, 502, "{body}");
        assert!(body.contains("proxy.allowedRegistries"), "{body}");
    };
    refused(node.status_of_a_new_blob(1));
    node.edit(OPEN);
    refused(node.status_of_a_new_blob(2));
    let log = node.hang_up(READ_AGAIN);
    assert!(log.contains("proxy.allowedRegistries") && log.contains("taken_up=1"), "{log}");
    assert_eq!(node.status_of_a_new_blob(3).0, 206);
    node.edit(CLOSED);
    node.hang_up(READ_AGAIN);
    refused(node.status_of_a_new_blob(4));
}

#[test]
fn the_registry_of_requests_that_name_none_changes() {
    let mut node = Node::start(CLOSED);
    let blob = node.origin.blob(1, MIB);
    assert_eq!(node.client.fetch(&blob.get_range(0..9)).expect("an answer").status(), 502);
    node.change("proxy: {registryMirror: {url: 'http://ORIGIN'}}");
    blob.read(&mut node.client, blob.whole()).expect("a whole answer");
    // Nothing of this is for the cache now: the registry itself answers.
    node.origin.forget();
    node.change("proxy: {registryMirror: {url: 'http://ORIGIN'}, proxies: []}");
    blob.read(&mut node.client, blob.whole()).expect("a whole answer");
    assert_eq!(node.origin.blob_bytes(), MIB);
}

#[test]
fn a_wrong_file_changes_nothing() {
    let mut node = Node::start(OPEN);
    node.edit("verbose: true\nproxy:\n  registryMirror: {url: 'http://127.0.0.1:1'}\n  allowedRegistries: ['http://x']\nshards: 0\n");
    let log = node.hang_up("shards:");
    let at = |place: &str| format!("nothing has changed: {}:{place}", node.daemon.config_path().display());
    assert!(log.contains(&at("4: proxy.allowedRegistries[0]: \"http://x\" is refused")), "{log}");
    assert!(log.contains(&at("5: shards: \"0\" is refused")), "{log}");

    let ran = node.reload(&[]);
    ran.failed(2, &["darter.yaml:4: proxy.allowedRegistries[0]: ", "darter.yaml:5: shards: "]);
    assert_eq!((ran.out.as_str(), ran.err.lines().count()), ("", 2), "{ran:?}");
    let mut admin = Client::new(node.daemon.admin());
    let answer = admin.fetch(&Request::post("/api/v1/reload")).expect("the admin port answers");
    assert_eq!(answer.status(), 400);
    let error = &serde_json::from_slice::<Value>(&answer.body).expect("JSON")["error"];
    assert_eq!(error["code"], "bad_request");
    let places: Vec<_> = error["problems"].as_array().expect("a list").iter().collect();
    assert_eq!(places.len(), 2, "{error}");
    assert_eq!(places[0]["key"], "proxy.allowedRegistries[0]");
    assert_eq!(places[1]["place"], format!("{}:5", node.daemon.config_path().display()));

    assert_eq!(node.status_of_a_new_blob(1).0, 206, "what ran goes on");
    assert!(!node.daemon.log().contains("DEBUG"), "verbose has not been taken up");
    fs::remove_file(node.daemon.config_path()).expect("the file is there");
    node.reload(&[]).failed(2, &["cannot read the configuration file", "darter.yaml"]);
    assert_eq!(node.status_of_a_new_blob(2).0, 206);
    node.edit(CLOSED);
    assert_eq!(node.reload(&["--json"]).json()["taken_up"][0]["key"], "proxy.allowedRegistries");
}

#[test]
fn verbosity_goes_up_and_down() {
    let mut node = Node::start(OPEN);
    let answered = |node: &Node| node.daemon.log().matches("answered").count();
    node.status_of_a_new_blob(1);
    assert_eq!(answered(&node), 0);
    node.change(&format!("{OPEN}verbose: true"));
    node.status_of_a_new_blob(2);
    // It is logged before the answer goes out.
    assert_eq!(answered(&node), 1);
    node.change(OPEN);
    node.status_of_a_new_blob(3);
    assert_eq!(answered(&node), 1);
}

#[test]
fn where_the_environment_decides_on_verbosity_the_answer_says_so() {
    let mut daemon = Daemon::builder().env("DARTER_LOG", "warn").config("verbose: false").start();
    daemon.reconfigure("verbose: true");
    let ran = darter(&["reload", "--admin", &daemon.admin().to_string()]);
    assert!(ran.out.contains("warning: verbose: without effect, since DARTER_LOG is set\n"), "{ran:?}");
    daemon.client().fetch(&Request::get("/server/ping")).expect("an answer");
    assert!(!daemon.log().contains("DEBUG"));
}

#[test]
fn prefetch_is_switched_on_and_off() {
    let mirror = "proxy: {registryMirror: {url: 'http://ORIGIN'}}\n";
    let mut node = Node::start(mirror);
    /// Reads a little of a new blob; what the registry has sent of it when it is quiet again.
    fn cost(node: &mut Node, seed: u64) -> u64 {
        let blob = node.origin.blob(seed, 4 * MIB);
        node.origin.forget();
        blob.read(&mut node.client, 0..10).expect("a whole answer");
        node.origin.wait_until_quiet();
        node.origin.bytes_by_block(&blob).iter().sum()
    }
    let once = cost(&mut node, 1);
    assert!(once < MIB, "{once}");
    let told = node.change(&format!("{mirror}download: {{prefetch: true, prefetchRateLimit: 1GiB}}"));
    assert_eq!(told["taken_up"][0], json!({"key": "download.prefetch", "old": "false", "new": "true"}));
    assert_eq!(cost(&mut node, 2), 4 * MIB);
    node.change(mirror);
    assert_eq!(cost(&mut node, 3), once);
}

#[test]
fn what_needs_a_restart_is_named_each_time_and_left_alone() {
    let mut node = Node::start(&format!("{CLOSED}metrics: {{enable: true}}\n"));
    let edited =
        format!("{OPEN}metrics: {{enable: false}}\nlog: {{format: json}}\nstorage: {{taskExpireTime: 6h}}\n");
    let told = node.change(&edited);
    let file = node.daemon.config_path().display().to_string();
    let waiting = json!([
        {"key": "storage.taskExpireTime", "old": "(kept until evicted)", "new": "6h"},
        {"key": "log.format", "old": "text", "new": "json"},
        {"key": "metrics.enable", "old": "true", "new": "false"},
    ]);
    let list = "(none beside the configured registry)";
    let host = node.origin.registry().host();
    assert_eq!(
        told,
        json!({
            "file": file,
            "taken_up": [{"key": "proxy.allowedRegistries", "old": list, "new": host}],
            "need_restart": waiting,
            "warnings": [],
        })
    );
    assert_eq!(node.daemon.metrics().sum("darter_connections_shed_total"), 0.0, "metrics are served");
    assert_eq!(node.status_of_a_new_blob(1).0, 206);
    let again = node.reload(&[]);
    assert_eq!((again.status, again.err.as_str()), (0, ""));
    assert_eq!(
        again.out,
        format!(
            "storage.taskExpireTime: (kept until evicted) -> 6h (needs a restart)\n\
             log.format: text -> json (needs a restart)\n\
             metrics.enable: true -> false (needs a restart)\n\
             {file} was read again; taken up: 0; need a restart: 3\n"
        )
    );
    let log = node.hang_up("need_restart=3");
    assert!(log.contains("needs a restart") && log.contains("key=\"metrics.enable\""), "{log}");
    node.daemon.stop();
    node.daemon.restart();
    let answer = Client::new(node.daemon.admin()).fetch(&Request::get("/metrics")).expect("an answer");
    assert_eq!(answer.status(), 404);
    assert_eq!(node.reload(&[]).out, format!("{file} was read again; nothing has changed\n"));
}

#[test]
fn flags_lie_over_the_file_again() {
    let mut node = Node::start(OPEN);
    let told = node.change(&format!("{OPEN}  tcpListen: {{listen: 0.0.0.0}}\ndataDir: /elsewhere\n"));
    assert_eq!((&told["taken_up"], &told["need_restart"]), (&json!([]), &json!([])), "{told}");
    assert_eq!(node.status_of_a_new_blob(1).0, 206);
}

#[test]
fn a_web_page_reloads_nothing() {
    let mut node = Node::start(CLOSED);
    node.edit(OPEN);
    let admin = node.daemon.admin();
    let post = || Request::post("/api/v1/reload");
    for request in [
        post().header("Origin", "http://evil.example"),
        post().header("Host", format!("evil.example:{}", admin.port())),
    ] {
        let answer = Client::new(admin).fetch(&request).expect("the admin port answers");
        assert_eq!(answer.status(), 403, "{request:?}");
    }
    let answer = Client::new(admin).fetch(&Request::get("/api/v1/reload")).expect("an answer");
    assert_eq!((answer.status(), answer.header("Allow")), (405, Some("POST")));
    assert_eq!(node.status_of_a_new_blob(1).0, 502);
    let own = post().header("Origin", format!("http://{admin}"));
    assert_eq!(Client::new(admin).fetch(&own).expect("an answer").status(), 200);
    assert_eq!(node.status_of_a_new_blob(2).0, 206);
}

#[test]
fn a_shorter_grace_holds_for_what_is_known_already() {
    let mirror = "proxy: {registryMirror: {url: 'http://ORIGIN'}}\n";
    let mut node = Node::start(mirror);
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let body = json!({"schemaVersion": 2, "mediaType": media_type}).to_string();
    node.origin.registry().add_manifest("app", "latest", media_type, body.clone().into());
    let get = |node: &Node| {
        let answer = node.daemon.client().fetch(&Request::get("/v2/app/manifests/latest"));
        answer.expect("the front answers")
    };
    assert_eq!(get(&node).body, body.as_bytes());
    // Another registry is in its place; the old one is down.
    let down = std::mem::replace(&mut node.origin, Origin::start());
    let still = for_origin(&down, mirror);
    drop(down);
    assert_eq!(get(&node).body, body.as_bytes(), "within the grace");
    node.change(&format!("{still}access: {{grace: 0s}}\n"));
    assert_eq!(get(&node).status(), 502);
}

#[test]
fn the_secrets_of_a_cluster_are_rotated_and_its_limits_changed_while_it_runs() {
    let home = TempDir::new().expect("a temporary directory");
    let file = home.path().join("cluster");
    let secrets = file.to_str().expect("UTF-8");
    assert_eq!(darter(&["cluster", "init", "--out", secrets]).status, 0);
    let with = |secrets: &str, listen: &str, limits: &str| {
        format!("cluster: {{role: seed, secretFile: {secrets}, listen: '{listen}', limits: {limits}}}\n")
    };
    let mut node = Node::start(&with(secrets, "127.0.0.1:0", "{}"));
    assert_eq!(darter(&["cluster", "init", "--out", secrets, "--add"]).status, 0);
    let change = |key: &str, old: &str, new: &str| json!({ "key": key, "old": old, "new": new });
    let told = node.reload(&["--json"]).json();
    let rotated = change("cluster.secretFile", secrets, &format!("{secrets} (other content)"));
    assert_eq!((&told["taken_up"], &told["need_restart"]), (&json!([rotated]), &json!([])));
    assert_eq!(node.reload(&["--json"]).json()["taken_up"], json!([]), "it is taken up once");

    let told = node.change(&with(secrets, "127.0.0.2:0", "{uploadRate: 1MiB}"));
    let limited = change("cluster.limits.uploadRate", "(no limit)", "1MiB");
    assert_eq!(told["taken_up"], json!([limited]));
    assert_eq!(told["need_restart"], json!([change("cluster.listen", "127.0.0.1:0", "127.0.0.2:0")]));

    // What cannot be used changes nothing.
    fs::write(&file, "half a fi").expect("it can be written");
    node.reload(&[]).failed(2, &["cluster.secretFile", "no file of cluster secrets"]);
    node.edit(&with(&format!("{secrets}.peer"), "127.0.0.1:0", "{}"));
    node.reload(&[]).failed(2, &["is for peers", "cluster.role"]);
}

#[test]
fn without_a_file_there_is_nothing_to_read() {
    let daemon = Daemon::builder().registry(NOWHERE).start();
    let admin = daemon.admin().to_string();
    let ran = darter(&["reload", "--admin", &admin]);
    assert_eq!(ran.out, "the daemon was started without --config; nothing has changed\n");
    let told = darter(&["reload", "--json", "--admin", &admin]).json();
    assert_eq!(told, json!({"file": null, "taken_up": [], "need_restart": [], "warnings": []}));
    darter(&["reload", "--admin", "127.0.0.1:1"]).failed(4, &["127.0.0.1:1", "darter serve", "--admin"]);
}

fn a_download_under_way_ends_right(io: Io) {
    // Two seconds for the whole blob: all changes come in the middle.
    let rate = Some(8 * MIB);
    let origin = Origin::with(RegistryOptions { bandwidth_bytes_per_s: rate, ..RegistryOptions::default() });
    let blob: Blob = origin.blob(1, 16 * MIB);
    let config = for_origin(&origin, "proxy: {registryMirror: {url: 'http://ORIGIN'}}\n");
    let mut daemon = Daemon::builder().over(io).config(&config).start();
    let mut client = daemon.client();
    let mut reading = client.send(&blob.get()).expect("the front answers");
    let mut body = vec![0; MIB as usize];
    reading.read_exact(&mut body).expect("the download begins");
    let admin = daemon.admin().to_string();
    for round in 0..6 {
        daemon.reconfigure(&format!("{config}verbose: {}\nshards: {}", round % 2 == 0, 3 + round % 2));
        assert_eq!(darter(&["reload", "--admin", &admin]).status, 0);
        let mut part = vec![0; 1 << 16];
        reading.read_exact(&mut part).expect("the download goes on");
        body.extend(part);
    }
    reading.read_to_end(&mut body).expect("the download goes on to its end");
    assert!(body == blob.bytes(blob.whole()), "the download is not the blob");
    assert_eq!(origin.bytes_by_block(&blob).iter().sum::<u64>(), blob.len(), "each byte has come once");
    daemon.stop();
}
