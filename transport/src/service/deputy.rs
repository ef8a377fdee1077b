//! The seed that stands by: it hears what nodes hold, copies the owner's digests, and acts as the owner when it sees
//! for itself that the owner cannot be reached.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::Server;
use super::board::{Board, Turn};
use super::owner::Post;
use crate::node::{Node, NodeId};
use crate::span::Plot;
use crate::wire::{FindParents, Holds, List, Message, SEEDS_MAX, Watch};

/// An owner that has not answered for so long cannot be reached.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// What was seen of an owner counts for so long.
const SEEN_FOR: Duration = Duration::from_secs(2);
/// Plots whose digests a shard copies from their owners at a time: a connection has 32 streams, and this is to take
/// half of them at most.
const FOLLOWS_MAX: usize = 16;
/// When nothing new is told for so long, it is the next plot's turn.
const FOLLOWS_IDLE: Duration = Duration::from_secs(3);
/// Plots of one batch of registrations whose digests are looked for: each costs a look at the order of seeds.
const LOOKS_MAX: usize = 8;

/// What this shard has seen of owners.
#[derive(Debug, Default)]
pub(super) struct Reach {
    seen: HashMap<NodeId, Rc<tokio::sync::Mutex<Option<Seen>>>>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Instant,
    reached: bool,
}

impl Reach {
    fn of(&mut self, id: NodeId) -> Rc<tokio::sync::Mutex<Option<Seen>>> {
        if self.seen.len() >= 2 * SEEDS_MAX && !self.seen.contains_key(&id) {
            self.seen.clear();
        }
        self.seen.entry(id).or_default().clone()
    }
}

impl Server {
    /// Whether this node, the deputy, acts as the owner now. Who asks may say that the owner is not there; that is
    /// looked at. Else only what was seen lately counts.
    pub(super) async fn stands_in_for(&self, owner: &Node, plot: &Plot, look: bool) -> bool {
        let seen = self.reach.borrow_mut().of(owner.id);
        if !look {
            // While somebody looks, it is not known.
            return seen
                .try_lock()
                .is_ok_and(|seen| seen.is_some_and(|seen| !seen.reached && seen.is_fresh()));
        }
        let mut seen = seen.lock().await;
        if let Some(seen) = *seen
            && seen.is_fresh()
        {
            return !seen.reached;
        }
        let asked = async {
            let find = FindParents { plot: *plot, known: List::default(), wanted: 0 };
            let mut exchange = self.session(owner).await?.ask(find).await.ok()?;
            exchange.next().await.ok()?
        };
        let reached = matches!(timeout(ANSWERS_WITHIN, asked).await, Ok(Some(_)));
        if !reached {
            tracing::info!(owner = %owner.id, "the owner cannot be reached from here either: this node stands in for it");
        }
        *seen = Some(Seen { at: Instant::now(), reached });
        !reached
    }

    /// Nodes have registered blocks. If this node is the deputy there and lacks their digests, it copies them from the
    /// owner.
    pub(super) fn stand_by(&self, holds: &Holds) {
        let Some(me) = self.me.upgrade().filter(|me| me.books.seeds.is_seed()) else { return };
        let attestations = me.books.attestations();
        let lacks = holds
            .changes
            .iter()
            .filter(|change| !change.held.minus(&attestations.known(&change.plot)).is_empty());
        for change in lacks.take(LOOKS_MAX) {
            // Of a content that this node does not know it knows no better than that small ones are many.
            let by_span = me.by_span(&change.plot).unwrap_or(false);
            if let Post::Deputy(owner) = me.post(&change.plot, by_span) {
                me.follow(owner, change.plot);
            }
        }
    }

    /// Copies the digests of a plot from another seed, until nothing new is told.
    fn follow(self: &Rc<Self>, seed: Node, plot: Plot) {
        if self.follows.get() >= FOLLOWS_MAX {
            return;
        }
        let Some((board, turn)) =
            self.board(&plot).and_then(|board| Some((board.clone(), board.turn_to_follow()?)))
        else {
            return;
        };
        let one = One::of(self);
        tokio::task::spawn_local(async move {
            one.0.copy_digests(&seed, plot).await;
            let _: (Arc<Board>, Turn) = (board, turn);
        });
    }

    async fn copy_digests(&self, seed: &Node, plot: Plot) {
        let Some(session) = self.session(seed).await else { return };
        let Ok(mut exchange) = session.ask(Watch { plot }).await else { return };
        while let Ok(Ok(Some(message))) = timeout(FOLLOWS_IDLE, exchange.next()).await {
            match message {
                Message::Attested(attested) => {
                    self.books.attest(&plot, attested.first.into(), &attested.digests);
                }
                Message::Have(_) => {}
                _ => return,
            }
        }
    }
}

impl Seen {
    fn is_fresh(&self) -> bool {
        self.at.elapsed() < SEEN_FOR
    }
}

/// One of the plots that a shard follows.
struct One(Rc<Server>);

impl One {
    fn of(server: &Rc<Server>) -> Self {
        let follows: &Cell<usize> = &server.follows;
        follows.set(follows.get() + 1);
        Self(server.clone())
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.follows.set(self.0.follows.get() - 1);
    }
}
