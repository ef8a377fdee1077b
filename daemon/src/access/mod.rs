//! Who may read: bytes are shared, verdicts never.
//!
//! Every reader needs a proof for (registry, repository, credential), and the content must have been confirmed to be
//! in that repository. A proof is a success, or a redirect, of the registry itself; whatever asks the registry
//! anyway notes it here, and only for what is in the store already a HEAD is sent. Readers with the same claim on
//! the same content share one question; readers with different claims never share an answer.
//!
//! Once in a while a repository is tried without a credential, as an anonymous client would, the token included: of
//! a public repository everyone may read.

mod claim;
mod ledger;
pub mod memory;
mod tags;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant, SystemTime};

use darter_engine::{Content, ContentId};
use http::{HeaderValue, StatusCode};
use tokio::sync::watch;

pub use self::claim::{Claim, Credential, Repository, repository_name};
pub use self::ledger::Lasting;
use self::ledger::{Clock, Ledger, Renewal, Standing};
use self::memory::Memory;
pub use self::tags::Tag;
use crate::fetch::{FetchError, Patience, WeakFetches};
use crate::origin::challenge::BearerChallenge;
use crate::origin::{Origin, Target, Verdict};

/// Questions on their way at a time; beyond that readers are told to come back.
const QUESTIONS_MAX: usize = 4096;
/// Tokens kept at a time.
const TOKENS_MAX: usize = 1024;

/// What the node knows of who may read what. Shared by all shards.
#[derive(Debug)]
pub struct Access {
    ledger: RwLock<Ledger>,
    /// Since it was last written down.
    changed: AtomicBool,
    asking: Mutex<HashMap<Question, watch::Receiver<Option<Answer>>>>,
    /// The tokens that registries give to anyone who reads a public repository.
    tokens: Mutex<HashMap<Repository, HeaderValue>>,
    /// In a cluster the owner of a content is asked before the registry.
    owners: OnceLock<WeakFetches>,
}

/// What the owner of a content says of a claim on it.
#[derive(Clone, Debug)]
pub(crate) enum OwnersWord {
    /// It may be read for so long.
    Granted { lasts: Duration },
    /// The registry's verdict.
    Refused(Arc<Verdict>),
}

/// May this claim read this content?
type Question = (Claim, ContentId);

#[derive(Clone, Debug)]
enum Answer {
    Granted,
    Refused(Arc<Verdict>),
    /// No answer to the question: the registry is down, or overloaded.
    Unanswered(FetchError),
    /// The registry may not be asked at all.
    Impossible(FetchError),
}

impl Access {
    /// Knows nothing yet.
    pub fn new(lasting: Lasting) -> Arc<Self> {
        Arc::new(Self {
            ledger: RwLock::new(Ledger::new(lasting)),
            changed: AtomicBool::new(false),
            asking: Mutex::default(),
            tokens: Mutex::default(),
            owners: OnceLock::new(),
        })
    }

    /// From now on the owners of contents are asked before their registries.
    pub(crate) fn ask_owners(&self, fetches: WeakFetches) {
        let _ = self.owners.set(fetches);
    }

    /// Takes over what an earlier run wrote into this file.
    pub fn recall(&self, path: &Path) {
        let memory = Memory::load(path);
        self.ledger_mut().recall(memory, this_moment());
    }

    /// Writes into the file what may still hold after a restart, if something has changed since the last time.
    pub fn remember(&self, path: &Path) {
        if self.changed.swap(false, Ordering::Relaxed) {
            let memory = self.ledger().remember(this_moment());
            if let Err(error) = memory.save(path) {
                tracing::warn!(path = %path.display(), %error, "cannot be written: after a restart registries are asked again who may read");
            }
        }
    }

    /// Takes up other times, for what is known already too.
    pub fn set_lasting(&self, lasting: Lasting) {
        self.ledger_mut().set_lasting(lasting);
    }

    /// For how long a registry's words outlive its being down.
    pub fn grace(&self) -> Duration {
        self.ledger().lasting().grace
    }

