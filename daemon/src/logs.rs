//! Log lines on standard error: for people, or one JSON object each.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogSettings};

/// Starts logging for the process. `DARTER_LOG` (tracing's filter syntax) overrides the configured verbosity.
pub(crate) fn start(settings: LogSettings) {
    let level = if settings.verbose { "info,darter=debug,darter_engine=debug" } else { "info" };
    let filter = EnvFilter::try_from_env("DARTER_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start, as in tests, keeps the first one's subscriber.
    let _ = match settings.format {
        LogFormat::Text => lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_target(true).try_init(),
    };
}
