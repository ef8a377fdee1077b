//! A container, run by `runc`: of a pod as the kubelet would have it run, with its command, user, capabilities, seccomp profile
//! and read-only root, the volumes that the test gives it and a network of its own; or by any other specification.
//!
//! A pod's root is made of this machine's libraries and programs, as the base of the image would bring them, and the `darter`
//! that was built. What only a kubelet does is not there: probes, restarts, host ports.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{Ran, ran};
use crate::need::Need;
use crate::{built, process, wait_until};

/// The address of a pod here.
const POD_IP: &str = "127.0.0.1";
/// Until a container that was asked to end is taken for stuck: what the chart gives it.
const ENDS_WITHIN: Duration = Duration::from_secs(45);

/// A volume, or a file of one, in a container.
#[derive(Clone, Debug)]
pub struct Mount {
    /// The name of the volume in the pod.
    pub volume: &'static str,
    /// What is mounted.
    pub from: PathBuf,
}

/// A container. Dropped, it is killed.
#[derive(Debug)]
pub struct Container {
    id: String,
    bundle: TempDir,
}

impl Container {
    /// What a test needs for it.
    pub const NEEDS: [Need; 2] = [Need::Root, Need::Program { name: "runc", package: "runc" }];

    /// Prepares one by its part of a pod. `seccomp` is the profile that the node has for it.
    ///
    /// # Panics
    /// When it mounts a volume that is not given.
    pub fn new(spec: &Value, mounts: &[Mount], seccomp: &Value) -> Self {
        let container = Self::specified(&config(spec, mounts, seccomp));
        let root = container.bundle.path().join("rootfs");
        for directory in ["usr/local/bin", "etc", "proc", "dev", "tmp"] {
            fs::create_dir_all(root.join(directory)).expect("a directory can be made");
        }
        // Whoever it is might write there if the root were not read-only.
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("it is the test's");
        for linked in ["bin", "lib", "lib64"] {
            symlink(format!("usr/{linked}"), root.join(linked)).expect("a link can be made");
        }
        container
    }

    /// Prepares one by all that a runtime is told, as OCI's specification of runtimes has it.
    ///
    /// # Panics
    /// When no file can be written.
    pub fn specified(config: &Value) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let bundle = TempDir::with_prefix("darter-test-").expect("a temporary directory can be made");
        fs::write(bundle.path().join("config.json"), config.to_string()).expect("a file can be written");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self { id: format!("darter-test-{}-{number}", std::process::id()), bundle }
    }

    /// Runs it to its end, as an init container or a Job.
    pub fn run(&self) -> Ran {
        let bundle = self.bundle.path().to_str().expect("a plain path");
        self.runc(&["run", "--bundle", bundle, &self.id])
    }

    /// Starts it; its output is in [`Container::log`].
    ///
    /// # Panics
    /// When runc does not start it.
    pub fn start(&self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file()).expect("a log");
        let mut run = self.command(&["run", "--detach", "--bundle"]);
        run.arg(self.bundle.path()).arg(&self.id).stdin(Stdio::null());
        run.stdout(log.try_clone().expect("a file can be shared")).stderr(log);
        let status = run.status().expect("runc can be executed");
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Runs something in it.
    pub fn exec(&self, args: &[&str]) -> Ran {
        self.runc(&[&["exec", &self.id], args].concat())
    }

    /// A path of a server in it: status and body.
    pub fn fetch(&self, port: u64, path: &str) -> (String, String) {
        let fetched = self.curl(port, path, &[]);
        let (body, status) = fetched.out.rsplit_once('\n').unwrap_or_default();
        (status.to_owned(), body.to_owned())
    }

    /// The status of a path, whatever its body is.
    pub fn status(&self, port: u64, path: &str) -> String {
        self.curl(port, path, &["--output", "/dev/null"]).out.trim().to_owned()
    }

    fn curl(&self, port: u64, path: &str, more: &[&str]) -> Ran {
        let url = format!("http://{POD_IP}:{port}{path}");
        let args = ["/usr/bin/curl", "--silent", "--max-time", "10", "--write-out", "\n%{http_code}", &url];
        self.exec(&[&args, more].concat())
    }

    /// Asks it to end, as the kubelet does, and waits for that. It can be started again.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn stop(&self) {
        assert_eq!(self.runc(&["kill", &self.id, "TERM"]).status, 0);
        let stopped = || self.runc(&["state", &self.id]).out.contains("\"stopped\"");
        wait_until(ENDS_WITHIN, stopped, || format!("it does not end: {}", self.log()));
        self.runc(&["delete", &self.id]);
    }

    fn log_file(&self) -> PathBuf {
        self.bundle.path().join("log")
    }

    fn runc(&self, args: &[&str]) -> Ran {
        ran(self.command(args))
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut runc = process::command("runc");
        runc.arg("--root").arg(self.bundle.path().join("state")).args(args).stdin(Stdio::null());
        runc
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        self.runc(&["delete", "--force", &self.id]);
    }
}

