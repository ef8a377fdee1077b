//! Who is in the cluster and what flows there, as an operator sees it at a running node: `darter peers`, its API and
//! `/metrics`.

use std::time::Duration;

use darter_tests::cli::darter;
use darter_tests::{Daemon, Origin, Secrets, wait_until};
use serde_json::Value;

const BLOB_BYTES: u64 = 8 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
fn seed(secrets: &Secrets, origin: &Origin, zone: &str) -> Daemon {
    secrets.seed().origin(origin).flag("--zone", zone).shards(2).start()
}

fn peer_of(secrets: &Secrets, origin: &Origin, zone: &str, seed: &str) -> Daemon {
    secrets.peer(seed).origin(origin).flag("--zone", zone).shards(2).start()
}

fn text<'a>(node: &'a Value, name: &str) -> &'a str {
    node[name].as_str().unwrap_or_else(|| panic!("no {name} in {node}"))
}

fn number(node: &Value, name: &str) -> u64 {
    node[name].as_u64().unwrap_or_else(|| panic!("no {name} in {node}"))
}

fn peers(shown: &Value) -> &[Value] {
    shown["peers"].as_array().unwrap_or_else(|| panic!("no peers in {shown}"))
}

fn peer<'a>(shown: &'a Value, id: &str) -> &'a Value {
    let found = peers(shown).iter().find(|peer| text(peer, "id") == id);
    found.unwrap_or_else(|| panic!("no {id} in {shown}"))
}

fn wait_until_standing(daemon: &Daemon, standing: &str) -> Value {
    let mut last = Value::Null;
    let stands = || {
        last = daemon.peers();
        text(&last, "standing") == standing
    };
    wait_until(PATIENCE, stands, || format!("the node is not {standing}"));
    last
}

#[test]
fn a_node_shows_who_is_there_and_from_whom_its_bytes_came() {
    let (origin, secrets) = (Origin::start(), Secrets::init());
    let seed = seed(&secrets, &origin, "rack-1");
    let own = wait_until_standing(&seed, "alone");
    let (seed_id, seed_address) = (text(&own["node"], "id"), text(&own["node"], "address"));
    assert_eq!(peers(&own), [] as [Value; 0]);
    let mut first = peer_of(&secrets, &origin, "rack-2", seed_address);
    let second = peer_of(&secrets, &origin, "rack-3", seed_address);
    let ids = [&first, &second].map(|node| {
        let shown = wait_until_standing(node, "joined");
        text(&shown["node"], "id").to_owned()
    });

    let blob = origin.blob(1, BLOB_BYTES);
    for node in [&first, &second] {
        blob.read(&mut node.client(), blob.whole()).expect("it comes");
    }
    let (here, there) = (second.peers(), seed.peers());
    assert_eq!((text(&here["node"], "role"), text(&here["node"], "zone")), ("peer", "rack-3"));
    assert!(peers(&here).len() <= 2, "no more than there are: {here}");
    let seed_seen = peer(&here, seed_id);
    let told = ["role", "zone", "address", "state"].map(|name| text(seed_seen, name));
    assert_eq!(told, ["seed", "rack-1", seed_address, "connected"]);
    assert_eq!(seed_seen["lanes"], serde_json::json!(["quic"]));
    let received: u64 = peers(&here).iter().map(|peer| number(peer, "received_bytes")).sum();
    assert!(received >= BLOB_BYTES, "{received} bytes of {BLOB_BYTES}: {here}");
    // What came was sent.
    let seen_by_seed = peer(&there, &ids[1]);
    assert_eq!((text(seen_by_seed, "role"), text(seen_by_seed, "zone")), ("peer", "rack-3"));
    assert!(number(seen_by_seed, "sent_bytes") >= number(seed_seen, "received_bytes"), "{here} {there}");
    assert_eq!(peers(&there).len(), 2, "{there}");

    let metrics = second.metrics();
    assert_eq!(metrics.sum("darter_peer_received_bytes_total") as u64, received);
    let pulled = metrics.sum("darter_peer_pulled_bytes_total") as u64;
    let late = metrics.sum("darter_peer_late_bytes_total") as u64;
    assert!(pulled == BLOB_BYTES && pulled + late <= received, "{pulled} and {late} late of {received}");
    assert_eq!((metrics.sum("darter_cluster_joined"), metrics.sum("darter_cluster_seeds")), (1.0, 1.0));
    assert!(metrics.sum("darter_peer_connections") >= metrics.sum("darter_peers_connected"));
    let by = |source: &str| {
        metrics.sum_where("darter_body_bytes_total", &[&format!("source=\"{source}\"")]) as u64
    };
    assert_eq!((by("peers"), by("origin"), by("cache")), (BLOB_BYTES, 0, 0), "whose bytes the client got");
    let connected = metrics.sum_where("darter_peers", &["role=\"seed\"", "state=\"connected\""]);
    assert_eq!((connected, metrics.sum("darter_cluster_configured")), (1.0, 1.0));
    let sent = |node: &Daemon| node.metrics().sum("darter_peer_sent_bytes_total") as u64;
    assert!(sent(&seed) + sent(&first) >= received);

    let table = darter(&["peers", "--admin", &second.admin().to_string()]);
    assert!(table.out.contains(&seed_id[..12]) && table.out.contains("rack-1"), "{table:?}");
    assert!(table.out.ends_with(" nodes are known here, 1 of them seeds\n"), "{table:?}");

    first.stop();
    let mut last = Value::Null;
    let is_leaving = || {
        last = seed.peers();
        let gone = peer(&last, &ids[0]);
        text(gone, "state") == "leaving" && number(gone, "connections") == 0
    };
    wait_until(PATIENCE, is_leaving, || "the seed does not see that it goes".to_owned());
    assert!(number(peer(&last, &ids[0]), "sent_bytes") > 0, "what it took is remembered: {last}");
}

#[test]
fn a_node_that_finds_no_seed_says_what_to_look_at() {
    let (origin, secrets) = (Origin::start(), Secrets::init());
    // Nobody listens there.
    let peer = peer_of(&secrets, &origin, "rack-1", "127.0.0.1:1");
    let said = darter(&["peers", "--admin", &peer.admin().to_string()]);
    assert_eq!(said.status, 0, "{said:?}");
    assert!(said.out.contains("reached no seed yet") && said.out.contains("cluster.join"), "{said:?}");
    assert_eq!(peer.metrics().sum("darter_cluster_joined"), 0.0);
}
