//! Debian's containerd pulls from Debian's docker-registry through the front, with the `hosts.toml` that
//! `deploy/containerd/` gives to its users.
//!
//! containerd turns to the registry silently when a mirror fails it, and then everything still works. So each
//! scenario gives it a registry of its own to turn to, which has nothing, and counts what the real one is asked.
//! containerd checks the digest of all that it keeps.

use darter_tests::gate::{Gate, GateOptions, Kind};
use darter_tests::need::need;
use darter_tests::{Containerd, Daemon, DebianRegistry, Image, Relay};
use http::Method;

const REPOSITORY: &str = "team/app";
const SEED: u64 = 0x6374_7264;
/// Layers of a small image: more than a request of the front brings at once, less, and hardly anything.
const LAYERS_BYTES: [usize; 4] = [6 << 20, 3 << 20, 500_000, 100];
/// Where users think that the image is; no such host is ever looked up.
const HOST: &str = "registry.test";

/// Without a header the parameter `ns` says which registry is meant, and `ns` means https.
#[test]
fn every_registry_by_ns() {
    if !can_run("every_registry_by_ns") {
        return;
    }
    let registry = DebianRegistry::start();
    let image = Image::build(SEED, &LAYERS_BYTES).with_index();
    registry.push(&image, REPOSITORY, "v1");
    let gate =
        Gate::with(GateOptions { upstream: Some(registry.address()), tls: true, ..GateOptions::default() });
    // The certificate of the gate is its own work.
    let daemon = Daemon::builder()
        .config("proxy:\n  security:\n    insecure: true\n")
        .allow_registry(&gate.host())
        .prefetch(false)
        .start();
    let containerd = Containerd::start();
    // There is no other way: what containerd asks of the gate itself, it asks without trust in its certificate.
    containerd.mirror_all(&format!("http://{}", daemon.front()));
    pulls_twice(&containerd, &gate, &image, &format!("{}/{REPOSITORY}:v1", gate.host()));
}

#[test]
fn one_registry_by_header() {
    if !can_run("one_registry_by_header") {
        return;
    }
    let scene = Scene::start(Image::build(SEED, &LAYERS_BYTES).with_index());
    let containerd = scene.containerd(&format!("http://{}", scene.daemon.front()));
    pulls_twice(&containerd, &scene.gate, &scene.image, &scene.reference());
    scene.assert_nothing_went_round();
}

#[test]
fn a_cached_image_is_pulled_by_tag_from_a_registry_that_is_down() {
    if !can_run("a_cached_image_is_pulled_by_tag_from_a_registry_that_is_down") {
        return;
    }
    let mut scene = Scene::start(Image::build(SEED, &LAYERS_BYTES).with_index());
    let containerd = scene.containerd(&format!("http://{}", scene.daemon.front()));
    let reference = scene.reference();
    containerd.pull(&reference).unwrap();
    containerd.remove(&reference);
    scene.gate.close();
    containerd.pull(&reference).unwrap();
    containerd.check(&reference);
    scene.assert_nothing_went_round();
    // What is not there stays not there.
    let unknown = containerd.pull(&format!("{HOST}/{REPOSITORY}:v2")).unwrap_err();
    assert!(unknown.contains("502") || unknown.contains("503"), "{unknown}");
}

#[test]
fn twenty_pulls_cost_one_manifest() {
    if !can_run("twenty_pulls_cost_one_manifest") {
        return;
    }
    // The tag names the manifest itself.
    let scene = Scene::start(Image::build(SEED, &[200_000, 100]));
    let containerd = scene.containerd(&format!("http://{}", scene.daemon.front()));
    let reference = scene.reference();
    for _ in 0..20 {
        containerd.pull(&reference).unwrap();
        containerd.remove(&reference);
    }
    let manifests = scene.gate.gets(Kind::ManifestByDigest) + scene.gate.gets(Kind::ManifestByTag);
    assert_eq!(manifests, 1, "{}", scene.gate.lines());
    assert_eq!(scene.gate.blob_bytes(), scene.image.blob_bytes());
    scene.assert_nothing_went_round();
}

