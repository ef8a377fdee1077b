//! Profiles of a daemon that works: `go tool pprof` could read them, they name darter's functions, and nobody who is
//! served meanwhile notices.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use darter_tests::{Answer, Client, Daemon, Io, Origin, Request, free_at_localhost, on_both_io};
use flate2::read::GzDecoder;
use prost::Message;

on_both_io!(
    a_profile_names_what_the_daemon_does,
    nobody_who_is_served_notices,
    a_profile_of_the_heap_tells_who_has_it
);

const KINDS: [(&str, &str); 4] = [
    ("alloc_objects", "count"),
    ("alloc_space", "bytes"),
    ("inuse_objects", "count"),
    ("inuse_space", "bytes"),
];
const MIB: u64 = 1 << 20;
const CPU: &str = "/debug/pprof/profile";
const HEAP: &str = "/debug/pprof/heap";

/// `perftools.profiles.Profile`, as far as it is looked at; numbers are those of google/pprof's `profile.proto`.
#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    text: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    memory_start: u64,
    #[prost(uint64, tag = "3")]
    memory_limit: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
}

impl Profile {
    fn of(answer: &Answer) -> Profile {
        assert_eq!(answer.status(), 200, "{}", String::from_utf8_lossy(&answer.body));
        let mut bytes = Vec::new();
        GzDecoder::new(&*answer.body).read_to_end(&mut bytes).expect("it is compressed by gzip");
        Profile::decode(&*bytes).expect("it is a profile")
    }

    fn text(&self, index: i64) -> &str {
        &self.string_table[usize::try_from(index).expect("an index")]
    }

    /// Names of a sample's functions, innermost first.
    fn stack(&self, sample: &Sample) -> Vec<&str> {
        let locations = sample.location_id.iter().map(|id| {
            self.location.iter().find(|location| location.id == *id).expect("a location of each id")
        });
        let ids = locations.flat_map(|location| &location.line).map(|line| line.function_id);
        ids.map(|id| {
            let function = self.function.iter().find(|function| function.id == id);
            self.text(function.expect("a function of each id").name)
        })
        .collect()
    }

    fn count(&self) -> i64 {
        self.sample.iter().map(|sample| sample.value[0]).sum()
    }

    /// What must be so of each profile of processor time.
    fn check_cpu(&self, hz: i64) {
        assert_eq!(self.types(), [("samples", "count"), ("cpu", "nanoseconds")]);
        assert_eq!(self.period, 1_000_000_000 / hz);
        assert_eq!(self.period_type.as_ref(), self.sample_type.get(1));
        assert!(self.duration_nanos > 0);
        for sample in &self.sample {
            assert!(sample.value[0] > 0 && sample.value[1] == sample.value[0] * self.period, "{sample:?}");
            assert_eq!(self.text(sample.label[0].key), "thread");
        }
        self.check();
    }

    fn types(&self) -> Vec<(&str, &str)> {
        self.sample_type.iter().map(|kind| (self.text(kind.kind), self.text(kind.unit))).collect()
    }

    /// What must be so of each profile.
    fn check(&self) {
        assert_eq!(self.string_table[0], "");
        assert!(self.time_nanos > 0);
        for location in &self.location {
            let Some(mapping) = self.mapping.iter().find(|mapping| mapping.id == location.mapping_id) else {
                assert_eq!(location.mapping_id, 0, "{location:?}");
                continue;
            };
            assert!((mapping.memory_start..mapping.memory_limit).contains(&location.address), "{location:?}");
        }
        let own = self.mapping.iter().find(|mapping| self.text(mapping.filename).ends_with("/darter"));
        assert!(own.expect("the binary is mapped").has_functions);
    }
}

/// A daemon that takes profiles, and where.
fn start(origin: &Origin, io: Io) -> (Daemon, SocketAddr) {
    let profiles = free_at_localhost();
    let builder = Daemon::builder().origin(origin).config(&format!("pprofPort: {}\n", profiles.port()));
    let builder = if io == Io::Auto { builder } else { builder.over(io) };
    (builder.start(), profiles)
}

fn ask(port: SocketAddr, target: &str) -> Answer {
    Client::new(port).fetch(&Request::get(target)).expect("the port for profiles answers")
}

