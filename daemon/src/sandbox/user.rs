//! A user of the daemon's own: what root has opened for it stays open, and root is gone.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Uid, User, geteuid, getuid, initgroups, setgid, setuid};

/// Why the daemon is not the user that it is told to become. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// Not in the machine's list.
    #[error(
        "sandbox.user: this machine has no user {0}: make one with `useradd --system {0}`, or name another"
    )]
    Unknown(String),
    /// Only root can become somebody else.
    #[error(
        "sandbox.user: user {own} cannot become {name}: start darter as root or as {name}, or leave the key out"
    )]
    NotRoot {
        /// Who it is.
        own: Uid,
        /// Who it is to be.
        name: String,
    },
    /// The system refuses.
    #[error(
        "sandbox.user: cannot become {name}: {source}; does the container or unit take CAP_SETUID and CAP_SETGID away?"
    )]
    Refused {
        /// Who it is to be.
        name: String,
        /// What it said.
        source: Errno,
    },
    /// The data directory.
    #[error("{} is not {name}'s to write: `install -d -o {name} -m 700 {dir}` makes it, `chown -R {name}: {dir}` gives it over", path.display(), dir = dir.display())]
    NotItsOwn {
        /// What cannot be written.
        path: PathBuf,
        /// The data directory.
        dir: PathBuf,
        /// Who is to write.
        name: String,
    },
}

/// Whether the process has root's rights.
#[must_use]
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Becomes that user, for good, with the groups that it is in. Called while there is one thread.
///
/// # Errors
/// See [`UserError`]; the process is to end then, since a part may have been done.
pub fn become_user(name: &str) -> Result<(), UserError> {
    let refused = |source| UserError::Refused { name: name.to_owned(), source };
    let found = match (User::from_name(name).map_err(refused)?, name.parse()) {
        (Some(user), _) => Some(user),
        (None, Ok(number)) => User::from_uid(Uid::from_raw(number)).map_err(refused)?,
        (None, Err(_)) => None,
    };
    let user = found.ok_or_else(|| UserError::Unknown(name.to_owned()))?;
    if user.uid == geteuid() && user.uid == getuid() {
        return Ok(());
    }
    if !is_root() {
        return Err(UserError::NotRoot { own: geteuid(), name: name.to_owned() });
    }
    let groups_of = CString::new(user.name.as_str()).map_err(|_| refused(Errno::EINVAL))?;
    // In this order: without root there is no changing of groups.
    initgroups(&groups_of, user.gid).map_err(refused)?;
    setgid(user.gid).map_err(refused)?;
    setuid(user.uid).map_err(refused)?;
    if !user.uid.is_root() && setuid(Uid::from_raw(0)).is_ok() {
        return Err(refused(Errno::EPERM));
    }
    Ok(())
}

/// Makes the data directory if it is not there, and looks whether this user may write what is in it.
///
/// # Errors
/// It may not; what, the error says. Other trouble is left to whoever opens the store.
pub fn may_write(dir: &Path, name: &str) -> Result<(), UserError> {
    use rustix::fs::{Access, access};
    // Whether it is there now is looked at below.
    let _ = fs::create_dir_all(dir);
    let not_its_own =
        |path: PathBuf| UserError::NotItsOwn { path, dir: dir.to_owned(), name: name.to_owned() };
    let inside = ["lock", "access", "node.key", "store", "store/records"].map(|name| dir.join(name));
    for path in std::iter::once(dir.to_owned()).chain(inside) {
        match access(&path, Access::WRITE_OK) {
            Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => return Err(not_its_own(path)),
            Err(rustix::io::Errno::NOENT) if path == dir => return Err(not_its_own(path)),
            _ => {}
        }
    }
    Ok(())
}
