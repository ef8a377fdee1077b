//! The Debian package, made by `deploy/package` of the `darter` that was built for the tests.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

use crate::cli::{Ran, ran};
use crate::need::Need;
use crate::{built, process};

const CURE: &str = "run tests/tools/release DIRECTORY, and put DIRECTORY/bin into PATH";

/// A package in a directory of its own.
#[derive(Debug)]
pub struct DebianPackage(TempDir);

impl DebianPackage {
    /// What a test needs for it.
    pub const NEEDS: [Need; 4] = [
        Need::Tool { name: "cargo-deb", cure: CURE },
        Need::Tool { name: "cargo-cyclonedx", cure: CURE },
        Need::Program { name: "strip", package: "binutils" },
        Need::Program { name: "dpkg-deb", package: "dpkg" },
    ];

    /// Makes it, with flags of cargo-deb's.
    ///
    /// # Panics
    /// With what is said, when that fails.
    pub fn make(flags: &[&str]) -> Self {
        // All of them are made in one place, beside the binary.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let into = TempDir::with_prefix("darter-package-").expect("a temporary directory can be made");
        let darter = built("darter");
        let target = darter.ancestors().nth(2).expect("it is target/PROFILE/darter");
        let mut make = process::command(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/package"));
        make.arg("dev").arg(into.path()).args(["--quiet", "--fast"]).args(flags);
        make.env("CARGO_TARGET_DIR", target);
        let made = ran(make);
        assert_eq!(made.status, 0, "{made:?}");
        Self(into)
    }

    /// The package.
    ///
    /// # Panics
    /// When there is none.
    pub fn file(&self) -> PathBuf {
        let mut files =
            self.0.path().read_dir().expect("it is there").map(|entry| entry.expect("a file").path());
        files.next().expect("the package was made")
    }

    /// `dpkg-deb` on it: the command, and more arguments behind the file.
    ///
    /// # Panics
    /// When it fails.
    pub fn dpkg(&self, command: &str, more: &[&str]) -> Ran {
        let mut dpkg = process::command("dpkg-deb");
        dpkg.arg(command).arg(self.file()).args(more);
        let done = ran(dpkg);
        assert_eq!(done.status, 0, "{done:?}");
        done
    }
}
