//! Debian's skopeo copies from Debian's docker-registry through the front, with the `registries.conf` that
//! `deploy/containers/` gives to users of podman, buildah, skopeo and CRI-O.
//!
//! These clients do not say which registry they mean: the front has to be started for it.

use std::path::Path;
use std::{fs, str};

use darter_tests::gate::{Gate, Kind};
use darter_tests::need::need;
use darter_tests::{Daemon, DebianRegistry, Image, Skopeo};

const REPOSITORY: &str = "team/app";
const SEED: u64 = 0x736b_6f70;

#[test]
fn copies_warm_for_nothing_and_without_the_registry() {
    if !need("copies_warm_for_nothing_and_without_the_registry", &[Skopeo::NEED, DebianRegistry::NEED]) {
        return;
    }
    let scene = Scene::start();
    let mut gate = scene.gate;
    let image = format!("{}/{REPOSITORY}:v1", scene.nothing.host());
    let to = tempfile::tempdir().expect("a temporary directory can be made");
    let copy = |name: &str| {
        let to = to.path().join(name);
        scene.skopeo.copy(&image, &to).unwrap();
        assert_copied(&scene.image, &to);
    };

    copy("cold");
    assert_eq!(gate.blob_bytes(), scene.image.blob_bytes(), "the registry gave something twice");
    gate.forget();
    copy("warm");
    assert_eq!(gate.gets(Kind::Blob), 0, "the warm front asked for blobs");
    gate.close();
    copy("down");
    assert!(scene.nothing.seen().is_empty(), "skopeo went round the front: {}", scene.nothing.lines());
}

#[test]
fn twenty_copies_cost_one_manifest() {
    if !need("twenty_copies_cost_one_manifest", &[Skopeo::NEED, DebianRegistry::NEED]) {
        return;
    }
    let scene = Scene::start();
    let image = format!("{}/{REPOSITORY}:v1", scene.nothing.host());
    let to = tempfile::tempdir().expect("a temporary directory can be made");
    for number in 0..20 {
        scene.skopeo.copy(&image, &to.path().join(number.to_string())).unwrap();
    }
    let manifests = scene.gate.gets(Kind::ManifestByDigest) + scene.gate.gets(Kind::ManifestByTag);
    assert_eq!(manifests, 1, "{}", scene.gate.lines());
    assert_eq!(scene.gate.blob_bytes(), scene.image.blob_bytes());
    assert!(scene.nothing.seen().is_empty(), "skopeo went round the front: {}", scene.nothing.lines());
}

/// A registry behind its gate, with a front before it, and what skopeo takes for the registry.
struct Scene {
    image: Image,
    nothing: Gate,
    gate: Gate,
    skopeo: Skopeo,
    _daemon: Daemon,
    _registry: DebianRegistry,
}

impl Scene {
    fn start() -> Self {
        let registry = DebianRegistry::start();
        let image = Image::build(SEED, &[5 << 20, 300_000, 100]);
        registry.push(&image, REPOSITORY, "v1");
        let (gate, nothing) = (Gate::before(registry.address()), Gate::to_nowhere());
        let daemon = Daemon::builder().registry(&gate.url()).prefetch(false).start();
        let skopeo = Skopeo::mirrored(&nothing.host(), &daemon.front().to_string());
        Self { image, nothing, gate, skopeo, _daemon: daemon, _registry: registry }
    }
}

/// skopeo's `dir:` has each blob under its digest without the algorithm, and the manifest.
fn assert_copied(image: &Image, directory: &Path) {
    for blob in image.blobs() {
        let digest = blob.digest();
        let file = directory.join(digest.strip_prefix("sha256:").expect("an algorithm"));
        let copied = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(copied == blob.bytes, "{} has other bytes", file.display());
    }
    let manifest = fs::read(directory.join("manifest.json")).expect("the manifest is copied");
    assert_eq!(str::from_utf8(&manifest), str::from_utf8(&image.tagged().bytes));
}
