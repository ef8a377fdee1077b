//! Debian's containerd as a private instance: root, state and socket in a directory of the test's own, no CRI,
//! and the snapshotter `native`, which needs no file system of the kernel's.
//!
//! The registry is spoken to by `ctr`, with containerd's own resolver and fetcher.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::need::Need;
use crate::process::{self, Process};

/// Where images and their content are.
const NAMESPACE: &str = "darter-test";
/// The address of the front in the files of `deploy/`.
const FRONT: &str = "http://127.0.0.1:65001";
/// The registry in the files of `deploy/`.
const REGISTRY: &str = "https://registry.example.com";

/// A running containerd. Ends when dropped.
#[derive(Debug)]
pub struct Containerd {
    socket: PathBuf,
    hosts: PathBuf,
    /// Of `ctr`, which is what speaks to registries.
    environment: Vec<(&'static str, String)>,
    _process: Process,
    home: TempDir,
}

impl Containerd {
    /// What a test needs for it: it mounts what it unpacks.
    pub const NEEDS: [Need; 2] = [Need::Root, Need::Program { name: "containerd", package: "containerd" }];

    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn start() -> Self {
        // Short: the path of a socket has 107 bytes at most.
        let home = TempDir::with_prefix_in("dctd-", "/tmp").expect("a temporary directory can be made");
        let at = |name: &str| home.path().join(name);
        let (socket, hosts, config) = (at("sock"), at("certs.d"), at("config.toml"));
        // It serves no pod and writes nowhere else.
        let text = format!(
            r#"version = 2
root = "{home}/root"
state = "{home}/state"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "{home}/sock"
[ttrpc]
  address = "{home}/ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{home}/opt"
"#,
            home = home.path().display()
        );
        fs::write(&config, text).expect("the configuration can be written");
        fs::create_dir(&hosts).expect("a directory can be made");
        let mut command = process::command("containerd");
        command.arg("--config").arg(&config);
        let ready = || ctr(&socket, &[], &["version"]).is_ok();
        let process = Process::start(command, home.path(), ready);
        Self { socket, hosts, environment: Vec::new(), _process: process, home }
    }

    /// From now on registries are spoken to through that proxy, and these certificates are believed and no others. It is
    /// told by the environment, as where containerd is started with it.
    ///
    /// # Panics
    /// When the certificates cannot be written.
    pub fn behind_proxy(&mut self, proxy: &str, certificates: &str) {
        let file = self.home.path().join("believed.pem");
        fs::write(&file, certificates).expect("the certificates can be written");
        self.environment = vec![
            ("HTTPS_PROXY", proxy.to_owned()),
            ("SSL_CERT_FILE", file.display().to_string()),
            ("SSL_CERT_DIR", "/nonexistent".to_owned()),
        ];
    }

    /// What may stand for `/` of the machine that it runs on: `darter init --root`. Its configuration there, which this
    /// one does not read, names the directory of `hosts.toml` files that it does.
    ///
    /// # Panics
    /// When that configuration cannot be written.
    pub fn root(&self) -> &Path {
        let directory = self.home.path().join("etc/containerd");
        let text =
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"/certs.d\"\n";
        fs::create_dir_all(&directory).expect("a directory can be made");
        fs::write(directory.join("config.toml"), text).expect("the configuration can be written");
        self.home.path()
    }

    /// Every registry is read through the front, and `ns` says which: `deploy/containerd/_default/hosts.toml`.
    pub fn mirror_all(&self, front: &str) {
        let text = crate::deployed("containerd/_default/hosts.toml", &[(FRONT, front)]);
        self.write_hosts("_default", &text);
    }

