//! What people and scripts ask of a running daemon: `ls`, `stat`, `rm`, `pin`, `verify`, and the API beneath them.
//!
//! The real binary talks to a real daemon. What changes something is refused to web pages and other machines.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::time::Duration;

use darter::demo::registry;
use darter_tests::cli::{Ran, command, darter};
use darter_tests::{BLOCK_BYTES, Blob, Client, Daemon, Origin, Request, wait_until};
use serde_json::Value;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const PIECE_BYTES: u64 = 4 * BLOCK_BYTES;
/// Nobody listens there.
const NOBODY: &str = "127.0.0.1:1";
const ADMIN_COMMANDS: [&[&str]; 8] = [
    &["ls"],
    &["stat"],
    &["rm", "abcdef"],
    &["pin", "abcdef"],
    &["verify", "abcdef"],
    &["reload"],
    &["peers"],
    &["preheat", "http://r.example/file"],
];

/// A daemon in front of an origin.
struct Node {
    origin: Origin,
    daemon: Daemon,
}

impl Node {
    fn start() -> Node {
        let origin = Origin::start();
        let daemon = Daemon::builder().registry(&origin.url()).capacity("64MiB").prefetch(false).start();
        Node { origin, daemon }
    }

    /// Runs a command on this daemon.
    fn run(&self, args: &[&str]) -> Ran {
        let admin = self.daemon.admin().to_string();
        darter(&[args, &["--admin", &admin]].concat())
    }

    fn json(&self, args: &[&str]) -> Value {
        self.run(&[args, &["--json"]].concat()).json()
    }

    /// A blob that is held whole, verified, and durable.
    fn held(&self, seed: u64, len: u64) -> Blob {
        let blob = self.origin.blob(seed, len);
        self.read(&blob);
        blob
    }

    fn read(&self, blob: &Blob) {
        blob.read(&mut self.daemon.client(), blob.whole()).expect("a whole answer");
        let durable = || {
            let stat = self.json(&["stat", &blob.digest()]);
            stat["durable_pieces"] == stat["pieces"] && stat["verification"] == "passed"
        };
        wait_until(Duration::from_secs(30), durable, || "the blob is not durable".into());
    }

    /// A call of the API.
    fn call(&self, request: &Request) -> (u16, Value) {
        let answer = Client::new(self.daemon.admin()).fetch(request).expect("the admin port answers");
        let body = serde_json::from_slice(&answer.body).expect("the API speaks JSON");
        (answer.status(), body)
    }
}

#[test]
fn a_content_is_listed_described_and_removed() {
    let node = Node::start();
    let blob = node.held(1, 3 * MIB + 5);
    let digest = blob.digest();
    let short = &digest["sha256:".len()..][..12];

    let listed = node.run(&["ls"]);
    assert_eq!((listed.status, listed.err.as_str()), (0, ""));
    let rows: Vec<Vec<&str>> = listed.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["ID", "SIZE", "HELD", "DIGEST", "PINNED", "USED", "REGISTRY"]);
    assert_eq!(rows[1][..6], [short, "3.1", "MiB", "100", "%", "right"]);
    assert_eq!(rows.len(), 2);
    assert!(node.run(&["ls", "--no-trunc"]).out.contains(&digest));
    let listed = node.json(&["ls"]);
    assert_eq!(listed["contents"].as_array().map(Vec::len), Some(1));
    assert_eq!(listed["contents"][0]["id"], *digest);

    let stat = node.json(&["stat", short]);
    let expected = [
        ("id", Value::from(&*digest)),
        ("length_bytes", (3 * MIB + 5).into()),
        ("held_bytes", (3 * MIB + 5).into()),
        ("pieces", 13.into()),
        ("held_pieces", 13.into()),
        ("durable_pieces", 13.into()),
        ("verification", "passed".into()),
        ("registry", node.origin.url().into()),
        ("shared", true.into()),
        ("pinned", false.into()),
    ];
    for (name, value) in expected {
        assert_eq!(stat[name], value, "{name} of {stat}");
    }
    assert!(
        stat["created_at"].as_u64() <= stat["used_at"].as_u64()
            && stat["created_at"].as_u64() > Some(1_700_000_000)
    );
    let text = node.run(&["stat", &digest]).out;
    assert!(text.contains("durable pieces  13\n") && text.contains(&digest), "{text}");

    let store = node.json(&["stat"]);
    assert_eq!((&store["contents"], &store["capacity_bytes"]), (&1.into(), &(64 * MIB).into()));
    let text = node.run(&["stat"]).out;
    assert!(text.contains("of 64.0 MiB"), "{text}");

    let removed = node.json(&["rm", &digest]);
    assert_eq!(removed["removed"][0]["removed_bytes"], 3 * MIB + 5);
    node.run(&["stat", &digest]).failed(3, &[&digest, "darter ls"]);
    assert_eq!(node.run(&["ls"]).out.lines().count(), 1);
    node.origin.forget();
    node.read(&blob);
    assert_eq!(node.origin.blob_bytes(), blob.len(), "what was removed is fetched again");
}

