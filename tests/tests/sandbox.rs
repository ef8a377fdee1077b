//! Somebody has broken into the daemon, as root. He opens nothing but what is the daemon's, executes nothing, sends
//! signals to nobody; and the daemon, so held, still does all that it is there for.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use darter_tests::burglar::{Burglar, Loot, threads};
use darter_tests::need::{Need, need};
use darter_tests::{Builder, Daemon, Io, Origin, Secrets, on_both_io, wait_until};
use rustix::process::Signal;
use tempfile::TempDir;

on_both_io!(a_burglar_opens_nothing_outside, a_start_on_what_is_there_goes_as_before);

const MIB: u64 = 1 << 20;
const SOON: Duration = Duration::from_secs(20);
/// Whoever debugs a process has to have made it, or be root.
const HELD: [Need; 2] = [Need::Root, Need::Landlock];

/// A daemon that has done what starts threads: fetched, read, looked up a name, been asked for metrics.
fn at_work(builder: Builder) -> (Origin, Daemon) {
    let origin = Origin::start();
    let blob = origin.blob(1, 4 * MIB);
    let daemon = builder.registry(&origin.url()).start();
    blob.read(&mut daemon.client(), blob.whole()).expect("a whole answer");
    daemon.metrics();
    (origin, daemon)
}

fn somewhere() -> TempDir {
    tempfile::tempdir().expect("a temporary directory can be made")
}

/// A file that anybody may read, of somebody else's.
fn treasure() -> (TempDir, PathBuf) {
    let place = somewhere();
    let file = place.path().join("treasure");
    fs::write(&file, "gold").expect("a file can be written");
    (place, file)
}

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.expect_err("it is refused").raw_os_error().expect("a system call's error")
}

fn a_burglar_opens_nothing_outside(io: Io) {
    if !need("a_burglar_opens_nothing_outside", &HELD) {
        return;
    }
    let (origin, daemon) = at_work(Daemon::builder().over(io).prefetch(false));
    let (place, treasure) = treasure();
    let own = daemon.data_dir().join("store/records");
    let mut broken_into = 0;
    for thread in threads(daemon.pid()) {
        let Some(mut burglar) = Burglar::in_thread(thread) else { continue };
        broken_into += 1;
        for path in [&*treasure, Path::new("/etc/shadow"), Path::new("/proc/1/environ"), Path::new("/bin/sh")]
        {
            assert_eq!(errno(burglar.open(path, libc::O_RDONLY)), libc::EACCES, "{}", path.display());
        }
        let made = place.path().join("made");
        assert_eq!(errno(burglar.open(&made, libc::O_CREAT | libc::O_WRONLY)), libc::EACCES);
        assert_eq!(errno(burglar.open(&treasure, libc::O_WRONLY | libc::O_TRUNC)), libc::EACCES);
        // What is read is not written.
        assert_eq!(errno(burglar.open(Path::new("/etc/hosts"), libc::O_WRONLY)), libc::EACCES);
        burglar.open(&own, libc::O_RDWR).expect("what is its own is its own");
        burglar.open(Path::new("/etc/hosts"), libc::O_RDONLY).expect("names are looked up");

        refuses_to_be_a_tool(&mut burglar, io);
    }
    assert!(broken_into >= 4, "threads of {:?}", threads(daemon.pid()));
    assert!(!place.path().join("made").exists());
    assert_eq!(fs::read_to_string(&treasure).expect("it is there"), "gold");
    // And nobody has noticed.
    let blob = origin.blob(1, 4 * MIB);
    blob.read(&mut daemon.client(), blob.whole()).expect("a whole answer");
}

