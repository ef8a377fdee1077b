//! Blocks from the cluster: plays each plot's [`crate::download::Download`] on sessions with owner and parents.
//!
//! ```text
//!  Wanted ──▶ Pulls ──▶ plot 0: PlotPull ── Want ──▶ owner        one Download and one driver per plot, shared by all
//!    ▲                  plot 1: PlotPull ── Take ──▶ parents      who want blocks of it
//!    └── Pulled ◀─────────── receivers ◀── blocks, each right
//! ```
//!
//! A block is looked at ([`blake3`]) before anybody gets it, and goes to all that want it, once. What is in flight is
//! in buffers of the store's pool; what a receiver does not take is not read, and so stays with its sender.

mod ask;
mod context;
mod plot;
mod receivers;
mod routes;
mod wanted;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use darter_engine::{BlockRun, Content, Naming, RegistryScope, Scope};
use tokio::sync::{Notify, Semaphore, mpsc};

pub(crate) use self::context::{Context, Watches};
use self::plot::PlotPull;
use self::receivers::Client;
pub use self::routes::Routes;
pub use self::wanted::{Pulled, Wanted};
use crate::asking::{self, Asked};
use crate::block_set::BlockSet;
use crate::ownership::owned_by_span;
use crate::service::Server;
use crate::span::{Plot, SpanIndex, spans};
use crate::wire::{Describe, Message, Refused};

/// Plots that one shard brings at a time, or has brought just now.
const PLOTS_MAX: usize = 1024;
/// Spans of one [`Wanted`] that are brought at a time.
const SPANS_AT_ONCE: usize = 2;
/// What one [`Wanted`] may have waiting for it, in blocks: 8 MiB.
const WAITING_MAX: usize = 128;

/// The pulls of one shard.
pub(crate) struct Pulls {
    context: Rc<Context>,
    /// Of what this node owns it takes the map before it goes to the origin, for others and for itself.
    server: Rc<Server>,
    plots: RefCell<HashMap<Plot, Rc<PlotPull>>>,
}

impl Pulls {
    pub(crate) fn new(context: Rc<Context>, server: Rc<Server>) -> Rc<Self> {
        Rc::new(Self { context, server, plots: RefCell::default() })
    }

    /// See [`crate::cluster::Cluster::pull`].
    pub(crate) fn pull(self: &Rc<Self>, wanted: Wanted) -> mpsc::Receiver<Pulled> {
        let blocks: usize = wanted.runs.iter().map(|run| run.len() as usize).sum();
        let (to, from) = mpsc::channel((blocks + 1).min(WAITING_MAX));
        let client = Client::new(to.clone(), wanted.errand.clone(), wanted.bulk);
        if self.is_for_the_origin(&wanted) {
            client.say(wanted.runs.into_iter().map(Pulled::GoToOrigin).collect());
            return from;
        }
        let events: Events = Rc::default();
        let leaving = {
            let events = events.clone();
            tokio::task::spawn_local(async move {
                to.closed().await;
                events.borrow().iter().for_each(|event| event.notify_one());
            })
        };
        client.watched_by(leaving.abort_handle());
        tokio::task::spawn_local(self.clone().serve(wanted, client, events));
        from
    }

    /// Whether that is known at once: no seed is known; or this node owns all of it, and nobody else has any.
    fn is_for_the_origin(&self, wanted: &Wanted) -> bool {
        let shared = &self.context.shared;
        let (id, registry) = (wanted.content.id(), wanted.registry);
        let plot = |span| Plot { content: id, scope: Scope::Registry(registry), span };
        let Some((owner, _)) = shared.seeds().owners(&plot(SpanIndex::FIRST), false) else { return true };
        let wanted_spans = || wanted.runs.iter().flat_map(|run| spans(*run)).map(|(span, _)| span);
        let owned_here = |by_span: bool| {
            wanted_spans().all(|span| {
                let owners = shared.seeds().owners(&plot(span), by_span);
                owners.is_some_and(|(owner, _)| owner.id == shared.own().id)
            })
        };
        let by_span = shared.routes().by_span(&id, registry);
        let by_span =
            by_span.or_else(|| (owner.id == shared.own().id).then(|| self.says_by_span(&wanted.content)));
        let nobody_has = |span| {
            self.server.has_taken_over(&plot(span)) && shared.books().map().tracker.members(&plot(span)) == 0
        };
        by_span.is_some_and(owned_here) && wanted_spans().all(nobody_has)
    }

    /// What this node says of a content that it owns.
    fn says_by_span(&self, content: &Content) -> bool {
        owned_by_span(content.layout(), self.context.shared.seeds().capacity_slots())
    }

