//! What other nodes say in the registry's place: what a content is, and who may read it.
//!
//! Nobody has to be asked: where the owner cannot be reached, has no room or is this node itself, the registry is
//! asked as if there were no cluster.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use darter_engine::{BlockIndex, BlockRun, ContentId, ContentSpec, HashedBlock, Layout, Naming, Scope};
use darter_transport::cluster::Cluster;
use darter_transport::wire::{Describe, Description, Proof, Prove, Reaction, Refused};

use super::active::Active;
use super::demand::{FetchError, FetchKey};
use super::owner::{Described, Owner};
use crate::access::OwnersWord;
use crate::cluster::{errand, verdict};
use crate::origin::Target;
use crate::trace::{Kind, Span};

impl Owner {
    /// The cluster, if what this target asks for may be asked of it.
    pub(super) fn cluster_for(&self, target: &Target) -> Option<&Rc<Cluster>> {
        self.cluster.get().filter(|_| !target.is_straight())
    }

    /// Makes this shard's fetches ask other nodes first.
    pub(crate) fn join(&self, cluster: Rc<Cluster>) {
        let _ = self.cluster.set(cluster);
    }

    /// What the owner says that a content is; `None` where the registry is to be asked.
    pub(super) async fn described_by_cluster(&self, key: &FetchKey, target: &Target) -> Option<Described> {
        let (target, mut span) = self.begin_asking(target, "describe by owner", &key.id);
        let target = &*target;
        let ask = Describe {
            content: key.id,
            by_digest: key.naming == Naming::Digest,
            registry: key.scope,
            forwarded: false,
            errand: errand::pack(target)?,
        };
        let described = self.cluster_for(target)?.describe(ask).await?;
        match described.inspect_err(|refused| span.fail(&&*refused.detail)) {
            Ok(description) => {
                let content = self.store.create(&self.spec(key, target, &description)?)?;
                let told = OwnersWord::Granted { lasts: self.access.proof_lasts() };
                self.access.note_owners_word(target, &key.id, &told);
                Some(Ok(content))
            }
            Err(refused) => self.refused_by_cluster(key, target, &refused).map(Err),
        }
    }

    /// A question to the owner of a content, as a span.
    fn begin_asking<'t>(
        &self,
        target: &'t Target,
        name: &'static str,
        id: &ContentId,
    ) -> (Cow<'t, Target>, Span) {
        let is_recorded = target.trace().context().is_some();
        let cluster = self.cluster_for(target).filter(|_| is_recorded);
        let Some(owner) = cluster.and_then(|cluster| cluster.owner_of(*id)) else {
            return (Cow::Borrowed(target), Span::default());
        };
        let mut span = target.trace().span(name, Kind::Client);
        span.set("darter.content", || id.to_string());
        span.set("darter.node", || owner.to_string());
        (target.below(&span), span)
    }

    fn spec(&self, key: &FetchKey, target: &Target, told: &Description) -> Option<ContentSpec> {
        let is_known_by_validator = key.naming == Naming::Digest || !told.validator.is_empty();
        let fits = told.length <= self.store.stats().capacity_bytes;
        Some(ContentSpec {
            id: key.id,
            naming: key.naming,
            layout: Layout::new(told.length).filter(|_| fits && is_known_by_validator)?,
            registry: target.registry().to_string(),
            media_type: told.media_type.to_string(),
            validator: told.validator.to_string(),
        })
    }

    fn refused_by_cluster(&self, key: &FetchKey, target: &Target, refused: &Refused) -> Option<FetchError> {
        match refused.reaction() {
            Reaction::PassVerdict => {
                let verdict = Arc::new(verdict::unpack(&refused.verdict)?);
                if verdict.is_final() {
                    self.access.refuse(target, &key.id, &verdict);
                }
                Some(FetchError::Verdict(verdict))
            }
            Reaction::GiveUp => {
                self.note_wrong(*key);
                Some(FetchError::WrongDigest)
            }
            _ => None,
        }
    }

    /// What the owner says of a client's claim; `None` where the registry is to be asked.
    pub(super) async fn proven_by_cluster(&self, id: &ContentId, target: &Target) -> Option<OwnersWord> {
        let (target, mut span) = self.begin_asking(target, "prove by owner", id);
        let ask = Prove { content: *id, errand: errand::pack(&target)? };
        let proven = self.cluster_for(&target)?.prove(ask).await?;
        let proven = proven.inspect_err(|refused| span.fail(&&*refused.detail));
        let Proof { granted, lasts_s, verdict } = proven.ok()?;
        match granted {
            true => Some(OwnersWord::Granted { lasts: std::time::Duration::from_secs(lasts_s.into()) }),
            false => Some(OwnersWord::Refused(Arc::new(verdict::unpack(&verdict)?))),
        }
    }

    /// Blocks have come and go to the store, `blocks[0]` is `first`.
    pub(super) fn tell_cluster_of(&self, active: &Active, first: BlockIndex, blocks: &[HashedBlock]) {
        if let Some(cluster) = self.cluster.get() {
            cluster.came(active.content(), active.key.scope, first, blocks);
        }
    }

    /// Blocks have reached the store: others may have them from here.
    pub(super) fn tell_cluster(&self, active: &Active, run: BlockRun) {
        if let Some(cluster) = self.cluster.get() {
            cluster.stored(active.content(), active.key.scope, run);
        }
    }

    /// The bytes of a content are not those of its digest.
    pub(super) fn tell_cluster_wrong(&self, key: &FetchKey) {
        if let Some(cluster) = self.cluster.get() {
            cluster.wrong(key.id, Scope::Registry(key.scope));
        }
    }
}
