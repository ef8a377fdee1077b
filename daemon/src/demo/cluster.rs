//! The nodes of the demo together: one seed, and peers that have joined it, in one directory that goes with them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use darter_transport::identity::files;
use tempfile::TempDir;

use super::client::Route;
use super::node::{Node, NodeError, NodeOptions, Place, Role, failed};
use super::ports::free_addresses;

/// All nodes, running. When dropped they are killed, and their directory removed.
#[derive(Debug)]
pub(super) struct Cluster {
    seed: Node,
    /// In the order of their numbers; never empty.
    peers: Vec<Node>,
    /// Goes after the nodes: fields are dropped in this order.
    _home: TempDir,
}

impl Cluster {
    /// Secrets, a seed, and then `peers` peers at once, all with empty caches, below `temp_dir` or the system's
    /// directory for temporary files. Returns when all have joined.
    pub(super) async fn start(
        options: NodeOptions,
        peers: usize,
        temp_dir: Option<&Path>,
    ) -> Result<Self, NodeError> {
        let mut prefix = tempfile::Builder::new();
        let prefix = prefix.prefix("darter-demo-");
        let home = match temp_dir {
            Some(directory) => prefix.tempdir_in(directory),
            None => prefix.tempdir(),
        };
        let home = home.map_err(failed("make a temporary directory"))?;
        let secrets = make_secrets(home.path())?;
        let addresses = free_addresses(1 + peers).map_err(failed("find free ports"))?;
        let seed = Place {
            name: "the seed".into(),
            role: Role::Seed,
            secrets: secrets.clone(),
            home: home.path().join("seed"),
            addresses: addresses[0],
        };
        let seed = Node::start(options.clone(), seed).await?;
        let places = addresses[1..].iter().zip(1..).map(|(own, number)| Place {
            name: format!("peer {number}"),
            role: Role::Peer { seed: addresses[0].peers },
            secrets: files::for_peers(&secrets),
            home: home.path().join(format!("peer-{number}")),
            addresses: *own,
        });
        let starts = places.map(|place| Node::start(options.clone(), place));
        let peers = futures_util::future::try_join_all(starts).await?;
        Ok(Self { seed, peers, _home: home })
    }

    pub(super) fn seed(&mut self) -> &mut Node {
        &mut self.seed
    }

    pub(super) fn peers(&self) -> &[Node] {
        &self.peers
    }

    pub(super) fn first_peer(&mut self) -> &mut Node {
        &mut self.peers[0]
    }

    /// The ways to `registry` through each of the peers.
    pub(super) fn routes(&self, registry: &str) -> Vec<Route> {
        let route = |peer: &Node| Route { host: peer.front().to_string(), registry: Some(registry.into()) };
        self.peers.iter().map(route).collect()
    }

    /// The ends of all nodes' logs, each below the node's name.
    pub(super) fn last_lines(&self) -> String {
        let nodes = std::iter::once(&self.seed).chain(&self.peers);
        nodes.map(|node| format!("\nThe last lines of {}:\n{}", node.name(), node.last_lines())).collect()
    }

    /// An error if a node has ended by itself: the reason behind whatever else has just failed.
    pub(super) fn check(&mut self) -> Result<(), NodeError> {
        self.seed.check()?;
        self.peers.iter_mut().try_for_each(Node::check)
    }
}

/// `darter cluster init`, as a person does it; returns the file of the seeds' secrets.
fn make_secrets(home: &Path) -> Result<PathBuf, NodeError> {
    let file = home.join("cluster.secret");
    let program = std::env::current_exe().map_err(failed("find this program's own file"))?;
    let mut command = Command::new(program);
    command.args(["cluster", "init", "--out"]).arg(&file).stdin(Stdio::null());
    let output = command.output().map_err(failed("start `darter cluster init`"))?;
    if output.status.success() {
        return Ok(file);
    }
    Err(NodeError::NoSecrets { said: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}
