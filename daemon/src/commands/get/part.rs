//! `PATH.part`, what of a file has come, and `PATH.part.json`, what it is a part of.
//!
//! Bytes are appended in order, so that whatever a killed process has left is a beginning. It is hashed anew before it
//! is gone on with, and thrown away if it is the beginning of something else. One process has it at a time. Where nothing
//! has come, nothing is left.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use darter_engine::ContentId;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::commands::CommandError;

const SIDECAR_BYTES_MAX: u64 = 16 << 10;
const HASHED_AT_ONCE: usize = 256 << 10;
/// Parts of a body on their way to the disk.
const QUEUED_MAX: usize = 64;

/// `PATH.part`
pub(super) fn part_path(path: &Path) -> PathBuf {
    with_suffix(path, ".part")
}

fn sidecar_path(path: &Path) -> PathBuf {
    with_suffix(path, ".part.json")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// What bytes are a part of. Equal origins have equal bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Source {
    /// `sha256:…`, or the hash of a URL, which may hold secrets.
    content: String,
    /// Strong ETag or Last-Modified, for what no digest names.
    validator: Option<String>,
}

impl Source {
    pub(super) fn digest(id: ContentId) -> Self {
        Self { content: format!("sha256:{id}"), validator: None }
    }

    pub(super) fn url(url: &str) -> Self {
        Self { content: format!("url:{}", ContentId::of_name(url)), validator: None }
    }

    pub(super) fn with_validator(&self, validator: Option<String>) -> Self {
        Self { content: self.content.clone(), validator }
    }

    /// For `If-Range`.
    pub(super) fn validator(&self) -> Option<&str> {
        self.validator.as_deref()
    }

    /// Whether bytes that come later are sure to be of the same content.
    pub(super) fn can_be_joined(&self) -> bool {
        self.content.starts_with("sha256:") || self.validator.is_some()
    }
}

/// A file under way.
#[derive(Debug)]
pub(super) struct Part {
    file: File,
    path: PathBuf,
    sha256: Sha256,
    bytes: u64,
    source: Source,
    /// There is no part any more; what has its name now is another's.
    is_gone: bool,
}

impl Part {
    /// Opens or makes the part of `path`, and hashes what of `wanted` is there. Blocks.
    pub(super) fn open(path: &Path, wanted: &Source) -> Result<Self, CommandError> {
        let part = part_path(path);
        if path.is_dir() {
            let message = format!("{} is a directory: name a file with -o", path.display());
            return Err(CommandError::Failed(message));
        }
        let failed = |error| io_failed("write", &part, &error);
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&part);
        let file = opened.map_err(failed)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => {
                CommandError::Failed(format!("{} is being written by another darter get", part.display()))
            }
            _ => failed(error.into()),
        })?;
        let known = sidecar(path).filter(|known| known.content == wanted.content && known.can_be_joined());
        let mut this = Self {
            file,
            path: path.to_owned(),
            sha256: Sha256::new(),
            bytes: 0,
            source: known.clone().unwrap_or_else(|| wanted.clone()),
            is_gone: false,
        };
        match known {
            Some(_) => this.hash_what_is_there().map_err(failed)?,
            None => this.restart(wanted.clone())?,
        }
        Ok(this)
    }

    fn hash_what_is_there(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; HASHED_AT_ONCE];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => {
                    self.sha256.update(&buffer[..read]);
                    self.bytes += read as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Bytes that are there.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// From the first byte, as a part of `source`, which is on disk before any of its bytes.
    pub(super) fn restart(&mut self, source: Source) -> Result<(), CommandError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|error| io_failed("write", &part_path(&self.path), &error))?;
        (self.sha256, self.bytes) = (Sha256::new(), 0);
        self.source = source;
        let path = sidecar_path(&self.path);
        let json =
            serde_json::to_vec(&self.source).map_err(|error| CommandError::Failed(error.to_string()))?;
        fs::write(&path, json).map_err(|error| io_failed("write", &path, &error))
    }

    /// Appends what is sent, on a thread of its own, until the sender is dropped.
    pub(super) fn append(mut self) -> (mpsc::Sender<Bytes>, Appending) {
        let (sender, mut parts) = mpsc::channel::<Bytes>(QUEUED_MAX);
        let appending = tokio::task::spawn_blocking(move || {
            while let Some(part) = parts.blocking_recv() {
                self.file
                    .write_all(&part)
                    .map_err(|error| io_failed("write", &part_path(&self.path), &error))?;
                self.sha256.update(&part);
                self.bytes += part.len() as u64;
            }
            Ok(self)
        });
        (sender, Appending(appending))
    }

    /// The digest of what is there.
    pub(super) fn id(&self) -> ContentId {
        ContentId::from_bytes(self.sha256.clone().finalize().into())
    }

    /// All of it is there: durable, and under its own name. Blocks.
    pub(super) fn finish(mut self) -> Result<(), CommandError> {
        let part = part_path(&self.path);
        self.file.sync_all().map_err(|error| io_failed("write", &part, &error))?;
        fs::rename(&part, &self.path).map_err(|error| io_failed("write", &self.path, &error))?;
        self.is_gone = true;
        remove(&sidecar_path(&self.path));
        Ok(())
    }

    /// It is good for nothing.
    pub(super) fn discard(mut self) {
        self.remove();
    }

    fn remove(&mut self) {
        remove(&part_path(&self.path));
        remove(&sidecar_path(&self.path));
        self.is_gone = true;
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // By the file and not by what was read of it: a beginning that cannot be read now is kept.
        if !self.is_gone && self.file.metadata().is_ok_and(|file| file.len() == 0) {
            self.remove();
        }
    }
}

