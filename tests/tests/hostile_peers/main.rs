//! Nodes that mean harm, or are broken, against real daemons: without a certificate of the cluster, with a peer's
//! certificate and much to say, and with a disk that rots. Whatever they do, another peer's pulls finish meanwhile, each byte
//! right.

mod claims;
mod flood;
mod lossy;
mod rot;
mod strangers;

use std::thread::ScopedJoinHandle;
use std::time::{Duration, SystemTime};

use darter_engine::{ContentId, RegistryScope, Scope};
use darter_tests::{Blob, Daemon, Origin, Secrets, pause, wait_until};
use darter_transport::identity::{ClusterSecrets, Identity, NodeKey, files};
use darter_transport::node::Role;
use darter_transport::span::{Plot, SpanIndex};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Between one pull and the next, so that the store is not filled with them.
const PAUSE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster of one seed.
struct Scene {
    origin: Origin,
    secrets: Secrets,
    seed: Daemon,
    /// Where the seed listens for nodes.
    at: String,
}

impl Scene {
    fn new() -> Scene {
        let (origin, secrets) = (Origin::start(), Secrets::made_at(SystemTime::now() - 3 * DAY));
        let seed = secrets.seed().origin(&origin).shards(1).prefetch(false).start();
        let at = address_of(&wait_until_standing(&seed, "alone"));
        Scene { origin, secrets, seed, at }
    }

    fn peer(&self) -> Daemon {
        let peer = self.secrets.peer(&self.at).origin(&self.origin).shards(1).start();
        wait_until_standing(&peer, "joined");
        peer
    }

    /// What every peer has.
    fn peer_secrets(&self) -> ClusterSecrets {
        files::secrets(&self.secrets.of_peers()).expect("the file was just written")
    }

    fn plot(&self, blob: &Blob, span: u32) -> Plot {
        let digest = blob.digest();
        let hex = digest.strip_prefix("sha256:").expect("a digest of OCI");
        let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hexadecimal");
        let content = ContentId::from_bytes(std::array::from_fn(byte));
        let scope = Scope::Registry(RegistryScope::of_origin(&self.origin.url()));
        Plot { content, scope, span: SpanIndex::from_number(span) }
    }

    /// One blob after another is pulled at a peer for as long as something else goes on, at least one: each byte is right, and
    /// most come from the cluster. Not all have to: on a machine that stands still for seconds the peer helps itself.
    fn pull_during<T>(&self, peer: &Daemon, other: &ScopedJoinHandle<'_, T>, mut between: impl FnMut()) {
        let by_cluster = || peer.metrics().sum("darter_peer_pulled_bytes_total") as u64;
        let (before, mut pulled) = (by_cluster(), 0);
        for number in 1000.. {
            let blob = self.origin.blob(number, 300_000 + number);
            pull(peer, &blob);
            pulled += blob.len();
            between();
            pause(PAUSE);
            if other.is_finished() {
                break;
            }
        }
        let came = by_cluster() - before;
        assert!(came * 2 >= pulled, "{came} of {pulled} bytes came from the cluster");
    }

    /// The seed lives and nothing in it has panicked.
    fn check_the_seed(&mut self) {
        assert!(self.seed.running());
        let log = self.seed.log();
        assert!(!log.contains("panicked"), "{log}");
    }
}

fn pull(at: &Daemon, blob: &Blob) {
    blob.read(&mut at.client(), blob.whole()).unwrap_or_else(|error| panic!("{}: {error}", blob.digest()));
}

/// A peer's, made at that moment by a node of its own.
fn identity(secrets: &ClusterSecrets, made: SystemTime) -> Identity {
    let key = NodeKey::generate().expect("randomness");
    Identity::from_secrets(secrets, Role::Peer, &key, made).expect("the secrets were in use then")
}

fn address_of(shown: &Value) -> String {
    shown["node"]["address"].as_str().expect("a node has an address").to_owned()
}

fn wait_until_standing(daemon: &Daemon, standing: &str) -> Value {
    let mut last = Value::Null;
    let stands = || {
        last = daemon.peers();
        last["standing"] == standing
    };
    wait_until(PATIENCE, stands, || format!("the node is not {standing}"));
    last
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made")
}
