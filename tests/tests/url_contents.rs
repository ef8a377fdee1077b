//! Models on a web server: contents that are named by their URL, and kept by a rule of the configuration.
//!
//! A URL may stand for something else in a moment, and its parameters may be a signature. So the origin is asked each
//! time, with the reader's own credential, and its validator tells whether what is kept is still what it has. A reader
//! gets the bytes of one version or an end before time, never a mix.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use darter_tests::{Answer, Asked, Blob, Daemon, Fate, Request, Scripted, Step};

/// Two requests of the front of 4 MiB each, and some more.
const MODEL_BYTES: u64 = (9 << 20) + 77;
const PATH: &str = "/models/a.bin";
const RULE: &str = "proxy: {proxies: [{regx: 'models/.*'}]}\n";

#[test]
fn a_model_is_fetched_once_and_asked_about_each_time() {
    let scene = Scene::start();
    let (model, parts) = (scene.shelf.model(), [10..100, 5_000_000..5_100_000, MODEL_BYTES - 9..MODEL_BYTES]);
    for range in parts.iter().cloned().chain([model.bytes.whole()]) {
        assert_eq!(scene.fate(PATH, range), Fate::Right);
    }
    assert_eq!(scene.shelf.fetched_bytes(), MODEL_BYTES, "a block was asked for twice");
    let before = scene.shelf.asked().len();
    let answer = scene.ask(Request::get(PATH).header("Authorization", "Bearer alice").range(0..10));
    let kept = ["ETag", "Content-Type", "Content-Range"].map(|name| answer.header(name).unwrap_or_default());
    assert_eq!(kept, ["\"1\"", "application/x-model", &format!("bytes 0-9/{MODEL_BYTES}")]);
    let asked = &scene.shelf.asked()[before..];
    // Whether anyone may read is a HEAD of its own.
    let questions = asked.iter().filter(|asked| asked.line.starts_with("GET "));
    let questions: Vec<_> = questions.map(|asked| asked.header("Authorization")).collect();
    assert_eq!(questions, [Some("Bearer alice")], "one question, with the credential of who reads");
}

/// What is kept is no reason to give it to anybody.
#[test]
fn whoever_is_refused_at_the_origin_gets_its_words_though_the_model_is_here() {
    let scene = Scene::start();
    assert_eq!(scene.fate(PATH, 0..MODEL_BYTES), Fate::Right);
    for _ in 0..2 {
        let answer = scene.ask(Request::get(PATH).header("Authorization", "Bearer revoked"));
        assert_eq!((answer.status(), &*answer.body), (401, &b"who are you?"[..]));
        assert_eq!(answer.header("WWW-Authenticate"), Some("Bearer realm=\"http://auth/\""));
        assert_eq!(scene.fate(PATH, 10..20), Fate::Right, "and the others go on");
    }
    assert_eq!(scene.shelf.fetched_bytes(), MODEL_BYTES);
}

#[test]
fn a_model_that_has_changed_is_fetched_anew() {
    let dated = |date: &str| format!("Last-Modified: Wed, 21 Oct 2015 07:28:{date} GMT");
    let changes = [
        ("ETag: \"1\"".to_owned(), "ETag: \"2\"".to_owned(), MODEL_BYTES),
        (dated("00"), dated("01"), MODEL_BYTES),
        // A server that has not noticed itself.
        (dated("00"), dated("00"), MODEL_BYTES - 70_000),
        ("ETag: \"1\"".to_owned(), dated("00"), MODEL_BYTES),
    ];
    for (before, after, length_bytes) in changes {
        let scene = Scene::start();
        scene.shelf.put(Model::new(1, MODEL_BYTES, &before));
        assert_eq!(scene.fate(PATH, 0..MODEL_BYTES), Fate::Right);
        scene.shelf.put(Model::new(2, length_bytes, &after));
        for range in [0..length_bytes, 70_000..80_000, length_bytes - 5..length_bytes] {
            assert_eq!(scene.fate(PATH, range.clone()), Fate::Right, "{before} to {after}, {range:?}");
        }
        assert_eq!(scene.shelf.fetched_bytes(), MODEL_BYTES + length_bytes, "{before} to {after}");
    }
}

