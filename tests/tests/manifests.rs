//! Manifests: by their digest kept and checked like any content, by their tag as current as the registry's own word.
//!
//! A registry that does whatever the scenario wants stands behind the front, and counts what it is asked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use darter::demo::registry::Digest;
use darter_tests::{Answer, Asked, Daemon, Request, Scripted, Step, wait_until};

const REPOSITORY: &str = "/v2/team/app";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CHALLENGE: &str = "Bearer realm=\"http://127.0.0.1:1/token\",service=\"registry\"";
/// For what the daemon does in the background.
const SOON: Duration = Duration::from_secs(30);

#[test]
fn by_its_digest_a_manifest_is_asked_for_once_and_outlives_a_restart() {
    let mut scene = Scene::start("");
    let manifest = scene.registry.put("latest", MANIFEST, "one");
    let by_digest = manifest.by_digest();
    scene.assert_is(&manifest, Request::get(&by_digest));
    scene.assert_is(&manifest, Request::get(&by_digest));
    assert_eq!(scene.registry.bodies(), [&*by_digest]);
    scene.daemon.stop();
    scene.daemon.restart();
    scene.assert_is(&manifest, Request::get(&by_digest));
    assert_eq!(scene.registry.bodies().len(), 1, "it was asked for again: {:?}", scene.registry.lines());
}

#[test]
fn bytes_that_are_not_those_of_the_digest_are_refused_and_not_kept() {
    let scene = Scene::start("");
    let manifest = scene.registry.put("latest", MANIFEST, "one");
    scene.registry.change(|shelf| shelf.lie = Some("{\"two\":2}".into()));
    let answer = scene.ask(Request::get(manifest.by_digest()));
    assert_eq!((answer.status(), answer.header("X-Dragonfly-Error-Type")), (502, Some("proxy")));
    let used = || scene.daemon.metrics().sum("darter_cache_used_bytes");
    wait_until(SOON, || used() == 0.0, || "something is kept under the digest".into());
    // A daemon that starts now has not heard the lie.
    scene.registry.change(|shelf| shelf.lie = None);
    let mut scene = scene;
    scene.daemon.stop();
    scene.daemon.restart();
    scene.assert_is(&manifest, Request::get(manifest.by_digest()));
}

/// Registries call the bytes of a blob just octets, whatever they are.
#[test]
fn what_was_fetched_as_a_blob_first_is_a_manifest_with_its_type() {
    let scene = Scene::start("");
    let manifest = scene.registry.put("latest", INDEX, "one");
    let blob = scene.ask(Request::get(format!("{REPOSITORY}/blobs/{}", manifest.digest)));
    assert_eq!((blob.status(), &*blob.body), (200, manifest.text.as_bytes()));
    for _ in 0..2 {
        scene.assert_is(&manifest, Request::get(manifest.by_digest()));
        scene.assert_is(&manifest, Request::get(format!("{REPOSITORY}/manifests/latest")));
        let head = scene.ask(Request::head(manifest.by_digest()));
        assert_eq!(head.header("Content-Type"), Some(INDEX));
    }
}

#[test]
fn a_tag_costs_one_head_and_is_new_when_it_moves() {
    let scene = Scene::start("");
    let latest = format!("{REPOSITORY}/manifests/latest");
    let one = scene.registry.put("latest", MANIFEST, "one");
    for _ in 0..3 {
        scene.assert_is(&one, Request::get(&latest));
    }
    assert_eq!(scene.registry.bodies(), [one.by_digest()]);
    let two = scene.registry.put("latest", MANIFEST, "two");
    for _ in 0..2 {
        scene.assert_is(&two, Request::get(&latest));
    }
    assert_eq!(scene.registry.bodies(), [one.by_digest(), two.by_digest()]);
    let head = format!("HEAD {latest} HTTP/1.1");
    let heads = scene.registry.lines().iter().filter(|line| **line == head).count();
    assert_eq!(heads, 5, "one for each request: {:?}", scene.registry.lines());
    // By its digest the old one is still what it was.
    scene.assert_is(&one, Request::get(one.by_digest()));
}

