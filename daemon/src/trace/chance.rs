//! Numbers by which requests and spans are told apart: random, made without a lock, no secrets.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU64;

thread_local! {
    /// A keyed hash of a counter: the standard library has the key of each thread from the system.
    static KEYED: (RandomState, Cell<u64>) = (RandomState::new(), Cell::new(0));
}

/// The next one.
pub(super) fn number() -> u64 {
    KEYED.with(|(key, counter)| {
        counter.set(counter.get().wrapping_add(1));
        key.hash_one(counter.get())
    })
}

/// The next one but zero, which W3C has for none.
pub(super) fn id() -> NonZeroU64 {
    NonZeroU64::new(number()).unwrap_or(NonZeroU64::MIN)
}
