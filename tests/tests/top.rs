//! `darter top` at a real terminal, which it gives back as it was; and once, for programs.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use darter_tests::cli::{command, darter};
use darter_tests::need::{Need, need};
use darter_tests::{Daemon, Origin, Secrets, pause};
use serde_json::Value;

/// Nobody listens there.
const NOBODY: &str = "127.0.0.1:1";
/// Takes over the screen, and gives it back.
const SCREENS: [&str; 2] = ["\x1b[?1049h", "\x1b[?1049l"];
/// Begins to draw.
const DRAWN: &str = "\x1b[H";

#[test]
fn one_view_has_what_was_read_meanwhile() {
    let origin = Origin::start();
    let daemon = Daemon::builder().registry(&origin.url()).capacity("64MiB").prefetch(false).start();
    let blob = origin.blob(1, 3 << 20);
    let admin = daemon.admin().to_string();
    // Nothing of it but the beginning.
    blob.read(&mut daemon.client(), 0..100_000).expect("an answer");
    let looking = command(&["top", "--once", "--json", "--every", "3", "--admin", &admin])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary can be executed");
    // While it waits for its second look; reads of any number of moments show.
    let mut client = daemon.client();
    let mut looking = Some(looking);
    let view = loop {
        blob.read(&mut client, 0..100_000).expect("an answer");
        pause(Duration::from_millis(20));
        let child = looking.as_mut().expect("it has not been waited for");
        if child.try_wait().expect("a child can be waited for").is_some() {
            let child = looking.take().expect("it has not been waited for");
            let output = child.wait_with_output().expect("it has ended");
            assert!(output.status.success());
            break serde_json::from_slice::<Value>(&output.stdout).expect("JSON");
        }
    };
    assert!(view["requests_per_s"].as_f64() > Some(0.0), "{view}");
    assert!(view["body_bytes_per_s"]["cache"].as_f64() > Some(0.0), "{view}");
    assert_eq!(view["hit_ratio"], 1.0, "{view}");
    assert!(view["seconds"].as_f64() >= Some(3.0), "{view}");
    assert_eq!(view["contents"], 1.0);
    assert_eq!(view["coming"][0]["length_bytes"], 3 << 20);
    assert_eq!(view["coming"][0]["id"], blob.digest());
    assert_eq!(view["peers"], Value::Null, "a node without a cluster has none");

    let text = darter(&["top", "--once", "--every", "1", "--admin", &admin]);
    assert_eq!(text.status, 0, "{text:?}");
    assert!(text.out.starts_with("darter ") && text.out.contains("HELD IN PART"), "{text:?}");
}

#[test]
fn other_nodes_are_in_the_view() {
    let secrets = Secrets::init();
    let origin = Origin::start();
    let seed = secrets.seed().registry(&origin.url()).start();
    let view =
        darter(&["top", "--once", "--json", "--every", "1", "--admin", &seed.admin().to_string()]).json();
    assert_eq!(view["peers"], serde_json::json!([]), "{view}");
}

#[test]
fn what_cannot_be_is_said() {
    darter(&["top", "--admin", NOBODY]).failed(4, &["no daemon answers at 127.0.0.1:1"]);
    darter(&["top", "--json", "--admin", NOBODY]).failed(2, &["--once --json"]);
    darter(&["top", "--every", "0"]).failed(2, &["--every"]);
    let origin = Origin::start();
    let daemon = Daemon::builder().registry(&origin.url()).config("metrics:\n  enable: false\n").start();
    let admin = daemon.admin().to_string();
    darter(&["top", "--once", "--admin", &admin]).failed(1, &["metrics.enable: true"]);
    // The tests' standard input is no terminal.
    let daemon = Daemon::builder().registry(&origin.url()).start();
    darter(&["top", "--admin", &daemon.admin().to_string()]).failed(2, &["no terminal", "--once"]);
}

