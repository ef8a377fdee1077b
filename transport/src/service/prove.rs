//! May this client read this? The owner asks the registry once for all who ask alike.

use std::rc::Rc;
use std::time::{Duration, Instant};

use darter_engine::{RegistryScope, Scope};

use super::Server;
use super::proofs::Asking;
use super::refusal::{Stop, because, busy};
use crate::exchange::Exchange;
use crate::span::{Plot, SpanIndex};
use crate::wire::{Code, Proof, Prove, Refused};

/// How often a request takes its place in line again, when who asked the registry for it went away.
const TRIES: usize = 3;

impl Server {
    /// Repeats what the registry has said, or asks it.
    pub(super) async fn prove(self: &Rc<Self>, prove: Prove, exchange: &mut Exchange) -> Result<(), Stop> {
        // Owned by content: the scope does not count.
        let scope = Scope::Registry(RegistryScope::from_bytes([0; 32]));
        let plot = Plot { content: prove.content, scope, span: SpanIndex::FIRST };
        self.must_own(&plot, false, false).await?;
        let proof = self.proof(prove).await?;
        Ok(exchange.send(proof).await?)
    }

    async fn proof(self: &Rc<Self>, prove: Prove) -> Result<Proof, Refused> {
        let key = (prove.content, blake3::hash(&prove.errand).into());
        for _ in 0..TRIES {
            match self.books.proofs.look_up(key, Instant::now()) {
                Asking::Known(proof) => return Ok(proof),
                Asking::Full => return Err(busy(Duration::from_secs(1))),
                Asking::Ask(asker) => {
                    let (server, prove) = (self.clone(), prove.clone());
                    // A task of its own: it goes on for the others if the first to ask goes away.
                    let asking = tokio::task::spawn_local(async move {
                        let answer = server.origin.prove(prove).await;
                        asker.answered(&answer, Instant::now());
                        answer
                    });
                    return match asking.await {
                        Ok(answer) => answer,
                        Err(_) => Err(because(Code::Internal, "the request broke off")),
                    };
                }
                Asking::Wait(mut answer) => {
                    if let Ok(answer) = answer.wait_for(Option::is_some).await
                        && let Some(answer) = answer.clone()
                    {
                        return answer;
                    }
                }
            }
        }
        Err(because(Code::Internal, "the registry was not asked"))
    }
}
