//! `darter doctor` on machines that are well, and on such as lack something: no space, no directory, a port that somebody
//! else has, secrets that are none, a registry that is not there. And beside a daemon that runs, which must not notice.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use darter_tests::cli::{Ran, command, ran};
use darter_tests::need::{Need, need};
use darter_tests::{DISK, Daemon, Disk, FileSystem, Mounted, Origin, Request, Secrets, built, free_address};
use serde_json::Value;
use tempfile::TempDir;

/// Addresses of a test's own, so that no port of this machine's matters.
struct Scene {
    home: TempDir,
    origin: Origin,
    front: String,
    admin: String,
}

impl Scene {
    fn new() -> Scene {
        let free = || free_address().to_string();
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        fs::create_dir(home.path().join("data")).expect("a directory can be made");
        Scene { home, origin: Origin::start(), front: free(), admin: free() }
    }

    /// The flags of a daemon that would run well, with others in their place.
    fn doctor(&self, more: &[&str]) -> Report {
        Report::of(ran(self.command(more)))
    }

    fn command(&self, more: &[&str]) -> Command {
        let data_dir = self.home.path().join("data").display().to_string();
        let registry = self.origin.url();
        let mut flags = vec!["doctor", "--json"];
        for (flag, value) in [
            ("--data-dir", &*data_dir),
            ("--capacity", "64MiB"),
            ("--front", &self.front),
            ("--admin", &self.admin),
            ("--registry", &registry),
        ] {
            if !more.contains(&flag) {
                flags.extend([flag, value]);
            }
        }
        flags.extend(more);
        command(&flags)
    }
}

/// What a run has said.
#[derive(Debug)]
struct Report {
    ran: Ran,
    json: Value,
}

impl Report {
    fn of(ran: Ran) -> Report {
        let json = serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error} in {ran:?}"));
        assert!(!ran.err.contains("panicked"), "{ran:?}");
        Report { ran, json }
    }

    /// Level, and all words, of a check.
    fn find(&self, group: &str, check: &str) -> (String, String) {
        let groups = self.json["groups"].as_array().expect("groups");
        let group = groups.iter().find(|found| found["name"] == group);
        let findings = group.and_then(|group| group["findings"].as_array());
        let finding = findings.and_then(|findings| findings.iter().find(|found| found["check"] == check));
        let finding = finding.unwrap_or_else(|| panic!("no {check} in {}", self.json));
        let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        (text("level"), format!("{} / {}", text("seen"), text("advice")))
    }

    fn assert(&self, group: &str, check: &str, level: &str, words: &[&str]) {
        let (found, said) = self.find(group, check);
        assert_eq!(found, level, "{group}/{check}: {said}");
        for word in words {
            assert!(said.contains(word), "{group}/{check}: no {word:?} in {said:?}");
        }
    }

    /// It ended with 1, and the message names these, and only these, as failed.
    fn assert_failed(&self, checks: &str) {
        assert_eq!(self.ran.status, 1, "{:?}", self.ran);
        assert!(self.ran.err.trim_end().ends_with(&format!("failed: {checks}")), "{}", self.ran.err);
    }

    fn assert_well(&self) {
        assert_eq!((self.ran.status, &*self.ran.err), (0, ""), "{}", self.json);
        assert_eq!(self.json["failed"], 0);
    }
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("it can be listed");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

#[test]
fn a_good_machine_is_well_and_nothing_is_left_behind() {
    let scene = Scene::new();
    let report = scene.doctor(&[]);
    report.assert_well();
    report.assert("store", "directory", "ok", &["is there"]);
    report.assert("store", "a file", "ok", &["allocated"]);
    report.assert("store", "store", "ok", &["none yet"]);
    report.assert("network", "front", "ok", &[&scene.front, "free"]);
    report.assert("registries", &scene.origin.url(), "ok", &["answers, after"]);
    report.assert("clock", "right", "ok", &[]);
    report.assert("limits", "whose", "ok", &["of this command"]);
    assert_eq!(names_in(&scene.home.path().join("data")), Vec::<String>::new());

    // For people: the same, in lines.
    let mut text = scene.command(&[]);
    let args: Vec<_> = text.get_args().filter(|arg| *arg != "--json").map(ToOwned::to_owned).collect();
    let mut plain = command(&[]);
    plain.args(args);
    text = plain;
    let text = ran(text);
    assert_eq!(text.status, 0, "{text:?}");
    assert!(text.out.starts_with("configuration\n  ok       settings"), "{}", text.out);
    assert!(text.out.trim_end().ends_with(", 0 failed"), "{}", text.out);
}

