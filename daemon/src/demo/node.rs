//! One darter of the demo: `darter serve` as a child process, a seed or a peer, in a directory of its own.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::client::{Client, FetchError, Route};
use super::ports::Addresses;

/// How long a start may take before something must be wrong; it takes milliseconds.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long a node may look for its seed, which runs already and is a few microseconds away.
const JOINED_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);
/// How many of the log's last lines are shown with an error.
const LOG_LINES: usize = 15;

/// What all nodes are started with.
#[derive(Clone, Debug)]
pub(super) struct NodeOptions {
    pub(super) capacity_bytes: u64,
    /// Fetch the rest of a blob of which something was read.
    pub(super) prefetch: bool,
    /// The only registry that it may ask.
    pub(super) registry_host: String,
    /// Where that registry redirects to.
    pub(super) storage_host: Option<String>,
}

/// A node's place in the cluster.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// For people: `the seed`, `peer 2`.
    pub(super) name: String,
    pub(super) role: Role,
    /// The file with the secrets of that role.
    pub(super) secrets: PathBuf,
    /// For its cache and its log; made if it is not there.
    pub(super) home: PathBuf,
    pub(super) addresses: Addresses,
}

/// What a node is in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Seed,
    /// Of the seed that takes other nodes at this address.
    Peer {
        seed: SocketAddr,
    },
}

/// Why there is no running darter.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Files, ports or the process could not be had.
    #[error("cannot {what}: {reason}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        reason: io::Error,
    },
    /// `darter cluster init` did not make secrets.
    #[error("`darter cluster init` failed: {said}\n{HELP}")]
    NoSecrets {
        /// Its own words.
        said: String,
    },
    /// It ended by itself.
    #[error("`darter serve`, {name}, ended by itself ({status}). Its last lines:\n{log}\n{HELP}")]
    Ended {
        /// Which node.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// It runs and does not answer.
    #[error(
        "`darter serve`, {name}, did not answer its ping within {} s. Its last lines:\n{log}\n{HELP}",
        READY_WITHIN.as_secs()
    )]
    NotReady {
        /// Which node.
        name: String,
        /// The end of its log.
        log: String,
    },
    /// It answers and is in no cluster.
    #[error(
        "`darter serve`, {name}, did not join its cluster within {} s ({said}). Its last lines:\n{log}\n\
         If a firewall filters UDP and TCP on loopback, let the ports from 12768 to 32767 through.",
        JOINED_WITHIN.as_secs()
    )]
    NotJoined {
        /// Which node.
        name: String,
        /// What it answered last.
        said: String,
        /// The end of its log.
        log: String,
    },
}

/// The demo's registry is on loopback; a proxy of the person who runs it does not lead there.
const PROXY_VARIABLES: [&str; 6] =
    ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];

const HELP: &str = "If it lacks space, give a directory that has it with --temp-dir, or a smaller --size.";

/// A running `darter serve`. When dropped it is killed; its directory goes with the cluster's.
#[derive(Debug)]
pub(super) struct Node {
    options: NodeOptions,
    place: Place,
    process: Process,
    /// It is dead because the demo wants it so.
    is_killed: bool,
}

impl Node {
    /// Starts with an empty cache; returns when it answers its ping and has joined.
    pub(super) async fn start(options: NodeOptions, place: Place) -> Result<Self, NodeError> {
        fs::create_dir_all(&place.home).map_err(failed("make a node's directory"))?;
        let process = Process::spawn(&options, &place)?;
        let mut node = Self { options, place, process, is_killed: false };
        node.wait_until_ready().await?;
        node.wait_until_joined().await?;
        Ok(node)
    }

    /// `kill -9`. It stays dead until [`restart`](Self::restart).
    pub(super) fn kill(&mut self) {
        self.is_killed = true;
        self.process.kill();
    }

    /// A new process on the same directory; returns how long it took to answer its ping. It has joined then, too.
    pub(super) async fn restart(&mut self) -> Result<Duration, NodeError> {
        let start = Instant::now();
        self.process = Process::spawn(&self.options, &self.place)?;
        self.is_killed = false;
        self.wait_until_ready().await?;
        let took = start.elapsed();
        self.wait_until_joined().await?;
        Ok(took)
    }

