//! The real `darter` as a person or a script runs it: arguments, output, exit status.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::built;

/// Where not even root can make a file.
pub(crate) const NO_FILES_HERE: &str = "/proc";

/// What a run printed, and its exit status.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The exit status; -1 when a signal ended it.
    pub status: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is none, or the run did not end with 0.
    pub fn json(&self) -> Value {
        assert_eq!(self.status, 0, "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Asserts the exit status, and that each of `words` is in the error.
    ///
    /// # Panics
    /// When it is not so.
    pub fn failed(&self, status: i32, words: &[&str]) {
        assert_eq!(self.status, status, "{self:?}");
        assert!(!self.err.contains("panicked"), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {self:?}");
        }
    }
}

/// Runs `darter` to its end.
///
/// # Panics
/// When it cannot be executed or prints something else than UTF-8.
pub fn darter(args: &[&str]) -> Ran {
    ran(command(args))
}

/// Runs a command to its end.
///
/// # Panics
/// As [`darter()`].
pub fn ran(mut command: Command) -> Ran {
    let output = command.output().expect("the binary can be executed");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran { status: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// `darter` with these arguments, without the proxies, credentials and state of the person who runs the tests, and in a
/// working directory where nobody can make a file: what it writes has to be named.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(built("darter"));
    command.args(args).stdin(Stdio::null()).current_dir(NO_FILES_HERE);
    let nowhere = Path::new("/nonexistent");
    command.env("HOME", nowhere).env_remove("DOCKER_CONFIG").env_remove("XDG_STATE_HOME");
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(proxy);
    }
    command
}
