//! systemd itself as the first process of a container: either with its own `/etc` and `/var`, this machine's programs, the
//! `darter` that was built as `/usr/bin/darter`, and the network of the test; or in a new Debian with nothing of this machine.
//!
//! It is told as much as a machine tells it: units and files. What it would want of a kernel and has not here (a limit that
//! is above this process's own) is replaced, never left out.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{Ran, ran};
use crate::need::Need;
use crate::net::Namespace;
use crate::{built, process, wait_until};

/// Until a machine that has not come up is taken for stuck.
const UP_WITHIN: Duration = Duration::from_secs(60);
/// In the order of their numbers.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];
/// Not for it: to load modules, and to set the clock of the machine.
const WITHHELD: [&str; 5] = ["SYS_MODULE", "SYS_RAWIO", "SYS_TIME", "SYS_BOOT", "WAKE_ALARM"];

/// A machine under systemd. Dropped, it is killed.
#[derive(Debug)]
pub struct Systemd {
    id: String,
    bundle: TempDir,
}

impl Systemd {
    /// What a test needs for it.
    pub const NEEDS: [Need; 3] = [
        Need::Root,
        Need::Program { name: "runc", package: "runc" },
        Need::Program { name: "systemd-analyze", package: "systemd" },
    ];

    /// What a test needs for a new Debian.
    pub const NEEDS_OF_DEBIAN: [Need; 3] = [
        Need::Namespaces,
        Need::Tool {
            name: "debian-root",
            cure: "run tests/tools/debian-root DIRECTORY, and put DIRECTORY/bin into PATH",
        },
        Need::Program { name: "tar", package: "tar" },
    ];

    /// Boots a machine with these files: paths from `/` on, and texts.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn boot(files: &[(&str, &str)]) -> Self {
        let machine = Self::new();
        let root = machine.path("/");
        for directory in ["usr", "proc", "sys", "dev", "run", "tmp", "root", "var/log", "usr-above/bin"] {
            fs::create_dir_all(root.join(directory)).expect("a directory can be made");
        }
        for linked in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{linked}"), root.join(linked)).expect("a link can be made");
        }
        machine.put("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
        machine.put("/etc/group", "root:x:0:\n");
        // A place in /usr where the binary can be mounted.
        machine.put("/usr-above/bin/darter", "");
        let bound = |from: &Path, to: &str| json!({"type": "bind", "source": from, "destination": to, "options": ["bind", "ro"]});
        let lower = format!("lowerdir={}:/usr", root.join("usr-above").display());
        let mounts = [
            json!({"type": "overlay", "source": "overlay", "destination": "/usr", "options": [lower]}),
            bound(&built("darter"), "/usr/bin/darter"),
            bound(Path::new("/etc/ssl"), "/etc/ssl"),
        ];
        machine.start(files, &mounts, None);
        machine
    }

    /// Boots a new Debian with these files in that network.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn boot_debian(network: &Namespace, files: &[(&str, &str)]) -> Self {
        let machine = Self::new();
        let mut unpack = process::command("debian-root");
        let unpacked = ran({
            unpack.arg(machine.path("/"));
            unpack
        });
        assert_eq!(unpacked.status, 0, "{unpacked:?}");
        machine.start(files, &[], Some(network));
        machine
    }

    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let bundle = TempDir::with_prefix("darter-test-").expect("a temporary directory can be made");
        fs::create_dir(bundle.path().join("rootfs")).expect("a directory can be made");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self { id: format!("darter-systemd-{}-{number}", std::process::id()), bundle }
    }

    /// Writes a file of it.
    ///
    /// # Panics
    /// When that fails.
    pub fn put(&self, path: &str, text: &str) {
        let file = self.path(path);
        fs::create_dir_all(file.parent().expect("a directory")).expect("a directory can be made");
        fs::write(file, text).expect("a file can be written");
    }

    /// Runs something on it.
    pub fn exec(&self, args: &[&str]) -> Ran {
        let mut exec = self.runc();
        exec.args(["exec", &self.id]).args(args);
        ran(exec)
    }

    /// `systemctl`, which has to succeed. What it prints.
    ///
    /// # Panics
    /// When it does not.
    pub fn systemctl(&self, args: &[&str]) -> String {
        let done = self.exec(&[&["systemctl"], args].concat());
        assert_eq!(done.status, 0, "systemctl {args:?}: {done:?}\n{}", self.journal());
        done.out.trim().to_owned()
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.systemctl(&["show", "--value", "--property", name, unit])
    }

    /// What all units have said.
    pub fn journal(&self) -> String {
        self.exec(&["journalctl", "--no-pager", "--lines", "200"]).out
    }

    /// A path of the machine, as this one has it.
    pub fn path(&self, path: &str) -> PathBuf {
        self.bundle.path().join("rootfs").join(path.trim_start_matches('/'))
    }

    /// The hard limit of open files here: no service can have more.
    pub fn open_files_max() -> u64 {
        getrlimit(Resource::Nofile).maximum.unwrap_or(1 << 20).min(1 << 20)
    }

    fn start(&self, files: &[(&str, &str)], mounts: &[Value], network: Option<&Namespace>) {
        self.put("/etc/machine-id", "6461727465722d746573742d6d616368\n");
        for (path, text) in files {
            self.put(path, text);
        }
        let config = config(mounts, network).to_string();
        fs::write(self.bundle.path().join("config.json"), config).expect("a file can be written");
        let log = fs::File::create(self.bundle.path().join("log")).expect("a log can be made");
        let mut run = self.runc();
        run.args(["run", "--detach", "--bundle"]).arg(self.bundle.path()).arg(&self.id);
        run.stdout(log.try_clone().expect("a file can be shared")).stderr(log);
        let status = run.status().expect("runc can be executed");
        let log = || fs::read_to_string(self.bundle.path().join("log")).unwrap_or_default();
        assert!(status.success(), "{status}: {}", log());
        let is_up = || {
            let state = self.exec(&["systemctl", "is-system-running"]).out;
            ["running", "degraded"].contains(&state.trim())
        };
        wait_until(UP_WITHIN, is_up, || format!("systemd is not up: {}\n{}", log(), self.journal()));
    }

    fn runc(&self) -> Command {
        let mut runc = process::command("runc");
        runc.arg("--root").arg(self.bundle.path().join("state")).stdin(Stdio::null());
        runc
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.journal());
        }
        let mut delete = self.runc();
        ran({
            delete.args(["delete", "--force", &self.id]);
            delete
        });
    }
}

