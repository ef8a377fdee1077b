//! `deploy/systemd`, read by systemd's own programs; and the daemon under the system calls that the unit leaves it.
//!
//! systemd itself runs them in `systemd.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use darter_tests::cli::{Ran, darter, ran};
use darter_tests::need::{Need, need};
use darter_tests::{Container, Mount, wait_until};
use serde_json::json;
use tempfile::TempDir;

const ANALYZE: Need = Need::Program { name: "systemd-analyze", package: "systemd" };
/// How much is left open to a service, of 100: systemd's own measure, in which most services have 95.
const EXPOSURE_MAX: u32 = 15;

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd")
}

/// A machine on which the unit is installed.
fn installed(unit: &str, text: &str, programs: &[&str]) -> TempDir {
    let root = tempfile::tempdir().expect("a temporary directory can be made");
    let put = |path: &str, text: &str, mode: u32| {
        let file = root.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(file.parent().expect("a directory")).expect("a directory can be made");
        fs::write(&file, text).expect("a file can be written");
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).expect("its owner may");
    };
    for name in ["darter-front.socket", "darter-admin.socket", "darter.service"] {
        let text = fs::read_to_string(units().join(name)).expect("it is there");
        put(&format!("etc/systemd/system/{name}"), &text, 0o644);
    }
    put(&format!("etc/systemd/system/{unit}"), text, 0o644);
    for program in programs {
        put(program, "", 0o755);
    }
    // Units of the system's own that every unit stands on.
    let copied = Command::new("cp")
        .args(["-a", "/usr/lib/systemd/system"])
        .arg({
            let place = root.path().join("usr/lib/systemd");
            fs::create_dir_all(&place).expect("a directory can be made");
            place
        })
        .status();
    assert!(copied.is_ok_and(|status| status.success()));
    root
}

fn verify(root: &TempDir, names: &[&str]) -> Ran {
    let mut verify = Command::new("systemd-analyze");
    verify
        .args(["verify", "--man=no", "--no-pager"])
        .arg(format!("--root={}", root.path().display()))
        .args(names);
    ran(verify)
}

const PROGRAMS: [&str; 2] = ["/usr/bin/darter", "/bin/kill"];

fn service() -> String {
    fs::read_to_string(units().join("darter.service")).expect("it is there")
}

#[test]
fn systemd_takes_the_units() {
    if !need("systemd_takes_the_units", &[ANALYZE]) {
        return;
    }
    let names = ["darter.service", "darter-front.socket", "darter-admin.socket"];
    let fine = verify(&installed("darter.service", &service(), &PROGRAMS), &names);
    // A key that it does not know is a warning, and no failure.
    assert_eq!((fine.status, &*fine.out, &*fine.err), (0, "", ""), "{fine:?}");
    for (from, to) in [("WatchdogSec=30", "WatchdogSec=often"), ("UMask=", "Umask=")] {
        let wrong = verify(&installed("darter.service", &service().replace(from, to), &PROGRAMS), &names);
        assert!(!wrong.err.is_empty(), "{to} is taken");
    }
    let absent = verify(&installed("darter.service", &service(), &PROGRAMS[1..]), &names);
    assert!(absent.status != 0 && absent.err.contains("/usr/bin/darter is not executable"), "{absent:?}");

    let unit =
        fs::read_to_string(units().join("../quickstart/nydus-snapshotter.service")).expect("it is there");
    let program = "/usr/local/bin/containerd-nydus-grpc";
    let snapshotter =
        verify(&installed("nydus-snapshotter.service", &unit, &[program]), &["nydus-snapshotter.service"]);
    assert_eq!((snapshotter.status, &*snapshotter.err), (0, ""), "{snapshotter:?}");
}

#[test]
fn the_service_may_do_little() {
    if !need("the_service_may_do_little", &[ANALYZE]) {
        return;
    }
    let secure = |text: &str| {
        let root = installed("darter.service", text, &PROGRAMS);
        let mut security = Command::new("systemd-analyze");
        security.args(["security", "--offline=true", "--no-pager", &format!("--threshold={EXPOSURE_MAX}")]);
        ran({
            security.arg(format!("--root={}", root.path().display())).arg("darter.service");
            security
        })
    };
    let secured = secure(&service());
    assert_eq!(secured.status, 0, "{}", secured.out);
    assert_ne!(
        secure(&service().replace("CapabilityBoundingSet=", "")).status,
        0,
        "the measure does not measure"
    );
}

/// The command line of the unit is one of darter's, and sockets and defaults of the configuration agree.
#[test]
fn unit_and_daemon_agree() {
    let unit = service();
    let value = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {key}")).to_owned()
    };
    let command = value("ExecStart");
    assert_eq!(command, "/usr/bin/darter serve --config /etc/darter/darter.yaml");
    let file = units().join("../darter.yaml");
    let shown =
        darter(&["config", "show", "--json", "--config", file.to_str().expect("a plain path")]).json();
    let setting = |key: &str| {
        let settings = shown["settings"].as_array().expect("settings");
        let found = settings.iter().find(|setting| setting["key"] == key);
        found.and_then(|setting| setting["value"].as_str()).expect("a value").to_owned()
    };
    for (socket, listen, name) in [("front", "proxy", "front"), ("admin", "health", "admin")] {
        let text = fs::read_to_string(units().join(format!("darter-{socket}.socket"))).expect("it is there");
        let [ip, port] = ["listen", "port"].map(|key| setting(&format!("{listen}.tcpListen.{key}")));
        assert!(text.contains(&format!("\nListenStream={ip}:{port}\n")), "{text}");
        assert!(text.contains(&format!("\nFileDescriptorName={name}\n")), "{text}");
        assert!(value("Sockets").contains(&format!("darter-{socket}.socket")));
    }
    // A user's default of dataDir is below XDG_STATE_HOME, and StateDirectory is below /var/lib.
    assert_eq!(
        (value("Environment"), value("StateDirectory")),
        ("XDG_STATE_HOME=/var/lib".into(), "darter".into())
    );
}

