//! What registries have confirmed, and when: pure.
//!
//! A claim on a content is granted when the registry has lately confirmed two things: that the claim's credential
//! (or anyone) may read the repository, and that the content is in that repository. A refusal is about one claim on
//! one content. While a registry is down, what was confirmed within the grace goes on to hold.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use darter_engine::{ContentId, RegistryScope};

use super::claim::{Claim, Credential, Repository};
use super::memory::Memory;
use super::tags::{Tag, Tags};
use crate::origin::Verdict;

/// How long a refusal is repeated without asking again.
const REFUSAL_LASTS: Duration = Duration::from_secs(10);
/// How long a content counts as being in a repository. Renewals confirm it anew.
const PLACE_LASTS: Duration = Duration::from_secs(24 * 3600);
/// How long a registry that did not answer is not asked about what the grace covers: each try may take seconds.
const DOWN_LASTS: Duration = Duration::from_secs(30);
/// How often a repository is tried without a credential.
const PUBLIC_TRIED_EVERY: Duration = Duration::from_secs(3600);

pub(super) const PROOFS_MAX: usize = 16 * 1024;
pub(super) const PLACES_MAX: usize = 64 * 1024;
pub(super) const PUBLIC_MAX: usize = 4 * 1024;
const REFUSALS_MAX: usize = 4 * 1024;
const REGISTRIES_MAX: usize = 1024;

/// How long confirmations hold.
#[derive(Clone, Copy, Debug)]
pub struct Lasting {
    /// A proof lets its claim in for so long without asking again; from four fifths of it on, a proof that is used is
    /// renewed in the background.
    pub proof: Duration,
    /// While the registry is down, it holds for so long.
    pub grace: Duration,
}

/// Whether a claim on a content is let in now.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    /// Yes, by a proof that may be worth renewing in the background.
    Granted(Option<Renewal>),
    /// The registry has just refused it.
    Refused(Arc<Verdict>),
    /// The registry must be asked.
    Unknown,
}

/// Which proof will not last much longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Renewal {
    /// The claim's own.
    Own,
    /// That everyone may read the repository.
    Public,
}

/// Confirmations and refusals, bounded in number and time.
#[derive(Debug)]
pub(super) struct Ledger {
    lasting: Lasting,
    proofs: Dated<Claim>,
    /// Repositories that everyone may read.
    public: Dated<Repository>,
    places: Dated<(Repository, ContentId)>,
    /// Contents of which a registry has shown bytes that another one's content is made of.
    shown: Dated<(RegistryScope, ContentId)>,
    refusals: HashMap<(Claim, ContentId), (Instant, Arc<Verdict>)>,
    down: Dated<RegistryScope>,
    public_tried: Dated<Repository>,
    tags: Tags,
}

impl Ledger {
    pub(super) fn new(lasting: Lasting) -> Self {
        Self {
            lasting,
            proofs: Dated::new(PROOFS_MAX),
            public: Dated::new(PUBLIC_MAX),
            places: Dated::new(PLACES_MAX),
            shown: Dated::new(PLACES_MAX),
            refusals: HashMap::new(),
            down: Dated::new(REGISTRIES_MAX),
            public_tried: Dated::new(PUBLIC_MAX),
            tags: Tags::default(),
        }
    }

    pub(super) fn lasting(&self) -> Lasting {
        self.lasting
    }

    /// Other times, for what is known already too.
    pub(super) fn set_lasting(&mut self, lasting: Lasting) {
        self.lasting = lasting;
    }

