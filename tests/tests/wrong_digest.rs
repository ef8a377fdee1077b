//! A registry delivers bytes that are not those of the digest: it is broken, or somebody else's.
//!
//! Nobody gets them whole, nobody gets them under another registry's name, and they do not stay.

use std::time::Duration;

use darter::demo::registry::Faults;
use darter_tests::{BLOCK_BYTES, Blob, Daemon, Fate, Io, Origin, Request, on_both_io, wait_until};

on_both_io!(
    wrong_bytes_are_purged_and_refused_and_the_right_ones_are_served,
    parts_of_one_registry_are_not_given_out_for_another,
);

const BLOB_BYTES: u64 = (3 << 20) + 77;

/// Two registries that name the same digest, and only the second has its bytes.
struct Scene {
    wrong: Origin,
    right: Origin,
    blob: Blob,
    daemon: Daemon,
}

impl Scene {
    fn new(io: Io) -> Scene {
        let (wrong, right) = (Origin::start(), Origin::start());
        let blob = right.blob(1, BLOB_BYTES);
        wrong.blob(1, BLOB_BYTES);
        wrong.faults(Faults { flip_byte_at: Some(BLOB_BYTES - 10), ..Faults::default() });
        let daemon = Daemon::builder().over(io).registry(&wrong.url());
        let daemon = daemon.allow_registry(&right.registry().host()).prefetch(false).start();
        Scene { wrong, right, blob, daemon }
    }

    fn of_the_right_one(&self, request: Request) -> Request {
        request.header("X-Dragonfly-Registry", self.right.url())
    }

    /// Bytes that the store holds.
    fn used(&self) -> f64 {
        self.daemon.metrics().sum("darter_cache_used_bytes")
    }
}

fn wrong_bytes_are_purged_and_refused_and_the_right_ones_are_served(io: Io) {
    let scene = Scene::new(io);
    let whole = scene.blob.whole();
    let fate = Fate::of(&scene.daemon, &scene.blob, scene.blob.get(), whole.clone());
    assert!(matches!(fate, Fate::Cut | Fate::Refused { status: 502, own: true }), "{fate:?}");
    wait_until(Duration::from_secs(30), || scene.used() == 0.0, || format!("{} bytes stay", scene.used()));

    // For a minute that registry is not asked again, whole or in parts.
    let refused = |request: Request, range| {
        Fate::of(&scene.daemon, &scene.blob, request, range) == Fate::Refused { status: 502, own: true }
    };
    let remembered = || refused(scene.blob.get(), whole.clone());
    wait_until(Duration::from_secs(30), remembered, || "the verdict is not remembered".to_owned());
    scene.wrong.wait_until_quiet();
    scene.wrong.forget();
    assert!(refused(scene.blob.get(), whole.clone()));
    assert!(refused(scene.blob.get_range(5..10), 5..10));
    assert_eq!(scene.wrong.blob_bytes(), 0);

    // Meanwhile the other's copy is served, and then it is one content for all who show that they have it.
    for range in [5..10, 2 << 20..3 << 20, whole.clone()] {
        let request = scene.of_the_right_one(scene.blob.get_range(range.clone()));
        assert_eq!(Fate::of(&scene.daemon, &scene.blob, request, range), Fate::Right);
    }
    // Of the first one a block is asked for, and it is the wrong one by chance only: then its own answer is cut.
    let fate = Fate::of(&scene.daemon, &scene.blob, scene.blob.get(), whole);
    match scene.wrong.blob_bytes() {
        0..=BLOCK_BYTES => assert_eq!(fate, Fate::Right),
        _ => assert_eq!(fate, Fate::Cut),
    }
}

fn parts_of_one_registry_are_not_given_out_for_another(io: Io) {
    let scene = Scene::new(io);
    // The wrong byte lies in what is read here, and nothing can know yet.
    let part = BLOB_BYTES - 200_000..BLOB_BYTES;
    let answer = scene.daemon.client().fetch(&scene.blob.get_range(part.clone())).expect("the front answers");
    assert_eq!(answer.status(), 206);
    assert!(answer.body != scene.blob.bytes(part.clone()), "the byte is not wrong");
    let request = scene.of_the_right_one(scene.blob.get_range(part.clone()));
    assert_eq!(Fate::of(&scene.daemon, &scene.blob, request, part), Fate::Right);
    let request = scene.of_the_right_one(scene.blob.get());
    assert_eq!(Fate::of(&scene.daemon, &scene.blob, request, scene.blob.whole()), Fate::Right);
}
