//! Anyone can run a registry that says yes to every digest. Whoever knows the digest of a private image, from a log or
//! a deployment, must not get its bytes out of a node by naming such a registry.

use std::io::Read;

use darter_tests::{BLOCK_BYTES, Blob, Client, Daemon, Origin, Request, Scripted, Step};

const BLOB_BYTES: u64 = (2 << 20) + 77;

/// A private blob that the node has whole, from the registry that it belongs to.
struct Scene {
    owner: Origin,
    blob: Blob,
    daemon: Daemon,
}

impl Scene {
    fn with(others: &[&str]) -> Scene {
        let owner = Origin::start();
        let blob = owner.blob(1, BLOB_BYTES);
        let daemon = Daemon::builder().origin(&owner).prefetch(false);
        let daemon = others.iter().fold(daemon, |daemon, host| daemon.allow_registry(host)).start();
        blob.read(&mut daemon.client(), blob.whole()).expect("its own registry gives it");
        Scene { owner, blob, daemon }
    }

    /// Status and body, as far as it comes.
    fn ask(&self, request: Request, registry: &str) -> (u16, Vec<u8>) {
        let mut client = Client::new(self.daemon.front());
        let request = request.header("X-Dragonfly-Registry", registry);
        let mut reading = client.send(&request).expect("the front answers");
        let (status, mut body, mut part) = (reading.head().status, Vec::new(), vec![0; 64 << 10]);
        while let Ok(got @ 1..) = reading.read(&mut part) {
            body.extend_from_slice(&part[..got]);
        }
        (status, body)
    }
}

/// It knows the digest and the length, and has zeros.
fn liar() -> Scripted {
    Scripted::start(|asked| {
        let range = asked.header("Range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let range = range.map(|(first, last)| {
            let last = last.parse().unwrap_or(BLOB_BYTES - 1).min(BLOB_BYTES - 1);
            (first.parse().expect("the daemon's own range"), last)
        });
        let (first, last): (u64, u64) = range.unwrap_or((0, BLOB_BYTES - 1));
        let status = match range {
            Some(_) => format!("206 Partial Content\r\nContent-Range: bytes {first}-{last}/{BLOB_BYTES}"),
            None => "200 OK".to_owned(),
        };
        let length = last + 1 - first;
        let head = Step::Head(format!("HTTP/1.1 {status}\r\nContent-Length: {length}"));
        match asked.line.starts_with("HEAD ") {
            true => vec![head],
            false => vec![head, Step::Body(vec![0; usize::try_from(length).expect("a small blob")])],
        }
    })
}

#[test]
fn a_registry_that_says_yes_to_every_digest_gets_nothing_out_of_the_node() {
    let liar = liar();
    let scene = Scene::with(&[&liar.host()]);
    let private = scene.blob.bytes(scene.blob.whole());
    for round in 0..3 {
        for range in [0..1000, 70_000..200_000, BLOB_BYTES - 10..BLOB_BYTES] {
            let (status, body) = scene.ask(scene.blob.get_range(range.clone()), &liar.url());
            let right = &private[range.start as usize..range.end as usize];
            assert!(body != right, "{round}, {range:?}: the private bytes went out, {status}");
        }
        let (status, body) = scene.ask(scene.blob.get(), &liar.url());
        assert!((body.len() as u64) < BLOB_BYTES, "{round}: a whole answer with {status}");
        assert!(body.iter().all(|byte| *byte == 0), "{round}: private bytes went out");
    }
    // Its owner's readers are not disturbed.
    let (status, body) = scene.ask(scene.blob.get_range(5..500), &scene.owner.url());
    assert_eq!((status, body), (206, private[5..500].to_vec()));
}

#[test]
fn a_registry_that_has_the_bytes_shows_one_block_and_its_readers_get_the_rest_from_the_node() {
    let other = Origin::start();
    other.blob(1, BLOB_BYTES);
    let scene = Scene::with(&[&other.registry().host()]);
    for range in [0..1000, 70_000..200_000, scene.blob.whole()] {
        let (status, body) = scene.ask(scene.blob.get_range(range.clone()), &other.url());
        assert_eq!((status, body.len() as u64), (206, range.end - range.start));
        assert!(body == scene.blob.bytes(range));
    }
    assert!(other.blob_bytes() <= BLOCK_BYTES, "{} bytes were asked for", other.blob_bytes());
}
