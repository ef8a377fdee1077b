//! The darter of the demo: `darter serve` as a child process, in a directory that goes with it.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::client::{Client, Route};

/// How long a start may take before something must be wrong; it takes milliseconds.
const READY_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);
/// How many of the log's last lines are shown with an error.
const LOG_LINES: usize = 15;

/// What the child is started with.
#[derive(Clone, Debug)]
pub(super) struct NodeOptions {
    /// Under which directory its own is made; the system's one for temporary files by default.
    pub(super) temp_dir: Option<PathBuf>,
    pub(super) capacity_bytes: u64,
    /// Fetch the rest of a blob of which something was read.
    pub(super) prefetch: bool,
    /// The only registry that it may ask.
    pub(super) registry_host: String,
    /// Where that registry redirects to.
    pub(super) storage_host: Option<String>,
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
    /// It ended by itself.
    #[error("`darter serve` ended by itself ({status}). Its last lines:\n{log}\n{HELP}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// It runs and does not answer.
    #[error(
        "`darter serve` did not answer its ping within {} s. Its last lines:\n{log}\n{HELP}",
        READY_WITHIN.as_secs()
    )]
    NotReady {
        /// The end of its log.
        log: String,
    },
}

/// Below Linux's default range for outgoing connections (from 32768), so that none of those takes a port while
/// darter is down between its two starts.
const PORTS: Range<u16> = 20_000..32_768;

/// The demo's registry is on loopback; a proxy of the person who runs it does not lead there.
const PROXY_VARIABLES: [&str; 6] =
    ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];

const HELP: &str = "If it lacks space, give a directory that has it with --temp-dir, or a smaller --size.";

/// A running `darter serve`. When dropped it is killed, and its directory removed.
#[derive(Debug)]
pub(super) struct Node {
    options: NodeOptions,
    /// Killed before `home` goes: fields are dropped in this order.
    process: Process,
    home: TempDir,
    front: SocketAddr,
    admin: SocketAddr,
}

impl Node {
    /// Starts with an empty cache; returns when it answers its ping.
    pub(super) async fn start(options: NodeOptions) -> Result<Self, NodeError> {
        let mut prefix = tempfile::Builder::new();
        let prefix = prefix.prefix("darter-demo-");
        let home = match &options.temp_dir {
            Some(directory) => prefix.tempdir_in(directory),
            None => prefix.tempdir(),
        };
        let home = home.map_err(failed("make a temporary directory"))?;
        let [front, admin] = free_addresses().map_err(failed("find free ports"))?;
        let process = Process::spawn(&options, home.path(), front, admin)?;
        let mut node = Self { options, process, home, front, admin };
        node.wait_until_ready().await?;
        Ok(node)
    }

    /// `kill -9`, and a new process on the same directory; returns how long that took to answer its ping.
    pub(super) async fn kill_and_restart(&mut self) -> Result<Duration, NodeError> {
        self.process.kill();
        let start = Instant::now();
        self.process = Process::spawn(&self.options, self.home.path(), self.front, self.admin)?;
        self.wait_until_ready().await?;
        Ok(start.elapsed())
    }

    /// An error if it is no longer running: the reason behind whatever else has just failed.
    pub(super) fn check(&mut self) -> Result<(), NodeError> {
        match self.process.0.try_wait().map_err(failed("ask for the state of `darter serve`"))? {
            Some(status) => Err(NodeError::Ended { status, log: self.last_lines() }),
            None => Ok(()),
        }
    }

    pub(super) fn front(&self) -> SocketAddr {
        self.front
    }

    pub(super) fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        data_dir(self.home.path())
    }

    pub(super) fn log(&self) -> PathBuf {
        log_path(self.home.path())
    }

    async fn wait_until_ready(&mut self) -> Result<(), NodeError> {
        let start = Instant::now();
        let mut client = Client::new(Route { host: self.admin.to_string(), registry: None });
        while client.ping("/server/ping").await.is_err() {
            self.check()?;
            if start.elapsed() > READY_WITHIN {
                return Err(NodeError::NotReady { log: self.last_lines() });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn last_lines(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        last_lines(&String::from_utf8_lossy(&log), LOG_LINES)
    }
}

/// A child that does not outlive its owner.
#[derive(Debug)]
struct Process(Child);

impl Process {
    fn spawn(
        options: &NodeOptions,
        home: &Path,
        front: SocketAddr,
        admin: SocketAddr,
    ) -> Result<Self, NodeError> {
        let log = File::options().create(true).append(true).open(log_path(home));
        let log = log.map_err(failed("write a log into the temporary directory"))?;
        let errors = log.try_clone().map_err(failed("share the log"))?;
        let program = std::env::current_exe().map_err(failed("find this program's own file"))?;
        let mut command = Command::new(program);
        command
            .arg("serve")
            .arg("--data-dir")
            .arg(data_dir(home))
            .args(["--capacity", &options.capacity_bytes.to_string()])
            .args(["--front", &front.to_string()])
            .args(["--admin", &admin.to_string()])
            .args(["--registry", &format!("http://{}", options.registry_host)])
            .args(options.storage_host.iter().flat_map(|host| ["--allow-registry", host]))
            .args(["--prefetch", &options.prefetch.to_string()])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
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

fn failed(what: &'static str) -> impl Fn(io::Error) -> NodeError {
    move |reason| NodeError::System { what, reason }
}

fn data_dir(home: &Path) -> PathBuf {
    home.join("data")
}

fn log_path(home: &Path) -> PathBuf {
    home.join("darter.log")
}

/// Two ports that were free a moment ago: the child binds them itself, and says so if it cannot.
fn free_addresses() -> io::Result<[SocketAddr; 2]> {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let pair = port_pairs(std::process::id()).find(|pair| pair.iter().all(is_free));
    let pair = pair.ok_or(io::ErrorKind::AddrInUse)?;
    Ok(pair.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
}

/// All pairs of ports in an order of this process's own: demos that start at the same moment look at different ones,
/// so that none takes what another has found free and not yet bound, or has let go for its restart.
fn port_pairs(process_id: u32) -> impl Iterator<Item = [u16; 2]> {
    let count = u32::from(PORTS.end - PORTS.start) / 2;
    // Coprime to the number of pairs, so that each comes once, and far from the neighbouring processes' own.
    const STRIDE: u32 = 1009;
    let pairs = (0..count).map(move |step| (process_id % count + step * STRIDE) % count);
    pairs.map(|pair| PORTS.start + 2 * pair as u16).map(|port| [port, port + 1])
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
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_end_of_a_log() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "    b\n    c");
        assert_eq!(last_lines("a", 2), "    a");
        assert_eq!(last_lines("", 2), "    (it has written nothing)");
    }

    #[test]
    fn neighbouring_processes_look_at_different_ports_first() {
        let firsts: HashSet<_> = (1000..1100).flat_map(|process| port_pairs(process).take(3)).collect();
        assert_eq!(firsts.len(), 300);
        let all: HashSet<_> = port_pairs(7).flatten().collect();
        assert_eq!(all, PORTS.collect());
    }
}
