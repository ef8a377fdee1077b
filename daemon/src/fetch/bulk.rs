//! What the cluster brings of a content in bulk: all that is absent of a span, in whatever order others can give it.
//!
//! Nodes that read the same content at once would all ask for its blocks in their order, and have nothing to give
//! each other. So a reader that takes all of it waits for what comes, and only when the next block is long in coming is that one
//! asked for ahead of others.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use darter_engine::{BlockIndex, BlockRun, Layout};
use darter_transport::pull::Wanted;
use darter_transport::span::SPAN_BLOCKS;

use super::active::Active;
use super::demand::Waiter;
use super::plan::TransferId;
use super::pulled::{self, Outcome};
use crate::cluster::errand;
use crate::origin::Target;
use crate::trace::{Kind, Span};

/// How long nothing is asked for in bulk after the cluster has not brought a span.
const NOT_AGAIN_FOR: Duration = Duration::from_secs(10);

/// Of one content.
#[derive(Debug, Default)]
pub(super) struct Bulk {
    /// Spans on their way.
    spans: BTreeSet<u32>,
    /// When the cluster last left something out.
    failed_at: Option<Instant>,
}

impl Bulk {
    fn may_begin(&self, span: u32) -> bool {
        let failed_lately = self.failed_at.is_some_and(|at| at.elapsed() < NOT_AGAIN_FOR);
        !failed_lately && !self.spans.contains(&span)
    }
}

/// A span, and what of it one transfer brings.
struct Claim {
    span: BlockRun,
    absent: Vec<BlockIndex>,
    id: TransferId,
}

impl Active {
    /// The span around a block, beside what readers ask for: from now on all of it that is absent is the bulk's, and so are
    /// the blocks that were to be asked for ahead.
    pub(super) fn begin_bulk(self: &Rc<Self>, block: BlockIndex, target: &Rc<Target>) {
        if self.is_without_room() {
            return;
        }
        let span = span_of(self.content().layout(), block);
        let Some(claim) = span.and_then(|span| self.claim_span(span, target)) else { return };
        let (active, target) = (self.clone(), target.clone());
        self.owner.spawn(async move { active.bring_claimed(claim, &target).await });
    }

    /// Brings what the cluster has of a span. What it leaves out and somebody waits for is asked for as before.
    pub(super) async fn bring_bulk(self: &Rc<Self>, span: BlockRun, target: &Target) {
        if let Some(claim) = self.claim_span(span, target) {
            self.bring_claimed(claim, target).await;
        }
    }

    /// `None` where the cluster is not asked, or all of the span is here or on its way.
    fn claim_span(&self, span: BlockRun, target: &Target) -> Option<Claim> {
        self.owner.cluster_for(target)?;
        if !self.bulk.borrow().may_begin(number_of(span)) {
            return None;
        }
        let id = self.next_transfer();
        let absent = self.claim_absent(span, id);
        if absent.is_empty() {
            return None;
        }
        self.bulk.borrow_mut().spans.insert(number_of(span));
        Some(Claim { span, absent, id })
    }

    async fn bring_claimed(self: &Rc<Self>, Claim { span, absent, id }: Claim, target: &Target) {
        let (target, mut pulling) = self.begin_pull(target, span);
        pulling.set("darter.bulk", || true);
        let outcome = match self.wanted(vec![span], true, &target) {
            Some(wanted) => self.pull(absent, wanted).await,
            None => None,
        };
        drop(pulling);
        let mut bulk = self.bulk.borrow_mut();
        bulk.spans.remove(&number_of(span));
        if outcome.is_none_or(|outcome| !outcome.missing.is_empty()) {
            bulk.failed_at = Some(Instant::now());
        }
        drop(bulk);
        self.plan.borrow_mut().give_back(span, id);
        self.pump();
    }

    /// What is asked of the cluster; `None` where the client's request cannot be told to others.
    pub(super) fn wanted(&self, runs: Vec<BlockRun>, bulk: bool, target: &Target) -> Option<Wanted> {
        let errand = errand::pack(target)?;
        Some(Wanted { content: self.content().clone(), registry: self.key.scope, runs, bulk, errand })
    }

    /// The blocks of a span that are neither in the store nor on their way: they are this transfer's now.
    fn claim_absent(&self, span: BlockRun, id: TransferId) -> Vec<BlockIndex> {
        let mut plan = self.plan.borrow_mut();
        let mut claimed = Vec::new();
        for block in
            span.blocks().filter(|block| !self.has(*block) && plan.is_open(*block)).collect::<Vec<_>>()
        {
            if let Some(run) = span.starting_at(block) {
                plan.begin(run.take(1), id);
                claimed.push(block);
            }
        }
        claimed
    }

