//! A content is brought to every node of the cluster: asked of all seeds, for each knows the nodes that are connected with it.
//!
//! What the seeds say is passed on as it comes. A seed that cannot be asked is named, and the others go on: its nodes are
//! mostly not connected with another one.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::node::Node;
use crate::pull::Context;
use crate::service::Server;
use crate::wire::{Code, Message, Reach, Reached, Reaction, Refused, Spread};

/// A seed describes the content to itself before its first word, and then says something every ten seconds.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a seed may be busy with other contents.
const BUSY_FOR: Duration = Duration::from_secs(600);

/// What is heard of a content that is brought to all nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Spreading {
    /// What has changed at nodes that a seed knows.
    Reached(Vec<Reach>),
    /// A seed does not tell its nodes, or does not say what has become of it.
    SeedFailed(Box<(Node, Refused)>),
}

/// Asks all seeds, this node too if it is one. Needs the runtime of the shard.
pub(crate) fn begin(context: &Rc<Context>, server: &Rc<Server>, ask: Spread, to: mpsc::Sender<Spreading>) {
    let own = context.shared.own().id;
    for seed in context.shared.seeds().live() {
        let (context, server, ask, to) = (context.clone(), server.clone(), ask.clone(), to.clone());
        tokio::task::spawn_local(async move {
            let spreading = async {
                let is_own = seed.node.id == own;
                let spread = match is_own {
                    true => spread_here(&server, ask, &to).await,
                    false => spread_by(&context, &seed.node, &ask, &to).await,
                };
                if let Err(refused) = spread {
                    let _ = to.send(Spreading::SeedFailed(Box::new((seed.node, refused)))).await;
                }
            };
            tokio::select! {
                () = spreading => {}
                () = to.closed() => {}
            }
        });
    }
}

async fn spread_here(server: &Rc<Server>, ask: Spread, to: &mpsc::Sender<Spreading>) -> Result<(), Refused> {
    let (news, mut heard) = mpsc::channel::<Reached>(1);
    let passing_on = async {
        while let Some(reached) = heard.recv().await {
            let _ = to.send(Spreading::Reached(reached.nodes.iter().cloned().collect())).await;
        }
    };
    let (spread, ()) = tokio::join!(server.spread_to(ask, news), passing_on);
    spread
}

async fn spread_by(
    context: &Context,
    seed: &Node,
    ask: &Spread,
    to: &mpsc::Sender<Spreading>,
) -> Result<(), Refused> {
    let since = Instant::now();
    loop {
        match spread_once(context, seed, ask, to).await {
            Err(refused) => match refused.reaction() {
                Reaction::AskAgain { after_ms } if since.elapsed() < BUSY_FOR => {
                    sleep(Duration::from_millis(after_ms.into())).await;
                }
                _ => return Err(refused),
            },
            Ok(()) => return Ok(()),
        }
    }
}

async fn spread_once(
    context: &Context,
    seed: &Node,
    ask: &Spread,
    to: &mpsc::Sender<Spreading>,
) -> Result<(), Refused> {
    let broke_off = |why: &dyn std::fmt::Display| Refused::of(Code::Other(0), &why.to_string());
    let session = context.mesh.session(seed).await.map_err(|error| broke_off(&error))?;
    let mut exchange = session.ask(ask.clone()).await.map_err(|error| broke_off(&error))?;
    loop {
        let next = timeout(SILENCE, exchange.next()).await.map_err(|_| broke_off(&"it says nothing"))?;
        match next.map_err(|error| broke_off(&error))? {
            Some(Message::Reached(reached)) => {
                let nodes = reached.nodes.iter().cloned().collect();
                let _ = to.send(Spreading::Reached(nodes)).await;
            }
            Some(Message::End(_)) => {
                exchange.finish();
                return Ok(());
            }
            Some(Message::Refused(refused)) => return Err(refused),
            Some(other) => return Err(broke_off(&format!("{} is no answer", other.name()))),
            None => return Err(broke_off(&"the answer was cut")),
        }
    }
}
