//! What was written for a client, and what was there before: the way back.
//!
//! `/var/lib/darter/init/CLIENT` below the root holds `record.json`, and beside it a copy of each file that was there
//! already. The directory gets its name when all of that is on the disk, before the first file is written; from then
//! on each file is either as it was before or as darter has written it, and the record knows both. It loses that name,
//! `CLIENT.old` for a moment, when all files are as they were: a record with a name is whole.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::plan::{Asked, Change, Plan};
use super::tree::{Owner, Root, Tree, TreeError};

const DIRECTORY: &str = "/var/lib/darter/init";
const VERSION: u32 = 1;

/// Why the way back is not known, or not gone. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(
        "{path} is no record of this version of darter ({why}): nothing was touched; use the darter that wrote it, or put \
         the client's files right by hand and then remove {record}"
    )]
    Unreadable { path: String, why: String, record: String },
    #[error(
        "{path} has changed since darter wrote it, and nothing was touched: take out by hand what darter has put in, \
         or copy {before} over it; then remove {record}"
    )]
    Changed { path: String, before: String, record: String },
    #[error("another darter init is at work here: wait until it has ended")]
    Busy,
}

/// One file that was written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Written {
    pub(super) path: String,
    /// `None`: it was not there.
    pub(super) before: Option<Before>,
    /// BLAKE3 of what was written.
    after: String,
}

/// A file as it was.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Before {
    digest: String,
    pub(super) owner: Owner,
}

/// All that was written for a client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    /// What all of it is for.
    pub(super) asked: Asked,
    pub(super) files: Vec<Written>,
    /// Those that were made, the outermost first.
    pub(super) directories: Vec<String>,
    /// Those that were made for this record, the outermost first.
    kept_in: Vec<String>,
}

/// How a file is, compared with what is known of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Before,
    After,
}

/// Where the record of a client is kept.
#[derive(Clone, Debug)]
pub(super) struct Keeping {
    root: Root,
    directory: String,
}

/// Held while files are written.
#[derive(Debug)]
pub(super) struct Lock {
    directory: File,
    root: Root,
    made: Vec<String>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // As long as something is kept in them, they are not empty, and stay.
        self.root.remove_directory(DIRECTORY);
        self.made.iter().rev().for_each(|directory| self.root.remove_directory(directory));
    }
}

impl Keeping {
    pub(super) fn of(root: &Root, client: &str) -> Self {
        Self { root: root.clone(), directory: format!("{DIRECTORY}/{client}") }
    }

