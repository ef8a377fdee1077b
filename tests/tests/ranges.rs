//! What clients may ask and what they are told: ranges in every form, heads, proxies, trouble.
//!
//! Each case is what nydusd or containerd has been seen to depend on: a 200 in answer to a range or a
//! redirect makes nydusd fail or leave for good, and only a 5xx makes it go to the registry itself.

use std::ops::Range;
use std::time::Duration;

use darter::demo::registry::{Faults, RegistryOptions};
use darter_tests::{Answer, BLOCK_BYTES, Blob, Client, Daemon, Io, Origin, Request, on_both_io, wait_until};

on_both_io!(
    single_ranges_are_partial_content,
    ranges_beyond_the_end_are_416,
    several_ranges_are_no_error,
    heads_have_the_length_and_no_body,
    absolute_targets_are_proxied,
    what_is_no_blob_passes_through,
    redirects_are_followed_and_not_passed_on,
    verdicts_of_the_registry_pass,
    own_trouble_is_said_before_the_head,
    the_registry_may_be_named_by_the_client,
);

const BLOB_BYTES: u64 = (3 << 20) + 777;

/// A registry with one blob, and a daemon in front of it.
struct Scene {
    origin: Origin,
    blob: Blob,
    daemon: Daemon,
}

impl Scene {
    fn new(io: Io) -> Scene {
        Scene::with(io, RegistryOptions::default())
    }

    fn with(io: Io, options: RegistryOptions) -> Scene {
        let origin = Origin::with(options);
        let blob = origin.blob(1, BLOB_BYTES);
        let daemon = Daemon::builder().over(io).origin(&origin).prefetch(false).start();
        Scene { origin, blob, daemon }
    }

    fn fetch(&self, request: &Request) -> Answer {
        self.daemon.client().fetch(request).expect("the front answers")
    }

    /// The same request, answered by the registry itself.
    fn straight(&self, request: &Request) -> Answer {
        let registry = self.origin.registry().host().parse().expect("an address");
        Client::new(registry).fetch(request).expect("the registry answers")
    }

    fn range(&self, header: &str) -> Answer {
        self.fetch(&self.blob.get().header("Range", header))
    }
}

fn single_ranges_are_partial_content(io: Io) {
    let scene = Scene::new(io);
    let check = |header: &str, range: Range<u64>| {
        // Cold, and then out of the cache.
        for _ in 0..2 {
            let answer = scene.range(header);
            assert_eq!(answer.status(), 206, "{header}");
            let content_range = format!("bytes {}-{}/{BLOB_BYTES}", range.start, range.end - 1);
            assert_eq!(answer.header("Content-Range"), Some(content_range.as_str()), "{header}");
            assert!(answer.body == scene.blob.bytes(range.clone()), "{header}");
        }
    };
    check("bytes=0-0", 0..1);
    check("bytes=65535-65536", 65_535..65_537);
    check("bytes=-1000", BLOB_BYTES - 1000..BLOB_BYTES);
    check("bytes=-99999999999", 0..BLOB_BYTES);
    check("bytes=3000000-", 3_000_000..BLOB_BYTES);
    check("bytes=0-", 0..BLOB_BYTES);
    check("bytes=3145728-99999999999", 3_145_728..BLOB_BYTES);
    check(&format!("bytes={}-{}", BLOB_BYTES - 1, BLOB_BYTES - 1), BLOB_BYTES - 1..BLOB_BYTES);
    check(&format!("bytes=0-{}", u64::MAX), 0..BLOB_BYTES);
}

fn ranges_beyond_the_end_are_416(io: Io) {
    let scene = Scene::new(io);
    let beyond =
        [format!("bytes={BLOB_BYTES}-"), format!("bytes={BLOB_BYTES}-{}", u64::MAX), "bytes=-0".into()];
    // First while the blob's length is not known yet, then when it is.
    for _ in 0..2 {
        for header in &beyond {
            let answer = scene.range(header);
            assert_eq!(answer.status(), 416, "{header}");
            let length = format!("bytes */{BLOB_BYTES}");
            assert_eq!(answer.header("Content-Range"), Some(length.as_str()), "{header}");
        }
        assert_eq!(scene.range("bytes=0-9").status(), 206);
    }
}

fn several_ranges_are_no_error(io: Io) {
    let scene = Scene::new(io);
    let answer = scene.range("bytes=10-19,70000-70009");
    match answer.status() {
        200 => assert!(answer.body == scene.blob.bytes(scene.blob.whole())),
        206 => assert_eq!(answer.body, scene.blob.bytes(10..20)),
        other => panic!("{other} for two ranges"),
    }
}

fn heads_have_the_length_and_no_body(io: Io) {
    let scene = Scene::new(io);
    let head = Request::head(scene.blob.target());
    let mut client = scene.daemon.client();
    for request in [&head, &scene.blob.get(), &head] {
        // On one connection: a body after a HEAD would be taken for the next answer.
        let answer = client.fetch(request).expect("the front answers");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.head.content_length(), Some(BLOB_BYTES));
    }
    let absent = "/v2/library/scenario/blobs/sha256:".to_owned() + &"0123456789abcdef".repeat(4);
    assert_eq!(scene.fetch(&Request::head(absent)).status(), 404);
}

