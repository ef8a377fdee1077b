//! `darter cluster init`, as a user runs it: the real binary, its files and what it says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use darter_transport::identity::{ClusterSecrets, Identity, NodeKey, files};
use darter_transport::node::Role;

/// Standard output of a run that went well, or its exit status and what it said.
fn init(file: &Path, flags: &[&str]) -> Result<String, (i32, String)> {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_darter"))
        .args(["cluster", "init", "--out"])
        .arg(file)
        .args(flags)
        .output()
        .expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    if status.success() { Ok(text(stdout)) } else { Err((status.code().unwrap_or(-1), text(stderr))) }
}

fn secrets(path: &Path) -> ClusterSecrets {
    let mode = fs::metadata(path).expect("written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    files::secrets(path).expect("secrets")
}

fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("cluster");
    let peers = directory.path().join("cluster.peer");
    (directory, path, peers)
}

#[test]
fn seeds_and_peers_get_a_file_each() {
    let (_directory, path, peers) = place();
    let said = init(&path, &[]).expect("written");
    assert!(said.contains(&format!("{}: for seeds", path.display())), "{said}");
    assert!(said.contains(&format!("{}: for all other nodes", peers.display())), "{said}");
    assert_eq!(secrets(&path).for_peers(), secrets(&peers));
    let key = NodeKey::generate().expect("randomness");
    let now = std::time::SystemTime::now();
    assert!(Identity::from_secrets(&secrets(&path), Role::Seed, &key, now).is_ok());
    assert!(Identity::from_secrets(&secrets(&peers), Role::Peer, &key, now).is_ok());
    assert!(Identity::from_secrets(&secrets(&peers), Role::Seed, &key, now).is_err());
}

#[test]
fn nothing_is_overwritten() {
    let (_directory, path, peers) = place();
    init(&path, &[]).expect("written");
    let before = (secrets(&path), secrets(&peers));
    let (status, said) = init(&path, &[]).expect_err("it is there");
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("is there already and is not overwritten") && said.contains("--add"), "{said}");
    assert_eq!((secrets(&path), secrets(&peers)), before);
    // Nor half.
    fs::remove_file(&path).expect("removed");
    let (_, said) = init(&path, &[]).expect_err("the other is there");
    assert!(said.contains("cluster.peer is there already"), "{said}");
    assert!(!path.exists());
}

#[test]
fn added_secrets_are_in_both_files_and_used_later() {
    let (_directory, path, peers) = place();
    init(&path, &[]).expect("written");
    let before = fs::read_to_string(&path).expect("text");
    let said = init(&path, &["--add"]).expect("added");
    assert!(said.contains("within 60 minutes"), "{said}");
    let after = fs::read_to_string(&path).expect("text");
    assert!(after.starts_with(&before) && after.len() > before.len(), "{after}");
    assert_eq!(secrets(&path).for_peers(), secrets(&peers));
}

#[test]
fn what_cannot_be_added_to_is_left_as_it_is() {
    let (directory, path, peers) = place();
    let (status, said) = init(&path, &["--add"]).expect_err("nothing there");
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("cannot read") && said.contains("No such file"), "{said}");
    init(&path, &[]).expect("written");
    let (_, said) = init(&peers, &["--add"]).expect_err("the file for peers");
    assert!(said.contains("add to the file for seeds"), "{said}");
    fs::write(&path, "apiVersion: v1\n").expect("written");
    let (_, said) = init(&path, &["--add"]).expect_err("something else");
    assert!(said.contains("is no file of cluster secrets") && said.contains("darter-cluster 1"), "{said}");
    let (_, said) = init(&directory.path().join("none/cluster"), &[]).expect_err("no such directory");
    assert!(said.contains("cannot write") && said.contains("none/cluster"), "{said}");
}

#[test]
fn without_a_file_the_usage_is_told() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_darter")).args(["cluster", "init"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--out <FILE>"));
}
