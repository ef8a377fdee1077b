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
