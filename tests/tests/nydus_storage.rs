//! Unchanged registry backends of nydusd 2.1 to 2.4 read a real RAFS blob through the front, each with the
//! configuration that `deploy/nydus/` gives to its users.
//!
//! nydusd turns to the registry silently when a front fails it, and then everything still works. So the
//! registry is counted to the byte, and where the configuration allows it the client's own registry has
//! nothing to give.

use std::ops::Range;
use std::path::Path;
use std::{iter, thread};

use darter::demo::registry::{self, RegistryOptions, Tally};
use darter_tests::cli::darter;
use darter_tests::nydus::{Config, Form, Places};
use darter_tests::{BLOCK_BYTES, Blob, Daemon, Io, Origin, on_both_io};
use fastrand::Rng;

use crate::nydus::client::{BlobClient, Nydusd};

mod nydus {
    pub(crate) mod client;
}

on_both_io!(
    nydusd_2_1_mirrors_auth_through,
    nydusd_2_1_mirrors_with_a_token,
    nydusd_2_3_mirrors_auth_through,
    nydusd_2_3_mirrors_as_deployed,
    nydusd_2_3_mirrors_with_a_token,
    nydusd_2_4_proxy,
    nydusd_2_4_as_darter_init_writes_it,
    nydusd_2_4_host,
    redirects_stay_behind_the_front,
    clients_at_once_cost_each_block_once,
    reads_go_on_when_the_front_is_gone,
);

/// What nydusd calls the blob of the sample image: its digest without `sha256:`.
const BLOB_ID: &str = "e85afb9ae5eecd08f395b9777442e2642fb94dc49bd2d92f7c0a2763cb419f40";
const SEED: u64 = 0x6e79_6475;

fn nydusd_2_1_mirrors_auth_through(io: Io) {
    check(io, Nydusd::V2_1, Form::Mirrors, Config::set_auth_through);
}

/// Without `auth_through`, 2.1 shows a mirror only requests that carry `Authorization`.
fn nydusd_2_1_mirrors_with_a_token(io: Io) {
    check(io, Nydusd::V2_1, Form::Mirrors, |config| config.add_registry_token("dummytoken"));
}

fn nydusd_2_3_mirrors_auth_through(io: Io) {
    check(io, Nydusd::V2_3, Form::Mirrors, Config::set_auth_through);
}

/// From 2.2.3 on the key `auth_through` is unknown, and everything goes to the mirror.
fn nydusd_2_3_mirrors_as_deployed(io: Io) {
    check(io, Nydusd::V2_3, Form::Mirrors, |_| {});
}

fn nydusd_2_3_mirrors_with_a_token(io: Io) {
    check(io, Nydusd::V2_3, Form::Mirrors, |config| config.add_registry_token("dummytoken"));
}

fn nydusd_2_4_proxy(io: Io) {
    check(io, Nydusd::V2_4, Form::Proxy, |_| {});
}

/// A nydusd that reads from its registry itself, until `darter init nydus` has written its configuration.
fn nydusd_2_4_as_darter_init_writes_it(io: Io) {
    let scene = Scene::start(io, RegistryOptions::default());
    let places = scene.places();
    let root = tempfile::tempdir().expect("a temporary directory can be made");
    let file = root.path().join("etc/nydus/nydusd-config.json");
    std::fs::create_dir_all(file.parent().expect("a directory")).expect("a directory can be made");
    let own = Config::deployed(Form::Proxy, &places).without_proxy().text();
    std::fs::write(&file, &own).expect("a file can be written");
    let root = root.path().to_str().expect("a plain path");
    let init = |more: &[&str]| {
        let ran = darter(&[&["init", "nydus", "--root", root], more].concat());
        assert_eq!(ran.status, 0, "{ran:?}");
    };
    init(&["--front", &places.front, "--admin", &places.admin]);
    let reads = boot(SEED, 12, scene.blob.len());
    let through_the_front = || scene.daemon.metrics().sum("darter_requests_total");
    scene.read(&scene.client(Nydusd::V2_4, &Config::of_file(&file)), &reads);
    let asked = through_the_front();
    assert!(asked > 0.0, "nydusd went past the front");
    assert_eq!(scene.origin.blob_bytes(), scene.blob.touched(reads.clone()));

    init(&["--undo"]);
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), own);
    scene.read(&scene.client(Nydusd::V2_4, &Config::of_file(&file)), &reads);
    assert_eq!(through_the_front(), asked, "nydusd still asks the front");
}

fn nydusd_2_4_host(io: Io) {
    check(io, Nydusd::V2_4, Form::Host, |_| {});
}

/// 2.1 would remember the redirect and never come back to the front.
fn redirects_stay_behind_the_front(io: Io) {
    let scene = Scene::start(io, RegistryOptions { redirect_blobs: true, ..RegistryOptions::default() });
    let mut config = Config::deployed(Form::Mirrors, &scene.places());
    config.set_auth_through();
    for nydusd in [Nydusd::V2_1, Nydusd::V2_3] {
        scene.read(&scene.client(nydusd, &config), &boot(SEED, 40, scene.blob.len()));
    }
    assert_eq!(scene.nothing.registry().counts().total(), Tally::default(), "went round the front");
}