/// containerd takes a clean end of a body for a reason to go on where it stopped.
#[test]
fn a_cut_connection_is_resumed() {
    if !can_run("a_cut_connection_is_resumed") {
        return;
    }
    let scene = Scene::start(Image::build(SEED, &LAYERS_BYTES));
    let relay = Relay::cutting_once_after(1_500_000, scene.daemon.front());
    let containerd = scene.containerd(&format!("http://{}", relay.address()));
    let reference = scene.reference();
    containerd.pull(&reference).unwrap();
    containerd.check(&reference);
    assert!(relay.has_cut(), "nothing was cut");
    // containerd opens every blob with `bytes=0-`.
    let ranges: Vec<_> = ranges(&relay.requests());
    assert!(ranges.iter().any(|range| range != "bytes=0-"), "nothing was resumed: {ranges:?}");
    assert_eq!(scene.gate.blob_bytes(), scene.image.blob_bytes(), "the registry gave something twice");
    scene.assert_nothing_went_round();
}

/// The other side of the same cut: the registry ends a body early, and containerd does not learn of it.
#[test]
fn a_registry_that_cuts_is_resumed_behind_the_front() {
    if !can_run("a_registry_that_cuts_is_resumed_behind_the_front") {
        return;
    }
    let scene = Scene::start(Image::build(SEED, &LAYERS_BYTES));
    let relay = Relay::cutting_once_after(u64::MAX, scene.daemon.front());
    let containerd = scene.containerd(&format!("http://{}", relay.address()));
    let reference = scene.reference();
    scene.gate.cut_next_after(1_000_000);
    containerd.pull(&reference).unwrap();
    containerd.check(&reference);
    let ranges = ranges(&relay.requests());
    assert!(ranges.iter().all(|range| range == "bytes=0-"), "containerd had to resume: {ranges:?}");
    scene.assert_nothing_went_round();
}

/// Pulls cold, then again with nothing left of the first pull.
fn pulls_twice(containerd: &Containerd, gate: &Gate, image: &Image, reference: &str) {
    containerd.pull(reference).unwrap();
    containerd.check(reference);
    let mut content = containerd.content();
    let mut expected: Vec<_> =
        image.blobs().iter().chain(image.manifests()).map(|document| document.digest()).collect();
    content.sort();
    expected.sort();
    assert_eq!(content, expected);
    assert_eq!(gate.blob_bytes(), image.blob_bytes(), "the registry gave something twice");

    containerd.remove(reference);
    gate.forget();
    containerd.pull(reference).unwrap();
    containerd.check(reference);
    assert_eq!(gate.gets(Kind::Blob), 0, "the warm front asked for blobs: {}", gate.lines());
    assert_eq!(gate.gets(Kind::ManifestByDigest), 0, "and for manifests: {}", gate.lines());
    // By tag only the registry knows what is meant.
    assert!(!gate.seen_of(&Method::HEAD, Kind::ManifestByTag).is_empty(), "{}", gate.lines());
}

/// A registry behind its gate, with a front before it, and a registry that has nothing.
struct Scene {
    image: Image,
    nothing: Gate,
    gate: Gate,
    daemon: Daemon,
    _registry: DebianRegistry,
}

impl Scene {
    fn start(image: Image) -> Self {
        let registry = DebianRegistry::start();
        registry.push(&image, REPOSITORY, "v1");
        let (gate, nothing) = (Gate::before(registry.address()), Gate::to_nowhere());
        let daemon = Daemon::builder().allow_registry(&gate.host()).prefetch(false).start();
        Self { image, nothing, gate, daemon, _registry: registry }
    }

    /// One that reads this registry by that address of the front.
    fn containerd(&self, front: &str) -> Containerd {
        let containerd = Containerd::start();
        containerd.mirror_one(HOST, front, &self.gate.url(), &self.nothing.url());
        containerd
    }

    fn reference(&self) -> String {
        format!("{HOST}/{REPOSITORY}:v1")
    }

    fn assert_nothing_went_round(&self) {
        assert!(self.nothing.seen().is_empty(), "containerd went round the front: {}", self.nothing.lines());
    }
}

fn can_run(test: &str) -> bool {
    let [root, containerd] = Containerd::NEEDS;
    need(test, &[root, containerd, DebianRegistry::NEED])
}

/// The `Range` headers among heads of requests.
fn ranges(requests: &str) -> Vec<String> {
    let lines = requests.lines().filter_map(|line| line.split_once(':'));
    let ranges = lines.filter(|(name, _)| name.eq_ignore_ascii_case("range"));
    ranges.map(|(_, value)| value.trim().to_owned()).collect()
}
