//! The registry answers, and the answer is not what was asked for: another range, another encoding, a refusal, a
//! redirect.
//!
//! Whatever it is, a reader gets the right bytes, a refusal before the head of its answer, or an orderly end before
//! the last block; never a wrong byte, never a reset, and nobody else gets its credentials.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use darter_tests::{Asked, Blob, Daemon, Fate, Io, Scripted, Step, on_both_io};

on_both_io!(
    a_shorter_part_than_asked_for_is_gone_on_from,
    parts_that_are_not_what_was_asked_for_are_refused,
    an_encoded_body_is_refused,
    a_body_in_chunks_is_used,
    a_body_without_a_length_passes_and_is_whole_or_cut,
    an_overloaded_registry_is_asked_again,
    an_overloaded_registry_is_not_waited_for_longer_than_a_client_waits,
    a_refusal_passes_as_it_is,
    nonsense_becomes_the_daemons_own_trouble,
    credentials_stay_at_the_host_that_they_are_for,
    redirects_without_an_end_are_given_up,
);

const BLOB_BYTES: u64 = (3 << 20) + 77;
/// The daemon decides after 3.5 s; the rest is for a machine under load.
const IN_TIME: Duration = Duration::from_secs(15);

/// A blob at an origin with that script, behind a daemon.
struct Scene {
    blob: Blob,
    origin: Scripted,
    daemon: Daemon,
}

impl Scene {
    fn new(io: Io, script: impl Fn(&Blob, &Asked) -> Vec<Step> + Send + Sync + 'static) -> Scene {
        let blob = Blob::synthetic(1, BLOB_BYTES);
        let scripted = blob.clone();
        let origin = Scripted::start(move |asked| script(&scripted, asked));
        let daemon = Daemon::builder().over(io).registry(&origin.url()).prefetch(false).start();
        Scene { blob, origin, daemon }
    }

    /// What becomes of a read of part, of the end and of all, each the first one of its kind or after the others.
    fn fates(&self) -> [Fate; 3] {
        let ranges = [70_000..400_000, BLOB_BYTES - 1000..BLOB_BYTES, self.blob.whole()];
        ranges.map(|range| Fate::of(&self.daemon, &self.blob, self.blob.get().range(range.clone()), range))
    }

    /// Every read is refused before its head, by the daemon itself.
    fn check_refused(&self, what: &str) {
        for fate in self.fates() {
            assert!(matches!(fate, Fate::Refused { status: 502..=504, own: true }), "{what}: {fate:?}");
        }
    }
}

/// The head of an answer with that part of the blob.
fn part_head(range: &std::ops::Range<u64>) -> String {
    format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {}-{}/{BLOB_BYTES}\r\nContent-Length: {}",
        range.start,
        range.end - 1,
        range.end - range.start,
    )
}

/// The right answer.
fn right(blob: &Blob, asked: &Asked) -> Vec<Step> {
    let range = asked.range(BLOB_BYTES);
    vec![Step::Head(part_head(&range)), Step::Body(blob.bytes(range))]
}

fn status(line: &str) -> Vec<Step> {
    vec![Step::Head(format!("HTTP/1.1 {line}\r\nContent-Length: 0"))]
}

fn a_shorter_part_than_asked_for_is_gone_on_from(io: Io) {
    let scene = Scene::new(io, |blob, asked| {
        let mut range = asked.range(BLOB_BYTES);
        range.end = range.end.min(range.start + 100_000);
        vec![Step::Head(part_head(&range)), Step::Body(blob.bytes(range))]
    });
    for fate in scene.fates() {
        assert_eq!(fate, Fate::Right);
    }
    let touched = scene.blob.touched([scene.blob.whole()]);
    assert!(scene.origin.body_bytes() <= touched + touched / 50, "{} bytes", scene.origin.body_bytes());
}

