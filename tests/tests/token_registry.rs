//! A private registry: its realm is on another host, and who may read what is its decision alone.
//!
//! Bytes are shared by all readers of the front, verdicts by nobody. Each scenario asks the registry itself
//! beside the front and compares.

use std::ops::Range;
use std::time::{Duration, Instant};
use std::{fs, thread};

use darter::demo::registry;
use darter_tests::gate::{Gate, Kind, Seen};
use darter_tests::need::{Need, need};
use darter_tests::nydus::{Config, Form, Places};
use darter_tests::token_registry::{TokenRegistry, basic, password};
use darter_tests::{
    Answer, BLOCK_BYTES, Blob, Builder, Client, Containerd, Daemon, DebianRegistry, Image, Origin, Request,
    wait_until,
};

use http::Method;

use crate::nydus::client::{BlobClient, Nydusd};

mod nydus {
    #[expect(dead_code, reason = "not every generation is asked here")]
    pub(crate) mod client;
}

/// Where nydusd's configuration of the tests looks too.
const REPOSITORY: &str = "library/scenario";
/// A few requests of the front: 4 MiB each.
const BLOB_BYTES: u64 = (9 << 20) + 12_345;
/// For what the daemon does in the background.
const SOON: Duration = Duration::from_secs(30);

/// Every way of asking for a blob.
const WAYS: [Way; 4] = [Way::Whole, Way::Range, Way::Head, Way::HeadRange];

#[derive(Clone, Copy, Debug)]
enum Way {
    Whole,
    Range,
    Head,
    HeadRange,
}

impl Way {
    fn request(self, target: &str, authorization: Option<&str>) -> Request {
        let request = match self {
            Way::Whole | Way::Range => Request::get(target),
            Way::Head | Way::HeadRange => Request::head(target),
        };
        let request = match self {
            Way::Range | Way::HeadRange => request.range(100_000..100_100),
            Way::Whole | Way::Head => request,
        };
        match authorization {
            Some(value) => request.header("Authorization", value),
            None => request,
        }
    }
}

/// 401 with a challenge, 403, and 404 of registries that do not tell what they have; by a token that is not good
/// for this, by one that is none, by a password, and by nothing at all.
#[test]
fn a_second_credential_gets_the_origins_verdict() {
    for status in [401, 403, 404] {
        let scene = Scene::start();
        if status != 401 {
            scene.registry.refuse_with(REPOSITORY, status);
        }
        for cached in [false, true] {
            let blob = scene.origin.blob(u64::from(status) * 2 + u64::from(cached), BLOB_BYTES);
            if cached {
                scene.assert_reads(&blob, &scene.alice());
            }
            for way in WAYS {
                // Each a new one, so that no verdict is remembered.
                let refused = [
                    scene.bob(),
                    format!("Bearer no-token-{way:?}-{cached}"),
                    format!("Basic {}", basic("bob")),
                ];
                let refused = refused.iter().map(|value| Some(&**value)).chain([None]);
                for authorization in refused {
                    let case = format!("{status}, cached: {cached}, {way:?}, {authorization:?}");
                    scene.assert_origins_verdict(way, blob.target(), authorization, &case);
                }
            }
            // The others' verdicts are not hers.
            scene.assert_reads(&blob, &scene.alice());
        }
    }
}

#[test]
fn a_second_credential_gets_the_origins_verdict_while_joined_to_the_firsts_fetch() {
    let scene = Scene::start();
    scene.registry.allow("carol", REPOSITORY);
    let blob = scene.origin.blob(1, BLOB_BYTES);
    let [alice, carol] = [scene.alice(), scene.token("carol")];
    thread::scope(|threads| {
        let held = scene.gate.hold_after(BLOCK_BYTES);
        let first = threads.spawn(|| scene.assert_reads(&blob, &alice));
        scene.gate.wait_for_blob();
        let joined = threads.spawn(|| scene.assert_reads(&blob, &carol));
        for way in WAYS {
            scene.assert_origins_verdict(way, blob.target(), Some(&scene.bob()), &format!("joined, {way:?}"));
            scene.assert_origins_verdict(way, blob.target(), None, &format!("joined, {way:?}, nobody"));
        }
        assert!(!first.is_finished(), "the first one's fetch was to be under way all that time");
        drop(held);
        first.join().expect("alice reads");
        joined.join().expect("carol reads");
    });
    assert_eq!(
        scene.gate.blob_bytes(),
        blob.len(),
        "the registry gave something twice:\n{}",
        scene.gate.lines()
    );
}

