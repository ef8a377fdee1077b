//! The steps of the demo, in order: what is read, by which way, and what it cost the origin.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::client::{Client, FetchError, Route};
use super::cluster::Cluster;
use super::image::Image;
use super::load::{BOOT_REPO, IMAGE_REPO, Load};
use super::node::NodeError;
use super::progress::Progress;
use super::registry::{Blob, Registry};
use super::report::{Boot, Cost, Pull, Step, StepReport, percentile};
use super::trace::{Read, Trace};

/// Layers that one reader pulls at the same time. containerd's default is 3 (`max_concurrent_downloads`).
pub(super) const PARALLEL: usize = 4;

const EXIT_GRACE: Duration = Duration::from_millis(100);

/// Why the demo has no chart to show.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Darter is not running.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Bytes did not come, or came wrong.
    #[error("{what}: {reason}{logs}")]
    Fetch {
        /// What was being done.
        what: String,
        /// What went wrong.
        reason: FetchError,
        /// The last lines of each node, with a line above each; the nodes' directory goes with the demo.
        logs: String,
    },
}

/// What the steps found.
pub(super) struct Measured {
    pub(super) steps: Vec<StepReport>,
    /// From the start after the kill -9 to the first answered ping.
    pub(super) restart: Duration,
}

/// What all steps share.
pub(super) struct Bench<'a> {
    pub(super) load: &'a Load,
    pub(super) registry: &'a Registry,
    pub(super) progress: Progress,
}

impl Bench<'_> {
    /// Runs all steps. The last one leaves the seed dead.
    pub(super) async fn run(&self, cluster: &mut Cluster) -> Result<Measured, StepError> {
        let mut restart = Duration::ZERO;
        let mut steps = Vec::new();
        for step in Step::with(cluster.peers().len()) {
            if step == Step::AfterKill {
                let first = cluster.first_peer();
                first.kill();
                restart = first.restart().await?;
            }
            match self.step(step, cluster).await {
                Ok(report) => steps.push(report),
                Err(mut error) => {
                    // Its sockets close a moment before a process that died can be waited for.
                    tokio::time::sleep(EXIT_GRACE).await;
                    // A node that died is the reason for whatever the client saw of it.
                    cluster.check()?;
                    if let StepError::Fetch { logs, .. } = &mut error {
                        *logs = cluster.last_lines();
                    }
                    return Err(error);
                }
            }
        }
        Ok(Measured { steps, restart })
    }

    async fn step(&self, step: Step, cluster: &mut Cluster) -> Result<StepReport, StepError> {
        let mut routes = cluster.routes(&self.registry.url());
        match step {
            Step::Straight => routes = vec![Route { host: self.registry.host(), registry: None }],
            Step::Cold | Step::LocalHit | Step::AfterKill => routes.truncate(1),
            Step::RemoteHit => routes = routes.into_iter().skip(1).take(1).collect(),
            Step::AllAtOnce | Step::SeedKilled => {}
        }
        let pull = self.pull(step, &routes, cluster).await?;
        let boot = match step.boot_blob() {
            Some(blob) => Some(self.boot(step, &routes, &self.load.boot_blobs[blob]).await?),
            None => None,
        };
        Ok(StepReport { step, readers: routes.len(), pull, boot })
    }

    async fn pull(&self, step: Step, routes: &[Route], cluster: &mut Cluster) -> Result<Pull, StepError> {
        let what = format!("whole pull, {}", step.label());
        let task = self.progress.begin(what.clone());
        let image = &self.load.images[step.image()];
        let due = image.layer_bytes() * routes.len() as u64;
        let (bytes, half) = (task.bytes(), Arc::<Notify>::default());
        let arrived = Arrived { bytes: bytes.clone(), half_bytes: due / 2, half: half.clone() };
        self.registry.reset_counts();
        let start = Instant::now();
        let workers = routes.iter().flat_map(|route| {
            let next = Arc::<AtomicUsize>::default();
            let arrived = arrived.clone();
            let worker = move |_| pull_layers(image.clone(), next.clone(), route.clone(), arrived.clone());
            (0..PARALLEL).map(worker)
        });
        let mut pulling = std::pin::pin!(all(workers));
        let mut killed_at = None;
        let pulled = tokio::select! {
            biased;
            // First, so that it is killed even where the second half is there as soon as the first.
            () = half.notified(), if step == Step::SeedKilled => {
                cluster.seed().kill();
                killed_at = Some(bytes.load(Ordering::Relaxed) as f64 / due as f64);
                pulling.await
            }
            pulled = &mut pulling => pulled,
        };
        pulled.map_err(|reason| StepError::Fetch { what, reason, logs: String::new() })?;
        let time = start.elapsed();
        let origin = Cost::new(self.registry.counts().total(), image.layer_bytes());
        task.done();
        Ok(Pull { time, origin, killed_at })
    }

    async fn boot(&self, step: Step, routes: &[Route], blob: &Blob) -> Result<Boot, StepError> {
        let what = format!("lazy boot, {}", step.label());
        let task = self.progress.begin(what.clone());
        let trace = &self.load.trace;
        self.registry.reset_counts();
        let start = Instant::now();
        let readers = routes.iter().flat_map(|route| {
            let reader = Reader { trace: trace.clone(), blob: blob.clone(), route: route.clone() };
            let bytes = task.bytes();
            (0..trace.connections.len())
                .map(move |connection| replay(reader.clone(), connection, bytes.clone()))
        });
        let reads =
            all(readers).await.map_err(|reason| StepError::Fetch { what, reason, logs: String::new() })?;
        let time = start.elapsed();
        let origin = Cost::new(self.registry.counts().total(), trace.bytes());
        task.done();
        let mut reads = reads.concat();
        reads.sort_unstable();
        Ok(Boot { time, read_p50: percentile(&reads, 50), read_p99: percentile(&reads, 99), origin })
    }
}