#[test]
fn a_pin_outlives_a_crash() {
    let mut node = Node::start();
    let digest = node.held(1, MIB).digest();
    let pinned = |node: &Node| node.json(&["stat", &digest])["pinned"].clone();
    let said = node.run(&["pin", &digest]);
    assert_eq!((said.status, said.out), (0, format!("{digest}  pinned, 100 % held\n")));
    node.daemon.kill9();
    node.daemon.restart();
    assert_eq!(pinned(&node), true);
    assert!(node.run(&["ls"]).out.contains("  pinned  "));
    assert_eq!(node.json(&["pin", "--undo", &digest])["pinned"], false);
    node.daemon.kill9();
    node.daemon.restart();
    assert_eq!(pinned(&node), false);
}

#[test]
fn a_removal_outlives_a_crash() {
    let mut node = Node::start();
    let (stays, goes) = (node.held(1, MIB).digest(), node.held(2, MIB).digest());
    assert_eq!(node.run(&["rm", &goes]).status, 0);
    node.daemon.kill9();
    node.daemon.restart();
    node.run(&["stat", &goes]).failed(3, &[]);
    assert_eq!(node.json(&["stat", &stays])["durable_pieces"], 4);
}

#[test]
fn the_others_are_removed_although_one_is_not_there() {
    let node = Node::start();
    let (first, second) = (node.held(1, MIB).digest(), node.held(2, MIB).digest());
    let ran = node.run(&["rm", &first, "00000000", &second]);
    ran.failed(3, &["00000000"]);
    assert_eq!(ran.out, format!("{first}  1.0 MiB freed\n{second}  1.0 MiB freed\n"));
    assert_eq!(node.json(&["stat"])["contents"], 0);
}

#[test]
fn who_reads_what_is_removed_reads_to_the_end() {
    let node = Node::start();
    // Larger than what sockets hold, so that the reader is in the middle of it.
    let blob = node.held(1, 40 * MIB);
    let mut client = node.daemon.client();
    let mut reading = client.send(&blob.get()).expect("an answer");
    let mut read = vec![0; MIB as usize];
    reading.read_exact(&mut read).expect("the beginning");
    assert_eq!(node.run(&["rm", &blob.digest()]).status, 0);
    reading.read_to_end(&mut read).expect("the rest");
    assert!(read == blob.bytes(blob.whole()), "other bytes after the removal");
}

#[test]
fn a_beginning_that_several_have_is_not_guessed() {
    let node = Node::start();
    // Two blobs whose digests begin alike: there are some among a few thousand.
    let mut seen = HashMap::new();
    let alike = (0..).find_map(|seed| {
        let digest = registry::Blob::synthetic(seed, 64).digest().to_string();
        seen.insert(digest["sha256:".len()..][..6].to_owned(), seed).map(|first| (first, seed))
    });
    let (first, second) = alike.expect("the search has no end");
    let (first, second) = (node.held(first, 64).digest(), node.held(second, 64).digest());
    let beginning = &first["sha256:".len()..][..6];
    for command in ["stat", "rm", "pin", "verify"] {
        node.run(&[command, beginning]).failed(2, &["2 contents begin with", "more digits"]);
    }
    assert_eq!(node.json(&["stat"])["contents"], 2);
    for whole in [&first, &second] {
        assert_eq!(node.json(&["stat", whole])["id"], **whole);
    }
    node.run(&["stat", "abcde"]).failed(2, &["abcde", "6 to 64"]);
    node.run(&["stat", "not-an-id"]).failed(2, &["not-an-id"]);
}

