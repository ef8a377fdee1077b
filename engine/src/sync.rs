//! What the lock-free parts are made of. `interleavings` compiles the same files against a model of it.

pub(crate) use std::sync::{Arc, atomic};

/// Atomics take as much memory as their values.
pub(crate) const IS_PLAIN: bool = true;
