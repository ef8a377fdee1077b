//! The layers of a value, default < file < flag, and where the winner was written. Of one key the environment has a say, below
//! the file.

use std::env;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::collector::TRACES_PATH;
use super::keys::{Fallback, Key, TRACING_ENDPOINT};
use super::raw::{RawConfig, Shape};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// A variable of the environment, such as `OTEL_EXPORTER_OTLP_ENDPOINT`.
    Environment(&'static str),
    /// A line of the configuration file.
    File {
        /// The file as it was named on the command line.
        name: Arc<str>,
        /// Counted from 1.
        line: usize,
    },
    /// A flag of the command line, such as `--front`.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => out.write_str("default"),
            Self::Environment(variable) => out.write_str(variable),
            Self::File { name, line } => write!(out, "{name}:{line}"),
            Self::Flag(flag) => out.write_str(flag),
        }
    }
}

/// One value given by a flag. A flag that may be repeated gives one for each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The key that it overrides; of a list, the key of the items, such as `proxy.allowedRegistries[]`.
    pub key: &'static str,
    /// The flag, for messages.
    pub flag: &'static str,
    /// What was given, as yet unchecked.
    pub text: String,
}

/// What defaults depend on. A parameter, so that the check itself reads nothing of the process.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Whether the effective user is root.
    pub root: bool,
    /// `$XDG_STATE_HOME`, when it is absolute.
    pub state_home: Option<PathBuf>,
    /// `$HOME`, when it is absolute.
    pub home: Option<PathBuf>,
    /// Where the variables of OpenTelemetry say that traces go, and which of them says so.
    pub collector: Option<(&'static str, String)>,
}

impl Surroundings {
    /// Those of the running process.
    #[must_use]
    pub fn of_this_process() -> Self {
        // The XDG base directory specification: "If an implementation encounters a relative path in any of
        // these variables it should consider the path invalid and ignore it."
        let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            root: rustix::process::geteuid().is_root(),
            state_home: absolute("XDG_STATE_HOME"),
            home: absolute("HOME"),
            collector: collector(|name| env::var(name).ok()),
        }
    }

    /// Where the cache is kept when nobody says where: the system's place for root and for a user without a
    /// home, the user's state directory otherwise.
    fn data_dir(&self) -> PathBuf {
        let system = || PathBuf::from("/var/lib/darter");
        if self.root {
            return system();
        }
        let below_home = || self.home.as_deref().map(|home| home.join(".local/state"));
        self.state_home.clone().or_else(below_home).map_or_else(system, |state| state.join("darter"))
    }
}

/// By OpenTelemetry's "OTLP exporter configuration": a URL for traces alone as it is, or one for all signals to which the
/// path for traces is added. An empty variable is as good as none.
fn collector(variable: impl Fn(&str) -> Option<String>) -> Option<(&'static str, String)> {
    const FOR_TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    const FOR_ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let given = |name| variable(name).filter(|text| !text.is_empty());
    let for_all =
        || given(FOR_ALL).map(|text| (FOR_ALL, format!("{}{TRACES_PATH}", text.trim_end_matches('/'))));
    given(FOR_TRACES).map(|text| (FOR_TRACES, text)).or_else(for_all)
}

/// A value before its check.
#[derive(Clone, Debug)]
pub(super) struct Given<'a> {
    pub(super) text: &'a str,
    pub(super) source: Source,
}

/// All layers; asked for one key at a time.
pub(super) struct Layers<'a> {
    raw: &'a RawConfig,
    overrides: &'a [Override],
    data_dir: String,
    collector: Option<&'a (&'static str, String)>,
}

impl<'a> Layers<'a> {
    pub(super) fn new(raw: &'a RawConfig, overrides: &'a [Override], surroundings: &'a Surroundings) -> Self {
        // A path that is not UTF-8 can only be a default here; its replacement characters are seen in the banner.
        let data_dir = surroundings.data_dir().to_string_lossy().into_owned();
        Self { raw, overrides, data_dir, collector: surroundings.collector.as_ref() }
    }

