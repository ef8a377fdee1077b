//! Many who begin at the same moment, and how long the last one took.

use std::fmt::{self, Display, Formatter};
use std::panic::resume_unwind;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// Does `work` for each of `all`, on a thread each, beginning at one moment.
///
/// # Panics
/// When one of them does.
pub fn at_once<T: Sync>(all: &[T], work: impl Fn(&T) + Sync) -> Makespan {
    let start = &Barrier::new(all.len() + 1);
    let work = &work;
    thread::scope(|scope| {
        let timed = |one| {
            move || {
                start.wait();
                let started = Instant::now();
                work(one);
                started.elapsed()
            }
        };
        let working: Vec<_> = all.iter().map(|one| scope.spawn(timed(one))).collect();
        start.wait();
        let times = working.into_iter().map(|one| one.join().unwrap_or_else(|panic| resume_unwind(panic)));
        let mut times: Vec<_> = times.collect();
        times.sort_unstable();
        Makespan { times }
    })
}

/// How long each took, the quickest first.
#[derive(Clone, Debug)]
pub struct Makespan {
    times: Vec<Duration>,
}

impl Makespan {
    /// Until all were done.
    pub fn last(&self) -> Duration {
        self.times.last().copied().unwrap_or_default()
    }
}

impl Display for Makespan {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let at = |place: usize| self.times.get(place).copied().unwrap_or_default().as_secs_f64();
        let (median, last) = (at(self.times.len() / 2), self.last().as_secs_f64());
        write!(out, "first {:.2} s, median {median:.2} s, last {last:.2} s", at(0))
    }
}
