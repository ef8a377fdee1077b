//! A raw client: what is sent and received is written out, so that no client library can make it right.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use super::*;

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Sends one request and reads until the registry closes; `extra` are header lines.
fn ask(host: &str, method: &str, target: &str, extra: &str) -> Answer {
    let mut socket = TcpStream::connect(host).unwrap();
    write!(socket, "{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{extra}\r\n").unwrap();
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head") + 4;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    Answer { status: head[9..12].parse().unwrap(), head, body: bytes.split_off(end) }
}

fn digits() -> (Registry, String) {
    let registry = Registry::start(RegistryOptions::default()).unwrap();
    let digest = registry.add_blob("library/digits", Blob::bytes("0123456789"));
    (registry, format!("/v2/library/digits/blobs/{digest}"))
}

#[test]
fn ranges_of_a_blob() {
    let (registry, target) = digits();
    let check = |range: &str, status: u16, content_range: Option<&str>, body: &str| {
        let answer = ask(&registry.host(), "GET", &target, &format!("Range: {range}\r\n"));
        assert_eq!(answer.status, status, "{range}");
        assert_eq!(answer.header("Content-Range"), content_range, "{range}");
        assert_eq!(answer.header("Content-Length"), Some(&*body.len().to_string()), "{range}");
        assert_eq!(answer.body, body.as_bytes(), "{range}");
    };
    check("bytes=0-3", 206, Some("bytes 0-3/10"), "0123");
    check("bytes=8-", 206, Some("bytes 8-9/10"), "89");
    check("bytes=-3", 206, Some("bytes 7-9/10"), "789");
    check("bytes=10-11", 416, Some("bytes */10"), "");
    check("bytes=0-1,4-5", 200, None, "0123456789");

    assert_eq!(registry.counts().blob_get, Tally { requests: 5, body_bytes: 4 + 2 + 3 + 10 });
    let lines = registry.requests();
    assert_eq!(lines[1].range.as_deref(), Some("bytes=8-"));
    assert_eq!((lines[1].status, lines[1].body_bytes, &lines[1].target), (206, 2, &target));
    registry.reset_counts();
    assert_eq!(registry.counts(), Counts::default());
}

#[test]
fn head_has_the_headers_and_no_body() {
    let (registry, target) = digits();
    let answer = ask(&registry.host(), "HEAD", &target, "");
    assert_eq!((answer.status, answer.header("Content-Length")), (200, Some("10")));
    assert_eq!(answer.header("Docker-Content-Digest"), target.rsplit('/').next());
    assert!(answer.body.is_empty());
    assert_eq!(registry.counts().blob_head, Tally { requests: 1, body_bytes: 0 });
}

#[test]
fn manifests_by_tag_and_digest() {
    let registry = Registry::start(RegistryOptions::default()).unwrap();
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let digest = registry.add_manifest("app", "latest", media_type, Bytes::from_static(b"{}"));
    for reference in ["latest".to_owned(), digest.to_string()] {
        let answer = ask(&registry.host(), "GET", &format!("/v2/app/manifests/{reference}"), "");
        assert_eq!((answer.status, &*answer.body), (200, &b"{}"[..]));
        assert_eq!(answer.header("Content-Type"), Some(media_type));
        assert_eq!(answer.header("Docker-Content-Digest"), Some(&*digest.to_string()));
    }
    assert_eq!(registry.counts().manifest.requests, 2);
}

#[test]
fn errors_are_those_of_the_spec() {
    let (registry, target) = digits();
    let unknown = Digest::of(b"unknown");
    let check = |method: &str, target: &str, status: u16, code: &str| {
        let answer = ask(&registry.host(), method, target, "");
        assert_eq!(answer.status, status, "{target}");
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(body["errors"][0]["code"], code, "{target}");
    };
    check("GET", &format!("/v2/library/digits/blobs/{unknown}"), 404, "BLOB_UNKNOWN");
    check("GET", &format!("/v2/digits/blobs/{unknown}"), 404, "NAME_UNKNOWN");
    check("GET", "/v2/library/digits/blobs/sha256:1", 400, "DIGEST_INVALID");
    check("GET", "/v2/library/digits/manifests/latest", 404, "MANIFEST_UNKNOWN");
    check("DELETE", &target, 405, "UNSUPPORTED");
    check("GET", "/metrics", 404, "NOT_FOUND");
    assert_eq!(ask(&registry.host(), "GET", "/v2/", "").status, 200);
}

