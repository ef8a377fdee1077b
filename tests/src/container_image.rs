//! The image of `deploy/container`, built by `buildah` over the plainest Debian, with the `darter` that was built for the
//! tests in the place of the one that its first stage compiles.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{Ran, ran};
use crate::need::Need;
use crate::{built, process};

/// What the last stage begins with, here whatever Debian this machine has.
const BASE: &str = "docker.io/library/debian:bookworm-slim";
const TAG: &str = "localhost/darter";

/// An image in a storage of its own, and one container's root of it.
#[derive(Debug)]
pub struct ContainerImage {
    storage: TempDir,
    root: PathBuf,
}

impl ContainerImage {
    /// What a test needs for it.
    pub const NEEDS: [Need; 5] = [
        Need::Root,
        Need::Program { name: "buildah", package: "buildah" },
        Need::Program { name: "runc", package: "runc" },
        Need::Program { name: "strip", package: "binutils" },
        Need::Tool {
            name: "debian-root",
            cure: "run tests/tools/debian-root DIRECTORY, and put DIRECTORY/bin into PATH",
        },
    ];

    /// Builds it.
    ///
    /// # Panics
    /// With what is said, when a step of the build fails.
    pub fn build() -> Self {
        let storage = TempDir::with_prefix("darter-image-").expect("a temporary directory can be made");
        let mut image = Self { storage, root: PathBuf::new() };
        let base = image.buildah(&["from", "scratch"]);
        let root = image.buildah(&["mount", &base]);
        let mut unpack = process::command("debian-root");
        unpack.arg(&root);
        succeeds(ran(unpack));
        // Debian's own image has none.
        let mut without = process::command("chroot");
        without.args([&root, "dpkg", "--purge", "ca-certificates"]);
        succeeds(ran(without));
        image.buildah(&["commit", "--quiet", &base, BASE]);

        let compiled = image.storage.path().join("compiled");
        let program = compiled.join("src/target/release/darter");
        fs::create_dir_all(program.parent().expect("a directory")).expect("a directory can be made");
        let mut strip = process::command("strip");
        strip.arg("--strip-debug").arg("-o").arg(&program).arg(built("darter"));
        succeeds(ran(strip));
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/container/Containerfile");
        let compiled = format!("build={}", compiled.display());
        let build = ["bud", "--quiet", "--pull-never", "--isolation", "chroot", "--build-context", &compiled];
        let context = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/container");
        image.buildah(&[&build[..], &["--tag", TAG, "--file", file, context]].concat());
        let container = image.buildah(&["from", "--pull-never", TAG]);
        image.root = image.buildah(&["mount", &container]).into();
        image
    }

    /// What it says of how it is run: `User`, `Env`, `Entrypoint`, `Cmd`, as OCI's specification of images names them.
    ///
    /// # Panics
    /// When it says nothing.
    pub fn config(&self) -> Value {
        let told = self.buildah(&["inspect", "--type", "image", TAG]);
        let mut told: Value = serde_json::from_str(&told).expect("JSON");
        told["OCIv1"]["config"].take()
    }

    /// Its files, as a container has them.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What a runtime is told of a container of it, on this machine's network: everything as the image says, no capability,
    /// nothing to be written but `data` at /var/lib/darter, and `args` in the place of its command.
    pub fn runtime(&self, args: &[&str], data: &Path) -> Value {
        let config = self.config();
        let entry = config["Entrypoint"][0].as_str().expect("it has an entrypoint");
        let args = [&[entry], args].concat();
        let ids: Vec<u32> = config["User"]
            .as_str()
            .expect("it has a user")
            .split(':')
            .map(|id| id.parse().expect("a number"))
            .collect();
        let namespaces = ["pid", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": ids[0], "gid": ids[1]},
                "args": args,
                "env": config["Env"],
                "cwd": "/",
                "noNewPrivileges": true,
            },
            "root": {"path": self.root, "readonly": true},
            "hostname": "image",
            "mounts": [
                {"type": "proc", "source": "proc", "destination": "/proc"},
                {"type": "tmpfs", "source": "tmpfs", "destination": "/dev", "options": ["nosuid", "mode=755"]},
                {"type": "bind", "source": data, "destination": "/var/lib/darter", "options": ["rbind", "rw"]},
            ],
            "linux": {"namespaces": namespaces},
        })
    }

    /// Runs buildah in the image's own storage; what it prints.
    fn buildah(&self, args: &[&str]) -> String {
        let ran = ran(self.command(args));
        succeeds(ran).trim().to_owned()
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut buildah = process::command("buildah");
        buildah.arg("--root").arg(self.storage.path().join("root"));
        buildah.arg("--runroot").arg(self.storage.path().join("run"));
        buildah.args(["--storage-driver", "overlay"]).args(args);
        buildah
    }
}

impl Drop for ContainerImage {
    fn drop(&mut self) {
        // What is mounted cannot be removed.
        ran(self.command(&["rm", "--all"]));
        ran(self.command(&["rmi", "--all", "--force"]));
    }
}

fn succeeds(ran: Ran) -> String {
    assert_eq!(ran.status, 0, "{ran:?}");
    ran.out
}