#[test]
fn a_directory_that_is_not_there_is_not_made() {
    let scene = Scene::new();
    let missing = scene.home.path().join("some/where");
    let report = scene.doctor(&["--data-dir", &missing.display().to_string()]);
    report.assert_well();
    report.assert("store", "directory", "ok", &["will be made", &scene.home.path().display().to_string()]);
    assert!(!missing.exists() && !scene.home.path().join("some").exists());

    let file = scene.home.path().join("file");
    fs::write(&file, "a file").expect("a file can be written");
    let report = scene.doctor(&["--data-dir", &file.display().to_string()]);
    report.assert_failed("store/directory");
    report.assert("store", "directory", "failed", &["is no directory", "--data-dir"]);

    // What is there already and is none of darter's.
    let foreign = scene.home.path().join("foreign");
    fs::create_dir_all(foreign.join("store")).expect("a directory can be made");
    let report = scene.doctor(&["--data-dir", &foreign.display().to_string()]);
    report.assert_failed("store/store");
    assert_eq!(names_in(&foreign), ["store"]);
}

#[test]
fn a_disk_without_room_is_told_with_both_sizes() {
    if !need("a_disk_without_room_is_told_with_both_sizes", &DISK) {
        return;
    }
    let scene = Scene::new();
    let disk = Disk::new(FileSystem::Ext4, 64 << 20);
    let directory = disk.directory().display().to_string();
    let report = scene.doctor(&["--data-dir", &directory, "--capacity", "1GiB"]);
    report.assert_failed("store/space");
    report.assert("store", "space", "failed", &["MiB are free", "a store for 1GiB", "storage.capacity"]);
    report.assert("store", "file system", "ok", &["ext4"]);
    report.assert("store", "a file", "ok", &["past the page cache"]);
    assert_eq!(names_in(&disk.directory()), ["lost+found"]);

    // Not even a small file.
    let full = fs::File::create(disk.directory().join("full")).expect("a file can be made");
    let free = rustix::fs::statvfs(disk.directory()).expect("the disk is mounted");
    let left = 256 << 10;
    rustix::fs::fallocate(
        &full,
        rustix::fs::FallocateFlags::empty(),
        0,
        free.f_bavail * free.f_frsize - left,
    )
    .expect("the disk has that much");
    let report = scene.doctor(&["--data-dir", &directory]);
    report.assert_failed("store/a file, store/space");
    report.assert("store", "a file", "failed", &["no room"]);
    assert_eq!(names_in(&disk.directory()), ["full", "lost+found"]);
}

#[test]
fn a_read_only_directory_is_found_out() {
    if !need("a_read_only_directory_is_found_out", &[Need::Root]) {
        return;
    }
    let scene = Scene::new();
    let directory = scene.home.path().join("read-only");
    fs::create_dir(&directory).expect("a directory can be made");
    let _mounted = Mounted::read_only(&directory);
    let report = scene.doctor(&["--data-dir", &directory.display().to_string()]);
    report.assert_failed("store/directory");
    report.assert("store", "directory", "failed", &["cannot be written"]);
}

#[test]
fn a_file_system_in_memory_has_no_direct_reads_and_is_well_or_too_small() {
    if !need("a_file_system_in_memory_has_no_direct_reads_and_is_well_or_too_small", &[Need::Root]) {
        return;
    }
    let scene = Scene::new();
    let directory = scene.home.path().join("memory");
    fs::create_dir(&directory).expect("a directory can be made");
    let _mounted = Mounted::tmpfs(&directory, 8 << 20);
    let report = scene.doctor(&["--data-dir", &directory.display().to_string()]);
    report.assert_failed("store/space");
    report.assert("store", "file system", "ok", &["tmpfs"]);
}

#[test]
fn a_port_that_somebody_else_has_is_named_with_its_owner() {
    let scene = Scene::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let taken = listener.local_addr().expect("it is bound").to_string();
    let report = scene.doctor(&["--front", &taken]);
    report.assert_failed("network/front");
    let own = format!("process {}", std::process::id());
    report.assert("network", "front", "failed", &[&taken, &own, "--front"]);
    let report = scene.doctor(&["--admin", "192.0.2.1:40901"]);
    report.assert_failed("network/admin port");
    report.assert("network", "admin port", "failed", &["no address of this machine"]);
}

