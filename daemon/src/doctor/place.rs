//! Where a directory is, or where it would be made. Pure.

use std::path::PathBuf;

/// What stands at the path of a data directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// It is there.
    Directory {
        /// By this user.
        is_writable: bool,
    },
    /// It is not there yet; a start makes it.
    ToBeMade {
        /// The nearest directory above it that is there.
        within: PathBuf,
        /// Whether this user may make something in that.
        is_writable: bool,
    },
    /// Something else is in its way, or nobody may look; why.
    Nowhere(String),
}
