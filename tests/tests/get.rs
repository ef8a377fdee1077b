//! `darter get` through a real daemon, and against a front that misbehaves: what a digest names is checked, what was
//! cut or killed is gone on with, and what is wrong gets no name.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use darter::demo::registry::{self, Digest, Faults, RegistryOptions};
use darter_tests::cli::ran;
use darter_tests::need::{Need, need};
use darter_tests::one_answer::{OneAnswer, answer, content_range, header, partly, range};
use darter_tests::{Blob, Daemon, Getter, Mounted, Origin, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn daemon(origin: &Origin) -> Daemon {
    Daemon::builder().registry(&origin.url()).capacity("128MiB").prefetch(false).start()
}

fn url(origin: &Origin, blob: &Blob) -> String {
    format!("{}{}", origin.url(), blob.target())
}

/// As slow as a test needs that wants to interfere.
fn slow() -> Origin {
    Origin::with(RegistryOptions { bandwidth_bytes_per_s: Some(8 * MIB), ..RegistryOptions::default() })
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("a child can be signalled by its parent");
}

#[test]
fn a_blob_comes_into_its_file_and_is_not_asked_for_again() {
    let origin = Origin::start();
    let blob = origin.blob(1, 9 * MIB + 3);
    let daemon = daemon(&origin);
    let getter = Getter::new(daemon.front());
    let got = getter.get(&[&url(&origin, &blob)]);
    assert_eq!((got.status, got.err.as_str()), (0, ""));
    assert_eq!(got.out, format!("{}  9.1 MiB  {}\n", getter.path().display(), blob.digest()));
    getter.holds(&blob.bytes(blob.whole()));

    drop(daemon);
    // Nobody has to be asked for what is there.
    let again = getter.get(&[&url(&origin, &blob), "--json"]).json();
    let expected = [
        ("digest", Value::from(blob.digest())),
        ("length_bytes", blob.len().into()),
        ("already_there", true.into()),
    ];
    for (name, value) in expected {
        assert_eq!(again[name], value, "{again}");
    }
}

#[test]
fn a_killed_run_is_gone_on_with() {
    let origin = slow();
    let blob = origin.blob(1, 40 * MIB + 3);
    let daemon = daemon(&origin);
    let tap = OneAnswer::tap(daemon.front());
    let getter = Getter::new(tap.address);
    let mut child = getter.start(&[&url(&origin, &blob)]);
    wait_until(Duration::from_secs(60), || getter.part_bytes() > 2 * MIB, || "nothing comes".into());
    child.kill().expect("a child can be killed");
    child.wait().expect("a child can be waited for");
    let kept = getter.part_bytes();
    assert!(kept < blob.len() && !getter.path().exists());

    let before = tap.heads().len();
    let got = getter.get(&[&url(&origin, &blob), "--json"]).json();
    assert_eq!(got["resumed_from_bytes"], kept);
    getter.holds(&blob.bytes(blob.whole()));
    assert_eq!(range(&tap.heads()[0]), None);
    assert_eq!(range(&tap.heads()[before]), usize::try_from(kept).ok(), "only the rest is asked for");
}

#[test]
fn ctrl_c_keeps_what_has_come_and_says_how_to_go_on() {
    for (stop, name) in [(Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM")] {
        let origin = slow();
        let blob = origin.blob(1, 40 * MIB);
        let daemon = daemon(&origin);
        let getter = Getter::new(daemon.front());
        let child = getter.start(&[&url(&origin, &blob)]);
        wait_until(Duration::from_secs(60), || getter.part_bytes() > MIB, || "nothing comes".into());
        signal(&child, stop);
        let output = child.wait_with_output().expect("a child can be waited for");
        let err = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(130), "{name}: {err}");
        assert!(err.contains("out.part") && err.contains("the same command goes on"), "{name}: {err}");
        let kept = getter.part_bytes();
        assert!(kept > MIB && kept < blob.len(), "{name}: {kept}");
        let got = getter.get(&[&url(&origin, &blob), "--json"]).json();
        assert_eq!(got["resumed_from_bytes"], kept, "{name}");
        getter.holds(&blob.bytes(blob.whole()));
    }
}

#[test]
fn a_long_fetch_tells_how_far_it_is() {
    let origin =
        Origin::with(RegistryOptions { bandwidth_bytes_per_s: Some(2 * MIB), ..RegistryOptions::default() });
    let blob = origin.blob(1, 12 * MIB);
    let daemon = daemon(&origin);
    let getter = Getter::new(daemon.front());
    let got = getter.get(&[&url(&origin, &blob)]);
    assert_eq!(got.status, 0, "{got:?}");
    let lines: Vec<_> = got.err.lines().collect();
    assert!(!lines.is_empty(), "{got:?}");
    for line in lines {
        assert!(
            line.contains("MiB of 12.0 MiB, ") && line.contains(" MiB/s") && !line.contains('\x1b'),
            "{line}"
        );
    }
}

#[test]
fn a_terminal_gets_a_bar() {
    if !need("a_terminal_gets_a_bar", &[Need::Program { name: "script", package: "bsdutils" }]) {
        return;
    }
    let origin =
        Origin::with(RegistryOptions { bandwidth_bytes_per_s: Some(2 * MIB), ..RegistryOptions::default() });
    let blob = origin.blob(1, 6 * MIB);
    let daemon = daemon(&origin);
    let getter = Getter::new(daemon.front());
    let get = getter.command(&[&url(&origin, &blob)]);
    let words = [get.get_program()].into_iter().chain(get.get_args());
    let line = words.map(|word| word.to_str().expect("UTF-8")).collect::<Vec<_>>().join(" ");
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null());
    let shown = ran(script);
    assert_eq!(shown.status, 0, "{shown:?}");
    let bars: Vec<_> = shown.out.split('\r').filter(|part| part.starts_with("\x1b[K[")).collect();
    assert!(!bars.is_empty() && bars.iter().all(|bar| bar.contains(" MiB/s")), "{shown:?}");
    assert!(shown.out.trim_end().ends_with(&blob.digest()), "{shown:?}");
    getter.holds(&blob.bytes(blob.whole()));
}

