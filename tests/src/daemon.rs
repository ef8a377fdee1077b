//! The real `darter serve`, as a child process with ports and a directory of its own.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::cli::NO_FILES_HERE;
use crate::net::{Host, Namespace, Network, RUN_MARK};
use crate::{Client, MemoryCgroup, Metrics, Origin, Request, wait_until};

/// How long a start may take, also after a kill -9: part of the daemon's promise.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// How long an orderly stop may take: it lets running answers end.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);

/// Debian's, of the package `libfaketime`.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// What moves bytes between slabs and sockets: `--io`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Io {
    /// The daemon probes and chooses.
    #[default]
    Auto,
    /// io_uring.
    Ring,
    /// Blocking calls on a pool of threads.
    Pool,
}

impl Io {
    /// As the flag and the daemon's log write it.
    pub fn name(self) -> &'static str {
        match self {
            Io::Auto => "auto",
            Io::Ring => "ring",
            Io::Pool => "pool",
        }
    }
}

/// How a daemon is to be started. What is not said is left to the daemon's own defaults, except that each
/// daemon gets addresses and a data directory of its own and a small capacity.
#[derive(Clone, Debug)]
pub struct Builder {
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    capacity: String,
    config: Option<String>,
    clock: Option<PathBuf>,
    data_dir: Option<PathBuf>,
    deny_io_uring: bool,
    deny_landlock: bool,
    binary: Option<PathBuf>,
    expected_io: Option<Io>,
    under: Vec<String>,
    place: Option<Place>,
    admin_ip: Option<IpAddr>,
}

/// Where a daemon lives that does not live beside its test.
#[derive(Clone, Debug)]
struct Place {
    namespace: Namespace,
    directory: PathBuf,
}

impl Builder {
    /// The registry for requests that name none, allowed although it is on loopback.
    pub fn registry(self, url: &str) -> Builder {
        let host = url.split_once("://").map_or(url, |(_, host)| host).trim_end_matches('/').to_owned();
        self.flag("--registry", url).allow_registry(&host)
    }

    /// The registry of the scenario for requests that name none, and where it redirects to.
    pub fn origin(self, origin: &Origin) -> Builder {
        let storage = origin.registry().storage_host();
        storage.iter().fold(self.registry(&origin.url()), |builder, host| builder.allow_registry(host))
    }

    /// One more registry, `HOST[:PORT]`, that the destination guard lets pass.
    pub fn allow_registry(self, host: &str) -> Builder {
        self.flag("--allow-registry", host)
    }

    /// How much may be kept, as in the configuration: `64MiB`.
    pub fn capacity(mut self, capacity: &str) -> Builder {
        self.capacity = capacity.to_owned();
        self
    }

    /// Whether the rest of a blob is fetched once a part of it has been read.
    pub fn prefetch(self, prefetch: bool) -> Builder {
        self.flag("--prefetch", &prefetch.to_string())
    }

    /// How many cores serve.
    pub fn shards(self, shards: u16) -> Builder {
        self.flag("--shards", &shards.to_string())
    }

    /// A configuration file with this text. It lies beside the data directory.
    pub fn config(mut self, text: &str) -> Builder {
        self.config = Some(text.to_owned());
        self
    }

    /// With the clock of `libfaketime`: it is ahead by what the file says, `+600` for example, and is looked up each
    /// time the daemon asks how late it is.
    pub fn clock(mut self, file: impl Into<PathBuf>) -> Builder {
        self.clock = Some(file.into());
        // The library opens its file again and again, wherever it is.
        self.flag("--sandbox", "off")
    }

    /// Which I/O the daemon is told to use.
    pub fn io(self, io: Io) -> Builder {
        self.flag("--io", io.name())
    }

    /// On this I/O in earnest. For the pool, io_uring is refused to the child, and the daemon must find that
    /// out by itself. The start fails when the daemon then says that it uses the other.
    pub fn over(self, io: Io) -> Builder {
        let denied = io == Io::Pool;
        let chosen = self.io(if denied { Io::Auto } else { io }).deny_io_uring(denied);
        Builder { expected_io: Some(io), ..chosen }
    }

    /// Whether the child runs under a seccomp filter that refuses io_uring, as in a container.
    pub fn deny_io_uring(mut self, deny: bool) -> Builder {
        self.deny_io_uring = deny;
        self
    }

    /// As on a kernel without Landlock.
    pub fn without_landlock(mut self) -> Builder {
        self.deny_landlock = true;
        self
    }

