//! What the owner of a plot answers: what a content is, who sends a block, who else brings it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use darter_engine::{Content, Scope};
use tokio::time::timeout;

use super::bringing::For;
use super::refusal::{Stop, because, busy, not_owner};
use super::{Server, Site};
use crate::block_set::BlockSet;
use crate::exchange::Exchange;
use crate::node::Node;
use crate::ownership::owned_by_span;
use crate::schedule::{Asker, LazyAsk, Own};
use crate::span::{Plot, SpanIndex};
use crate::wire::{
    Code, Describe, Description, End, FindParents, Holder, Holders, List, Message, Refused, Text, Want,
};

/// Blocks that a node which takes any is given at a time where hardly anybody else does: 1 MiB…
const BULK_BLOCKS_MAX: u32 = 16;
/// …and where many do: 256 KiB. More would be passed on later, and be lost with an owner that is killed.
const BULK_BLOCKS_MIN: u32 = 4;
/// When the owner has not described a content by then, its deputy looks whether it is there.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// An owner that is there may itself wait for the origin, but no longer than this.
const DESCRIBED_WITHIN: Duration = Duration::from_secs(10);

impl Server {
    /// Says what a content is, if this node owns it; asks the owner if another one does, once.
    pub(super) async fn describe(
        self: &Rc<Self>,
        describe: Describe,
        exchange: &mut Exchange,
    ) -> Result<(), Stop> {
        let scope = Scope::Registry(describe.registry);
        let plot = Plot { content: describe.content, scope, span: SpanIndex::FIRST };
        self.not_wrong(&plot).await?;
        let description = self.described(describe).await?;
        Ok(exchange.send(description).await?)
    }

    /// What the owner says of a content.
    pub(super) async fn described(&self, describe: Describe) -> Result<Description, Refused> {
        let scope = Scope::Registry(describe.registry);
        let plot = Plot { content: describe.content, scope, span: SpanIndex::FIRST };
        match self.must_own(&plot, false, false).await {
            Ok(()) => self.describe_oneself(describe).await,
            Err(refused) => match refused.instead.clone() {
                Some(owner) if !describe.forwarded && self.books.seeds.is_seed() => {
                    self.describe_by(&owner, describe).await
                }
                _ => Err(refused),
            },
        }
    }

    async fn describe_oneself(&self, describe: Describe) -> Result<Description, Refused> {
        let scope = Scope::Registry(describe.registry);
        let content = self.origin.describe(Describe { forwarded: true, ..describe }).await?;
        let layout = content.layout();
        Ok(Description {
            length: layout.length_bytes(),
            scope,
            by_span: owned_by_span(layout, self.books.seeds.capacity_slots()),
            owner: self.own_id(),
            media_type: Text::cut(content.media_type()),
            validator: Text::cut(content.validator()),
        })
    }

    /// Passes the request on to who owns the content. If that one cannot be reached and this node is its deputy, it
    /// stands in.
    async fn describe_by(&self, owner: &Node, describe: Describe) -> Result<Description, Refused> {
        let scope = Scope::Registry(describe.registry);
        let plot = Plot { content: describe.content, scope, span: SpanIndex::FIRST };
        let forwarded = Describe { forwarded: true, ..describe.clone() };
        let asked = async {
            let mut exchange = self.session(owner).await?.ask(forwarded).await.ok()?;
            exchange.next().await.ok()?
        };
        tokio::pin!(asked);
        let answer = match timeout(ASKED_AGAIN_AFTER, &mut asked).await {
            Ok(answer) => answer,
            // It may wait for the origin, or be gone.
            Err(_) if self.must_own(&plot, false, true).await.is_ok() => None,
            Err(_) => timeout(DESCRIBED_WITHIN, asked).await.ok().flatten(),
        };
        match answer {
            Some(Message::Description(description)) => Ok(description),
            Some(Message::Refused(refused)) => Err(refused),
            _ => {
                self.must_own(&plot, false, true).await?;
                self.describe_oneself(describe).await
            }
        }
    }

    /// Sends blocks, or names who has them.
    pub(super) async fn want(
        self: &Rc<Self>,
        asker: &Node,
        want: &Want,
        exchange: &mut Exchange,
    ) -> Result<(), Stop> {
        self.not_wrong(&want.plot).await?;
        // Not passed on: the owner would take this node for the one who gets the blocks.
        let site = self.site_of_own(want).await?;
        self.take_over(&want.plot).await;
        let places = want.places.and(&site.blocks);
        let held = self.held_of(&site, &places);
        if !want.any {
            // Whoever is named for what is held here can be used only with its digest.
            self.hash(&site, &held).await;
        }
        let attested = self.books.attestations().known(&site.plot);
        let own = Own { here: held.or(&site.board.bringing()), attested };
        let failed: Vec<_> = want.failed.iter().copied().collect();
        let ask = LazyAsk {
            asker: Asker { id: asker.id, zone: &asker.zone },
            plot: &want.plot,
            places: &places,
            failed: &failed,
            own: &own,
        };
        let whom = For { asker: asker.id, errand: &want.errand };
        let given = match want.any {
            true => self.give_some(&site, &whom, &ask, exchange).await,
            false => self.give_all(&site, &whom, &ask, exchange).await,
        };
        if let Err(stop) = given {
            // It does not have them soon, and nobody is to wait for it.
            self.books.map().tracker.expect_nothing(&asker.id, &want.plot, &places);
            return Err(stop);
        }
        Ok(exchange.send(End {}).await?)
    }

