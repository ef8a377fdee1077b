//! The status page, in a real browser, at a node of a running cluster of three: what it shows is what is so.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use darter::demo::registry::{Faults, RegistryOptions};
use darter_tests::browser::{BROWSER, Browser, Screen};
use darter_tests::need::need;
use darter_tests::{Blob, Builder, Daemon, Origin, Request, Secrets, SetAtEnd, pause, wait_until};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that must come before the page is painted, heads of answers left out.
const FIRST_PAINT_BYTES_MAX: u64 = 100 << 10;
/// A name from outside that would be a picture with a script if it were taken for markup.
const ZONE: &str = "<img/src=x/onerror=alert(1)>";

const TAB: char = '\u{E004}';
const LEFT: char = '\u{E012}';
const SPACE: char = ' ';
const SCREENS: [(&str, Screen); 4] = [
    ("status-page-wide-light", Screen { width: 1440, height: 900, is_dark: false }),
    ("status-page-wide-dark", Screen { width: 1440, height: 900, is_dark: true }),
    ("status-page-phone-light", Screen { width: 390, height: 844, is_dark: false }),
    ("status-page-phone-dark", Screen { width: 390, height: 844, is_dark: true }),
];

/// Two seeds, so that the one that is looked at gets some contents from a registry and others from the second one; a
/// peer; and a registry that is not the quickest.
struct Scene {
    origin: Origin,
    shown: Daemon,
    seed: Daemon,
    peer: Daemon,
}

impl Scene {
    fn new() -> Scene {
        let slow = RegistryOptions { bandwidth_bytes_per_s: Some(24 << 20), ..RegistryOptions::default() };
        let (origin, secrets) = (Origin::with(slow), Secrets::init());
        let start = |node: Builder, zone: &str, stands: &str| {
            let node = node.origin(&origin).capacity("640MiB").flag("--zone", zone).shards(1).start();
            standing(&node, stands);
            node
        };
        let shown = start(secrets.seed().prefetch(false), "rack-1", "alone");
        let at = shown.peers()["node"]["address"].as_str().expect("an address").to_owned();
        let seed = start(secrets.seed().prefetch(false).flag("--join", &at), ZONE, "joined");
        let peer = start(secrets.peer(&at), "rack-2", "joined");
        standing(&shown, "joined");
        Scene { origin, shown, seed, peer }
    }
}

fn standing(daemon: &Daemon, standing: &str) -> Value {
    let mut last = Value::Null;
    let stands = || {
        last = daemon.peers();
        last["standing"] == standing
    };
    wait_until(PATIENCE, stands, || format!("the node is not {standing}"));
    last
}

fn page_of(daemon: &Daemon) -> String {
    format!("http://{}/", daemon.admin())
}

fn status_of(daemon: &Daemon) -> Value {
    let answer = daemon.admin_client().fetch(&Request::get("/api/v1/status")).expect("the node answers");
    assert_eq!(answer.status(), 200);
    serde_json::from_slice(&answer.body).expect("JSON")
}

/// On a machine that stands still, a request may fail that should not; after a minute that is past.
fn wait_until_well(browser: &Browser) {
    let is_well = || browser.run("return document.body.dataset.verdict") == "well";
    wait_until(3 * PATIENCE, is_well, || format!("not all is well: {}", browser.text("#concerns")));
}

fn read(daemon: &Daemon, blob: &Blob) {
    blob.read(&mut daemon.client(), blob.whole())
        .unwrap_or_else(|error| panic!("{}: {error}", blob.digest()));
}

