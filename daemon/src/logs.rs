//! Log lines on standard error: for people, or one JSON object each.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{LogFormat, LogSettings};

/// How much is logged, which may change while the daemon runs.
#[derive(Clone, Debug)]
pub(crate) struct Verbosity {
    /// None where the configuration has no say.
    filter: Option<reload::Handle<EnvFilter, Registry>>,
}

/// Starts logging for the process. `DARTER_LOG` (tracing's filter syntax) overrides the configured verbosity.
pub(crate) fn start(settings: LogSettings) -> Verbosity {
    let from_environment = EnvFilter::try_from_env("DARTER_LOG").ok();
    let is_configured = from_environment.is_none();
    let (filter, handle) =
        reload::Layer::new(from_environment.unwrap_or_else(|| filter_of(settings.verbose)));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match settings.format {
        LogFormat::Text => lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_target(true).boxed(),
    };
    // A second start, as in tests, keeps the first one's subscriber.
    let is_first = tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok();
    Verbosity { filter: (is_configured && is_first).then_some(handle) }
}

fn filter_of(verbose: bool) -> EnvFilter {
    EnvFilter::new(if verbose { "info,darter=debug,darter_engine=debug" } else { "info" })
}

impl Verbosity {
    /// Takes up another verbosity. False where `DARTER_LOG` decides, and nothing has changed.
    pub(crate) fn set(&self, verbose: bool) -> bool {
        self.filter.as_ref().is_some_and(|filter| filter.reload(filter_of(verbose)).is_ok())
    }
}
