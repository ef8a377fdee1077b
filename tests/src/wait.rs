//! Waiting for what another process does: asked again and again, up to a deadline that only a fault reaches.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How often is asked.
const POLL: Duration = Duration::from_millis(10);

/// Returns as soon as `is_so`.
///
/// # Panics
/// With what `otherwise` says, when it is not so after `within`.
pub fn wait_until(within: Duration, mut is_so: impl FnMut() -> bool, otherwise: impl FnOnce() -> String) {
    let deadline = Instant::now() + within;
    while !is_so() {
        if Instant::now() >= deadline {
            panic!("after {within:?}: {}", otherwise());
        }
        pause(POLL);
    }
}

/// Tells other threads of a scope to end when it goes, also when the test has failed: else it would wait for them for ever.
#[derive(Debug)]
pub struct SetAtEnd<'a>(pub &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Lets time pass.
#[expect(clippy::disallowed_methods, reason = "a test has a thread of its own")]
pub fn pause(time: Duration) {
    thread::sleep(time);
}