fn refuses_to_be_a_tool(burglar: &mut Burglar, io: Io) {
    let number = Loot::Number;
    let sh = || Loot::Path(Path::new("/bin/sh"));
    let refused: &[(i64, &[Loot<'_>])] = &[
        (libc::SYS_execve, &[sh()]),
        (libc::SYS_execveat, &[number(0), sh()]),
        (libc::SYS_fork, &[]),
        (libc::SYS_vfork, &[]),
        (libc::SYS_clone, &[number(17)]),
        (libc::SYS_ptrace, &[number(16), number(1)]),
        (libc::SYS_unshare, &[number(0x1000_0000)]),
        (libc::SYS_mount, &[sh(), number(0)]),
        (libc::SYS_bpf, &[number(0)]),
        (libc::SYS_keyctl, &[number(0)]),
        (libc::SYS_socket, &[number(17), number(3)]),
        // The same in the form with short pointers.
        (libc::SYS_mount | 0x4000_0000, &[sh(), number(0)]),
    ];
    for (call, given) in refused {
        assert_eq!(errno(burglar.call(*call, given)), libc::EPERM, "system call {call}");
    }
    assert_eq!(errno(burglar.call(libc::SYS_clone3, &[])), libc::ENOSYS);
    let rings = burglar.call(libc::SYS_io_uring_setup, &[number(1), number(0)]);
    assert_eq!(errno(rings), if io == Io::Ring { libc::EFAULT } else { libc::EPERM });
    burglar.call(libc::SYS_getpid, &[]).expect("what harms nobody goes on");
}

#[test]
fn every_thread_is_held() {
    if !need("every_thread_is_held", &[Need::Landlock]) {
        return;
    }
    let (_origin, daemon) = at_work(Daemon::builder());
    assert!(daemon.log().contains("this process is confined"), "{}", daemon.log());
    let all = threads(daemon.pid());
    assert!(all.len() >= 4, "{all:?}");
    for thread in all {
        let Ok(status) = fs::read_to_string(format!("/proc/{}/task/{thread}/status", daemon.pid())) else {
            continue;
        };
        for line in ["Seccomp:\t2", "NoNewPrivs:\t1"] {
            assert!(status.lines().any(|found| found == line), "{line} of thread {thread}: {status}");
        }
    }
}

/// The same burglar where nothing holds: so the test above is one that can fail.
#[test]
fn without_a_sandbox_he_opens_what_he_wants() {
    if !need("without_a_sandbox_he_opens_what_he_wants", &[Need::Root]) {
        return;
    }
    let (_origin, daemon) = at_work(Daemon::builder().flag("--sandbox", "off"));
    let (_place, treasure) = treasure();
    let mut burglar = Burglar::in_thread(daemon.pid()).expect("the first thread waits");
    burglar.open(&treasure, libc::O_RDONLY).expect("nothing holds");
    burglar.open(Path::new("/etc/shadow"), libc::O_RDONLY).expect("nothing holds");
    assert_eq!(errno(burglar.call(libc::SYS_execve, &[])), libc::EFAULT);
    drop(burglar);
    let log = daemon.log();
    assert!(
        !log.contains("confined") && log.contains("sandbox.mode: whoever breaks into the daemon"),
        "{log}"
    );
}

#[test]
fn signals_reach_nobody_else_and_no_port_is_bound() {
    if !need("signals_reach_nobody_else_and_no_port_is_bound", &[Need::Root, Need::LandlockSignals]) {
        return;
    }
    let (_origin, daemon) = at_work(Daemon::builder());
    let mut other = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("sleep runs");
    let mut burglar = Burglar::in_thread(daemon.pid()).expect("the first thread waits");
    let kill = |process: u32, signal: u64| [Loot::Number(process.into()), Loot::Number(signal)];
    let sent = burglar.call(libc::SYS_kill, &kill(other.id(), 9));
    let own = burglar.call(libc::SYS_kill, &kill(daemon.pid(), 0));
    let stream =
        burglar.call(libc::SYS_socket, &[Loot::Number(2), Loot::Number(1)]).expect("a socket is had");
    // 127.0.0.1, any port.
    let address = [2, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    let bound =
        burglar.call(libc::SYS_bind, &[Loot::Number(stream), Loot::Bytes(&address), Loot::Number(16)]);
    burglar.call(libc::SYS_close, &[Loot::Number(stream)]).expect("a file is closed");
    drop(burglar);
    let ended = other.try_wait().expect("a child can be waited for");
    other.kill().and_then(|()| other.wait()).expect("a child can be ended");
    assert_eq!(errno(sent), libc::EPERM);
    assert_eq!(errno(bound), libc::EACCES);
    own.expect("a process may signal itself");
    assert!(ended.is_none());
}

#[test]
fn a_configuration_that_leads_outside_is_not_read_and_one_beside_the_old_is() {
    if !need("a_configuration_that_leads_outside_is_not_read", &[Need::Landlock]) {
        return;
    }
    let mut daemon = Daemon::builder().config("verbose: false\n").start();
    let (_place, treasure) = treasure();
    fs::write(&treasure, "verbose: true\n").expect("a file can be written");
    let path = daemon.config_path();
    let hang_up = |daemon: &Daemon, word: &str| {
        let before = daemon.log().len();
        daemon.signal(Signal::HUP);
        let said = || daemon.log()[before..].to_owned();
        wait_until(SOON, || said().contains(word), || format!("no {word:?} in {}", said()));
        said()
    };
    fs::remove_file(&path).and_then(|()| symlink(&treasure, &path)).expect("a link can be made");
    let log = hang_up(&daemon, "nothing has changed");
    assert!(
        log.contains("Permission denied") && log.contains("the sandbox lets a running daemon open"),
        "{log}"
    );

    // As editors and Kubernetes do it: another file of that name.
    fs::write(path.with_extension("new"), "verbose: true\n").expect("a file can be written");
    fs::rename(path.with_extension("new"), &path).expect("a file can be renamed");
    let log = hang_up(&daemon, "the configuration was read again");
    assert!(log.contains("verbose"), "{log}");
    daemon.stop();
}

fn a_start_on_what_is_there_goes_as_before(io: Io) {
    let (origin, mut daemon) = at_work(Daemon::builder().over(io));
    daemon.stop();
    daemon.restart();
    origin.forget();
    let blob = origin.blob(1, 4 * MIB);
    blob.read(&mut daemon.client(), blob.whole()).expect("a whole answer");
    assert_eq!(origin.blob_bytes(), 0, "what was kept is paid for again");
    daemon.kill9();
    daemon.restart();
    blob.read(&mut daemon.client(), blob.whole()).expect("a whole answer");
}

#[test]
fn nodes_of_a_cluster_read_from_each_other() {
    let origin = Origin::start();
    let secrets = Secrets::init();
    let seed = secrets.seed().registry(&origin.url()).start();
    let address = seed.peers()["node"]["address"].as_str().expect("an address").to_owned();
    let peer = secrets.peer(&address).registry(&origin.url()).start();
    let standing = || peer.peers()["standing"].clone();
    wait_until(SOON, || standing() == "joined", || format!("the peer is {}", standing()));
    let blob = origin.blob(1, 4 * MIB);
    blob.read(&mut peer.client(), blob.whole()).expect("a whole answer");
    origin.forget();
    blob.read(&mut seed.client(), blob.whole()).expect("a whole answer");
    assert_eq!(origin.blob_bytes(), 0, "the seed has brought it for the peer");
}

#[test]
fn a_kernel_without_landlock_is_told_and_refused_where_it_is_required() {
    let mut daemon = Daemon::builder().without_landlock().start();
    let log = daemon.log();
    assert!(log.contains("files are not held by Landlock"), "{log}");
    assert!(log.contains("this process is confined"), "seccomp is there: {log}");
    daemon.stop();
    let (status, log) = Daemon::builder().without_landlock().flag("--sandbox", "required").start_refused();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("sandbox.mode: required") && log.contains("Linux 6.2"), "{log}");
}

#[test]
fn required_is_had_here() {
    if need("required_is_had_here", &[Need::Landlock]) {
        let (_origin, daemon) = at_work(Daemon::builder().flag("--sandbox", "required"));
        assert!(daemon.log().contains("this process is confined"), "{}", daemon.log());
    }
}

/// Of `nobody`, in which any user may go.
fn house(owner: Option<u32>) -> (TempDir, PathBuf) {
    let place = somewhere();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    let data = place.path().join("data");
    fs::create_dir(&data).expect("a directory can be made");
    chown(&data, owner, None).expect("root gives away what it has");
    (place, data)
}

const NOBODY: u32 = 65_534;

#[test]
fn it_becomes_the_user_that_it_is_given() {
    if !need("it_becomes_the_user_that_it_is_given", &[Need::Root]) {
        return;
    }
    let (_place, data) = house(Some(NOBODY));
    let (origin, mut daemon) = at_work(Daemon::builder().data_dir(&data).flag("--user", "nobody"));
    for thread in threads(daemon.pid()) {
        let status =
            fs::read_to_string(format!("/proc/{}/task/{thread}/status", daemon.pid())).unwrap_or_default();
        let ids =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        assert_eq!(ids("Uid:"), "65534\t65534\t65534\t65534", "{status}");
        assert!(
            !ids("Gid:").split('\t').any(|id| id == "0") && ids("CapEff:").bytes().all(|digit| digit == b'0')
        );
        assert!(!ids("Groups:").split(' ').any(|id| id == "0"), "{status}");
    }
    assert!(!daemon.log().contains("runs as root"));
    let mode = fs::metadata(data.join("store/slab-00000")).expect("a slab").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "images may be private");
    daemon.stop();
    daemon.restart();
    origin.forget();
    let blob = origin.blob(1, 4 * MIB);
    blob.read(&mut daemon.client(), blob.whole()).expect("a whole answer");
    assert_eq!(origin.blob_bytes(), 0);
}

#[test]
fn a_user_that_cannot_be_is_refused_with_what_to_do() {
    if !need("a_user_that_cannot_be_is_refused_with_what_to_do", &[Need::Root]) {
        return;
    }
    let refused = |data: &Path, user: &str, words: &[&str]| {
        let (status, log) = Daemon::builder().data_dir(data).flag("--user", user).start_refused();
        assert_eq!(status.code(), Some(1), "{log}");
        for word in words {
            assert!(log.contains(word), "no {word:?} in {log}");
        }
    };
    let (_place, data) = house(None);
    let chown = format!("chown -R nobody: {}", data.display());
    refused(&data, "nobody", &["is not nobody's to write", &chown]);
    refused(&data, "no-such-user", &["no user no-such-user", "useradd --system"]);
    assert_eq!(fs::read_dir(&data).expect("it is there").count(), 0);

    // Root was here before.
    let (_place, data) = house(Some(NOBODY));
    let mut daemon = Daemon::builder().data_dir(&data).start();
    assert!(daemon.log().contains("runs as root"), "{}", daemon.log());
    daemon.stop();
    refused(&data, "nobody", &["lock is not nobody's to write", "chown -R nobody:"]);
}

#[test]
fn an_error_that_is_not_the_sandboxs_is_left_as_it_is() {
    let daemon = Daemon::builder().config("verbose: false\n").start();
    fs::remove_file(daemon.config_path()).expect("it is there");
    let admin = daemon.admin().to_string();
    let ran = darter_tests::cli::darter(&["reload", "--admin", &admin]);
    ran.failed(2, &["cannot read the configuration file"]);
    assert!(!ran.err.contains("sandbox") && ran.err.contains("No such file"), "{ran:?}");
}
