//! `darter demo`: what darter does for a cluster, shown on this machine and with nothing but the binary.
//!
//! A [registry] on loopback, as slow as it is told to be, holds images and blobs for a lazy boot. They are read
//! straight from it, and then through a cluster of child processes, a seed and its peers: cold, from another
//! peer, as a local hit before and after a kill -9, by all peers at once, and by all with the seed killed half
//! way. The chart is the one of the Dragonfly and nydus article.
//!
//! Nothing is left behind: the children are killed and their directory removed when the demo ends, fails or is
//! interrupted. Bytes that are wrong are a failure, not a row in the chart.

mod args;
mod chart;
mod client;
mod cluster;
mod image;
mod load;
mod node;
mod oci_layout;
mod ports;
mod progress;
pub mod registry;
mod report;
mod scenario;
mod stay;
mod trace;
mod units;

use std::io::{self, Write};

use tokio::signal::unix::{Signal, SignalKind, signal};

pub use self::args::DemoArgs;
pub use self::client::FetchError;
pub use self::node::NodeError;
pub use self::oci_layout::LayoutError;
pub use self::scenario::StepError;

use self::cluster::Cluster;
use self::image::Image;
use self::load::Load;
use self::node::NodeOptions;
use self::progress::Progress;
use self::registry::{Registry, RegistryOptions};
use self::report::{Origin, Report};
use self::scenario::{Bench, Measured};

/// Why the demo did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The image of `--image` cannot be read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A step went wrong.
    #[error(transparent)]
    Step(#[from] StepError),
    /// No threads, no sockets, no standard output.
    #[error("cannot run on this machine: {0}")]
    System(#[from] io::Error),
    /// Ctrl-C or SIGTERM before the chart was there.
    #[error("interrupted; everything is cleaned up")]
    Interrupted,
}

/// Runs the demo and prints its chart, or JSON, to standard output.
///
/// # Errors
/// A step failed or a byte was wrong, or the demo was interrupted. Everything that it started has ended.
pub fn run(args: &DemoArgs) -> Result<(), DemoError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let mut interrupt = Interrupt::new()?;
        let mut stage = tokio::select! {
            () = interrupt.wait() => return Err(DemoError::Interrupted),
            stage = demonstrate(args) => stage?,
        };
        if args.stay {
            // The last step has killed it.
            stage.cluster.seed().restart().await.map_err(StepError::from)?;
            // Not to standard output, where JSON may be expected to end.
            io::stderr()
                .write_all(stay::hints(&stage.registry, &mut stage.cluster, &stage.load).as_bytes())?;
            interrupt.wait().await;
            stage.cluster.check().map_err(StepError::from)?;
        }
        Ok(())
    });
    // Digests of a large image may still be under way after an interrupt; nobody waits for them.
    runtime.shutdown_background();
    result
}

/// All that runs. Dropped, it is gone.
struct Stage {
    load: Load,
    registry: Registry,
    cluster: Cluster,
}

/// From nothing to the printed chart. Dropped at any point it cleans up, because registry, children and
/// directory belong to values in it.
async fn demonstrate(args: &DemoArgs) -> Result<Stage, DemoError> {
    let progress = Progress::new();
    let preparing = progress.begin("preparing the image and the registry");
    let load = prepare(args).await?;
    let origin =
        Origin { latency: args.latency, bandwidth_bytes_per_s: args.bandwidth.0, redirect: args.redirect };
    let registry = Registry::start(RegistryOptions {
        latency: origin.latency,
        bandwidth_bytes_per_s: origin.bandwidth_bytes_per_s,
        redirect_blobs: origin.redirect,
        ..RegistryOptions::default()
    })?;
    load.publish(&registry);
    preparing.done();

    let node_options = NodeOptions {
        capacity_bytes: capacity_bytes(load.bytes()),
        prefetch: args.prefetch,
        registry_host: registry.host(),
        storage_host: registry.storage_host(),
    };
    // Before the first step, though it is not needed yet: if it cannot start, nobody has waited in vain.
    let starting = progress.begin(format!("starting a seed and its peers ({})", args.peers));
    let cluster = Cluster::start(node_options, args.peers.into(), args.temp_dir.as_deref()).await;
    let mut cluster = cluster.map_err(StepError::from)?;
    starting.done();

    let bench = Bench { load: &load, registry: &registry, progress };
    let Measured { steps, restart } = bench.run(&mut cluster).await?;
    let report = Report {
        origin,
        image: load.image_facts(scenario::PARALLEL),
        boot: load.boot_facts(args.prefetch),
        restart,
        peers: cluster.peers().len(),
        steps,
    };
    let text = match args.json {
        true => serde_json::to_string_pretty(&report).expect("plain values") + "\n",
        false => format!("\n{}", chart::render(&report)),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(Stage { load, registry, cluster })
}

/// Reading and hashing an image takes a second per gigabyte, so it is kept off the runtime's own threads.
async fn prepare(args: &DemoArgs) -> Result<Load, DemoError> {
    let (layout, size) = (args.image.clone(), args.size);
    let prepared = tokio::task::spawn_blocking(move || {
        let image = match layout {
            Some(directory) => oci_layout::read(&directory)?,
            None => Image::generate(0, size),
        };
        Ok::<_, LayoutError>(Load::new(image))
    });
    Ok(prepared.await.map_err(io::Error::other)??)
}

/// Room for everything, so that the demo shows hits and not eviction: a quarter more than the content, for
/// slots that are only partly full, and never too little for a cache to be one.
fn capacity_bytes(content_bytes: u64) -> u64 {
    content_bytes.saturating_add(content_bytes / 4).saturating_add(64 << 20)
}

/// Ctrl-C and SIGTERM.
struct Interrupt {
    int: Signal,
    term: Signal,
}

impl Interrupt {
    fn new() -> io::Result<Self> {
        Ok(Self { int: signal(SignalKind::interrupt())?, term: signal(SignalKind::terminate())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}
