//! `darter serve`: puts the parts together, runs them, and takes them apart again.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use darter_engine::ring::{Backend, ProbeError};
use darter_engine::{BLOCK_BYTES, OpenError, Store, StoreOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};

use crate::access::Access;
use crate::admin::health::{Health, Pulse};
use crate::admin::preheat::{Others, ThroughFront};
use crate::admin::{Admin, Watched};
use crate::cluster::{NoPart, NodePart};
use crate::config::{Inputs, IoChoice, Resolved, Settings};
use crate::fetch::{Bounds, Copies, Fetches, Turns};
use crate::front::connect::Seats;
use crate::front::{Shared, parting};
use crate::logs::Verbosity;
use crate::memory_limit::{free_memory, memory_limit};
use crate::metrics::Metrics;
use crate::origin::proxies::Proxies;
use crate::origin::via::NodeId;
use crate::policy::NoClient;
use crate::reload::{Live, Reload};
use crate::sandbox::{self, Rules, Sandbox, SandboxError, UserError};
use crate::shard::{self, Common, Own, Shard, StartError};
use crate::supervisor::{Manager, NoSocket, Sockets};
use crate::trace::{Exporting, NoExporter, Tracer};

/// Block buffers of the node: 128 MiB. They hold what is on its way from the network to the disk and to readers.
pub(crate) const POOL_BLOCKS: usize = 2048;
/// The least that a node can work with, in whatever memory: 16 MiB.
const POOL_BLOCKS_MIN: usize = 256;
/// How much of what registries have confirmed an unclean end may cost.
const REMEMBER_EVERY: Duration = Duration::from_secs(2);
/// Connections open at the front, if open files and memory allow so many.
pub(crate) const CONNECTIONS_MAX: usize = 8192;
/// The least that a front may have.
const CONNECTIONS_MIN: usize = 64;
/// What a connection may come to: its state, and its part of heads that are not whole yet.
const CONNECTION_BYTES: u64 = 32 << 10;
/// Open files that are not for clients: slabs, and connections to registries.
const OTHER_FILES: u64 = 512;
/// Connections that are being told that there is no place for them; beyond that they are closed without a word.
const TURNED_AWAY_MAX: usize = 512;
/// How long a thread that reads or writes a file may keep the daemon from ending.
const BLOCKED_MAX: Duration = Duration::from_secs(5);