#[test]
fn another_repository_is_the_origins_decision() {
    let scene = Scene::start();
    let blob = scene.origin.blob(1, BLOB_BYTES);
    scene.assert_reads(&blob, &scene.alice());
    for repository in ["team/mounted", "team/without", "team/private"] {
        let elsewhere = scene.origin.add_to(repository, registry::Blob::synthetic(2, 10));
        assert_ne!(elsewhere.target(), blob.target_in(repository));
    }
    let mounted = scene.origin.mount("team/mounted", &blob);
    let private = scene.origin.mount("team/private", &blob);
    scene.registry.allow("alice", "team/mounted");
    scene.registry.allow("alice", "team/without");
    scene.registry.allow("bob", "team/private");
    let alice_at = |repository: &str| scene.registry.token(Some("alice"), repository);

    scene.gate.forget();
    scene.assert_reads(&mounted, &alice_at("team/mounted"));
    assert_eq!(scene.gate.blob_bytes(), 0, "the same bytes were fetched for another repository");
    for way in WAYS {
        for repository in ["team/without", "team/private", "team/unheard-of"] {
            let authorization = alice_at(repository);
            let target = blob.target_in(repository);
            scene.assert_origins_verdict(
                way,
                &target,
                Some(&authorization),
                &format!("{repository}, {way:?}"),
            );
        }
        // A token for one repository is none for another.
        let authorization = alice_at("team/mounted");
        scene.assert_origins_verdict(way, private.target(), Some(&authorization), &format!("hers, {way:?}"));
    }
    scene.assert_reads(&private, &scene.registry.token(Some("bob"), "team/private"));
}

#[test]
fn a_token_that_expires_midway_fails_only_its_own_readers() {
    let scene = Scene::start();
    scene.registry.allow("carol", REPOSITORY);
    let blob = scene.origin.blob(1, BLOB_BYTES);
    let [alice, carol] = [scene.alice(), scene.token("carol")];
    thread::scope(|threads| {
        let held = scene.gate.hold_after(BLOCK_BYTES);
        let first = threads.spawn(|| {
            let request = Way::Whole.request(blob.target(), Some(&alice));
            Client::new(scene.daemon.front()).fetch(&request)
        });
        scene.gate.wait_for_blob();
        let joined = threads.spawn(|| scene.assert_reads(&blob, &carol));
        // She is in when her own right has been asked for.
        let is_known = || scene.gate.seen().iter().any(|seen| seen.asked.authorization() == Some(&carol));
        wait_until(SOON, is_known, || format!("nobody asked for carol:\n{}", scene.gate.lines()));
        scene.registry.expire(&alice);
        drop(held);
        joined.join().expect("carol reads all of it");
        // What alice had begun may end early, by a clean close, but not with other bytes.
        if let Ok(answer) = first.join().expect("alice's reader does not panic") {
            match answer.status() {
                200 => assert!(answer.body == blob.bytes(blob.whole()), "alice got other bytes"),
                status => assert_eq!(status, 401),
            }
        }
    });
}

/// The verdict that comes midway is the origin's, for a reader who has been served before.
#[test]
fn a_reader_whose_token_has_expired_gets_the_origins_verdict_for_what_is_absent() {
    let scene = Scene::start();
    scene.registry.allow("carol", REPOSITORY);
    let blob = scene.origin.blob(1, BLOB_BYTES);
    let [alice, carol] = [scene.alice(), scene.token("carol")];
    let (known, absent) = (0..1000, 5 * BLOCK_BYTES..5 * BLOCK_BYTES + 1000);
    scene.assert_reads_range(&blob, &alice, known.clone());
    scene.assert_reads_range(&blob, &carol, known.clone());
    scene.registry.expire(&alice);
    let refused = scene.fetch(&blob.get_range(absent.clone()).header("Authorization", &*alice));
    let directly = scene.directly(&blob.get_range(absent.clone()).header("Authorization", &*alice));
    assert_same_verdict(&refused, &directly, "after her token has expired");
    scene.assert_reads_range(&blob, &carol, absent);
    scene.assert_reads_range(&blob, &carol, known);
}

