//! What is on its way in this moment, for people to look at.
//!
//! Each shard is asked by a message and answers with a part that is soon told, so that looking costs it microseconds
//! however much is fetched. Nothing is written down for it meanwhile.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use darter_engine::Content;
use tokio::sync::oneshot;

use super::WeakFetches;
use super::active::Active;
use super::demand::Message;

/// Contents of one shard that are told one by one.
const CONTENTS_MAX: usize = 64;
/// Blocks of them that are looked at, all together.
const BLOCKS_MAX: usize = 8192;
/// A shard that has not answered by then is left out.
const ANSWER_WITHIN: Duration = Duration::from_millis(200);

/// Contents with blocks that are wanted, on their way, or about to be in the store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Movement {
    /// All of them.
    pub(crate) contents: usize,
    /// Some of them, if there are many.
    pub(crate) shown: Vec<Moving>,
}

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Moving {
    pub(crate) content: Arc<Content>,
    /// Numbers of the blocks, in their order; of many the first ones.
    pub(crate) blocks: Vec<u32>,
}

impl Movement {
    pub(super) fn of<'a>(active: impl ExactSizeIterator<Item = &'a Rc<Active>>) -> Self {
        let contents = active.len();
        let mut left = BLOCKS_MAX;
        let shown = active.take(CONTENTS_MAX).map(|active| {
            let blocks: Vec<u32> = active.plan.borrow().moving().take(left).collect();
            left -= blocks.len();
            Moving { content: active.content().clone(), blocks }
        });
        Self { contents, shown: shown.collect() }
    }

    fn and(mut self, other: Self) -> Self {
        self.contents += other.contents;
        self.shown.extend(other.shown);
        self
    }
}

impl WeakFetches {
    /// What all shards bring now.
    pub(crate) async fn movement(&self) -> Movement {
        let Some(fetches) = self.upgrade() else { return Movement::default() };
        let mut answers = Vec::with_capacity(fetches.owners.len());
        for owner in fetches.owners.iter() {
            let (reply, answer) = oneshot::channel();
            // One that has no room for a message has other things to do.
            if owner.try_send(Message::Look { reply }).is_ok() {
                answers.push(answer);
            }
        }
        drop(fetches);
        let answers = futures_util::future::join_all(
            answers.into_iter().map(|answer| tokio::time::timeout(ANSWER_WITHIN, answer)),
        );
        answers.await.into_iter().flatten().flatten().fold(Movement::default(), Movement::and)
    }
}