/// Reads a content again and again on some connections, while `meanwhile` goes on; returns how often.
fn under_load<T>(daemon: &Daemon, origin: &Origin, meanwhile: impl FnOnce() -> T) -> (T, u64) {
    let blob = origin.blob(1, 8 * MIB);
    let (over, read) = (AtomicBool::new(false), AtomicU64::new(0));
    let outcome = thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut client = daemon.client();
                while !over.load(Ordering::Relaxed) {
                    // Every byte is compared.
                    blob.read(&mut client, blob.whole()).expect("a whole answer");
                    read.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let outcome = meanwhile();
        over.store(true, Ordering::Relaxed);
        outcome
    });
    (outcome, read.into_inner())
}

fn a_profile_names_what_the_daemon_does(io: Io) {
    let origin = Origin::start();
    let (daemon, port) = start(&origin, io);
    let begun = Instant::now();
    let (answer, read) = under_load(&daemon, &origin, || ask(port, &format!("{CPU}?seconds=2&hz=250")));
    assert!(begun.elapsed() >= Duration::from_secs(2), "it lasts as long as was asked for");
    assert_eq!(answer.header("Content-Type"), Some("application/octet-stream"));
    let profile = Profile::of(&answer);
    profile.check_cpu(250);
    assert!(read > 0);
    assert!(profile.count() >= 5, "{} samples of a daemon that works", profile.count());
    let of_shards = |sample: &&Sample| profile.text(sample.label[0].text).starts_with("darter-shard-");
    let of_shards: Vec<_> = profile.sample.iter().filter(of_shards).collect();
    assert!(!of_shards.is_empty(), "shards are seen");
    // A shard's stack leads from what it does at the moment out to where its thread begins.
    let whole = of_shards.iter().filter(|sample| {
        let stack = profile.stack(sample);
        let (inner, outer) = stack.split_at(stack.len().min(1));
        !inner.is_empty() && outer.iter().any(|name| name.contains("darter::shard::"))
    });
    let stacks = || of_shards.iter().map(|sample| profile.stack(sample)).collect::<Vec<_>>();
    assert!(whole.count() > 0, "{:#?}", stacks());
}

/// Who has allocated what since the start, and what of it is there.
fn a_profile_of_the_heap_tells_who_has_it(io: Io) {
    let origin = Origin::start();
    let (daemon, port) = start(&origin, io);
    let (answers, read) = under_load(&daemon, &origin, || [ask(port, HEAP), ask(port, HEAP)]);
    assert!(read > 0);
    let [first, second] = answers.map(|answer| Profile::of(&answer));
    for profile in [&first, &second] {
        assert_eq!(profile.types(), KINDS);
        assert_eq!(profile.period, 512 << 10);
        for sample in &profile.sample {
            let [objects, bytes, objects_in_use, bytes_in_use] = sample.value[..] else {
                panic!("{sample:?}")
            };
            assert!(objects >= objects_in_use && bytes >= bytes_in_use && bytes > 0, "{sample:?}");
        }
        profile.check();
    }
    let sum = |profile: &Profile, kind: usize| profile.sample.iter().map(|it| it.value[kind]).sum::<i64>();
    assert!(sum(&second, 1) >= sum(&first, 1), "all that was ever allocated does not become less");
    assert!(
        !second
            .sample
            .iter()
            .any(|it| second.stack(it).iter().any(|name| name.contains("darter::profiles::heap")))
    );
    // What copies for slow readers are made in is there from the start, and is one allocation.
    let is_of_copies =
        |sample: &&Sample| second.stack(sample).iter().any(|name| name.contains("Copies::within"));
    let copies = second.sample.iter().find(is_of_copies).expect("what is so large is sampled");
    assert!(copies.value[2] == 1 && copies.value[3] >= MIB as i64, "{copies:?}");
}

