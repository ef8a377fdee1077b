//! The steps of the demo, in order: what is read, by which way, and what it cost the origin.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::client::{Client, FetchError, Route};
use super::image::Image;
use super::load::{BOOT_REPO, IMAGE_REPO, Load};
use super::node::{Node, NodeError, NodeOptions};
use super::progress::Progress;
use super::registry::Registry;
use super::report::{Boot, Origin, Pull, Report, Step, StepReport, percentile};
use super::trace::Read;

/// Layers pulled at the same time. containerd's default is 3 (`max_concurrent_downloads`).
const PARALLEL: usize = 4;

const EXIT_GRACE: Duration = Duration::from_millis(100);

/// Why the demo has no chart to show.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Darter is not running.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Bytes did not come, or came wrong.
    #[error("{what}: {reason}")]
    Fetch {
        /// What was being done.
        what: String,
        /// What went wrong.
        reason: FetchError,
    },
}

/// Runs all steps; returns the report, and the node still running.
pub(super) async fn run(
    load: &Load,
    registry: &Registry,
    origin: Origin,
    node_options: NodeOptions,
    progress: Progress,
) -> Result<(Report, Node), StepError> {
    let prefetch = node_options.prefetch;
    // Before the first step, though it is not needed yet: if it cannot start, nobody has waited in vain.
    let starting = progress.begin("starting darter");
    let mut node = Node::start(node_options).await?;
    starting.done();

    let bench = Bench { load, registry, progress };
    let straight = Route { host: registry.host(), registry: None };
    let through = Route { host: node.front().to_string(), registry: Some(registry.url()) };
    let mut restart = Duration::ZERO;
    let mut steps = Vec::new();
    for step in Step::ALL {
        if step == Step::AfterKill {
            restart = node.kill_and_restart().await?;
        }
        let route = if step == Step::Straight { &straight } else { &through };
        match bench.step(step, route).await {
            Ok(report) => steps.push(report),
            Err(error) => {
                // Its sockets close a moment before a process that died can be waited for.
                tokio::time::sleep(EXIT_GRACE).await;
                // A node that died is the reason for whatever the client saw of it.
                node.check()?;
                return Err(error);
            }
        }
    }
    let report =
        Report { origin, image: load.image_facts(PARALLEL), boot: load.boot_facts(prefetch), restart, steps };
    Ok((report, node))
}

/// What all steps share.
struct Bench<'a> {
    load: &'a Load,
    registry: &'a Registry,
    progress: Progress,
}

impl Bench<'_> {
    async fn step(&self, step: Step, route: &Route) -> Result<StepReport, StepError> {
        let pull = self.pull(step, route).await?;
        let boot = self.boot(step, route).await?;
        Ok(StepReport { step, pull, boot })
    }

    async fn pull(&self, step: Step, route: &Route) -> Result<Pull, StepError> {
        let what = format!("whole pull, {}", step.label());
        let task = self.progress.begin(what.clone());
        let next = Arc::new(AtomicUsize::new(0));
        self.registry.reset_counts();
        let start = Instant::now();
        let workers = (0..PARALLEL).map(|_| {
            pull_layers(Arc::clone(&self.load.image), Arc::clone(&next), route.clone(), task.bytes())
        });
        all(workers).await.map_err(|reason| StepError::Fetch { what, reason })?;
        let time = start.elapsed();
        let origin = self.registry.counts().total();
        task.done();
        Ok(Pull { time, origin })
    }

    async fn boot(&self, step: Step, route: &Route) -> Result<Boot, StepError> {
        let what = format!("lazy boot, {}", step.label());
        let task = self.progress.begin(what.clone());
        self.registry.reset_counts();
        let start = Instant::now();
        let readers = (0..self.load.trace.connections.len())
            .map(|connection| replay(self.load.clone(), connection, route.clone(), task.bytes()));
        let reads = all(readers).await.map_err(|reason| StepError::Fetch { what, reason })?;
        let time = start.elapsed();
        let origin = self.registry.counts().total();
        task.done();
        let mut reads = reads.concat();
        reads.sort_unstable();
        Ok(Boot { time, read_p50: percentile(&reads, 50), read_p99: percentile(&reads, 99), origin })
    }
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
    bytes: Arc<AtomicU64>,
) -> Result<(), FetchError> {
    let mut client = Client::new(route);
    while let Some(layer) = image.layers.get(next.fetch_add(1, Ordering::Relaxed)) {
        let arrived = |count: usize| {
            bytes.fetch_add(count as u64, Ordering::Relaxed);
        };
        client.pull(IMAGE_REPO, layer, arrived).await?;
    }
    Ok(())
}

/// Replays one connection of the trace; returns how long each read took.
async fn replay(
    load: Load,
    connection: usize,
    route: Route,
    bytes: Arc<AtomicU64>,
) -> Result<Vec<Duration>, FetchError> {
    let mut client = Client::new(route);
    let mut expected = Vec::new();
    let mut times = Vec::new();
    let mut thinking_since = Instant::now();
    let mut overslept = Duration::ZERO;
    for Read { pause, range } in &load.trace.connections[connection] {
        // What is expected is made in the time for thinking, so that it costs the reads nothing.
        expected.resize((range.end - range.start) as usize, 0);
        load.boot_blob
            .read_exact_at(&mut expected, range.start)
            .expect("generated, and as long as the trace");
        // Timers tick in milliseconds, most pauses are no longer: what one took too long the next one lacks.
        let due = thinking_since + pause.saturating_sub(overslept);
        tokio::time::sleep_until(due.into()).await;
        overslept = due.elapsed();

        let start = Instant::now();
        client.read(BOOT_REPO, &load.boot_blob, range, &expected).await?;
        times.push(start.elapsed());
        thinking_since = Instant::now();
        bytes.fetch_add(range.end - range.start, Ordering::Relaxed);
    }
    Ok(times)
}