#[test]
fn a_refusal_passes_with_its_body_and_its_challenge() {
    let scene = Scene::start("");
    let manifest = scene.registry.put("latest", MANIFEST, "one");
    scene.registry.change(|shelf| shelf.private = true);
    for (status, kept) in [(401, false), (403, false), (404, false), (401, true), (403, true), (404, true)] {
        if kept {
            scene.assert_is(&manifest, alices(Request::get(manifest.by_digest())));
        }
        scene.registry.change(|shelf| shelf.refusal = Some(status));
        for target in [format!("{REPOSITORY}/manifests/latest"), manifest.by_digest()] {
            let request = Request::get(&target).header("Authorization", format!("Bearer {status}-{kept}"));
            let answer = scene.ask(request);
            let case = format!("{status}, kept: {kept}, {target}");
            assert_eq!(answer.status(), status, "{case}");
            assert_eq!(answer.header("X-Dragonfly-Error-Type"), None, "{case}");
            let expected = (status == 401).then_some(CHALLENGE);
            assert_eq!(answer.header("WWW-Authenticate"), expected, "{case}");
            // Whether who asks may have what is kept, a HEAD says, which has no body.
            if !kept || target.ends_with("latest") {
                assert_eq!(String::from_utf8_lossy(&answer.body), refusal_body(status), "{case}");
            }
        }
        scene.registry.change(|shelf| shelf.refusal = None);
    }
}

/// One tag, an index for those who know indexes and a manifest for those who do not.
#[test]
fn what_a_client_accepts_is_the_registrys_choice_each_time() {
    let scene = Scene::start("");
    let latest = format!("{REPOSITORY}/manifests/latest");
    let manifest = scene.registry.put("latest", MANIFEST, "one");
    let index = scene.registry.put("indexes", INDEX, "many");
    scene.registry.change(|shelf| shelf.index_of = Some(("latest".into(), "indexes".into())));
    for _ in 0..2 {
        scene.assert_is(&manifest, Request::get(&latest).header("Accept", MANIFEST));
        scene.assert_is(&index, Request::get(&latest).header("Accept", format!("{INDEX}, {MANIFEST}")));
    }
    scene.registry.change(|shelf| shelf.refusal = Some(503));
    scene.assert_is(&manifest, Request::get(&latest).header("Accept", MANIFEST));
    scene.assert_is(&index, Request::get(&latest).header("Accept", format!("{INDEX}, {MANIFEST}")));
}

#[test]
fn while_the_registry_is_down_a_tag_names_what_it_named_last() {
    let scene = Scene::start("");
    let latest = format!("{REPOSITORY}/manifests/latest");
    let manifest = scene.registry.put("latest", MANIFEST, "one");
    scene.registry.change(|shelf| shelf.private = true);
    scene.assert_is(&manifest, alices(Request::get(&latest)));
    for status in [500, 502, 503, 429] {
        scene.registry.change(|shelf| shelf.refusal = Some(status));
        for request in [Request::get(&latest), Request::get(manifest.by_digest())] {
            scene.assert_is(&manifest, alices(request));
        }
        for target in [&latest, &manifest.by_digest()] {
            let head = scene.ask(alices(Request::head(target)));
            assert_eq!((head.status(), head.header("Docker-Content-Digest")), (200, Some(&*manifest.digest)));
        }
    }
    // Another's word is not this one's, nor is another tag's.
    for request in [
        Request::get(&latest).header("Authorization", "Bearer other"),
        alices(Request::get(format!("{REPOSITORY}/manifests/other"))),
    ] {
        assert_own_trouble(&scene.ask(request));
    }
}

