//! What the lock-free parts are made of. `interleavings` compiles the same files against a model of it.

pub(crate) use std::sync::{Arc, Mutex, MutexGuard, atomic};

/// Its reads take no lock; each of its operations happens at one moment.
pub(crate) use papaya::HashMap as Map;

/// Atomics take as much memory as their values.
pub(crate) const IS_PLAIN: bool = true;
