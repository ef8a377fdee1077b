//! `darter demo` as a newcomer runs it: the chart keeps what it promises, and nothing is left behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use darter_tests::built;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Small and fast; the numbers that matter here are counts.
fn demo(temp_dir: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(built("darter"));
    command.args(["demo", "--json", "--size", "24MB", "--bandwidth", "unlimited"]);
    command.arg("--temp-dir").arg(temp_dir).args(flags);
    command
}

fn entries(directory: &Path) -> usize {
    fs::read_dir(directory).expect("it is there").count()
}

/// Whether a process has `text` in its command line.
fn is_running_with(text: &str) -> bool {
    let processes = fs::read_dir("/proc").expect("/proc is there").flatten();
    processes
        .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
        .any(|line| String::from_utf8_lossy(&line).contains(text))
}

fn check_chart(flags: &[&str]) {
    let temp_dir = TempDir::with_prefix("darter-demo-test-").expect("a temporary directory can be made");
    let output = demo(temp_dir.path(), flags).output().expect("darter can be started");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");

    let row = |step: &str| {
        let steps = report["steps"].as_array().expect("a list");
        steps.iter().find(|row| row["step"] == step).expect("each step has a row")
    };
    let asked = |step: &str, what: &str| {
        let origin = &row(step)[what]["origin"];
        (origin["requests"].as_u64().expect("a count"), origin["body_bytes"].as_u64().expect("a count"))
    };
    let image_bytes = report["image"]["bytes"].as_u64().expect("a size");
    let boot_bytes = report["boot"]["bytes"].as_u64().expect("a size");
    assert_eq!(asked("straight", "pull").1, image_bytes);
    assert_eq!(asked("straight", "boot").1, boot_bytes);
    let (cold_pull, cold_boot) = (asked("cold", "pull").1, asked("cold", "boot").1);
    assert_eq!(cold_pull, image_bytes, "each byte once");
    assert!(cold_boot > boot_bytes, "whole blocks");
    let (remote_pull, remote_boot) = (asked("remote-hit", "pull"), asked("remote-hit", "boot"));
    assert_eq!([remote_pull.1, remote_boot.1], [0; 2], "what another peer has is not fetched again");
    assert_eq!([asked("local-hit", "pull"), asked("local-hit", "boot")], [(0, 0); 2]);
    // A daemon that has just started knows the bytes, and not who may read them: one HEAD for each blob.
    let layers = report["image"]["layers"].as_u64().expect("a count");
    let (after_pull, after_boot) = (asked("after-kill", "pull"), asked("after-kill", "boot"));
    assert!(after_pull.0 <= layers && after_pull.1 == 0, "{after_pull:?}");
    assert!(after_boot.0 <= 1 && after_boot.1 == 0, "{after_boot:?}");
    assert_eq!(row("all-at-once")["readers"], 3);
    // Peers that are kept waiting for long help themselves: how often is the machine's matter, and not this test's.
    let (pull, boot) = (asked("all-at-once", "pull").1, asked("all-at-once", "boot").1);
    println!("all at once: {pull} bytes of {image_bytes}, and {boot} of {cold_boot} in the boot");
    assert!((image_bytes..3 * image_bytes).contains(&pull), "they share: {pull} of {image_bytes}");
    assert!((cold_boot..3 * cold_boot).contains(&boot), "they share: {boot} of {cold_boot}");
    // The digests were right, or there would be no report; what was killed was not there at the end.
    let killed = &row("seed-killed")["pull"];
    let killed_at = killed["killed_at"].as_f64().expect("it was killed");
    assert!((0.5..=1.0).contains(&killed_at), "{killed}");
    assert!(asked("seed-killed", "pull").1 <= 3 * image_bytes, "no peer asks twice for a byte: {killed}");
    assert_eq!(entries(temp_dir.path()), 0, "its directory is gone");
}

#[test]
fn hits_do_not_ask_the_registry() {
    check_chart(&["--latency", "1ms"]);
}

#[test]
fn nor_do_they_when_blobs_are_redirected() {
    check_chart(&["--latency", "1ms", "--redirect"]);
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    let temp_dir = TempDir::with_prefix("darter-demo-test-").expect("a temporary directory can be made");
    let mut demo = demo(temp_dir.path(), &["--latency", "1s"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("darter can be started");
    let mut errors = BufReader::new(demo.stderr.take().expect("it is piped")).lines();
    let started = errors.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("starting a seed")));
    assert!(started.is_some(), "the daemons come up");
    assert!(is_running_with(&temp_dir.path().display().to_string()));

    kill_process(Pid::from_child(&demo), Signal::INT).expect("a child can be signalled by its parent");
    let rest: String = errors.map_while(Result::ok).collect();
    assert_eq!(demo.wait().expect("a child can be waited for").code(), Some(1), "{rest}");
    assert!(rest.contains("interrupted"), "{rest}");
    assert_eq!(entries(temp_dir.path()), 0, "its directory is gone");
    assert!(!is_running_with(&temp_dir.path().display().to_string()), "its daemons are gone");
}
