//! `darter cluster init --kubernetes`: a pod makes the Secrets of its cluster, once, at an API server that is a stand-in
//! here: it keeps what it is given, and lets in who shows the pod's token.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use darter_tests::cli::{Ran, command, ran};
use darter_tests::gate::{Asked, Gate, GateOptions, Reply};
use darter_transport::identity::ClusterSecrets;
use serde_json::{Value, json};
use tempfile::TempDir;

const TOKEN: &str = "the-pods-token";
const SECRETS: &str = "/api/v1/namespaces/darter-system/secrets";

/// Secrets by their names, each with the text of its file.
type Kept = Arc<Mutex<BTreeMap<String, String>>>;

struct ApiServer {
    gate: Gate,
    kept: Kept,
    account: TempDir,
}

impl ApiServer {
    fn start() -> Self {
        let kept = Kept::default();
        let for_guard = kept.clone();
        let guard = move |asked: &Asked| Some(answer(asked, &for_guard));
        let gate =
            Gate::with(GateOptions { guard: Some(Arc::new(guard)), tls: true, ..GateOptions::default() });
        let account = tempfile::tempdir().expect("a temporary directory can be made");
        let put = |name: &str, text: &str| {
            fs::write(account.path().join(name), text).expect("a file can be written");
        };
        put("token", TOKEN);
        put("namespace", "darter-system");
        put("ca.crt", gate.certificate());
        Self { gate, kept, account }
    }

    fn init(&self) -> Ran {
        let account = self.account.path().to_str().expect("a plain path");
        let mut init =
            command(&["cluster", "init", "--kubernetes", "darter-cluster", "--service-account", account]);
        init.env("KUBERNETES_SERVICE_HOST", self.gate.address().ip().to_string());
        init.env("KUBERNETES_SERVICE_PORT", self.gate.address().port().to_string());
        ran(init)
    }

    fn secret(&self, name: &str) -> Option<String> {
        lock(&self.kept).get(name).cloned()
    }

    fn put(&self, name: &str, text: &str) {
        lock(&self.kept).insert(name.to_owned(), text.to_owned());
    }
}

fn lock(kept: &Kept) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(asked: &Asked, kept: &Kept) -> Reply {
    let reply = |status: u16, body: Value| Reply {
        status,
        headers: vec![("Content-Type", "application/json".to_owned())],
        body: body.to_string(),
    };
    let status =
        |code: u16, message: &str| reply(code, json!({"kind": "Status", "code": code, "message": message}));
    if asked.authorization() != Some(format!("Bearer {TOKEN}").as_str()) {
        return status(401, "Unauthorized");
    }
    let name = asked.path().strip_prefix(SECRETS).and_then(|rest| rest.strip_prefix('/'));
    match (asked.method.as_str(), name) {
        ("GET", Some(name)) => match lock(kept).get(name) {
            Some(text) => reply(200, json!({"kind": "Secret", "data": {"cluster": STANDARD.encode(text)}})),
            None => status(404, "secrets not found"),
        },
        ("POST", None) if asked.path() == SECRETS => {
            let object: Value = serde_json::from_slice(&asked.body).expect("an object");
            assert_eq!(
                (&object["apiVersion"], &object["kind"]),
                (&json!("v1"), &json!("Secret")),
                "{object}"
            );
            let text = |value: &Value| value.as_str().expect("a text").to_owned();
            let (name, file) = (text(&object["metadata"]["name"]), text(&object["stringData"]["cluster"]));
            if lock(kept).contains_key(&name) {
                return status(409, "secrets already exists");
            }
            lock(kept).insert(name, file);
            reply(201, object)
        }
        _ => status(403, "secrets is forbidden: User cannot do that"),
    }
}