/// A node that starts while the registry is down goes on where the last run ended.
#[test]
fn what_a_tag_named_last_outlives_a_restart() {
    let mut scene = Scene::start("");
    let latest = format!("{REPOSITORY}/manifests/latest");
    let manifest = scene.registry.put("latest", MANIFEST, "one");
    scene.registry.change(|shelf| shelf.private = true);
    scene.assert_is(&manifest, alices(Request::get(&latest)));
    scene.daemon.stop();
    scene.daemon.restart();
    scene.registry.change(|shelf| shelf.refusal = Some(503));
    scene.assert_is(&manifest, alices(Request::get(&latest)));
    assert_own_trouble(&scene.ask(Request::get(&latest).header("Authorization", "Bearer other")));
}

/// What nothing is known of is worth waiting for: for what a tag names, and for whether another may read.
#[test]
fn a_registry_that_is_overloaded_for_a_second_is_waited_for() {
    let scene = Scene::start("");
    let latest = format!("{REPOSITORY}/manifests/latest");
    let manifest = scene.registry.put("latest", MANIFEST, "one");
    scene.registry.change(|shelf| shelf.private = true);
    let overload = |answers| scene.registry.change(|shelf| shelf.overloaded = answers);
    overload(1);
    scene.assert_is(&manifest, alices(Request::get(&latest)));
    for who in ["carol", "dave"] {
        let request = Request::get(manifest.by_digest()).header("Authorization", format!("Bearer {who}"));
        match who {
            "carol" => {
                overload(1);
                scene.assert_is(&manifest, request);
            }
            _ => {
                overload(u64::MAX);
                let answer = scene.ask(request);
                assert_own_trouble(&answer);
                assert_eq!(answer.status(), 503, "{who}");
            }
        }
    }
    let unknown = scene.ask(alices(Request::get(format!("{REPOSITORY}/manifests/other"))));
    assert_own_trouble(&unknown);
    assert_eq!(unknown.status(), 503);
}

#[test]
fn without_a_grace_nothing_is_answered_for_a_registry_that_is_down() {
    let scene = Scene::start("access: {grace: 0s}\n");
    let latest = format!("{REPOSITORY}/manifests/latest");
    let manifest = scene.registry.put("latest", MANIFEST, "one");
    scene.assert_is(&manifest, Request::get(&latest));
    scene.registry.change(|shelf| shelf.refusal = Some(503));
    assert_own_trouble(&scene.ask(Request::get(&latest)));
    scene.registry.change(|shelf| shelf.refusal = None);
    scene.assert_is(&manifest, Request::get(&latest));
}

/// What has no length cannot be kept; what is longer than registries allow is a content like any other.
#[test]
fn manifests_of_unknown_and_of_great_length_arrive_whole() {
    for (chunked, length_bytes) in [(true, 2000), (false, 5 << 20), (true, 5 << 20)] {
        let scene = Scene::start("");
        scene.registry.change(|shelf| shelf.chunked = chunked);
        let manifest = scene.registry.put("latest", MANIFEST, &"x".repeat(length_bytes));
        for _ in 0..2 {
            scene.assert_is(&manifest, Request::get(manifest.by_digest()));
            scene.assert_is(&manifest, Request::get(format!("{REPOSITORY}/manifests/latest")));
        }
        let bodies = scene.registry.bodies().len();
        assert!(chunked || bodies == 1, "{bodies} bodies of {length_bytes} bytes were asked for");
        // And what is wrong has no whole answer, where it cannot be refused any more.
        scene.registry.change(|shelf| shelf.lie = Some("y".repeat(length_bytes)));
        let wrong = scene.registry.put("latest", MANIFEST, &"z".repeat(length_bytes));
        if let Ok(answer) = scene.daemon.client().fetch(&Request::get(wrong.by_digest())) {
            assert_own_trouble(&answer);
        }
    }
}