#[test]
fn with_the_origin_down_only_what_was_proven_is_served() {
    let mut scene = Scene::start();
    let blob = scene.origin.blob(1, BLOB_BYTES);
    let mounted = scene.origin.mount("team/mounted", &blob);
    let [alice, bob] = [scene.alice(), scene.bob()];
    scene.registry.allow("alice", "team/mounted");
    scene.assert_reads(&blob, &alice);
    scene.assert_origins_verdict(Way::Range, blob.target(), Some(&bob), "before the origin is down");
    scene.gate.close();
    scene.registry.realm_mut().close();

    scene.assert_reads(&blob, &alice);
    scene.assert_reads_range(&blob, &alice, 100..200);
    let head = scene.fetch(&Way::Head.request(blob.target(), Some(&alice)));
    assert_eq!((head.status(), head.head.content_length()), (200, Some(blob.len())));
    for way in WAYS {
        let carols = format!("Bearer unheard-of-{way:?}");
        for authorization in [None, Some(&*carols)] {
            let answer = scene.fetch(&way.request(blob.target(), authorization));
            assert_own_trouble(&answer, &format!("{way:?}, {authorization:?}"));
        }
        // Her right to one repository says nothing of another.
        let answer = scene.fetch(&way.request(mounted.target(), Some(&alice)));
        assert_own_trouble(&answer, &format!("{way:?}, another repository"));
        // He was refused; that may be remembered, and is never turned into bytes.
        let answer = scene.fetch(&way.request(blob.target(), Some(&bob)));
        assert!(matches!(answer.status(), 401 | 502..=504), "{way:?}, bob: {:?}", answer.head);
    }
}

/// A node is upgraded while its registry is down: containers go on reading, and strangers still get nothing.
#[test]
fn what_was_proven_outlives_a_restart() {
    let mut scene = Scene::start();
    let blob = scene.origin.blob(1, BLOB_BYTES);
    let alice = scene.alice();
    scene.assert_reads(&blob, &alice);
    scene.gate.close();
    scene.registry.realm_mut().close();
    let check = |scene: &Scene, how: &str| {
        scene.assert_reads_range(&blob, &alice, 100..200);
        let answer = scene.fetch(&Way::Range.request(blob.target(), Some(&scene.bob())));
        assert_own_trouble(&answer, how);
    };
    scene.daemon.stop();
    scene.daemon.restart();
    check(&scene, "after a stop");
    // What it knew when it came up is still on disk.
    scene.daemon.kill9();
    scene.daemon.restart();
    check(&scene, "after a crash");
    // A damaged memory is none: nobody is let in by it, and nothing else is lost.
    scene.daemon.stop();
    fs::write(scene.daemon.data_dir().join("access"), "damaged").expect("the file is there");
    scene.daemon.restart();
    let answer = scene.fetch(&Way::Range.request(blob.target(), Some(&alice)));
    assert_own_trouble(&answer, "without a memory");
}

/// Proofs last five minutes and the grace here an hour; the daemon's clock is put forward instead of waiting.
#[test]
fn the_grace_outlives_proofs_and_ends() {
    let faketime = Need::Program { name: "faketime", package: "faketime" };
    if !need("the_grace_outlives_proofs_and_ends", &[faketime]) {
        return;
    }
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let clock = home.path().join("clock");
    let put_forward =
        |minutes: u32| fs::write(&clock, format!("+{}", minutes * 60)).expect("the clock can be set");
    put_forward(0);
    let mut scene = Scene::with(Daemon::builder().clock(&clock).config("access:\n  grace: 1h\n"));
    let blob = scene.origin.blob(1, BLOB_BYTES);
    let alice = scene.alice();
    let request = Way::Range.request(blob.target(), Some(&alice));
    let status = |scene: &Scene| scene.fetch(&request).status();
    scene.assert_reads(&blob, &alice);

    put_forward(10);
    scene.gate.forget();
    assert_eq!(status(&scene), 206);
    let renewed = |seen: &Seen| seen.asked.authorization() == Some(&alice);
    assert!(scene.gate.seen().iter().any(renewed), "after ten minutes the registry is asked again");

    scene.gate.close();
    scene.registry.realm_mut().close();
    put_forward(50);
    assert_eq!(status(&scene), 206, "within the grace");
    assert_own_trouble(&scene.fetch(&Way::Range.request(blob.target(), Some(&scene.bob()))), "bob");
    put_forward(90);
    assert_own_trouble(&scene.fetch(&request), "the grace is over");

    scene.gate.open();
    scene.registry.realm_mut().open();
    assert_eq!(status(&scene), 206, "the registry is back");
}