/// A part that is being appended to.
#[derive(Debug)]
pub(super) struct Appending(tokio::task::JoinHandle<Result<Part, CommandError>>);

impl Appending {
    /// The part, when all that was sent is written.
    pub(super) async fn end(self) -> Result<Part, CommandError> {
        self.0
            .await
            .unwrap_or_else(|_| Err(CommandError::Failed("the writing thread ended by a panic".into())))
    }
}

/// The digest and length of a file, if there is one. Blocks.
pub(super) fn digest_of(path: &Path) -> Option<(ContentId, u64)> {
    let mut file = File::open(path).ok().filter(|file| file.metadata().is_ok_and(|it| it.is_file()))?;
    let mut sha256 = Sha256::new();
    let bytes = io::copy(&mut file, &mut Hashing(&mut sha256)).ok()?;
    Some((ContentId::from_bytes(sha256.finalize().into()), bytes))
}

struct Hashing<'a>(&'a mut Sha256);

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn sidecar(path: &Path) -> Option<Source> {
    let path = sidecar_path(path);
    if fs::metadata(&path).ok()?.len() > SIDECAR_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// What is no longer needed; if it stays, the next run finds it out.
fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}

/// What a file system said, and what to do about it.
pub(super) fn io_failed(what: &str, path: &Path, error: &io::Error) -> CommandError {
    let advice = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "; what has come is kept: make room, and the same command goes on from there"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotFound => {
            "; name another place with -o"
        }
        _ => "",
    };
    CommandError::Failed(format!("cannot {what} {}: {error}{advice}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part of `first` with `bytes` in it, opened again as a part of `second`; how much of it is kept.
    fn kept(first: &Source, bytes: &[u8], second: &Source) -> (u64, ContentId) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut part = Part::open(&path, &Source::url("http://other/")).unwrap();
        part.restart(first.clone()).unwrap();
        part.file.write_all(bytes).unwrap();
        drop(part);
        let part = Part::open(&path, second).unwrap();
        (part.bytes(), part.id())
    }

    fn id(bytes: &[u8]) -> ContentId {
        ContentId::from_bytes(Sha256::digest(bytes).into())
    }

    #[test]
    fn a_beginning_of_the_same_is_hashed_and_kept() {
        let source = Source::digest(id(b"abcdef"));
        assert_eq!(kept(&source, b"abc", &source), (3, id(b"abc")));
        let plain = Source::url("http://a/b");
        let validated = plain.with_validator(Some("\"x\"".into()));
        assert_eq!(kept(&validated, b"abc", &plain), (3, id(b"abc")));
    }

    #[test]
    fn a_beginning_of_something_else_is_not() {
        let source = Source::digest(id(b"abcdef"));
        assert_eq!(kept(&Source::digest(id(b"x")), b"abc", &source), (0, id(b"")));
        assert_eq!(kept(&Source::url("http://a/b"), b"abc", &Source::url("http://a/b")), (0, id(b"")));
    }

    #[test]
    fn a_part_has_one_writer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let part = Part::open(&path, &Source::url("http://a/")).unwrap();
        let refused = Part::open(&path, &Source::url("http://a/")).unwrap_err();
        assert!(refused.to_string().contains("another darter get"), "{refused}");
        part.finish().unwrap();
        assert_eq!(digest_of(&path), Some((id(b""), 0)));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "part and sidecar are gone");
    }

    #[test]
    fn where_nothing_has_come_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let names = || fs::read_dir(directory.path()).unwrap().count();
        let mut part = Part::open(&path, &Source::url("http://a/")).unwrap();
        assert_eq!(names(), 2);
        part.file.write_all(b"x").unwrap();
        drop(part);
        assert_eq!(names(), 2, "what has come is kept");
        drop(Part::open(&path, &Source::url("http://b/")).unwrap());
        assert_eq!(names(), 0, "it was of something else");
    }

    #[test]
    fn a_place_that_cannot_be_written_to_is_told() {
        let refused = Part::open(Path::new("/nowhere/at/all"), &Source::url("http://a/")).unwrap_err();
        let message = "cannot write /nowhere/at/all.part: No such file or directory (os error 2); name another place with -o";
        assert_eq!(refused.to_string(), message);
        let refused = Part::open(Path::new("/"), &Source::url("http://a/")).unwrap_err();
        assert!(refused.to_string().contains("is a directory"), "{refused}");
    }
}
