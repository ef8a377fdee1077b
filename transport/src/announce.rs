//! What was stored is told to owner and deputy of the plot (`Holds`). Who watches this node is told by
//! [`crate::service`].
//!
//! Changes gather for 20 ms, so that a burst is one message. Nothing here is a promise: what cannot be told now is
//! dropped, for all is told anew when a session with the seed comes up again; and a map that is wrong costs a
//! refused request.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use darter_engine::{Content, RegistryScope, Scope};

use crate::block_set::BlockSet;
use crate::node::{Node, NodeId};
use crate::pull::Context;
use crate::span::{Plot, SPAN_BLOCKS, SpanIndex};
use crate::wire::{CHANGES_MAX, Change, Holds, List};

/// What comes within this time is told together.
const TOLD_TOGETHER: Duration = Duration::from_millis(20);
/// When a seed's control stream is full: how long until it is tried again, and how often.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
const TRIES: u32 = 25;
/// Plots that wait to be told to one seed, some 350 bytes each.
const WAITING_MAX: usize = 4096;
/// Plots that wait when everything is told anew: it goes on when these have been told.
const TELLING_ANEW_MAX: usize = 256;
/// Changes of the seeds within this time are taken up together.
const MOVES_TOGETHER: Duration = Duration::from_millis(100);
/// Plots that are looked at in one go when everything is told anew.
const LOOKS_AT_ONCE: usize = 16;

/// What one shard tells the seeds.
pub(crate) struct Announcer {
    context: Rc<Context>,
    /// By seed: what it is to be told. A task tells it, and takes it out when there is nothing left.
    outboxes: RefCell<HashMap<NodeId, Outbox>>,
    /// It will be looked what has moved.
    moves: Cell<bool>,
}

/// The plots of a content, as its own registry's.
fn plots(content: &Content) -> impl Iterator<Item = Plot> + use<> {
    let scope = Scope::Registry(RegistryScope::of_origin(&content.registry()));
    let (id, spans) = (content.id(), content.layout().block_count().div_ceil(SPAN_BLOCKS));
    (0..spans).map(move |span| Plot { content: id, scope, span: SpanIndex::from_number(span) })
}

#[derive(Default)]
struct Outbox {
    changes: HashMap<Plot, News>,
    /// Everything is being told anew by a task.
    tells_anew: bool,
}

/// What has come and what has gone.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct News {
    held: BlockSet,
    lost: BlockSet,
}

impl News {
    fn is_empty(&self) -> bool {
        self.held.is_empty() && self.lost.is_empty()
    }

    fn add(&mut self, later: &Self) {
        self.held = self.held.minus(&later.lost).or(&later.held);
        self.lost = self.lost.minus(&later.held).or(&later.lost);
    }
}

impl Announcer {
    pub(crate) fn new(context: Rc<Context>) -> Rc<Self> {
        Rc::new(Self { context, outboxes: RefCell::default(), moves: Cell::new(false) })
    }

    /// Blocks of a plot are in the store now.
    pub(crate) fn stored(self: &Rc<Self>, content: &Content, plot: &Plot, places: BlockSet) {
        self.note(content, plot, News { held: places, lost: BlockSet::EMPTY });
    }

    /// Blocks of a plot were found gone.
    pub(crate) fn lost(self: &Rc<Self>, content: &Content, plot: &Plot, places: BlockSet) {
        self.note(content, plot, News { held: BlockSet::EMPTY, lost: places });
    }

    fn note(self: &Rc<Self>, content: &Content, plot: &Plot, news: News) {
        let seeds: Vec<Node> = self.context.told_of(content, plot).collect();
        let to = [seeds.first(), seeds.get(1)].map(|seed| seed.map(|seed| seed.id));
        // Whoever was not told of this plot before is told all of it.
        let before = self.context.shared.told().note(plot, to);
        for seed in seeds {
            let was_told = before.map_or(!news.is_empty(), |before| before.contains(&Some(seed.id)));
            let put = match was_told {
                true => self.put(&seed, plot, &news),
                false => self.put_all(&seed, content, plot),
            };
            if !put {
                tracing::debug!(seed = %seed.id, "so much is to be told that something is not");
            }
        }
    }

    /// The seeds have changed: whose plots have moved, is told of them, in the background.
    pub(crate) fn seeds_changed(self: &Rc<Self>) {
        if !self.moves.replace(true) {
            let announcer = self.clone();
            tokio::task::spawn_local(async move {
                tokio::time::sleep(MOVES_TOGETHER).await;
                announcer.moves.set(false);
                announcer.tell_of_what_moved().await;
            });
        }
    }

