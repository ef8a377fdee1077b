//! `docs/openapi.yaml` against a running daemon: each call that it has is there and answers as it says, and the daemon has
//! no other.

mod document;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use darter_tests::{Blob, Daemon, Origin, Request, Secrets, pause, wait_until};
use document::Document;
use serde_json::Value;

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon, and what of the document it has answered.
struct Held {
    document: Document,
    daemon: Daemon,
    seen: BTreeSet<(String, String)>,
}

impl Held {
    /// One call: `path` as documented, `target` as asked. Each line of the answer is looked at, and the last one returned.
    fn call(&mut self, request: Request, path: &str, status: u16) -> Value {
        let method = request.method();
        let answer = self.daemon.admin_client().fetch(&request).expect("the daemon answers");
        let body = String::from_utf8(answer.body.clone()).expect("JSON is UTF-8");
        assert_eq!(answer.status(), status, "{method} {path}: {body}");
        self.seen.insert((method.to_owned(), path.to_owned()));
        let mut last = Value::Null;
        for line in body.lines() {
            last =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{method} {path}: {error}: {line}"));
            let wrong = self.document.check(method, path, status, &last);
            assert!(wrong.is_empty(), "{method} {path}: {status}: {wrong:#?}");
        }
        assert!(!body.is_empty(), "{method} {path}");
        last
    }

    fn get(&mut self, target: &str) -> Value {
        let path = target.split('?').next().expect("a target has a path").to_owned();
        self.call(Request::get(target), &path, 200)
    }
}

