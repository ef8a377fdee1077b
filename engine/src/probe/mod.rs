//! What a machine would give to a store and its node, found out without opening the store: for `darter doctor`.
//!
//! Nothing here takes the lock of a data directory, and nothing in a store is written: a daemon that runs there does
//! not notice. The one file that is made, [`file_system::try_file`] removes again.

pub mod file_system;
pub mod kernel_clock;