    /// Another binary than the one that was built.
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Builder {
        self.binary = Some(path.into());
        self
    }

    /// With so many open files at most. Needs `prlimit`.
    pub fn open_files(mut self, files: u32) -> Builder {
        self.under.extend(["prlimit".to_owned(), format!("--nofile={files}:{files}")]);
        self
    }

    /// In that cgroup from its first instruction on.
    pub fn within(mut self, cgroup: &MemoryCgroup) -> Builder {
        let procs = cgroup.procs().display().to_string();
        self.under.extend(["sh", "-c", "echo $$ > \"$0\" && exec \"$@\""].map(str::to_owned));
        self.under.push(procs);
        self
    }

    /// Where content is kept, instead of a temporary directory. It outlives the daemon.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Builder {
        self.data_dir = Some(path.into());
        self
    }

    /// On a host of a network. Its front and its admin port are on that host's loopback.
    pub fn on(mut self, network: &Network, host: &Host) -> Builder {
        let directory = network.directory().to_owned();
        self.environment.push((RUN_MARK.to_owned(), directory.display().to_string()));
        self.place = Some(Place { namespace: host.namespace().clone(), directory });
        self
    }

    /// With its admin port at that address, where other machines may reach it.
    pub fn admin_on(mut self, address: IpAddr) -> Builder {
        self.admin_ip = Some(address);
        self
    }

    /// Any further flag of `darter serve`.
    pub fn flag(mut self, name: &str, value: &str) -> Builder {
        self.flags.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// Any further flag of `darter serve` without a value.
    pub fn switch(mut self, name: &str) -> Builder {
        self.flags.push(name.to_owned());
        self
    }

    /// A variable of the environment; by default there are no proxies in it.
    pub fn env(mut self, name: &str, value: &str) -> Builder {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the daemon and waits until it serves.
    ///
    /// # Panics
    /// When the binary is missing, or the daemon ends or is not ready within 20 s.
    pub fn start(self) -> Daemon {
        let mut daemon = self.spawn();
        daemon.wait_until_ready();
        if let Some(io) = daemon.builder.expected_io {
            let used = format!("io=\"{}\"", io.name());
            let build = daemon.metrics().sum_where("darter_build_info", &[&used]);
            assert_eq!(build, 1.0, "the daemon does not use {used}");
        }
        daemon
    }

    /// Starts a daemon that is expected to refuse, and waits for it to end.
    ///
    /// # Panics
    /// When it is still running after 20 s.
    pub fn start_refused(self) -> (ExitStatus, String) {
        let mut daemon = self.spawn();
        let status = daemon.wait(READY_WITHIN);
        (status, daemon.log())
    }

    fn spawn(self) -> Daemon {
        let below = self.place.as_ref().map_or_else(env::temp_dir, |place| place.directory.clone());
        let home = TempDir::with_prefix_in("darter-test-", below).expect("a temporary directory can be made");
        let data_dir = self.data_dir.clone().unwrap_or_else(|| home.path().join("data"));
        let admin = match self.admin_ip {
            Some(ip) => SocketAddr::new(ip, free_port()),
            None => free_address(),
        };
        let front = free_address();
        let child = command(&self, &data_dir, front, admin, home.path());
        Daemon { builder: self, home, data_dir, front, admin, child }
    }
}

/// Makes two tests of each scenario, a function of [`Io`](crate::Io): with io_uring, and with io_uring
/// refused by a seccomp filter.
#[macro_export]
macro_rules! on_both_io {
    ($($scenario:ident),* $(,)?) => {
        mod ring {
            $(#[test]
            fn $scenario() {
                let test = concat!("ring::", stringify!($scenario));
                if $crate::need::need(test, &[$crate::need::Need::IoUring]) {
                    super::$scenario($crate::Io::Ring);
                }
            })*
        }
        mod pool {
            $(#[test]
            fn $scenario() {
                super::$scenario($crate::Io::Pool);
            })*
        }
    };
}

/// A running `darter serve`. Dropped, it is killed by its own process id; dropped by a test that fails, it
/// shows its log.
#[derive(Debug)]
pub struct Daemon {
    builder: Builder,
    home: TempDir,
    data_dir: PathBuf,
    front: SocketAddr,
    admin: SocketAddr,
    child: Child,
}

impl Daemon {
    /// A daemon to be, with a capacity of 256 MiB.
    pub fn builder() -> Builder {
        Builder {
            flags: Vec::new(),
            environment: Vec::new(),
            capacity: "256MiB".to_owned(),
            config: None,
            clock: None,
            data_dir: None,
            deny_io_uring: false,
            deny_landlock: false,
            binary: None,
            expected_io: None,
            under: Vec::new(),
            place: None,
            admin_ip: None,
        }
    }

    /// A front and an admin port for a daemon that somebody else starts.
    pub fn free_addresses() -> (SocketAddr, SocketAddr) {
        let host = own_loopback_address();
        (SocketAddr::new(host, free_port()), SocketAddr::new(host, free_port()))
    }

    /// Where clients read.
    pub fn front(&self) -> SocketAddr {
        self.front
    }

    /// Where `/server/ping` and `/metrics` are.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Where content is kept.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A new client of the front.
    pub fn client(&self) -> Client {
        self.client_of(self.front)
    }

    /// A new client of the admin port.
    pub fn admin_client(&self) -> Client {
        self.client_of(self.admin)
    }

    /// What the daemon has printed so far, over all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).expect("the log of the daemon can be read")
    }

    /// Where that is written.
    pub fn log_path(&self) -> PathBuf {
        self.log_file()
    }

    /// The configuration file of a daemon that has one.
    pub fn config_path(&self) -> PathBuf {
        config_file(self.home.path())
    }

    /// Edits the configuration file, which the daemon was started with. It is to be told of that.
    pub fn reconfigure(&mut self, text: &str) {
        fs::write(self.config_path(), text).expect("the configuration can be written");
        self.builder.config = Some(text.to_owned());
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A size of it in KiB, as the kernel counts and names it: `VmHWM`, the most that was ever resident, or `RssAnon`,
    /// what is resident now and no file's.
    ///
    /// # Panics
    /// When it does not run, or the kernel has no such size.
    pub fn memory_kib(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("a child's status can be read");
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let size = line.and_then(|size| size.trim().trim_end_matches(" kB").parse().ok());
        size.unwrap_or_else(|| panic!("no {name} in {status}"))
    }

    /// What it has open now: files by their paths, and other things as `/proc` names them.
    ///
    /// # Panics
    /// When it does not run.
    pub fn open_files(&self) -> Vec<PathBuf> {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("a child's files can be listed");
        // One that is closed meanwhile has no name any more.
        open.filter_map(|file| fs::read_link(file.ok()?.path()).ok()).collect()
    }

    /// A scrape of `/metrics`.
    pub fn metrics(&self) -> Metrics {
        let answer = self.admin_client().fetch(&Request::get("/metrics")).expect("/metrics answers");
        assert_eq!(answer.status(), 200, "/metrics");
        Metrics::parse(std::str::from_utf8(&answer.body).expect("metrics are text"))
    }

    /// Stops in order, with SIGTERM.
    ///
    /// # Panics
    /// When it does not end within 60 s, or with anything but 0.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait(STOPPED_WITHIN);
        assert!(status.success(), "SIGTERM ended the daemon with {status}");
    }

    /// Ends it at once, as a crash would.
    pub fn kill9(&mut self) {
        self.signal(Signal::KILL);
        self.wait(STOPPED_WITHIN);
    }

    /// Starts it again after [`Daemon::stop`] or [`Daemon::kill9`], on the same addresses and the same
    /// directory. Returns how long it took to be ready.
    pub fn restart(&mut self) -> Duration {
        assert!(!self.running(), "stop it before you restart it");
        self.child = command(&self.builder, &self.data_dir, self.front, self.admin, self.home.path());
        self.wait_until_ready()
    }

    /// As [`Daemon::restart`], with another binary from now on.
    pub fn restart_as(&mut self, binary: &Path) -> Duration {
        self.builder.binary = Some(binary.to_owned());
        self.restart()
    }

    /// Sends any signal.
    pub fn signal(&self, signal: Signal) {
        // The child has not been reaped, or the id would not be the child's any more.
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("a child can be signalled by its parent");
    }

    /// Whether it has not ended yet.
    pub fn running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Waits for the daemon to end by itself.
    ///
    /// # Panics
    /// When it is still running after `within`.
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        wait_until(within, || !self.running(), || "the daemon still runs".to_owned());
        self.child.wait().expect("a child can be waited for")
    }

    fn wait_until_ready(&mut self) -> Duration {
        let started = Instant::now();
        let ping = Request::get("/server/ping");
        let ready = || {
            assert!(self.running(), "the daemon ended before it was ready");
            self.admin_client().fetch(&ping).is_ok_and(|answer| answer.status() == 200)
        };
        wait_until(READY_WITHIN, ready, || "the daemon is not ready".to_owned());
        started.elapsed()
    }

    fn log_file(&self) -> PathBuf {
        log_file(self.home.path())
    }

    fn client_of(&self, server: SocketAddr) -> Client {
        let place = self.builder.place.as_ref();
        place.map_or_else(|| Client::new(server), |place| Client::inside(&place.namespace, server))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}

