//! `darter serve` with one shard, in front of the demo's registry.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::cores::Cores;
use crate::server::{Server, free_address};

/// Darter and its directory; the server goes first.
#[derive(Debug)]
pub(crate) struct Darter {
    server: Server,
    _home: TempDir,
}

impl Darter {
    /// Starts `binary` with room for `content_bytes` and as much again.
    pub(crate) fn start(
        cores: &Cores,
        binary: &Path,
        registry: &str,
        content_bytes: u64,
    ) -> anyhow::Result<Self> {
        let home = TempDir::with_prefix("darter-bench-")?;
        let (front, admin) = (free_address()?, free_address()?);
        let mut command = Command::new(binary);
        command.arg("serve").arg("--data-dir").arg(home.path().join("data"));
        command.args(["--front", &front.to_string(), "--admin", &admin.to_string()]);
        command.args(["--registry", registry, "--shards", "1"]);
        command.args(["--capacity", &format!("{}MiB", ((2 * content_bytes) >> 20).max(64))]);
        // No configuration, proxy or state of the person who measures.
        command.env("HOME", home.path()).env_remove("XDG_STATE_HOME").env("NO_PROXY", "*");
        let log = home.path().join("log");
        let server = cores.on_server(|| Server::start(command, front, &log))??;
        Ok(Self { server, _home: home })
    }

    /// The running server.
    pub(crate) fn server(&self) -> &Server {
        &self.server
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
