//! Where identities are kept: the only part that reads and writes files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::secrets::{AddError, NoRandomness};
use super::{ClusterSecrets, Identity, IdentityError, NodeKey, SECRETS_BYTES_MAX, SecretsError};

/// The name of a node's key in its data directory.
pub const NODE_KEY_FILE: &str = "node.key";

/// Only the owner may read and write.
const MODE: u32 = 0o600;
/// The longest PEM file that is read.
const PEM_BYTES_MAX: usize = 256 * 1024;

/// What stands in the way. Every message names its file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system says no.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is there already.
    #[error("{0} is there already and is not overwritten: who has it would be cut off from the cluster")]
    Exists(PathBuf),
    /// Longer than anything that it could be.
    #[error("{0} is too long to be what it should be")]
    TooLong(PathBuf),
    /// No file of secrets.
    #[error("{path} is no file of cluster secrets: {source}")]
    Secrets {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: SecretsError,
    },
    /// Nothing can be added.
    #[error("cannot add secrets to {path}: {source}")]
    Add {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: AddError,
    },
    /// No node key.
    #[error("{0} is no node key: remove it to give this node a new name")]
    NodeKey(PathBuf),
    /// No random numbers.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// Files that make no identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Reads a file of cluster secrets. One that others may read too is taken, with a warning in the log; one that root has
/// given to a group to read is meant so, as in a pod whose user is not root.
///
/// # Errors
/// It cannot be read or is none.
pub fn secrets(path: &Path) -> Result<ClusterSecrets, FileError> {
    let (text, kept) = read(path, SECRETS_BYTES_MAX)?;
    if kept.is_open() {
        tracing::warn!(path = %path.display(), mode = format!("{:o}", kept.mode),
            "other users may read the cluster's secrets: chmod 600");
    }
    let text = String::from_utf8_lossy(&text);
    ClusterSecrets::parse(&text).map_err(|source| FileError::Secrets { path: path.to_owned(), source })
}

/// Writes secrets to a new file that only its owner may read.
///
/// # Errors
/// There is one already, or it cannot be written.
pub fn write_secrets(path: &Path, secrets: &ClusterSecrets) -> Result<(), FileError> {
    write_new(path, &secrets.to_text())
}

/// Adds a generation to the secrets in a file, and returns them all.
///
/// # Errors
/// It is none, holds no seed secret, has too many generations, or cannot be written.
pub fn add_secrets(path: &Path, now: SystemTime) -> Result<ClusterSecrets, FileError> {
    let mut all = secrets(path)?;
    all.add(now).map_err(|source| FileError::Add { path: path.to_owned(), source })?;
    replace_secrets(path, &all)?;
    Ok(all)
}

/// Puts secrets in the place of those in a file, in one step.
///
/// # Errors
/// It cannot be written.
pub fn replace_secrets(path: &Path, secrets: &ClusterSecrets) -> Result<(), FileError> {
    let beside = beside(path, ".new");
    let _ = fs::remove_file(&beside);
    write_new(&beside, &secrets.to_text())?;
    fs::rename(&beside, path).map_err(io_error("replace", path))
}

/// The file for peers that stands beside the one for seeds.
#[must_use]
pub fn for_peers(path: &Path) -> PathBuf {
    beside(path, ".peer")
}

/// The key of the node whose data directory this is; the first time, a new one.
///
/// # Errors
/// It cannot be read or written, or is none.
pub fn node_key(data_dir: &Path) -> Result<NodeKey, FileError> {
    let path = data_dir.join(NODE_KEY_FILE);
    match read(&path, SECRETS_BYTES_MAX) {
        Ok((text, _)) => {
            let key = str::from_utf8(&text).ok().and_then(NodeKey::parse);
            key.ok_or(FileError::NodeKey(path))
        }
        Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let key = NodeKey::generate()?;
            // A crash halfway leaves no half key under the name.
            let beside = beside(&path, ".new");
            let _ = fs::remove_file(&beside);
            write_new(&beside, &key.to_text())?;
            fs::rename(&beside, &path).map_err(io_error("write", &path))?;
            Ok(key)
        }
        Err(error) => Err(error),
    }
}

