//! A seed that has become the owner of a content takes the map from the deputy, before it goes to the origin: what
//! others hold does not leave the origin again.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use darter_engine::{ContentId, Scope};
use tokio::sync::watch;
use tokio::time::{timeout, timeout_at};

use super::Server;
use super::refusal::Stop;
use crate::block_set::BlockSet;
use crate::exchange::Exchange;
use crate::node::Node;
use crate::span::{Plot, SpanIndex};
use crate::wire::{End, Holder, List, MAP_PART_HOLDERS_MAX, MapOf, MapPart, Message};

/// The first request to the origin waits no longer for the map. What comes later is taken all the same.
pub const MAP_WITHIN: Duration = Duration::from_millis(300);
/// A deputy that has not told all by then tells nothing more.
const MAP_MAX: Duration = Duration::from_secs(30);
/// Contents whose map was taken; when there are more, all are asked for again.
const CONTENTS_MAX: usize = 16_384;
/// Spans of a content that a seed tells its own blocks of.
const SPANS_MAX: u32 = 1024;

/// Which maps were taken since the seeds last changed.
#[derive(Debug, Default)]
pub(super) struct Handovers {
    inner: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// Over when the sender is dropped.
    contents: HashMap<(ContentId, Scope), watch::Receiver<()>>,
    /// Which version of the seeds they belong to.
    of_seeds: u64,
}

impl Handovers {
    /// Begins to take a map, as long as the seeds are these: the sender is dropped when it is done. Else what to wait
    /// for.
    fn begin(
        &self,
        key: (ContentId, Scope),
        of_seeds: u64,
    ) -> Result<watch::Sender<()>, watch::Receiver<()>> {
        let mut taken = self.inner();
        if taken.of_seeds != of_seeds || taken.contents.len() >= CONTENTS_MAX {
            taken.contents.clear();
            taken.of_seeds = of_seeds;
        }
        if let Some(done) = taken.contents.get(&key) {
            return Err(done.clone());
        }
        let (taking, done) = watch::channel(());
        taken.contents.insert(key, done);
        Ok(taking)
    }

    /// Whether the map was taken, as long as the seeds are these.
    fn is_done(&self, key: &(ContentId, Scope), of_seeds: u64) -> bool {
        let taken = self.inner();
        // An error: the sender is gone.
        taken.of_seeds == of_seeds && taken.contents.get(key).is_some_and(|done| done.has_changed().is_err())
    }

    fn inner(&self) -> MutexGuard<'_, Taken> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Whether this node, which owns the plot, knows who holds its content: it has the deputy's map, or there is no deputy.
    pub(crate) fn has_taken_over(&self, plot: &Plot) -> bool {
        let of_seeds = *self.seeds_version.borrow();
        self.deputy_of(plot).is_none() || self.books.handovers.is_done(&(plot.content, plot.scope), of_seeds)
    }

    /// This node owns the plot: it has the map of its content from the deputy when this returns, or [`MAP_WITHIN`] is
    /// over. Once for as long as the seeds stay.
    pub(crate) async fn take_over(self: &Rc<Self>, plot: &Plot) {
        let deadline = tokio::time::Instant::now() + MAP_WITHIN;
        let of_seeds = *self.seeds_version.borrow();
        let mut done = match self.books.handovers.begin((plot.content, plot.scope), of_seeds) {
            Err(done) => done,
            Ok(taking) => {
                let Some(deputy) = self.deputy_of(plot) else { return };
                let done = taking.subscribe();
                let (server, plot) = (self.clone(), *plot);
                tokio::task::spawn_local(async move {
                    let map_of = MapOf { content: plot.content, scope: plot.scope };
                    let asked = server.ask_for_map(&deputy, map_of);
                    if timeout(MAP_MAX, asked).await.is_err() {
                        tracing::debug!(deputy = %deputy.id, "the deputy has not told its map in time");
                    }
                    drop(taking);
                });
                done
            }
        };
        // An error is the end of the one who takes it: all has come that will.
        let _ = timeout_at(deadline, done.changed()).await;
    }

