//! Debian's containerd with `HTTPS_PROXY` set to the front pulls from Debian's docker-registry, which speaks TLS.
//!
//! Go's clients go through no proxy to loopback, so the registry has a name, which only the proxy knows that the daemon
//! is behind: containerd, the front, that proxy and the registry are four parties.

use std::fs;

use darter_tests::cli::darter;
use darter_tests::gate::{Gate, GateOptions, Kind};
use darter_tests::need::need;
use darter_tests::{ConnectProxy, Containerd, Daemon, DebianRegistry, Image};
use tempfile::TempDir;

const HOST: &str = "registry.test";
const REPOSITORY: &str = "team/app";
const SEED: u64 = 0x7072_6f78;
/// More than a request of the front brings at once, less, and hardly anything.
const LAYERS_BYTES: [usize; 4] = [6 << 20, 3 << 20, 500_000, 100];

#[test]
fn an_image_is_pulled_through_a_tunnel() {
    if !can_run("an_image_is_pulled_through_a_tunnel") {
        return;
    }
    let scene = Scene::start();
    let daemon = scene.daemon("");
    let mut containerd = Containerd::start();
    containerd.behind_proxy(&format!("http://{}", daemon.front()), scene.gate.certificate());
    scene.pull(&containerd);
    assert_eq!(scene.gate.blob_bytes(), scene.image.blob_bytes());
    // The proxy behind has heard of tunnels only, and the registry of nobody between.
    let asked = scene.proxy.asked();
    assert!(
        !asked.is_empty() && asked.iter().all(|head| head.starts_with("CONNECT registry.test:443 ")),
        "{asked:?}"
    );
    assert!(
        scene.gate.seen().iter().all(|seen| seen.asked.header("via").is_none()),
        "{}",
        scene.gate.lines()
    );
    let metrics = daemon.metrics();
    assert_eq!(metrics.sum("darter_cache_contents"), 0.0);
    assert!(
        metrics.sum_where("darter_tunnel_bytes_total", &["towards=\"client\""])
            > scene.image.blob_bytes() as f64
    );
}

#[test]
fn an_image_is_cached_where_tls_ends_at_the_front() {
    if !can_run("an_image_is_cached_where_tls_ends_at_the_front") {
        return;
    }
    let scene = Scene::start();
    let home = scene.home.path().display().to_string();
    let ran = darter(&["proxy", "init", "--out", &home, "--host", HOST]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let daemon = scene.daemon(&format!(
        "  hijackHTTPS:\n    cert: {home}/ca.pem\n    key: {home}/ca-key.pem\n    hosts: [{{regx: '^registry\\.test:443$'}}]\n"
    ));
    let front = format!("http://{}", daemon.front());
    let believed = fs::read_to_string(scene.home.path().join("ca.pem")).expect("it is there");
    let pull = || {
        let mut containerd = Containerd::start();
        containerd.behind_proxy(&front, &believed);
        scene.pull(&containerd);
    };
    pull();
    assert_eq!(scene.gate.blob_bytes(), scene.image.blob_bytes(), "the registry gave something twice");
    // Another node's containerd, which has nothing.
    scene.gate.forget();
    pull();
    assert_eq!(scene.gate.gets(Kind::Blob), 0, "the warm front asked for blobs: {}", scene.gate.lines());
    assert_eq!(scene.gate.gets(Kind::ManifestByDigest), 0, "and for manifests: {}", scene.gate.lines());
    // A containerd that knows the front as a mirror finds the same.
    let mirrored = Containerd::start();
    let nothing = Gate::to_nowhere();
    mirrored.mirror_one(HOST, &front, &format!("https://{HOST}"), &nothing.url());
    scene.pull(&mirrored);
    assert_eq!(scene.gate.gets(Kind::Blob), 0, "the mirror asked for blobs: {}", scene.gate.lines());
    assert!(nothing.seen().is_empty(), "containerd went round the front: {}", nothing.lines());
}

/// A registry that speaks TLS under a name, behind a proxy that knows it.
struct Scene {
    image: Image,
    gate: Gate,
    proxy: ConnectProxy,
    home: TempDir,
    _registry: DebianRegistry,
}

impl Scene {
    fn start() -> Self {
        let registry = DebianRegistry::start();
        let image = Image::build(SEED, &LAYERS_BYTES).with_index();
        registry.push(&image, REPOSITORY, "v1");
        let options = GateOptions {
            upstream: Some(registry.address()),
            tls: true,
            name: Some(HOST),
            ..GateOptions::default()
        };
        let gate = Gate::with(options);
        let proxy = ConnectProxy::start(gate.address());
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        fs::write(home.path().join("gate.pem"), gate.certificate()).expect("a file can be written");
        Self { image, gate, proxy, home, _registry: registry }
    }

    /// With these lines more below `proxy`.
    fn daemon(&self, lines: &str) -> Daemon {
        let ca = self.home.path().join("gate.pem");
        let config = format!("proxy:\n  registries: [{{host: {HOST}, ca: {}}}]\n{lines}", ca.display());
        Daemon::builder().config(&config).env("HTTPS_PROXY", &self.proxy.url()).prefetch(false).start()
    }

    fn pull(&self, containerd: &Containerd) {
        let reference = format!("{HOST}/{REPOSITORY}:v1");
        containerd.pull(&reference).unwrap();
        containerd.check(&reference);
        let mut content = containerd.content();
        let documents = self.image.blobs().iter().chain(self.image.manifests());
        let mut expected: Vec<_> = documents.map(|document| document.digest()).collect();
        content.sort();
        expected.sort();
        assert_eq!(content, expected);
    }
}

fn can_run(test: &str) -> bool {
    let [root, containerd] = Containerd::NEEDS;
    need(test, &[root, containerd, DebianRegistry::NEED])
}