#[test]
fn redirects_to_signed_storage() {
    let registry =
        Registry::start(RegistryOptions { redirect_blobs: true, ..RegistryOptions::default() }).unwrap();
    let digest = registry.add_blob("app", Blob::bytes("content"));
    let answer = ask(&registry.host(), "GET", &format!("/v2/app/blobs/{digest}"), "");
    assert_eq!((answer.status, answer.body.len()), (307, 0));

    let location = answer.header("Location").unwrap().strip_prefix("http://").unwrap();
    let (storage, path) = location.split_at(location.find('/').unwrap());
    assert_ne!(storage, registry.host());
    assert_eq!(ask(storage, "GET", path, "Range: bytes=3-\r\n").body, b"tent");
    assert_eq!(ask(storage, "GET", path.split('?').next().unwrap(), "").status, 403);
    assert_eq!(ask(storage, "GET", path, "Authorization: Bearer x\r\n").status, 400);
    let counts = registry.counts();
    assert_eq!((counts.redirect.requests, counts.blob_get.requests), (1, 3));
}

#[test]
fn bodies_keep_the_bandwidth_over_all_connections() {
    let rate = 4 << 20;
    let options = RegistryOptions { bandwidth_bytes_per_s: Some(rate), ..RegistryOptions::default() };
    let registry = Registry::start(options).unwrap();
    let blob = Blob::synthetic(1, rate / 8);
    let target = format!("/v2/app/blobs/{}", registry.add_blob("app", blob.clone()));
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let answer = ask(&registry.host(), "GET", &target, "");
                assert_eq!(Digest::of(&answer.body), blob.digest());
            });
        }
    });
    // Half a second is due. A busy machine may take longer, nothing may make it shorter.
    assert!(start.elapsed() > Duration::from_millis(450), "{:?}", start.elapsed());
    assert_eq!(registry.counts().blob_get.body_bytes, rate / 2);
}

#[test]
fn latency_is_added_to_each_answer() {
    let options = RegistryOptions { latency: Duration::from_millis(30), ..RegistryOptions::default() };
    let registry = Registry::start(options).unwrap();
    let start = Instant::now();
    ask(&registry.host(), "GET", "/v2/", "");
    assert!(start.elapsed() >= Duration::from_millis(30));
}

#[test]
fn faults() {
    let registry = Registry::start(RegistryOptions::default()).unwrap();
    let blob = Blob::synthetic(1, 300_000);
    let target = format!("/v2/app/blobs/{}", registry.add_blob("app", blob.clone()));
    let ask_with = |faults: Faults| {
        registry.set_faults(faults);
        ask(&registry.host(), "GET", &target, "Range: bytes=100000-299999\r\n")
    };

    let cut = ask_with(Faults { cut_body_after: Some(70_000), ..Faults::default() });
    assert_eq!((cut.status, cut.body.len(), cut.header("Content-Length")), (206, 70_000, Some("200000")));
    let ignored = ask_with(Faults { ignore_range: true, ..Faults::default() });
    assert_eq!((ignored.status, ignored.body.len()), (200, 300_000));
    assert_eq!(ask_with(Faults { status: Some(429), ..Faults::default() }).status, 429);

    let sound = ask_with(Faults::default()).body;
    let flipped = ask_with(Faults { flip_byte_at: Some(200_000), ..Faults::default() }).body;
    let wrong: Vec<_> = (0..sound.len()).filter(|&at| sound[at] != flipped[at]).collect();
    assert_eq!(wrong, [100_000]);
}

#[test]
fn a_stall_ends_with_the_registry() {
    let (registry, target) = digits();
    registry.set_faults(Faults { stall_after: Some(4), ..Faults::default() });
    let mut socket = TcpStream::connect(registry.host()).unwrap();
    write!(socket, "GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut bytes = Vec::new();
    assert!(socket.read_to_end(&mut bytes).is_err(), "still open");
    assert!(bytes.ends_with(b"\r\n\r\n0123"));
    registry.stop();
    assert_eq!(socket.read(&mut [0; 16]).unwrap_or(0), 0);
}