#[test]
fn a_running_daemon_is_found_and_does_not_notice() {
    let origin = Origin::start();
    let daemon = Daemon::builder().registry(&origin.url()).capacity("64MiB").start();
    let flags = [
        ("--data-dir", daemon.data_dir().display().to_string()),
        ("--front", daemon.front().to_string()),
        ("--admin", daemon.admin().to_string()),
        ("--registry", origin.url()),
    ];
    let doctor = |more: &[&str]| {
        let flags = flags.iter().flat_map(|(flag, value)| [*flag, value.as_str()]);
        let flags: Vec<&str> =
            ["doctor", "--json"].into_iter().chain(flags).chain(more.iter().copied()).collect();
        Report::of(ran(command(&flags)))
    };
    let before = (daemon.log(), names_in(daemon.data_dir()));
    let report = doctor(&["--capacity", "64MiB"]);
    report.assert_well();
    let process = format!("process {}", daemon.pid());
    report.assert("store", "store", "ok", &["64MiB", &process]);
    report.assert("network", "front", "ok", &["darter listens", &process]);
    report.assert("network", "answers", "ok", &[]);
    report.assert("limits", "whose", "ok", &[&process]);
    assert_eq!((daemon.log(), names_in(daemon.data_dir())), before, "the daemon has noticed");
    let ping = daemon.admin_client().fetch(&Request::get("/server/ping")).expect("it runs on");
    assert_eq!(ping.status(), 200);

    // Another size, another directory: what the next start would meet.
    let report = doctor(&["--capacity", "128MiB"]);
    report.assert_failed("store/store");
    report.assert("store", "store", "failed", &["64MiB", "128MiB", "storage.capacity: 64MiB"]);
    let elsewhere = tempfile::tempdir().expect("a temporary directory can be made");
    let mut other = command(&["doctor", "--json", "--capacity", "64MiB", "--registry", &origin.url()]);
    other.args(["--front", &flags[1].1, "--admin", &flags[2].1]).arg("--data-dir").arg(elsewhere.path());
    let report = Report::of(ran(other));
    report.assert_failed("network/front, network/admin port");
    report.assert("network", "front", "failed", &["another darter", &process]);
}

/// As from a container of its own: neither locks nor processes of others are seen.
#[test]
fn a_daemon_that_cannot_be_seen_is_asked_before_it_is_called_anothers() {
    let test = "a_daemon_that_cannot_be_seen_is_asked_before_it_is_called_anothers";
    if !need(test, &[Need::Root, Need::Program { name: "unshare", package: "util-linux" }]) {
        return;
    }
    let origin = Origin::start();
    let daemon = Daemon::builder().registry(&origin.url()).capacity("64MiB").start();
    let (data_dir, registry) = (daemon.data_dir().display().to_string(), origin.url());
    let (front, admin) = (daemon.front().to_string(), daemon.admin().to_string());
    let doctor = |admin: &str| {
        let flags = ["--data-dir", &data_dir, "--front", &front, "--admin", admin, "--registry", &registry];
        let own = command(&[&["doctor", "--json", "--capacity", "64MiB"], &flags[..]].concat());
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc"]).arg(own.get_program()).args(own.get_args());
        Report::of(ran(command))
    };
    let report = doctor(&admin);
    report.assert_well();
    report.assert("network", "front", "warning", &["darter answers at the admin port", "in its container"]);
    // Something else answers there.
    let report = doctor(&registry.replace("http://", ""));
    report.assert_failed("network/front, network/admin port");
    report.assert("network", "front", "failed", &["somebody listens"]);
}

#[test]
fn a_registry_that_is_not_there_or_is_none_is_told_apart() {
    let scene = Scene::new();
    // Nobody listens on port 1.
    let report = scene.doctor(&["--allow-registry", "127.0.0.1:1"]);
    report.assert_failed("registries/https://127.0.0.1:1");
    report.assert("registries", "https://127.0.0.1:1", "failed", &["refused", "nothing listens"]);
    let report = scene.doctor(&["--registry", "http://registry.invalid:5000"]);
    report.assert_failed("registries/http://registry.invalid:5000");
    report.assert("registries", "http://registry.invalid:5000", "failed", &["name"]);
    // The scene's speaks http, whatever was asked.
    let host = scene.origin.url().replace("http://", "");
    let report = scene.doctor(&["--registry", &format!("https://{host}")]);
    let registry = format!("https://{host}");
    report.assert_failed(&format!("registries/{registry}"));
    report.assert("registries", &registry, "failed", &["write http:// before its name"]);
    // Something that is no registry.
    let daemon = Daemon::builder().registry(&scene.origin.url()).start();
    let none = format!("http://{}", daemon.admin());
    let report = scene.doctor(&["--registry", &none]);
    report.assert("registries", &none, "failed", &["404", "as no registry does"]);
}