    async fn serve(self: Rc<Self>, wanted: Wanted, client: Rc<Client>, events: Events) {
        let by_span = match self.by_span(&wanted).await {
            Ok(by_span) => by_span,
            Err(Some(refused)) => return client.say(vec![Pulled::Refused(refused)]),
            Err(None) => {
                return client.say(wanted.runs.into_iter().map(Pulled::GoToOrigin).collect());
            }
        };
        self.take_over(&wanted, by_span).await;
        if self.is_for_the_origin(&wanted) {
            return client.say(wanted.runs.into_iter().map(Pulled::GoToOrigin).collect());
        }
        let turns = Arc::new(Semaphore::new(SPANS_AT_ONCE));
        let mut of_spans: BTreeMap<SpanIndex, BlockSet> = BTreeMap::new();
        for (span, places) in wanted.runs.iter().flat_map(|run| spans(*run)) {
            of_spans.entry(span).or_insert(BlockSet::EMPTY).add(&places);
        }
        for (span, mut places) in of_spans {
            let Ok(turn) = turns.clone().acquire_owned().await else { return };
            if client.is_over() {
                return;
            }
            if wanted.bulk {
                places = places.minus(&self.context.held(&wanted.content, wanted.registry, span));
            }
            let plot = Plot { content: wanted.content.id(), scope: Scope::Registry(wanted.registry), span };
            let pull = self.plot(plot, &wanted.content, by_span);
            if let Some(pull) = &pull {
                events.borrow_mut().push(pull.event.clone());
            }
            if !pull.is_some_and(|pull| pull.join(client.clone(), places, turn)) {
                let runs = runs(&places).filter_map(|run| span.run(wanted.content.layout(), &run));
                client.say(runs.map(Pulled::GoToOrigin).collect());
            }
        }
    }

    /// Takes the map of what this node owns of it.
    async fn take_over(&self, wanted: &Wanted, by_span: bool) {
        let (content, scope) = (wanted.content.id(), Scope::Registry(wanted.registry));
        for (span, _) in wanted.runs.iter().flat_map(|run| spans(*run)) {
            let plot = Plot { content, scope, span };
            let owner = self.context.shared.seeds().owners(&plot, by_span);
            if owner.is_some_and(|(owner, _)| owner.id == self.context.shared.own().id) {
                self.server.take_over(&plot).await;
            }
        }
    }

    /// Whether each span is owned by itself. If nobody knows: the verdict, or `None`.
    async fn by_span(&self, wanted: &Wanted) -> Result<bool, Option<Refused>> {
        let shared = &self.context.shared;
        let (content, registry) = (wanted.content.id(), wanted.registry);
        if let Some(known) = shared.routes().by_span(&content, registry) {
            return Ok(known);
        }
        let plot = Plot { content, scope: Scope::Registry(registry), span: SpanIndex::FIRST };
        let owner = shared.seeds().owners(&plot, false);
        if owner.is_some_and(|(owner, _)| owner.id == shared.own().id) {
            return Ok(self.says_by_span(&wanted.content));
        }
        let by_digest = wanted.content.naming() == Naming::Digest;
        let errand = wanted.errand.clone();
        let describe = Describe { content, by_digest, registry, forwarded: false, errand };
        match asking::ask_owner(&self.context, &plot, describe).await {
            Asked::Answered(Message::Description(described)) => {
                let is_same = described.length == wanted.content.layout().length_bytes()
                    && (by_digest || *described.validator == *wanted.content.validator());
                if !is_same {
                    return Err(None);
                }
                shared.routes().note(&content, registry, described.by_span);
                Ok(described.by_span)
            }
            Asked::Refused(refused) => Err(Some(refused)),
            Asked::Answered(_) | Asked::Nobody => Err(None),
        }
    }

    /// The plot's pull, begun if there is none; `None` when there are too many.
    fn plot(self: &Rc<Self>, plot: Plot, content: &Arc<Content>, by_span: bool) -> Option<Rc<PlotPull>> {
        let mut plots = self.plots.borrow_mut();
        let layout = content.layout();
        if let Some(pull) = plots.get(&plot).filter(|pull| pull.is_for(layout, by_span)) {
            return Some(pull.clone());
        }
        if plots.len() >= PLOTS_MAX {
            return None;
        }
        let pull = PlotPull::new(self.context.clone(), plot, layout, by_span);
        plots.insert(plot, pull.clone());
        let (pulls, driven) = (self.clone(), pull.clone());
        tokio::task::spawn_local(async move {
            driven.clone().run().await;
            let mut plots = pulls.plots.borrow_mut();
            if plots.get(&plot).is_some_and(|pull| Rc::ptr_eq(pull, &driven)) {
                plots.remove(&plot);
            }
            driven.let_go();
        });
        Some(pull)
    }

    /// See [`crate::cluster::Cluster::hurry`].
    pub(crate) fn hurry(&self, content: &Content, registry: RegistryScope, run: BlockRun) {
        for (span, places) in spans(run) {
            let plot = Plot { content: content.id(), scope: Scope::Registry(registry), span };
            if let Some(pull) = self.plots.borrow().get(&plot) {
                pull.hurry(&places);
            }
        }
    }
}

/// What is to be notified when a caller goes away.
type Events = Rc<RefCell<Vec<Rc<Notify>>>>;

/// Neighbouring places together.
fn runs(places: &BlockSet) -> impl Iterator<Item = std::ops::Range<u32>> + use<> {
    places.runs(crate::span::SPAN_BLOCKS)
}