#[test]
fn what_flows_is_seen_on_every_screen() {
    if !need("what_flows_is_seen_on_every_screen", &BROWSER) {
        return;
    }
    let scene = Scene::new();
    let Scene { origin, shown, seed, peer } = &scene;
    // Held by others before it is asked for here; held here; and a part of one.
    let held: Vec<Blob> = (0..4).map(|number| origin.blob(number, (2 + 5 * number) * MIB + 4321)).collect();
    held.iter().for_each(|blob| read(peer, blob));
    held.iter().take(3).for_each(|blob| read(shown, blob));
    let part = origin.blob(90, 20 * MIB);
    for at in [0, 3, 4, 11, 17] {
        part.read(&mut shown.client(), at * MIB..at * MIB + 300_000).expect("a part can be read");
    }
    let missing = Blob::synthetic(1234, 10);
    let refused = shown.client().fetch(&missing.get()).expect("the front answers");
    assert_eq!(refused.status(), 404, "the registry has no such blob");

    let browser = Browser::start();
    browser.screen(SCREENS[0].1);
    browser.go_to(&page_of(shown));
    browser.wait_until("document.body.dataset.verdict !== 'unknown'");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = SetAtEnd(&stop);
        // Something always comes in, from the registry and from the other seed, and something is always hit.
        scope.spawn(|| {
            for number in (1000..).take_while(|_| !stop.load(Ordering::SeqCst)) {
                let blob = origin.blob(number, 24 * MIB);
                read(shown, &blob);
                read(if number % 2 == 0 { peer } else { seed }, &blob);
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                read(shown, &held[0]);
                pause(Duration::from_millis(40));
            }
        });
        browser.wait_until("document.querySelector('.contents .is-coming .bar .coming') !== null");
        browser.wait_until("document.querySelector('#cluster .link.peers.flows') !== null");
        browser.wait_until("document.querySelector('#cluster .link.origin.flows') !== null");
        browser.wait_until("document.querySelector('#cluster .link.given.flows') !== null");
        // The plot has something to show.
        browser
            .wait_until("document.querySelectorAll('#plot .area.cache')[0].getAttribute('d').length > 200");
        pause(Duration::from_secs(12));
        for (name, screen) in SCREENS {
            browser.screen(screen);
            pause(Duration::from_millis(1500));
            println!("{}", browser.keep_picture(name).display());
            let overflow = browser.run("return document.documentElement.scrollWidth - innerWidth");
            assert_eq!(overflow, 0, "{name}: something is wider than the screen");
        }
    });
    browser.screen(SCREENS[0].1);
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn what_fails_is_said_in_plain_words() {
    if !need("what_fails_is_said_in_plain_words", &BROWSER) {
        return;
    }
    let origin = Origin::start();
    let daemon = Daemon::builder().origin(&origin).capacity("64MiB").start();
    let (held, lost) = (origin.blob(1, 2 * MIB), origin.blob(2, MIB));
    read(&daemon, &held);
    let browser = Browser::start();
    browser.screen(SCREENS[0].1);
    browser.go_to(&page_of(&daemon));
    wait_until_well(&browser);
    origin.faults(Faults { status: Some(500), ..Faults::default() });
    let answer = daemon.client().fetch(&lost.get()).expect("the front answers");
    assert_eq!(answer.status(), 502);
    browser.wait_until("document.body.dataset.verdict === 'error'");
    assert_eq!(browser.text("h1"), "Needs attention");
    let concern = browser.text("#concerns li.error");
    assert!(
        concern.contains(
            "1 of 2 requests of the last minute failed, the last one because the registry answered 500"
        ),
        "{concern}"
    );
    browser.wait_until("document.querySelector('#request-list .failed .trouble') !== null");
    let trouble = browser.text("#request-list .failed .trouble");
    assert!(trouble.contains("500"), "{trouble}");
    browser.keep_picture("status-page-trouble");
    assert_eq!(browser.complaints(), [""; 0]);
}

/// What the page has loaded, but for its data: names and bytes.
const LOADED: &str = "return performance.getEntries()
    .filter((entry) => ['navigation', 'resource'].includes(entry.entryType) && !entry.name.includes('/api/'))
    .map((entry) => [entry.name, entry.encodedBodySize])";

#[test]
fn it_is_small_complete_and_loads_nothing_from_elsewhere() {
    if !need("it_is_small_complete_and_loads_nothing_from_elsewhere", &BROWSER) {
        return;
    }
    let scene = Scene::new();
    let shown = &scene.shown;
    let (blob, another) = (scene.origin.blob(7, 3 * MIB), scene.origin.blob(8, 3 * MIB));
    read(shown, &blob);
    read(shown, &another);

    let browser = Browser::start();
    browser.screen(SCREENS[0].1);
    browser.go_to(&page_of(shown));
    wait_until_well(&browser);
    let loaded = browser.run(LOADED);
    let loaded = loaded.as_array().expect("a list");
    let bytes: u64 = loaded.iter().map(|entry| entry[1].as_u64().expect("bytes")).sum();
    println!("first paint: {bytes} bytes in {} files", loaded.len());
    assert!((10_000..=FIRST_PAINT_BYTES_MAX).contains(&bytes), "{loaded:?}");
    for entry in loaded {
        assert!(entry[0].as_str().is_some_and(|name| name.starts_with(&page_of(shown))), "{entry}");
    }
    assert_eq!(browser.text("h1"), "All is well");
    let status = status_of(shown);
    assert!(browser.text("#node").contains(&status["node"]["id"].as_str().expect("an id")[..12]));
    assert_eq!(browser.run("return document.querySelectorAll('#content-list > li').length"), 2);
    assert!(browser.text("#content-list").contains("verified"));
    assert!(browser.text("#request-list").contains(&blob.digest()["sha256:".len()..][..12]));

    // A name from outside is a text and nothing else.
    browser.run("document.querySelector('#cluster-details').open = true");
    browser.wait_until("document.querySelectorAll('#nodes tr').length >= 1");
    let has_zone = format!("document.querySelector('#nodes').textContent.includes({:?})", ZONE);
    browser.wait_until(&has_zone);
    assert_eq!(browser.run("return document.querySelectorAll('img, script:not([src])').length"), 0);

    // What a page of somebody else's could try from within: the policy forbids it.
    let forbidden = browser.run(
        "const made = document.createElement('script'); made.textContent = 'window.ran = true'; document.body.append(made);
         return window.ran === undefined",
    );
    assert_eq!(forbidden, true);
    let complaints = browser.complaints();
    assert!(complaints.len() == 1 && complaints[0].contains("Content Security Policy"), "{complaints:?}");
}

