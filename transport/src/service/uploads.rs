//! Turns to send to other nodes: those of [`Limits`], of which a part is kept for whom somebody waits, and how long one
//! takes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::limits::{Allowed, Limits, UploadPermit};
use crate::node::NodeId;
use crate::wire::Load;

/// When so much of what may be is going on, the rest is kept for those whom somebody waits for.
const BULK_UP_TO: Load = Load { busy: 191 };
/// How long a request that somebody waits for waits for its turn.
const TURN_WITHIN: Duration = Duration::from_millis(500);
/// How long sending takes before it is known.
const FIRST_GUESS: Duration = Duration::from_millis(10);

/// What is being sent.
#[derive(Debug)]
pub(super) struct Uploads {
    pub(super) limits: Arc<Limits>,
    freed: Notify,
    /// Smoothed time that one of them takes.
    takes: Mutex<Option<Duration>>,
}

/// The right to send to a node.
#[derive(Debug)]
pub(super) struct Upload {
    uploads: Arc<Uploads>,
    // Given back before others are woken.
    permit: Option<UploadPermit>,
    since: Instant,
}

impl Default for Uploads {
    fn default() -> Self {
        let limits = Limits::new(Allowed::default());
        Self { limits, freed: Notify::new(), takes: Mutex::default() }
    }
}

impl Uploads {
    /// At once or not at all, for what nobody waits for.
    pub(super) fn try_bulk(self: &Arc<Self>, to: NodeId) -> Option<Upload> {
        let upload = (self.load() < BULK_UP_TO).then(|| self.begin(to)).flatten();
        if upload.is_none() {
            self.limits.note_no_place();
        }
        upload
    }

    /// When it is its turn, for what somebody waits for; `None` if that takes too long.
    pub(super) async fn turn(self: &Arc<Self>, to: NodeId) -> Option<Upload> {
        let wait = async {
            let mut is_held_up = false;
            loop {
                let freed = self.freed.notified();
                tokio::pin!(freed);
                freed.as_mut().enable();
                if let Some(upload) = self.begin(to) {
                    return upload;
                }
                if !is_held_up {
                    is_held_up = true;
                    self.limits.note_no_place();
                }
                freed.await;
            }
        };
        timeout(TURN_WITHIN, wait).await.ok()
    }

    fn begin(self: &Arc<Self>, to: NodeId) -> Option<Upload> {
        let permit = Some(self.limits.upload(to)?);
        Some(Upload { uploads: self.clone(), permit, since: Instant::now() })
    }

    /// How long sending to one takes.
    pub(super) fn takes(&self) -> Duration {
        self.takes.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(FIRST_GUESS)
    }

    /// How much of what may be is going on.
    pub(super) fn load(&self) -> Load {
        self.limits.load()
    }
}

impl Upload {
    /// Waits until so many bytes may be sent.
    pub(super) async fn pace(&self, bytes: usize) {
        if let Some(permit) = &self.permit {
            permit.pace(bytes as u64).await;
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.permit = None;
        let took = self.since.elapsed();
        let mut takes = self.uploads.takes.lock().unwrap_or_else(PoisonError::into_inner);
        *takes = Some(takes.map_or(took, |before| (before * 7 + took) / 8));
        drop(takes);
        self.uploads.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    #[tokio::test]
    async fn readers_have_their_part_and_wait_for_a_turn() {
        let uploads = Arc::new(Uploads::default());
        let all = uploads.limits.allowed().uploads as u8;
        let bulk: Vec<_> = (0..2 * all).filter_map(|number| uploads.try_bulk(node(number))).collect();
        assert!(bulk.len() >= usize::from(all) / 2 && bulk.len() < usize::from(all), "{}", bulk.len());
        let mut readers = Vec::new();
        for number in bulk.len() as u8..all {
            readers.push(uploads.turn(node(100 + number)).await.expect("room is kept"));
        }
        assert_eq!(uploads.load().busy, u8::MAX);
        assert!(uploads.turn(node(200)).await.is_none(), "nobody lets go");
        let late = uploads.turn(node(200));
        tokio::pin!(late);
        assert!(timeout(Duration::from_millis(1), &mut late).await.is_err());
        drop(readers.pop());
        assert!(late.await.is_some());
        let bulk_refused = u64::from(2 * all) - bulk.len() as u64;
        assert_eq!(uploads.limits.hits().upload_places, bulk_refused + 2, "each that had to wait, once");
        drop((bulk, readers));
        assert_eq!(uploads.load().busy, 0);
    }
}
