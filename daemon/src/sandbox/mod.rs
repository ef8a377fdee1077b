//! What holds the daemon while it runs, so that who breaks into it gains little: Landlock for files, signals and
//! sockets by name, seccomp for system calls, and a user of its own.
//!
//! [`enter`] is called once, by the thread that is the whole process as yet: threads that are made later are held as
//! well. It comes after the configuration has been read and the ports are open, and before the store is: what a start
//! cannot open, a daemon that runs could not either.
//!
//! Nothing is broken open again from within: what is given up is gone until the process ends. Not here: limits of
//! memory, files and time, and which addresses are connected to; those are everywhere and in `origin::guard`.

mod calls;
mod files;
mod rules;
mod user;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

pub use calls::CallsError;
pub use files::{FilesError, Held, probe, probe_signals};
pub use rules::Rules;
pub use user::{UserError, become_user, is_root, may_write};

use crate::config::SandboxMode;

/// Whether this process is held, for the words of later errors.
static FILES_ARE_HELD: AtomicBool = AtomicBool::new(false);

/// Why the daemon is not held as it is told to be. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Landlock.
    #[error(
        "sandbox.mode: required, and files cannot be held by Landlock ({0}): use Linux 6.2 or newer with landlock among \
         its LSMs (lsm=landlock,…), or set sandbox.mode: auto"
    )]
    Files(#[from] FilesError),
    /// Seccomp.
    #[error(
        "sandbox.mode: required, and system calls cannot be held by seccomp ({0}): use a kernel that has \
         CONFIG_SECCOMP_FILTER, or set sandbox.mode: auto"
    )]
    Calls(#[from] CallsError),
}

/// What holds the process now. It is to live as long as the process.
#[derive(Debug)]
pub struct Sandbox {
    /// `/proc/self`: the kernel holds a rule by the directory's inode, and makes another one when nobody has it open.
    _own_process: Option<File>,
    files: Option<Held>,
    calls: bool,
}

/// Gives up what a daemon with these rules does not need, for this thread and all that it makes.
///
/// # Errors
/// Only in [`SandboxMode::Required`]: something cannot be given up. In [`SandboxMode::Auto`] that is logged.
pub fn enter(mode: SandboxMode, rules: &Rules) -> Result<Sandbox, SandboxError> {
    let own_process = File::open("/proc/self").ok();
    let mut sandbox = Sandbox { _own_process: own_process, files: None, calls: false };
    let is_required = match mode {
        SandboxMode::Off => return Ok(sandbox),
        SandboxMode::Auto => false,
        SandboxMode::Required => true,
    };
    match files::hold(rules, is_required) {
        Ok(held) => {
            FILES_ARE_HELD.store(true, Ordering::Relaxed);
            sandbox.files = Some(held);
        }
        Err(error) if is_required => return Err(error.into()),
        Err(error) => tracing::warn!(
            "files are not held by Landlock: {error}; whoever breaks into the daemon may open all files of its user"
        ),
    }
    match calls::hold(rules.io_uring) {
        Ok(()) => sandbox.calls = true,
        Err(error) if is_required => return Err(error.into()),
        Err(error) => tracing::warn!("system calls are not held by seccomp: {error}"),
    }
    Ok(sandbox)
}

impl Sandbox {
    /// Says in a line of the log what is held.
    pub fn greet(&self) {
        let Self { files, calls, .. } = self;
        if files.is_none() && !calls {
            return;
        }
        let files = files.as_ref().map_or_else(|| "not held".to_owned(), ToString::to_string);
        let calls = if *calls { "no programs, no debugging, no mounts" } else { "not held" };
        tracing::info!(%files, calls, "this process is confined");
    }
}

/// What to add to an error about a file, if it may come from the sandbox; empty otherwise.
#[must_use]
pub fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied && FILES_ARE_HELD.load(Ordering::Relaxed) {
        "; may its user read it? Then it is this: the sandbox lets a running daemon open what its configuration named \
         when it started, and what is beside that in a directory of its own: restart it to have it read elsewhere"
    } else {
        ""
    }
}

/// Paths of files that somebody has named.
pub(crate) type Paths = Vec<PathBuf>;