#[test]
fn copies_under_several_registries_are_told_apart() {
    let (one, two) = (Origin::start(), Origin::start());
    let blob = one.blob(1, 8 * MIB);
    two.blob(1, 8 * MIB);
    let allowed = two.registry().host();
    let daemon = Daemon::builder().registry(&one.url()).allow_registry(&allowed).prefetch(false).start();
    // Parts only: nothing is verified, so each registry's bytes are kept apart.
    for origin in [&one, &two] {
        let request = blob.get().header("X-Dragonfly-Registry", origin.url());
        blob.read_as(&mut daemon.client(), request, 0..100).expect("a whole answer");
    }
    let node = Node { origin: one, daemon };
    let digest = blob.digest();
    node.run(&["stat", &digest]).failed(2, &["2 registries", "--registry", &two.url()]);
    let of = |origin: &Origin| node.json(&["stat", &digest, "--registry", &origin.url()]);
    assert_eq!(of(&two)["registry"], two.url());
    let partial = of(&node.origin);
    assert_eq!((&partial["held_bytes"], &partial["verification"]), (&BLOCK_BYTES.into(), &"pending".into()));
    assert_eq!(partial["durable_pieces"], 0, "a piece of which a part is held");
    assert_eq!(node.run(&["rm", &digest, "--registry", &two.url()]).status, 0);
    assert_eq!(node.json(&["stat", &digest])["registry"], node.origin.url());
}

#[test]
fn a_verification_finds_a_flipped_byte() {
    let node = Node::start();
    let (good, bad) = (node.held(1, 2 * MIB + 1), node.held(2, 2 * MIB + 1));
    let whole = node.json(&["verify", &bad.digest()]);
    assert_eq!(
        (&whole["checked_blocks"], &whole["bad_blocks"], &whole["digest"]),
        (&33.into(), &0.into(), &"right".into())
    );
    flip(&node.daemon, &bad.bytes(0..4096));

    let ran = node.run(&["verify", &bad.digest()]);
    ran.failed(5, &["1 bad block", "fetched again"]);
    assert!(ran.out.contains("1 BAD"), "{ran:?}");
    // Its piece is gone, and nothing else.
    let stat = node.json(&["stat", &bad.digest()]);
    assert_eq!(stat["held_bytes"], bad.len() - PIECE_BYTES);
    assert_eq!(node.json(&["verify", &bad.digest()])["digest"], "unknown");
    node.origin.forget();
    node.read(&bad);
    assert_eq!(node.origin.blob_bytes(), PIECE_BYTES);

    let all = node.json(&["verify"]);
    let digests: BTreeSet<_> = all["verified"]
        .as_array()
        .expect("contents")
        .iter()
        .map(|one| {
            assert_eq!(one["digest"], "right", "{one}");
            one["id"].as_str().expect("an id").to_owned()
        })
        .collect();
    assert_eq!(digests, BTreeSet::from([good.digest(), bad.digest()]));
    let ran = node.run(&["verify"]);
    assert_eq!((ran.status, ran.out.matches("33 blocks checked, digest right\n").count()), (0, 2), "{ran:?}");
}

/// Inverts one byte of the slab where these bytes are.
fn flip(daemon: &Daemon, bytes: &[u8]) {
    let slab = File::options().read(true).write(true).open(daemon.data_dir().join("store/slab-00000"));
    let slab = slab.expect("the slab is there");
    let mut found = vec![0; bytes.len()];
    let pieces = (0..slab.metadata().expect("the slab is there").len()).step_by(PIECE_BYTES as usize);
    let at = pieces.into_iter().find(|at| {
        slab.read_exact_at(&mut found, *at).expect("the slab can be read");
        found == bytes
    });
    let at = at.expect("the bytes are in the slab") + 77;
    slab.write_all_at(&[!bytes[77]], at).expect("the slab can be written");
}