/// Executes `darter serve` with its output appended to the log.
fn command(builder: &Builder, data_dir: &Path, front: SocketAddr, admin: SocketAddr, home: &Path) -> Child {
    let mut programs: Vec<OsString> = builder.under.iter().map(OsString::from).collect();
    if builder.deny_io_uring {
        programs.push(built("without-io-uring").into());
    }
    if builder.deny_landlock {
        programs.push(built("without-landlock").into());
    }
    programs.push(builder.binary.clone().unwrap_or_else(|| built("darter")).into());
    let mut command = Command::new(&programs[0]);
    command.args(&programs[1..]);
    command.arg("serve").arg("--data-dir").arg(data_dir);
    command.args(["--capacity", &builder.capacity]);
    if let Some(text) = &builder.config {
        let file = config_file(home);
        fs::write(&file, text).expect("the configuration can be written");
        command.arg("--config").arg(file);
    }
    command.args(["--front", &front.to_string(), "--admin", &admin.to_string()]).args(&builder.flags);
    // No configuration, proxy or state of the person who runs the tests, and no file beside what is named.
    command.current_dir(NO_FILES_HERE);
    command.env("HOME", home.join("user")).env_remove("XDG_STATE_HOME").env_remove("XDG_CONFIG_HOME");
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(proxy);
    }
    for told in ["ENDPOINT", "TRACES_ENDPOINT"] {
        command.env_remove(format!("OTEL_EXPORTER_OTLP_{told}"));
    }
    if let Some(file) = &builder.clock {
        command
            .env("LD_PRELOAD", FAKETIME)
            .env("FAKETIME_TIMESTAMP_FILE", file)
            .env("FAKETIME_NO_CACHE", "1");
    }
    command.envs(builder.environment.iter().map(|(name, value)| (name, value)));
    let log = || -> io::Result<File> { OpenOptions::new().create(true).append(true).open(log_file(home)) };
    command.stdin(Stdio::null());
    command.stdout(log().expect("the log can be opened")).stderr(log().expect("the log can be opened"));
    let spawned = match &builder.place {
        // A child is where the thread is that makes it.
        Some(place) => place.namespace.enter(|| command.spawn()),
        None => command.spawn(),
    };
    spawned.expect("the daemon can be executed")
}

