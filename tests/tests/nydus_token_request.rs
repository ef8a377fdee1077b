//! nydusd 2.2.3 to 2.3.4 sends everything to its mirror, the request for a token too: the path of the realm, at the
//! mirror's address, with a form both in the query and in the body. The front knows which realm is meant from
//! the challenge that it has passed on, and sends the request there.

use darter_tests::gate::{Gate, Kind, Seen};
use darter_tests::nydus::{Config, Form, Places};
use darter_tests::token_registry::{TokenRegistry, basic, password};
use darter_tests::{Answer, Blob, Client, Daemon, Origin, Request};

use crate::nydus::client::{BlobClient, Nydusd};

mod nydus {
    #[expect(dead_code, reason = "not every generation is asked here")]
    pub(crate) mod client;
}

const REPOSITORY: &str = "library/scenario";

#[test]
fn the_realm_is_reached_through_the_front() {
    let scene = Scene::start();
    let nothing = Gate::to_nowhere();
    let places = Places {
        front: scene.daemon.front().to_string(),
        admin: scene.daemon.admin().to_string(),
        registry: scene.gate.host(),
        fallback: nothing.host(),
    };
    let mut config = Config::deployed(Form::Mirrors, &places);
    config.add_auth(&basic("alice"));
    let blob_id = scene.blob.content().digest().to_string();
    let blob_id = blob_id.strip_prefix("sha256:").expect("an algorithm");
    let client = BlobClient::open(Nydusd::V2_3, config.backend(), blob_id);
    assert_eq!(client.read(10, 1000).unwrap(), scene.blob.bytes(10..1010));

    let asked = scene.asked_for_tokens();
    let hers: Vec<_> = asked.iter().filter(|seen| seen.asked.authorization().is_some()).collect();
    assert_eq!(hers.len(), 1, "one token is enough: {asked:?}");
    let asked = &hers[0].asked;
    assert_eq!(asked.authorization(), Some(&*format!("Basic {}", basic("alice"))));
    assert!(asked.target.contains("scope=repository%3Alibrary%2Fscenario%3Apull"), "{}", asked.target);
    assert_eq!(asked.header("Host"), Some(&*scene.registry.realm().host()));
    assert_eq!(asked.header("X-Dragonfly-Registry"), None, "meant for the front");
    let form = String::from_utf8_lossy(&asked.body);
    assert!(form.contains(&format!("password={}", password("alice"))), "the form is not passed on: {form:?}");
    assert!(scene.gate.seen_of(&http::Method::GET, Kind::Token).is_empty(), "the registry got a password");
    assert!(nothing.seen().is_empty(), "nydusd went round the front:\n{}", nothing.lines());
}

/// A realm that no challenge has named yet cannot be known: nydusd then asks it by itself.
#[test]
fn an_unknown_realm_is_our_trouble() {
    let scene = Scene::start();
    // The real client sends a GET; the specification of OAuth2 has a POST.
    for ask in [Request::get, Request::post] {
        let refused = scene.ask_by(ask, "alice");
        assert_eq!((refused.status(), refused.header("X-Dragonfly-Error-Type")), (502, Some("proxy")));
    }
    assert!(scene.asked_for_tokens().is_empty());
    assert!(scene.gate.seen().is_empty(), "the registry got a password:\n{}", scene.gate.lines());

    let challenge = scene.fetch(&scene.blob.get_range(0..10));
    assert_eq!(challenge.status(), 401);
    let given = scene.ask("alice");
    assert_eq!(given.status(), 200, "{}", String::from_utf8_lossy(&given.body));
    let token: serde_json::Value = serde_json::from_slice(&given.body).expect("JSON");
    let bearer = format!("Bearer {}", token["token"].as_str().expect("a token"));
    let answer = scene.fetch(&scene.blob.get_range(0..10).header("Authorization", bearer));
    assert_eq!((answer.status(), answer.body), (206, scene.blob.bytes(0..10)));

    // The realm's verdict is passed on as well.
    assert_eq!(scene.ask("mallory").status(), 401);
}

struct Scene {
    daemon: Daemon,
    gate: Gate,
    registry: TokenRegistry,
    blob: Blob,
    _origin: Origin,
}

impl Scene {
    fn start() -> Self {
        let origin = Origin::start();
        let blob = origin.blob(1, 1 << 20);
        let registry = TokenRegistry::before(origin.address());
        registry.allow("alice", REPOSITORY);
        let gate = registry.door();
        let daemon = Daemon::builder()
            .registry(&gate.url())
            .allow_registry(&registry.realm().host())
            .prefetch(false)
            .start();
        Self { daemon, gate, registry, blob, _origin: origin }
    }

    fn fetch(&self, request: &Request) -> Answer {
        let request = request.clone().header("X-Dragonfly-Registry", self.gate.url());
        Client::new(self.daemon.front()).fetch(&request).expect("the front answers")
    }

    /// As nydus-storage 0.6.4 asks.
    fn ask(&self, user: &str) -> Answer {
        self.ask_by(Request::get, user)
    }

    fn ask_by(&self, method: fn(String) -> Request, user: &str) -> Answer {
        let form = format!(
            "service=darter-test&scope=repository%3Alibrary%2Fscenario%3Apull&grant_type=password&username={user}\
             &password={}&client_id=nydus-registry-client",
            password(user)
        );
        let request = method(format!("/token?{form}")).form(&form);
        self.fetch(&request.header("Authorization", format!("Basic {}", basic(user))))
    }

    /// The node's own question whether a repository is public is among them.
    fn asked_for_tokens(&self) -> Vec<Seen> {
        self.registry.realm().seen()
    }
}
