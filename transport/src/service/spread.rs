//! A seed has every node that is connected with it, and itself, take all of a content.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use darter_engine::{Scope, Store};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::Server;
use super::reaching::Reaching;
use super::refusal::{Stop, because, busy, not_owner};
use crate::exchange::Exchange;
use crate::node::Node;
use crate::span::{Plot, SpanIndex};
use crate::wire::{Brought, Code, Describe, End, List, Message, Preheat, Reached, Reaction, Refused, Spread};

/// [`Spread`]s that a seed works on at a time.
pub(super) const SPREADS_MAX: usize = 8;
/// [`Preheat`]s that a node answers at a time.
pub(super) const PREHEATS_MAX: usize = 32;
/// Nodes that are told at a time for one [`Spread`]; the others wait.
const TOLD_AT_ONCE: usize = 256;
/// How often whoever asked is told how far it is.
const TOLD_EVERY: Duration = Duration::from_millis(250);
/// Where nothing has changed for so long, that is told.
const TOLD_ANYWAY_AFTER: Duration = Duration::from_secs(10);
/// Messages to who asked that it has not taken yet.
const NEWS_MAX: usize = 4;
/// A node says what it holds each [`TOLD_EVERY`]; one that says nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// How often a node is asked whose connection broke.
const TRIES: u32 = 3;
const TRY_PAUSE: Duration = Duration::from_secs(1);
/// A node that says for so long that it is busy is given up.
const BUSY_FOR: Duration = Duration::from_secs(600);

impl Server {
    /// Answers [`Spread`].
    pub(super) async fn spread(self: &Rc<Self>, spread: Spread, exchange: &mut Exchange) -> Result<(), Stop> {
        let (to, mut news) = mpsc::channel(NEWS_MAX);
        let spreading = self.spread_to(spread, to);
        tokio::pin!(spreading);
        loop {
            tokio::select! {
                biased;
                Some(reached) = news.recv() => exchange.send(reached).await?,
                spread = &mut spreading => {
                    spread?;
                    while let Ok(reached) = news.try_recv() {
                        exchange.send(reached).await?;
                    }
                    return Ok(exchange.send(End {}).await?);
                }
            }
        }
    }

    /// Tells all nodes that are connected now, and says what becomes of that until each of them has all or does not get it.
    /// Dropped, it lets all of them go.
    ///
    /// # Errors
    /// This node is no seed, does as much already, or whoever asks may not have it.
    pub(crate) async fn spread_to(
        self: &Rc<Self>,
        spread: Spread,
        news: mpsc::Sender<Reached>,
    ) -> Result<(), Refused> {
        if !self.books.seeds.is_seed() {
            return Err(not_owner(None));
        }
        let Ok(_place) = self.books.spreads.try_acquire() else { return Err(busy(Duration::from_secs(1))) };
        let preheat = self.vouched_for(spread).await?;
        let own = self.books.seeds.own().clone();
        let reaching = Reaching::of(self.books.nodes().into_iter().chain([own.clone()]));
        let nodes = reaching.nodes();
        let reaching = Rc::new(RefCell::new(reaching));
        let turns = Arc::new(Semaphore::new(TOLD_AT_ONCE));
        let mut tasks = JoinSet::new();
        for node in nodes {
            let (server, reaching, turns) = (self.clone(), reaching.clone(), turns.clone());
            let (preheat, is_own) = (preheat.clone(), node.id == own.id);
            tasks.spawn_local(async move {
                let Ok(_turn) = turns.acquire().await else { return };
                // A node says what it likes.
                let holds = |held_bytes: u64| {
                    reaching.borrow_mut().holds(&node.id, held_bytes.min(preheat.length));
                };
                let how = match is_own {
                    true => server.preheat_here(&preheat, holds).await,
                    false => server.have_preheated(&node, &preheat, holds).await,
                };
                reaching.borrow_mut().ended(&node.id, how);
            });
        }
        let mut told_at = Instant::now();
        loop {
            let is_over = reaching.borrow().is_over();
            loop {
                let told = reaching.borrow_mut().news();
                let silent = told_at.elapsed() >= TOLD_ANYWAY_AFTER;
                let Some(told) = told.or_else(|| silent.then(|| Reached { nodes: List::default() })) else {
                    break;
                };
                told_at = Instant::now();
                if news.send(told).await.is_err() {
                    // Nobody wants to know any more: the tasks end with their set.
                    return Ok(());
                }
            }
            if is_over {
                return Ok(());
            }
            let ended = timeout(TOLD_EVERY, async { while tasks.join_next().await.is_some() {} }).await;
            if ended.is_ok() && !reaching.borrow().is_over() {
                return Err(because(Code::Internal, "a task that told a node has failed"));
            }
        }
    }