    async fn tell_of_what_moved(self: &Rc<Self>) {
        let mut looks = 0;
        for content in self.context.store.contents() {
            if content.held_pieces() == 0 {
                continue;
            }
            for plot in plots(&content) {
                self.note(&content, &plot, News::default());
                while self.waiting_most() >= TELLING_ANEW_MAX {
                    tokio::time::sleep(TOLD_TOGETHER).await;
                }
                looks += 1;
                if looks % LOOKS_AT_ONCE == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    fn put_all(self: &Rc<Self>, seed: &Node, content: &Content, plot: &Plot) -> bool {
        let Scope::Registry(registry) = plot.scope else { return true };
        let held = self.context.held(content, registry, plot.span);
        self.put(seed, plot, &News { held, lost: BlockSet::EMPTY })
    }

    /// False if so much waits already that this is not told.
    fn put(self: &Rc<Self>, seed: &Node, plot: &Plot, news: &News) -> bool {
        if news.is_empty() {
            return true;
        }
        let mut outboxes = self.outboxes.borrow_mut();
        let starts = !outboxes.contains_key(&seed.id);
        let outbox = outboxes.entry(seed.id).or_default();
        if outbox.changes.len() >= WAITING_MAX && !outbox.changes.contains_key(plot) {
            return false;
        }
        outbox.changes.entry(*plot).or_default().add(news);
        if starts {
            tokio::task::spawn_local(self.clone().tell(seed.clone()));
        }
        true
    }

    /// Tells one seed until there is nothing left to tell.
    async fn tell(self: Rc<Self>, seed: Node) {
        loop {
            tokio::time::sleep(TOLD_TOGETHER).await;
            let Some(changes) = self.next_changes(&seed.id) else { return };
            if changes.is_empty() {
                continue;
            }
            let holds = Holds { changes: List::first_of(changes), load: self.context.shared.books().load() };
            if !self.send(&seed, holds).await {
                // It cannot be told now; it will be told everything when it can.
                self.outboxes.borrow_mut().remove(&seed.id);
                return;
            }
        }
    }

    /// As many as one message tells; `None` when the outbox was empty, and is taken away.
    fn next_changes(&self, seed: &NodeId) -> Option<Vec<Change>> {
        let mut outboxes = self.outboxes.borrow_mut();
        let outbox = outboxes.get_mut(seed)?;
        if outbox.changes.is_empty() && !outbox.tells_anew {
            outboxes.remove(seed);
            return None;
        }
        let plots: Vec<Plot> = outbox.changes.keys().take(CHANGES_MAX).copied().collect();
        let change = |plot: &Plot| {
            let News { held, lost } = outbox.changes.remove(plot)?;
            Some(Change { plot: *plot, held, lost })
        };
        Some(plots.iter().filter_map(change).collect())
    }

    async fn send(&self, seed: &Node, holds: Holds) -> bool {
        for _ in 0..TRIES {
            let Ok(session) = self.context.mesh.session(seed).await else { return false };
            if session.tell(holds.clone()) {
                return true;
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
        false
    }

    /// A session with a seed has come up: it may know nothing of this node. Tells everything that it owns or is deputy
    /// of, in the background.
    pub(crate) fn tell_anew(self: &Rc<Self>, seed: &Node) {
        if !self.context.shared.told().is_to_be_told_anew(&seed.id) {
            return;
        }
        let mut outboxes = self.outboxes.borrow_mut();
        let starts = !outboxes.contains_key(&seed.id);
        let outbox = outboxes.entry(seed.id).or_default();
        if std::mem::replace(&mut outbox.tells_anew, true) {
            return;
        }
        drop(outboxes);
        if starts {
            tokio::task::spawn_local(self.clone().tell(seed.clone()));
        }
        let announcer = self.clone();
        let seed = seed.clone();
        tokio::task::spawn_local(async move {
            announcer.gather_all(&seed).await;
            if let Some(outbox) = announcer.outboxes.borrow_mut().get_mut(&seed.id) {
                outbox.tells_anew = false;
            }
        });
    }

    async fn gather_all(self: &Rc<Self>, seed: &Node) {
        let mut looks = 0;
        for content in self.context.store.contents() {
            if content.held_pieces() == 0 {
                continue;
            }
            for plot in plots(&content) {
                looks += 1;
                if looks % LOOKS_AT_ONCE == 0 {
                    tokio::task::yield_now().await;
                }
                if self.is_told(seed, &content, &plot) {
                    while self.waiting(&seed.id) >= TELLING_ANEW_MAX {
                        tokio::time::sleep(TOLD_TOGETHER).await;
                    }
                    self.put_all(seed, &content, &plot);
                }
            }
        }
    }

    /// How much the seed is still to be told.
    fn waiting(&self, seed: &NodeId) -> usize {
        self.outboxes.borrow().get(seed).map_or(0, |outbox| outbox.changes.len())
    }

    fn waiting_most(&self) -> usize {
        self.outboxes.borrow().values().map(|outbox| outbox.changes.len()).max().unwrap_or(0)
    }

    fn is_told(&self, seed: &Node, content: &Content, plot: &Plot) -> bool {
        self.context.told_of(content, plot).any(|told| told.id == seed.id)
    }
}
