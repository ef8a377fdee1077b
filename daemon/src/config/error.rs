//! What can be wrong with a configuration, in words for the person who wrote it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::layers::Source;
use crate::sandbox;

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read: name another, or make it readable.
    #[error("cannot read the configuration file {}: {error}{}", file.display(), cure(error))]
    Unreadable {
        /// As it was named on the command line.
        file: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Keys or values are wrong: correct them all, in the order of the file, then of the flags.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
}

/// One wrong key or value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written.
    pub source: Source,
    /// The full dotted path, such as `proxy.tcpListen.port`; empty when the text is not YAML.
    pub key: String,
    /// What is wrong and what is allowed.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(out, "{}: {}", self.source, self.text),
            key => write!(out, "{}: {key}: {}", self.source, self.text),
        }
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self::Invalid(vec![problem])
    }
}

impl ConfigError {
    /// Each wrong key or value, as many as a message names; none when the file could not be read.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Unreadable { .. } => &[],
            Self::Invalid(problems) => &problems[..problems.len().min(PROBLEMS_SHOWN_MAX)],
        }
    }
}

/// What to do about a file that cannot be read, as the end of a message.
fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; name one that is there, or none: every key has a default",
        io::ErrorKind::IsADirectory => "; name a file in it",
        io::ErrorKind::PermissionDenied if sandbox::hint(error).is_empty() => {
            "; let the user that darter runs as read it"
        }
        _ => sandbox::hint(error),
    }
}

/// Enough to see what is wrong with a file that is no configuration at all.
const PROBLEMS_SHOWN_MAX: usize = 20;

fn lines(problems: &[Problem]) -> String {
    let mut lines: Vec<_> = problems.iter().take(PROBLEMS_SHOWN_MAX).map(Problem::to_string).collect();
    if problems.len() > PROBLEMS_SHOWN_MAX {
        lines.push(format!("and {} more", problems.len() - PROBLEMS_SHOWN_MAX));
    }
    lines.join("\n")
}

/// A value as a message quotes it: escaped, and cut where it would drown the rest.
pub(super) fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