#[test]
fn both_are_made_once_and_stay() {
    let server = ApiServer::start();
    let made = server.init();
    assert_eq!((made.status, &*made.err), (0, ""), "{made:?}");
    assert_eq!(made.out, "darter-cluster-seed: made\ndarter-cluster-peer: made\n");
    let [seed, peer] =
        ["darter-cluster-seed", "darter-cluster-peer"].map(|name| server.secret(name).expect("made"));
    let secrets = ClusterSecrets::parse(&seed).expect("the file for seeds");
    assert!(secrets.make_seeds());
    assert_eq!(secrets.for_peers().to_text(), peer);
    assert!(!peer.contains("seed-secret"), "a seed can be made of the peers' Secret");

    let again = server.init();
    assert!(again.status == 0 && again.out.matches("is there already, and stays").count() == 2, "{again:?}");
    assert_eq!(
        [server.secret("darter-cluster-seed"), server.secret("darter-cluster-peer")],
        [Some(seed), Some(peer)]
    );
    for ran in [made, again] {
        assert!(!ran.out.contains("secret "), "{ran:?}");
    }
}

/// The one before was interrupted between the two: the second one is of the first.
#[test]
fn the_missing_one_is_made_of_the_other() {
    let server = ApiServer::start();
    server.init();
    let before = server.secret("darter-cluster-peer");
    lock(&server.kept).remove("darter-cluster-peer");
    let made = server.init();
    assert_eq!(
        made.out, "darter-cluster-seed: is there already, and stays\ndarter-cluster-peer: made\n",
        "{made:?}"
    );
    assert_eq!(server.secret("darter-cluster-peer"), before);
}

#[test]
fn two_at_once_come_to_the_same() {
    let server = ApiServer::start();
    let ran = std::thread::scope(|scope| {
        let both = [scope.spawn(|| server.init()), scope.spawn(|| server.init())];
        both.map(|init| init.join().expect("it ends"))
    });
    assert!(ran.iter().all(|ran| ran.status == 0), "{ran:?}");
    let secrets =
        ClusterSecrets::parse(&server.secret("darter-cluster-seed").expect("made")).expect("secrets");
    assert_eq!(server.secret("darter-cluster-peer"), Some(secrets.for_peers().to_text()));
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let server = ApiServer::start();
    server.put("darter-cluster-seed", "not ours\n");
    server.init().failed(1, &["the Secret darter-cluster-seed cannot be used", "or remove it"]);
    let made = ClusterSecrets::generate(std::time::SystemTime::now()).expect("randomness");
    server.put("darter-cluster-seed", &made.for_peers().to_text());
    server.init().failed(1, &["it has the file for peers"]);
    assert_eq!(server.secret("darter-cluster-peer"), None);

    let server = ApiServer::start();
    fs::write(server.account.path().join("token"), "another").expect("a file can be written");
    server.init().failed(1, &["401", "a Role with create on secrets"]);
    // Somebody else answers at the address of the API server.
    let other = ApiServer::start();
    fs::copy(other.account.path().join("ca.crt"), server.account.path().join("ca.crt")).expect("a copy");
    server.init().failed(1, &["does not answer", "certificate"]);
    assert!(server.secret("darter-cluster-seed").is_none());
    let seen = server.gate.seen();
    assert!(seen.iter().all(|seen| seen.status == 401), "{}", server.gate.lines());

    ran(command(&["cluster", "init", "--kubernetes", "x"]))
        .failed(1, &["KUBERNETES_SERVICE_HOST is not set", "--out"]);
    let wrong = ["cluster", "init", "--kubernetes", "a/../b", "--service-account"];
    let account = server.account.path().to_str().expect("a plain path");
    let mut wrong = command(&[&wrong[..], &[account]].concat());
    wrong.env("KUBERNETES_SERVICE_HOST", "127.0.0.1").env("KUBERNETES_SERVICE_PORT", "1");
    ran(wrong).failed(2, &["is no name of a Kubernetes object"]);
    ran(command(&["cluster", "init"])).failed(2, &["--out"]);
}