/// Counts what has arrived, and says when it is half of all.
#[derive(Clone, Debug)]
struct Arrived {
    bytes: Arc<AtomicU64>,
    half_bytes: u64,
    half: Arc<Notify>,
}

impl Arrived {
    fn count(&self, chunk_bytes: usize) {
        let before = self.bytes.fetch_add(chunk_bytes as u64, Ordering::Relaxed);
        // Exactly one chunk crosses it.
        if before < self.half_bytes && before + chunk_bytes as u64 >= self.half_bytes {
            self.half.notify_one();
        }
    }
}

/// One boot.
#[derive(Clone, Debug)]
struct Reader {
    trace: Arc<Trace>,
    blob: Blob,
    route: Route,
}

/// Runs `tasks` side by side; the first error ends the others.
async fn all<T: Send + 'static>(
    tasks: impl Iterator<Item = impl Future<Output = Result<T, FetchError>> + Send + 'static>,
) -> Result<Vec<T>, FetchError> {
    let mut running: JoinSet<_> = tasks.collect();
    let mut results = Vec::new();
    while let Some(result) = running.join_next().await {
        results.push(result.expect("a measuring task neither panics nor is cancelled")?);
    }
    Ok(results)
}

/// Pulls one layer after the other until none is left.
async fn pull_layers(
    image: Arc<Image>,
    next: Arc<AtomicUsize>,
    route: Route,
    arrived: Arrived,
) -> Result<(), FetchError> {
    let mut client = Client::new(route);
    while let Some(layer) = image.layers.get(next.fetch_add(1, Ordering::Relaxed)) {
        client.pull(IMAGE_REPO, layer, |chunk_bytes| arrived.count(chunk_bytes)).await?;
    }
    Ok(())
}

/// Replays one connection of the trace; returns how long each read took.
async fn replay(
    reader: Reader,
    connection: usize,
    bytes: Arc<AtomicU64>,
) -> Result<Vec<Duration>, FetchError> {
    let mut client = Client::new(reader.route);
    let mut expected = Vec::new();
    let mut times = Vec::new();
    let mut thinking_since = Instant::now();
    let mut overslept = Duration::ZERO;
    for Read { pause, range } in &reader.trace.connections[connection] {
        // What is expected is made in the time for thinking, so that it costs the reads nothing.
        expected.resize((range.end - range.start) as usize, 0);
        reader.blob.read_exact_at(&mut expected, range.start).expect("generated, and as long as the trace");
        // Timers tick in milliseconds, most pauses are no longer: what one took too long the next one lacks.
        let due = thinking_since + pause.saturating_sub(overslept);
        tokio::time::sleep_until(due.into()).await;
        overslept = due.elapsed();

        let start = Instant::now();
        client.read(BOOT_REPO, &reader.blob, range, &expected).await?;
        times.push(start.elapsed());
        thinking_since = Instant::now();
        bytes.fetch_add(range.end - range.start, Ordering::Relaxed);
    }
    Ok(times)
}