/// Profile upon profile, as often as can be: each byte is right, and no request fails.
fn nobody_who_is_served_notices(io: Io) {
    let origin = Origin::start();
    let (mut daemon, port) = start(&origin, io);
    let (samples, read) = under_load(&daemon, &origin, || {
        (0..4).map(|_| Profile::of(&ask(port, &format!("{CPU}?seconds=1&hz=250"))).count()).sum::<i64>()
    });
    assert!(samples > 0 && read > 0, "{samples} samples, {read} contents read");
    assert!(daemon.running());
    daemon.stop();
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

#[test]
fn nobody_listens_unless_it_is_configured() {
    let daemon = Daemon::builder().registry("http://127.0.0.1:1").start();
    let answer = daemon.admin_client().fetch(&Request::get(CPU)).expect("the admin port answers");
    assert_eq!(answer.status(), 404, "nor are they at the admin port");
    let shown = darter_tests::cli::darter(&["config", "show", "--json"]).json();
    let rows = shown["settings"].as_array().expect("a list");
    let row = rows.iter().find(|row| row["key"] == "pprofPort").expect("the key is shown");
    assert_eq!(row["value"], "-1");
}

#[test]
fn it_is_on_loopback_although_others_are_not() {
    let profiles = free_at_localhost();
    let config = format!("pprofPort: {}\n", profiles.port());
    let daemon = Daemon::builder().registry("http://127.0.0.1:1").config(&config).start();
    // A daemon of a test has an address of its own in 127.0.0.0/8: there is nobody at that.
    assert!(TcpStream::connect((daemon.admin().ip(), profiles.port())).is_err());
    assert_eq!(ask(profiles, "/debug/pprof/").status(), 200);
}

#[test]
fn a_wrong_question_is_told_what_is_allowed() {
    let origin = Origin::start();
    let (_daemon, port) = start(&origin, Io::Auto);
    for (target, status, words) in [
        ("/debug/pprof/", 200, "go tool pprof"),
        ("/debug/pprof/allocs", 404, "/debug/pprof/heap"),
        ("/", 404, "/debug/pprof/profile"),
        (
            "/debug/pprof/profile?seconds=0",
            400,
            "seconds: \"0\" is not allowed; allowed: a whole number, 1 to 60",
        ),
        ("/debug/pprof/profile?seconds=61", 400, "1 to 60"),
        ("/debug/pprof/profile?seconds=ten", 400, "1 to 60"),
        ("/debug/pprof/profile?seconds=1&hz=1000", 400, "hz: \"1000\" is not allowed"),
    ] {
        let answer = ask(port, target);
        let said = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status(), status, "{target}: {said}");
        assert!(said.contains(words), "{target}: {said}");
    }
    let posted = Client::new(port).fetch(&Request::post(CPU)).expect("an answer");
    assert_eq!((posted.status(), posted.header("Allow")), (405, Some("GET")));
    let rebound = Request::get(CPU).header("Host", "evil.example");
    assert_eq!(Client::new(port).fetch(&rebound).expect("an answer").status(), 403);
}

#[test]
fn one_at_a_time_and_who_hangs_up_ends_his() {
    let origin = Origin::start();
    let (daemon, port) = start(&origin, Io::Auto);
    let first = thread::spawn(move || ask(port, &format!("{CPU}?seconds=2")));
    darter_tests::wait_until(
        Duration::from_secs(30),
        || daemon.log().contains("a profile is being taken"),
        || "no profile is begun".into(),
    );
    let second = ask(port, &format!("{CPU}?seconds=1"));
    let said = String::from_utf8_lossy(&second.body).into_owned();
    assert_eq!((second.status(), second.header("Retry-After")), (503, Some("1")), "{said}");
    assert!(said.contains("try again when that has ended"), "{said}");
    assert_eq!(first.join().expect("it ends").status(), 200, "the first one is not disturbed");

    // A minute is asked for, and nobody waits.
    let mut asking = TcpStream::connect(port).expect("it can be connected to");
    let request = format!("GET {CPU}?seconds=60 HTTP/1.1\r\nHost: {port}\r\n\r\n");
    asking.write_all(request.as_bytes()).expect("it can be asked");
    let begun = |times: usize| daemon.log().matches("a profile is being taken").count() >= times;
    darter_tests::wait_until(Duration::from_secs(30), || begun(2), || "no profile is begun".into());
    assert_eq!(ask(port, &format!("{CPU}?seconds=1")).status(), 503);
    drop(asking);
    darter_tests::wait_until(
        Duration::from_secs(30),
        || ask(port, &format!("{CPU}?seconds=1")).status() == 200,
        || "the place is not free again".into(),
    );
}
