//! What foca wants to be reminded of, in bounded memory.
//!
//! Of each periodic kind only the newest counts: foca asks for the next one when it has got the last, and when it asks
//! anew for another reason it does not want the older one any more. Of each suspect there is one as well. So however
//! often somebody makes foca ask, there are not more than the members and six.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use foca::Timer;

use super::entry::Entry;
use crate::node::NodeId;

#[derive(Debug, Default)]
pub(super) struct Timers {
    periodic: [Option<(Instant, Timer<Entry>)>; 5],
    suspects: BTreeMap<NodeId, (Instant, Timer<Entry>)>,
}

impl Timers {
    pub(super) fn submit(&mut self, timer: Timer<Entry>, at: Instant) {
        let kind = match &timer {
            Timer::SendIndirectProbe { .. } => 0,
            Timer::ProbeRandomMember(_) => 1,
            Timer::PeriodicAnnounce(_) => 2,
            Timer::PeriodicAnnounceDown(_) => 3,
            Timer::PeriodicGossip(_) => 4,
            Timer::ChangeSuspectToDown { member_id, .. } => {
                let waits = self.suspects.get(member_id.id());
                // Who is suspected again while he is suspected goes when the first term is over.
                if waits.is_none_or(|(_, waits)| *waits != timer) {
                    self.suspects.insert(*member_id.id(), (at, timer));
                }
                return;
            }
            // Not asked for in this configuration: who is down is forgotten by `Membership`.
            Timer::RemoveDown(_) => return,
        };
        self.periodic[kind] = Some((at, timer));
    }

    pub(super) fn next_at(&self) -> Option<Instant> {
        let periodic = self.periodic.iter().flatten().map(|(at, _)| *at);
        periodic.chain(self.suspects.values().map(|(at, _)| *at)).min()
    }

    /// The one that is due first; of two at one time the one that foca wants to see first.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Timer<Entry>> {
        let at = self.next_at().filter(|at| *at <= now)?;
        for slot in &mut self.periodic {
            if let Some((_, timer)) = slot.take_if(|(due, _)| *due == at) {
                return Some(timer);
            }
        }
        let id = self.suspects.iter().find(|(_, (due, _))| *due == at).map(|(id, _)| *id)?;
        self.suspects.remove(&id).map(|(_, timer)| timer)
    }

    /// All come so much later.
    pub(super) fn delay(&mut self, by: Duration) {
        let periodic = self.periodic.iter_mut().flatten().map(|(at, _)| at);
        periodic.chain(self.suspects.values_mut().map(|(at, _)| at)).for_each(|at| *at += by);
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.periodic.iter().flatten().count() + self.suspects.len()
    }
}