    /// What the cluster gives of what is wanted, of which the plan knows these blocks, in their order, as one transfer's;
    /// `None` where it is not asked.
    pub(super) async fn pull(self: &Rc<Self>, blocks: Vec<BlockIndex>, wanted: Wanted) -> Option<Outcome> {
        let arrivals = self.owner.cluster.get()?.pull(wanted);
        Some(pulled::take_all(self, blocks, arrivals).await)
    }

    /// What the cluster gives of a run that readers wait for; `None` where it is not asked.
    pub(super) async fn pull_for_readers(self: &Rc<Self>, run: BlockRun, target: &Target) -> Option<Outcome> {
        self.owner.cluster_for(target)?;
        let (target, mut span) = self.begin_pull(target, run);
        let outcome = self.pull(run.blocks().collect(), self.wanted(vec![run], false, &target)?).await?;
        let missing = outcome.missing.iter().map(|run| u64::from(run.len())).sum::<u64>();
        span.set("darter.blocks.missing", || missing);
        Some(outcome)
    }

    /// Blocks that the cluster is asked for, as a span. Their owner sends them, or names who has them.
    fn begin_pull<'t>(&self, target: &'t Target, run: BlockRun) -> (Cow<'t, Target>, Span) {
        let mut span = target.trace().span("pull", Kind::Client);
        span.set("darter.content", || self.key.id.to_string());
        span.set("darter.blocks", || u64::from(run.len()));
        let cluster = self.owner.cluster.get().filter(|_| span.context().is_some());
        let owner = cluster.and_then(|it| it.owner_of_block(self.content(), self.key.scope, run.first()));
        if let Some(owner) = owner {
            span.set("darter.node", || owner.to_string());
        }
        (target.below(&span), span)
    }

    /// Whether something of a run may be on its way without anybody waiting for it.
    fn may_be_coming(&self, run: BlockRun) -> bool {
        let is_bulk = self.bulk.borrow().spans.contains(&(run.first().number() / SPAN_BLOCKS));
        is_bulk || self.ahead.borrow().is_at_work()
    }

    /// Somebody waits for these: where they come in bulk, they are asked for ahead of others.
    pub(super) fn hurry(&self, run: BlockRun) {
        let target = self.target();
        if self.may_be_coming(run)
            && let Some(cluster) = self.owner.cluster_for(&target)
        {
            cluster.hurry(self.content(), self.key.scope, run);
        }
    }

    /// The same, if they have not come in this time: the first of them, and while nothing else comes either, the next.
    pub(super) fn hurry_after(self: &Rc<Self>, patience: Duration, run: BlockRun) {
        if self.may_be_coming(run) || self.owner.cluster_for(&self.target()).is_some() {
            let active = self.clone();
            self.owner.spawn(async move {
                let mut held_pieces = None;
                loop {
                    tokio::time::sleep(patience).await;
                    let Some(late) = active.first_awaited(run) else { return };
                    let before = held_pieces.replace(active.content().held_pieces());
                    // One at a time: all that pull the content are late with the same ones.
                    if before.is_none() || before == held_pieces {
                        active.hurry(late.take(1));
                    }
                }
            });
        }
    }

    /// A run from the first of its blocks on that somebody waits for.
    fn first_awaited(&self, run: BlockRun) -> Option<BlockRun> {
        let plan = self.plan.borrow();
        let first = run.blocks().find(|block| plan.is_awaited(*block, Waiter::is_there));
        run.starting_at(first?)
    }
}

fn number_of(span: BlockRun) -> u32 {
    span.first().number() / SPAN_BLOCKS
}

fn span_of(layout: Layout, block: BlockIndex) -> Option<BlockRun> {
    let first = block.number() / SPAN_BLOCKS * SPAN_BLOCKS;
    layout.run(first, first.saturating_add(SPAN_BLOCKS).min(layout.block_count()))
}

/// A run cut at the borders of spans.
pub(super) fn spans(layout: Layout, run: BlockRun) -> impl Iterator<Item = BlockRun> {
    let firsts = (0..layout.block_count()).step_by(SPAN_BLOCKS as usize);
    firsts
        .filter_map(move |first| span_of(layout, layout.block(first)?))
        .filter(move |span| run.contains(span.first()))
}