    /// Whether the target's claim on a content needs no question now.
    pub fn is_granted(&self, target: &Target, id: &ContentId) -> bool {
        matches!(self.standing(target, id), Standing::Granted(_))
    }

    /// Lets a reader in, or says why not. Asks the registry if it must, and renews in the background what will not
    /// last much longer.
    ///
    /// # Errors
    /// The registry's verdict on this claim; or it is down and the claim was not proven within the grace.
    pub async fn admit(
        self: &Arc<Self>,
        origin: &Origin,
        target: &Target,
        id: &ContentId,
    ) -> Result<(), FetchError> {
        match self.standing(target, id) {
            Standing::Granted(renewal) => {
                self.renew(renewal, origin, target, id);
                Ok(())
            }
            Standing::Refused(verdict) => Err(FetchError::Verdict(verdict)),
            Standing::Unknown => self.ask(origin, target, id).await,
        }
    }

    /// Whether a reader is let in without a question; renews as [`Self::admit`] does.
    pub fn admits_at_once(self: &Arc<Self>, origin: &Origin, target: &Target, id: &ContentId) -> bool {
        let Standing::Granted(renewal) = self.standing(target, id) else { return false };
        self.renew(renewal, origin, target, id);
        true
    }

    fn renew(self: &Arc<Self>, renewal: Option<Renewal>, origin: &Origin, target: &Target, id: &ContentId) {
        match renewal {
            Some(Renewal::Own) => _ = self.question(origin, target, id),
            Some(Renewal::Public) => self.try_public_if_it_is_time(origin, target, Some(*id)),
            None => {}
        }
    }

    /// The registry's refusal of a moment ago, if it has not let the claim in since.
    pub fn refusal(&self, target: &Target, id: &ContentId) -> Option<Arc<Verdict>> {
        match self.standing(target, id) {
            Standing::Refused(verdict) => Some(verdict),
            _ => None,
        }
    }

    /// The registry has answered a request of this target with success; for this content, if it was for one.
    pub fn prove(self: &Arc<Self>, origin: &Origin, target: &Target, id: Option<&ContentId>) {
        self.ledger_mut().prove(target.claim(), id.copied(), &target.scope(), Instant::now());
        self.try_public_if_it_is_time(origin, target, id.copied());
    }

    /// For how long a proof lets its claim in.
    pub(crate) fn proof_lasts(&self) -> Duration {
        self.ledger().lasting().proof
    }

    /// For how long the target's claim is let in yet, for other nodes.
    pub(crate) fn still_lasts(&self, target: &Target) -> Duration {
        self.ledger().still_lasts(&target.claim(), Instant::now())
    }

    /// The owner of a content has asked the registry, or remembers what it said.
    pub(crate) fn note_owners_word(&self, target: &Target, id: &ContentId, word: &OwnersWord) {
        match word {
            OwnersWord::Granted { lasts } => {
                let now = Instant::now();
                let age = self.proof_lasts().saturating_sub(*lasts);
                let at = now.checked_sub(age).unwrap_or(now);
                self.ledger_mut().prove(target.claim(), Some(*id), &target.scope(), at);
            }
            OwnersWord::Refused(verdict) => self.refuse(target, id, verdict),
        }
    }

    async fn owners_word(&self, target: &Target, id: &ContentId) -> Option<OwnersWord> {
        if target.is_straight() {
            return None;
        }
        self.owners.get()?.upgrade()?.prove(id, target).await
    }

    /// With whose credential a target's bytes are to be fetched: its own, or what the registry gives to anyone where
    /// only that is proven.
    pub fn to_fetch_with(&self, target: &Target) -> Target {
        let as_anyone = self.ledger().is_let_in_as_anyone(&target.claim(), Instant::now());
        if !as_anyone {
            return target.clone();
        }
        let anyone = target.clone().without_credential();
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        match tokens.get(&target.claim().repository) {
            Some(token) => anyone.with_authorization(token.clone()),
            None => anyone,
        }
    }

