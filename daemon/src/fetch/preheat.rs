//! All of a content from other nodes, because people want it at every node.
//!
//! As bulk, a span at a time, behind readers. No origin is asked: what no other node holds does not come. When several want
//! this at once, each looks at what is held, and each span is brought once.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::active::Active;
use super::bulk;
use crate::origin::Target;

/// What others bring is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Nothing more comes when nothing has for so long: a span that failed is tried once more in this time.
const NOTHING_FOR: Duration = Duration::from_secs(12);

impl Active {
    /// Begins; tells `ended` when all is here or nothing more comes, and leaves off when nobody waits for that.
    pub(super) fn preheat(self: &Rc<Self>, target: Rc<Target>, ended: oneshot::Sender<()>) {
        self.preheats.set(self.preheats.get() + 1);
        let active = self.clone();
        self.owner.spawn(async move {
            active.take_from_others(&target, &ended).await;
            let _ = ended.send(());
            active.preheats.set(active.preheats.get() - 1);
            active.end_if_idle();
        });
    }

    async fn take_from_others(self: &Rc<Self>, target: &Target, ended: &oneshot::Sender<()>) {
        let Some(whole) = self.content().layout().whole() else { return };
        let is_wanted = || !ended.is_closed() && !self.owner.closing.get() && !self.content().is_gone();
        let (mut held_before, mut since) = (0, Instant::now());
        while is_wanted() {
            for span in bulk::spans(self.content().layout(), whole) {
                if is_wanted() && !span.blocks().all(|block| self.has(block)) {
                    self.bring_bulk(span, target).await;
                }
            }
            let held = whole.blocks().filter(|block| self.has(*block)).count();
            if held > held_before {
                (held_before, since) = (held, Instant::now());
            }
            if held == whole.len() as usize || since.elapsed() >= NOTHING_FOR {
                return;
            }
            sleep(LOOK_EVERY).await;
        }
    }
}
