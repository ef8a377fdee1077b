//! One thread that serves: its runtime, its connections, its part of the fetches.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use darter_engine::Store;
use darter_engine::ring::run_shard;
use darter_transport::cluster::Cluster;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::access::Access;
use crate::admin::health::Pulse;
use crate::cluster::{OwnerSide, ShardPart};
use crate::fetch::{Bounds, Fetches, Inbox, Owner};
use crate::front::connection;
use crate::front::reader::Sources;
use crate::front::{Front, Fronts, Shared};
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::polls;
use crate::trace::Tracer;

/// How long other nodes may take to get what they have asked for when the node stops.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);
/// Connections handed over and not yet taken up.
const HANDOVER_MAX: usize = 256;

/// What all shards have in common.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) store: Store,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) access: Arc<Access>,
    pub(crate) fetches: Fetches,
    pub(crate) bounds: Bounds,
    pub(crate) front: Arc<Shared>,
    pub(crate) tracer: Tracer,
    pub(crate) stop: watch::Receiver<bool>,
}

/// What a shard has for itself.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) inbox: Inbox,
    pub(crate) policy: watch::Receiver<Policy>,
    /// Whether it is stuck.
    pub(crate) pulse: Arc<Pulse>,
    /// In a cluster.
    pub(crate) cluster: Option<ShardPart>,
}

/// Why a shard cannot start. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its thread or its ring.
    #[error("a shard cannot start: {0}; are the limits of threads, open files or locked memory reached?")]
    System(#[from] std::io::Error),
    /// It panicked before it was ready.
    #[error("a shard ended while it started; its panic is in the log")]
    Ended,
}