    fn try_public_if_it_is_time(self: &Arc<Self>, origin: &Origin, target: &Target, id: Option<ContentId>) {
        if self.ledger_mut().try_public(&target.claim(), Instant::now()) {
            let (access, origin, target) = (self.clone(), origin.clone(), target.clone());
            tokio::task::spawn_local(async move { access.try_public(&origin, &target, id).await });
        }
    }

    /// Asks as a client would that has no credential: first without any, then with the token that everyone gets.
    async fn try_public(&self, origin: &Origin, target: &Target, id: Option<ContentId>) {
        let anyone = target.clone().without_credential();
        let (is_public, token) = match ask_as_anyone(origin, &anyone).await {
            Some(found) => found,
            // Nothing is known: what was proven before holds as long as it does.
            None => return,
        };
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        match token {
            Some(token) if is_public => {
                if tokens.len() >= TOKENS_MAX {
                    tokens.clear();
                }
                tokens.insert(target.claim().repository, token);
            }
            _ => _ = tokens.remove(&target.claim().repository),
        }
        drop(tokens);
        if is_public {
            tracing::debug!(registry = %target.registry(), path = target.url().path(), "the repository is public");
            self.ledger_mut().publish(&target.claim(), id, Instant::now());
        } else {
            self.ledger_mut().unpublish(&target.claim());
        }
    }

    /// Whether the target's registry may vouch for a content: its bytes came from there, or it has shown that it has
    /// them.
    pub fn is_vouched_for(&self, target: &Target, content: &Content) -> bool {
        content.came_from(target.scope())
            || self.ledger().has_shown(target.scope(), content.id(), Instant::now())
    }

    /// The target's registry has shown that it has a content that came from another one.
    pub fn note_shown(&self, target: &Target, id: &ContentId) {
        self.ledger_mut().show(target.scope(), *id, Instant::now());
    }

    /// The registry has refused this target this content.
    pub fn refuse(&self, target: &Target, id: &ContentId, verdict: &Arc<Verdict>) {
        self.ledger_mut().refuse(target.claim(), *id, &target.scope(), verdict.clone(), Instant::now());
    }

    /// The registry has said what the tag that this target asks for names.
    pub fn note_tag(&self, target: &Target, id: ContentId) {
        self.ledger_mut().note_tag(Tag::of(target), id, Instant::now());
    }

    /// What the tag named when its registry was last asked, if that was within the grace.
    pub fn tag_named_last(&self, target: &Target) -> Option<ContentId> {
        self.ledger().tag_named_last(&Tag::of(target), Instant::now())
    }

    /// The registry did not answer. True if the target's claim is let in all the same, within the grace.
    pub fn holds_while_down(&self, target: &Target, id: &ContentId) -> bool {
        self.ledger_mut().unanswered(&target.claim(), id, target.scope(), Instant::now())
    }

    fn standing(&self, target: &Target, id: &ContentId) -> Standing {
        self.ledger().standing(&target.claim(), id, &target.scope(), Instant::now())
    }

    fn ledger(&self) -> RwLockReadGuard<'_, Ledger> {
        self.ledger.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn ledger_mut(&self) -> RwLockWriteGuard<'_, Ledger> {
        self.changed.store(true, Ordering::Relaxed);
        self.ledger.write().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(
        self: &Arc<Self>,
        origin: &Origin,
        target: &Target,
        id: &ContentId,
    ) -> Result<(), FetchError> {
        let mut answering = self.question(origin, target, id).ok_or(FetchError::Busy)?;
        // An error: whoever asked is gone, with its shard.
        let answer = answering.wait_for(Option::is_some).await.map_err(|_| FetchError::Busy)?.clone();
        match answer {
            Some(Answer::Granted) => Ok(()),
            Some(Answer::Refused(verdict)) => Err(FetchError::Verdict(verdict)),
            Some(Answer::Unanswered(_)) if self.holds_while_down(target, id) => Ok(()),
            Some(Answer::Unanswered(error) | Answer::Impossible(error)) => Err(error),
            None => Err(FetchError::Busy),
        }
    }

