//! How far it is, on standard error: a bar that is drawn again and again at a terminal, else a plain line every few
//! seconds.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::commands::text;

const REDRAW: Duration = Duration::from_millis(200);
const LINE_EVERY: Duration = Duration::from_secs(3);
/// The rate is that of so many redraws, or lines, before now.
const SAMPLES_MAX: usize = 20;
const BAR_COLUMNS: usize = 24;

/// Bytes of everything that is fetched. Used on one thread.
#[derive(Debug)]
pub(in crate::commands) struct Progress {
    terminal: bool,
    counted: Cell<Counted>,
    samples: RefCell<VecDeque<(Instant, u64)>>,
    shown: Cell<bool>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    /// Of what has told its length.
    expected: u64,
    /// Here, from this run or before.
    here: u64,
    /// Came in this run.
    came: u64,
    /// If it is brought to several nodes: how many have all of it, and how many there are.
    nodes: Option<(u64, u64)>,
    /// If it is a directory: objects that are there.
    objects: Option<u64>,
}

impl Progress {
    pub(in crate::commands) fn new() -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            counted: Cell::default(),
            samples: RefCell::new(VecDeque::from([(Instant::now(), 0)])),
            shown: Cell::new(false),
        }
    }

    fn count(&self, change: impl FnOnce(&mut Counted)) {
        let mut counted = self.counted.get();
        change(&mut counted);
        self.counted.set(counted);
    }

    /// So many more bytes belong to it.
    pub(in crate::commands) fn expect(&self, bytes: u64) {
        self.count(|counted| counted.expected = counted.expected.saturating_add(bytes));
    }

    /// So many are here from before.
    pub(in crate::commands) fn found(&self, bytes: u64) {
        self.count(|counted| counted.here = counted.here.saturating_add(bytes));
    }

    /// So many have come.
    pub(in crate::commands) fn came(&self, bytes: u64) {
        self.count(|counted| {
            counted.here = counted.here.saturating_add(bytes);
            counted.came = counted.came.saturating_add(bytes);
        });
    }

    /// So many are of no use.
    pub(in crate::commands) fn lost(&self, bytes: u64) {
        self.count(|counted| counted.here = counted.here.saturating_sub(bytes));
    }

    /// So many nodes of so many have all of it.
    pub(in crate::commands) fn nodes(&self, done: u64, all: u64) {
        self.count(|counted| counted.nodes = Some((done, all)));
    }

    /// One more object of a directory is there.
    pub(in crate::commands) fn object(&self) {
        self.count(|counted| counted.objects = Some(counted.objects.unwrap_or(0) + 1));
    }

    /// Shows it for as long as the future is polled. Dropped, it leaves a clean line.
    pub(in crate::commands) async fn show(&self) {
        struct Cleared<'a>(&'a Progress);
        impl Drop for Cleared<'_> {
            fn drop(&mut self) {
                self.0.end();
            }
        }
        let _cleared = Cleared(self);
        let every = if self.terminal { REDRAW } else { LINE_EVERY };
        loop {
            tokio::time::sleep(every).await;
            let counted = self.counted.get();
            let mut samples = self.samples.borrow_mut();
            samples.push_back((Instant::now(), counted.came));
            if samples.len() > SAMPLES_MAX {
                samples.pop_front();
            }
            let rate = match (samples.front(), samples.back()) {
                (Some((from, before)), Some((to, after))) => {
                    (after - before) as f64 / (*to - *from).as_secs_f64().max(1e-3)
                }
                _ => 0.0,
            };
            if self.terminal {
                self.shown.set(true);
                write(&format!("\r\x1b[K{} {}", bar(counted), line(counted, rate)));
            } else {
                write(&format!("{}\n", line(counted, rate)));
            }
        }
    }

    /// Takes the bar away.
    pub(in crate::commands) fn end(&self) {
        if self.shown.replace(false) {
            write("\r\x1b[K");
        }
    }
}

/// Nobody may read it; that is no failure.
fn write(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

fn bar(counted: Counted) -> String {
    let full = match counted.expected {
        0 => 0,
        expected => (counted.here.min(expected) as u128 * BAR_COLUMNS as u128 / expected as u128) as usize,
    };
    format!("[{}{}]", "=".repeat(full), " ".repeat(BAR_COLUMNS - full))
}

/// `12.0 of 48.0 MiB, 25 %, 6.0 MiB/s, 6 s left`
fn line(counted: Counted, bytes_per_s: f64) -> String {
    let mut line = text::mib(counted.here);
    let left = counted.expected.saturating_sub(counted.here);
    if counted.expected > 0 {
        line += &format!(
            " of {}, {}",
            text::mib(counted.expected),
            text::percent(counted.here.min(counted.expected), counted.expected)
        );
    }
    if let Some(objects) = counted.objects {
        line += &format!(", {objects} objects");
    }
    if let Some((done, all)) = counted.nodes {
        line += &format!(", {done} of {all} nodes");
    }
    line += &format!(", {}/s", text::mib(bytes_per_s as u64));
    if left > 0 && bytes_per_s >= 1.0 {
        line +=
            &format!(", {} left", text::span(Duration::from_secs((left as f64 / bytes_per_s).ceil() as u64)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_and_how_long() {
        let check = |expected, here, rate, text: &str| {
            let counted = Counted { expected, here, ..Counted::default() };
            assert_eq!(line(counted, rate), text);
        };
        check(48 << 20, 12 << 20, (6 << 20) as f64, "12.0 MiB of 48.0 MiB, 25 %, 6.0 MiB/s, 6 s left");
        check(0, 12 << 20, 1e6, "12.0 MiB, 1.0 MiB/s");
        check(48 << 20, 12 << 20, 0.0, "12.0 MiB of 48.0 MiB, 25 %, 0.0 MiB/s");
        check(10, 20, 0.0, "0.1 MiB of 0.1 MiB, 100 %, 0.0 MiB/s");
        let counted =
            Counted { expected: 48 << 20, here: 12 << 20, nodes: Some((1, 4)), ..Counted::default() };
        assert_eq!(line(counted, 0.0), "12.0 MiB of 48.0 MiB, 25 %, 1 of 4 nodes, 0.0 MiB/s");
        let counted = Counted { here: 12 << 20, objects: Some(7), ..Counted::default() };
        assert_eq!(line(counted, 0.0), "12.0 MiB, 7 objects, 0.0 MiB/s");
    }

    #[test]
    fn the_bar_is_full_only_at_the_end() {
        let check = |expected, here, full: usize| {
            let bar = bar(Counted { expected, here, ..Counted::default() });
            assert_eq!(bar.matches('=').count(), full);
            assert_eq!(bar.len(), BAR_COLUMNS + 2);
        };
        check(0, 0, 0);
        check(0, 5, 0);
        check(u64::MAX, u64::MAX - 1, BAR_COLUMNS - 1);
        check(24, 12, 12);
        check(24, 24, BAR_COLUMNS);
        check(24, 99, BAR_COLUMNS);
    }

    #[test]
    fn what_was_lost_does_not_count() {
        let progress = Progress::new();
        progress.expect(100);
        progress.found(30);
        progress.lost(30);
        progress.came(10);
        assert_eq!(
            progress.counted.get(),
            Counted { expected: 100, here: 10, came: 10, ..Counted::default() }
        );
    }
}
