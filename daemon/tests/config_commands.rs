//! `darter config check` and `darter config show`, as a user runs them: the real binary, its output and exit status.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

/// What a run printed, and its exit status.
struct Ran {
    status: i32,
    out: String,
    err: String,
}

fn darter(args: &[&str]) -> Ran {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_darter"))
        .args(args)
        .env("XDG_STATE_HOME", "/x/state")
        .output()
        .expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran { status: status.code().expect("an exit status"), out: text(stdout), err: text(stderr) }
}

/// A file of that text, for as long as the directory lives.
fn file(text: &str) -> (TempDir, String) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("darter.yaml");
    fs::write(&path, text).expect("a written file");
    let name = path.to_str().expect("UTF-8").to_owned();
    (dir, name)
}

#[test]
fn a_right_file_is_ok_with_a_summary() {
    let sample = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/darter.yaml");
    let ran = darter(&["config", "check", sample.to_str().expect("UTF-8")]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    assert!(ran.out.contains("darter.yaml: ok\n"), "{}", ran.out);
    assert!(ran.out.contains("front 127.0.0.1:65001, admin 127.0.0.1:40901"), "{}", ran.out);
}

#[test]
fn what_is_risky_is_warned_about() {
    let (_dir, name) = file("proxy:\n  security:\n    insecure: true\n");
    let ran = darter(&["config", "check", &name]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    let warning = format!(
        "warning: {name}:3: proxy.security.insecure: the certificates of registries are not verified"
    );
    assert!(ran.out.contains(&warning), "{}", ran.out);
}

#[test]
fn an_unknown_key_is_an_error_with_its_place() {
    let (_dir, name) = file("proxy:\n  registryMiror: {}\n");
    let ran = darter(&["config", "check", &name]);
    assert_eq!((ran.status, ran.out.as_str()), (2, ""));
    let message = format!("{name}:2: proxy.registryMiror: unknown key; did you mean proxy.registryMirror?");
    assert!(ran.err.contains(&message), "{}", ran.err);
}

#[test]
fn a_missing_file_is_an_error() {
    let ran = darter(&["config", "check", "/nowhere/darter.yaml"]);
    assert_eq!((ran.status, ran.out.as_str()), (2, ""));
    let message = "cannot read the configuration file /nowhere/darter.yaml: No such file or directory (os error 2); \
                   name one that is there, or none: every key has a default";
    assert!(ran.err.contains(message), "{}", ran.err);
}

#[test]
fn a_directory_is_no_file() {
    let ran = darter(&["config", "check", "/"]);
    assert_eq!(ran.status, 2);
    assert!(ran.err.contains("cannot read the configuration file /: "), "{}", ran.err);
    assert!(ran.err.contains("; name a file in it"), "{}", ran.err);
}

#[test]
fn a_file_without_an_end_is_refused_before_it_fills_the_memory() {
    let ran = darter(&["config", "check", "/dev/zero"]);
    assert_eq!(ran.status, 2);
    assert!(ran.err.contains("/dev/zero:1: the file is longer than 1048576 bytes"), "{}", ran.err);
}

#[test]
fn show_says_where_each_value_comes_from() {
    let (_dir, name) = file("shards: 3\ndownload:\n  prefetch: true\n");
    let args = ["config", "show", "--config", &name, "--front", "127.0.0.1:7", "--prefetch", "false"];
    let ran = darter(&args);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    let row = |key: &str| {
        let line = ran.out.lines().find(|line| line.split_whitespace().next() == Some(key));
        line.unwrap_or_else(|| panic!("no {key} in {}", ran.out))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(row("shards"), format!("shards 3 {name}:1"));
    assert_eq!(row("proxy.tcpListen.port"), "proxy.tcpListen.port 7 --front");
    assert_eq!(row("download.prefetch"), "download.prefetch false --prefetch");
    assert_eq!(row("storage.io"), "storage.io auto default");
}

#[test]
fn show_speaks_json() {
    let ran = darter(&["config", "show", "--json", "--capacity", "1.5GiB"]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    let shown: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    let rows = shown["settings"].as_array().expect("rows");
    let capacity = rows.iter().find(|row| row["key"] == "storage.capacity").expect("the capacity");
    assert_eq!((&capacity["value"], &capacity["source"]), (&"1536MiB".into(), &"--capacity".into()));
}

#[test]
fn a_wrong_flag_is_named() {
    let ran = darter(&["config", "show", "--capacity", "ten"]);
    assert_eq!((ran.status, ran.out.as_str()), (2, ""));
    assert!(ran.err.contains("--capacity: storage.capacity: \"ten\" is refused"), "{}", ran.err);

    let ran = darter(&["config", "show", "--front", "65001"]);
    assert_eq!(ran.status, 2);
    assert!(ran.err.contains("expected IP:PORT, such as 127.0.0.1:65001"), "{}", ran.err);

    let ran = darter(&["config", "show", "--bananas"]);
    assert_eq!(ran.status, 2);
    assert!(ran.err.contains("--bananas"), "{}", ran.err);
}

#[test]
fn serve_reads_its_configuration_first() {
    let (_dir, name) = file("shards: none");
    let ran = darter(&["serve", "--config", &name]);
    assert_eq!(ran.status, 2);
    assert!(ran.err.contains(&format!("{name}:1: shards:")), "{}", ran.err);
}

#[test]
fn help_names_commands_and_flags() {
    let ran = darter(&["--help"]);
    assert_eq!(ran.status, 0);
    for command in ["serve", "config"] {
        assert!(ran.out.contains(command), "{}", ran.out);
    }
    let ran = darter(&["serve", "--help"]);
    assert_eq!(ran.status, 0);
    let flags = "--config --data-dir --capacity --front --admin --registry --allow-registry --prefetch --shards \
                 --io --log-format";
    for flag in flags.split_whitespace() {
        assert!(ran.out.contains(flag), "{flag} is missing in {}", ran.out);
    }
}
