//! The front as a forward proxy, and what of a request's head is for whom.
//!
//! A client whose proxy this is asks for whole URLs. Blobs of any registry among them are kept under that registry;
//! the rest passes. What is said to the next hop alone, in either direction, ends at the front; what is said to
//! Dragonfly is the front's.

use std::time::Duration;

use darter_tests::{Answer, Asked, Blob, Daemon, Fate, Origin, Request, Scripted, Step, wait_until};

/// A few requests of the front: 4 MiB each.
const BLOB_BYTES: u64 = (9 << 20) + 77;
/// For what the daemon does in the background.
const SOON: Duration = Duration::from_secs(30);

#[test]
fn whole_urls_are_kept_under_the_registry_that_they_name() {
    let [configured, named] = [Origin::start(), Origin::start()];
    let daemon = Daemon::builder().origin(&configured).allow_registry(&named.registry().host()).start();
    let blob = named.blob(1, BLOB_BYTES);
    let url = format!("{}{}", named.url(), blob.target());
    // The URL says where to, whatever else a request says.
    let elsewhere = || Request::get(&url).header("X-Dragonfly-Registry", configured.url());
    for range in [5..10, 3 << 20..4 << 20] {
        let request = elsewhere().range(range.clone());
        assert_eq!(Fate::of(&daemon, &blob, request, range), Fate::Right);
    }
    assert_eq!(Fate::of(&daemon, &blob, elsewhere(), blob.whole()), Fate::Right);
    // The mirror's way to the same registry finds it.
    let mirrored = blob.get().header("X-Dragonfly-Registry", named.url());
    assert_eq!(Fate::of(&daemon, &blob, mirrored, blob.whole()), Fate::Right);
    named.wait_until_quiet();
    assert_eq!(named.blob_bytes(), BLOB_BYTES);
    assert_eq!(configured.registry().counts().total().requests, 0);
    // The registry that is configured does not have it, and what is kept is no proof that it does.
    assert_eq!(daemon.client().fetch(&blob.get()).expect("the front answers").status(), 404);
}

#[test]
fn other_urls_pass_as_they_are() {
    let scene = Scene::start(|asked| {
        let body = format!("{} {}", asked.line, asked.header("Host").unwrap_or_default());
        let head = format!("HTTP/1.1 203 X\r\nETag: W/\"1\"\r\nContent-Length: {}", body.len());
        vec![Step::Head(head), Step::Body(body.into())]
    });
    let host = scene.origin.host();
    for path in ["/", "/a?b=%20c&ns=x", "/v2/", "/v2/a/tags/list?n=1", "/token?service=a"] {
        let answer = scene.ask(Request::get(format!("http://{host}{path}")));
        // `ns` is said to the front.
        let asked = path.replace("&ns=x", "");
        let expected = format!("GET {asked} HTTP/1.1 {host}");
        assert_eq!((answer.status(), String::from_utf8_lossy(&answer.body)), (203, expected.into()));
        assert_eq!(answer.header("ETag"), Some("W/\"1\""));
    }
    let posted = scene.ask(Request::post(format!("http://{host}/token")).form("a=b"));
    assert_eq!(String::from_utf8_lossy(&posted.body), format!("POST /token HTTP/1.1 {host}"));
}

/// Of what passes, of a blob and of a manifest by its tag.
#[test]
fn what_is_said_to_the_next_hop_ends_here_in_both_directions() {
    let blob = Blob::synthetic(1, 1000);
    let kept = blob.clone();
    let scene = Scene::start(move |asked| {
        let hop = "Connection: X-Back\r\nX-Back: 1\r\nKeep-Alive: timeout=9\r\nProxy-Authenticate: Basic\r\n\
                   Proxy-Connection: close\r\nUpgrade: h2c\r\nX-End: 1";
        let has_body = asked.line.starts_with("GET ");
        let body = if has_body { kept.bytes(kept.whole()) } else { Vec::new() };
        vec![Step::Head(format!("HTTP/1.1 200 OK\r\n{hop}\r\nContent-Length: 1000")), Step::Body(body)]
    });
    for target in ["/other", blob.target(), "/v2/a/manifests/latest"] {
        let request = [
            ("Connection", "X-Foo, TE"),
            ("Connection", "keep-alive"),
            ("X-Foo", "1"),
            ("Keep-Alive", "timeout=9"),
            ("Proxy-Authorization", "Basic c2VjcmV0"),
            ("Proxy-Connection", "keep-alive"),
            ("TE", "trailers"),
            ("Trailer", "X-T"),
            ("Upgrade", "h2c"),
            ("X-Bar", "1"),
            ("Accept", "*/*"),
        ]
        .iter()
        .fold(Request::get(target), |request, (name, value)| request.header(name, *value));
        let before = scene.origin.asked().len();
        let answer = scene.ask(request);
        assert_eq!(answer.status(), 200, "{target}");
        let asked = scene.origin.asked().split_off(before);
        assert!(!asked.is_empty(), "{target} was to be asked for");
        for asked in asked {
            let line = &asked.line;
            for name in [
                "Connection",
                "X-Foo",
                "Keep-Alive",
                "Proxy-Authorization",
                "Proxy-Connection",
                "TE",
                "Upgrade",
            ] {
                assert_eq!(asked.header(name), None, "{name} of {line}");
            }
            assert_eq!((asked.header("X-Bar"), asked.header("Accept")), (Some("1"), Some("*/*")), "{line}");
        }
        for name in ["X-Back", "Keep-Alive", "Proxy-Authenticate", "Proxy-Connection", "Upgrade"] {
            assert_eq!(answer.header(name), None, "{name} came back of {target}");
        }
        if target != blob.target() {
            assert_eq!(answer.header("X-End"), Some("1"), "{target}");
        }
    }
}

