//! All that is below a directory of a storage service, the hub or a web server, into a directory here.
//!
//! The list is read as far as there is room: nothing here grows with the number of objects but a set of hashes, which has a
//! limit. Each object is a download of its own, with its own `.part`; one that does not come is named at the end, and the rest
//! goes on.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use futures_util::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::download::{Done, Download, blocking, download};
use super::progress::Progress;
use super::session::Session;
use crate::commands::CommandError;
use crate::commands::failures::Failures;
use crate::objects::{Filters, Listed, RelativePath, Store};

/// Downloads at a time.
const OBJECTS_AT_ONCE: usize = 8;
/// Names that are compared with later ones: 16 MiB of hashes. Of a longer list the last are only compared with these.
const NAMES_MAX: usize = 1 << 20;

/// What has come.
#[derive(Debug, Default, Serialize)]
pub(super) struct GotTree {
    pub(super) objects: u64,
    pub(super) length_bytes: u64,
    /// That were there from an earlier run, in whole objects or in parts of them.
    resumed_from_bytes: u64,
    #[serde(flatten)]
    pub(super) failures: Failures,
}

impl GotTree {
    /// Whether there was nothing to bring.
    pub(super) fn is_empty(&self) -> bool {
        self.objects == 0 && self.failures.is_empty()
    }
}

/// Brings all that the filters take into a directory.
///
/// # Errors
/// Nothing is below it, the daemon cannot be reached, or the list breaks off. Objects that do not come are no error here.
pub(super) async fn get(
    session: &Session,
    store: &Store,
    filters: &Filters,
    directory: &Path,
    progress: &Progress,
) -> Result<GotTree, CommandError> {
    if directory.exists() && !directory.is_dir() {
        let message = format!("{} is a file: name a directory with -o", directory.display());
        return Err(CommandError::Failed(message));
    }
    let mut names = Names::default();
    let wanted = store.list().map_err(CommandError::from).try_filter(|listed| {
        let takes = filters.take(&listed.name);
        async move { takes }
    });
    // Before anything is begun, in the order of the list.
    let checked = wanted.map_ok(|listed| {
        let path = names.path_of(&listed);
        (listed, path)
    });
    let fetched = checked.map(|object| async {
        let (listed, path) = object?;
        let got = match path {
            Ok(path) => one(session, store, (&listed, path.below(directory), directory), progress).await,
            Err(why) => Err(CommandError::Failed(why)),
        };
        match got {
            Err(error @ CommandError::Unreachable(_)) => Err(error),
            got => Ok((listed.name, got)),
        }
    });
    let mut fetched = std::pin::pin!(fetched.buffer_unordered(OBJECTS_AT_ONCE));
    let mut tree = GotTree::default();
    while let Some((name, got)) = fetched.try_next().await? {
        match got {
            Ok(done) => {
                tree.objects += 1;
                tree.length_bytes += done.length_bytes;
                tree.resumed_from_bytes +=
                    if done.already_there { done.length_bytes } else { done.resumed_from_bytes };
                progress.object();
            }
            Err(error) => tree.failures.add(&name, &error.to_string()),
        }
    }
    Ok(tree)
}

/// One object into its file.
async fn one(
    session: &Session,
    store: &Store,
    (listed, path, top): (&Listed, PathBuf, &Path),
    progress: &Progress,
) -> Result<Done, CommandError> {
    let (parent, top) = (path.clone(), top.to_owned());
    blocking(move || make_parent(&top, &parent)).await??;
    object(session, store, listed, (path, progress)).await
}

/// One object into that file, also where that takes longer than its signed address is good.
pub(super) async fn object(
    session: &Session,
    store: &Store,
    listed: &Listed,
    (path, progress): (PathBuf, &Progress),
) -> Result<Done, CommandError> {
    loop {
        let place = store.place(&listed.key).await?;
        let ends = place.clone();
        let wanted = Download { place, id: listed.id, length_bytes: listed.length_bytes, path: path.clone() };
        match download(session, &wanted, progress).await {
            // It goes on from what has come.
            Err(CommandError::Failed(_)) if ends.has_ended() => {}
            ended => return ended,
        }
    }
}

/// Makes the directories of a file below `top`. One that is a link leads elsewhere, and is not gone into. Blocks.
fn make_parent(top: &Path, file: &Path) -> Result<(), CommandError> {
    let failed =
        |path: &Path, why: &str| CommandError::Failed(format!("cannot make {}: {why}", path.display()));
    fs::create_dir_all(top).map_err(|error| failed(top, &error.to_string()))?;
    let below = file.parent().and_then(|parent| parent.strip_prefix(top).ok()).unwrap_or(Path::new(""));
    let mut path = top.to_owned();
    for part in below.components() {
        let Component::Normal(part) = part else { return Err(failed(file, "it is not below the directory")) };
        path.push(part);
        match fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(&path, &error.to_string())),
        }
        let found = fs::symlink_metadata(&path).map_err(|error| failed(&path, &error.to_string()))?;
        if !found.is_dir() {
            return Err(failed(&path, "there is a file or a link of that name"));
        }
    }
    Ok(())
}

/// The names that have been seen.
#[derive(Default)]
struct Names(HashSet<u64>);

impl Names {
    /// The path of an object, unless it is none or another object has it.
    fn path_of(&mut self, listed: &Listed) -> Result<RelativePath, String> {
        let path = RelativePath::parse(&listed.name)
            .map_err(|error| format!("{error}; nothing of it was written"))?;
        let hash = blake3::hash(path.as_str().as_bytes());
        let hash = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        if self.0.contains(&hash) {
            return Err("another object has been listed by that name already".into());
        }
        if self.0.len() < NAMES_MAX {
            self.0.insert(hash);
        }
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str) -> Listed {
        Listed { key: name.into(), name: name.into(), length_bytes: None, id: None }
    }

    #[test]
    fn a_name_is_used_once() {
        let mut names = Names::default();
        assert!(names.path_of(&listed("a/b")).is_ok());
        assert!(names.path_of(&listed("a/c")).is_ok());
        assert!(names.path_of(&listed("a/b")).unwrap_err().contains("already"));
        assert!(names.path_of(&listed("../b")).unwrap_err().contains("nothing of it was written"));
    }

    #[test]
    fn directories_are_made_and_links_are_not_followed() {
        let top = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let directory = top.path().join("out");
        assert!(make_parent(&directory, &directory.join("a/b/file")).is_ok());
        assert!(make_parent(&directory, &directory.join("a/b/other")).is_ok());
        assert!(directory.join("a/b").is_dir());
        std::os::unix::fs::symlink(elsewhere.path(), directory.join("link")).unwrap();
        let refused = make_parent(&directory, &directory.join("link/d/file")).unwrap_err().to_string();
        assert!(refused.contains("link"), "{refused}");
        assert!(fs::read_dir(elsewhere.path()).unwrap().next().is_none());
        fs::write(directory.join("plain"), "").unwrap();
        assert!(make_parent(&directory, &directory.join("plain/file")).is_err());
    }
}
