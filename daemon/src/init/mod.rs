//! `darter init`: has the clients of this machine read through the local front, and takes that back again.
//!
//! ```text
//! tree ─ what is there ─▶ containerd, docker, containers, nydus ─ plan ─▶ apply ─▶ files, and a record for --undo
//! ```
//!
//! A plan is made by pure functions, from what is there as it was before darter wrote anything. It is written as a
//! whole or not at all: the record with a copy of each file comes first, then each file in one step; an error or a
//! signal in between takes back what was done, and after a crash the record says how.
//!
//! Nothing is executed and no service is restarted: the report says what is left to do.

mod apply;
mod containerd;
mod containers;
mod docker;
mod json_edit;
mod nydus;
mod plan;
mod record;
mod tree;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::apply::{ApplyError, Turn};
use self::plan::{Asked, Plan, Wanted};
use self::record::Keeping;
use self::tree::Root;
use crate::commands::{CommandError, output};
use crate::config::Registry;

/// Which client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Client {
    /// hosts.toml for every registry, or for those that --registry names
    Containerd,
    /// a mirror of Docker Hub in daemon.json
    Docker,
    /// a mirror in registries.conf.d, which podman, buildah and skopeo read too
    Crio,
    /// the same file as for crio
    Podman,
    /// the proxy in the configuration of nydusd (2.3.5 and later); with --registry the snapshotter's mirrors (older)
    Nydus,
}

/// The flags of `darter init`.
#[derive(Clone, Debug, Args)]
pub struct InitArgs {
    /// The client that is to read through darter
    client: Client,
    /// The front, as the client reaches it
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:65001", value_parser = crate::cli::socket_addr)]
    front: SocketAddr,
    /// The admin port, which nydusd asks whether darter lives
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:40901", value_parser = crate::cli::socket_addr)]
    admin: SocketAddr,
    /// Have the client read the registry at this URL so; may be repeated for containerd and nydus, and is added to
    /// what earlier runs have named [default: every registry; for docker, crio and podman Docker Hub]
    #[arg(long, value_name = "URL")]
    registry: Vec<Registry>,
    /// The configuration file of nydusd [default: as the snapshotter's config.toml says]
    #[arg(long, value_name = "FILE")]
    nydusd_config: Option<PathBuf>,
    /// Take this directory for / : of an image, or for a try
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Print the files and write nothing
    #[arg(long)]
    print: bool,
    /// Put back what was there before, byte by byte
    #[arg(long, conflicts_with = "print")]
    undo: bool,
}

/// Writes, prints or takes back the configuration of a client.
///
/// # Errors
/// Nothing was changed: a file is not as darter knows it, cannot be read or written, or somebody interrupted.
pub fn run(args: &InitArgs) -> Result<(), CommandError> {
    let root = Root::open(&args.root).map_err(failed)?;
    let name = args.client.name();
    let keeping = Keeping::of(&root, name);
    if args.undo {
        let mut signals = Signals::take()?;
        let _lock = keeping.lock().map_err(failed)?;
        return undo(args, &root, &keeping, &mut signals);
    }
    let wanted = wanted(args)?;
    if args.print {
        let plan = plan(args, &root, &keeping, wanted)?;
        next_steps(args, &plan).for_each(|step| output::say(&step));
        return output::print(&printed(&plan));
    }
    let mut signals = Signals::take()?;
    let lock = keeping.lock().map_err(failed)?;
    let plan = plan(args, &root, &keeping, wanted)?;
    let is_done = keeping.is_as(&root, &plan).map_err(failed)?;
    let mut taken_back = Vec::new();
    if !is_done {
        // One that was interrupted by a crash, or is of other flags.
        taken_back = apply::replace(&root, &keeping, &plan, &lock, &mut || signals.turn()).map_err(failed)?;
    }
    let mut text = String::new();
    for change in &plan.changes {
        let what = match (is_done, &change.before) {
            (true, _) => "is as it should be".to_owned(),
            (false, None) => "written".to_owned(),
            (false, Some(_)) => format!("changed; as it was: {}", keeping.backup(&change.path).display()),
        };
        text += &format!("{}: {what}\n", root.shown(&change.path));
    }
    for path in taken_back {
        text += &format!("{}: as it was before; an earlier darter init had written it\n", root.shown(&path));
    }
    if plan.changes.is_empty() {
        text += "nothing to write: the configuration names darter's front already\n";
    }
    next_steps(args, &plan).for_each(|step| text += &format!("{step}\n"));
    if !plan.changes.is_empty() {
        let root = if args.root == *"/" { String::new() } else { format!(" --root {}", args.root.display()) };
        text += &format!("undo: darter init {name}{root} --undo\n", name = args.client.word());
    }
    output::print(&text)
}

