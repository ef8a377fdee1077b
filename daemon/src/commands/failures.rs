//! Objects of a directory that did not come: the rest goes on, and at the end they are named. Pure.

use serde::Serialize;

use super::{CommandError, text};

/// Those that are named; the others are counted.
const NAMED_MAX: usize = 20;
const NAME_CHARS_MAX: usize = 200;
const MESSAGE_CHARS_MAX: usize = 600;

/// What did not come, in JSON: `failed_objects`, and of the first of them `failed`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Failures {
    failed_objects: u64,
    failed: Vec<Failure>,
}

#[derive(Debug, Serialize)]
struct Failure {
    name: String,
    message: String,
}

impl Failures {
    /// One more.
    pub(super) fn add(&mut self, name: &str, message: &str) {
        self.failed_objects += 1;
        if self.failed.len() < NAMED_MAX {
            let name = text::plain(name, NAME_CHARS_MAX);
            self.failed.push(Failure { name, message: text::plain(message, MESSAGE_CHARS_MAX) });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.failed_objects == 0
    }

    /// What to say at the end, if there are any.
    ///
    /// # Errors
    /// There are.
    pub(super) fn complaint(&self, what_is_kept: &str) -> Result<(), CommandError> {
        if self.failed_objects == 0 {
            return Ok(());
        }
        let named = self.failed.iter().map(|Failure { name, message }| format!("\n  {name}: {message}"));
        let named: String = named.collect();
        let more = match self.failed_objects - self.failed.len() as u64 {
            0 => String::new(),
            more => format!("\n  and {more} more"),
        };
        let message = format!("{} objects did not come; {what_is_kept}:{named}{more}", self.failed_objects);
        Err(CommandError::Failed(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_named_and_the_others_counted() {
        let mut failures = Failures::default();
        assert!(failures.complaint("all else is there").is_ok());
        for number in 0..NAMED_MAX + 3 {
            failures.add(&format!("a\x1b{number}"), "no");
        }
        let complaint = failures.complaint("all else is there").unwrap_err().to_string();
        assert!(
            complaint.starts_with("23 objects did not come; all else is there:\n  a 0: no\n"),
            "{complaint}"
        );
        assert!(complaint.ends_with("\n  a 19: no\n  and 3 more"), "{complaint}");
    }
}