    /// One registry, called `host` by users, is read through the front, and `X-Dragonfly-Registry` says where it
    /// is: `deploy/containerd/registry.example.com/hosts.toml`. `server` is where containerd goes, without a
    /// word, when the front fails it.
    pub fn mirror_one(&self, host: &str, front: &str, registry: &str, server: &str) {
        let [quoted_server, quoted_header] = ["server = ", "X-Dragonfly-Registry = "];
        let text = crate::deployed(
            "containerd/registry.example.com/hosts.toml",
            &[
                (&format!("{quoted_server}\"{REGISTRY}\""), &format!("{quoted_server}\"{server}\"")),
                (&format!("{quoted_header}\"{REGISTRY}\""), &format!("{quoted_header}\"{registry}\"")),
                (FRONT, front),
            ],
        );
        self.write_hosts(host, &text);
    }

    /// `ctr images pull`: fetches, checks every digest and unpacks.
    ///
    /// # Errors
    /// What it printed.
    pub fn pull(&self, image: &str) -> Result<(), String> {
        self.pull_as(image, None)
    }

    /// With a user's `NAME:PASSWORD`.
    ///
    /// # Errors
    /// What it printed.
    pub fn pull_as(&self, image: &str, user: Option<&str>) -> Result<(), String> {
        let hosts = self.hosts.to_str().expect("a plain path");
        let mut arguments = vec!["images", "pull", "--snapshotter", "native", "--hosts-dir", hosts];
        if let Some(user) = user {
            arguments.extend(["--user", user]);
        }
        arguments.push(image);
        self.ctr(&arguments).map(drop)
    }

    /// Whether the image is complete and unpacked, as `ctr images check` says.
    ///
    /// # Panics
    /// When it is not.
    pub fn check(&self, image: &str) {
        let listed = self.run(&["images", "check", "--snapshotter", "native", &format!("name=={image}")]);
        let line = listed.lines().find(|line| line.starts_with(image));
        let line = line.unwrap_or_else(|| panic!("{image} is not there: {listed}"));
        let words: Vec<_> = line.split_whitespace().collect();
        assert!(words.contains(&"complete") && words.last() == Some(&"true"), "{line}");
    }

    /// Removes the image, its snapshots and its content, so that the next pull begins with nothing.
    ///
    /// # Panics
    /// When something stays.
    pub fn remove(&self, image: &str) {
        self.run(&["images", "rm", "--sync", image]);
        for digest in self.content() {
            // The collection of `--sync` may have taken it in this moment.
            let _ = self.ctr(&["content", "rm", &digest]);
        }
        assert_eq!(self.content(), Vec::<String>::new(), "content stays after {image} has been removed");
    }

    /// The digests of all content.
    pub fn content(&self) -> Vec<String> {
        self.run(&["content", "ls", "--quiet"]).lines().map(str::to_owned).collect()
    }

    fn write_hosts(&self, host: &str, text: &str) {
        let directory = self.hosts.join(host);
        fs::create_dir_all(&directory).expect("a directory can be made");
        fs::write(directory.join("hosts.toml"), text).expect("hosts.toml can be written");
    }

    fn run(&self, arguments: &[&str]) -> String {
        self.ctr(arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    fn ctr(&self, arguments: &[&str]) -> Result<String, String> {
        ctr(&self.socket, &self.environment, arguments)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // A pull that was ended in the middle of an unpacking may have left a mount, which would keep the
        // directory. Fails where there is none.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let below = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for mount in below.filter(|mount| std::path::Path::new(mount).starts_with(self.home.path())) {
            let _ = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

fn ctr(
    socket: &std::path::Path,
    environment: &[(&'static str, String)],
    arguments: &[&str],
) -> Result<String, String> {
    let mut command = process::command("ctr");
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.arg("--address").arg(socket).args(["--namespace", NAMESPACE, "--timeout", "50s"]).args(arguments);
    let output = command.output().map_err(|error| format!("ctr cannot be executed: {error}"))?;
    // What goes wrong is on the standard error; the other has pages of progress.
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    if output.status.success() { Ok(out) } else { Err(format!("ctr {arguments:?}: {err}")) }
}
