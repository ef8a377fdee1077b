//! Blocks from the cluster: plays each plot's [`crate::download::Download`] on sessions with owner and parents.

mod wanted;

pub use wanted::{Pulled, Wanted};