/// The first 4 MiB are of one version, and then the server has another.
#[test]
fn a_model_that_changes_while_it_is_read_ends_early_and_is_whole_the_next_time() {
    for wanted in [0..MODEL_BYTES, 3_500_000..MODEL_BYTES - 1] {
        let scene = Scene::start();
        let (old, new) = (scene.shelf.model(), Model::new(2, MODEL_BYTES, "ETag: \"2\""));
        scene.shelf.put_once_asked_beyond(6 << 20, new.clone());
        let request = Request::get(PATH).range(wanted.clone());
        let fate = Fate::of(&scene.daemon, &old.bytes, request, wanted.clone());
        assert!(matches!(fate, Fate::Cut | Fate::Refused { status: 502, own: true }), "{wanted:?}: {fate:?}");
        assert_eq!(scene.shelf.model(), new, "it was to change meanwhile");
        for range in [wanted, 0..MODEL_BYTES, 10..20] {
            assert_eq!(scene.fate(PATH, range), Fate::Right);
        }
    }
}

/// A download that goes on where it broke off must not go on with another version.
#[test]
fn a_range_of_a_version_that_is_gone_is_answered_with_the_whole_new_one() {
    let scene = Scene::start();
    let go_on = |validator: &str| {
        scene.ask(Request::get(PATH).range(1000..2000).header("If-Range", validator)).head.status
    };
    assert_eq!((go_on("\"1\""), go_on("\"0\""), go_on("W/\"1\"")), (206, 200, 200));
    scene.shelf.put(Model::new(2, MODEL_BYTES, "ETag: \"2\""));
    assert_eq!((go_on("\"1\""), go_on("\"2\"")), (200, 206));
    // Shorter than the part that is missing of the one before, which is no answer to 416.
    scene.shelf.put(Model::new(4, 500, "ETag: \"4\""));
    assert_eq!(go_on("\"2\""), 200);
    let date = "Wed, 21 Oct 2015 07:28:00 GMT";
    scene.shelf.put(Model::new(3, MODEL_BYTES, &format!("Last-Modified: {date}")));
    assert_eq!((go_on("Wed, 21 Oct 2015 07:28:09 GMT"), go_on(date)), (200, 206));
}

/// Nothing would tell whether what is kept is what the origin has.
#[test]
fn without_a_strong_validator_nothing_is_kept() {
    for line in ["ETag: W/\"1\"", "X-None: 1"] {
        let scene = Scene::start();
        for seed in [1, 2] {
            scene.shelf.put(Model::new(seed, MODEL_BYTES, line));
            for range in [0..MODEL_BYTES, 100..200] {
                assert_eq!(scene.fate(PATH, range), Fate::Right, "{line}, version {seed}");
            }
        }
        let answer = scene.ask(Request::get(PATH).range(0..10));
        assert_eq!((answer.status(), answer.header("X-Dragonfly-Task-ID")), (206, None), "{line}");
        assert!(scene.shelf.fetched_bytes() > 2 * MODEL_BYTES, "{line}: something was kept");
    }
}

#[test]
fn an_origin_that_is_overloaded_for_a_second_is_waited_for() {
    let scene = Scene::start();
    assert_eq!(scene.fate(PATH, 0..MODEL_BYTES), Fate::Right);
    locked(&scene.shelf.stock).overloaded = 1;
    assert_eq!(scene.fate(PATH, 5..10), Fate::Right);
    locked(&scene.shelf.stock).overloaded = u64::MAX;
    // Nobody else's word stands for the origin's here.
    assert_eq!(scene.fate(PATH, 5..10), Fate::Refused { status: 503, own: true });
}

#[test]
fn signed_addresses_share_the_bytes_and_each_is_asked_about() {
    let scene = Scene::start();
    let signed = |signature: &str| format!("{PATH}?v=1&Expires=1700000000&Signature={signature}");
    for signature in ["alice", "carol", "alice"] {
        assert_eq!(scene.fate(&signed(signature), 0..MODEL_BYTES), Fate::Right);
    }
    assert_eq!(scene.shelf.fetched_bytes(), MODEL_BYTES, "the signature is no part of the name");
    for _ in 0..2 {
        let forged = scene.ask(Request::get(signed("forged")));
        assert_eq!((forged.status(), &*forged.body), (403, &b"the signature is wrong"[..]));
    }
    let targets: Vec<_> = scene.shelf.asked().iter().map(|asked| asked.target().to_owned()).collect();
    assert!(targets.contains(&signed("carol")) && targets.contains(&signed("forged")), "{targets:?}");
    // What is no credential is part of the name.
    assert_eq!(scene.fate(&format!("{PATH}?v=2"), 0..MODEL_BYTES), Fate::Right);
    assert_eq!(scene.shelf.fetched_bytes(), 2 * MODEL_BYTES);
}

