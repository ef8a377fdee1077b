//! The configurations of clients that `deploy/` gives to users, pointed at the addresses of a test.
//!
//! Values are replaced, never keys: what the tests prove is the file that a user copies.

use std::fs;
use std::path::Path;

/// The text of a file below `deploy/`, with each of `values` in the place of what stands there.
///
/// # Panics
/// When the file is not there, or does not have a value that is to be replaced.
pub fn deployed(name: &str, values: &[(&str, &str)]) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    values.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{name} does not have {from}");
        text.replace(from, to)
    })
}