    async fn ask_for_map(&self, deputy: &Node, map_of: MapOf) {
        let (content, scope) = (map_of.content, map_of.scope);
        let Some(session) = self.session(deputy).await else { return };
        let Ok(mut exchange) = session.ask(map_of).await else { return };
        let mut current: Option<Plot> = None;
        loop {
            match exchange.next().await {
                Ok(Some(Message::MapPart(part)))
                    if part.plot.content == content && part.plot.scope == scope =>
                {
                    let own = self.own_id();
                    let others: Vec<Holder> =
                        part.holders.iter().filter(|holder| holder.node.id != own).cloned().collect();
                    self.books.map().tracker.adopt(&part.plot, &others, Instant::now());
                    current = Some(part.plot);
                }
                Ok(Some(Message::Attested(attested))) => {
                    if let Some(plot) = &current {
                        self.books.attest(plot, attested.first.into(), &attested.digests);
                    }
                }
                _ => return,
            }
        }
    }

    /// Tells a seed the map of a content, with what this node itself holds, and after the parts of each plot its
    /// digests.
    pub(super) async fn tell_map(&self, map_of: &MapOf, exchange: &mut Exchange) -> Result<(), Stop> {
        let plots = self.plots_of(map_of);
        for plot in plots {
            let mut holders: Vec<Holder> = self.books.map().tracker.holders(&plot).collect();
            holders.extend(self.own_as_holder(&plot));
            let site = self.site(&plot);
            let length = site.as_ref().map_or(0, |site| site.content.layout().length_bytes());
            for part in holders.chunks(MAP_PART_HOLDERS_MAX) {
                let holders = List::first_of(part.to_vec());
                exchange.send(MapPart { plot, length, holders }).await?;
            }
            if !holders.is_empty() {
                self.tell_digests(&plot, &BlockSet::full(), exchange).await?;
            }
        }
        exchange.send(End {}).await?;
        Ok(())
    }

    fn plots_of(&self, map_of: &MapOf) -> Vec<Plot> {
        let (content, scope) = (map_of.content, map_of.scope);
        let mut plots = self.books.map().tracker.plots(&content, scope);
        let first = Plot { content, scope, span: SpanIndex::FIRST };
        if let Some(site) = self.site(&first) {
            let spans = (0..SPANS_MAX).map(SpanIndex::from_number);
            let own = spans.take_while(|span| span.blocks(site.content.layout()) > 0);
            plots.extend(own.map(|span| Plot { span, ..first }));
        }
        plots.sort_unstable_by_key(|plot| plot.span);
        plots.dedup();
        plots
    }

    fn own_as_holder(&self, plot: &Plot) -> Option<Holder> {
        let site = self.site(plot)?;
        // What is on its way from the origin is asked for here too, and who asks waits for it.
        let held = self.held_of(&site, &site.blocks).or(&site.board.bringing());
        let node = self.books.seeds.own().clone();
        let holder = Holder { node, held, coming: BlockSet::EMPTY, load: self.books.load() };
        (!held.is_empty()).then_some(holder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_taken_once_for_as_long_as_the_seeds_stay() {
        let handovers = Handovers::default();
        let key = |number: u32| (ContentId::of_name(&number.to_string()), Scope::Verified);
        assert!(!handovers.is_done(&key(1), 7), "nobody has begun");
        let taking = handovers.begin(key(1), 7).unwrap();
        assert!(!handovers.is_done(&key(1), 7));
        let done = handovers.begin(key(1), 7).unwrap_err();
        assert!(done.has_changed().is_ok(), "under way");
        drop(taking);
        assert!(done.has_changed().is_err(), "done");
        assert!(handovers.is_done(&key(1), 7) && !handovers.is_done(&key(1), 8));
        assert!(handovers.begin(key(1), 7).is_err() && handovers.begin(key(1), 8).is_ok());
        (0..3 * CONTENTS_MAX as u32).for_each(|number| drop(handovers.begin(key(number), 8)));
        assert!(handovers.inner().contents.len() <= CONTENTS_MAX);
    }
}