/// All that clients of Dragonfly say of what belongs together.
#[test]
fn headers_join_and_separate_what_a_url_stands_for() {
    const TAG: &str = "X-Dragonfly-Tag";
    const APPLICATION: &str = "X-Dragonfly-Application";
    const FILTER: &str = "X-Dragonfly-Filtered-Query-Params";
    let scene = Scene::start();
    let copies = |lines: &[(&str, &str)], query: &str| {
        let request = Request::get(format!("{PATH}?{query}"));
        let request = lines.iter().fold(request, |request, (name, value)| request.header(name, *value));
        let fate = Fate::of(&scene.daemon, &scene.shelf.model().bytes, request, 0..MODEL_BYTES);
        assert_eq!(fate, Fate::Right, "{lines:?} {query}");
        scene.shelf.fetched_bytes() / MODEL_BYTES
    };
    assert_eq!(copies(&[], "user=1"), 1);
    assert_eq!(copies(&[(TAG, "t")], "user=1"), 2);
    assert_eq!(copies(&[(APPLICATION, "t")], "user=1"), 3, "a tag is no application");
    assert_eq!(copies(&[(TAG, "t"), (APPLICATION, "t")], "user=1"), 4);
    assert_eq!(copies(&[(TAG, "t")], "user=1"), 4);
    assert_eq!(copies(&[], "user=2"), 5);
    assert_eq!(copies(&[(FILTER, "user&day")], "user=1&day=1"), 6);
    assert_eq!(copies(&[(FILTER, "user&day")], "day=2&user=2"), 6);
    // In place of the configured ones, which are not filtered then.
    assert_eq!(copies(&[(FILTER, "user")], "user=1&Expires=1"), 7);
    assert_eq!(copies(&[(FILTER, "user")], "user=1&Expires=2"), 8);
    let asked = scene.shelf.asked();
    assert!(
        asked.iter().all(|asked| [TAG, APPLICATION, FILTER].iter().all(|name| asked.header(name).is_none()))
    );
}

#[test]
fn a_client_may_overrule_the_rules() {
    let scene = Scene::start();
    let read = |path: &str, use_p2p: Option<&str>| {
        let request = use_p2p
            .into_iter()
            .fold(Request::get(path), |request, value| request.header("X-Dragonfly-Use-P2P", value));
        let before = scene.shelf.fetched_bytes();
        assert_eq!(Fate::of(&scene.daemon, &scene.shelf.model().bytes, request, 0..MODEL_BYTES), Fate::Right);
        (scene.shelf.fetched_bytes() - before) / MODEL_BYTES
    };
    assert_eq!((read("/others/b", None), read("/others/b", None)), (1, 1), "no rule matches");
    assert_eq!((read("/others/b", Some("true")), read("/others/b", Some("true"))), (1, 0));
    assert_eq!((read(PATH, Some("false")), read(PATH, Some("false"))), (1, 1));
    assert_eq!((read(PATH, None), read(PATH, None)), (1, 0), "the rules again");
}

/// A web server with one model at every path, behind a daemon that keeps `models/`.
struct Scene {
    shelf: Shelf,
    daemon: Daemon,
}

impl Scene {
    fn start() -> Scene {
        let shelf = Shelf::start();
        let daemon = Daemon::builder().registry(&shelf.origin.url()).config(RULE).prefetch(false).start();
        Scene { shelf, daemon }
    }

    fn ask(&self, request: Request) -> Answer {
        self.daemon.client().fetch(&request).expect("the front answers")
    }

    /// Of a read of that part of what the server has now.
    fn fate(&self, target: &str, range: Range<u64>) -> Fate {
        let model = self.shelf.model();
        let whole = range == model.bytes.whole();
        let request = if whole { Request::get(target) } else { Request::get(target).range(range.clone()) };
        Fate::of(&self.daemon, &model.bytes, request, range)
    }
}

