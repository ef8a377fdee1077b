//! Whether the node lives, and whether it is to be given work: `/healthz` and `/readyz`.
//!
//! `/server/ping` says that the process answers, and no more. `/healthz` says besides that each shard has had its turn
//! lately: a shard that is stuck will not come back by itself, so that whoever watches should restart the node.
//! `/readyz` says that requests are welcome: what is healthy and does not stop. A node that has found no seed of its
//! cluster yet is ready, because it goes to registries by itself; the body says so.
//!
//! Whoever reads the answer is told each reason in one plain line.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use darter_transport::cluster::Shared;
use darter_transport::seeds::Standing;
use http::StatusCode;
use tokio::sync::watch;

/// How often a shard says that it has had its turn.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// Without a word for so long it is stuck: no task of a shard keeps it for more than milliseconds, and what a machine
/// under load takes away is far less.
const STUCK_AFTER: Duration = Duration::from_secs(10);
/// Instead of a time, when a shard has ended in order.
const ENDED: u64 = u64::MAX;

/// When a shard last had its turn.
#[derive(Debug)]
pub(crate) struct Pulse {
    began: Instant,
    /// Milliseconds since `began`, or [`ENDED`].
    beat_ms: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { began: Instant::now(), beat_ms: AtomicU64::new(0) }
    }
}

impl Pulse {
    /// Beats for as long as the future lives; to be a task of the shard.
    pub(crate) async fn beat(self: Arc<Self>) {
        let beating = Beating(&self);
        loop {
            beating.0.beat_ms.store(beating.0.now_ms(), Ordering::Relaxed);
            tokio::time::sleep(BEAT_EVERY).await;
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(ENDED - 1)
    }

    /// For how long there was no word; `None` once it has ended.
    fn silent_for(&self) -> Option<Duration> {
        let beat_ms = self.beat_ms.load(Ordering::Relaxed);
        (beat_ms != ENDED).then(|| Duration::from_millis(self.now_ms().saturating_sub(beat_ms)))
    }
}

/// Its end is the shard's: in order, since a shard that ends otherwise ends the daemon.
struct Beating<'a>(&'a Pulse);

impl Drop for Beating<'_> {
    fn drop(&mut self) {
        self.0.beat_ms.store(ENDED, Ordering::Relaxed);
    }
}

/// What is asked about the node.
#[derive(Debug)]
pub(crate) struct Health {
    shards: Vec<Arc<Pulse>>,
    stopping: watch::Receiver<bool>,
}

impl Health {
    /// Of a node with these shards, by their numbers, that is told to stop there.
    pub(crate) fn new(shards: Vec<Arc<Pulse>>, stopping: watch::Receiver<bool>) -> Self {
        Self { shards, stopping }
    }

    /// `/healthz`.
    pub(super) fn health(&self) -> (StatusCode, String) {
        told("healthy", &self.stuck(), &[])
    }

    /// Whether each shard has had its turn lately.
    pub(crate) fn is_healthy(&self) -> bool {
        self.stuck().is_empty()
    }

    /// `/readyz`, of a node in this cluster, if it is in one.
    pub(super) fn readiness(&self, cluster: Option<&Shared>) -> (StatusCode, String) {
        let mut reasons = self.stuck();
        if *self.stopping.borrow() {
            reasons
                .push("stopping: answers under way are finished, and no new connection is taken".to_owned());
        }
        let standing = cluster.map(|cluster| cluster.seeds().standing());
        let notes: &[&str] = match standing {
            Some(Standing::Joining) => {
                &["no seed of the cluster is reached yet: this node goes to registries by itself"]
            }
            _ => &[],
        };
        told("ready", &reasons, notes)
    }

    fn stuck(&self) -> Vec<String> {
        let silent = self.shards.iter().map(|shard| shard.silent_for());
        stuck(silent)
    }
}