/// The node finds out with an anonymous token of its own; from then on nobody needs one.
#[test]
fn a_public_repository_is_read_without_authorization() {
    let scene = Scene::start();
    let blob = scene.origin.blob(1, BLOB_BYTES);
    scene.registry.publish(REPOSITORY);
    let directly = scene.directly(&Way::Range.request(blob.target(), None));
    assert_eq!(directly.status(), 401, "the registry itself wants a token");
    scene.assert_reads(&blob, &scene.registry.token(None, REPOSITORY));
    let is_public = || scene.fetch(&Way::Range.request(blob.target(), None)).status() == 206;
    wait_until(SOON, is_public, || format!("the node does not find out:\n{}", scene.gate.lines()));

    // One anonymous token is enough for everybody, whatever they come with, and for the absent too.
    let tokens = scene.registry.realm().gets(Kind::Token);
    scene.gate.forget();
    for authorization in [None, Some("Bearer unheard-of"), Some("Basic bm86Ym9keQ==")] {
        for way in WAYS {
            let answer = scene.fetch(&way.request(blob.target(), authorization));
            assert!(matches!(answer.status(), 200 | 206), "{way:?}, {authorization:?}: {:?}", answer.head);
        }
    }
    assert_eq!(scene.gate.gets(Kind::Blob), 0, "{}", scene.gate.lines());
    assert_eq!(scene.registry.realm().gets(Kind::Token), tokens, "a public repository is found out once");
    let asked = scene.registry.realm().seen();
    assert!(
        asked.iter().all(|seen| seen.asked.authorization().is_none()),
        "a credential was sent to the realm"
    );
}

/// The node has a token that everybody gets, and fetches with it for those who come with none.
#[test]
fn what_is_absent_of_a_public_repository_is_fetched_for_nobody_in_particular() {
    let scene = Scene::start();
    scene.registry.publish(REPOSITORY);
    let blob = scene.origin.blob(1, BLOB_BYTES);
    scene.assert_reads_range(&blob, &scene.registry.token(None, REPOSITORY), 0..100);
    let is_public = || scene.fetch(&blob.get_range(0..100)).status() == 206;
    wait_until(SOON, is_public, || format!("the node does not find out:\n{}", scene.gate.lines()));
    for absent in [blob, scene.origin.blob(2, 100_000)] {
        let answer = scene.fetch(&absent.get());
        assert_eq!(answer.status(), 200, "{}", scene.gate.lines());
        assert!(answer.body == absent.bytes(absent.whole()), "other bytes");
    }
}

#[test]
fn a_private_repository_is_not_found_public() {
    let scene = Scene::start();
    let blob = scene.origin.blob(1, BLOB_BYTES);
    scene.assert_reads(&blob, &scene.alice());
    // The node has asked as anybody by then, or does not mean to.
    for _ in 0..3 {
        scene.assert_reads_range(&blob, &scene.alice(), 0..100);
        scene.assert_origins_verdict(Way::Range, blob.target(), None, "nobody");
    }
}

#[test]
fn a_refusal_is_asked_again_after_ten_seconds() {
    let scene = Scene::start();
    let blob = scene.origin.blob(1, BLOB_BYTES);
    scene.assert_reads(&blob, &scene.alice());
    let bob = scene.bob();
    let request = Way::Range.request(blob.target(), Some(&bob));
    let started = Instant::now();
    assert_eq!(scene.fetch(&request).status(), 401);
    let asked = |scene: &Scene| {
        scene.gate.seen().iter().filter(|seen| seen.asked.authorization() == Some(&bob)).count()
    };
    let once = asked(&scene);
    for _ in 0..5 {
        assert_eq!(scene.fetch(&request).status(), 401);
    }
    // A machine that stands still for so long has every right to ask again.
    if started.elapsed() < Duration::from_secs(9) {
        assert_eq!(asked(&scene), once, "a refusal is asked again at once:\n{}", scene.gate.lines());
    }
    scene.registry.allow("bob", REPOSITORY);
    let allowed = || scene.fetch(&request).status() == 206;
    wait_until(SOON, allowed, || format!("the refusal stays:\n{}", scene.gate.lines()));
}

