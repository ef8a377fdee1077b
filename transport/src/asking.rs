//! One question to the owner of a content, which one message answers: what is it, may this client read it, how does a
//! boot read it.
//!
//! When the owner cannot be reached the deputy is asked; who is not the owner may name another node, once. A busy one is
//! asked again. Nothing here fails: who gets no answer does without the cluster.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::node::Node;
use crate::pull::Context;
use crate::span::Plot;
use crate::wire::{Message, Reaction, Refused};

/// How long one node has for its answer. It may be at a slow registry; that it is dead is seen by its connection.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// What came of a question.
#[derive(Debug)]
pub(crate) enum Asked {
    /// An answer, of whatever kind.
    Answered(Message),
    /// The verdict on the errand or on the content.
    Refused(Refused),
    /// This node is the owner, or nobody answers: it goes to the origin by itself.
    Nobody,
}

/// Asks the owner of the plot's content.
pub(crate) async fn ask_owner(context: &Context, plot: &Plot, request: impl Into<Message>) -> Asked {
    let request = request.into();
    let Some((owner, deputy)) = context.shared.seeds().owners(plot, false) else { return Asked::Nobody };
    let (mut next, mut insteads) = (Some(owner), 1);
    let mut in_reserve = deputy;
    while let Some(node) = next {
        if node.id == context.shared.own().id {
            return Asked::Nobody;
        }
        let refused = match ask(context, &node, &request).await {
            Some(Message::Refused(refused)) => refused,
            Some(answer) => return Asked::Answered(answer),
            None => {
                next = in_reserve.take();
                continue;
            }
        };
        next = match refused.reaction() {
            Reaction::PassVerdict | Reaction::GiveUp => return Asked::Refused(refused),
            Reaction::GoToOrigin | Reaction::DoWithout => return Asked::Nobody,
            Reaction::AskInstead if insteads > 0 => {
                insteads -= 1;
                refused.instead
            }
            _ => in_reserve.take(),
        };
    }
    Asked::Nobody
}

/// The node's last word, as long as it is not that it is busy; `None` when it says nothing that makes sense in time.
async fn ask(context: &Context, node: &Node, request: &Message) -> Option<Message> {
    let until = Instant::now() + ANSWERS_WITHIN;
    loop {
        let answer = timeout_at(until, ask_once(context, node, request)).await.ok()??;
        match &answer {
            Message::Refused(refused) => match refused.reaction() {
                Reaction::AskAgain { after_ms } if Instant::now() < until => {
                    sleep(Duration::from_millis(after_ms.into())).await;
                }
                _ => return Some(answer),
            },
            _ => return Some(answer),
        }
    }
}