/// A reason for each shard that has been silent for too long.
fn stuck(silent: impl Iterator<Item = Option<Duration>>) -> Vec<String> {
    let is_stuck = |silent: &Duration| *silent >= STUCK_AFTER;
    let reason = |(number, silent): (usize, Duration)| {
        format!(
            "shard {number} has not had a turn for {} s: its connections hang; restart the node",
            silent.as_secs()
        )
    };
    silent
        .enumerate()
        .filter_map(|(number, silent)| Some((number, silent.filter(is_stuck)?)))
        .map(reason)
        .collect()
}

/// 200 with `fine` and the notes, or 503 with the reasons.
fn told(fine: &str, reasons: &[String], notes: &[&str]) -> (StatusCode, String) {
    let mut lines: Vec<&str> = reasons.iter().map(String::as_str).collect();
    let status = match reasons.is_empty() {
        true => {
            lines.push(fine);
            lines.extend(notes);
            StatusCode::OK
        }
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(shards: &[Arc<Pulse>], stopping: bool) -> Health {
        Health::new(shards.to_vec(), watch::channel(stopping).1)
    }

    #[test]
    fn a_shard_that_is_silent_for_too_long_is_named() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let stuck = |silent: &[Option<Duration>]| stuck(silent.iter().copied());
        assert_eq!(stuck(&[seconds(0), seconds(9), None]), [""; 0]);
        let named = stuck(&[seconds(9), seconds(10), None, seconds(75)]);
        assert_eq!(named.len(), 2, "{named:?}");
        assert!(named[0].starts_with("shard 1 has not had a turn for 10 s"), "{named:?}");
        assert!(named[1].starts_with("shard 3 has not had a turn for 75 s"), "{named:?}");
    }

    #[test]
    fn what_is_wrong_is_said_line_by_line() {
        let [fine, hangs] = [Pulse::default(), Pulse::default()];
        let hangs = Pulse { began: hangs.began.checked_sub(STUCK_AFTER).unwrap(), ..hangs };
        let (fine, hangs) = (Arc::new(fine), Arc::new(hangs));
        let (status, body) = health(std::slice::from_ref(&fine), false).health();
        assert_eq!((status, &body[..]), (StatusCode::OK, "healthy\n"));
        let (status, body) = health(std::slice::from_ref(&fine), false).readiness(None);
        assert_eq!((status, &body[..]), (StatusCode::OK, "ready\n"));
        let both = [fine, hangs];
        let (status, body) = health(&both, true).readiness(None);
        assert_eq!((status, body.lines().count()), (StatusCode::SERVICE_UNAVAILABLE, 2), "{body}");
        assert!(body.starts_with("shard 1 ") && body.contains("\nstopping: "), "{body}");
        let (status, body) = health(&both, true).health();
        assert_eq!(
            (status, body.lines().count()),
            (StatusCode::SERVICE_UNAVAILABLE, 1),
            "stopping is healthy"
        );
    }

    #[expect(clippy::disallowed_methods, reason = "that it blocks the shard is what is looked at")]
    #[test]
    fn a_task_that_keeps_the_shard_is_seen_and_its_end_too() {
        let pulse = Arc::new(Pulse::default());
        let beat = |pulse: &Pulse| pulse.beat_ms.load(Ordering::Relaxed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let beating = tokio::task::spawn_local(pulse.clone().beat());
            tokio::task::yield_now().await;
            let before = beat(&pulse);
            // Longer than a beat: a shard that is at work beats, one that is kept does not.
            std::thread::sleep(BEAT_EVERY + BEAT_EVERY / 2);
            assert_eq!(beat(&pulse), before, "nothing runs beside the task that keeps the thread");
            assert!(pulse.silent_for().unwrap() >= BEAT_EVERY);
            while beat(&pulse) == before {
                tokio::task::yield_now().await;
            }
            beating.abort();
            let _ = beating.await;
        });
        assert_eq!(pulse.silent_for(), None, "one that has ended is not stuck");
    }
}
