//! HDFS, by its protocol over HTTP.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use darter_tests::cli::{command, ran};
use darter_tests::{Blob, Daemon, Scripted, Step};
use tempfile::TempDir;

use super::{OBJECT_BYTES, answered, tree, whole};

/// It knows neither ranges nor versions as HTTP has them, and sends for bytes to another node.
#[test]
fn a_file_of_hdfs_leaves_it_once_and_is_its_readers_only() {
    let blobs = Arc::new(Mutex::new([Blob::synthetic(1, OBJECT_BYTES), Blob::synthetic(2, 0)]));
    let (given, at_data, at_names) = (Arc::new(AtomicU64::new(0)), blobs.clone(), blobs.clone());
    let changed_ms = Arc::new(AtomicU64::new(1));
    let telling = changed_ms.clone();
    let giving = given.clone();
    let data = Scripted::start(move |asked| {
        let [blob, _] = &*at_data.lock().unwrap();
        let number = |name: &str| parameter(asked.target(), name).parse::<u64>().expect("a number");
        let first = number("offset");
        if number("length") > 1 {
            giving.fetch_add(number("length"), Ordering::Relaxed);
        }
        assert_eq!(asked.header("Range"), None, "it would be read over");
        answered("application/octet-stream", "", &blob.bytes(first..first + number("length")))
    });
    let data_host = data.host();
    let names_of_files = Scripted::start(move |asked| {
        let [blob, empty] = &*at_names.lock().unwrap();
        let target = asked.target();
        if parameter(target, "user.name") != "me" {
            let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2".to_owned();
            return vec![Step::Head(refusal), Step::Body(b"{}".to_vec())];
        }
        let status = |blob: &Blob, name: &str| {
            format!(
                "{{\"fileId\":7,\"length\":{},\"modificationTime\":{},\"pathSuffix\":\"{name}\",\"type\":\"FILE\"}}",
                blob.len(),
                telling.load(Ordering::Relaxed)
            )
        };
        match (parameter(target, "op").as_str(), target.contains("/empty")) {
            ("LISTSTATUS", _) if target.contains("/d/e?") => {
                let list = status(empty, "empty");
                whole(
                    "application/json",
                    format!("{{\"FileStatuses\":{{\"FileStatus\":[{list}]}}}}").as_bytes(),
                )
            }
            ("LISTSTATUS", _) => {
                let directory = "{\"length\":0,\"pathSuffix\":\"e\",\"type\":\"DIRECTORY\"}";
                let list = format!("{},{directory}", status(blob, "model.bin"));
                whole(
                    "application/json",
                    format!("{{\"FileStatuses\":{{\"FileStatus\":[{list}]}}}}").as_bytes(),
                )
            }
            ("GETFILESTATUS", is_empty) => {
                let status = status(if is_empty { empty } else { blob }, "");
                answered("application/json", "", format!("{{\"FileStatus\":{status}}}").as_bytes())
            }
            ("OPEN", false) => {
                let head =
                    format!("HTTP/1.1 307 X\r\nLocation: http://{data_host}{target}\r\nContent-Length: 0");
                vec![Step::Head(head)]
            }
            other => panic!("{other:?}: {target}"),
        }
    });
    let allowing = |hosts: &[&str]| {
        let daemon = Daemon::builder().registry("http://127.0.0.1:1");
        hosts.iter().fold(daemon, |daemon, host| daemon.allow_registry(host)).start()
    };
    let daemon = allowing(&[&names_of_files.host(), &data.host()]);
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("out");
    let get = |daemon: &Daemon, user: &str, args: &[&str]| {
        let mut command =
            command(&[&["get", "--json", "--front", &daemon.front().to_string()], args].concat());
        command.arg("-o").arg(&out).env("HADOOP_USER_NAME", user);
        ran(command)
    };
    let address = format!("hdfs://{}/d/model.bin", names_of_files.host());
    let given_bytes = || given.load(Ordering::Relaxed);
    for _ in 0..2 {
        let digest = blobs.lock().unwrap()[0].digest();
        assert_eq!(get(&daemon, "me", &[&address]).json()["digest"], digest);
        assert_eq!(given_bytes(), OBJECT_BYTES, "each byte once");
    }
    get(&daemon, "another", &[&address]).failed(1, &["403", "HADOOP_USER_NAME"]);
    fs::remove_file(&out).unwrap();
    let got = get(&daemon, "me", &["-r", &format!("hdfs://{}/d", names_of_files.host())]).json();
    assert_eq!((&got["objects"], &got["length_bytes"]), (&2.into(), &OBJECT_BYTES.into()), "{got}");
    assert_eq!(tree(&out), ["e/empty", "model.bin"]);
    assert_eq!(given_bytes(), OBJECT_BYTES);
    fs::remove_dir_all(&out).unwrap();
    // What has taken its place comes anew.
    blobs.lock().unwrap()[0] = Blob::synthetic(3, OBJECT_BYTES);
    changed_ms.store(2, Ordering::Relaxed);
    let digest = blobs.lock().unwrap()[0].digest();
    assert_eq!(get(&daemon, "me", &[&address]).json()["digest"], digest);
    assert_eq!(given_bytes(), 2 * OBJECT_BYTES);
    // Each node of data is asked only if somebody has allowed it.
    let closed = allowing(&[&names_of_files.host()]);
    get(&closed, "me", &[&address]).failed(1, &["proxy.allowedRegistries", &data.host()]);
}

fn parameter(target: &str, name: &str) -> String {
    let values = target.split(['?', '&']).filter_map(|part| part.split_once('='));
    let mut values = values.filter(|(known, _)| *known == name);
    values.next_back().map(|(_, value)| value.to_owned()).unwrap_or_default()
}