async fn ask_once(context: &Context, node: &Node, request: &Message) -> Option<Message> {
    let broke_off = |error: &dyn std::fmt::Display| {
        tracing::debug!(node = %node.id, question = request.name(), %error, "no answer");
    };
    let session = context.mesh.session(node).await.inspect_err(|error| broke_off(error)).ok()?;
    let mut exchange = session.ask(request.clone()).await.inspect_err(|error| broke_off(error)).ok()?;
    let answer = exchange.next().await.inspect_err(|error| broke_off(error)).ok()??;
    exchange.finish();
    Some(answer)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Instant as StdInstant;

    use darter_engine::ring::Backend;
    use darter_engine::{ContentId, Layout, Scope, Store, StoreOptions};
    use tempfile::TempDir;

    use super::*;
    use crate::boot::Boot;
    use crate::chance::Chance;
    use crate::exchange::Exchange;
    use crate::lane::tests::{endpoint, identity, run, secrets};
    use crate::lane::{Endpoint, Lanes};
    use crate::mesh::{Introduction, Mesh, Service};
    use crate::node::Role;
    use crate::pull::Watches;
    use crate::seeds::{Seeds, Standing};
    use crate::session::Session;
    use crate::shared::Shared;
    use crate::span::SpanIndex;
    use crate::wire::{BOOT_RUNS_MAX, BootOrder, BootRun, List, Recall, Seed, Text};

    /// Answers everything with a list of blocks that there are none of, for as long as anybody listens.
    #[derive(Default)]
    struct Liar {
        /// Told when nobody listens any more.
        ended: Rc<tokio::sync::Notify>,
    }

    impl Service for Liar {
        fn up(&self, _: &Rc<Session>) {}

        fn down(&self, _: &Rc<Session>) {}

        fn told(&self, _: &Rc<Session>, _: Message) {}

        fn asked(&self, _: &Rc<Session>, _: Message, mut exchange: Exchange) {
            let runs = List::first_of(vec![BootRun { first: 0, count: u16::MAX }; BOOT_RUNS_MAX]);
            let ended = self.ended.clone();
            tokio::task::spawn_local(async move {
                while exchange.send(BootOrder { runs: runs.clone() }).await.is_ok() {}
                ended.notify_one();
            });
        }
    }

    fn mesh(endpoint: Endpoint, service: Rc<dyn Service>) -> (Rc<Mesh>, Node) {
        let node = Node { id: endpoint.own().id, address: endpoint.local_addr(), zone: Text::cut("") };
        let (address, zone, software) = (node.address, Text::cut(""), Text::cut("test"));
        let introduction = Introduction { address, zone, capacity_slots: 7, shards: 1, software };
        (Mesh::start(endpoint, introduction, service), node)
    }

    /// A node that takes that one for the only seed.
    fn asker(mesh: Rc<Mesh>, node: Node, seed: Node) -> (Context, TempDir) {
        let seeds = Seeds::new(node, 7, Role::Peer);
        seeds.up(Seed { node: seed, capacity_slots: 7, owns: true });
        seeds.stands(Standing::Joined);
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreOptions {
            data_dir: directory.path().into(),
            capacity_bytes: Some(16 << 20),
            backend: Backend::Pool,
            pool_blocks: 16,
            ttl: None,
        })
        .unwrap();
        let (chance, watches) = (RefCell::new(Chance::seeded(1)), Watches::default());
        (Context { shared: Shared::new(seeds, 1), mesh, store, chance, watches }, directory)
    }

    async fn recall(of: Role) -> (Asked, Rc<tokio::sync::Notify>) {
        let secrets = secrets();
        let start = |role| endpoint(identity(&secrets, role), Lanes::Quic);
        let liar = Liar::default();
        let ended = liar.ended.clone();
        let (_liars, seed) = mesh(start(of), Rc::new(liar));
        let (asking, own) = mesh(start(Role::Peer), Rc::new(Liar::default()));
        let (context, _directory) = asker(asking, own, seed);
        let content = ContentId::from_bytes([7; 32]);
        let plot = Plot { content, scope: Scope::Verified, span: SpanIndex::FIRST };
        (ask_owner(&context, &plot, Recall { content }).await, ended)
    }

    #[test]
    fn a_seed_that_never_ends_its_answer_is_heard_once() {
        run(async {
            let (asked, ended) = recall(Role::Seed).await;
            let Asked::Answered(Message::BootOrder(order)) = asked else { panic!("{asked:?}") };
            ended.notified().await;
            let layout = Layout::new(100 << 16).unwrap();
            let (mut boot, now) = (Boot::begin(layout, StdInstant::now()), StdInstant::now());
            let mut ahead = boot.recalled(&order.runs);
            (0..100).for_each(|block| ahead.extend(boot.read(layout.run(block, block + 1).unwrap(), now)));
            assert_eq!(ahead.len(), 98, "each block that there is once, but for those that it begins with");
            assert!(boot.is_over(now));
        });
    }

    #[test]
    fn a_peer_that_plays_the_owner_is_not_believed() {
        run(async {
            let (asked, _) = recall(Role::Peer).await;
            assert!(matches!(asked, Asked::Nobody), "{asked:?}");
        });
    }
}
