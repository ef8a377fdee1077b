//! `darter doctor`: whether a daemon with this configuration can run well on this machine, and what to do where not.
//!
//! `look/` looks, and the modules beside it make findings of what was seen; they are pure. Nothing is written but a file
//! of 1 MiB in the data directory, which is removed again, no port is listened at, and no lock is taken: a daemon that
//! runs does not notice.

mod clock;
mod finding;
mod identity;
mod kernel;
mod look;
mod network;
mod place;
mod registries;
mod sockets;
mod store;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::Args;
use darter_engine::BLOCK_BYTES;
use darter_engine::probe::kernel_clock::kernel_clock;
use http::{Request, StatusCode, header};
use http_body_util::Empty;

use self::clock::Clock;
use self::finding::{Finding, Report};
use self::kernel::{Kernel, Wanted};
use self::network::{Network, Port, PortState};
use self::sockets::Protocol;
use crate::cli::ServeArgs;
use crate::commands::{CommandError, output, run_to_end, wire};
use crate::config::{self, ConfigError, Resolved, Settings, Source};
use crate::serve::{self, CONNECTIONS_MAX, POOL_BLOCKS};
use crate::shard;

/// The flags of `darter doctor`: those of `serve`, and how to print.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// What `serve` would be given.
    #[command(flatten)]
    serve: ServeArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// For all looks at the data directory together.
const DISK_TIMEOUT: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// Routes to seeds that are told.
const ROUTES_MAX: usize = 8;

/// Checks what `serve` with the same flags would meet, and prints what was found.
///
/// # Errors
/// A check failed; which, the report has said.
pub fn run(args: &DoctorArgs) -> Result<(), CommandError> {
    let report = run_to_end(async { Ok(examine(args).await) })?;
    if args.json {
        output::print_json(&report)?
    } else {
        output::print(&report.text())?
    }
    let failed = report.failed();
    if failed.is_empty() {
        return Ok(());
    }
    Err(CommandError::Failed(format!("{} of the checks failed: {}", failed.len(), failed.join(", "))))
}

async fn examine(args: &DoctorArgs) -> Report {
    let mut report = Report::default();
    let loaded = config::load_with_problems(args.serve.config.as_deref(), &args.serve.overrides());
    report.add("configuration", configuration(&loaded));
    let settings = loaded.as_ref().ok().map(|(resolved, _)| &resolved.settings);
    let store = settings.map(|settings| {
        let (data_dir, wanted_bytes) = (settings.data_dir.clone(), settings.capacity_bytes);
        look::within(DISK_TIMEOUT, move || look::directory::look(&data_dir, wanted_bytes))
    });
    let daemon = store.as_ref().and_then(|seen| seen.as_ref()?.daemon);
    let kernel = look::kernel::look(daemon);
    let wanted = wanted(settings, &kernel);
    report.add("kernel", kernel::findings(&kernel, &wanted));
    report.add("limits", kernel::limits(&kernel, &wanted));
    // Without a configuration nobody knows where a daemon would listen, or what it would ask.
    let Ok((resolved, _)) = &loaded else { return report };
    let settings = &resolved.settings;

    let store = store.flatten();
    report.add("store", store.map_or_else(|| vec![silent_disk(settings)], |seen| store::findings(&seen)));

    let mut identity = look::files::look(settings);
    let (seeds, seeds_not_found) = look::files::seeds(settings).await;
    identity.seeds_not_found = seeds_not_found;
    let ports = ports(settings);
    // Whose it is cannot always be seen, and then its answer says so.
    let may_be_ours = |port: &Port| match &port.state {
        PortState::Held(holder) => daemon.is_some() || holder.is_none(),
        _ => false,
    };
    let is_asked = ports.iter().any(|port| port.what == ADMIN && may_be_ours(port));
    let answer = if is_asked { Some(ping(settings.admin).await) } else { None };
    let routes = seeds.iter().take(ROUTES_MAX);
    let network = Network {
        daemon,
        ports,
        buffers_bytes: look::kernel::socket_buffers_bytes(),
        answers: answer.as_ref().is_some_and(Result::is_ok),
        lanes: settings.cluster.as_ref().map(|cluster| cluster.lanes),
        routes: routes.filter_map(|seed| Some((seed.to_string(), look::ports::mtu_to(*seed)?))).collect(),
    };
    let mut findings = network::findings(&network);
    findings.extend(answer.filter(|_| daemon.is_some()).map(answers));
    report.add("network", findings);

    let seen = look::registries::look(settings, is_default(resolved)).await;
    let (of_registries, ahead_s) = match seen {
        Ok(seen) => (seen.registries.iter().map(registries::finding).collect(), seen.ahead_s),
        Err(reason) => (vec![no_client(&reason)], Vec::new()),
    };
    let kernel = kernel_clock().map_err(|error| error.to_string());
    report.add("clock", clock::findings(&Clock { kernel, ahead_s }));
    report.add("certificates", identity::findings(&identity, now_s()));
    report.add("registries", of_registries);
    report
}

