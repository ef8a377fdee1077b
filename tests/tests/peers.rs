//! `darter peers`, as a user runs it.

use std::sync::atomic::{AtomicU64, Ordering};

use darter_tests::cli::darter;
use darter_tests::one_answer::{OneAnswer, answer};
use darter_tests::{Daemon, Origin};
use serde_json::json;

#[test]
fn a_node_without_a_cluster_says_so() {
    let origin = Origin::start();
    let daemon = Daemon::builder().registry(&origin.url()).capacity("64MiB").start();
    let admin = daemon.admin().to_string();
    darter(&["peers", "--admin", &admin])
        .failed(3, &["in no cluster", "--cluster-secret", "`darter cluster init`"]);
}

#[test]
fn nodes_and_what_flows_are_shown() {
    let asked = AtomicU64::new(0);
    let admin = OneAnswer::start(move |head| {
        assert!(head.starts_with("GET /api/v1/peers HTTP/1.1\r\n"), "{head}");
        let number = asked.fetch_add(1, Ordering::SeqCst);
        let node = |digit: &str, role: &str| json!({ "id": digit.repeat(64), "role": role, "address": "10.0.0.1:65000", "zone": "a" });
        let mut seed = node("b", "seed");
        // One field more than this version knows.
        let more = json!({ "state": "connected", "lanes": ["quic"], "connections": 1, "sent_bytes": 5,
                           "received_bytes": number << 20, "mood": "good" });
        seed.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let body = json!({ "at_ms": number * 500, "node": node("a", "peer"), "standing": "joined",
                           "peers": [seed] });
        answer("200 OK", "Content-Type: application/json\r\n", body.to_string().as_bytes())
    });
    let address = admin.address.to_string();
    let shown = darter(&["peers", "--admin", &address]);
    assert_eq!((shown.status, shown.err.as_str()), (0, ""));
    let lines: Vec<_> = shown.out.lines().collect();
    assert!(lines[0].starts_with("NODE          ROLE  ZONE  ADDRESS"), "{}", shown.out);
    assert!(lines[1].starts_with("aaaaaaaaaaaa  peer  a     10.0.0.1:65000  this node"), "{}", shown.out);
    assert!(lines[2].ends_with("connected  quic  0.1 MiB  1.0 MiB   0.0 MiB/s  2.0 MiB/s"), "{}", shown.out);
    assert_eq!(lines[3], "2 nodes are known here, 1 of them seeds");
    let json = darter(&["peers", "--admin", &address, "--json"]).json();
    let peer = &json["peers"][0];
    assert_eq!((&peer["received_bytes_per_s"], &peer["role"]), (&json!(2 << 20), &json!("seed")));
}
