//! Objects of storage services, directories of web servers and repositories of the hub, through a daemon: the service gives
//! each byte once, says itself who may read, and what opens an object stays with who has signed.

mod hdfs;
mod s3;
mod services;
mod web;

use std::fs;
use std::path::Path;
use std::time::Duration;

use darter_tests::Step;
use darter_tests::gate::Seen;

/// Two requests of the front of 4 MiB each, and some more.
const OBJECT_BYTES: u64 = (9 << 20) + 77;
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of an answer that are no question and no refusal.
fn fetched(seen: &Seen) -> u64 {
    let is_question = seen.asked.header("range") == Some("bytes=0-0");
    if is_question || !matches!(seen.status, 200 | 206) { 0 } else { seen.body_bytes }
}

fn whole(content_type: &str, body: &[u8]) -> Vec<Step> {
    answered(content_type, "ETag: \"1\"\r\n", body)
}

/// With these lines of a head.
fn answered(content_type: &str, lines: &str, body: &[u8]) -> Vec<Step> {
    let head =
        format!("HTTP/1.1 200 OK\r\n{lines}Content-Type: {content_type}\r\nContent-Length: {}", body.len());
    vec![Step::Head(head), Step::Body(body.to_vec())]
}

/// What is right below a directory, sorted; nothing if it is not there.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// All files below a directory, sorted.
fn tree(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for name in names(directory) {
        let path = directory.join(&name);
        if path.is_dir() {
            found.extend(tree(&path).into_iter().map(|below| format!("{name}/{below}")));
        } else {
            found.push(name);
        }
    }
    found.sort();
    found
}