#[test]
fn a_registry_is_asked_through_the_proxy_of_the_environment() {
    let scene = Scene::new();
    let mut asked = scene.command(&["--registry", "http://registry.example:5000"]);
    asked.env("HTTP_PROXY", scene.origin.url());
    let report = Report::of(ran(asked));
    let (_, said) = report.find("registries", "http://registry.example:5000");
    let proxy = scene.origin.url().replace("http://", "through the proxy ");
    assert!(said.contains(&proxy), "{said}");
}

#[test]
fn secrets_and_their_mode() {
    let secrets = Secrets::init();
    let scene = Scene::new();
    let seeds = secrets.of_seeds().display().to_string();
    let cluster = ["--peer-listen", "127.0.0.1:0", "--seed", "--cluster-secret"];
    let doctor = |file: &str| scene.doctor(&[&cluster[..], &[file]].concat());
    let report = doctor(&seeds);
    report.assert_well();
    report.assert("certificates", "secrets", "ok", &["a seed"]);
    report.assert("certificates", "permissions", "ok", &[&seeds]);

    fs::set_permissions(&seeds, fs::Permissions::from_mode(0o644)).expect("its owner may");
    let report = doctor(&seeds);
    report.assert_well();
    report.assert("certificates", "permissions", "warning", &["644", "chmod 600"]);

    let bad = scene.home.path().join("bad");
    fs::write(&bad, "darter-cluster 1\nseed-secret nonsense\n").expect("a file can be written");
    let report = doctor(&bad.display().to_string());
    report.assert_failed("configuration/settings");
    report.assert(
        "configuration",
        "settings",
        "failed",
        &["cluster.secretFile", "is no file of cluster secrets"],
    );
    // The rest is looked at all the same.
    report.assert("store", "directory", "ok", &[]);

    let missing = scene.home.path().join("missing").display().to_string();
    let report = doctor(&missing);
    report.assert_failed("configuration/settings");
    report.assert("configuration", "settings", "failed", &[&format!("darter cluster init --out {missing}")]);
    let report = doctor(&secrets.of_peers().display().to_string());
    report.assert("configuration", "settings", "failed", &["no seed can be made"]);
}

#[test]
fn what_is_wrong_in_the_configuration_is_told_with_the_kernel() {
    let scene = Scene::new();
    let config = scene.home.path().join("darter.yaml");
    fs::write(&config, "storage:\n  capacity: ten\nprozy: {}\n").expect("a file can be written");
    let report = Report::of(ran(command(&["doctor", "--json", "--config", &config.display().to_string()])));
    report.assert_failed("configuration/settings, configuration/settings");
    report.assert("configuration", "settings", "failed", &["darter.yaml:2", "storage.capacity"]);
    report.assert("kernel", "version", "ok", &["Linux"]);
}

#[test]
fn rings_that_are_denied_and_few_files_are_told() {
    let scene = Scene::new();
    let under = |program: &str, args: &[&str], flags: &[&str]| {
        let own = scene.command(flags);
        let mut command = Command::new(program);
        command.args(args).arg(own.get_program()).args(own.get_args()).env("HOME", "/nonexistent");
        Report::of(ran(command))
    };
    let filter = built("without-io-uring").display().to_string();
    let report = under(&filter, &[], &[]);
    report.assert_well();
    report.assert("kernel", "io_uring", "warning", &["not available", "seccomp"]);
    let report = under(&filter, &[], &["--io", "ring"]);
    report.assert_failed("kernel/io_uring");

    let prlimit = Need::Program { name: "prlimit", package: "util-linux" };
    if !need("rings_that_are_denied_and_few_files_are_told", &[prlimit]) {
        return;
    }
    let report = under("prlimit", &["--nofile=300:300"], &[]);
    report.assert_failed("limits/open files");
    let report = under("prlimit", &["--nofile=4096:4096"], &[]);
    report.assert("limits", "open files", "warning", &["1792 clients", "LimitNOFILE"]);
}

#[test]
fn a_clock_that_is_far_off_is_told() {
    let faketime = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
    let here = Path::new(faketime).exists();
    let package = Need::Program { name: "faketime", package: "faketime" };
    if !here && !need("a_clock_that_is_far_off_is_told", &[package]) {
        return;
    }
    let scene = Scene::new();
    let check = |offset: &str, level: &str, words: &[&str]| {
        let mut off = scene.command(&[]);
        off.env("LD_PRELOAD", faketime).env("FAKETIME", offset);
        let report = Report::of(ran(off));
        report.assert("clock", "right", level, words);
    };
    check("+0", "ok", &[]);
    check("+120", "warning", &["ahead of", "chrony"]);
    check("-7200", "failed", &["behind"]);
}