#[test]
fn its_user_is_made() {
    if !need(
        "its_user_is_made",
        &[Need::Root, Need::Program { name: "systemd-sysusers", package: "systemd" }],
    ) {
        return;
    }
    let root = tempfile::tempdir().expect("a temporary directory can be made");
    let place = root.path().join("usr/lib/sysusers.d");
    fs::create_dir_all(&place).expect("a directory can be made");
    fs::create_dir_all(root.path().join("etc")).expect("a directory can be made");
    fs::copy(units().join("sysusers.d/darter.conf"), place.join("darter.conf")).expect("a copy");
    let mut sysusers = Command::new("systemd-sysusers");
    sysusers.arg(format!("--root={}", root.path().display())).arg("darter.conf");
    let made = ran(sysusers);
    assert_eq!(made.status, 0, "{made:?}");
    let users = fs::read_to_string(root.path().join("etc/passwd")).expect("it was made");
    let user = users.lines().find(|line| line.starts_with("darter:")).expect("the user");
    assert!(user.ends_with(":/var/lib/darter:/usr/sbin/nologin"), "{user}");
    assert!(service().contains("\nUser=darter\nGroup=darter\n"));
}

/// The names in systemd's sets of system calls, and in the sets within them.
fn calls(set: &str) -> BTreeSet<String> {
    let mut filter = Command::new("systemd-analyze");
    filter.args(["syscall-filter", "--no-pager", set]);
    let shown = ran(filter);
    assert_eq!(shown.status, 0, "{shown:?}");
    let names =
        shown.out.lines().filter_map(|line| line.strip_prefix("    ")).filter(|name| !name.starts_with('#'));
    let mut all = BTreeSet::new();
    for name in names {
        match name.starts_with('@') {
            true => all.extend(calls(name)),
            false => {
                all.insert(name.to_owned());
            }
        }
    }
    all
}

/// Without systemd: its filter, its user and its read-only system, by runc.
#[test]
fn the_daemon_works_with_the_calls_that_are_left() {
    let test = "the_daemon_works_with_the_calls_that_are_left";
    let curl = Need::Program { name: "curl", package: "curl" };
    if !need(test, &[&Container::NEEDS[..], &[ANALYZE, curl, Need::IoUring, Need::Landlock]].concat()) {
        return;
    }
    let mut allowed = BTreeSet::new();
    for line in service().lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (words, is_denied) = line.strip_prefix('~').map_or((line, false), |rest| (rest, true));
        for word in words.split_whitespace() {
            let named = if word.starts_with('@') { calls(word) } else { BTreeSet::from([word.to_owned()]) };
            match is_denied {
                true => allowed.retain(|name| !named.contains(name)),
                false => allowed.extend(named),
            }
        }
    }
    assert!(allowed.len() > 100 && !allowed.contains("mount") && !allowed.contains("setuid"), "{allowed:?}");
    let seccomp = json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": allowed, "action": "SCMP_ACT_ALLOW"}],
    });
    let data = tempfile::tempdir().expect("a temporary directory can be made");
    std::os::unix::fs::chown(data.path(), Some(65532), Some(65532)).expect("root may");
    let spec = json!({
        "command": ["/usr/local/bin/darter"],
        "args": ["serve", "--capacity=64MiB", "--io=ring", "--sandbox=required", "--config=/etc/darter/darter.yaml"],
        "securityContext": {
            "runAsUser": 65532, "runAsGroup": 65532, "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "state", "mountPath": "/var/lib/darter"},
            {"name": "config", "mountPath": "/etc/darter", "readOnly": true},
        ],
    });
    let config = tempfile::tempdir().expect("a temporary directory can be made");
    fs::set_permissions(config.path(), fs::Permissions::from_mode(0o755)).expect("its owner may");
    fs::write(config.path().join("darter.yaml"), "pprofPort: 18066\n").expect("a file can be written");
    let mounts = [("state", &data), ("config", &config)]
        .map(|(volume, from)| Mount { volume, from: from.path().into() });
    let daemon = Container::new(&spec, &mounts, &seccomp);
    daemon.start();
    let ready = || daemon.fetch(40901, "/readyz").0 == "200";
    wait_until(Duration::from_secs(60), ready, || format!("it does not serve: {}", daemon.log()));
    assert!(data.path().join("store").is_dir(), "the default of dataDir is not the unit's directory");
    assert_eq!(
        daemon.status(18066, "/debug/pprof/profile?seconds=1"),
        "200",
        "no profile is taken: {}",
        daemon.log()
    );
    daemon.stop();
    assert!(daemon.log().contains("what is cached will be found"), "{}", daemon.log());
}