/// The acceptor's end of a shard.
#[derive(Debug)]
pub(crate) struct Shard {
    connections: mpsc::Sender<std::net::TcpStream>,
    open: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Shard {
    /// Starts the shard's thread, on one processor if that is given, and waits until it is ready to serve.
    ///
    /// # Errors
    /// It cannot serve, and its thread has ended.
    pub(crate) async fn start(
        number: usize,
        processor: Option<usize>,
        common: Common,
        own: Own,
    ) -> Result<Self, StartError> {
        let (connections, incoming) = mpsc::channel(HANDOVER_MAX);
        let (started, starting) = oneshot::channel();
        let open = Arc::new(AtomicUsize::new(0));
        let counted = open.clone();
        let thread = std::thread::Builder::new().name(format!("darter-shard-{number}")).spawn(move || {
            if let Some(processor) = processor {
                pin_to(processor);
            }
            let mut started = Some(started);
            let mut tell = |result| started.take().map(|started| started.send(result));
            let backend = common.store.backend();
            let ran = run_shard(backend, async {
                match Serving::begin(common, own) {
                    Ok(serving) => {
                        tell(Ok(()));
                        serving.run(incoming, counted).await;
                    }
                    Err(error) => _ = tell(Err(error.into())),
                }
            });
            if let Err(error) = ran {
                tell(Err(error.into()));
            }
        })?;
        starting.await.unwrap_or(Err(StartError::Ended))?;
        Ok(Self { connections, open, thread })
    }

    /// Completes when the shard takes no more connections: it ended, and nobody told it to.
    pub(crate) async fn ended(&self) {
        self.connections.closed().await;
    }

    /// Connections that it serves now.
    pub(crate) fn load(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Hands a connection over; gives it back if the shard has too many waiting.
    pub(crate) fn hand_over(&self, connection: std::net::TcpStream) -> Result<(), std::net::TcpStream> {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.connections.try_send(connection).map_err(|refused| {
            self.open.fetch_sub(1, Ordering::Relaxed);
            refused.into_inner()
        })
    }

    /// Waits for the thread to end, after the stop was told. False if it ended by a panic.
    pub(crate) fn join(self) -> bool {
        drop(self.connections);
        self.thread.join().is_ok()
    }
}

/// A shard at work.
struct Serving {
    common: Common,
    policy: watch::Receiver<Policy>,
    owner: Rc<Owner>,
    inbox: Inbox,
    cluster: Option<Rc<Cluster>>,
}

impl Serving {
    fn begin(common: Common, Own { inbox, policy, pulse, cluster }: Own) -> std::io::Result<Self> {
        tokio::task::spawn_local(pulse.beat());
        let owner = Owner::new(
            common.store.clone(),
            common.access.clone(),
            policy.clone(),
            common.metrics.clone(),
            common.bounds.clone(),
        );
        let origin = || OwnerSide {
            store: common.store.clone(),
            access: common.access.clone(),
            fetches: common.fetches.downgrade(),
            policy: policy.clone(),
            tracer: common.tracer.clone(),
        };
        let cluster = cluster.map(|part| part.start(origin())).transpose()?;
        if let Some(cluster) = &cluster {
            owner.join(cluster.clone());
        }
        Ok(Self { common, policy, owner, inbox, cluster })
    }

    async fn run(self, mut incoming: mpsc::Receiver<std::net::TcpStream>, open: Arc<AtomicUsize>) {
        let Self { common, mut policy, owner, inbox, cluster } = self;
        let timer = common.metrics.clone();
        let owning = polls::timed(owner.run(inbox), move |longest| timer.front.longest_poll(longest));
        let mut owning = tokio::task::spawn_local(owning);
        let Policy { routing, origin } = policy.borrow_and_update().clone();
        let sources = Sources {
            store: common.store,
            access: common.access,
            origin: origin.clone(),
            fetches: common.fetches,
            answers: common.metrics.of_a_shard(),
        };
        let front = Front { routing, sources, origin, shared: common.front, tracer: common.tracer };
        let fronts = Rc::new(Fronts::new(front, policy));
        let (metrics, stopping) = (common.metrics, common.stop.clone());
        let begin = |connection, connections: &mut JoinSet<()>| {
            let Ok(connection) = TcpStream::from_std(connection) else {
                open.fetch_sub(1, Ordering::Relaxed);
                return;
            };
            let serving = connection::serve(fronts.clone(), connection, stopping.clone());
            let (metrics, open) = (metrics.clone(), open.clone());
            metrics.front.connection_opened();
            connections.spawn_local(async move {
                polls::timed(serving, |longest| metrics.front.longest_poll(longest)).await;
                metrics.front.connection_closed();
                open.fetch_sub(1, Ordering::Relaxed);
            });
        };
        let mut connections = JoinSet::new();
        let mut stop = common.stop;
        loop {
            tokio::select! {
                connection = incoming.recv() => {
                    let Some(connection) = connection else { break };
                    begin(connection, &mut connections);
                }
                Some(ended) = connections.join_next() => if let Err(error) = ended {
                    tracing::error!(%error, "a connection's task failed");
                },
                // It outlives this shard's front, unless it panics; and without it no content of its comes.
                _ = &mut owning => return tracing::error!("the fetches of a shard ended by a panic"),
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        // Those that were accepted before the daemon stopped.
        while let Ok(connection) = incoming.try_recv() {
            begin(connection, &mut connections);
        }
        // Each drains within the front's timeout.
        while connections.join_next().await.is_some() {}
        if let Some(cluster) = cluster {
            let _ = tokio::time::timeout(LEAVE_WITHIN, cluster.leave()).await;
        }
        // Answers of other shards may still wait for contents that this one fetches: its inbox closes with the last front.
        drop(fronts);
        if let Err(error) = owning.await {
            tracing::error!(%error, "the fetches of a shard ended by a panic");
        }
    }
}

fn pin_to(processor: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(processor);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::debug!(processor, %error, "a shard runs unpinned");
    }
}

/// Processors to pin shards to: all that are allowed, unless a quota makes pinning harmful.
pub(crate) fn processors_to_pin() -> Vec<usize> {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    let allowed: Vec<usize> =
        (0..rustix::thread::CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor)).collect();
    let quota = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) < allowed.len();
    if quota { Vec::new() } else { allowed }
}

/// The number of shards where none is configured: the processors that affinity and quota allow, four at most.
pub(crate) fn default_count() -> usize {
    const SHARDS_MAX: usize = 4;
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(SHARDS_MAX)
}