    pub(super) fn standing(
        &self,
        claim: &Claim,
        id: &ContentId,
        registry: &RegistryScope,
        now: Instant,
    ) -> Standing {
        let place_age = self.places.age(&(claim.repository, *id), now);
        if let (Some((proof, whose)), Some(place)) = (self.proof_age(claim, now), place_age) {
            if proof < self.lasting.proof && place < PLACE_LASTS {
                return Standing::Granted((proof >= self.renewed_from()).then_some(whose));
            }
            if proof < self.lasting.grace && self.down.age(registry, now).is_some_and(|age| age < DOWN_LASTS)
            {
                return Standing::Granted(None);
            }
        }
        match self.refusals.get(&(*claim, *id)) {
            Some((at, verdict)) if now.duration_since(*at) < REFUSAL_LASTS => {
                Standing::Refused(verdict.clone())
            }
            _ => Standing::Unknown,
        }
    }

    /// The registry let this claim read the repository, and this content of it.
    pub(super) fn prove(
        &mut self,
        claim: Claim,
        id: Option<ContentId>,
        registry: &RegistryScope,
        now: Instant,
    ) {
        self.down.remove(registry);
        self.proofs.insert(claim, now);
        if claim.credential == Credential::NONE {
            self.public.insert(claim.repository, now);
        }
        if let Some(id) = id {
            self.refusals.remove(&(claim, id));
            self.places.insert((claim.repository, id), now);
        }
    }

    /// The registry refused. What it had confirmed before no longer holds: the credential, or with 404 the content's
    /// place.
    pub(super) fn refuse(
        &mut self,
        claim: Claim,
        id: ContentId,
        registry: &RegistryScope,
        verdict: Arc<Verdict>,
        now: Instant,
    ) {
        self.down.remove(registry);
        if verdict.status == http::StatusCode::NOT_FOUND {
            self.places.remove(&(claim.repository, id));
        } else {
            self.proofs.remove(&claim);
        }
        if self.refusals.len() >= REFUSALS_MAX {
            self.refusals.retain(|_, (at, _)| now.duration_since(*at) < REFUSAL_LASTS);
        }
        if self.refusals.len() < REFUSALS_MAX {
            self.refusals.insert((claim, id), (now, verdict));
        }
    }

    /// The registry did not answer, or not to the question. True if the claim is let in all the same, since it was
    /// proven within the grace.
    pub(super) fn unanswered(
        &mut self,
        claim: &Claim,
        id: &ContentId,
        registry: RegistryScope,
        now: Instant,
    ) -> bool {
        self.down.insert(registry, now);
        let within = |age: Option<Duration>| age.is_some_and(|age| age < self.lasting.grace);
        within(self.proof_age(claim, now).map(|(age, _)| age))
            && within(self.places.age(&(claim.repository, *id), now))
    }

    /// Everyone may read the repository of this claim.
    pub(super) fn publish(&mut self, claim: &Claim, id: Option<ContentId>, now: Instant) {
        self.public.insert(claim.repository, now);
        if let Some(id) = id {
            self.places.insert((claim.repository, id), now);
        }
    }

    /// Not everyone may, as has just been found.
    pub(super) fn unpublish(&mut self, claim: &Claim) {
        self.public.remove(&claim.repository);
    }

    /// Whether the claim is let in only by what holds for everyone: it has no proof of its own now.
    pub(super) fn is_let_in_as_anyone(&self, claim: &Claim, now: Instant) -> bool {
        let holds = |age: Option<Duration>| age.is_some_and(|age| age < self.lasting.proof);
        holds(self.public.age(&claim.repository, now)) && !holds(self.proofs.age(claim, now))
    }

    /// Whether it is time to try the repository without a credential; true once in a while.
    pub(super) fn try_public(&mut self, claim: &Claim, now: Instant) -> bool {
        let public = self.public.age(&claim.repository, now);
        let is_time = match public {
            Some(age) => age >= self.renewed_from(),
            None => {
                let tried = self.public_tried.age(&claim.repository, now);
                claim.credential != Credential::NONE && tried.is_none_or(|age| age >= PUBLIC_TRIED_EVERY)
            }
        };
        if is_time {
            self.public_tried.insert(claim.repository, now);
        }
        is_time
    }

    /// For how long a claim that is let in now will be.
    pub(super) fn still_lasts(&self, claim: &Claim, now: Instant) -> Duration {
        self.proof_age(claim, now).map_or(Duration::ZERO, |(age, _)| self.lasting.proof.saturating_sub(age))
    }