fn parts_that_are_not_what_was_asked_for_are_refused(io: Io) {
    type Lie = fn(&std::ops::Range<u64>) -> String;
    let lies: [(&str, Lie); 9] = [
        ("shifted by a byte", |asked| format!("bytes {}-{}/{BLOB_BYTES}", asked.start + 1, asked.end)),
        ("from the beginning", |asked| format!("bytes 0-{}/{BLOB_BYTES}", asked.end - asked.start - 1)),
        ("of unknown length", |asked| format!("bytes {}-{}/*", asked.start, asked.end - 1)),
        ("beyond its own end", |asked| format!("bytes {}-{}/{}", asked.start, asked.end - 1, asked.end - 1)),
        ("longer than the body", |asked| format!("bytes {}-{}/{}", asked.start, asked.end, BLOB_BYTES + 1)),
        ("backwards", |asked| format!("bytes {}-{}/{BLOB_BYTES}", asked.end, asked.start)),
        ("in other units", |asked| format!("blocks {}-{}/{BLOB_BYTES}", asked.start, asked.end - 1)),
        ("without an end in 64 bits", |asked| format!("bytes {}-99999999999999999999/*", asked.start)),
        ("no range at all", |_| "bytes".into()),
    ];
    for (what, lie) in lies {
        let scene = Scene::new(io, move |blob, asked| {
            let range = asked.range(BLOB_BYTES);
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Range: {}\r\nContent-Length: {}",
                lie(&range),
                range.end - range.start,
            );
            vec![Step::Head(head), Step::Body(blob.bytes(range)), Step::Close]
        });
        // What begins at 0 is right where that was asked for.
        match what {
            "from the beginning" => {
                let range = 70_000..400_000;
                let fate = Fate::of(&scene.daemon, &scene.blob, scene.blob.get_range(range.clone()), range);
                assert!(matches!(fate, Fate::Refused { status: 502, own: true }), "{what}: {fate:?}");
            }
            _ => scene.check_refused(what),
        }
    }
}

fn an_encoded_body_is_refused(io: Io) {
    let scene = Scene::new(io, |blob, asked| {
        assert_eq!(asked.header("Accept-Encoding"), Some("identity"));
        let range = asked.range(BLOB_BYTES);
        vec![
            Step::Head(format!("{}\r\nContent-Encoding: gzip", part_head(&range))),
            Step::Body(blob.bytes(range)),
        ]
    });
    scene.check_refused("gzip");
}

/// A body in chunks of 50 000 bytes.
fn chunked(bytes: &[u8]) -> impl Iterator<Item = Step> + use<'_> {
    let chunk = |part: &[u8]| [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
    bytes.chunks(50_000).map(move |part| Step::Raw(chunk(part)))
}

fn a_body_in_chunks_is_used(io: Io) {
    let scene = Scene::new(io, |blob, asked| {
        let range = asked.range(BLOB_BYTES);
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {}-{}/{BLOB_BYTES}\r\nTransfer-Encoding: chunked",
            range.start,
            range.end - 1,
        );
        let body = blob.bytes(range);
        let end = Step::Raw(b"0\r\n\r\n".into());
        [Step::Head(head)].into_iter().chain(chunked(&body)).chain([end]).collect()
    });
    for fate in scene.fates() {
        assert_eq!(fate, Fate::Right);
    }
}