/// With these mounts beside those that every machine has.
fn config(mounts: &[Value], network: Option<&Namespace>) -> Value {
    let capabilities = capabilities();
    let tmpfs =
        |to: &str| json!({"type": "tmpfs", "source": "tmpfs", "destination": to, "options": ["mode=755"]});
    let mut all = vec![
        json!({"type": "proc", "source": "proc", "destination": "/proc"}),
        json!({"type": "sysfs", "source": "sysfs", "destination": "/sys", "options": ["ro"]}),
        json!({"type": "cgroup", "source": "cgroup", "destination": "/sys/fs/cgroup", "options": ["rw"]}),
        tmpfs("/dev"),
        tmpfs("/run"),
        tmpfs("/tmp"),
    ];
    all.extend_from_slice(mounts);
    let mut namespaces = ["pid", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({"type": kind})).to_vec();
    namespaces.extend(network.map(|network| json!({"type": "network", "path": network.path()})));
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/usr/lib/systemd/systemd", "--unit=multi-user.target"],
            "env": ["PATH=/usr/sbin:/usr/bin", "container=oci"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "root": {"path": "rootfs"},
        "hostname": "machine",
        "mounts": all,
        "linux": {"namespaces": namespaces, "resources": {"devices": [{"allow": true, "access": "rwm"}]}},
    })
}

/// Those that this process has, but for some.
fn capabilities() -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").expect("a process can read its status");
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("it has capabilities");
    let mask = u64::from_str_radix(mask.trim(), 16).expect("a mask");
    let has = |(number, _): &(usize, &&str)| (mask >> number) & 1 == 1;
    let named = CAPABILITIES.iter().enumerate().filter(has).filter(|(_, name)| !WITHHELD.contains(name));
    named.map(|(_, name)| format!("CAP_{name}")).collect()
}