#[test]
fn wrong_bytes_get_no_name() {
    let origin = Origin::start();
    let blob = origin.blob(1, 3 * MIB);
    origin.faults(Faults { flip_byte_at: Some(MIB), ..Faults::default() });
    let daemon = daemon(&origin);
    let getter = Getter::new(daemon.front());
    let got = getter.get(&[&url(&origin, &blob)]);
    assert!(
        got.status == 1 || got.status == 5,
        "the daemon finds it first, and says so or breaks off: {got:?}"
    );
    assert!(!getter.path().exists(), "{got:?}");
    // When the registry is right again, so is the file: what was kept of the wrong bytes does no harm. The daemon
    // may remember the wrong copy for a minute.
    drop(daemon);
    origin.faults(Faults::default());
    let healthy = self::daemon(&origin);
    let getter = Getter { directory: getter.directory, front: healthy.front() };
    assert_eq!(getter.get(&[&url(&origin, &blob)]).status, 0);
    getter.holds(&blob.bytes(blob.whole()));
}

#[test]
fn a_front_that_lies_is_found_out() {
    let bytes = sample(100_000);
    let digest = Digest::of(b"something else");
    let front = OneAnswer::start(move |_| answer("200 OK", "", &bytes));
    let getter = Getter::new(front.address);
    let got = getter.get(&[&format!("http://r.example/v2/a/blobs/{digest}")]);
    got.failed(5, &["other bytes than its digest says", "nothing of it is kept"]);
    assert_eq!(getter.names(), [""; 0]);
}

#[test]
fn what_is_cut_is_asked_for_from_there() {
    let bytes = sample(300_000);
    let digest = Digest::of(&bytes);
    let served = bytes.clone();
    let front = OneAnswer::start(move |head| match range(head) {
        // Announced in full, and cut.
        None => partly("200 OK", "", served.len(), &served[..100_000]),
        Some(first) if first < 250_000 => {
            let part = content_range(first, served.len());
            partly("206 Partial Content", &part, served.len() - first, &served[first..first + 75_000])
        }
        Some(first) => answer("206 Partial Content", &content_range(first, served.len()), &served[first..]),
    });
    let getter = Getter::new(front.address);
    let got = getter.get(&[&format!("http://r.example/v2/a/blobs/{digest}")]);
    assert_eq!(got.status, 0, "{got:?}");
    getter.holds(&bytes);
    let ranges: Vec<_> = front.heads().iter().map(|head| range(head)).collect();
    assert_eq!(ranges, [None, Some(100_000), Some(175_000), Some(250_000)]);
}