/// The node asks the realm as nobody, and the registry with what each client has sent.
#[test]
fn credentials_stay_with_the_registry() {
    let scene = Scene::start();
    let blob = scene.origin.blob(1, BLOB_BYTES);
    let alice = scene.alice();
    scene.assert_reads(&blob, &alice);
    let realm = scene.registry.realm();
    wait_until(SOON, || realm.gets(Kind::Token) > 0, || "nobody asks whether it is public".to_owned());
    for seen in realm.seen() {
        assert_eq!(seen.asked.authorization(), None, "the realm got what was the registry's");
    }
    let known = [Some(&*alice)];
    for seen in scene.gate.seen_of(&Method::GET, Kind::Blob) {
        assert!(known.contains(&seen.asked.authorization()), "bytes were asked for by another: {seen:?}");
    }
}

#[test]
fn nydusd_2_1_pulls_a_private_image() {
    // What it asks without `Authorization` goes to its registry, past the front.
    pulls_with_nydusd(Nydusd::V2_1, |_| {}, true);
}

#[test]
fn nydusd_2_1_pulls_a_private_image_with_auth_through() {
    pulls_with_nydusd(Nydusd::V2_1, Config::set_auth_through, false);
}

/// It sends the token request to the mirror as well.
#[test]
fn nydusd_2_3_pulls_a_private_image() {
    pulls_with_nydusd(Nydusd::V2_3, |_| {}, false);
}

#[test]
fn containerd_pulls_a_private_image() {
    let [root, program] = Containerd::NEEDS;
    if !need("containerd_pulls_a_private_image", &[root, program, DebianRegistry::NEED]) {
        return;
    }
    let debian = DebianRegistry::start();
    let image = Image::build(1, &[5 << 20, 300_000]).with_index();
    debian.push(&image, "team/app", "v1");
    let registry = TokenRegistry::before(debian.address());
    registry.allow("alice", "team/app");
    registry.add_user("bob");
    let (gate, nothing) = (registry.door(), Gate::to_nowhere());
    let daemon = Daemon::builder()
        .allow_registry(&gate.host())
        .allow_registry(&registry.realm().host())
        .prefetch(false)
        .start();
    let containerd = Containerd::start();
    containerd.mirror_one(
        "registry.test",
        &format!("http://{}", daemon.front()),
        &gate.url(),
        &nothing.url(),
    );
    let reference = "registry.test/team/app:v1";
    let user = |name: &str| format!("{name}:{}", password(name));

    containerd.pull_as(reference, Some(&user("bob"))).expect_err("bob may not");
    containerd.pull_as(reference, Some(&user("alice"))).unwrap();
    containerd.check(reference);
    assert_eq!(gate.blob_bytes(), image.blob_bytes(), "the registry gave something twice");
    containerd.remove(reference);

    gate.forget();
    containerd.pull(reference).expect_err("nobody may");
    containerd.pull_as(reference, Some(&user("bob"))).expect_err("bob may not, now that it is cached");
    assert_eq!(containerd.content(), Vec::<String>::new(), "a refused pull has left content");
    containerd.pull_as(reference, Some(&user("alice"))).unwrap();
    containerd.check(reference);
    assert_eq!(gate.gets(Kind::Blob), 0, "the warm front asked for blobs:\n{}", gate.lines());
    for seen in nothing.seen() {
        assert_eq!(seen.status, 404, "containerd was served past the front");
    }
}

/// Reads a blob cold and warm with the real client, with a password of its own.
fn pulls_with_nydusd(nydusd: Nydusd, adapt: impl FnOnce(&mut Config), asks_the_registry: bool) {
    let scene = Scene::start();
    // What the client takes for its registry is another entrance of it, so that who comes which way is seen.
    let beside = scene.registry.door();
    let blob = scene.origin.blob(1, BLOB_BYTES);
    let places = Places {
        front: scene.daemon.front().to_string(),
        admin: scene.daemon.admin().to_string(),
        registry: scene.gate.host(),
        fallback: beside.host(),
    };
    let mut config = Config::deployed(Form::Mirrors, &places);
    adapt(&mut config);
    config.add_auth(&basic("alice"));
    let blob_id = blob.content().digest().to_string();
    let blob_id = blob_id.strip_prefix("sha256:").expect("an algorithm");
    let reads: [Range<u64>; 4] = [blob.len() - 5000..blob.len(), 10..20_000, 70_000..1_200_000, 0..1];
    let read = |config: &Config| {
        let client = BlobClient::open(nydusd, config.backend(), blob_id);
        assert_eq!(client.size(), blob.len());
        for range in &reads {
            let len = usize::try_from(range.end - range.start).expect("a small range");
            let got = client.read(range.start, len).unwrap_or_else(|error| panic!("{range:?}: {error}"));
            assert!(got == blob.bytes(range.clone()), "{range:?}: other bytes");
        }
    };
    read(&config);
    assert_eq!(scene.gate.blob_bytes(), blob.touched(reads.clone()), "{}", scene.gate.lines());
    scene.gate.forget();
    read(&config);
    assert_eq!(scene.gate.gets(Kind::Blob), 0, "the warm front asked for blobs:\n{}", scene.gate.lines());

    // The client was served by the front alone, and refused where it asked for a challenge.
    let went_round = beside.seen();
    assert!(
        asks_the_registry || went_round.is_empty(),
        "{nydusd:?} went round the front:\n{}",
        beside.lines()
    );
    assert!(went_round.iter().all(|seen| seen.status == 401), "served past the front:\n{}", beside.lines());

    let mut refused = config.clone();
    refused.add_auth(&basic("bob"));
    let client = BlobClient::open(nydusd, refused.backend(), blob_id);
    client.read(10, 100).expect_err("bob may not read what is cached");
}

