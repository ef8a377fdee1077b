//! How long a shard is away from its other work at a time: the longest poll of a task in each window of 100 ms.
//!
//! A shard is one thread, so that a task that does not come back delays everybody on it. Tasks that do the shard's work
//! are wrapped by [`timed`]; each poll costs two looks at the clock, some 50 ns. A window in which nothing was polled is
//! not one: it would only dilute the others.

use std::cell::Cell;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_millis(100);

thread_local! {
    /// Of this shard.
    static WINDOW_NOW: Cell<Option<Window>> = const { Cell::new(None) };
}

#[derive(Clone, Copy, Debug)]
struct Window {
    began: Instant,
    longest: Duration,
}

/// A poll took from `began` to `ended`. The longest of the window that this ends.
fn note(window: &mut Option<Window>, began: Instant, ended: Instant) -> Option<Duration> {
    let poll = ended.saturating_duration_since(began);
    match window {
        // The poll that runs over the end still belongs to the window in which it began.
        Some(open) if began.saturating_duration_since(open.began) < WINDOW => {
            open.longest = open.longest.max(poll);
            None
        }
        _ => window.replace(Window { began, longest: poll }).map(|closed| closed.longest),
    }
}

/// The same future, with the time of its polls noted; `tell` is given the longest of each window.
pub(crate) async fn timed<F: Future>(future: F, tell: impl Fn(Duration)) -> F::Output {
    let mut future = pin!(future);
    std::future::poll_fn(|context| {
        let began = Instant::now();
        let polled: Poll<F::Output> = future.as_mut().poll(context);
        let mut window = WINDOW_NOW.get();
        if let Some(longest) = note(&mut window, began, Instant::now()) {
            tell(longest);
        }
        WINDOW_NOW.set(window);
        polled
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_window_tells_its_longest_poll_when_the_next_one_begins() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut window = None;
        let mut check = |began, ended, expected: Option<u64>| {
            let told = note(&mut window, at(began), at(ended));
            assert_eq!(told, expected.map(Duration::from_millis), "{began}–{ended}");
        };
        check(0, 1, None);
        check(10, 15, None);
        check(20, 21, None);
        // It runs over the end.
        check(99, 130, None);
        check(130, 132, Some(31));
        // Nothing for a second: that is one window, not ten.
        check(1130, 1131, Some(2));
        check(1231, 1232, Some(1));
    }

    #[test]
    fn a_future_that_blocks_is_found_out() {
        let told = Cell::new(Duration::ZERO);
        let blocking = async {
            let busy = Instant::now();
            while busy.elapsed() < WINDOW {}
            tokio::task::yield_now().await;
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(timed(blocking, |longest| told.set(longest)));
        assert!(told.get() >= WINDOW);
    }
}