    /// The highest layer that says something about a key.
    pub(super) fn value(&self, key: &Key) -> Option<Given<'_>> {
        self.flags(key.path)
            .last()
            .or_else(|| self.in_file(key.path))
            .or_else(|| self.in_environment(key))
            .or_else(|| self.default(key).map(|text| Given { text, source: Source::Default }))
    }

    /// The items of a list of plain values. A flag replaces the whole list of the file, as it replaces any value.
    pub(super) fn items(&self, key: &Key) -> Vec<Given<'_>> {
        let flags: Vec<_> = self.flags(key.path).collect();
        if !flags.is_empty() {
            return flags;
        }
        let list = key.path.trim_end_matches("[]");
        (0..self.raw.list_len(list)).filter_map(|index| self.in_file(&format!("{list}[{index}]"))).collect()
    }

    /// Where a key's value comes from.
    pub(super) fn source(&self, key: &Key) -> Source {
        self.value(key).map_or(Source::Default, |given| given.source)
    }

    /// Where a list of the file begins.
    pub(super) fn list_source(&self, path: &str) -> Source {
        self.raw.entry(path).map_or(Source::Default, |entry| self.raw.source(entry.line))
    }

    /// What the file says at a path, indices written out.
    pub(super) fn in_file(&self, path: &str) -> Option<Given<'a>> {
        let entry = self.raw.entry(path)?;
        match &entry.shape {
            Shape::Scalar(text) => Some(Given { text, source: self.raw.source(entry.line) }),
            Shape::Null | Shape::List(_) | Shape::Map => None,
        }
    }

    /// What the environment says, of the key of which it may.
    fn in_environment(&self, key: &Key) -> Option<Given<'a>> {
        let (variable, text) = self.collector.filter(|_| key.path == TRACING_ENDPOINT.path)?;
        Some(Given { text, source: Source::Environment(variable) })
    }

    /// What holds when no layer says anything.
    pub(super) fn default(&self, key: &Key) -> Option<&str> {
        match key.fallback {
            Fallback::Text(text) => Some(text),
            Fallback::DataDir => Some(&self.data_dir),
            Fallback::Decided(_) => None,
        }
    }

    pub(super) fn raw(&self) -> &'a RawConfig {
        self.raw
    }

    fn flags(&self, path: &str) -> impl Iterator<Item = Given<'_>> {
        self.overrides
            .iter()
            .filter(move |given| given.key == path)
            .map(|given| Given { text: &given.text, source: Source::Flag(given.flag) })
    }
}

impl Override {
    /// A flag's value, if it was given.
    pub fn given(key: &'static str, flag: &'static str, text: Option<impl ToString>) -> Option<Self> {
        text.map(|text| Self { key, flag, text: text.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn traces_go_where_opentelemetry_says() {
        let check = |traces: Option<&str>, all: Option<&str>, expected: Option<&str>| {
            let variable = |name: &str| match name {
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" => traces.map(str::to_owned),
                "OTEL_EXPORTER_OTLP_ENDPOINT" => all.map(str::to_owned),
                _ => None,
            };
            assert_eq!(collector(variable).map(|(_, text)| text).as_deref(), expected);
        };
        check(None, None, None);
        check(Some(""), Some(""), None);
        check(None, Some("http://a:4318"), Some("http://a:4318/v1/traces"));
        check(None, Some("http://a:4318/otlp/"), Some("http://a:4318/otlp/v1/traces"));
        check(Some("http://b/x"), Some("http://a:4318"), Some("http://b/x"));
    }

    #[test]
    fn data_goes_to_the_state_directory_of_the_user_or_the_system() {
        let check = |root, state: Option<&str>, home: Option<&str>, expected: &str| {
            let surroundings = Surroundings {
                root,
                state_home: state.map(PathBuf::from),
                home: home.map(PathBuf::from),
                collector: None,
            };
            assert_eq!(surroundings.data_dir(), Path::new(expected));
        };
        check(false, Some("/x/state"), Some("/home/u"), "/x/state/darter");
        check(false, None, Some("/home/u"), "/home/u/.local/state/darter");
        check(false, None, None, "/var/lib/darter");
        check(true, Some("/x/state"), Some("/root"), "/var/lib/darter");
    }
}
