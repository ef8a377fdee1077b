//! What the daemon does at registries for other nodes, on contents that this node owns.

#![expect(clippy::result_large_err, reason = "a refusal is made once, and sent")]

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use darter_engine::{
    BlockIndex, BlockRun, Content, ContentId, ContentSpec, Layout, Naming, RegistryScope, Scope, Store,
};
use darter_transport::service::{Bring, Origin};
use darter_transport::wire::{Code, Describe, Errand, Preheat, Proof, Prove, Refused, Text};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use tokio::sync::{mpsc, watch};

use super::{errand, verdict};
use crate::access::Access;
use crate::config::Registry;
use crate::fetch::{Arrival, DEMAND_BLOCKS_MAX, FetchError, FetchKey, Fetches, Reading, WeakFetches};
use crate::front::range::Wanted;
use crate::origin::Target;
use crate::policy::Policy;
use crate::trace::{Kind, Span, Tracer};

/// One shard's way to registries, for other nodes.
#[derive(Debug)]
pub(crate) struct OwnerSide {
    pub(crate) store: Store,
    pub(crate) access: Arc<Access>,
    /// Weak, because the shards' inboxes close with the last front, and this outlives it.
    pub(crate) fetches: WeakFetches,
    pub(crate) policy: watch::Receiver<Policy>,
    pub(crate) tracer: Tracer,
}

impl Origin for OwnerSide {
    fn describe(&self, ask: Describe) -> LocalBoxFuture<'_, Result<Arc<Content>, Refused>> {
        async move {
            let target = self.target(&ask.errand, ask.registry)?;
            let (mut target, mut span) = begin(target, "describe for a node", &ask.content);
            if !ask.forwarded {
                target = target.by_cluster();
            }
            let naming = if ask.by_digest { Naming::Digest } else { Naming::Url };
            let key = FetchKey { id: ask.content, scope: ask.registry, naming };
            let known = self.known_to(&key, &target).await.inspect_err(|error| span.fail(error));
            known.map_err(|error| refused(&error))
        }
        .boxed_local()
    }

    fn bring(
        &self,
        bring: Bring,
        blocks: mpsc::Sender<(BlockIndex, Bytes)>,
    ) -> LocalBoxFuture<'_, Result<(), Refused>> {
        async move {
            let target = self.target(&bring.errand, bring.registry)?;
            let (target, mut span) = begin(target, "bring for a node", &bring.content.id());
            span.set("darter.blocks", || u64::from(bring.run.len()));
            let target = self.access.to_fetch_with(&target).straight();
            let mut rest = Some(bring.run);
            while let Some(run) = rest {
                let run = run.take(DEMAND_BLOCKS_MAX - 1);
                let brought = self.bring_run(&bring, &target, run, &blocks).await;
                brought.inspect_err(|error| span.fail(error)).map_err(|error| refused(&error))?;
                rest = rest.and_then(|rest| rest.skip(run.len()));
            }
            Ok(())
        }
        .boxed_local()
    }

    fn prove(&self, ask: Prove) -> LocalBoxFuture<'_, Result<Proof, Refused>> {
        async move {
            let (target, mut span) = begin(self.unpack(&ask.errand)?, "prove for a node", &ask.content);
            let origin = self.policy.borrow().origin.clone();
            match self.access.admit(&origin, &target, &ask.content).await {
                Ok(()) => {
                    let lasts_s = self.access.still_lasts(&target).as_secs().try_into().unwrap_or(u32::MAX);
                    Ok(Proof { granted: true, lasts_s, verdict: Default::default() })
                }
                Err(FetchError::Verdict(told)) if told.is_final() => {
                    Ok(Proof { granted: false, lasts_s: 0, verdict: verdict::pack(&told) })
                }
                Err(error) => {
                    span.fail(&error);
                    Err(refused(&error))
                }
            }
        }
        .boxed_local()
    }

    fn preheat(&self, told: &Preheat) -> Result<(Arc<Content>, LocalBoxFuture<'_, ()>), Refused> {
        let registry: Registry = (told.origin.parse())
            .map_err(|_| refusal(Code::Malformed, "what its bytes come from is no registry"))?;
        let target = Target::of_nobody(registry).filter(|target| target.scope() == told.registry);
        let target = target.ok_or_else(|| refusal(Code::Malformed, "the registry has another hash"))?;
        let content = self.content_of(told, &target)?;
        let key = FetchKey { id: told.content, scope: told.registry, naming: content.naming() };
        let fetches = self.fetches().map_err(|error| refused(&error))?;
        let ended = fetches.preheat(&content, key, target).map_err(|error| refused(&error))?;
        Ok((content, async { _ = ended.await }.boxed_local()))
    }

    fn purged(&self, content: ContentId, scope: Scope) {
        // What was right as a whole is not undone by another node's word.
        if let (Scope::Registry(scope), Some(fetches)) = (scope, self.fetches.upgrade()) {
            fetches.purge(FetchKey { id: content, scope, naming: Naming::Digest });
        }
    }
}

impl OwnerSide {
    fn fetches(&self) -> Result<Fetches, FetchError> {
        self.fetches.upgrade().ok_or(FetchError::Busy)
    }

