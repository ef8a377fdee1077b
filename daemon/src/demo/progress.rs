//! What the demo is doing just now, on standard error: one line that changes at a terminal, else one plain
//! line for each thing done.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::units;

const REDRAW: Duration = Duration::from_millis(200);

/// Where progress goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    terminal: bool,
}

/// Something under way. Dropped without [`Task::done`], as on an error, it leaves a clean line.
#[derive(Debug)]
pub(super) struct Task {
    what: String,
    start: Instant,
    bytes: Arc<AtomicU64>,
    redraw: Option<JoinHandle<()>>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { terminal: io::stderr().is_terminal() }
    }

    /// Begins with `what`, shown until it is done.
    pub(super) fn begin(self, what: impl Into<String>) -> Task {
        let (what, start, bytes) = (what.into(), Instant::now(), Arc::new(AtomicU64::new(0)));
        let redraw = self.terminal.then(|| {
            let (what, bytes) = (what.clone(), Arc::clone(&bytes));
            tokio::spawn(async move {
                loop {
                    let so_far = match bytes.load(Ordering::Relaxed) {
                        0 => String::new(),
                        bytes => format!(", {}", units::bytes(bytes)),
                    };
                    say(&format!("\r\x1b[K{what} … {:.1} s{so_far}", start.elapsed().as_secs_f64()));
                    tokio::time::sleep(REDRAW).await;
                }
            })
        });
        Task { what, start, bytes, redraw }
    }
}

impl Task {
    /// Where to count bytes that have arrived.
    pub(super) fn bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.bytes)
    }

    /// Ends the line with how long it took.
    pub(super) fn done(mut self) {
        self.clear();
        say(&format!("{}: {}\n", self.what, units::time(self.start.elapsed())));
    }

    fn clear(&mut self) {
        if let Some(redraw) = self.redraw.take() {
            redraw.abort();
            say("\r\x1b[K");
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Unlike `eprint!` it does not panic when nobody reads.
fn say(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}