#[test]
fn a_head_of_what_is_proven_and_kept_is_answered_here() {
    let scene = Scene::start("");
    let latest = format!("{REPOSITORY}/manifests/latest");
    let manifest = scene.registry.put("latest", MANIFEST, "one");
    scene.registry.change(|shelf| shelf.private = true);
    scene.assert_is(&manifest, alices(Request::get(&latest)));
    // Whether anyone may read is asked once, behind her back.
    let is_asked =
        || scene.registry.origin.asked().iter().any(|asked| asked.header("Authorization").is_none());
    wait_until(SOON, is_asked, || format!("{:?}", scene.registry.lines()));
    let before = scene.registry.lines().len();
    let head = |target: &str| {
        let answer = scene.ask(alices(Request::head(target)));
        let value = |name| answer.header(name).unwrap_or_default().to_owned();
        let seen = ["Content-Length", "Content-Type", "Docker-Content-Digest"].map(value);
        assert_eq!(answer.status(), 200, "{target}");
        assert_eq!(seen, [&manifest.text.len().to_string(), MANIFEST, &manifest.digest], "{target}");
        scene.registry.lines().len() - before
    };
    assert_eq!(head(&manifest.by_digest()), 0, "nobody had to be asked");
    assert_eq!(head(&latest), 1, "what a tag names, only the registry knows");
    assert_eq!(scene.ask(Request::head(manifest.by_digest())).status(), 401, "it is not for anyone");
    let before = scene.registry.lines().len();
    let other = scene.ask(Request::head(manifest.by_digest()).header("Authorization", "Bearer other"));
    assert_eq!((other.status(), scene.registry.lines().len() - before), (200, 1), "for another it is asked");
}

/// With her credential.
fn alices(request: Request) -> Request {
    request.header("Authorization", "Bearer alice")
}

fn assert_own_trouble(answer: &Answer) {
    let own = answer.header("X-Dragonfly-Error-Type") == Some("proxy");
    assert!(own && matches!(answer.status(), 502 | 503), "{:?}", answer.head);
}

/// A registry and a daemon in front of it.
struct Scene {
    registry: Registry,
    daemon: Daemon,
}

impl Scene {
    fn start(config: &str) -> Scene {
        let registry = Registry::start();
        let daemon = Daemon::builder().registry(&registry.origin.url()).config(config).start();
        Scene { registry, daemon }
    }

    fn ask(&self, request: Request) -> Answer {
        self.daemon.client().fetch(&request).expect("the front answers")
    }

    fn assert_is(&self, manifest: &Manifest, request: Request) {
        let answer = self.ask(request.clone());
        assert_eq!(answer.status(), 200, "{request:?}: {:?}", String::from_utf8_lossy(&answer.body));
        assert!(answer.body == manifest.text.as_bytes(), "{request:?}: another manifest");
        let seen = ["Content-Type", "Docker-Content-Digest"].map(|name| answer.header(name));
        assert_eq!(seen, [Some(manifest.media_type), Some(&*manifest.digest)], "{request:?}");
    }
}

#[derive(Clone, Debug)]
struct Manifest {
    tag: String,
    media_type: &'static str,
    text: String,
    digest: String,
}

impl Manifest {
    fn by_digest(&self) -> String {
        format!("{REPOSITORY}/manifests/{}", self.digest)
    }
}

/// A registry with manifests, and what is wrong with it.
struct Registry {
    origin: Scripted,
    shelf: Arc<Mutex<Shelf>>,
}

#[derive(Default)]
struct Shelf {
    /// The last of a tag is what it names.
    manifests: Vec<Manifest>,
    /// For who accepts indexes, the first tag names what the second does.
    index_of: Option<(String, String)>,
    /// Everything is answered so.
    refusal: Option<u16>,
    /// Who has no credential gets 401.
    private: bool,
    /// So many answers are 429, with a second to wait.
    overloaded: u64,
    /// In place of every body.
    lie: Option<String>,
    chunked: bool,
}

impl Registry {
    fn start() -> Registry {
        let shelf = Arc::new(Mutex::new(Shelf::default()));
        let answering = shelf.clone();
        Registry { origin: Scripted::start(move |asked| locked(&answering).answer(asked)), shelf }
    }