/// The specification of the runtime, of a container of a pod.
fn config(spec: &Value, mounts: &[Mount], seccomp: &Value) -> Value {
    let security = &spec["securityContext"];
    let id = |key: &str| security[key].as_u64().expect("the chart says who runs");
    let of_list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let words = of_list(&spec["command"]).into_iter().chain(of_list(&spec["args"]));
    let words: Vec<String> = words
        .map(|word| word.as_str().map_or(word.to_string(), |word| word.replace("$(POD_IP)", POD_IP)))
        .collect();
    let dropped = &security["capabilities"]["drop"];
    assert_eq!(dropped, &json!(["ALL"]), "what the container may is what it adds");
    let added = of_list(&security["capabilities"]["add"]);
    let capabilities: Vec<String> =
        added.iter().map(|name| format!("CAP_{}", name.as_str().expect("a name"))).collect();
    let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": id("runAsUser"), "gid": id("runAsGroup")},
            "args": words,
            "env": ["PATH=/usr/local/bin:/usr/bin:/bin", "XDG_STATE_HOME=/var/lib", format!("POD_IP={POD_IP}")],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "noNewPrivileges": security["allowPrivilegeEscalation"] == false,
        },
        "root": {"path": "rootfs", "readonly": security["readOnlyRootFilesystem"] == true},
        "hostname": "pod",
        "mounts": all_mounts(spec, mounts),
        "linux": {
            "namespaces": namespaces,
            "seccomp": seccomp,
        },
    })
}

/// Those of the image's base, and those of the container.
fn all_mounts(spec: &Value, mounts: &[Mount]) -> Vec<Value> {
    let bound = |from: &Path, to: &str, writable: bool| {
        let options = if writable { json!(["rbind", "rw"]) } else { json!(["rbind", "ro"]) };
        json!({"type": "bind", "source": from, "destination": to, "options": options})
    };
    let mut all = vec![
        json!({"type": "proc", "source": "proc", "destination": "/proc"}),
        json!({"type": "tmpfs", "source": "tmpfs", "destination": "/dev", "options": ["nosuid", "mode=755"]}),
    ];
    let base = ["/usr/bin", "/usr/lib", "/usr/lib64", "/usr/share/ca-certificates", "/etc/ssl"];
    all.extend(
        base.iter().filter(|path| Path::new(path).is_dir()).map(|path| bound(Path::new(path), path, false)),
    );
    all.push(bound(&built("darter"), "/usr/local/bin/darter", false));
    for mount in spec["volumeMounts"].as_array().into_iter().flatten() {
        let volume = mount["name"].as_str().expect("a mount has a volume");
        let given = mounts.iter().find(|given| given.volume == volume);
        let given = given.unwrap_or_else(|| panic!("the test gives no volume {volume}"));
        let from = mount["subPath"].as_str().map_or(given.from.clone(), |file| given.from.join(file));
        all.push(bound(&from, mount["mountPath"].as_str().expect("a place"), mount["readOnly"] != true));
    }
    all
}
