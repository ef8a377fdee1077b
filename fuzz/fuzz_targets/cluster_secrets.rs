//! The file of a cluster's secrets, and a node's key.
//!
//! What is read is written so that it is read again, and the file for peers made of it has no seed secret.
#![no_main]

use darter_transport::identity::{ClusterSecrets, NodeKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Some(key) = NodeKey::parse(text) {
        assert_eq!(NodeKey::parse(&key.to_text()).map(|read| read.id()), Some(key.id()));
    }
    let Ok(secrets) = ClusterSecrets::parse(text) else { return };
    assert_eq!(ClusterSecrets::parse(&secrets.to_text()).as_ref(), Ok(&secrets));
    let for_peers = secrets.for_peers();
    assert!(!for_peers.to_text().contains("seed-secret"));
    assert_eq!(ClusterSecrets::parse(&for_peers.to_text()), Ok(for_peers));
});