#[test]
fn a_keyboard_is_enough() {
    if !need("a_keyboard_is_enough", &BROWSER) {
        return;
    }
    let scene = Scene::new();
    let shown = &scene.shown;
    let (known, missing) = (scene.origin.blob(5, MIB), Blob::synthetic(6, 10));
    read(shown, &known);
    shown.client().fetch(&missing.get()).expect("the front answers");
    let browser = Browser::start();
    browser.screen(SCREENS[0].1);
    browser.go_to(&page_of(shown));
    // Two rounds, so that the plot has points.
    browser.wait_until("Number(document.body.dataset.rounds) >= 3");
    let focused = || browser.run("return document.activeElement.id || document.activeElement.className");
    let mut order = Vec::new();
    for _ in 0..5 {
        browser.press(TAB);
        order.push(focused().as_str().expect("a name").to_owned());
    }
    assert_eq!(order[..2], ["skip", "plot"], "{order:?}");
    assert!(order.iter().any(|name| name == "only-trouble"), "{order:?}");
    browser.run("document.getElementById('plot').focus()");
    let before = browser.text("#plot-reading");
    browser.press(LEFT);
    assert_ne!(browser.text("#plot-reading"), before, "an arrow key reads a second of the plot");
    let outlined = browser.run("return getComputedStyle(document.activeElement).outlineStyle");
    assert_eq!(outlined, "solid", "where the focus is must be seen");

    let fates = || {
        browser
            .run("return [...document.querySelectorAll('#request-list > li')].map((item) => item.className)")
    };
    let fates = || -> Vec<String> { serde_json::from_value(fates()).expect("classes") };
    assert!(fates().iter().any(|fate| fate == "fetched"), "{:?}", fates());
    browser.run("document.getElementById('only-trouble').focus()");
    browser.press(SPACE);
    assert!(
        !fates().is_empty() && fates().iter().all(|fate| fate == "refused" || fate == "failed"),
        "{:?}",
        fates()
    );
    assert!(browser.text("#request-list").contains("404"));
    // What a picture shows is said, too.
    let unnamed = browser.run(
        "return [...document.querySelectorAll('[role=img]')].filter((picture) => !picture.ariaLabel?.length).length",
    );
    assert_eq!(unnamed, 0);
    assert_eq!(browser.complaints(), [""; 0]);
}

/// Answers of the daemon's API since the page was loaded.
const ASKED: &str =
    "return performance.getEntriesByType('resource').filter((entry) => entry.name.includes('/api/')).length";
const HIDE: &str =
    "Object.defineProperty(document, 'hidden', { get: () => window.isHidden, configurable: true });
    window.isHidden = true; document.dispatchEvent(new Event('visibilitychange'));";
const SHOW: &str = "window.isHidden = false; document.dispatchEvent(new Event('visibilitychange'));";

#[test]
fn nobody_is_asked_while_nobody_looks_and_a_lost_node_is_said() {
    if !need("nobody_is_asked_while_nobody_looks_and_a_lost_node_is_said", &BROWSER) {
        return;
    }
    let origin = Origin::start();
    let mut daemon = Daemon::builder().origin(&origin).capacity("64MiB").start();
    let browser = Browser::start();
    browser.screen(SCREENS[2].1);
    browser.go_to(&page_of(&daemon));
    // Something is listed, that no other daemon has been asked.
    let refuse = |daemon: &Daemon| {
        daemon.client().fetch(&Blob::synthetic(6, 10).get()).expect("the front answers");
        browser.wait_until("document.querySelector('#request-list .refused') !== null");
    };
    let nothing_is_listed =
        || browser.wait_until("document.querySelector('#request-list .refused') === null");
    refuse(&daemon);
    browser.wait_until("Number(document.body.dataset.rounds) >= 3");
    assert!(browser.text("#cluster-note").contains("in no cluster"));
    browser.run(HIDE);
    // What was asked before may still be answered; then nothing more is.
    let asked = || browser.run(ASKED).as_u64();
    let is_still = || {
        let before = asked();
        pause(Duration::from_secs(3));
        asked() == before
    };
    wait_until(PATIENCE, is_still, || "somebody asks though nobody looks".into());
    let before = asked();
    browser.run(SHOW);
    wait_until(PATIENCE, || asked() > before, || "nobody asks again".into());

    daemon.stop();
    browser.wait_until("document.body.dataset.verdict === 'lost'");
    assert_eq!(browser.text("h1"), "The node does not answer");
    browser.keep_picture("status-page-lost");
    daemon.restart();
    wait_until_well(&browser);
    nothing_is_listed();
    refuse(&daemon);
    browser.run(HIDE);
    daemon.stop();
    daemon.restart();
    browser.run(SHOW);
    nothing_is_listed();
}