    /// The plot, if this node owns it.
    async fn site_of_own(&self, want: &Want) -> Result<Site, Refused> {
        let by_span = match self.by_span(&want.plot) {
            Some(by_span) => by_span,
            // The content says whether its spans are owned each by itself: who owns it either way has to know it first. Who
            // is its deputy and owns the span would else name the content's owner, and that one would name it.
            None => {
                let is_owner = |by_span| match self.post(&want.plot, by_span) {
                    Post::Owner(_) => true,
                    Post::Deputy(_) => want.stand_in,
                    Post::Neither(_) | Post::Unknown => false,
                };
                if is_owner(true) || is_owner(false) {
                    self.site_for(want).await?;
                }
                self.by_span(&want.plot).unwrap_or(false)
            }
        };
        self.must_own(&want.plot, by_span, want.stand_in).await?;
        self.site_for(want).await
    }

    /// The plot, described first if this node does not know its content: it has been started anew, or owns only this
    /// span.
    async fn site_for(&self, want: &Want) -> Result<Site, Refused> {
        let Scope::Registry(registry) = want.plot.scope else {
            return Err(because(Code::NotHeld, "plots belong to a registry"));
        };
        let content: Arc<Content> = match self.store.find(&want.plot.content, registry) {
            Some(content) => content,
            None => {
                let (content, errand) = (want.plot.content, want.errand.clone());
                let of_content = Plot { span: SpanIndex::FIRST, ..want.plot };
                let forwarded = matches!(self.post(&of_content, false), Post::Owner(_));
                let describe = Describe { content, by_digest: true, registry, forwarded, errand };
                self.origin.describe(describe).await?
            }
        };
        if want.plot.span.blocks(content.layout()) == 0 {
            return Err(because(Code::NotHeld, "the content ends before this span"));
        }
        let site = self.site_of(&want.plot, content, registry);
        site.ok_or_else(|| busy(Duration::from_secs(1)))
    }

    /// A reader waits for all of these.
    async fn give_all(
        self: &Rc<Self>,
        site: &Site,
        whom: &For<'_>,
        ask: &LazyAsk<'_>,
        exchange: &mut Exchange,
    ) -> Result<(), Stop> {
        let lazy = {
            let map = &mut *self.books.map();
            map.tracker.lazy(ask, Instant::now(), &mut map.chance)
        };
        self.name(&site.plot, lazy.holders, exchange).await?;
        self.send_as_they_come(site, whom, &lazy.send.or(&lazy.bring), exchange).await
    }

    /// Some of these are of use: the rarest, and of what this node lacks only what nobody else has.
    async fn give_some(
        self: &Rc<Self>,
        site: &Site,
        whom: &For<'_>,
        ask: &LazyAsk<'_>,
        exchange: &mut Exchange,
    ) -> Result<(), Stop> {
        let (elsewhere, holders) = {
            let map = &mut *self.books.map();
            map.tracker.elsewhere(ask, Instant::now(), &mut map.chance)
        };
        let useful = ask.places.minus(&elsewhere);
        let place = site.board.bulk_place();
        let takes = self.books.uploads.takes();
        let come_again = |server: &Self| {
            let map = &mut *server.books.map();
            busy(map.tracker.come_again(&site.plot, takes, &mut map.chance))
        };
        if useful.is_empty() {
            self.name(&site.plot, holders, exchange).await?;
            return match ask.places.is_empty() {
                true => Ok(()),
                false => Err(come_again(self).into()),
            };
        }
        let Some(_place) = place else { return Err(come_again(self).into()) };
        let ahead = {
            let map = &mut *self.books.map();
            map.tracker.to_bring(ask, &useful, &mut map.chance)
        };
        if !ahead.is_empty() {
            self.bring(site, whom.errand, &ahead);
        }
        let chosen = {
            let own = Own { here: ask.own.here.or(&site.board.bringing()), ..*ask.own };
            let map = &mut *self.books.map();
            let (now, chance) = (Instant::now(), &mut map.chance);
            let count = bulk_blocks(map.tracker.members(&site.plot));
            map.tracker.rarest(&LazyAsk { own: &own, ..*ask }, &useful, count, now, chance)
        };
        self.send_as_they_come(site, whom, &chosen, exchange).await
    }