    fn target(&self, errand: &Errand, registry: RegistryScope) -> Result<Target, Refused> {
        let target = self.unpack(errand)?;
        match target.scope() == registry {
            true => Ok(target),
            false => Err(refusal(Code::Malformed, "the request is for another registry")),
        }
    }

    fn unpack(&self, errand: &Errand) -> Result<Target, Refused> {
        if errand.is_empty() {
            // For those who have one it is asked for with theirs.
            return Err(refusal(Code::Origin, "nobody holds it, and no client asks for it"));
        }
        let malformed = |error: errand::Unreadable| refusal(Code::Malformed, &error.to_string());
        let (target, trace) = errand::unpack(errand).map_err(malformed)?;
        Ok(target.within(self.tracer.continued(trace)))
    }

    /// The content as the owner described it.
    fn content_of(&self, told: &Preheat, target: &Target) -> Result<Arc<Content>, Refused> {
        let naming = if told.by_digest { Naming::Digest } else { Naming::Url };
        let no_room = || {
            let (length, capacity) = (told.length, self.store.stats().capacity_bytes);
            refusal(Code::Unkept, &format!("{length} bytes find no room in a store of {capacity} bytes"))
        };
        if told.length > self.store.stats().capacity_bytes {
            return Err(no_room());
        }
        let spec = ContentSpec {
            id: told.content,
            naming,
            layout: Layout::new(told.length).ok_or_else(no_room)?,
            registry: target.registry().to_string(),
            media_type: told.media_type.to_string(),
            validator: told.validator.to_string(),
        };
        let found = self.store.create(&spec).ok_or_else(no_room)?;
        if naming == Naming::Digest || found.validator() == spec.validator {
            return Ok(found);
        }
        // The URL stands for something else by now.
        self.store.remove(&found);
        self.store.create(&spec).ok_or_else(no_room)
    }

    /// The content, for a client that may read it.
    async fn known_to(&self, key: &FetchKey, target: &Target) -> Result<Arc<Content>, FetchError> {
        let origin = self.policy.borrow().origin.clone();
        if let Some(found) = self.store.find(&key.id, key.scope) {
            self.access.admit(&origin, target, &key.id).await?;
            return Ok(found);
        }
        if let Some(verdict) = self.access.refusal(target, &key.id) {
            return Err(FetchError::Verdict(verdict));
        }
        // Which blocks are wanted is said later: the first one tells what it is.
        let first = Wanted::Span { first: 0, last: 0 };
        let fetching = self.access.to_fetch_with(target);
        let content = self.fetches()?.describe(*key, fetching, first).await?;
        // Described for whoever asked first; that may have been another client.
        self.access.admit(&origin, target, &key.id).await?;
        Ok(content)
    }

    async fn bring_run(
        &self,
        bring: &Bring,
        target: &Target,
        run: BlockRun,
        blocks: &mpsc::Sender<(BlockIndex, Bytes)>,
    ) -> Result<(), FetchError> {
        let key = FetchKey { id: bring.content.id(), scope: bring.registry, naming: bring.content.naming() };
        let reading = Reading { run, ahead: None, patience: None };
        let mut arrivals = self.fetches()?.bring(&bring.content, key, target.clone(), reading)?;
        for block in run.blocks() {
            let bytes = match arrivals.block(block).await {
                Arrival::Bytes(_, bytes) => bytes,
                Arrival::InStore(block) => self.read(bring, run, block).await?,
                Arrival::Failed(_, error) => return Err(error),
            };
            if blocks.send((block, bytes)).await.is_err() {
                // Nobody wants the rest.
                return Ok(());
            }
        }
        Ok(())
    }

    async fn read(&self, bring: &Bring, run: BlockRun, block: BlockIndex) -> Result<Bytes, FetchError> {
        let one = run.starting_at(block).ok_or(FetchError::Busy)?.take(1);
        let read = self.store.read(&bring.content, bring.registry, one).await;
        let parts = read.map_err(|_| FetchError::Busy)?;
        Ok(match &parts[..] {
            [whole] => whole.clone(),
            parts => parts
                .iter()
                .fold(BytesMut::new(), |mut all, part| {
                    all.extend_from_slice(part);
                    all
                })
                .freeze(),
        })
    }
}

/// What is done for another node, as a part of what that does.
fn begin(target: Target, name: &'static str, content: &ContentId) -> (Target, Span) {
    let mut span = target.trace().span(name, Kind::Server);
    span.set("darter.content", || content.to_string());
    (target.within(span.trace()), span)
}

/// What another node is told of a fetch that failed.
fn refused(error: &FetchError) -> Refused {
    let code = match error {
        FetchError::Verdict(_) => Code::Origin,
        FetchError::Origin(_) => Code::OriginTrouble,
        FetchError::Unkeepable => Code::Unkept,
        FetchError::Busy => Code::Busy,
        FetchError::Unsatisfiable { .. } => Code::Internal,
        FetchError::WrongDigest => Code::WrongContent,
    };
    let mut told = refusal(code, &error.to_string());
    if let FetchError::Verdict(verdict) = error {
        told.verdict = verdict::pack(verdict);
    }
    told
}

fn refusal(code: Code, detail: &str) -> Refused {
    let (detail, verdict) = (Text::cut(detail), Default::default());
    Refused { code: code.number(), retry_ms: 0, instead: None, detail, verdict }
}