    /// The registry has shown that it has a content that came from another one.
    pub(super) fn show(&mut self, registry: RegistryScope, id: ContentId, now: Instant) {
        self.shown.insert((registry, id), now);
    }

    pub(super) fn has_shown(&self, registry: RegistryScope, id: ContentId, now: Instant) -> bool {
        self.shown.age(&(registry, id), now).is_some_and(|age| age < PLACE_LASTS)
    }

    /// The registry has said what a tag names.
    pub(super) fn note_tag(&mut self, tag: Tag, id: ContentId, now: Instant) {
        self.tags.note(tag, id, now, self.lasting.grace);
    }

    /// What the tag named last, if that was within the grace.
    pub(super) fn tag_named_last(&self, tag: &Tag, now: Instant) -> Option<ContentId> {
        self.tags.last(tag, now, self.lasting.grace)
    }

    /// What may still hold after a restart, with its times.
    pub(super) fn remember(&self, clock: Clock) -> Memory {
        Memory {
            proofs: self.proofs.remember(clock),
            public: self.public.remember(clock),
            places: self.places.remember(clock),
            tags: self.tags.remember(clock),
        }
    }

    /// Takes over what an earlier run remembered.
    pub(super) fn recall(&mut self, memory: Memory, clock: Clock) {
        self.proofs.recall(memory.proofs, clock);
        self.public.recall(memory.public, clock);
        self.places.recall(memory.places, clock);
        self.tags.recall(memory.tags, clock);
    }

    fn renewed_from(&self) -> Duration {
        self.lasting.proof * 4 / 5
    }

    /// The age of the claim's own proof, or of everyone's if that is younger.
    fn proof_age(&self, claim: &Claim, now: Instant) -> Option<(Duration, Renewal)> {
        let own = self.proofs.age(claim, now).map(|age| (age, Renewal::Own));
        let public = self.public.age(&claim.repository, now).map(|age| (age, Renewal::Public));
        own.into_iter().chain(public).min_by_key(|(age, _)| *age)
    }
}

/// When something was last so.
#[derive(Debug)]
struct Dated<K> {
    at: HashMap<K, Instant>,
    max: usize,
}

impl<K: Eq + Hash + Clone> Dated<K> {
    fn new(max: usize) -> Self {
        Self { at: HashMap::new(), max }
    }

    fn age(&self, key: &K, now: Instant) -> Option<Duration> {
        self.at.get(key).map(|at| now.duration_since(*at))
    }

    /// When all room is taken the older half goes: each costs one question to learn again.
    fn insert(&mut self, key: K, now: Instant) {
        if self.at.len() >= self.max && !self.at.contains_key(&key) {
            let mut times: Vec<Instant> = self.at.values().copied().collect();
            let middle = times.len() / 2;
            let (_, median, _) = times.select_nth_unstable(middle);
            let median = *median;
            self.at.retain(|_, at| *at > median);
        }
        self.at.insert(key, now);
    }

    fn remove(&mut self, key: &K) {
        self.at.remove(key);
    }

    fn remember(&self, clock: Clock) -> Vec<(K, u64)> {
        self.at.iter().map(|(key, at)| (key.clone(), clock.unix_s(*at))).collect()
    }

    fn recall(&mut self, remembered: Vec<(K, u64)>, clock: Clock) {
        for (key, at_s) in remembered.into_iter().take(self.max) {
            if let Some(at) = clock.instant(at_s) {
                self.at.insert(key, at);
            }
        }
    }
}

/// One moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) now: Instant,
    pub(super) now_s: u64,
}

impl Clock {
    pub(super) fn unix_s(self, at: Instant) -> u64 {
        self.now_s.saturating_sub(self.now.saturating_duration_since(at).as_secs())
    }

