//! What a test requires of the machine, and what happens when that is missing.
//!
//! A machine without `/dev/fuse` or without root still gets a meaningful `cargo test --workspace`: the test
//! says aloud what it lacks and passes. Continuous integration sets `DARTER_TEST_REQUIRE=1`, which turns each
//! such skip into a failure, so that no scenario is lost unnoticed.

use std::env;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::net::Network;
use crate::{MemoryCgroup, Throttle};

/// The variable under which a missing requirement fails the test.
pub const REQUIRE: &str = "DARTER_TEST_REQUIRE";

/// Something a test cannot do without.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// Effective user 0, to mount file systems.
    Root,
    /// `/dev/fuse`, open to this user.
    Fuse,
    /// A kernel and a profile that let this process set up an io_uring.
    IoUring,
    /// A kernel that can hold files by Landlock.
    Landlock,
    /// One that can hold signals as well.
    LandlockSignals,
    /// So many open files of this process, whose limit is raised if it may be.
    OpenFiles(u64),
    /// A memory controller in which this user may make cgroups.
    MemoryCgroup,
    /// A throttle of block devices.
    Throttle,
    /// Network namespaces in which this user may make bridges and shaped links.
    Namespaces,
    /// A program on the path, and the Debian package that brings it.
    Program {
        /// What is executed.
        name: &'static str,
        /// What `apt-get install` takes.
        package: &'static str,
    },
    /// A program on the path that no package of Debian's brings.
    Tool {
        /// What is executed.
        name: &'static str,
        /// What brings it.
        cure: &'static str,
    },
}

/// True when the machine has all that `test` needs. Otherwise says what is missing and returns false: the
/// test then returns at once.
///
/// # Panics
/// When something is missing and [`REQUIRE`] is `1`.
pub fn need(test: &str, needs: &[Need]) -> bool {
    let Some((what, cure)) = needs.iter().find_map(|need| need.missing()) else { return true };
    let skipped = format!("SKIPPED: {test}: {what}; {cure}");
    assert!(env::var_os(REQUIRE).as_deref() != Some(OsStr::new("1")), "{skipped} ({REQUIRE}=1)");
    eprintln!("{skipped}");
    false
}

/// Where `program` is, if it is on the path.
pub fn program(program: &str) -> Option<PathBuf> {
    // Debian keeps mkfs and mount helpers in the sbin directories, which are not on every user's path.
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    places.map(|place| place.join(program)).find(|file| {
        file.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}

impl Need {
    /// What is missing and what to do about it.
    fn missing(self) -> Option<(String, String)> {
        match self {
            Need::Root => (!rustix::process::geteuid().is_root())
                .then(|| ("not root".into(), "run the tests as root".into())),
            Need::Fuse => OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/fuse")
                .err()
                .map(|error| (format!("/dev/fuse: {error}"), "load the module fuse, run as root".into())),
            Need::IoUring => io_uring::IoUring::new(2)
                .err()
                .map(|error| (format!("io_uring: {error}"), "allow io_uring_setup for this process".into())),
            Need::Landlock => darter::sandbox::probe().err().map(|error| {
                (format!("Landlock: {error}"), "use Linux 6.2 or newer, with landlock among its LSMs".into())
            }),
            Need::LandlockSignals => darter::sandbox::probe_signals().err().map(|error| {
                (format!("Landlock: {error}"), "use Linux 6.12 or newer, with landlock among its LSMs".into())
            }),
            Need::OpenFiles(files) => {
                let limit = getrlimit(Resource::Nofile);
                let raised = Rlimit { current: limit.maximum.or(Some(files)), maximum: limit.maximum };
                let enough = limit.maximum.is_none_or(|maximum| maximum >= files)
                    && setrlimit(Resource::Nofile, raised).is_ok();
                (!enough).then(|| {
                    (format!("fewer than {files} open files are allowed"), "raise `ulimit -Hn`".into())
                })
            }
            Need::MemoryCgroup => MemoryCgroup::available()
                .err()
                .map(|what| (what, "run as root where the memory controller of cgroups is mounted".into())),
            Need::Throttle => Throttle::available().err().map(|what| {
                (what, "run as root on Linux 6.2 or newer, where the blkio controller is mounted".into())
            }),
            Need::Namespaces => Network::available()
                .err()
                .map(|what| (what, "run as root, with the packages iproute2 and util-linux".into())),
            Need::Tool { name, cure } => {
                program(name).is_none().then(|| (format!("{name} is not here"), cure.to_owned()))
            }
            Need::Program { name, package } => match program(name) {
                Some(_) => None,
                None => Some((format!("{name} is not here"), format!("apt-get install {package}"))),
            },
        }
    }
}
