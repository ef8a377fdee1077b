//! `darter serve` in front of a registry.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::connection::{Connection, connect};
use crate::server::{Server, free_address, pause};
use crate::workload::Request;

/// The rate has no flag.
const PREFETCH_AT_ANY_RATE: &str = "download: {prefetchRateLimit: 1TiB}\n";
const NO_SCRUB: &str = "storage: {scrub: {rate: 0}}\n";

/// How to start it.
#[derive(Clone, Debug)]
pub(crate) struct DarterOptions<'a> {
    pub(crate) binary: &'a Path,
    /// Of requests that name none.
    pub(crate) registry: String,
    /// Where else it may ask: hosts with ports.
    pub(crate) allowed: Vec<String>,
    /// Each ranged request brings in the rest of its blob, as fast as that comes.
    pub(crate) prefetch: bool,
    /// What is on the disk is read in the background.
    pub(crate) scrub: bool,
    /// More of its configuration: whole lines.
    pub(crate) configuration: String,
    /// `None`: as many as there are cores.
    pub(crate) shards: Option<u32>,
    pub(crate) capacity_bytes: u64,
    /// `None`: one of its own.
    pub(crate) data_dir: Option<PathBuf>,
}

/// Darter and its directory; the server goes first.
#[derive(Debug)]
pub(crate) struct Darter {
    server: Server,
    admin: SocketAddr,
    data_dir: PathBuf,
    _home: TempDir,
}

impl<'a> DarterOptions<'a> {
    /// One shard, with room for contents of so many bytes.
    pub(crate) fn one_shard(binary: &'a Path, registry: String, capacity_bytes: u64) -> Self {
        let allowed = Vec::new();
        let (prefetch, scrub, shards) = (false, true, Some(1));
        let configuration = String::new();
        Self {
            binary,
            registry,
            allowed,
            prefetch,
            scrub,
            configuration,
            shards,
            capacity_bytes,
            data_dir: None,
        }
    }
}

impl Darter {
    /// Returns when it answers its ping: sockets are bound before the store is open.
    pub(crate) fn start(options: &DarterOptions<'_>) -> anyhow::Result<Self> {
        let home = TempDir::with_prefix("darter-bench-")?;
        let (front, admin) = (free_address()?, free_address()?);
        let data_dir = options.data_dir.clone().unwrap_or_else(|| home.path().join("data"));
        let mut command = Command::new(options.binary);
        command.arg("serve").arg("--data-dir").arg(&data_dir);
        command.args(["--front", &front.to_string(), "--admin", &admin.to_string()]);
        command.args(["--registry", &options.registry]);
        command.args(options.allowed.iter().flat_map(|host| ["--allow-registry", host]));
        command.args(options.shards.iter().flat_map(|shards| ["--shards".into(), shards.to_string()]));
        command.args(["--capacity", &format!("{}MiB", (options.capacity_bytes >> 20).max(64))]);
        let prefetch = if options.prefetch { PREFETCH_AT_ANY_RATE } else { "" };
        let scrub = if options.scrub { "" } else { NO_SCRUB };
        let text = [prefetch, scrub, &options.configuration].concat();
        if !text.is_empty() {
            let configuration = home.path().join("config.yaml");
            fs::write(&configuration, text)?;
            command.arg("--config").arg(&configuration);
        }
        if options.prefetch {
            command.args(["--prefetch", "true"]);
        }
        // No configuration, proxy or state of the person who measures.
        command.env("HOME", home.path()).env_remove("XDG_STATE_HOME").env("NO_PROXY", "*");
        let server = Server::start(command, admin, front, &home.path().join("log"))?;
        let darter = Self { server, admin, data_dir, _home: home };
        darter.ask_admin("GET", "/server/ping")?;
        Ok(darter)
    }

    /// The running server.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.server.kill()
    }

    /// What an open status page asks of a node at which nothing moves, for so many seconds: a status each second, and all
    /// that it shows when the first of them begins, and each ten after it.
    pub(crate) fn be_looked_at(&self, seconds: u64) -> anyhow::Result<()> {
        let begun = Instant::now();
        for second in 0..seconds {
            self.ask_admin("GET", "/api/v1/status")?;
            if second % 10 == 0 {
                self.ask_admin("GET", "/api/v1/contents?order=use&limit=40&cells=120")?;
            }
            pause(Duration::from_secs(second + 1).saturating_sub(begun.elapsed()));
        }
        Ok(())
    }

    /// Its metrics, as text.
    pub(crate) fn metrics(&self) -> anyhow::Result<String> {
        let body = self.ask_admin("GET", "/metrics")?;
        String::from_utf8(body).context("the metrics are no text")
    }

    /// Removes a content, so that its slots are free and their pages warm.
    pub(crate) fn remove(&self, digest: &str) -> anyhow::Result<()> {
        self.ask_admin("DELETE", &format!("/api/v1/contents/{digest}")).map(drop)
    }

    /// Whether all bytes of a content that it knows have come and are those of the digest.
    pub(crate) fn has_proved(&self, digest: &str) -> anyhow::Result<bool> {
        let body = self.ask_admin("GET", &format!("/api/v1/contents/{digest}"))?;
        let content: serde_json::Value = serde_json::from_slice(&body)?;
        Ok(content["verification"] == "passed" && content["held_bytes"] == content["length_bytes"])
    }

    /// Takes the slabs' pages out of memory, those that are clean and that no read has mapped.
    pub(crate) fn drop_page_cache(&self) -> anyhow::Result<()> {
        for entry in fs::read_dir(self.data_dir.join("store"))? {
            let file = fs::File::open(entry?.path())?;
            file.sync_data()?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        Ok(())
    }

    fn ask_admin(&self, method: &str, path: &str) -> anyhow::Result<Vec<u8>> {
        let admin = self.admin;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
        let mut connection = Connection::new(connect(admin)?);
        connection.send(Request { head, status: 200, start: 0, bytes: 0 })?;
        connection.body_of_any_length()
    }
}

/// The binary of this workspace as it is now: built, or found to be fresh, by cargo.
pub(crate) fn built() -> anyhow::Result<PathBuf> {
    ensure!(!cfg!(debug_assertions), "a debug build says nothing; add --release");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["build", "--release", "--quiet", "--locked", "--package", "darter", "--bin", "darter"];
    let status = Command::new(cargo).args(arguments).current_dir(workspace).status()?;
    ensure!(status.success(), "darter cannot be built; or name a binary with --darter");
    let binary = env::current_exe()?.with_file_name("darter");
    ensure!(binary.is_file(), "{} is not there; name a binary with --darter", binary.display());
    binary.canonicalize().context("the binary was there a moment ago")
}