/// Made for what was there before earlier runs; what those have asked for stays, where a client can have both.
fn plan(args: &InitArgs, root: &Root, keeping: &Keeping, wanted: Wanted) -> Result<Plan, CommandError> {
    let before = keeping.as_before(root).map_err(failed)?;
    let wanted = match keeping.record().map_err(failed)? {
        Some(record) if args.client.has_both(&wanted, &record.asked) => wanted.with_earlier(&record.asked),
        _ => wanted,
    };
    let mut plan = args.client.plan(&before, &wanted).map_err(failed)?;
    plan.asked = wanted.asked();
    // The same files are the same plan, in whichever order they were asked for.
    plan.changes.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(plan)
}

/// What is left to do, in lines.
fn next_steps(args: &InitArgs, plan: &Plan) -> impl Iterator<Item = String> {
    plan.next.iter().cloned().chain(nobody_listens(args)).map(|step| format!("next: {}", step.trim_end()))
}

fn undo(args: &InitArgs, root: &Root, keeping: &Keeping, signals: &mut Signals) -> Result<(), CommandError> {
    let undone = apply::undo(root, keeping, &mut || signals.turn()).map_err(failed)?;
    if undone.is_empty() {
        let message =
            format!("there is nothing to undo: darter init {} has written nothing here", args.client.word());
        return Err(CommandError::NotFound(message));
    }
    let mut text: String =
        undone.iter().map(|path| format!("{}: as it was before\n", root.shown(path))).collect();
    text += &format!("next: {}\n", args.client.after_undo());
    output::print(&text)
}

fn wanted(args: &InitArgs) -> Result<Wanted, CommandError> {
    for (flag, address) in [("--front", args.front), ("--admin", args.admin)] {
        if address.ip().is_unspecified() || address.port() == 0 {
            let message = format!(
                "{flag} {address}: no client can connect there; name the address and port that it reaches"
            );
            return Err(CommandError::Usage(message));
        }
    }
    let one_only = matches!(args.client, Client::Docker | Client::Crio | Client::Podman);
    if one_only && args.registry.len() > 1 {
        let message = "--registry: this client does not tell a mirror which registry it means, so a front serves one of \
                       them; name one";
        return Err(CommandError::Usage(message.to_owned()));
    }
    if args.nydusd_config.is_some() && (args.client != Client::Nydus || !args.registry.is_empty()) {
        let message = "--nydusd-config is for darter init nydus without --registry";
        return Err(CommandError::Usage(message.to_owned()));
    }
    let nydusd_config = args.nydusd_config.as_deref().map(|path| below_root(path, &args.root)).transpose()?;
    let (every, registries) = (args.registry.is_empty(), args.registry.clone());
    Ok(Wanted { front: args.front, admin: args.admin, every, registries, nydusd_config })
}

/// A path as the client has it, from its root on.
fn below_root(path: &Path, root: &Path) -> Result<String, CommandError> {
    let path = match path.is_absolute() {
        true => path.to_owned(),
        // One that is not there is said later, by its name.
        false if root == Path::new("/") => std::fs::canonicalize(path)
            .or_else(|_| std::path::absolute(path))
            .map_err(|error| CommandError::Failed(format!("{}: {error}", path.display())))?,
        false => {
            let message = format!(
                "--nydusd-config {}: with another --root, name the file from that root on, as /etc/nydus/nydusd-config.json",
                path.display()
            );
            return Err(CommandError::Usage(message));
        }
    };
    Ok(path.display().to_string())
}