/// Why the daemon cannot run. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// A port.
    #[error(
        "cannot listen on {address} for the {what} ({source}): is another darter running? Name another address with {flag}"
    )]
    Listen {
        /// Which port.
        what: &'static str,
        /// Its address.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A socket of the service manager.
    #[error(transparent)]
    Socket(#[from] NoSocket),
    /// `--io ring` where there is no ring.
    #[error("{0}; use --io auto or --io pool, or allow io_uring_setup, io_uring_enter and io_uring_register")]
    Ring(#[from] ProbeError),
    /// A shard that cannot start.
    #[error(transparent)]
    Shard(#[from] StartError),
    /// The cluster.
    #[error(transparent)]
    Cluster(#[from] NoPart),
    /// The client of registries.
    #[error(transparent)]
    NoClient(#[from] NoClient),
    /// The client of the collector of traces.
    #[error(transparent)]
    NoExporter(#[from] NoExporter),
    /// A shard is gone, and with it the contents that it fetched.
    #[error("a shard ended by itself; the log says why. Start darter again: what is cached will be found")]
    ShardEnded,
    /// Another user.
    #[error(transparent)]
    User(#[from] UserError),
    /// What is to hold the process.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Threads, signals.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Runs the daemon until SIGTERM or SIGINT. A second signal ends the process at once. SIGHUP has the inputs read
/// again, of which `resolved` is what they came to.
///
/// # Errors
/// The daemon cannot start, and has changed nothing; or a shard ended, and the others were stopped in order.
pub fn run(inputs: Inputs, resolved: Resolved) -> Result<(), ServeError> {
    let settings = &resolved.settings;
    if settings.pprof_port.is_some() {
        // As early as can be: what was allocated before is in no profile.
        darter_engine::heap::start();
    }
    let verbosity = crate::logs::start(settings.log);
    let memory_max = memory_limit();
    let connections_max = connections_max(raise_file_limit(), memory_max);
    let mut handed = Sockets::of_environment();
    let front = match handed.take("front", settings.front)? {
        Some(front) => front,
        None => listen(settings.front, "front", "--front")?,
    };
    let admin = match handed.take("admin", settings.admin)? {
        Some(admin) => admin,
        None => listen(settings.admin, "admin port", "--admin")?,
    };
    let profiles = settings.profiles().map(|address| listen(address, "profiles", "pprofPort")).transpose()?;
    // While its socket can still be reached.
    let manager = Manager::of_environment();
    keep_to_oneself(settings)?;
    // As that user: what may be locked in memory is the user's.
    let (backend, ring_denied) = choose_backend(settings.io)?;
    let (memory, sandbox) = (Memory::now(memory_max), confine(&inputs, settings, backend)?);
    let store = Store::open(&StoreOptions {
        data_dir: settings.data_dir.clone(),
        capacity_bytes: settings.capacity_bytes,
        backend,
        pool_blocks: pool_blocks(memory_max),
        ttl: settings.ttl,
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| ServeError::System { what: "start the control thread", source })?;
    let daemon = Daemon {
        inputs,
        resolved,
        verbosity,
        store: store.clone(),
        ring_denied,
        connections_max,
        memory,
        sandbox,
        manager,
    };
    let served = tokio::task::LocalSet::new().block_on(&runtime, daemon.run(front, admin, profiles));
    store.close();
    // For what writes a file, not for a configuration that is being read from a disk that does not answer.
    runtime.shutdown_timeout(BLOCKED_MAX);
    tracing::info!("stopped; what is cached will be found by the next start");
    served
}

struct Daemon {
    inputs: Inputs,
    resolved: Resolved,
    verbosity: Verbosity,
    store: Store,
    ring_denied: Option<ProbeError>,
    connections_max: usize,
    memory: Memory,
    sandbox: Sandbox,
    manager: Manager,
}

impl Daemon {
    async fn run(
        &self,
        front: TcpListener,
        admin: TcpListener,
        profiles: Option<TcpListener>,
    ) -> Result<(), ServeError> {
        let system = |what| move |source| ServeError::System { what, source };
        let mut signals = Signals::new().map_err(system("take signals"))?;
        let hangups = signal(SignalKind::hangup()).map_err(system("take signals"))?;
        let settings = &self.resolved.settings;
        let count = settings.shards.map_or_else(shard::default_count, std::num::NonZero::get);
        let metrics = Metrics::new(&self.store.backend().to_string());
        let counts = metrics.registries.clone();
        let (live, policies) = Live::new(settings, count, &self.store, self.verbosity.clone(), counts)?;
        let access = live.access.clone();
        let access_file = settings.data_dir.join("access");
        access.recall(&access_file);
        let (fetches, inboxes) = Fetches::new(count);
        let memory = &self.memory;
        let (turns, copies) = (Turns::within(memory.max), Copies::within(memory.max));
        let bounds = Bounds { prefetch_pace: live.prefetch_pace.clone(), turns, copies };
        let (stop, stopping) = watch::channel(false);
        let mut cluster = self.join(count)?;
        let (tracer, exporting) = self.trace(&metrics, cluster.as_ref())?;
        let common = Common {
            store: self.store.clone(),
            metrics: metrics.clone(),
            access: access.clone(),
            fetches,
            bounds,
            front: Arc::new(Shared::new(Seats::of(self.connections_max, metrics.tunnels.clone()))),
            tracer,
            stop: stopping.clone(),
        };
        let pulses: Vec<Arc<Pulse>> = std::iter::repeat_with(Arc::default).take(count).collect();
        let manager = &self.manager;
        let watching = manager.clone().watch(Health::new(pulses.clone(), stopping.clone()));
        let watched = Watched {
            metrics: metrics.clone(),
            front: common.front.clone(),
            fetches: common.fetches.downgrade(),
            health: Health::new(pulses.clone(), stopping),
            connections_max: self.connections_max,
        };
        if cluster.is_some() {
            access.ask_owners(common.fetches.downgrade());
            common.fetches.follow_boots();
        }
        let reload = Rc::new(Reload::new(self.inputs.clone(), self.resolved.clone(), live));
        let processors = shard::processors_to_pin();
        let (policy, weak_fetches) = (policies.first().cloned(), common.fetches.downgrade());
        let mut shards = Vec::with_capacity(count);
        for (number, (inbox, policy)) in inboxes.into_iter().zip(policies).enumerate() {
            let processor = processors.get(number % processors.len().max(1)).copied();
            let cluster = cluster.as_mut().and_then(NodePart::next_shard);
            let own = Own { inbox, policy, pulse: pulses[number].clone(), cluster };
            shards.push(Shard::start(number, processor, common.clone(), own).await?);
        }
        // The shards hold what they need; their inboxes close when the last of them ends.
        drop(common);
        let front = tokio::net::TcpListener::from_std(front).map_err(system("use the front's socket"))?;
        let admin = tokio::net::TcpListener::from_std(admin).map_err(system("use the admin socket"))?;
        let profiles = profiles.map(tokio::net::TcpListener::from_std).transpose();
        let profiles = profiles.map_err(system("use the socket for profiles"))?;
        self.greet(&front, &admin, shards.len());
        let warm_up_bytes_max = warm_up_bytes_max(memory.free, memory.max);
        self.store.start_scrub(settings.scrub, warm_up_bytes_max).map_err(system("start a thread"))?;
        let metrics_served = settings.metrics.then(|| metrics.clone());
        let mut bring = ThroughFront::new(front.local_addr().unwrap_or(settings.front));
        if let (Some(part), Some(policy)) = (&cluster, policy) {
            bring = bring.in_cluster(Others { shared: part.shared.clone(), fetches: weak_fetches, policy });
        }
        let bring = Rc::new(bring);
        let mut answering = Admin::new(self.store.clone(), metrics_served, reload.clone(), bring, watched);
        if let Some(part) = &cluster {
            answering = answering.in_cluster(part.shared.clone());
        }
        let admin = tokio::task::spawn_local(Rc::new(answering).serve(admin));
        let profiles = profiles.map(|listener| tokio::task::spawn_local(crate::profiles::serve(listener)));
        let (asked, limits) = (reload.identity_asked(), reload.peer_limits());
        let keeping = cluster.map(|part| tokio::task::spawn_local(part.stay(asked, limits)));
        let reloading = tokio::task::spawn_local(reload_at_each(hangups, reload, manager.clone()));
        let remembering = tokio::task::spawn_local(remember(access.clone(), access_file.clone()));
        manager.ready();
        let watching = tokio::task::spawn_local(watching);
        let served = tokio::select! {
            () = accept(&front, &shards, self.connections_max, &metrics) => Ok(()),
            () = any_ended(&shards) => Err(ServeError::ShardEnded),
            name = signals.next() => {
                tracing::info!(signal = name, "stopping: answers under way are finished; a second signal ends at once");
                Ok(())
            }
        };
        self.take_the_last(front, &shards);
        manager.stopping();
        let _ = stop.send(true);
        // Each is waited for, whatever became of the others.
        let joined = tokio::task::spawn_blocking(move || {
            shards.into_iter().map(Shard::join).filter(|joined| !joined).count() == 0
        });
        tokio::select! {
            joined = joined => if !matches!(joined, Ok(true)) {
                tracing::error!("a shard ended by a panic");
            },
            name = signals.next() => {
                tracing::warn!(signal = name, "ended at once; what was not yet durable is fetched again");
                std::process::exit(130);
            }
        }
        if let Some(exporting) = exporting {
            exporting.finish().await;
        }
        admin.abort();
        watching.abort();
        profiles.iter().for_each(tokio::task::JoinHandle::abort);
        reloading.abort();
        keeping.iter().for_each(tokio::task::JoinHandle::abort);
        remembering.abort();
        access.remember(&access_file);
        served
    }

    /// Stops listening. Who has connected before that is handed over: closing would reset what waits to be accepted.
    fn take_the_last(&self, front: tokio::net::TcpListener, shards: &[Shard]) {
        // Asked directly: the runtime may not know yet that somebody waits.
        let Ok(front) = front.into_std() else { return };
        for _ in 0..self.connections_max {
            let Ok((stream, _)) = front.accept() else { return };
            let Some(least) = shards.iter().min_by_key(|shard| shard.load()) else { return };
            let _ = stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true));
            // Too many at once: this one is closed.
            let _ = least.hand_over(stream);
        }
    }

    /// The node's part in its cluster, if it has one.
    fn join(&self, shards: usize) -> Result<Option<NodePart>, NoPart> {
        let settings = &self.resolved.settings;
        let open = |cluster| NodePart::open(cluster, &settings.data_dir, &self.store, shards);
        settings.cluster.as_ref().map(open).transpose()
    }

    /// Who decides what is recorded of requests, and, if anything is, who exports it.
    fn trace(
        &self,
        metrics: &Metrics,
        cluster: Option<&NodePart>,
    ) -> Result<(Tracer, Option<Exporting>), NoExporter> {
        let Some(settings) = &self.resolved.settings.tracing else { return Ok(Default::default()) };
        let node = match cluster {
            Some(part) => part.shared.own().id.to_string(),
            None => NodeId::of_this_process().to_string(),
        };
        let (tracer, exporting) = Exporting::start(settings, &node, metrics.traces.clone())?;
        tracing::info!(collector = %settings.endpoint, ratio = settings.sample_ratio, "requests are traced");
        Ok((tracer, Some(exporting)))
    }

    /// Where the daemon listens, what it keeps where, which I/O it uses, and a command to try.
    fn greet(&self, front: &tokio::net::TcpListener, admin: &tokio::net::TcpListener, shards: usize) {
        let local =
            |listener: &tokio::net::TcpListener, configured| listener.local_addr().unwrap_or(configured);
        let Resolved { settings, warnings, .. } = &self.resolved;
        let (front, admin) = (local(front, settings.front), local(admin, settings.admin));
        let stats = self.store.stats();
        tracing::info!(
            front = %front, admin = %admin, data_dir = %settings.data_dir.display(),
            capacity = %Bytes(stats.capacity_bytes), used = %Bytes(stats.used_bytes), contents = stats.contents,
            io = %self.store.backend(), shards, registry = %settings.registry, prefetch = settings.prefetch,
            version = env!("CARGO_PKG_VERSION"), "darter is ready"
        );
        tracing::info!(
            "try: curl http://{front}/v2/library/alpine/tags/list -H 'X-Dragonfly-Registry: {}' ; curl http://{admin}/metrics",
            settings.registry
        );
        self.sandbox.greet();
        if sandbox::is_root() {
            tracing::warn!(
                "the daemon runs as root: start it as a user of its own, or name one with --user, who then owns {}",
                settings.data_dir.display()
            );
        }
        if let Some(reason) = &self.ring_denied {
            tracing::warn!("{reason}; reads and writes go through a pool of threads, which is slower");
        }
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        if let Some(warning) = Proxies::of_environment().warning() {
            tracing::warn!("{warning}");
        }
        if !self.store.clean_start() {
            tracing::info!(
                "the last run did not stop cleanly: cached blocks are checked as they are served, and all of them \
                 in the background unless storage.scrub.rate is 0"
            );
        }
        if let Some(warning) = self.store.warning() {
            tracing::warn!("{warning}");
        }
    }
}

/// Writes down again and again who may read what: a restart need not ask anew.
async fn remember(access: Arc<Access>, file: PathBuf) {
    loop {
        tokio::time::sleep(REMEMBER_EVERY).await;
        let (access, file) = (access.clone(), file.clone());
        let _ = tokio::task::spawn_blocking(move || access.remember(&file)).await;
    }
}

/// SIGHUP: what was edited is taken up.
async fn reload_at_each(mut hangups: Signal, reload: Rc<Reload>, manager: Manager) {
    while hangups.recv().await.is_some() {
        tracing::info!(signal = "SIGHUP", "reading the configuration again");
        manager.reloading();
        // It has been logged, and what ran goes on.
        let _ = reload.run().await;
        manager.ready();
    }
}

async fn any_ended(shards: &[Shard]) {
    futures_util::future::select_all(shards.iter().map(|shard| Box::pin(shard.ended()))).await;
}

/// Hands connections to the least loaded shard. Ends only with the process's ability to accept.
async fn accept(
    front: &tokio::net::TcpListener,
    shards: &[Shard],
    connections_max: usize,
    metrics: &Metrics,
) {
    let turned_away = Arc::new(Semaphore::new(TURNED_AWAY_MAX));
    loop {
        let stream = match front.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the front cannot accept connections for the moment");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(least) = shards.iter().min_by_key(|shard| shard.load()) else { return };
        let open: usize = shards.iter().map(Shard::load).sum();
        // Only costs latency when it fails.
        let _ = stream.set_nodelay(true);
        let Ok(stream) = stream.into_std() else { continue };
        let refused = if open < connections_max { least.hand_over(stream).err() } else { Some(stream) };
        let Some(refused) = refused else { continue };
        metrics.front.connection_shed();
        // Told beside the acceptor, which waits for nobody.
        if let Ok(place) = turned_away.clone().try_acquire_owned()
            && let Ok(refused) = tokio::net::TcpStream::from_std(refused)
        {
            tokio::task::spawn_local(async move {
                parting::turn_away(refused).await;
                drop(place);
            });
        }
    }
}

/// Each connection is a file, and may need a second one to a registry; all of them get a quarter of the memory.
pub(crate) fn connections_max(files_max: Option<u64>, memory_max: Option<u64>) -> usize {
    let by_files = files_max.map_or(u64::MAX, |files| files.saturating_sub(OTHER_FILES) / 2);
    let by_memory = memory_max.map_or(u64::MAX, |memory| memory / 4 / CONNECTION_BYTES);
    usize::try_from(by_files.min(by_memory)).unwrap_or(usize::MAX).clamp(CONNECTIONS_MIN, CONNECTIONS_MAX)
}

/// Pinned contents are brought into a quarter of the memory that is free, and of what the cgroup may have.
fn warm_up_bytes_max(free: Option<u64>, memory_max: Option<u64>) -> u64 {
    free.unwrap_or(0).min(memory_max.unwrap_or(u64::MAX)) / 4
}

/// Block buffers get a quarter of the memory.
pub(crate) fn pool_blocks(memory_max: Option<u64>) -> usize {
    let by_memory = memory_max.map_or(u64::MAX, |memory| memory / 4 / u64::from(BLOCK_BYTES));
    usize::try_from(by_memory).unwrap_or(usize::MAX).clamp(POOL_BLOCKS_MIN, POOL_BLOCKS)
}

/// Memory in bytes, as it was looked at before the process gave up looking; `None`: nobody knows, or there is no limit.
struct Memory {
    max: Option<u64>,
    free: Option<u64>,
}

impl Memory {
    fn now(max: Option<u64>) -> Self {
        Self { max, free: free_memory() }
    }
}

/// What is made from now on is for this user only, and the user is the one that is configured.
fn keep_to_oneself(settings: &Settings) -> Result<(), UserError> {
    use rustix::fs::Mode;
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let Some(user) = &settings.sandbox.user else { return Ok(()) };
    sandbox::become_user(user)?;
    sandbox::may_write(&settings.data_dir, user)
}

/// Gives up what the daemon does not need any more. There is one thread as yet, and no client has been heard.
fn confine(inputs: &Inputs, settings: &Settings, backend: Backend) -> Result<Sandbox, ServeError> {
    // A rule is for a directory that is there; why it cannot be made, the store says.
    let _ = std::fs::create_dir_all(&settings.data_dir);
    let mut rules = Rules::of(inputs, settings, sandbox::is_root());
    rules.io_uring = backend == Backend::Ring;
    Ok(sandbox::enter(settings.sandbox.mode, &rules)?)
}

fn choose_backend(choice: IoChoice) -> Result<(Backend, Option<ProbeError>), ServeError> {
    match choice {
        IoChoice::Pool => Ok((Backend::Pool, None)),
        IoChoice::Ring => Backend::probe().map(|()| (Backend::Ring, None)).map_err(ServeError::from),
        IoChoice::Auto => Ok(match Backend::probe() {
            Ok(()) => (Backend::Ring, None),
            Err(reason) => (Backend::Pool, Some(reason)),
        }),
    }
}

fn listen(address: SocketAddr, what: &'static str, flag: &'static str) -> Result<TcpListener, ServeError> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|source| ServeError::Listen { what, address, flag, source })
}

/// Each connection is a file; the usual soft limit of 1024 is below what a front needs. Returns what is allowed, if
/// there is a limit.
fn raise_file_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    getrlimit(Resource::Nofile).current
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The name of the next signal that asks for a stop.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// A size for people.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match UNITS.iter().find(|(_, unit)| self.0 >= *unit) {
            Some((name, unit)) => write!(f, "{:.1} {name}", self.0 as f64 / *unit as f64),
            None => write!(f, "{} B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_follow_files_and_memory() {
        assert_eq!(connections_max(None, None), 8192);
        assert_eq!(connections_max(Some(1024), None), 256);
        assert_eq!(connections_max(Some(100), None), 64);
        assert_eq!(connections_max(Some(1 << 20), Some(256 << 20)), 2048);
        assert_eq!(pool_blocks(None), 2048);
        assert_eq!(pool_blocks(Some(256 << 20)), 1024);
        assert_eq!(pool_blocks(Some(1 << 20)), 256);
    }
}