#[test]
fn a_server_that_never_brings_more_is_given_up() {
    let bytes = sample(100_000);
    let digest = Digest::of(&bytes);
    let front = OneAnswer::start(move |head| match range(head) {
        None => partly("200 OK", "", bytes.len(), &bytes[..1000]),
        Some(first) => {
            partly("206 Partial Content", &content_range(first, bytes.len()), bytes.len() - first, b"")
        }
    });
    let getter = Getter::new(front.address);
    let got = getter.get(&[&format!("http://r.example/v2/a/blobs/{digest}")]);
    got.failed(1, &["out.part has what has come", "the same command goes on"]);
    assert_eq!(getter.part_bytes(), 1000);
}

#[test]
fn where_nothing_comes_nothing_is_left() {
    let bytes = sample(1000);
    let digest = Digest::of(&bytes);
    let front = OneAnswer::start(|_| partly("200 OK", "", 1000, b""));
    let getter = Getter::new(front.address);
    let got = getter.get(&[&format!("http://r.example/v2/a/blobs/{digest}")]);
    got.failed(1, &["nothing has come of http://r.example/v2/a/blobs/"]);
    assert_eq!((front.heads().len(), getter.names()), (5, vec![]));
}

#[test]
fn a_part_of_other_bytes_is_not_mixed_in() {
    let (old, new) = (sample(200_000), vec![7; 150_000]);
    let version = Arc::new(Mutex::new(0));
    let (now, first, second) = (version.clone(), old.clone(), new.clone());
    // No digest names it; an ETag says whether it is still the same.
    let server = OneAnswer::start(move |head| {
        let (bytes, etag) =
            if *now.lock().unwrap() == 0 { (&first, "\"old\"") } else { (&second, "\"new\"") };
        let tag = format!("ETag: {etag}\r\n");
        match (range(head), header(head, "if-range")) {
            (Some(from), Some(asked)) if asked == etag => {
                answer("206 Partial Content", &(content_range(from, bytes.len()) + &tag), &bytes[from..])
            }
            (Some(_), None) => panic!("a range without If-Range: {head}"),
            (None, _) if *now.lock().unwrap() == 0 => partly("200 OK", &tag, bytes.len(), &bytes[..90_000]),
            _ => answer("200 OK", &tag, bytes),
        }
    });
    // Cut in the middle, and gone on with while it is the same.
    let getter = Getter::new(server.address);
    let got = getter.get(&["http://files.example/a.bin", "--json"]);
    assert_eq!(got.json()["length_bytes"], 200_000, "{got:?}");
    getter.holds(&old);
    // The targets are absolute: the front is a forward proxy for what is not below /v2/.
    assert!(
        server.heads().iter().all(|head| head.starts_with("GET http://files.example/a.bin HTTP/1.1\r\n"))
    );

    // A part from a killed run, and then the file changes.
    fs::rename(getter.path(), getter.part()).expect("a file can be renamed");
    fs::File::options()
        .write(true)
        .open(getter.part())
        .and_then(|part| part.set_len(50_000))
        .expect("it can be cut");
    let source = json!({ "content": format!("url:{}", Digest::of(b"http://files.example/a.bin").to_string().trim_start_matches("sha256:")), "validator": "\"old\"" });
    fs::write(getter.directory.path().join("out.part.json"), source.to_string()).expect("it can be written");
    *version.lock().unwrap() = 1;
    let got = getter.get(&["http://files.example/a.bin", "--json"]);
    assert_eq!(got.json()["resumed_from_bytes"], 0, "{got:?}");
    getter.holds(&new);
    assert_eq!(
        server.heads().last().map(|head| (range(head), header(head, "if-range").map(str::to_owned))),
        Some((Some(50_000), Some("\"old\"".into())))
    );

    // A part of which nothing is known is not used.
    fs::rename(getter.path(), getter.part()).expect("a file can be renamed");
    assert_eq!(getter.get(&["http://files.example/a.bin"]).status, 0);
    getter.holds(&new);
    assert_eq!(server.heads().last().and_then(|head| range(head)), None);
}