/// Each file with its path above it.
fn printed(plan: &Plan) -> String {
    let mut text = String::new();
    for change in &plan.changes {
        text += &format!("# {}\n{}", change.path, String::from_utf8_lossy(&change.after));
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    text
}

/// Whether somebody is at the front, on this machine.
fn nobody_listens(args: &InitArgs) -> Option<String> {
    const PATIENCE: Duration = Duration::from_millis(500);
    let is_here = args.root == *"/";
    let connected = || std::net::TcpStream::connect_timeout(&args.front, PATIENCE);
    (is_here && connected().is_err())
        .then(|| format!("nobody listens at {} yet: start `darter serve`", args.front))
}

impl Client {
    /// The record's: two clients that read one file have one.
    fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Docker => "docker",
            Self::Crio | Self::Podman => "containers",
            Self::Nydus => "nydus",
        }
    }

    /// As it is written on the command line.
    fn word(self) -> &'static str {
        match self {
            Self::Crio => "crio",
            Self::Podman => "podman",
            _ => self.name(),
        }
    }

    /// Whether what an earlier run has asked for stays beside what is asked for now.
    fn has_both(self, now: &Wanted, earlier: &Asked) -> bool {
        match self {
            Self::Containerd => true,
            // They serve one registry, whichever was named last.
            Self::Docker | Self::Crio | Self::Podman => false,
            // Either the proxy, or mirrors.
            Self::Nydus => !now.every && !earlier.every,
        }
    }

    fn plan(self, tree: &dyn tree::Tree, wanted: &Wanted) -> Result<Plan, plan::Refusal> {
        match self {
            Self::Containerd => containerd::plan(tree, wanted),
            Self::Docker => docker::plan(tree, wanted),
            Self::Crio | Self::Podman => containers::plan(tree, wanted, self == Self::Crio),
            Self::Nydus => nydus::plan(tree, wanted),
        }
    }

    fn after_undo(self) -> &'static str {
        match self {
            Self::Containerd => "nothing: containerd reads hosts.toml at each pull",
            Self::Docker => "have docker read it: systemctl reload docker",
            Self::Crio => "have CRI-O read it: systemctl reload crio",
            Self::Podman => "nothing: podman, buildah and skopeo read it at each run",
            Self::Nydus => "have the snapshotter read it: systemctl restart nydus-snapshotter",
        }
    }
}

fn failed(error: impl Into<ApplyError>) -> CommandError {
    match error.into() {
        ApplyError::Interrupted => {
            CommandError::Interrupted("interrupted; everything is as it was".to_owned())
        }
        error => CommandError::Failed(error.to_string()),
    }
}

/// Signals that would end the process in the middle; they are looked at between two steps.
struct Signals {
    runtime: tokio::runtime::Runtime,
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn take() -> Result<Self, CommandError> {
        let taken = || -> std::io::Result<Self> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let entered = runtime.enter();
            let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            let hangup = signal(SignalKind::hangup())?;
            drop(entered);
            Ok(Self { runtime, interrupt, terminate, hangup })
        };
        taken().map_err(|error| CommandError::Failed(format!("cannot take signals: {error}")))
    }

    /// What to do now.
    fn turn(&mut self) -> Turn {
        let (interrupt, terminate, hangup) = (&mut self.interrupt, &mut self.terminate, &mut self.hangup);
        self.runtime.block_on(async {
            // The runtime sees what has come when it is yielded to.
            tokio::task::yield_now().await;
            tokio::select! {
                biased;
                _ = interrupt.recv() => Turn::Back,
                _ = terminate.recv() => Turn::Back,
                _ = hangup.recv() => Turn::Back,
                () = tokio::task::yield_now() => Turn::On,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[test]
    fn a_path_is_the_clients() {
        let at = |path: &str, root: &str| below_root(path.as_ref(), root.as_ref());
        let here = std::env::current_dir().unwrap();
        assert_eq!(at("/etc/n.json", "/image").ok().as_deref(), Some("/etc/n.json"));
        assert_eq!(at("none/n.json", "/").unwrap(), here.join("none/n.json").display().to_string());
        assert_eq!(at("src/../Cargo.toml", "/").unwrap(), here.join("Cargo.toml").display().to_string());
        assert!(
            matches!(at("n.json", "/image"), Err(CommandError::Usage(message)) if message.contains("root on"))
        );
    }

    #[test]
    fn a_signal_is_seen_between_two_steps() {
        let mut signals = Signals::take().unwrap();
        assert_eq!(signals.turn(), Turn::On);
        kill_process(getpid(), Signal::HUP).unwrap();
        // Another thread may be the one that takes it.
        while signals.turn() == Turn::On {
            std::thread::yield_now();
        }
    }
}