    /// For this process alone, until it is dropped. A lock of the kernel's: a crash leaves none behind.
    pub(super) fn lock(&self) -> Result<Lock, RecordError> {
        let mut made = self.root.missing_above(&self.directory)?;
        for directory in &made {
            self.root.make_directory(directory)?;
        }
        if made.is_empty() {
            // A record that cannot be read is an error of those who need it.
            let record =
                [&self.directory, &self.removed()].into_iter().find_map(|at| self.record_at(at).ok()?);
            made = record.map(|record| record.kept_in).unwrap_or_default();
        }
        let failed = |source| TreeError::Io { action: "lock", path: DIRECTORY.to_owned(), source };
        let directory = File::open(self.root.at(DIRECTORY)?).map_err(failed)?;
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock { directory, root: self.root.clone(), made }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(RecordError::Busy),
            Err(error) => Err(failed(error.into()).into()),
        }
    }

    /// The copy of a file as it was before.
    pub(super) fn backup(&self, path: &str) -> PathBuf {
        PathBuf::from(self.root.shown(&self.backup_path(path)))
    }

    fn backup_path(&self, path: &str) -> String {
        format!("{}/{}", self.directory, backup_name(path))
    }

    /// The record, if there is one.
    pub(super) fn record(&self) -> Result<Option<Record>, RecordError> {
        self.record_at(&self.directory)
    }

    fn record_at(&self, directory: &str) -> Result<Option<Record>, RecordError> {
        let path = format!("{directory}/record.json");
        let Some(bytes) = self.root.file(&path)? else { return Ok(None) };
        let unreadable = |why: String| self.unreadable(&path, why);
        let record: Record = serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
        match record.version {
            VERSION => Ok(Some(record)),
            other => Err(unreadable(format!("its version is {other}"))),
        }
    }

    fn unreadable(&self, path: &str, why: String) -> RecordError {
        RecordError::Unreadable { path: self.root.shown(path), why, record: self.root.shown(&self.directory) }
    }

    /// How a file is now, and what is in it.
    ///
    /// # Errors
    /// It is neither as it was nor as it was written.
    pub(super) fn state(&self, written: &Written) -> Result<(State, Option<Vec<u8>>), RecordError> {
        let now = self.root.file(&written.path)?;
        let digest = now.as_deref().map(digest);
        let state = match digest {
            // One that darter had made and somebody has removed is as it was.
            _ if digest.as_ref() == written.before.as_ref().map(|before| &before.digest) => State::Before,
            Some(digest) if digest == written.after => State::After,
            _ => {
                let before =
                    written.before.as_ref().map(|_| self.backup(&written.path).display().to_string());
                return Err(RecordError::Changed {
                    path: self.root.shown(&written.path),
                    before: before
                        .unwrap_or_else(|| "nothing (it was not there before; remove it)".to_owned()),
                    record: self.root.shown(&self.directory),
                });
            }
        };
        Ok((state, now))
    }

    /// What was in a file before.
    ///
    /// # Errors
    /// Its copy is not what the record says.
    pub(super) fn before(&self, written: &Written) -> Result<Option<Vec<u8>>, RecordError> {
        let Some(before) = &written.before else { return Ok(None) };
        let path = self.backup_path(&written.path);
        match self.root.file(&path)? {
            Some(bytes) if digest(&bytes) == before.digest => Ok(Some(bytes)),
            _ => Err(self.unreadable(&path, "it is not the copy that was made".to_owned())),
        }
    }

    /// The root as it was before anything was written for this client.
    pub(super) fn as_before<'a>(&self, root: &'a Root) -> Result<AsBefore<'a>, RecordError> {
        let record = self.record()?;
        let mut files = Vec::new();
        for written in record.iter().flat_map(|record| &record.files) {
            // One that is as it was needs no copy, and a way back that was cut short may have removed that already.
            if self.state(written)?.0 == State::After {
                files.push((written.path.clone(), self.before(written)?));
            }
        }
        Ok(AsBefore { root, files })
    }

    /// What was written, as a plan; of files that are as they were nothing.
    pub(super) fn as_plan(&self) -> Result<Plan, RecordError> {
        let Some(record) = self.record()? else { return Ok(Plan::default()) };
        let mut changes = Vec::new();
        for written in &record.files {
            if let (State::After, Some(after)) = self.state(written)? {
                changes.push(Change { path: written.path.clone(), before: self.before(written)?, after });
            }
        }
        Ok(Plan { changes, next: Vec::new(), asked: record.asked })
    }

    /// Whether all is as a plan wants it, and the record knows it.
    pub(super) fn is_as(&self, root: &Root, plan: &Plan) -> Result<bool, RecordError> {
        let files = self.record()?.map(|record| record.files).unwrap_or_default();
        let is_same = |(written, change): (&Written, &Change)| {
            written.path == change.path && written.after == digest(&change.after)
        };
        if files.len() != plan.changes.len() || !files.iter().zip(&plan.changes).all(is_same) {
            return Ok(false);
        }
        for change in &plan.changes {
            if root.file(&change.path)?.as_deref() != Some(&change.after) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Keeps the way back from a plan that is not begun yet: durable when it returns. There is none so far.
    pub(super) fn keep(&self, plan: &Plan, lock: &Lock) -> Result<Record, RecordError> {
        let unfinished = self.unfinished();
        self.clean_up()?;
        if self.record()?.is_none() {
            // Nothing leads back from a directory without a record.
            self.forget_at(&self.directory)?;
        }
        let kept = self.keep_at(&unfinished, plan, lock);
        if kept.is_err() {
            // It has no name yet by which anybody would look for it.
            let _ = self.forget_at(&unfinished);
        }
        kept
    }

    fn keep_at(&self, unfinished: &str, plan: &Plan, lock: &Lock) -> Result<Record, RecordError> {
        let kept_in = lock.made.clone();
        let mut record = Record {
            version: VERSION,
            asked: plan.asked.clone(),
            files: Vec::new(),
            directories: Vec::new(),
            kept_in,
        };
        self.root.make_directory(unfinished)?;
        for change in &plan.changes {
            for directory in self.root.missing_above(&change.path)? {
                if !record.directories.contains(&directory) {
                    record.directories.push(directory);
                }
            }
            let owner = self.root.owner(&change.path)?;
            let before = change.before.as_deref().zip(owner);
            if let Some((bytes, owner)) = before {
                // A copy of a secret is as secret.
                let copy = format!("{unfinished}/{}", backup_name(&change.path));
                self.root.replace(&copy, None, bytes, Some(owner))?;
            }
            record.files.push(Written {
                path: change.path.clone(),
                before: before.map(|(bytes, owner)| Before { digest: digest(bytes), owner }),
                after: digest(&change.after),
            });
        }
        let json = serde_json::to_vec_pretty(&record)
            .unwrap_or_else(|_| unreachable!("strings and numbers are JSON"));
        self.root.replace(&format!("{unfinished}/record.json"), None, &json, None)?;
        let (from, to) = (self.root.at(unfinished)?, self.root.at(&self.directory)?);
        let renamed = fs::rename(from, to).and_then(|()| lock.directory.sync_all());
        renamed.map_err(|source| TreeError::Io { action: "write", path: self.directory.clone(), source })?;
        Ok(record)
    }

    /// Removes the record, in one step: there is nothing to go back to.
    pub(super) fn forget(&self) -> Result<(), RecordError> {
        self.clean_up()?;
        let removing = |source| TreeError::Io { action: "remove", path: self.directory.clone(), source };
        let (from, to) = (self.root.at(&self.directory)?, self.root.at(&self.removed())?);
        let above = self.root.at(DIRECTORY)?;
        fs::rename(from, to).and_then(|()| File::open(above)?.sync_all()).map_err(removing)?;
        self.clean_up()
    }

    /// Removes what a crash has left beside the record: one that had no name yet, and one that had lost it.
    pub(super) fn clean_up(&self) -> Result<(), RecordError> {
        self.forget_at(&self.unfinished())?;
        self.forget_at(&self.removed())
    }

    fn unfinished(&self) -> String {
        format!("{}.new", self.directory)
    }

    fn removed(&self) -> String {
        format!("{}.old", self.directory)
    }

    fn forget_at(&self, directory: &str) -> Result<(), RecordError> {
        match fs::remove_dir_all(self.root.at(directory)?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(TreeError::Io { action: "remove", path: directory.to_owned(), source: error }.into())
            }
            _ => Ok(()),
        }
    }
}

/// A root, with some files as they were before.
#[derive(Debug)]
pub(super) struct AsBefore<'a> {
    root: &'a Root,
    files: Vec<(String, Option<Vec<u8>>)>,
}

impl Tree for AsBefore<'_> {
    fn file(&self, path: &str) -> Result<Option<Vec<u8>>, TreeError> {
        match self.files.iter().find(|(known, _)| known == path) {
            Some((_, before)) => Ok(before.clone()),
            None => self.root.file(path),
        }
    }

    fn names(&self, path: &str) -> Result<Vec<String>, TreeError> {
        self.root.names(path)
    }
}

fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_string()
}

/// One name for a whole path: `etc+docker+daemon.json`.
fn backup_name(path: &str) -> String {
    path.trim_start_matches('/').replace('/', "+")
}
