//! A supervisor asks whether the node is to be restarted, and whether it is to be sent anybody.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use darter::demo::registry::RegistryOptions;
use darter_tests::need::{Need, need};
use darter_tests::{Daemon, Io, Origin, Request, Secrets, on_both_io, wait_until};
use rustix::process::Signal;

on_both_io!(a_node_that_drains_is_healthy_and_not_ready);

fn ask(daemon: &Daemon, path: &str) -> (u16, String) {
    let answer = daemon.admin_client().fetch(&Request::get(path)).expect("the admin port answers");
    (answer.status(), String::from_utf8(answer.body).expect("text"))
}

fn a_node_that_drains_is_healthy_and_not_ready(io: Io) {
    // Four seconds for the whole blob: the stop comes in the middle.
    let bandwidth_bytes_per_s = Some(4 << 20);
    let origin = Origin::with(RegistryOptions { bandwidth_bytes_per_s, ..RegistryOptions::default() });
    let blob = origin.blob(1, 16 << 20);
    let mut daemon = Daemon::builder().over(io).registry(&origin.url()).start();
    assert_eq!(ask(&daemon, "/healthz"), (200, "healthy\n".into()));
    assert_eq!(ask(&daemon, "/readyz"), (200, "ready\n".into()));

    let mut client = daemon.client();
    let mut reading = client.send(&blob.get()).expect("the front answers");
    reading.read_exact(&mut [0; 1 << 10]).expect("the download begins");
    daemon.signal(Signal::TERM);
    let mut last = (0, String::new());
    let stops = || {
        last = ask(&daemon, "/readyz");
        last.0 == 503
    };
    wait_until(Duration::from_secs(10), stops, || "it is still ready".to_owned());
    assert!(last.1.starts_with("stopping: ") && last.1.lines().count() == 1, "{last:?}");
    assert_eq!(ask(&daemon, "/healthz"), (200, "healthy\n".into()), "whoever restarts it cuts an answer");
    let mut rest = Vec::new();
    reading.read_to_end(&mut rest).expect("the download goes on to its end");
    assert!(daemon.wait(Duration::from_secs(30)).success());
}

#[test]
fn a_node_without_seeds_is_ready_and_says_that_it_is_alone() {
    let (origin, secrets) = (Origin::start(), Secrets::init());
    let blob = origin.blob(1, 1 << 20);
    // Nobody listens there.
    let peer = secrets.peer("127.0.0.1:1").origin(&origin).start();
    let (status, body) = ask(&peer, "/readyz");
    assert_eq!((status, body.lines().next()), (200, Some("ready")), "{body}");
    assert!(body.contains("no seed of the cluster is reached yet"), "{body}");
    blob.read(&mut peer.client(), blob.whole()).expect("it serves");
}

const STRACE: Need = Need::Program { name: "strace", package: "strace" };

/// Holds up one thread of a process, at each call of the system, for as long as this lives.
struct HeldUp(Child);

impl HeldUp {
    fn thread(pid: u32, name: &str) -> Self {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the daemon runs");
        let mut tasks = tasks.map(|task| task.expect("a thread").path());
        let is_named = |task: &std::path::PathBuf| {
            fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        let task = tasks.find(is_named).unwrap_or_else(|| panic!("no thread {name}"));
        let id = task.file_name().and_then(|id| id.to_str()).expect("a number");
        let mut strace = Command::new("strace");
        strace.args([
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=all",
            "-e",
            "inject=all:delay_enter=600s",
            "-p",
            id,
        ]);
        Self(strace.stdin(Stdio::null()).spawn().expect("strace can be executed"))
    }
}

impl Drop for HeldUp {
    fn drop(&mut self) {
        // The thread goes on when its tracer is gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_stuck_shard_is_named_until_it_goes_on() {
    if !need("a_stuck_shard_is_named_until_it_goes_on", &[STRACE]) {
        return;
    }
    let daemon = Daemon::builder().registry("http://127.0.0.1:1").shards(2).start();
    assert_eq!(ask(&daemon, "/healthz").0, 200);
    let held_up = HeldUp::thread(daemon.pid(), "darter-shard-1");
    let mut last = (0, String::new());
    let is_unhealthy = || {
        last = ask(&daemon, "/healthz");
        last.0 == 503
    };
    wait_until(Duration::from_secs(60), is_unhealthy, || "nobody sees that a shard hangs".to_owned());
    assert!(last.1.starts_with("shard 1 has not had a turn for "), "{last:?}");
    assert_eq!(last.1.lines().count(), 1, "the other one works: {last:?}");
    let (status, body) = ask(&daemon, "/readyz");
    assert!(status == 503 && body.starts_with("shard 1 "), "nobody is to be sent there: {body}");
    assert_eq!(ask(&daemon, "/server/ping"), (200, "pong\n".into()), "the process answers all the same");
    drop(held_up);
    let is_healthy = || ask(&daemon, "/healthz").0 == 200;
    wait_until(Duration::from_secs(60), is_healthy, || "it does not go on".to_owned());
}