#[test]
fn the_terminal_is_given_back_as_it_was() {
    let test = "the_terminal_is_given_back_as_it_was";
    if !need(test, &[Need::Program { name: "script", package: "bsdutils" }]) {
        return;
    }
    let origin = Origin::start();
    let daemon = Daemon::builder().registry(&origin.url()).start();
    for (key, name) in [(b'q', "q"), (3, "Ctrl-C"), (28, "Ctrl-\\"), (27, "Esc")] {
        let mut terminal = AtTerminal::start(&daemon);
        terminal.read_until("q quits");
        // An arrow is none of them: it goes on drawing.
        terminal.input.write_all(b"\x1b[A").expect("a terminal takes keys");
        let drawn = terminal.said.matches(DRAWN).count();
        terminal.read_while(|said| said.matches(DRAWN).count() < drawn + 2);
        terminal.input.write_all(&[key]).expect("a terminal takes keys");
        terminal.read_until("ended 0");
        let (before, shown) = terminal.said.split_once(SCREENS[0]).expect("it takes another screen");
        let (_, after) = shown.split_once(SCREENS[1]).expect("it gives the screen back");
        let (settings, _) = after.split_once("ended 0").expect("it has ended");
        assert_eq!(settings.trim(), before.trim(), "after {name}");
        assert!(settings.contains("speed"), "stty has spoken: {settings}");
    }
}

/// Keys are taken while an answer is waited for.
#[test]
fn a_daemon_that_hangs_keeps_nobody() {
    let test = "a_daemon_that_hangs_keeps_nobody";
    if !need(test, &[Need::Program { name: "script", package: "bsdutils" }]) {
        return;
    }
    let origin = Origin::start();
    let daemon = Daemon::builder().registry(&origin.url()).start();
    let mut terminal = AtTerminal::start(&daemon);
    terminal.read_until("q quits");
    let stopped = Stopped::of(&daemon);
    // Longer than from one look to the next: one is on its way.
    pause(Duration::from_millis(1500));
    terminal.input.write_all(b"q").expect("a terminal takes keys");
    terminal.read_until("ended 0");
    assert!(!terminal.said.contains("! "), "the look was waited for: {}", terminal.said);
    drop(stopped);
}

/// A daemon that stands still until this is dropped.
struct Stopped(rustix::process::Pid);

impl Stopped {
    fn of(daemon: &Daemon) -> Stopped {
        let pid = rustix::process::Pid::from_raw(daemon.pid().cast_signed()).expect("a process");
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("it is ours");
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Fails only when it is gone.
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::CONT);
    }
}

/// `darter top` at a terminal of its own, with the terminal's settings before and after it.
struct AtTerminal {
    child: Child,
    input: std::process::ChildStdin,
    output: std::process::ChildStdout,
    said: String,
}

impl AtTerminal {
    fn start(daemon: &Daemon) -> AtTerminal {
        let top = command(&["top", "--every", "1", "--admin", &daemon.admin().to_string()]);
        let words = [top.get_program()].into_iter().chain(top.get_args());
        let words: Vec<_> = words.map(|word| word.to_str().expect("a plain path")).collect();
        // The shell is at the same terminal, and is not to go by Ctrl-C itself.
        let line = format!("trap '' INT; stty -a; {}; ended=$?; stty -a; echo ended $ended", words.join(" "));
        let mut child = Command::new("script")
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program is there");
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        AtTerminal { child, input, output, said: String::new() }
    }

    fn read_until(&mut self, words: &str) {
        self.read_while(|said| !said.contains(words));
    }

    fn read_while(&mut self, is_lacking: impl Fn(&str) -> bool) {
        let mut part = [0; 4096];
        while is_lacking(&self.said) {
            let read = self.output.read(&mut part).expect("it can be read");
            assert!(read > 0, "it has ended: {:?}", self.said);
            self.said += &String::from_utf8_lossy(&part[..read]);
        }
    }
}

impl Drop for AtTerminal {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