fn configuration(loaded: &Result<(Resolved, Vec<config::Problem>), ConfigError>) -> Vec<Finding> {
    const CHECK: &str = "settings";
    const ADVICE: &str = "correct it; docs/configuration.md has every key and flag";
    let of_problem = |problem: &config::Problem| {
        // The text says what is allowed, or what to do.
        Finding::failed(CHECK, problem.to_string(), ADVICE)
    };
    match loaded {
        Err(ConfigError::Invalid(problems)) => problems.iter().take(PROBLEMS_MAX).map(of_problem).collect(),
        Err(error) => vec![Finding::failed(CHECK, error.to_string(), "name another with --config")],
        Ok((resolved, problems)) => {
            let warnings = resolved
                .warnings
                .iter()
                .map(|warning| Finding::warning(CHECK, warning.to_string(), "see to it that it is meant"));
            let mut findings: Vec<_> = problems.iter().take(PROBLEMS_MAX).map(of_problem).collect();
            if findings.is_empty() {
                findings.push(Finding::ok(CHECK, "all keys and values are right"));
            }
            findings.extend(warnings);
            findings
        }
    }
}

const PROBLEMS_MAX: usize = 20;

/// Without settings, those of the defaults.
fn wanted(settings: Option<&Settings>, kernel: &Kernel) -> Wanted {
    let shards = settings.and_then(|settings| settings.shards);
    let pool_bytes = |blocks: usize| blocks as u64 * u64::from(BLOCK_BYTES);
    Wanted {
        io: settings.map_or(config::IoChoice::Auto, |settings| settings.io),
        sandbox: settings.map_or(config::SandboxMode::Auto, |settings| settings.sandbox.mode),
        shards: shards.map_or_else(shard::default_count, std::num::NonZero::get),
        connections: serve::connections_max(kernel.files_max, kernel.memory_max),
        connections_by_files: serve::connections_max(kernel.files_max, None),
        connections_max: CONNECTIONS_MAX,
        buffers_bytes: (pool_bytes(serve::pool_blocks(kernel.memory_max)), pool_bytes(POOL_BLOCKS)),
    }
}

const ADMIN: &str = "admin port";

fn ports(settings: &Settings) -> Vec<Port> {
    let port = |what, flag, address: SocketAddr, protocol| Port {
        what,
        flag,
        address,
        state: look::ports::state(address, protocol),
    };
    let mut ports = vec![
        port("front", "--front", settings.front, Protocol::Tcp),
        port(ADMIN, "--admin", settings.admin, Protocol::Tcp),
    ];
    if let Some(address) = settings.profiles() {
        ports.push(port("profiles", "pprofPort", address, Protocol::Tcp));
    }
    if let Some(cluster) = &settings.cluster {
        ports.push(port("peers, TCP", "--peer-listen", cluster.listen, Protocol::Tcp));
        ports.push(port("peers, UDP", "--peer-listen", cluster.listen, Protocol::Udp));
    }
    // Port 0 is whichever the system chooses.
    ports.retain(|port| port.address.port() != 0);
    ports
}

/// Where darter answers at an admin port, or where it does not and why.
async fn ping(admin: SocketAddr) -> Result<SocketAddr, (SocketAddr, String)> {
    const PONG: &[u8] = b"pong\n";
    let address = match admin.ip() {
        ip if ip.is_unspecified() && ip.is_ipv4() => SocketAddr::from(([127, 0, 0, 1], admin.port())),
        ip if ip.is_unspecified() => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, admin.port())),
        _ => admin,
    };
    let request = Request::get("/server/ping").header(header::HOST, address.to_string());
    let answered = async {
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let answer = wire::send(address, request, PING_TIMEOUT).await.map_err(|error| error.to_string())?;
        let answer = wire::whole(answer, 2 * PONG.len(), PING_TIMEOUT).await;
        match answer.map_err(|error| error.to_string())? {
            (StatusCode::OK, _, body) if body == PONG => Ok(address),
            (status, ..) => Err(format!("status {status}, and not what darter answers")),
        }
    };
    answered.await.map_err(|reason| (address, reason))
}

/// Whether the daemon that runs answers.
fn answers(answer: Result<SocketAddr, (SocketAddr, String)>) -> Finding {
    const CHECK: &str = "answers";
    match answer {
        Ok(address) => Finding::ok(CHECK, format!("darter answers at {address}")),
        Err((address, reason)) => Finding::failed(
            CHECK,
            format!("darter runs, and does not answer at {address}: {reason}"),
            "look at what it logs; it is busy beyond its means, or stands still",
        ),
    }
}

fn silent_disk(settings: &Settings) -> Finding {
    Finding::failed(
        "directory",
        format!("{} does not answer within {} s", settings.data_dir.display(), DISK_TIMEOUT.as_secs()),
        "look at the disk or the server that it is on (dmesg), or name another directory with --data-dir",
    )
}

fn no_client(reason: &str) -> Finding {
    Finding::failed(
        "client",
        format!("the client of registries cannot be made: {reason}"),
        "install ca-certificates; SSL_CERT_FILE, if it is set, has to name a file with certificates",
    )
}

/// Whether nobody has named the registry of requests that name none.
fn is_default(resolved: &Resolved) -> bool {
    let row = resolved.effective.iter().find(|row| row.key == "proxy.registryMirror.url");
    row.is_none_or(|row| row.source == Source::Default)
}

/// Unix seconds.
fn now_s() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}