/// Nine clients of three generations boot the same image on one node.
fn clients_at_once_cost_each_block_once(io: Io) {
    let scene = Scene::start(io, RegistryOptions::default());
    let mut mirrors = Config::deployed(Form::Mirrors, &scene.places());
    mirrors.set_auth_through();
    let proxy = Config::deployed(Form::Proxy, &scene.places());
    let crowd = [(Nydusd::V2_1, &mirrors), (Nydusd::V2_3, &mirrors), (Nydusd::V2_4, &proxy)];
    let boots: Vec<_> = (0..9).map(|client| boot(SEED + client, 60, scene.blob.len())).collect();
    thread::scope(|threads| {
        for (boot, (nydusd, config)) in boots.iter().zip(crowd.into_iter().cycle()) {
            let scene = &scene;
            threads.spawn(move || scene.read(&scene.client(nydusd, config), boot));
        }
    });
    assert_eq!(scene.origin.blob_bytes(), scene.blob.touched(boots.concat()));
}

/// The one thing that nydusd does well by itself, which the front must not spoil.
fn reads_go_on_when_the_front_is_gone(io: Io) {
    let mut scene = Scene::start(io, RegistryOptions::default());
    let places = Places { fallback: scene.origin.registry().host(), ..scene.places() };
    let mut mirrors = Config::deployed(Form::Mirrors, &places);
    mirrors.set_auth_through();
    let clients = [
        scene.client(Nydusd::V2_1, &mirrors),
        scene.client(Nydusd::V2_3, &mirrors),
        scene.client(Nydusd::V2_4, &Config::deployed(Form::Proxy, &places)),
    ];
    let boot = boot(SEED, 10, scene.blob.len());
    clients.iter().for_each(|client| scene.read(client, &boot[..1]));
    scene.daemon.kill9();
    clients.iter().for_each(|client| scene.read(client, &boot));
}

/// Reads through the front with a cold store, then with a new client and a warm one, and counts at the
/// registry.
fn check(io: Io, nydusd: Nydusd, form: Form, adapt: impl FnOnce(&mut Config)) {
    let scene = Scene::start(io, RegistryOptions::default());
    let mut config = Config::deployed(form, &scene.places());
    adapt(&mut config);

    let client = scene.client(nydusd, &config);
    assert_eq!(client.size(), scene.blob.len());
    let some = boot(SEED, 12, scene.blob.len());
    scene.read(&client, &some);
    let touched = scene.blob.touched(some.clone());
    assert!(touched < scene.blob.len() / 2, "these reads leave too little untouched to show anything");
    assert_eq!(scene.origin.blob_bytes(), touched, "the registry gave what nobody had asked for");

    let all = [some, boot(SEED + 1, 300, scene.blob.len()), sweep(scene.blob.len())].concat();
    scene.read(&client, &all);
    assert_eq!(scene.origin.blob_bytes(), scene.blob.len(), "the registry gave a block twice");

    scene.origin.forget();
    scene.read(&scene.client(nydusd, &config), &all);
    assert_eq!(
        scene.origin.registry().counts().blob_get,
        Tally::default(),
        "the warm front asked the registry"
    );
    assert_eq!(
        scene.nothing.registry().counts().total(),
        Tally::default(),
        "the client went round the front"
    );
}

/// A registry with the sample blob, a front before it, and a registry without anything.
struct Scene {
    blob: Blob,
    origin: Origin,
    nothing: Origin,
    daemon: Daemon,
}

impl Scene {
    fn start(io: Io, options: RegistryOptions) -> Self {
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nydus-tiny-v6/blobs").join(BLOB_ID);
        let (origin, nothing) = (Origin::with(options), Origin::start());
        let blob = origin.add(registry::Blob::file(&file).expect("the sample blob is a fixture"));
        // The rest of the blob would be fetched as well, and nothing could be counted.
        let daemon = Daemon::builder().over(io).origin(&origin).prefetch(false).start();
        Self { blob, origin, nothing, daemon }
    }

    fn places(&self) -> Places {
        Places {
            front: self.daemon.front().to_string(),
            admin: self.daemon.admin().to_string(),
            registry: self.origin.registry().host(),
            fallback: self.nothing.registry().host(),
        }
    }

    fn client(&self, nydusd: Nydusd, config: &Config) -> BlobClient {
        BlobClient::open(nydusd, config.backend(), BLOB_ID)
    }

    /// Reads all of `reads`, in order, and compares every byte.
    fn read(&self, client: &BlobClient, reads: &[Range<u64>]) {
        for read in reads {
            let expected = self.blob.bytes(read.clone());
            let got =
                client.read(read.start, expected.len()).unwrap_or_else(|error| panic!("{read:?}: {error}"));
            let wrong = got.iter().zip(&expected).position(|(got, right)| got != right);
            assert_eq!(wrong, None, "the first wrong byte within {read:?}");
        }
    }
}

/// `count` reads as a boot does them: the tail first, where RAFS has its tables, then anywhere, never
/// aligned, half of them below 11.5 KB. Then the edges of the blob and of a block.
fn boot(seed: u64, count: usize, blob_bytes: u64) -> Vec<Range<u64>> {
    let mut random = Rng::with_seed(seed);
    let mut anywhere = || {
        let len_max = match random.u8(0..40) {
            0 => 1 << 20,
            1..5 => 128 << 10,
            _ => 20_000,
        };
        let len = random.u64(1..=len_max);
        let start = random.u64(0..=blob_bytes - len);
        start..start + len
    };
    let tail = blob_bytes - 4_334..blob_bytes;
    let edges =
        [0..1, BLOCK_BYTES - 1..BLOCK_BYTES + 1, BLOCK_BYTES..2 * BLOCK_BYTES, blob_bytes - 1..blob_bytes];
    iter::once(tail).chain((0..count).map(|_| anywhere())).chain(edges).collect()
}

/// Every byte once, in reads that end nowhere in particular.
fn sweep(blob_bytes: u64) -> Vec<Range<u64>> {
    const STEP: usize = 100_003;
    let starts = (0..blob_bytes).step_by(STEP);
    starts.map(|start| start..(start + STEP as u64).min(blob_bytes)).collect()
}
