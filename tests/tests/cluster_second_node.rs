//! An image was read at one node of a cluster, and is read at another, which is not its owner either, by unchanged
//! clients: nydusd's code mounts it, containerd pulls it. The second node's cold boot asks the registry for no blob.

use darter::demo::registry::Blob;
use darter_tests::gate::{Gate, Kind};
use darter_tests::need::{Need, need};
use darter_tests::net::{Cluster, Door, NETWORK, Node, Plan};
use darter_tests::nydus::{Config, Form, Places};
use darter_tests::{Containerd, DebianRegistry, Image};
use nydus_utils::compress;
use tempfile::TempDir;

use crate::nydus::mount::RafsMount;
use crate::nydus::tree::{Tree, plant};

#[expect(dead_code, reason = "what is not needed here is for the mounts at one node")]
mod nydus {
    pub(crate) mod image;
    pub(crate) mod mount;
    pub(crate) mod tree;
}

const SEED: u64 = 0x7265_6164;
const REPOSITORY: &str = "team/app";
/// Where containerd's user thinks that the image is.
const HOST: &str = "registry.test";

#[test]
fn nydusd_boots_there() {
    if !need("nydusd_boots_there", &[&NETWORK[..], &[Need::Root, Need::Fuse]].concat()) {
        return;
    }
    let (source, built) = (directory(), directory());
    plant(source.path(), SEED).expect("the tree can be written");
    let image = nydus::image::Image::build(source.path(), compress::Algorithm::Zstd, built.path());
    let expected = Tree::read(source.path());
    let cluster = Plan::new(2, 3).start();
    let blob = cluster.origin().add(Blob::file(&image.blob()).expect("the blob can be read"));
    cluster.wait_until_joined();

    let [first, second] = two_peers(&cluster);
    mounted(&cluster, first, &image).assert_same(&expected);
    let cold = cluster.origin().blob_bytes();
    assert!((1..=blob.len()).contains(&cold), "the first node's boot cost {cold} bytes of {}", blob.len());
    cluster.origin().forget();
    mounted(&cluster, second, &image).assert_same(&expected);
    assert_eq!(cluster.origin().blob_bytes(), 0, "the second node's boot asked the registry");
}

#[test]
fn containerd_pulls_there() {
    let needs = [&NETWORK[..], &Containerd::NEEDS, &[DebianRegistry::NEED]].concat();
    if !need("containerd_pulls_there", &needs) {
        return;
    }
    let registry = DebianRegistry::start();
    let image = Image::build(SEED, &[6 << 20, 3 << 20, 500_000, 100]).with_index();
    registry.push(&image, REPOSITORY, "v1");
    let (gate, nothing) = (Gate::before(registry.address()), Gate::to_nowhere());
    // The registry is outside; nodes reach it at one host of their network.
    let cluster = Plan::new(2, 3).flag("--allow-registry", "10.77.0.2:80").start();
    let between = cluster.between();
    let door = Door::out_of(between.namespace(), between.at(80), gate.address());
    cluster.wait_until_joined();

    let reference = format!("{HOST}/{REPOSITORY}:v1");
    let pulls = |node: &Node| {
        let containerd = Containerd::start();
        let front = format!("http://{}", node.door().address());
        containerd.mirror_one(HOST, &front, &format!("http://{}", door.address()), &nothing.url());
        containerd.pull(&reference).unwrap();
        containerd.check(&reference);
    };
    let [first, second] = two_peers(&cluster);
    pulls(first);
    assert_eq!(gate.blob_bytes(), image.blob_bytes(), "the registry gave something twice");
    gate.forget();
    pulls(second);
    assert_eq!(gate.gets(Kind::Blob), 0, "the second node asked for blobs: {}", gate.lines());
    assert_eq!(gate.gets(Kind::ManifestByDigest), 0, "and for manifests: {}", gate.lines());
    assert!(nothing.seen().is_empty(), "containerd went round the front: {}", nothing.lines());
}

fn two_peers(cluster: &Cluster) -> [&Node; 2] {
    let [first, second, ..] = cluster.peers() else { panic!("there are three") };
    [first, second]
}

/// What a client that has just been installed on that node sees of the image.
fn mounted(cluster: &Cluster, node: &Node, image: &nydus::image::Image) -> Tree {
    let (cache, point) = (directory(), directory());
    let (front, registry) = (node.door().address().to_string(), cluster.origin().registry().host());
    let places = Places {
        front,
        admin: node.door().address().to_string(),
        registry: registry.clone(),
        fallback: registry,
    };
    let mut config = Config::deployed(Form::Host, &places);
    config.set_cache(cache.path());
    let mount = RafsMount::new(&image.bootstrap, &config.text(), point.path());
    let tree = Tree::read(point.path());
    drop(mount);
    tree
}

fn directory() -> TempDir {
    TempDir::with_prefix("darter-nydus-").expect("a temporary directory can be made")
}