#[test]
fn every_call_is_as_documented() {
    let (origin, secrets) = (Origin::start(), Secrets::init());
    let seed = secrets.seed().origin(&origin).prefetch(false).start();
    let at = seed.peers()["node"]["address"].as_str().expect("an address").to_owned();
    let daemon = secrets.peer(&at).origin(&origin).config("verbose: false\n").start();
    wait_until(PATIENCE, || daemon.peers()["standing"] == "joined", || "the peer has not joined".into());
    let blob = origin.blob(1, 3 * MIB + 77);
    blob.read(&mut daemon.client(), blob.whole()).expect("the blob can be read");
    // The time of a use is kept in seconds.
    pause(Duration::from_millis(1100));
    let part = origin.blob(2, 9 * MIB);
    part.read(&mut daemon.client(), 5 * MIB..5 * MIB + 100).expect("a part can be read");
    let missing = Blob::synthetic(77, 5);
    daemon.client().fetch(&missing.get()).expect("the front answers");
    // Two samples of what has moved.
    pause(Duration::from_millis(2500));

    let mut held = Held { document: Document::read(), daemon, seen: BTreeSet::new() };
    let status = held.get("/api/v1/status");
    assert_eq!(status["node"]["standing"], "joined");
    assert_eq!(status["store"]["contents"], 2);
    assert_eq!(status["requests"]["refused"], 1, "{status}");
    assert!(status["bytes"]["fetched"].as_u64() >= Some(blob.len()), "{status}");
    assert!(!held.get("/api/v1/history")["at_ms"].as_array().expect("a list").is_empty());
    let latest = held.get("/api/v1/requests");
    let requests = latest["requests"].as_array().expect("a list");
    let last = requests.last().expect("a request");
    assert_eq!((&last["fate"], &last["path"]), (&"refused".into(), &missing.target().into()));
    assert_eq!((&last["status"], &last["registry"]), (&404.into(), &origin.url().into()));
    assert!(last["trouble"].as_str().is_some_and(|text| text.contains("404")), "{last}");
    assert_eq!(last["request_id"].as_str().map(str::len), Some(16), "{last}");
    let none = held.get(&format!("/api/v1/requests?after={}", latest["last"]));
    assert_eq!((&none["requests"], &none["last"]), (&Value::Array(Vec::new()), &latest["last"]));
    held.get("/api/v1/store");
    held.get("/api/v1/peers?limit=1");

    let page = held.get("/api/v1/contents?order=use&cells=8");
    let contents = page["contents"].as_array().expect("a list");
    assert_eq!(contents[0]["id"], part.digest(), "what was used last stands first");
    let of = |digest: &str| contents.iter().find(|content| content["id"] == digest).expect("it is held");
    assert_eq!(of(&blob.digest())["cells"]["held"], "99999999");
    assert_eq!(
        of(&part.digest())["cells"]["held"].as_str().map(|held| held.find(|cell| cell != '0')),
        Some(Some(4))
    );
    assert_eq!(of(&part.digest())["cells"]["coming"], "00000000");
    let first = held.get("/api/v1/contents?limit=1");
    let next = first["next"].as_str().expect("there are two");
    held.get(&format!("/api/v1/contents?after={next}"));

    let (id, any) = (blob.digest(), "/api/v1/contents/{id}");
    let of = |verb: &str| format!("/api/v1/contents/{}{verb}", blob.digest());
    held.call(Request::get(of("")), any, 200);
    assert_eq!(held.call(Request::get(of("?cells=2")), any, 200)["cells"]["held"], "99");
    assert_eq!(held.call(Request::post(of("/pin")), "/api/v1/contents/{id}/pin", 200)["pinned"], true);
    assert_eq!(held.call(Request::post(of("/unpin")), "/api/v1/contents/{id}/unpin", 200)["pinned"], false);
    assert_eq!(
        held.call(Request::post(of("/verify")), "/api/v1/contents/{id}/verify", 200)["digest"],
        "right"
    );
    assert_eq!(held.call(Request::delete(of("")), any, 200)["id"], id);
    let url = format!("{}{}", origin.url(), blob.target()).replace('&', "%26");
    let preheat = Request::post(format!("/api/v1/preheat?url={url}&to=all"));
    assert_eq!(held.call(preheat, "/api/v1/preheat", 200)["done"]["come_bytes"], blob.len());
    let (file, reload) = (held.daemon.config_path(), "/api/v1/reload");
    fs::write(&file, "verbose: true\n").expect("the configuration can be written");
    assert_eq!(held.call(Request::post(reload), reload, 200)["taken_up"][0]["key"], "verbose");
    fs::write(&file, "verbose: loud\n").expect("the configuration can be written");
    assert_eq!(held.call(Request::post(reload), reload, 400)["error"]["problems"][0]["key"], "verbose");

    // What is refused is documented too.
    held.call(Request::get("/api/v1/requests?after=x"), "/api/v1/requests", 400);
    held.call(Request::get("/api/v1/contents?order=size"), "/api/v1/contents", 400);
    held.call(Request::get("/api/v1/peers?limit=-1"), "/api/v1/peers", 400);
    held.call(Request::get("/api/v1/contents/zz"), any, 400);
    held.call(Request::get("/api/v1/contents/0123456789"), any, 404);
    held.call(Request::post("/api/v1/preheat"), "/api/v1/preheat", 400);
    for (path, target) in [(reload, reload.to_owned()), ("/api/v1/contents/{id}/pin", of("/pin"))] {
        let strange = Request::post(target).header("Origin", "http://elsewhere.example");
        held.call(strange, path, 403);
    }
    let rebound = Request::get("/api/v1/status").header("Host", "elsewhere.example");
    held.call(rebound, "/api/v1/status", 403);
    let documented: BTreeSet<_> = held.document.calls().into_iter().collect();
    assert_eq!(held.seen, documented, "every call of the document was made, and no other");
}

/// The names of calls stand in one place of the daemon, from which they are taken: a new one is to be documented.
#[test]
fn every_call_of_the_daemon_is_documented() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../daemon/src/admin/mod.rs");
    let code = fs::read_to_string(file).expect("the sources are there");
    let code = code.split_once("let (allowed, change) = match segments[..] {").expect("the list of calls").1;
    let code = code.split_once("_ => return Err").expect("its end").0;
    let mut known = BTreeSet::new();
    for line in code.lines().filter(|line| line.trim().starts_with('[')) {
        let (pattern, rest) = line.trim().split_once("] => (\"").expect("a path, its methods and its guard");
        let methods = rest.split_once('"').expect("methods end").0;
        let pattern = pattern.trim_start_matches('[');
        let mut paths = vec!["/api/v1".to_owned()];
        for segment in pattern.split(", ") {
            let names = match segment {
                "_" => vec!["{id}"],
                names => names.split(" | ").map(|name| name.trim_matches('"')).collect(),
            };
            paths = paths
                .iter()
                .flat_map(|path| names.iter().map(move |name| format!("{path}/{name}")))
                .collect();
        }
        // HEAD is GET without the body.
        for method in methods.split(", ").filter(|method| *method != "HEAD") {
            known.extend(paths.iter().map(|path| (method.to_owned(), path.clone())));
        }
    }
    assert!(known.len() >= 12, "{known:?}");
    assert_eq!(known, Document::read().calls().into_iter().collect());
}
