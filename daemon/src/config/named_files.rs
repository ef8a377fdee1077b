//! Files that the configuration names and that are read with it: what is in them counts as a part of it, and what is wrong with one is
//! wrong with the key that names it.

use super::check::Effective;
use super::error::Problem;
use super::keys::Key;
use super::layers::Source;

/// What is in the file of each key.
pub(super) type Contents = Vec<(&'static Key, blake3::Hash)>;

/// The key whose file is wrong, and how.
pub(super) type Wrong = (&'static Key, String);

/// Notes what was read beside the keys' values; or says what is wrong, and where that file was named.
pub(super) fn note(effective: &mut [Effective], read: Result<Contents, Wrong>) -> Vec<Problem> {
    match read {
        Ok(contents) => {
            for (key, content) in contents {
                let rows = effective.iter_mut().filter(|row| row.key == key.path);
                rows.for_each(|row| row.content = Some(content));
            }
            Vec::new()
        }
        Err((key, text)) => {
            let row = effective.iter().find(|row| row.key == key.path);
            let source = row.map_or(Source::Default, |row| row.source.clone());
            vec![Problem { source, key: key.path.into(), text }]
        }
    }
}
