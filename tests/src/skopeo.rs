//! Debian's skopeo, whose registry code is that of podman, buildah and CRI-O, with the `registries.conf` that
//! `deploy/` gives to its users.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::need::Need;
use crate::{deployed, process};

/// A skopeo with configuration files of its own.
#[derive(Debug)]
pub struct Skopeo {
    home: TempDir,
    registries: PathBuf,
}

impl Skopeo {
    /// What a test needs for it.
    pub const NEED: Need = Need::Program { name: "skopeo", package: "skopeo" };

    /// One that reads the registry that users call `registry`, without a scheme, through the front at `front`,
    /// `HOST:PORT`.
    ///
    /// # Panics
    /// When its files cannot be written.
    pub fn mirrored(registry: &str, front: &str) -> Self {
        let home = TempDir::with_prefix("darter-skopeo-").expect("a temporary directory can be made");
        let registries = home.path().join("registries.conf");
        let values = [("registry.example.com", registry), ("127.0.0.1:65001", front)];
        let text = deployed("containers/registries.conf", &values);
        Self::with(home, registries, &text)
    }

    /// One that knows of no mirror but by files of `registries.conf.d` below [`root`](Self::root).
    ///
    /// # Panics
    /// When its files cannot be written.
    pub fn unconfigured() -> Self {
        let home = TempDir::with_prefix("darter-skopeo-").expect("a temporary directory can be made");
        // What the system has in /etc, users have in .config.
        fs::create_dir(home.path().join(".config")).expect("a directory can be made");
        std::os::unix::fs::symlink(".config", home.path().join("etc")).expect("a link can be made");
        let registries = home.path().join("registries.conf");
        Self::with(home, registries, "")
    }

    /// What may stand for `/` of the machine that it runs on: `darter init --root`.
    pub fn root(&self) -> &Path {
        self.home.path()
    }

    fn with(home: TempDir, registries: PathBuf, text: &str) -> Self {
        fs::write(&registries, text).expect("the configuration can be written");
        // The default asks for signatures of nobody, but is another package's file.
        fs::write(home.path().join("policy.json"), r#"{"default":[{"type":"insecureAcceptAnything"}]}"#)
            .expect("the configuration can be written");
        Self { home, registries }
    }

    /// Copies `docker://IMAGE` into the directory `to`: `skopeo copy`, which checks every digest.
    ///
    /// # Errors
    /// What it printed.
    pub fn copy(&self, image: &str, to: &Path) -> Result<(), String> {
        let mut command = process::command("skopeo");
        command.arg("--policy").arg(self.home.path().join("policy.json"));
        command.arg("--registries-conf").arg(&self.registries).args(["copy", "--quiet"]);
        command.arg(format!("docker://{image}")).arg(format!("dir:{}", to.display()));
        // No credentials, cache or further configuration of the person who runs the tests.
        command.env("HOME", self.home.path()).env("XDG_RUNTIME_DIR", self.home.path());
        command.env("REGISTRY_AUTH_FILE", self.home.path().join("auth.json"));
        let output = command.output().map_err(|error| format!("skopeo cannot be executed: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("skopeo copy {image}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}
