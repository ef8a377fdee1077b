//! How many nodes are sent to at a time, so that each gets what it asked for soon: bounded for the node, and for each
//! of those who ask.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::node::NodeId;
use crate::wire::Load;

/// Requests that are sent to at a time.
const UPLOADS_MAX: usize = 64;
/// The same of one node: it has many plots to bring, and others have as well.
const UPLOADS_OF_NODE_MAX: usize = 8;
/// Of all, so many are left to those whom somebody waits for.
const KEPT_FOR_READERS: usize = 16;
/// How long a request that somebody waits for waits for its turn.
const TURN_WITHIN: Duration = Duration::from_millis(500);
/// How long sending takes before it is known.
const FIRST_GUESS: Duration = Duration::from_millis(10);

/// What is being sent.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    inner: Mutex<Inner>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    of_node: HashMap<NodeId, usize>,
    total: usize,
    /// Smoothed time that one of them takes.
    takes: Option<Duration>,
}

/// The right to send to a node.
#[derive(Debug)]
pub(super) struct Upload {
    uploads: Arc<Uploads>,
    to: NodeId,
    since: Instant,
}

impl Uploads {
    /// At once or not at all, for what nobody waits for.
    pub(super) fn try_bulk(self: &Arc<Self>, to: NodeId) -> Option<Upload> {
        self.begin(to, UPLOADS_MAX - KEPT_FOR_READERS)
    }

    /// When it is its turn, for what somebody waits for; `None` if that takes too long.
    pub(super) async fn turn(self: &Arc<Self>, to: NodeId) -> Option<Upload> {
        let wait = async {
            loop {
                let freed = self.freed.notified();
                tokio::pin!(freed);
                freed.as_mut().enable();
                if let Some(upload) = self.begin(to, UPLOADS_MAX) {
                    return upload;
                }
                freed.await;
            }
        };
        timeout(TURN_WITHIN, wait).await.ok()
    }

    fn begin(self: &Arc<Self>, to: NodeId, total_max: usize) -> Option<Upload> {
        let mut inner = self.inner();
        let of_node = inner.of_node.get(&to).copied().unwrap_or(0);
        if inner.total >= total_max || of_node >= UPLOADS_OF_NODE_MAX {
            return None;
        }
        inner.total += 1;
        inner.of_node.insert(to, of_node + 1);
        Some(Upload { uploads: self.clone(), to, since: Instant::now() })
    }

    /// How long sending to one takes.
    pub(super) fn takes(&self) -> Duration {
        self.inner().takes.unwrap_or(FIRST_GUESS)
    }

    /// How much of what may be is going on.
    pub(super) fn load(&self) -> Load {
        let busy = self.inner().total * usize::from(u8::MAX) / UPLOADS_MAX;
        Load { busy: u8::try_from(busy).unwrap_or(u8::MAX) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let mut inner = self.uploads.inner();
        inner.total -= 1;
        let left = inner.of_node.get(&self.to).map_or(0, |of_node| of_node - 1);
        match left {
            0 => _ = inner.of_node.remove(&self.to),
            left => _ = inner.of_node.insert(self.to, left),
        }
        let took = self.since.elapsed();
        inner.takes = Some(inner.takes.map_or(took, |before| (before * 7 + took) / 8));
        drop(inner);
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
    async fn one_node_does_not_take_all_and_readers_have_their_part() {
        let uploads = Arc::new(Uploads::default());
        let greedy: Vec<_> = (0..99).filter_map(|_| uploads.try_bulk(node(0))).collect();
        assert_eq!(greedy.len(), UPLOADS_OF_NODE_MAX);
        let bulk: Vec<_> = (1..99).filter_map(|number| uploads.try_bulk(node(number))).collect();
        assert_eq!(greedy.len() + bulk.len(), UPLOADS_MAX - KEPT_FOR_READERS);
        let mut readers = Vec::new();
        for number in 0..KEPT_FOR_READERS as u8 {
            readers.push(uploads.turn(node(100 + number)).await.expect("room is kept"));
        }
        assert_eq!(uploads.load().busy, u8::MAX);
        assert!(uploads.turn(node(200)).await.is_none(), "nobody lets go");
        let late = uploads.turn(node(200));
        tokio::pin!(late);
        assert!(timeout(Duration::from_millis(1), &mut late).await.is_err());
        drop(readers.pop());
        assert!(late.await.is_some());
        drop((greedy, bulk, readers));
        assert!(uploads.inner().total == 0 && uploads.inner().of_node.is_empty());
    }
}