    /// An error if it has ended by itself: the reason behind whatever else has just failed.
    pub(super) fn check(&mut self) -> Result<(), NodeError> {
        match self.process.0.try_wait().map_err(failed("ask for the state of `darter serve`"))? {
            Some(status) if !self.is_killed => {
                Err(NodeError::Ended { name: self.place.name.clone(), status, log: self.last_lines() })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.place.name
    }

    pub(super) fn front(&self) -> SocketAddr {
        self.place.addresses.front
    }

    pub(super) fn admin(&self) -> SocketAddr {
        self.place.addresses.admin
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        data_dir(&self.place.home)
    }

    pub(super) fn log(&self) -> PathBuf {
        log_path(&self.place.home)
    }

    async fn wait_until_ready(&mut self) -> Result<(), NodeError> {
        let start = Instant::now();
        let mut client = Client::new(Route { host: self.admin().to_string(), registry: None });
        while client.ping("/server/ping").await.is_err() {
            self.check()?;
            if start.elapsed() > READY_WITHIN {
                return Err(NodeError::NotReady { name: self.place.name.clone(), log: self.last_lines() });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Before it knows the seed a peer goes to the registry by itself: what it is asked then shows no cluster.
    async fn wait_until_joined(&mut self) -> Result<(), NodeError> {
        let start = Instant::now();
        let mut client = Client::new(Route { host: self.admin().to_string(), registry: None });
        loop {
            let said = match standing(&mut client).await {
                Ok(standing) if standing == "joined" || standing == "alone" => return Ok(()),
                Ok(standing) => standing,
                Err(error) => error.to_string(),
            };
            self.check()?;
            if start.elapsed() > JOINED_WITHIN {
                return Err(NodeError::NotJoined {
                    name: self.place.name.clone(),
                    said,
                    log: self.last_lines(),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The end of its log, indented.
    pub(super) fn last_lines(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        last_lines(&String::from_utf8_lossy(&log), LOG_LINES)
    }
}

/// A child that does not outlive its owner.
#[derive(Debug)]
struct Process(Child);

impl Process {
    fn spawn(options: &NodeOptions, place: &Place) -> Result<Self, NodeError> {
        let log = File::options().create(true).append(true).open(log_path(&place.home));
        let log = log.map_err(failed("write a log into the temporary directory"))?;
        let errors = log.try_clone().map_err(failed("share the log"))?;
        let program = std::env::current_exe().map_err(failed("find this program's own file"))?;
        let mut command = Command::new(program);
        command
            .arg("serve")
            .arg("--data-dir")
            .arg(data_dir(&place.home))
            .args(["--capacity", &options.capacity_bytes.to_string()])
            .args(["--front", &place.addresses.front.to_string()])
            .args(["--admin", &place.addresses.admin.to_string()])
            .args(["--registry", &format!("http://{}", options.registry_host)])
            .args(options.storage_host.iter().flat_map(|host| ["--allow-registry", host]))
            .args(["--prefetch", &options.prefetch.to_string()])
            .arg("--cluster-secret")
            .arg(&place.secrets)
            .args(["--peer-listen", &place.addresses.peers.to_string()])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        match place.role {
            Role::Seed => command.arg("--seed"),
            Role::Peer { seed } => command.args(["--join", &seed.to_string()]),
        };
        for variable in PROXY_VARIABLES {
            command.env_remove(variable);
        }
        // A Ctrl-C at the terminal is for the demo, which then ends the child itself.
        command.process_group(0);
        command.spawn().map(Self).map_err(failed("start `darter serve`"))
    }

    fn kill(&mut self) {
        // Both fail only for a child that is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where the node says that it stands in its cluster.
async fn standing(client: &mut Client) -> Result<String, FetchError> {
    let peers = client.json("/api/v1/peers").await?;
    Ok(peers["standing"].as_str().unwrap_or("without a standing").to_owned())
}

pub(super) fn failed(what: &'static str) -> impl Fn(io::Error) -> NodeError {
    move |reason| NodeError::System { what, reason }
}

fn data_dir(home: &Path) -> PathBuf {
    home.join("data")
}

fn log_path(home: &Path) -> PathBuf {
    home.join("darter.log")
}

/// The last `count` lines, indented.
fn last_lines(log: &str, count: usize) -> String {
    let lines: Vec<_> = log.lines().collect();
    let last = &lines[lines.len().saturating_sub(count)..];
    match last {
        [] => "    (it has written nothing)".into(),
        _ => last.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "    b\n    c");
        assert_eq!(last_lines("a", 2), "    a");
        assert_eq!(last_lines("", 2), "    (it has written nothing)");
    }
}
