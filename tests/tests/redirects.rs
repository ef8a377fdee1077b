//! A registry that redirects every blob to storage, by an address that is signed and good for some time: as the large
//! ones do.
//!
//! The front remembers where a blob is, for whom it was told, and asks the registry again when the address is no good
//! any more. Nobody sees any of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use darter_tests::{Asked, Blob, Daemon, Fate, Request, Scripted, Step};

/// A few requests of the front: 4 MiB each.
const BLOB_BYTES: u64 = (13 << 20) + 77;
/// The daemon decides after 3.5 s; the rest is for a machine under load.
const IN_TIME: Duration = Duration::from_secs(15);

#[test]
fn the_registry_is_asked_once_for_a_blob() {
    let scene = Scene::start();
    for blob in &scene.blobs {
        for range in [0..10, 5 << 20..6 << 20, 70_000..80_000, BLOB_BYTES - 10..BLOB_BYTES, blob.whole()] {
            assert_eq!(scene.read(blob, "alice", range), Fate::Right);
        }
    }
    let [first, second] = scene.blobs.each_ref().map(|blob| format!("GET {} HTTP/1.1", blob.target()));
    assert_eq!(scene.gets_of("alice"), [first, second]);
    let storage = scene.storage.asked();
    assert!(storage.len() > 10, "the rest went straight to storage: {}", storage.len());
    assert!(storage.iter().all(|asked| asked.header("Authorization").is_none()), "a token left its host");
}

#[test]
fn an_address_that_is_no_good_any_more_is_asked_for_anew() {
    for status in ["401 Unauthorized", "403 Forbidden", "404 Not Found", "410 Gone", "500 Broken"] {
        let scene = Scene::start();
        let blob = &scene.blobs[0];
        scene.signatures.answer_expired_with(status);
        for number in 0..3 {
            let start = number * (4 << 20);
            for range in [start..start + 10, start + (1 << 20)..start + (2 << 20)] {
                assert_eq!(scene.read(blob, "alice", range), Fate::Right, "{status}, address {number}");
            }
            assert_eq!(scene.gets_of("alice").len() as u64, number + 1, "{status}");
            scene.signatures.expire();
        }
        // Midway, with several requests under way.
        assert_eq!(scene.read(blob, "alice", blob.whole()), Fate::Right, "{status}");
    }
}

/// Who is refused at the registry gets its word, and no address that another was told.
#[test]
fn an_address_is_for_whom_it_was_told() {
    let scene = Scene::start();
    let blob = &scene.blobs[0];
    assert_eq!(scene.read(blob, "alice", 0..10), Fate::Right);
    assert_eq!(scene.read(blob, "mallory", 5 << 20..6 << 20), Fate::Refused { status: 403, own: false });
    assert_eq!(scene.read(blob, "carol", 5 << 20..6 << 20), Fate::Right);
    assert_eq!(scene.gets_of("carol").len(), 1, "what is absent is fetched by her own right");
    assert_eq!(scene.gets_of("alice").len(), 1);
    assert!(scene.storage.asked().iter().all(|asked| !asked.target().contains("mallory")));
}

#[test]
fn storage_that_is_overloaded_for_a_second_is_waited_for() {
    for remembered in [false, true] {
        let scene = Scene::start();
        let blob = &scene.blobs[0];
        if remembered {
            assert_eq!(scene.read(blob, "alice", 0..10), Fate::Right);
        }
        scene.signatures.overload(2);
        assert_eq!(scene.read(blob, "alice", 5 << 20..6 << 20), Fate::Right, "remembered: {remembered}");
    }
}

#[test]
fn storage_that_stays_overloaded_is_the_fronts_own_trouble_in_time() {
    for remembered in [false, true] {
        let scene = Scene::start();
        let blob = &scene.blobs[0];
        if remembered {
            assert_eq!(scene.read(blob, "alice", 0..10), Fate::Right);
        }
        scene.signatures.overload(u64::MAX);
        let asked_at = Instant::now();
        let fate = scene.read(blob, "alice", 5 << 20..6 << 20);
        assert_eq!(fate, Fate::Refused { status: 503, own: true }, "remembered: {remembered}");
        assert!(asked_at.elapsed() < IN_TIME, "after {:?}", asked_at.elapsed());
    }
}