fn absolute_targets_are_proxied(io: Io) {
    let scene = Scene::new(io);
    let host = scene.origin.registry().host();
    let absolute = Request::get(format!("http://{host}{}", scene.blob.target())).header("Host", &host);
    let part = 100..200_000;
    for _ in 0..2 {
        let answer = scene.fetch(&absolute.clone().range(part.clone()));
        assert_eq!(answer.status(), 206);
        assert!(answer.body == scene.blob.bytes(part.clone()));
    }
    assert_eq!(scene.origin.blob_bytes(), 4 * BLOCK_BYTES, "proxied, but not cached");
    let ping = Request::get(format!("http://{host}/v2/")).header("Host", host);
    assert_eq!(scene.fetch(&ping).status(), 200);
}

fn what_is_no_blob_passes_through(io: Io) {
    let scene = Scene::new(io);
    let manifest = br#"{"schemaVersion":2}"#.as_slice();
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let registry = scene.origin.registry();
    let digest = registry.add_manifest("library/scenario", "latest", media_type, manifest.into());
    for target in [
        "/v2/".to_owned(),
        "/v2/library/scenario/manifests/latest".to_owned(),
        format!("/v2/library/scenario/manifests/{digest}"),
        "/v2/library/scenario/manifests/absent".to_owned(),
        "/no/such/path?with=a&query=%20".to_owned(),
    ] {
        let request = Request::get(&target);
        let (answer, expected) = (scene.fetch(&request), scene.straight(&request));
        assert_eq!(answer.status(), expected.status(), "{target}");
        assert_eq!(answer.header("Content-Type"), expected.header("Content-Type"), "{target}");
        assert_eq!(answer.body, expected.body, "{target}");
    }
    let post = Request::post("/v2/library/scenario/blobs/uploads/");
    assert_eq!(scene.fetch(&post).status(), scene.straight(&post).status());
}

fn redirects_are_followed_and_not_passed_on(io: Io) {
    let scene = Scene::with(io, RegistryOptions { redirect_blobs: true, ..RegistryOptions::default() });
    assert_eq!(scene.straight(&scene.blob.get()).status(), 307, "the registry of this scenario redirects");
    for request in [scene.blob.get_range(5..100_000), scene.blob.get(), Request::head(scene.blob.target())] {
        let answer = scene.fetch(&request);
        assert!([200, 206].contains(&answer.status()), "{:?}", answer.head);
        assert_eq!(answer.header("Location"), None);
    }
    let whole = scene.fetch(&scene.blob.get());
    assert!(whole.body == scene.blob.bytes(scene.blob.whole()));
}

fn verdicts_of_the_registry_pass(io: Io) {
    for status in [401, 403, 404] {
        let scene = Scene::new(io);
        scene.origin.faults(Faults { status: Some(status), ..Faults::default() });
        for request in [scene.blob.get(), scene.blob.get_range(0..10)] {
            let (answer, expected) = (scene.fetch(&request), scene.straight(&request));
            assert_eq!(answer.status(), status);
            assert_eq!(answer.body, expected.body);
            assert_eq!(answer.header("X-Dragonfly-Error-Type"), None, "{status} is not the daemon's own");
        }
        // A refusal is a verdict on that request, not on the blob for ever.
        scene.origin.faults(Faults::default());
        let served = || scene.fetch(&scene.blob.get_range(0..10)).status() == 206;
        wait_until(Duration::from_secs(30), served, || format!("{status} is never forgotten"));
    }
}

fn own_trouble_is_said_before_the_head(io: Io) {
    let scene = Scene::new(io);
    let kept = 0..100_000;
    assert_eq!(scene.fetch(&scene.blob.get_range(kept.clone())).status(), 206);
    let Scene { origin, blob, daemon } = scene;
    drop(origin);
    let mut client = daemon.client();
    for request in [blob.get_range(1 << 20..2 << 20), Request::get("/v2/")] {
        let answer = client.fetch(&request).expect("the front answers");
        assert!((502..=504).contains(&answer.status()), "{:?}", answer.head);
        assert_eq!(answer.header("X-Dragonfly-Error-Type"), Some("proxy"));
    }
    let answer = client.fetch(&blob.get_range(kept.clone())).expect("the front answers");
    assert_eq!(answer.status(), 206, "what is kept needs no registry");
    assert!(answer.body == blob.bytes(kept));
}

fn the_registry_may_be_named_by_the_client(io: Io) {
    let scene = Scene::new(io);
    let other = Origin::start();
    let blob = other.blob(2, BLOB_BYTES);
    let daemon = Daemon::builder()
        .over(io)
        .registry(&scene.origin.url())
        .allow_registry(&other.registry().host())
        .prefetch(false)
        .start();
    let by_header = blob.get_range(0..10).header("X-Dragonfly-Registry", other.url());
    let ns = other.url().replace(':', "%3A").replace('/', "%2F");
    let by_ns = Request::get(format!("{}?ns={ns}", blob.target())).range(0..10);
    for request in [by_header, by_ns] {
        let answer = daemon.client().fetch(&request).expect("the front answers");
        assert_eq!((answer.status(), answer.body), (206, blob.bytes(0..10)));
    }
    assert_eq!(scene.origin.registry().counts().total().requests, 0, "the configured registry was asked");
}