/// An identity from PEM files.
///
/// # Errors
/// One cannot be read, or they make none.
pub fn identity(ca: &Path, cert: &Path, key: &Path, now: SystemTime) -> Result<Identity, FileError> {
    let pem = |path| read(path, PEM_BYTES_MAX).map(|(pem, _)| pem);
    Ok(Identity::from_pem(&pem(ca)?, &pem(cert)?, &pem(key)?, now)?)
}

/// Who may do what with a file.
#[derive(Clone, Copy, Debug)]
struct Kept {
    mode: u32,
    owner: u32,
}

impl Kept {
    /// Whether others than its owner, or than a group to which root has given it to read, may have it.
    fn is_open(self) -> bool {
        let for_group = if self.owner == 0 { 0o040 } else { 0 };
        self.mode & 0o077 & !for_group != 0
    }
}

/// What a file holds, and for whom.
fn read(path: &Path, bytes_max: usize) -> Result<(Vec<u8>, Kept), FileError> {
    let error = io_error("read", path);
    let mut held = Vec::new();
    let file = File::open(path).map_err(&error)?;
    let seen = file.metadata().map_err(&error)?;
    let kept = Kept { mode: seen.mode() & 0o777, owner: seen.uid() };
    file.take(bytes_max as u64 + 1).read_to_end(&mut held).map_err(&error)?;
    if held.len() > bytes_max { Err(FileError::TooLong(path.to_owned())) } else { Ok((held, kept)) }
}

fn write_new(path: &Path, text: &str) -> Result<(), FileError> {
    let error = io_error("write", path);
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(MODE).open(path) {
        Err(taken) if taken.kind() == io::ErrorKind::AlreadyExists => {
            return Err(FileError::Exists(path.to_owned()));
        }
        opened => opened.map_err(&error)?,
    };
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|failed| {
        // Half a file would stand in the way of the next try.
        let _ = fs::remove_file(path);
        error(failed)
    })
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io { action, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("written").mode() & 0o777
    }

    #[test]
    fn secrets_are_for_their_owner_and_never_overwritten() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("cluster");
        let now = SystemTime::now();
        let first = ClusterSecrets::generate(now).expect("randomness");
        write_secrets(&path, &first).expect("written");
        assert_eq!(mode(&path), 0o600);
        let again = write_secrets(&path, &ClusterSecrets::generate(now).expect("randomness"));
        assert!(matches!(again, Err(FileError::Exists(_))), "{again:?}");
        assert_eq!(secrets(&path).expect("read"), first);
        let added = add_secrets(&path, now + Duration::from_secs(1)).expect("added");
        assert_ne!(added, first);
        assert_eq!((secrets(&path).expect("read"), mode(&path)), (added, 0o600));
    }

    #[test]
    fn only_root_may_give_them_to_a_group() {
        let is_open = |owner, mode| Kept { mode, owner }.is_open();
        assert!([0, 7].iter().all(|owner| !is_open(*owner, 0o600) && !is_open(*owner, 0o400)));
        assert!(!is_open(0, 0o440) && is_open(7, 0o440));
        for mode in [0o444, 0o404, 0o460, 0o450, 0o441] {
            assert!(is_open(0, mode), "{mode:o}");
        }
    }

    #[test]
    fn a_node_keeps_its_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let id = node_key(directory.path()).expect("made").id();
        assert_eq!(node_key(directory.path()).expect("read").id(), id);
        let path = directory.path().join(NODE_KEY_FILE);
        assert_eq!(mode(&path), 0o600);
        fs::write(&path, "something else").expect("written");
        assert!(matches!(node_key(directory.path()), Err(FileError::NodeKey(_))));
    }

    #[test]
    fn what_is_too_long_is_not_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("cluster");
        fs::write(&path, vec![b'#'; SECRETS_BYTES_MAX + 1]).expect("written");
        assert!(matches!(secrets(&path), Err(FileError::TooLong(_))));
        let missing = secrets(&directory.path().join("none")).expect_err("nothing there").to_string();
        assert!(missing.starts_with("cannot read ") && missing.contains("none"), "{missing}");
    }
}