/// A registry with tokens behind its gate, with a front before it. alice may read; bob may not.
struct Scene {
    daemon: Daemon,
    gate: Gate,
    registry: TokenRegistry,
    origin: Origin,
}

impl Scene {
    fn start() -> Self {
        Self::with(Daemon::builder())
    }

    fn with(daemon: Builder) -> Self {
        let origin = Origin::start();
        let registry = TokenRegistry::before(origin.address());
        registry.allow("alice", REPOSITORY);
        registry.add_user("bob");
        let gate = registry.door();
        let daemon =
            daemon.registry(&gate.url()).allow_registry(&registry.realm().host()).prefetch(false).start();
        Self { daemon, gate, registry, origin }
    }

    fn alice(&self) -> String {
        self.token("alice")
    }

    fn bob(&self) -> String {
        self.token("bob")
    }

    /// A fresh token.
    fn token(&self, user: &str) -> String {
        self.registry.token(Some(user), REPOSITORY)
    }

    fn fetch(&self, request: &Request) -> Answer {
        Client::new(self.daemon.front()).fetch(request).expect("the front answers")
    }

    /// The registry's own word.
    fn directly(&self, request: &Request) -> Answer {
        // Not by the gate that counts what the front asks.
        let door = self.registry.door();
        Client::new(door.address()).fetch(request).expect("the registry answers")
    }

    fn assert_reads(&self, blob: &Blob, authorization: &str) {
        let request = blob.get().header("Authorization", authorization);
        let mut client = self.daemon.client();
        let reading = client.send(&request).expect("the front answers");
        blob.check(reading, blob.whole()).expect("a whole body");
    }

    fn assert_reads_range(&self, blob: &Blob, authorization: &str, range: Range<u64>) {
        let request = blob.get().header("Authorization", authorization);
        blob.read_as(&mut self.daemon.client(), request, range).expect("a whole body");
    }

    fn assert_origins_verdict(&self, way: Way, target: &str, authorization: Option<&str>, case: &str) {
        let request = way.request(target, authorization);
        let (answer, directly) = (self.fetch(&request), self.directly(&request));
        assert!(
            matches!(directly.status(), 401 | 403 | 404),
            "{case}: the registry says {:?}",
            directly.head
        );
        assert_same_verdict(&answer, &directly, case);
    }
}

/// The status, the challenge by which a client finds the realm, and nothing of the blob.
fn assert_same_verdict(answer: &Answer, directly: &Answer, case: &str) {
    let verdict = |answer: &Answer| (answer.status(), answer.header("WWW-Authenticate").map(str::to_owned));
    assert_eq!(verdict(answer), verdict(directly), "{case}: {:?}", answer.head);
    assert!(answer.body.len() < 1000, "{case}: a refusal with {} bytes", answer.body.len());
    assert_eq!(
        answer.header("X-Dragonfly-Error-Type"),
        None,
        "{case}: the origin's verdict is not our trouble"
    );
}

/// The daemon cannot know; a client that has a registry of its own goes there.
fn assert_own_trouble(answer: &Answer, case: &str) {
    assert!(matches!(answer.status(), 502..=504), "{case}: {:?}", answer.head);
    assert_eq!(answer.header("X-Dragonfly-Error-Type"), Some("proxy"), "{case}: {:?}", answer.head);
}
