//! Everything below a directory, to show that a start that was refused has changed nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The files and directories below a directory, with the bytes of the files; for small directories.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Path to content; `None` for a directory.
    entries: BTreeMap<PathBuf, Option<Vec<u8>>>,
}

impl Snapshot {
    /// What is there now.
    pub fn of(directory: &Path) -> Snapshot {
        let mut entries = BTreeMap::new();
        add(directory, &mut entries);
        Snapshot { entries }
    }

    /// Compares with what is there now. The empty `lock`, which a start makes before it looks at anything
    /// else, may have come.
    ///
    /// # Panics
    /// Naming what has changed.
    pub fn assert_unchanged(&self, directory: &Path) {
        let mut now = Snapshot::of(directory);
        let lock = directory.join("lock");
        if !self.entries.contains_key(&lock) && now.entries.get(&lock) == Some(&Some(Vec::new())) {
            now.entries.remove(&lock);
        }
        let paths = self.entries.keys().chain(now.entries.keys());
        let changed: Vec<_> = paths.filter(|&path| self.entries.get(path) != now.entries.get(path)).collect();
        assert!(changed.is_empty(), "changed by a start that was refused: {changed:?}");
    }
}

fn add(directory: &Path, entries: &mut BTreeMap<PathBuf, Option<Vec<u8>>>) {
    for entry in fs::read_dir(directory).expect("the directory can be read") {
        let path = entry.expect("the directory can be read").path();
        if path.is_dir() {
            add(&path, entries);
            entries.insert(path, None);
        } else {
            let content = fs::read(&path).expect("the file can be read");
            entries.insert(path, Some(content));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "inner/file")]
    fn one_changed_byte_is_seen() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let inner = directory.path().join("inner");
        fs::create_dir(&inner).expect("the directory can be made");
        fs::write(inner.join("file"), "before").expect("the file can be written");
        let before = Snapshot::of(directory.path());
        fs::write(directory.path().join("lock"), "").expect("the file can be written");
        before.assert_unchanged(directory.path());
        fs::write(inner.join("file"), "Before").expect("the file can be written");
        before.assert_unchanged(directory.path());
    }
}