    /// What nodes are told of the content: the owner's word, given for this errand.
    async fn vouched_for(&self, spread: Spread) -> Result<Preheat, Refused> {
        let Spread { content, by_digest, registry, origin, errand } = spread;
        let plot = Plot { content, scope: Scope::Registry(registry), span: SpanIndex::FIRST };
        if self.books.is_wrong(&content, plot.scope) {
            return Err(because(Code::WrongContent, "its bytes have another digest than its name"));
        }
        let describe = Describe { content, by_digest, registry, forwarded: false, errand };
        let described = self.described(describe).await?;
        Ok(Preheat {
            content,
            by_digest,
            registry,
            origin,
            length: described.length,
            by_span: described.by_span,
            media_type: described.media_type,
            validator: described.validator,
        })
    }

    /// Another node takes all of it.
    async fn have_preheated(
        &self,
        node: &Node,
        preheat: &Preheat,
        holds: impl Fn(u64),
    ) -> Result<(), Refused> {
        let (since, mut tries) = (Instant::now(), 0);
        loop {
            let why = match self.ask_to_preheat(node, preheat, &holds).await {
                Ok(()) => return Ok(()),
                Err(Some(refused)) => match refused.reaction() {
                    Reaction::AskAgain { after_ms } if since.elapsed() < BUSY_FOR => {
                        sleep(Duration::from_millis(after_ms.into())).await;
                        continue;
                    }
                    _ => return Err(refused),
                },
                Err(None) => because(Code::Other(0), "it cannot be reached, or says nothing"),
            };
            tries += 1;
            if tries == TRIES {
                return Err(why);
            }
            sleep(TRY_PAUSE).await;
        }
    }

    /// `None`: it cannot be reached, or says what makes no sense.
    async fn ask_to_preheat(
        &self,
        node: &Node,
        preheat: &Preheat,
        holds: impl Fn(u64),
    ) -> Result<(), Option<Refused>> {
        let session = self.session(node).await.ok_or(None)?;
        let mut exchange = session.ask(preheat.clone()).await.map_err(|_| None)?;
        loop {
            match timeout(SILENCE, exchange.next()).await {
                Ok(Ok(Some(Message::Brought(Brought { held_bytes })))) => holds(held_bytes),
                Ok(Ok(Some(Message::End(_)))) => {
                    exchange.finish();
                    return Ok(());
                }
                Ok(Ok(Some(Message::Refused(refused)))) => return Err(Some(refused)),
                _ => return Err(None),
            }
        }
    }

    /// Answers [`Preheat`].
    pub(super) async fn preheat(&self, preheat: &Preheat, exchange: &mut Exchange) -> Result<(), Stop> {
        let (to, mut held) = mpsc::channel(1);
        let preheating = self.preheat_here(preheat, move |held_bytes| {
            // The next one says it as well.
            let _ = to.try_send(held_bytes);
        });
        tokio::pin!(preheating);
        loop {
            tokio::select! {
                biased;
                Some(held_bytes) = held.recv() => exchange.send(Brought { held_bytes }).await?,
                done = &mut preheating => {
                    done?;
                    exchange.send(Brought { held_bytes: preheat.length }).await?;
                    return Ok(exchange.send(End {}).await?);
                }
            }
        }
    }

    /// Takes all of it from other nodes; `Ok` when this node holds all.
    async fn preheat_here(&self, preheat: &Preheat, holds: impl Fn(u64)) -> Result<(), Refused> {
        let Ok(_place) = self.books.preheats.try_acquire() else { return Err(busy(Duration::from_secs(1))) };
        let (content, gathering) = self.origin.preheat(preheat)?;
        tokio::pin!(gathering);
        let mut ticks = interval(TOLD_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut gathering => break,
                _ = ticks.tick() => holds(self.store.stat(&content).held_bytes),
            }
        }
        let has = |store: &Store| {
            let blocks = content.layout().whole().into_iter().flat_map(|whole| whole.blocks());
            blocks.into_iter().all(|block| store.has(&content, preheat.registry, block))
        };
        match () {
            () if has(&self.store) => Ok(()),
            () if content.is_gone() => Err(because(Code::Internal, "the content was dropped while it came")),
            () if self.store.stats().capacity_bytes < preheat.length || self.store.is_behind() => {
                Err(because(Code::Unkept, "no room"))
            }
            () => Err(because(
                Code::NotHeld,
                "the other nodes no longer have all of it, or there is no room here",
            )),
        }
    }
}