/// A registry, its storage, and a daemon in front.
struct Scene {
    blobs: [Blob; 2],
    signatures: Arc<Signatures>,
    registry: Scripted,
    storage: Scripted,
    daemon: Daemon,
}

impl Scene {
    fn start() -> Scene {
        let blobs = [1, 2].map(|seed| Blob::synthetic(seed, BLOB_BYTES));
        let signatures = Arc::new(Signatures::new());
        let (stored, checking) = (blobs.clone(), signatures.clone());
        let storage = Scripted::start(move |asked| checking.storage_answer(&stored, asked));
        let (signing, url) = (signatures.clone(), storage.url());
        let registry = Scripted::start(move |asked| signing.registry_answer(&url, asked));
        let daemon = Daemon::builder().registry(&registry.url()).allow_registry(&storage.host());
        let daemon = daemon.prefetch(false).start();
        Scene { blobs, signatures, registry, storage, daemon }
    }

    fn read(&self, blob: &Blob, who: &str, range: std::ops::Range<u64>) -> Fate {
        let request: Request = if range == blob.whole() { blob.get() } else { blob.get_range(range.clone()) };
        Fate::of(&self.daemon, blob, request.header("Authorization", format!("Bearer {who}")), range)
    }

    /// What was asked of the registry itself with somebody's credential. Whether one may read, a HEAD asks.
    fn gets_of(&self, who: &str) -> Vec<String> {
        let is_get = |asked: &Asked| asked.line.starts_with("GET ") && bearer(asked) == Some(who);
        self.registry.asked().into_iter().filter(is_get).map(|asked| asked.line).collect()
    }
}

fn bearer(asked: &Asked) -> Option<&str> {
    asked.header("Authorization")?.strip_prefix("Bearer ")
}

/// Which addresses of the storage are good.
struct Signatures {
    /// Those with this number.
    good: AtomicU64,
    /// The status of the others.
    expired: std::sync::Mutex<&'static str>,
    /// So many answers are 429.
    overloaded: AtomicU64,
}

impl Signatures {
    fn new() -> Signatures {
        let expired = std::sync::Mutex::new("403 Forbidden");
        Signatures { good: AtomicU64::new(0), expired, overloaded: AtomicU64::new(0) }
    }

    fn answer_expired_with(&self, status: &'static str) {
        *self.expired.lock().expect("nobody panics with it") = status;
    }

    fn expire(&self) {
        self.good.fetch_add(1, Ordering::Relaxed);
    }

    fn overload(&self, answers: u64) {
        self.overloaded.store(answers, Ordering::Relaxed);
    }

    fn registry_answer(&self, storage: &str, asked: &Asked) -> Vec<Step> {
        let Some(who @ ("alice" | "carol")) = bearer(asked) else { return status("403 Forbidden") };
        let digest = asked.target().rsplit('/').next().unwrap_or_default();
        let good = self.good.load(Ordering::Relaxed);
        let location = format!("{storage}/{digest}?for={who}&signature={good}");
        status(&format!("307 Temporary Redirect\r\nLocation: {location}"))
    }

    fn storage_answer(&self, blobs: &[Blob], asked: &Asked) -> Vec<Step> {
        let one_less = |left: u64| left.checked_sub(1);
        if self.overloaded.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            return status("429 Too Many Requests\r\nRetry-After: 1");
        }
        let signature = format!("signature={}", self.good.load(Ordering::Relaxed));
        if !asked.target().ends_with(&signature) {
            return status(*self.expired.lock().expect("nobody panics with it"));
        }
        let Some(blob) = blobs.iter().find(|blob| asked.target().contains(&blob.digest())) else {
            return status("404 Not Found");
        };
        let range = asked.range(BLOB_BYTES);
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {}-{}/{BLOB_BYTES}\r\nContent-Length: {}",
            range.start,
            range.end - 1,
            range.end - range.start
        );
        vec![Step::Head(head), Step::Body(blob.bytes(range))]
    }
}

fn status(line: &str) -> Vec<Step> {
    vec![Step::Head(format!("HTTP/1.1 {line}\r\nContent-Length: 0"))]
}