    fn change(&self, change: impl FnOnce(&mut Shelf)) {
        change(&mut locked(&self.shelf));
    }

    /// A new manifest, which its tag names from now on.
    fn put(&self, tag: &str, media_type: &'static str, name: &str) -> Manifest {
        let text = format!("{{\"schemaVersion\":2,\"name\":\"{name}\"}}");
        let digest = Digest::of(text.as_bytes()).to_string();
        let manifest = Manifest { tag: tag.into(), media_type, text, digest };
        self.change(|shelf| shelf.manifests.push(manifest.clone()));
        manifest
    }

    fn lines(&self) -> Vec<String> {
        self.origin.asked().into_iter().map(|asked| asked.line).collect()
    }

    /// What of it a body was asked for.
    fn bodies(&self) -> Vec<String> {
        let gets = self.origin.asked().into_iter().filter(|asked| asked.line.starts_with("GET "));
        gets.map(|asked| asked.target().to_owned()).collect()
    }
}

/// Only ever changed in one step, so a panic elsewhere does not make it wrong.
fn locked(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refusal_body(status: u16) -> String {
    format!("{{\"errors\":[{{\"code\":\"{status}\"}}]}}")
}

impl Shelf {
    fn answer(&mut self, asked: &Asked) -> Vec<Step> {
        let has_body = asked.line.starts_with("GET ");
        let with_body = |head: String, body: Vec<u8>| {
            let body = if has_body { body } else { Vec::new() };
            vec![Step::Head(head), Step::Body(body)]
        };
        if let Some(left) = self.overloaded.checked_sub(1) {
            self.overloaded = left;
            let head = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0";
            return vec![Step::Head(head.into())];
        }
        let found = self.find(asked);
        let unknown = self.private && asked.header("Authorization").is_none();
        let refusal = self.refusal.or(unknown.then_some(401)).or(found.is_none().then_some(404));
        if let Some(status) = refusal {
            let body = refusal_body(status);
            let challenge = match status {
                401 => format!("\r\nWWW-Authenticate: {CHALLENGE}"),
                _ => String::new(),
            };
            let head = format!("HTTP/1.1 {status} X{challenge}\r\nContent-Length: {}", body.len());
            return with_body(head, body.into());
        }
        let Some(manifest) = found else { return vec![Step::Close] };
        let is_blob = asked.target().contains("/blobs/");
        let media_type = if is_blob { "application/octet-stream" } else { manifest.media_type };
        let text = self.lie.as_ref().unwrap_or(&manifest.text);
        let named = format!("Content-Type: {media_type}\r\nDocker-Content-Digest: {}", manifest.digest);
        if self.chunked {
            let head = format!("HTTP/1.1 200 OK\r\n{named}\r\nTransfer-Encoding: chunked");
            let body = format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
            return with_body(head, body.into());
        }
        // As most registries do: a range of a blob, and manifests only as a whole.
        let range = if is_blob { asked.range(text.len() as u64) } else { 0..text.len() as u64 };
        let status = match asked.header("Range") {
            Some(_) if is_blob => {
                let (first, last) = (range.start, range.end - 1);
                format!("206 Partial Content\r\nContent-Range: bytes {first}-{last}/{}", text.len())
            }
            _ => "200 OK".into(),
        };
        let head = format!("HTTP/1.1 {status}\r\n{named}\r\nContent-Length: {}", range.end - range.start);
        with_body(head, text.as_bytes()[range.start as usize..range.end as usize].to_vec())
    }

    fn find(&self, asked: &Asked) -> Option<&Manifest> {
        let reference = asked.target().rsplit('/').next().unwrap_or_default();
        let accepts_indexes = asked.header("Accept").is_some_and(|accept| accept.contains(INDEX));
        let reference = match &self.index_of {
            Some((tag, indexes)) if tag == reference && accepts_indexes => indexes,
            _ => reference,
        };
        self.manifests.iter().rev().find(|manifest| manifest.tag == reference || manifest.digest == reference)
    }
}
