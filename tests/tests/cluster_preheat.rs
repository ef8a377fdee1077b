//! `darter preheat --to all`: every node of the cluster has it before anybody wants it, and the registry gave it once.

use std::fs;
use std::time::Duration;

use darter::demo::registry::Blob;
use darter_tests::cli::{Ran, command, darter, ran};
use darter_tests::token_registry::{TokenRegistry, basic};
use darter_tests::{Daemon, Image, Origin, Request, Secrets, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const REPOSITORY: &str = "team/app";
const PATIENCE: Duration = Duration::from_secs(60);
/// The least that a store can have.
const SMALL: &str = "32MiB";

fn preheat(daemon: &Daemon, args: &[&str]) -> Ran {
    let (front, admin) = (daemon.front().to_string(), daemon.admin().to_string());
    ran(command(&[&["preheat", "--front", &front, "--admin", &admin, "--to", "all"], args].concat()))
}

/// What `darter peers --json` says at a node.
fn shown(daemon: &Daemon) -> Value {
    darter(&["peers", "--json", "--admin", &daemon.admin().to_string()]).json()
}

fn own(daemon: &Daemon, name: &str) -> String {
    shown(daemon)["node"][name].as_str().expect("a text").to_owned()
}

/// Waits until that seed has a connection with so many others.
fn wait_until_connected(seed: &Daemon, nodes: usize) {
    let connected = || {
        let shown = shown(seed);
        let peers = shown["peers"].as_array().expect("a list");
        peers.iter().filter(|peer| peer["state"] == "connected").count() == nodes
    };
    wait_until(PATIENCE, connected, || format!("the seed is not connected with {nodes} others"));
}

/// One seed and three peers.
fn cluster(origin: &Origin, secrets: &Secrets) -> (Daemon, Vec<Daemon>) {
    let seed = secrets.seed().shards(2).origin(origin).capacity("128MiB").prefetch(false).start();
    let address = own(&seed, "address");
    let peers =
        (0..3).map(|_| secrets.peer(&address).shards(2).origin(origin).capacity("128MiB").start()).collect();
    wait_until_connected(&seed, 3);
    (seed, peers)
}

#[test]
fn every_node_serves_it_when_the_registry_is_gone() {
    let (origin, secrets) = (Origin::start(), Secrets::init());
    let image = Image::build(1, &[6 * MIB as usize, 50_000]);
    for blob in image.blobs() {
        origin.registry().add_blob(REPOSITORY, Blob::bytes(blob.bytes.clone()));
    }
    for manifest in image.manifests() {
        let bytes = manifest.bytes.clone().into();
        origin.registry().add_manifest(REPOSITORY, "1.0", manifest.media_type, bytes);
    }
    let (seed, peers) = cluster(&origin, &secrets);

    // At a node that is no seed, and asks the seed to tell the others.
    let name = format!("{}/{REPOSITORY}:1.0", origin.registry().host());
    let done = preheat(&peers[0], &[&name, "--plain-http", "--json"]).json();
    let told = (&done["nodes"], &done["nodes_done"], &done["not_reached"], &done["length_bytes"]);
    assert_eq!(told, (&json!(4), &json!(4), &json!([]), &json!(image.blob_bytes())));
    assert_eq!(origin.blob_bytes(), image.blob_bytes(), "each byte once");
    let again = preheat(&seed, &[&name, "--plain-http"]);
    assert_eq!((again.status, again.err.as_str()), (0, ""), "{again:?}");
    assert!(again.out.ends_with(" are at all 4 nodes\n"), "{again:?}");
    assert_eq!(origin.blob_bytes(), image.blob_bytes(), "nothing more is asked for");

    drop(origin);
    let received: Vec<_> =
        peers.iter().map(|peer| peer.metrics().sum("darter_peer_received_bytes_total")).collect();
    for node in peers.iter().chain([&seed]) {
        let mut client = node.client();
        for blob in image.blobs() {
            let target = format!("/v2/{REPOSITORY}/blobs/{}", blob.digest());
            let answer = client.fetch(&Request::get(target)).expect("the front answers");
            assert_eq!((answer.status(), answer.body == blob.bytes), (200, true));
        }
    }
    let after: Vec<_> =
        peers.iter().map(|peer| peer.metrics().sum("darter_peer_received_bytes_total")).collect();
    assert_eq!(received, after, "they had it themselves");
}

#[test]
fn who_has_no_room_is_named_and_the_others_have_it() {
    let (origin, secrets) = (Origin::start(), Secrets::init());
    let (seed, peers) = cluster(&origin, &secrets);
    let small = secrets.peer(&own(&seed, "address")).shards(2).origin(&origin).capacity(SMALL).start();
    wait_until_connected(&seed, 4);
    let blob = origin.blob(1, 40 * MIB);
    let url = format!("{}{}", origin.url(), blob.target());
    let ran = preheat(&seed, &[&url, "--json"]);
    let small_id = own(&small, "id");
    ran.failed(1, &[&small_id[..12], &own(&small, "address"), "storage.capacity"]);
    let done: Value = serde_json::from_str(&ran.out).expect("what has come is told all the same");
    assert_eq!((&done["nodes"], &done["nodes_done"]), (&json!(5), &json!(4)));
    assert_eq!(done["not_reached"][0]["node"], json!(small_id));
    assert_eq!(origin.blob_bytes(), blob.len());
    for peer in &peers {
        let answer = peer.client().fetch(&blob.get()).expect("the front answers");
        assert!(answer.body == blob.bytes(blob.whole()));
    }
    assert_eq!(origin.blob_bytes(), blob.len(), "each byte once");
}

/// Nodes take it without any credential, and give it to no client that has none.
#[test]
fn a_private_image_is_at_all_nodes_and_not_for_everyone() {
    let (origin, secrets) = (Origin::start(), Secrets::init());
    let blob = origin.add_to(REPOSITORY, Blob::synthetic(1, 3 * MIB + 7));
    let tokens = TokenRegistry::before(origin.address());
    tokens.allow("alice", REPOSITORY);
    let door = tokens.door();
    let (host, realm) = (door.address().to_string(), tokens.realm().address().to_string());
    let registry = format!("http://{host}");
    let seed = secrets.seed().shards(2).registry(&registry).allow_registry(&realm).start();
    let peer = secrets.peer(&own(&seed, "address"));
    let peer = peer.shards(2).registry(&registry).allow_registry(&realm).start();
    wait_until_connected(&seed, 1);

    let docker = TempDir::new().expect("a temporary directory");
    let auths = json!({ "auths": { &host: { "auth": basic("alice") } } });
    fs::write(docker.path().join("config.json"), auths.to_string()).expect("it can be written");
    let url = format!("{registry}{}", blob.target_in(REPOSITORY));
    let (front, admin) = (seed.front().to_string(), seed.admin().to_string());
    let with_docker = |docker: &TempDir| {
        let mut command =
            command(&["preheat", &url, "--to", "all", "--front", &front, "--admin", &admin, "--json"]);
        command.env("DOCKER_CONFIG", docker.path());
        ran(command)
    };
    with_docker(&TempDir::new().expect("a temporary directory")).failed(1, &["docker login"]);
    let done = with_docker(&docker).json();
    assert_eq!((&done["nodes"], &done["nodes_done"]), (&json!(2), &json!(2)));
    assert_eq!(origin.blob_bytes(), blob.len());

    let get = || Request::get(blob.target_in(REPOSITORY).as_str());
    let answer = peer.client().fetch(&get()).expect("the front answers");
    assert_eq!(answer.status(), 401, "who shows nothing gets nothing");
    let token = tokens.token(Some("alice"), REPOSITORY);
    let answer = peer.client().fetch(&get().header("Authorization", &token)).expect("the front answers");
    assert!(answer.status() == 200 && answer.body == blob.bytes(blob.whole()));
    assert_eq!(origin.blob_bytes(), blob.len(), "each byte once");
}