fn a_body_without_a_length_passes_and_is_whole_or_cut(io: Io) {
    // Chunks with and without their end, and a body that ends with its connection.
    let scripts: [(&str, bool, bool); 4] = [
        ("chunked", true, true),
        ("chunked", true, false),
        ("until the end", false, true),
        ("until the end", false, false),
    ];
    for (what, in_chunks, whole) in scripts {
        let scene = Scene::new(io, move |blob, _| {
            let body = blob.bytes(0..if whole { BLOB_BYTES } else { BLOB_BYTES / 2 });
            let mut steps = match in_chunks {
                true => vec![Step::Head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked".into())],
                false => vec![Step::Head("HTTP/1.1 200 OK\r\nConnection: close".into())],
            };
            match in_chunks {
                true => steps.extend(chunked(&body)),
                false => steps.push(Step::Body(body)),
            }
            if in_chunks && whole {
                steps.push(Step::Raw(b"0\r\n\r\n".into()));
            }
            steps.push(Step::Close);
            steps
        });
        let fate = Fate::of(&scene.daemon, &scene.blob, scene.blob.get(), scene.blob.whole());
        match whole {
            true => assert_eq!(fate, Fate::Right, "{what}"),
            false => assert!(matches!(fate, Fate::Cut), "{what}: {fate:?}"),
        }
    }
}

fn an_overloaded_registry_is_asked_again(io: Io) {
    for refusal in ["429 Too Many Requests", "503 Service Unavailable"] {
        let scene = Scene::new(io, move |blob, asked| match asked.number {
            0 => vec![Step::Head(format!("HTTP/1.1 {refusal}\r\nRetry-After: 1\r\nContent-Length: 0"))],
            _ => right(blob, asked),
        });
        let asked = Instant::now();
        let range = 0..100_000;
        let fate = Fate::of(&scene.daemon, &scene.blob, scene.blob.get_range(range.clone()), range);
        assert_eq!(fate, Fate::Right, "{refusal}");
        assert!(
            asked.elapsed() >= Duration::from_secs(1),
            "{refusal}: asked again after {:?}",
            asked.elapsed()
        );
        assert_eq!(scene.origin.asked().len(), 2, "{refusal}");
    }
}

fn an_overloaded_registry_is_not_waited_for_longer_than_a_client_waits(io: Io) {
    for (refusal, after, becomes) in [
        ("429 Too Many Requests", "Retry-After: 3600\r\n", 503),
        ("429 Too Many Requests", "Retry-After: Wed, 21 Oct 2065 07:28:00 GMT\r\n", 503),
        ("429 Too Many Requests", "", 503),
        ("502 Bad Gateway", "Retry-After: nonsense\r\n", 502),
        ("500 Internal Server Error", "", 502),
    ] {
        let scene = Scene::new(io, move |_, _| {
            vec![Step::Head(format!("HTTP/1.1 {refusal}\r\n{after}Content-Length: 0"))]
        });
        let asked = Instant::now();
        let range = 0..100_000;
        let fate = Fate::of(&scene.daemon, &scene.blob, scene.blob.get_range(range.clone()), range);
        assert_eq!(fate, Fate::Refused { status: becomes, own: true }, "{refusal} {after}");
        assert!(asked.elapsed() < IN_TIME, "{refusal} {after}: after {:?}", asked.elapsed());
        assert!(scene.origin.asked().len() > 1, "{refusal} {after}: not tried again");
        assert!(scene.origin.asked().len() <= 10, "{refusal} {after}: tried too often");
    }
}

fn a_refusal_passes_as_it_is(io: Io) {
    for refusal in ["401 Unauthorized", "403 Forbidden", "404 Not Found", "410 Gone", "418 I'm a teapot"] {
        let scene = Scene::new(io, move |_, _| {
            let challenge = "WWW-Authenticate: Bearer realm=\"https://realm.example/token\"";
            let head = format!("HTTP/1.1 {refusal}\r\n{challenge}\r\nX-Mine: 1\r\nContent-Length: 5");
            vec![Step::Head(head), Step::Body(b"no no".into())]
        });
        for request in [scene.blob.get(), scene.blob.get_range(5..10)] {
            let answer = scene.daemon.client().fetch(&request).expect("the front answers");
            assert_eq!(answer.status().to_string(), refusal[..3]);
            assert_eq!(
                answer.header("WWW-Authenticate"),
                Some("Bearer realm=\"https://realm.example/token\"")
            );
            assert_eq!((answer.header("X-Mine"), answer.header("X-Dragonfly-Error-Type")), (Some("1"), None));
            assert_eq!(answer.body, b"no no");
        }
    }
}

fn nonsense_becomes_the_daemons_own_trouble(io: Io) {
    type Answer = fn() -> Vec<Step>;
    let answers: [(&str, Answer); 10] = [
        ("416 for what is there", || {
            vec![Step::Head(format!(
                "HTTP/1.1 416 X\r\nContent-Range: bytes */{BLOB_BYTES}\r\nContent-Length: 0"
            ))]
        }),
        ("204", || status("204 No Content")),
        ("a redirect to nowhere", || status("307 Temporary Redirect")),
        ("a redirect to a file", || status("302 Found\r\nLocation: file:///etc/passwd")),
        ("300", || status("300 Multiple Choices")),
        ("no HTTP", || vec![Step::Raw(b"\x16\x03\x01 what is this\r\n\r\n".into()), Step::Close]),
        ("a status beyond all", || status("999 Beyond")),
        ("another protocol", || {
            vec![Step::Head("HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x".into()), Step::Hang]
        }),
        ("an endless head", || {
            vec![Step::Head(format!("HTTP/1.1 200 OK\r\n{}", "X: y\r\n".repeat(200_000)))]
        }),
        ("an empty answer", || vec![Step::Close]),
    ];
    for (what, answer) in answers {
        let scene = Scene::new(io, move |_, _| answer());
        let range = 0..100_000;
        let fate = Fate::of(&scene.daemon, &scene.blob, scene.blob.get_range(range.clone()), range);
        assert!(matches!(fate, Fate::Refused { status: 502..=503, own: true }), "{what}: {fate:?}");
    }
}

fn credentials_stay_at_the_host_that_they_are_for(io: Io) {
    let blob = Blob::synthetic(1, BLOB_BYTES);
    let stored = blob.clone();
    let storage = Scripted::start(move |asked| right(&stored, asked));
    let location = format!("{}/signed?with=a", storage.url());
    let scene = Scene::new(io, move |_, asked| match asked.target() {
        // At the registry itself once more, and only then elsewhere.
        "/moved" => status(&format!("308 Permanent Redirect\r\nLocation: {location}")),
        _ => status("301 Moved Permanently\r\nLocation: /moved"),
    });
    let host = storage.host();
    let daemon = Daemon::builder()
        .over(io)
        .registry(&scene.origin.url())
        .allow_registry(&host)
        .prefetch(false)
        .start();
    for range in [0..10, 1 << 20..2 << 20, blob.whole()] {
        let request =
            blob.get_range(range.clone()).header("Authorization", "Bearer secret").header("Cookie", "secret");
        assert_eq!(Fate::of(&daemon, &blob, request, range), Fate::Right);
    }
    let (at_registry, at_storage) = (scene.origin.asked(), storage.asked());
    assert!(!at_registry.is_empty() && !at_storage.is_empty());
    // A HEAD without it asks whether the repository is public.
    for asked in at_registry.iter().filter(|asked| asked.line.starts_with("GET ")) {
        assert_eq!(asked.header("Authorization"), Some("Bearer secret"), "{}", asked.line);
    }
    for asked in at_storage {
        assert_eq!(asked.target(), "/signed?with=a");
        assert_eq!((asked.header("Authorization"), asked.header("Cookie")), (None, None));
    }
}

fn redirects_without_an_end_are_given_up(io: Io) {
    // In a circle of one, of two, and always further.
    for circle in [1, 2, usize::MAX] {
        let hops = Arc::new(AtomicUsize::new(0));
        let counted = hops.clone();
        let scene = Scene::new(io, move |_, _| {
            let hop = counted.fetch_add(1, Ordering::Relaxed);
            status(&format!("307 Temporary Redirect\r\nLocation: /hop/{}", hop % circle))
        });
        let range = 0..100_000;
        let fate = Fate::of(&scene.daemon, &scene.blob, scene.blob.get_range(range.clone()), range);
        assert_eq!(fate, Fate::Refused { status: 502, own: true }, "{circle}");
        assert!(hops.load(Ordering::Relaxed) <= 20, "{} hops", hops.load(Ordering::Relaxed));
    }
}