#[test]
fn pages_have_each_content_once() {
    let node = Node::start();
    let digests: BTreeSet<String> = (0..25)
        .map(|seed| {
            let blob = node.origin.blob(seed, 100);
            blob.read(&mut node.daemon.client(), blob.whole()).expect("a whole answer");
            blob.digest()
        })
        .collect();
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let (status, page) = node.call(&Request::get(format!("/api/v1/contents?limit=10{after}")));
        assert_eq!(status, 200);
        let contents = page["contents"].as_array().expect("contents");
        assert!(contents.len() <= 10);
        seen.extend(contents.iter().map(|one| one["id"].as_str().expect("an id").to_owned()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert!(seen.is_sorted(), "{seen:?}");
    assert_eq!((seen.len(), BTreeSet::from_iter(seen)), (25, digests));
    for wrong in ["limit=x", "after=xyz"] {
        assert_eq!(node.call(&Request::get(format!("/api/v1/contents?{wrong}"))).0, 400, "{wrong}");
    }
}

#[test]
fn a_web_page_changes_nothing() {
    let node = Node::start();
    let digest = node.held(1, MIB).digest();
    let admin = node.daemon.admin();
    let pin = || Request::post(format!("/api/v1/contents/{digest}/pin"));
    let foreign = [
        pin().header("Host", format!("evil.example:{}", admin.port())),
        pin().header("Host", "evil.example"),
        pin().header("Host", admin.ip().to_string()),
        pin().header("Origin", "http://evil.example"),
        pin().header("Origin", "null"),
        pin().header("Origin", format!("http://{}:1", admin.ip())),
    ];
    for request in &foreign {
        let (status, body) = node.call(request);
        let message = body["error"]["message"].as_str().unwrap_or_default();
        assert_eq!((status, &body["error"]["code"]), (403, &"forbidden".into()), "{request:?} {body}");
        assert!(message.contains("Host names") || message.contains("Origin is"), "{message}");
    }
    assert_eq!(node.json(&["stat", &digest])["pinned"], false);
    let own = pin()
        .header("Host", format!("localhost:{}", admin.port()))
        .header("Origin", format!("http://{admin}"));
    let (status, body) = node.call(&own);
    assert_eq!((status, &body["pinned"]), (200, &true.into()));
}

#[test]
fn what_the_api_does_not_have_is_told() {
    let node = Node::start();
    let ask = |request: &Request| Client::new(node.daemon.admin()).fetch(request).expect("an answer");
    for (request, allowed) in [
        (Request::post("/api/v1/store"), "GET, HEAD"),
        (Request::post("/api/v1/contents"), "GET, HEAD"),
        (Request::post("/api/v1/peers"), "GET, HEAD"),
        (Request::get("/api/v1/preheat"), "POST"),
        (Request::post("/api/v1/contents/abcdef"), "GET, HEAD, DELETE"),
        (Request::get("/api/v1/contents/abcdef/pin"), "POST"),
        (Request::get("/api/v1/contents/abcdef/verify"), "POST"),
        (Request::post("/metrics"), "GET, HEAD"),
    ] {
        let answer = ask(&request);
        assert_eq!((answer.status(), answer.header("Allow")), (405, Some(allowed)), "{request:?}");
    }
    for (path, status) in [
        ("/api/v1/", 404),
        ("/api/v1/nothing", 404),
        ("/api/v1/contents/abcdef/nothing", 404),
        ("/api/v1/peers", 404),
        ("/api/v1/contents/abcdef", 404),
        ("/api/v1/contents/abcde", 400),
        ("/api/v1/contents/%2e%2e%2f", 400),
        ("/api/v1/contents/abcdef?registry=ftp://x", 400),
        ("/api", 404),
    ] {
        assert_eq!(ask(&Request::get(path)).status(), status, "{path}");
    }
}

#[test]
fn without_a_daemon_the_error_says_how_to_have_one() {
    for args in ADMIN_COMMANDS {
        darter(&[args, &["--admin", NOBODY]].concat()).failed(4, &[NOBODY, "darter serve", "--admin"]);
    }
    for what in ["http://127.0.0.1:2/v2/a/blobs/x", "http://127.0.0.1:2/file", "localhost:2/app"] {
        let directory = TempDir::new().expect("a temporary directory");
        let path = directory.path().join("out");
        let ran = darter(&["get", what, "--front", NOBODY, "-o", path.to_str().expect("UTF-8")]);
        ran.failed(4, &[NOBODY, "darter serve", "--front"]);
    }
}

#[test]
fn something_else_at_the_port_is_told() {
    let origin = Origin::start();
    let host = origin.registry().host();
    darter(&["ls", "--admin", &host]).failed(1, &[&host, "is not the admin port", "--admin"]);
}

#[test]
fn a_wrong_command_line_is_named() {
    for (args, word) in [
        (&["ls", "--bananas"][..], "--bananas"),
        (&["ls", "--admin", "40901"], "--admin"),
        (&["stat", "abc"], "abc"),
        (&["stat", "--registry", "http://a"], "ID"),
        (&["rm"], "<ID>"),
        (&["pin"], "<ID>"),
        (&["pin", "abcdef", "--undone"], "--undone"),
        (&["verify", "xyz"], "xyz"),
        (&["get"], "URL|OBJECT|IMAGE"),
        (&["get", "a", "--platform", "linux"], "--platform"),
        (&["get", "a", "--front", "here"], "--front"),
        (&["get", "ftp://a/b"], "ftp://a/b"),
        (&["get", "http://a/b", "--platform", "linux/amd64"], "--platform"),
        (&["get", "UPPER"], "UPPER"),
        (&["preheat"], "IMAGE|URL|OBJECT"),
        (&["preheat", "a", "--to", "some"], "--to"),
        (&["preheat", "http://a/b", "--plain-http"], "--plain-http"),
        (&["completions", "tcsh"], "tcsh"),
        (&["man", "--in", "x"], "--in"),
    ] {
        darter(args).failed(2, &[word]);
    }
}

#[test]
fn every_command_has_its_help() {
    for (name, flags) in [
        ("get", "--output --front --platform --plain-http --json"),
        ("ls", "--admin --json --no-trunc"),
        ("stat", "--admin --json --registry"),
        ("rm", "--admin --json --registry"),
        ("pin", "--admin --json --undo"),
        ("verify", "--admin --json --registry"),
        ("reload", "--admin --json"),
        ("peers", "--admin --json --no-trunc"),
        ("preheat", "--admin --front --platform --plain-http --to --json"),
        ("completions", "bash"),
        ("man", "--out"),
    ] {
        let ran = darter(&[name, "--help"]);
        assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{name}");
        for word in flags.split_whitespace() {
            assert!(ran.out.contains(word), "{word} is missing in {}", ran.out);
        }
        if !matches!(name, "completions" | "man") {
            assert!(ran.out.contains("Exit status: 0 done"), "{}", ran.out);
        }
        assert!(darter(&["--help"]).out.contains(name));
    }
}

#[test]
fn shells_and_man_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = darter(&["completions", shell]);
        assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{shell}");
        for word in ["verify", "no-trunc", "plain-http"] {
            assert!(ran.out.contains(word), "{word} is missing for {shell}");
        }
    }
    let page = darter(&["man"]);
    assert_eq!(page.status, 0);
    assert!(page.out.contains(".TH darter 1"), "{}", page.out);
    let directory = TempDir::new().expect("a temporary directory");
    let out = directory.path().join("man1");
    assert_eq!(darter(&["man", "--out", out.to_str().expect("UTF-8")]).status, 0);
    for name in ["darter", "darter-get", "darter-verify", "darter-config-show"] {
        let page = std::fs::read_to_string(out.join(format!("{name}.1"))).expect("a page");
        assert!(page.contains(".TH"), "{page}");
    }
    darter(&["man", "--out", "/proc/nowhere"]).failed(1, &["/proc/nowhere"]);
}

#[test]
fn a_reader_who_leaves_is_no_panic() {
    let node = Node::start();
    node.held(1, 100);
    let admin = node.daemon.admin().to_string();
    for args in [
        &["completions", "bash"][..],
        &["man"],
        &["ls", "--admin", &admin],
        &["stat", "--json", "--admin", &admin],
    ] {
        let mut command = command(args);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        // The reading end is closed before anything is written.
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("the binary ends");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*err), (Some(0), ""), "{args:?}");
    }
}
