//! `darter get` as a user runs it, into a directory of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::cli::{Ran, command, ran};

/// A directory to fetch into, and a front to fetch through.
#[derive(Debug)]
pub struct Getter {
    /// Where it fetches into, under the name `out`.
    pub directory: TempDir,
    /// The front that it asks.
    pub front: SocketAddr,
}

impl Getter {
    /// Into a directory of its own.
    ///
    /// # Panics
    /// When no temporary directory can be made.
    pub fn new(front: SocketAddr) -> Getter {
        Getter { directory: TempDir::new().expect("a temporary directory can be made"), front }
    }

    /// The file, or the directory of the image, that it makes.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("out")
    }

    /// What is kept of it until it is whole.
    pub fn part(&self) -> PathBuf {
        self.directory.path().join("out.part")
    }

    /// `darter get` with these arguments, not run yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = command(&[&["get"], args].concat());
        command.arg("--front").arg(self.front.to_string()).arg("-o").arg(self.path());
        command
    }

    /// Runs it to its end.
    pub fn get(&self, args: &[&str]) -> Ran {
        ran(self.command(args))
    }

    /// Runs it beside the test.
    ///
    /// # Panics
    /// When the binary cannot be executed.
    pub fn start(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary can be executed")
    }

    /// What is in the directory, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).expect("the directory is there");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }

    /// How much has come; 0 when there is no part.
    pub fn part_bytes(&self) -> u64 {
        fs::metadata(self.part()).map_or(0, |part| part.len())
    }

    /// Asserts that the file has these bytes, and that nothing is left beside it.
    ///
    /// # Panics
    /// When it has not.
    pub fn holds(&self, bytes: &[u8]) {
        let found = fs::read(self.path()).expect("the file is there");
        assert!(found == bytes, "{} bytes, and not the {} expected", found.len(), bytes.len());
        assert_eq!(self.names(), ["out"], "nothing is left beside it");
    }
}