/// One version of the model.
#[derive(Clone, Debug)]
struct Model {
    bytes: Blob,
    validator: String,
}

impl Model {
    fn new(seed: u64, length_bytes: u64, validator: &str) -> Model {
        Model { bytes: Blob::synthetic(seed, length_bytes), validator: validator.to_owned() }
    }
}

impl PartialEq for Model {
    fn eq(&self, other: &Model) -> bool {
        self.bytes.digest() == other.bytes.digest() && self.validator == other.validator
    }
}

/// What the server has, and what it will have.
struct Shelf {
    origin: Scripted,
    stock: Arc<Mutex<Stock>>,
}

struct Stock {
    model: Model,
    /// From the first request on that begins beyond so many bytes.
    next: Option<(u64, Model)>,
    /// So many answers are 429, with a second to wait.
    overloaded: u64,
}

impl Shelf {
    fn start() -> Shelf {
        let model = Model::new(1, MODEL_BYTES, "ETag: \"1\"");
        let stock = Arc::new(Mutex::new(Stock { model, next: None, overloaded: 0 }));
        let selling = stock.clone();
        Shelf { origin: Scripted::start(move |asked| answer(&mut locked(&selling), asked)), stock }
    }

    fn model(&self) -> Model {
        locked(&self.stock).model.clone()
    }

    fn put(&self, model: Model) {
        locked(&self.stock).model = model;
    }

    fn put_once_asked_beyond(&self, beyond_bytes: u64, model: Model) {
        locked(&self.stock).next = Some((beyond_bytes, model));
    }

    fn asked(&self) -> Vec<Asked> {
        self.origin.asked()
    }

    /// Bytes that were given, without those of questions.
    fn fetched_bytes(&self) -> u64 {
        let is_fetched = |asked: &&Asked| refusal(asked).is_none() && !is_question(asked);
        let fetched = self.origin.asked();
        fetched
            .iter()
            .filter(is_fetched)
            .map(|asked| {
                let range = asked.range(MODEL_BYTES);
                range.end - range.start
            })
            .sum()
    }
}

/// Only ever replaced as a whole, so a panic elsewhere does not make it wrong.
fn locked(stock: &Mutex<Stock>) -> MutexGuard<'_, Stock> {
    stock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the model is still the same one.
fn is_question(asked: &Asked) -> bool {
    asked.header("Range") == Some("bytes=0-0") || asked.line.starts_with("HEAD ")
}

fn refusal(asked: &Asked) -> Option<Vec<Step>> {
    let refuse = |status: &str, body: &str| {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}", body.len());
        Some(vec![Step::Head(head), Step::Body(body.into())])
    };
    if asked.header("Authorization") == Some("Bearer revoked") {
        let challenge = "401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"http://auth/\"";
        return refuse(challenge, "who are you?");
    }
    asked.target().contains("Signature=forged").then(|| refuse("403 Forbidden", "the signature is wrong"))?
}

fn answer(stock: &mut Stock, asked: &Asked) -> Vec<Step> {
    if let Some(refusal) = refusal(asked) {
        return refusal;
    }
    if let Some(left) = stock.overloaded.checked_sub(1) {
        stock.overloaded = left;
        let head = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0";
        return vec![Step::Head(head.into())];
    }
    let first = asked.range(MODEL_BYTES).start;
    if let Some((_, next)) = stock.next.take_if(|(beyond_bytes, _)| first >= *beyond_bytes) {
        stock.model = next;
    }
    let Model { bytes, validator } = &stock.model;
    let range = asked.range(bytes.len());
    let status = match asked.header("Range") {
        Some(_) => format!(
            "206 Partial Content\r\nContent-Range: bytes {}-{}/{}",
            range.start,
            range.end - 1,
            bytes.len()
        ),
        None => "200 OK".to_owned(),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\n{validator}\r\nContent-Type: application/x-model\r\nContent-Length: {}",
        range.end - range.start
    );
    let body = if asked.line.starts_with("HEAD ") { Vec::new() } else { bytes.bytes(range) };
    vec![Step::Head(head), Step::Body(body)]
}