    /// `None` for what seems to come from the future, or from before the machine's start.
    pub(super) fn instant(self, at_s: u64) -> Option<Instant> {
        self.now.checked_sub(Duration::from_secs(self.now_s.checked_sub(at_s)?))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode, header};

    use super::*;

    const LASTING: Lasting = Lasting { proof: Duration::from_secs(300), grace: Duration::from_secs(3600) };

    fn claim(repository: &str, user: &str) -> Claim {
        let mut headers = HeaderMap::new();
        if !user.is_empty() {
            headers.insert(header::AUTHORIZATION, user.parse().unwrap());
        }
        let repository = Repository::of("http://registry", &format!("/v2/{repository}/blobs/x"));
        Claim { repository, credential: Credential::of(&headers, "", &[]) }
    }

    fn registry() -> RegistryScope {
        RegistryScope::of_origin("http://registry")
    }

    fn verdict(status: StatusCode) -> Arc<Verdict> {
        Arc::new(Verdict { status, headers: HeaderMap::new(), body: bytes::Bytes::new() })
    }

    /// The ledger's word on `claim` and a content, `age_s` after `now`.
    fn standing(ledger: &Ledger, claim: &Claim, content: &str, now: Instant, age_s: u64) -> &'static str {
        let id = ContentId::of_name(content);
        match ledger.standing(claim, &id, &registry(), now + Duration::from_secs(age_s)) {
            Standing::Granted(None) => "granted",
            Standing::Granted(Some(Renewal::Own)) => "granted, renew",
            Standing::Granted(Some(Renewal::Public)) => "granted, renew for all",
            Standing::Refused(_) => "refused",
            Standing::Unknown => "unknown",
        }
    }

    #[test]
    fn a_proof_is_for_one_claim_one_content_and_five_minutes() {
        let now = Instant::now();
        let mut ledger = Ledger::new(LASTING);
        ledger.prove(claim("app", "a"), Some(ContentId::of_name("x")), &registry(), now);
        let check = |who: Claim, content, age_s, expected| {
            assert_eq!(standing(&ledger, &who, content, now, age_s), expected, "{content} {age_s}");
        };
        check(claim("app", "a"), "x", 0, "granted");
        check(claim("app", "a"), "x", 239, "granted");
        check(claim("app", "a"), "x", 240, "granted, renew");
        check(claim("app", "a"), "x", 300, "unknown");
        check(claim("app", "b"), "x", 0, "unknown");
        check(claim("app", ""), "x", 0, "unknown");
        check(claim("other", "a"), "x", 0, "unknown");
        check(claim("app", "a"), "y", 0, "unknown");
    }

    #[test]
    fn what_is_public_is_for_everyone_and_found_out_once() {
        let now = Instant::now();
        let mut ledger = Ledger::new(LASTING);
        assert!(!ledger.try_public(&claim("app", ""), now), "that is the question itself");
        assert!(ledger.try_public(&claim("app", "a"), now));
        assert!(!ledger.try_public(&claim("app", "b"), now));
        ledger.prove(claim("app", ""), Some(ContentId::of_name("x")), &registry(), now);
        assert_eq!(standing(&ledger, &claim("app", "b"), "x", now, 0), "granted");
        assert_eq!(standing(&ledger, &claim("app", "b"), "x", now, 250), "granted, renew for all");
        assert!(ledger.is_let_in_as_anyone(&claim("app", "b"), now));
        ledger.prove(claim("app", "d"), None, &registry(), now);
        assert!(!ledger.is_let_in_as_anyone(&claim("app", "d"), now), "its own credential is good");
        assert!(!ledger.try_public(&claim("app", "c"), now + Duration::from_secs(200)));
        assert!(ledger.try_public(&claim("app", "c"), now + Duration::from_secs(250)), "renewed");
    }

    #[test]
    fn where_anyone_needs_a_token_a_refusal_without_one_is_about_nobody_else() {
        let now = Instant::now();
        let mut ledger = Ledger::new(LASTING);
        ledger.publish(&claim("app", "a"), Some(ContentId::of_name("x")), now);
        let nobody = claim("app", "");
        ledger.refuse(nobody, ContentId::of_name("x"), &registry(), verdict(StatusCode::UNAUTHORIZED), now);
        assert_eq!(standing(&ledger, &nobody, "x", now, 0), "granted");
        ledger.unpublish(&nobody);
        assert_eq!(standing(&ledger, &nobody, "x", now, 0), "refused");
    }

    #[test]
    fn a_refusal_holds_for_ten_seconds_and_ends_the_proof() {
        let now = Instant::now();
        let mut ledger = Ledger::new(LASTING);
        let (who, id) = (claim("app", "a"), ContentId::of_name("x"));
        ledger.prove(who, Some(id), &registry(), now);
        ledger.refuse(who, id, &registry(), verdict(StatusCode::UNAUTHORIZED), now);
        assert_eq!(standing(&ledger, &who, "x", now, 9), "refused");
        assert_eq!(standing(&ledger, &who, "x", now, 10), "unknown");
        // A 404 is about the content: the credential still reads others.
        ledger.prove(who, Some(id), &registry(), now);
        ledger.prove(who, Some(ContentId::of_name("y")), &registry(), now);
        ledger.refuse(who, id, &registry(), verdict(StatusCode::NOT_FOUND), now);
        assert_eq!(standing(&ledger, &who, "x", now, 0), "refused");
        assert_eq!(standing(&ledger, &who, "y", now, 0), "granted");
    }

    #[test]
    fn while_the_registry_is_down_the_grace_holds() {
        let now = Instant::now();
        let at = |age_s| now + Duration::from_secs(age_s);
        let mut ledger = Ledger::new(LASTING);
        let (who, id) = (claim("app", "a"), ContentId::of_name("x"));
        ledger.prove(who, Some(id), &registry(), now);
        assert_eq!(standing(&ledger, &who, "x", now, 600), "unknown");
        assert!(ledger.unanswered(&who, &id, registry(), at(600)));
        assert_eq!(standing(&ledger, &who, "x", now, 629), "granted", "not asked each time");
        assert_eq!(standing(&ledger, &who, "x", now, 630), "unknown");
        assert!(!ledger.unanswered(&claim("app", "b"), &id, registry(), at(600)), "was never proven");
        assert!(!ledger.unanswered(&who, &ContentId::of_name("y"), registry(), at(600)));
        assert!(!ledger.unanswered(&who, &id, registry(), at(3600)), "the grace ends");
        ledger.prove(claim("app", "b"), Some(id), &registry(), at(610));
        assert_eq!(standing(&ledger, &who, "x", now, 611), "unknown", "it answers again");
    }

    #[test]
    fn what_was_confirmed_outlives_a_restart_and_no_longer_than_it_would_have_held() {
        let now = Instant::now();
        let mut ledger = Ledger::new(LASTING);
        let who = claim("app", "a");
        ledger.prove(who, Some(ContentId::of_name("x")), &registry(), now);
        let memory = ledger.remember(Clock { now: now + Duration::from_secs(100), now_s: 1_000_100 });
        let check = |now_s, expected| {
            let mut later = Ledger::new(LASTING);
            later.recall(memory.clone(), Clock { now: now + Duration::from_secs(1000), now_s });
            assert_eq!(standing(&later, &who, "x", now, 1000), expected, "{now_s}");
        };
        check(1_000_150, "granted");
        check(1_000_299, "granted, renew");
        check(1_000_400, "unknown");
        check(999_999, "unknown");
    }

    #[test]
    fn rooms_are_bounded() {
        let now = Instant::now();
        let mut dated = Dated::new(100);
        (0..1000_u64).for_each(|key| dated.insert(key, now + Duration::from_secs(key)));
        assert!(dated.at.len() <= 100);
        assert!(dated.age(&999, now + Duration::from_secs(999)).is_some(), "the youngest stay");
    }
}