    /// Names who has blocks, after the digests of what they have.
    async fn name(&self, plot: &Plot, holders: Vec<Holder>, exchange: &mut Exchange) -> Result<(), Stop> {
        if holders.is_empty() {
            return Ok(());
        }
        let places =
            holders.iter().fold(BlockSet::EMPTY, |all, holder| all.or(&holder.held).or(&holder.coming));
        self.tell_digests(plot, &places, exchange).await?;
        Ok(exchange.send(Holders { holders: List::first_of(holders) }).await?)
    }

    /// Names parents to a node that brings a plot in bulk. None wanted is how a deputy sees whether the owner lives.
    pub(super) async fn find_parents(
        self: &Rc<Self>,
        asker: &Node,
        find: &FindParents,
        exchange: &mut Exchange,
    ) -> Result<(), Stop> {
        if find.wanted == 0 {
            return Ok(exchange.send(Holders { holders: List::default() }).await?);
        }
        self.not_wrong(&find.plot).await?;
        let by_span = self.by_span(&find.plot).unwrap_or(false);
        // A deputy has a copy of the map.
        if let Err(refused) = self.must_own(&find.plot, by_span, false).await
            && (!self.books.seeds.is_seed() || self.books.map().tracker.members(&find.plot) == 0)
        {
            return Err(refused.into());
        }
        self.take_over(&find.plot).await;
        let asker = Asker { id: asker.id, zone: &asker.zone };
        let holders = {
            let map = &mut *self.books.map();
            let (wanted, now) = (find.wanted.into(), Instant::now());
            map.tracker.parents(asker, &find.plot, &find.known, wanted, now, &mut map.chance)
        };
        Ok(exchange.send(Holders { holders: List::first_of(holders) }).await?)
    }
}

/// How many blocks a node that takes any is given of a plot with so many members.
fn bulk_blocks(members: usize) -> u32 {
    let share = 2 * BULK_BLOCKS_MAX / u32::try_from(members).unwrap_or(u32::MAX).max(1);
    share.clamp(BULK_BLOCKS_MIN, BULK_BLOCKS_MAX)
}

/// What this node is to a plot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Post {
    /// It owns it; and who stands by.
    Owner(Option<Node>),
    /// It stands by; and who owns it.
    Deputy(Node),
    /// Another one owns it.
    Neither(Node),
    /// It knows no seed.
    Unknown,
}

impl Server {
    /// What this node is to a plot. With `by_span` the span counts, else only the content.
    pub(super) fn post(&self, plot: &Plot, by_span: bool) -> Post {
        let (own, seeds) = (self.own_id(), &self.books.seeds);
        match seeds.owners(plot, by_span) {
            Some((owner, deputy)) if owner.id == own => Post::Owner(deputy),
            Some((owner, Some(deputy))) if deputy.id == own => Post::Deputy(owner),
            Some((owner, _)) => Post::Neither(owner),
            // A seed that knows no other is its own.
            None if seeds.is_seed() => Post::Owner(None),
            None => Post::Unknown,
        }
    }

    /// Whether each span of the content has an owner of its own, as the content's owner has said when it described it:
    /// from its capacity. `None` if this node does not know the content.
    pub(super) fn by_span(&self, plot: &Plot) -> Option<bool> {
        let Scope::Registry(registry) = plot.scope else { return None };
        let content = self.store.find(&plot.content, registry)?;
        let (describer, _) = self.books.seeds.owners(plot, false)?;
        let seeds = self.books.seeds.live();
        let capacity = seeds.iter().find(|seed| seed.node.id == describer.id)?.capacity_slots;
        Some(owned_by_span(content.layout(), capacity))
    }

    /// Refuses what another seed owns, and names it. The deputy acts as the owner if that cannot be reached.
    pub(super) async fn must_own(&self, plot: &Plot, by_span: bool, stand_in: bool) -> Result<(), Refused> {
        match self.post(plot, by_span) {
            Post::Owner(_) => Ok(()),
            Post::Deputy(owner) if self.stands_in_for(&owner, plot, stand_in).await => Ok(()),
            Post::Deputy(owner) | Post::Neither(owner) => Err(not_owner(Some(owner))),
            Post::Unknown => Err(not_owner(None)),
        }
    }

    /// Whom this node, as the owner, is to ask for the map.
    pub(super) fn deputy_of(&self, plot: &Plot) -> Option<Node> {
        match self.post(plot, self.by_span(plot).unwrap_or(false)) {
            Post::Owner(deputy) => deputy,
            _ => None,
        }
    }
}