#[test]
fn a_client_may_name_no_file_of_the_node_and_nothing_that_it_forbids_itself() {
    let origin = Origin::start();
    let blob = origin.blob(1, 1000);
    let daemon = Daemon::builder().origin(&origin).start();
    let ask = |target: &str, name: &str, value: &str| {
        let request = Request::get(target).header(name, value);
        daemon.client().fetch(&request).expect("the front answers")
    };
    for target in [blob.target(), "/v2/", "/models/a"] {
        for (name, value, status, words) in [
            ("X-Dragonfly-Output-Path", "/tmp/x", 400, "names a file on this node"),
            ("X-Dragonfly-Force-Hard-Link", "true", 400, "names a file on this node"),
            ("X-Dragonfly-Priority", "1", 403, "x-dragonfly-priority"),
            ("X-Dragonfly-Priority", "high", 400, "0 to 6"),
            ("X-Dragonfly-Prefetch", "maybe", 400, "true or false"),
        ] {
            let answer = ask(target, name, value);
            let text = String::from_utf8_lossy(&answer.body);
            assert_eq!(answer.status(), status, "{name}: {value} for {target}");
            assert!(text.contains(words), "{name}: {value} for {target}: {text}");
            assert_eq!(answer.header("X-Dragonfly-Error-Type"), Some("proxy"), "{name}");
        }
    }
    assert_eq!(origin.registry().counts().total().requests, 0, "the registry has heard of it");
    assert_eq!(ask(blob.target(), "X-Dragonfly-Priority", "0").status(), 200);
}

#[test]
fn a_client_may_overrule_prefetch() {
    for configured in [false, true] {
        let origin = Origin::start();
        let daemon = Daemon::builder().origin(&origin).prefetch(configured).start();
        let read = |seed, says: Option<&str>| {
            let blob = origin.blob(seed, BLOB_BYTES);
            let request = says
                .into_iter()
                .fold(blob.get_range(0..10), |request, value| request.header("X-Dragonfly-Prefetch", value));
            assert_eq!(Fate::of(&daemon, &blob, request, 0..10), Fate::Right);
            blob
        };
        let stays = read(1, if configured { Some("false") } else { None });
        let comes = read(2, if configured { None } else { Some("true") });
        let is_here = |blob: &Blob| finished(&daemon, blob) == "true";
        wait_until(SOON, || is_here(&comes), || format!("configured: {configured}: the rest does not come"));
        // A prefetch of the first would have begun before that of the second.
        assert!(!is_here(&stays), "configured: {configured}: the rest came");
        let sent: u64 = origin.bytes_by_block(&stays).iter().sum();
        assert!(sent <= 4 << 20, "configured: {configured}: {sent} bytes of what was not wanted");
    }
}

#[test]
fn answers_say_which_content_it_is_and_whether_all_of_it_is_here() {
    let origin = Origin::start();
    let daemon = Daemon::builder().origin(&origin).prefetch(false).start();
    let [blob, other] = [1, 2].map(|seed| origin.blob(seed, BLOB_BYTES));
    assert_eq!(finished(&daemon, &blob), "false");
    assert_eq!(Fate::of(&daemon, &blob, blob.get(), blob.whole()), Fate::Right);
    wait_until(SOON, || finished(&daemon, &blob) == "true", || "it does not come to be whole".into());
    assert_eq!(finished(&daemon, &other), "false");
    let task = |answer: &Answer| answer.header("X-Dragonfly-Task-ID").map(str::to_owned);
    let ask = |request: Request| task(&daemon.client().fetch(&request).expect("the front answers"));
    let named = ask(blob.get_range(0..10));
    assert!(
        named.is_some() && named == ask(Request::head(blob.target())) && named != ask(other.get_range(0..10))
    );
}

/// What an answer says of all of a blob.
fn finished(daemon: &Daemon, blob: &Blob) -> String {
    let request = blob.get_range(0..10).header("X-Dragonfly-Prefetch", "false");
    let answer = daemon.client().fetch(&request).expect("the front answers");
    assert_eq!(answer.status(), 206);
    answer.header("X-Dragonfly-Task-Download-Finished").expect("it says whether").to_owned()
}

/// A daemon in front of a script.
struct Scene {
    origin: Scripted,
    daemon: Daemon,
}

impl Scene {
    fn start(script: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static) -> Scene {
        let origin = Scripted::start(script);
        let daemon = Daemon::builder().registry(&origin.url()).prefetch(false).start();
        Scene { origin, daemon }
    }

    fn ask(&self, request: Request) -> Answer {
        self.daemon.client().fetch(&request).expect("the front answers")
    }
}
