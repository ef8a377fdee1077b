//! `darter top`: what a node does, live, at a terminal.
//!
//! Every two seconds the daemon is asked for what it counts, and what has moved since is shown: `sample` reads
//! and compares, `screen` makes lines of it, both pure; `terminal` owns the terminal and gives it back as it was,
//! however the command ends.

mod sample;
mod screen;
mod terminal;

use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::RangedU64ValueParser;
use http::Method;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval_at};

use self::sample::{Sample, View};
use self::terminal::Terminal;
use super::admin_client::AdminClient;
use super::{AdminArgs, CommandError, output};
use crate::admin::api::ContentInfo;
use crate::admin::peers::PeersInfo;

/// The flags of `darter top`.
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Print one view and end, instead of showing it live; --json needs it
    #[arg(long)]
    once: bool,
    /// Seconds from one look to the next
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = RangedU64ValueParser::<u64>::new().range(1..=3600))]
    every: u64,
}

/// The list of all contents is asked for so much less often than it takes: it must not become what the node does.
const CONTENTS_PART: u32 = 50;
const CONTENTS_EVERY_MIN: Duration = Duration::from_secs(4);

/// Shows what the daemon does, until `q`, Esc, Ctrl-C or a signal; or prints it once.
///
/// # Errors
/// The daemon does not answer at the start, or with `--once`; standard output is no terminal.
pub fn run(args: &TopArgs) -> Result<(), CommandError> {
    if args.admin.json && !args.once {
        return Err(CommandError::Usage("--json shows one view: say darter top --once --json".to_owned()));
    }
    let mut looking = Looking::at(args);
    if args.once {
        return super::run_to_end(async {
            looking.look().await?;
            tokio::time::sleep(looking.every).await;
            // What has come meanwhile is what was asked for, however long the list is.
            looking.contents_due = Instant::now();
            looking.look().await?;
            let view = looking.view();
            if args.admin.json { output::print_json(&view) } else { output::print(&screen::whole(&view)) }
        });
    }
    super::run_to_end(live(looking))
}

async fn live(mut looking: Looking) -> Result<(), CommandError> {
    // Before the terminal is another: an address that is wrong is said as by any command.
    looking.look().await?;
    let signals =
        Signals::take().map_err(|error| CommandError::Failed(format!("cannot take signals: {error}")))?;
    let (terminal, keys) = Terminal::take().map_err(|error| {
        CommandError::Usage(format!(
            "standard input and output are no terminal ({error}): say darter top --once"
        ))
    })?;
    let mut trouble = None;
    let Signals { mut interrupt, mut terminate, mut hangup, mut quit, mut resized } = signals;
    let mut quitting = std::pin::pin!(terminal::until_quit(keys));
    let mut view = looking.view();
    let mut ticks = interval_at(tokio::time::Instant::now() + looking.every, looking.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Beside keys and signals: a daemon that hangs keeps nobody from leaving.
    let mut next = Box::pin(next_look(looking, ticks));
    loop {
        let (columns, rows) = terminal.size();
        // Nobody reads any more.
        if terminal.show(&screen::lines(&view, trouble.as_deref(), (columns, rows))).is_err() {
            return Ok(());
        }
        tokio::select! {
            (looking, ticks, looked) = &mut next => {
                trouble = looked.err().map(|error| error.to_string());
                view = looking.view();
                next = Box::pin(next_look(looking, ticks));
            }
            () = &mut quitting => return Ok(()),
            _ = resized.recv() => {}
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
            _ = quit.recv() => return Ok(()),
        }
    }
}

/// Waits until it is time, and looks.
async fn next_look(
    mut looking: Looking,
    mut ticks: Interval,
) -> (Looking, Interval, Result<(), CommandError>) {
    ticks.tick().await;
    let looked = looking.look().await;
    (looking, ticks, looked)
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
    resized: Signal,
}

impl Signals {
    fn take() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            resized: signal(SignalKind::window_change())?,
        })
    }
}

/// Looks again and again.
struct Looking {
    client: AdminClient,
    every: Duration,
    start: Instant,
    before: Option<Sample>,
    now: Option<Sample>,
    contents_due: Instant,
}

impl Looking {
    fn at(args: &TopArgs) -> Self {
        let start = Instant::now();
        Self {
            client: AdminClient::new(&args.admin),
            every: Duration::from_secs(args.every),
            start,
            before: None,
            now: None,
            contents_due: start,
        }
    }

    fn view(&self) -> View {
        let (Some(now), before) = (&self.now, &self.before) else { return View::default() };
        View::of(before.as_ref().unwrap_or(now), now)
    }

    /// Takes a sample. What is known stays known when the daemon does not answer.
    async fn look(&mut self) -> Result<(), CommandError> {
        let mut sample = Sample::parse(&self.client.metrics().await?, self.start.elapsed());
        sample.peers = match self.client.call::<PeersInfo>(Method::GET, "peers").await {
            Ok(peers) => Some(peers),
            Err(CommandError::NotFound(_)) => None,
            Err(error) => return Err(error),
        };
        let is_due = Instant::now() >= self.contents_due;
        let contents = if is_due { Some(self.contents().await?) } else { None };
        match contents {
            Some(contents) => sample.listed(contents, self.now.as_ref()),
            None => sample.unlisted(self.now.as_ref()),
        }
        self.before = self.now.replace(sample);
        Ok(())
    }

    async fn contents(&mut self) -> Result<Vec<ContentInfo>, CommandError> {
        let asked = Instant::now();
        let contents = self.client.contents().await?;
        let took = asked.elapsed();
        self.contents_due = Instant::now() + (took * CONTENTS_PART).max(CONTENTS_EVERY_MIN);
        Ok(contents)
    }
}