    /// The question under way, begun if there is none; `None` when there are too many.
    fn question(
        self: &Arc<Self>,
        origin: &Origin,
        target: &Target,
        id: &ContentId,
    ) -> Option<watch::Receiver<Option<Answer>>> {
        let question = (target.claim(), *id);
        let mut asking = self.asking();
        if let Some(answering) = asking.get(&question) {
            return Some(answering.clone());
        }
        if asking.len() >= QUESTIONS_MAX {
            return None;
        }
        let (answered, answering) = watch::channel(None);
        asking.insert(question, answering.clone());
        drop(asking);
        let asked = Asked { access: self.clone(), question };
        let (origin, target) = (origin.clone(), target.clone());
        tokio::task::spawn_local(async move {
            let answer = asked.put(&origin, &target).await;
            // Whoever comes from now on finds the ledger changed.
            drop(asked);
            let _ = answered.send(Some(answer));
        });
        Some(answering)
    }

    fn asking(&self) -> MutexGuard<'_, HashMap<Question, watch::Receiver<Option<Answer>>>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn this_moment() -> Clock {
    let now_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Clock { now: Instant::now(), now_s }
}

/// A question under way. It ends with the task that asks it, however that ends.
struct Asked {
    access: Arc<Access>,
    question: Question,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.access.asking().remove(&self.question);
    }
}

impl Asked {
    async fn put(&self, origin: &Origin, target: &Target) -> Answer {
        let id = &self.question.1;
        if let Some(word) = self.access.owners_word(target, id).await {
            self.access.note_owners_word(target, id, &word);
            return match word {
                OwnersWord::Granted { .. } => Answer::Granted,
                OwnersWord::Refused(verdict) => Answer::Refused(verdict),
            };
        }
        let answer = confirm(origin, target, || self.access.holds_while_down(target, id)).await;
        match &answer {
            Answer::Granted => self.access.prove(origin, target, Some(id)),
            Answer::Refused(verdict) => self.access.refuse(target, id, verdict),
            Answer::Unanswered(error) => {
                tracing::debug!(content = %id, %error, "the registry does not say who may read");
                let _ = self.access.holds_while_down(target, id);
            }
            Answer::Impossible(_) => {}
        }
        answer
    }
}

/// One HEAD at the registry itself: a redirect is a yes, and is not followed. Where nothing holds in place of an
/// answer, an overloaded registry is waited for.
async fn confirm(origin: &Origin, target: &Target, holds: impl Fn() -> bool) -> Answer {
    let mut patience = Patience::new();
    loop {
        let head = match origin.head(target).await {
            Ok(head) => head,
            Err(error) if error.is_for_good() => return Answer::Impossible(error.into()),
            Err(error) => return Answer::Unanswered(error.into()),
        };
        let is_granted = head.status.is_success() || head.status.is_redirection();
        let verdict = || Arc::new(Verdict::without_body(head.status, &head.headers));
        match head.status {
            _ if is_granted => return Answer::Granted,
            StatusCode::TOO_MANY_REQUESTS if !holds() && patience.wait_if_overloaded(&head).await => {}
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Answer::Unanswered(FetchError::Verdict(verdict()));
            }
            _ => return Answer::Refused(verdict()),
        }
    }
}

/// Whether anyone may read, and with which token; `None` if the registry does not say.
async fn ask_as_anyone(origin: &Origin, anyone: &Target) -> Option<(bool, Option<HeaderValue>)> {
    let head = origin.head(anyone).await.ok()?;
    if head.status.is_success() || head.status.is_redirection() {
        return Some((true, None));
    }
    if head.status.is_server_error() || head.status == StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    let (Some(challenge), Some(repository)) =
        (BearerChallenge::find(&head.headers), repository_name(anyone.url().path()))
    else {
        return Some((false, None));
    };
    let Some(token) = origin.anonymous_token(&challenge, repository).await.ok()? else {
        return Some((false, None));
    };
    // Nobody waits for this.
    match confirm(origin, &anyone.clone().with_authorization(token.clone()), || true).await {
        Answer::Granted => Some((true, Some(token))),
        Answer::Refused(_) => Some((false, None)),
        Answer::Unanswered(_) | Answer::Impossible(_) => None,
    }
}