fn config_file(home: &Path) -> PathBuf {
    home.join("darter.yaml")
}

fn log_file(home: &Path) -> PathBuf {
    home.join("log")
}

/// A binary of this workspace, built in the same profile as the running program.
///
/// # Panics
/// When it is not there.
pub fn built(name: &str) -> PathBuf {
    let own = env::current_exe().expect("a program knows its own path");
    // A test is target/PROFILE/deps/NAME-HASH, a program that measures is target/PROFILE/NAME.
    let beside = |levels| own.ancestors().nth(levels).map(|directory| directory.join(name));
    let found = [2, 1].into_iter().filter_map(beside).find(|binary| binary.is_file());
    found.unwrap_or_else(|| panic!(
        "{name} is not built; `cargo test --workspace` builds it, for one package alone run `cargo build --workspace` first",
    ))
}

/// An address of this process alone, and a port there that no other server of it has: it can be named before it is bound.
pub fn free_address() -> SocketAddr {
    SocketAddr::new(own_loopback_address(), free_port())
}

/// A port of 127.0.0.1 that nobody has now, for a server that can be nowhere else. Others may take it before it is bound.
///
/// # Panics
/// When there is none.
pub fn free_at_localhost() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has ports");
    listener.local_addr().expect("a listener has an address")
}

/// An address of 127.64.0.0/10 that belongs to this process alone, by its id (at most 22 bits). No other test
/// and no outgoing connection uses a port there, so that a port can be chosen before it is bound, and again
/// at a restart.
pub(crate) fn own_loopback_address() -> IpAddr {
    let [_, high, middle, low] = process::id().to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 64 | high, middle, low))
}

/// A port not given to any other server of this process, below the kernel's range for outgoing connections.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