#[test]
fn a_url_that_is_no_blob_goes_through_the_daemon_as_a_forward_proxy() {
    let bytes = sample(500_000);
    let served = bytes.clone();
    let server = OneAnswer::start(move |_| answer("200 OK", "", &served));
    let daemon = Daemon::builder().allow_registry(&server.address.to_string()).start();
    let getter = Getter::new(daemon.front());
    let got = getter.get(&[&format!("http://{}/some/file.bin?x=1", server.address)]);
    assert_eq!(got.status, 0, "{got:?}");
    getter.holds(&bytes);
    assert!(server.heads()[0].starts_with("GET /some/file.bin?x=1 HTTP/1.1\r\n"), "{:?}", server.heads());
}

#[test]
fn refusals_are_told_as_what_they_are() {
    let origin = Origin::start();
    let blob = origin.blob(1, 100);
    let daemon = daemon(&origin);
    let getter = Getter::new(daemon.front());
    let missing = format!("{}/v2/library/scenario/blobs/{}", origin.url(), Digest::of(b"x"));
    getter.get(&[&missing]).failed(3, &["404", "BLOB_UNKNOWN"]);
    let server = OneAnswer::start(|_| answer("403 Forbidden", "", b"\x1b[31mno\x07"));
    let refused = Getter::new(server.address).get(&[&url(&origin, &blob)]);
    refused.failed(1, &["403", "[31mno", "docker login"]);
    assert!(!refused.err.contains(['\x1b', '\x07']), "{refused:?}");
}

/// What somebody has to change is not tried five times, and leaves nothing behind.
#[test]
fn a_registry_that_the_daemon_may_not_ask_is_told_at_once() {
    let (origin, unknown) = (Origin::start(), Origin::start());
    let blob = unknown.blob(1, 100);
    let daemon = daemon(&origin);
    let tap = OneAnswer::tap(daemon.front());
    let getter = Getter::new(tap.address);
    getter.get(&[&url(&unknown, &blob)]).failed(1, &["502", "the daemon answers", "proxy.allowedRegistries"]);
    assert_eq!((tap.heads().len(), getter.names()), (1, vec![]));
}

#[test]
fn a_place_that_cannot_be_written_to_is_told() {
    let origin = Origin::start();
    let blob = origin.blob(1, 5 * MIB);
    let daemon = daemon(&origin);
    let getter = Getter::new(daemon.front());
    fs::create_dir(getter.path()).expect("a directory can be made");
    getter.get(&[&url(&origin, &blob)]).failed(1, &["is a directory", "-o"]);
    let nowhere = Getter { directory: TempDir::new().expect("a temporary directory"), front: getter.front };
    nowhere.directory.path().metadata().expect("it is there");
    fs::remove_dir(nowhere.directory.path()).expect("it is empty");
    nowhere.get(&[&url(&origin, &blob)]).failed(1, &["out.part", "No such file", "-o"]);
}

#[test]
fn a_full_disk_keeps_what_has_come() {
    if !need("a_full_disk_keeps_what_has_come", &[Need::Root]) {
        return;
    }
    let origin = Origin::start();
    let blob = origin.blob(1, 9 * MIB);
    let daemon = daemon(&origin);
    let getter = Getter::new(daemon.front());
    {
        let _small = Mounted::tmpfs(getter.directory.path(), 4 * MIB);
        let got = getter.get(&[&url(&origin, &blob)]);
        got.failed(1, &["out.part", "No space left on device", "make room"]);
        assert!(getter.part_bytes() > 3 * MIB && !getter.path().exists());
    }
    assert_eq!(getter.get(&[&url(&origin, &blob)]).status, 0);
}

/// Bytes that do not repeat.
fn sample(len: u64) -> Vec<u8> {
    let blob = registry::Blob::synthetic(99, len);
    let mut bytes = vec![0; usize::try_from(len).expect("a small sample")];
    blob.read_exact_at(&mut bytes, 0).expect("generated content can be read");
    bytes
}
