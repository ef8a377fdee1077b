//! Standard output: a reader of a pipe who has left has had enough, which is neither a panic nor a failure.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use super::CommandError;

pub(crate) fn print(text: &str) -> Result<(), CommandError> {
    print_bytes(text.as_bytes())
}

pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(CommandError::Failed(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

pub(crate) fn print_json<T: Serialize>(value: &T) -> Result<(), CommandError> {
    match serde_json::to_string_pretty(value) {
        Ok(json) => print(&(json + "\n")),
        Err(error) => Err(CommandError::Failed(format!("cannot write JSON: {error}"))),
    }
}

/// A line for people, beside the result. Unlike `eprintln!` it does not panic when nobody reads.
pub(crate) fn say(line: &str) {
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}
