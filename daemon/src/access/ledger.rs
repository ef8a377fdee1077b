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

use super::claim::{Claim, Repository};
use crate::origin::Verdict;

/// How long a proof lets its claim in without asking again.
pub(super) const PROOF_LASTS: Duration = Duration::from_secs(300);
/// From this age on a proof that is used is renewed in the background.
const RENEWED_FROM: Duration = Duration::from_secs(240);
/// How long a refusal is repeated without asking again.
const REFUSAL_LASTS: Duration = Duration::from_secs(10);
/// How long a content counts as being in a repository. Renewals confirm it anew.
const PLACE_LASTS: Duration = Duration::from_secs(24 * 3600);
/// How long a registry that did not answer is not asked about what the grace covers: each try may take seconds.
const DOWN_LASTS: Duration = Duration::from_secs(30);
/// How often a repository is tried without a credential.
const PUBLIC_TRIED_EVERY: Duration = Duration::from_secs(3600);

const PROOFS_MAX: usize = 16 * 1024;
const PLACES_MAX: usize = 64 * 1024;
const REFUSALS_MAX: usize = 4 * 1024;
const REGISTRIES_MAX: usize = 1024;

/// Whether a claim on a content is let in now.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    /// Yes; with `renew`, the registry should be asked again in the background.
    Granted {
        /// The proof will not last much longer.
        renew: bool,
    },
    /// The registry has just refused it.
    Refused(Arc<Verdict>),
    /// The registry must be asked.
    Unknown,
}

/// Confirmations and refusals, bounded in number and time.
#[derive(Debug)]
pub(super) struct Ledger {
    grace: Duration,
    proofs: Dated<Claim>,
    places: Dated<(Repository, ContentId)>,
    refusals: HashMap<(Claim, ContentId), (Instant, Arc<Verdict>)>,
    down: Dated<RegistryScope>,
    public_tried: Dated<Repository>,
}

impl Ledger {
    pub(super) fn new(grace: Duration) -> Self {
        Self {
            grace,
            proofs: Dated::new(PROOFS_MAX),
            places: Dated::new(PLACES_MAX),
            refusals: HashMap::new(),
            down: Dated::new(REGISTRIES_MAX),
            public_tried: Dated::new(REGISTRIES_MAX),
        }
    }

    pub(super) fn standing(
        &self,
        claim: &Claim,
        id: &ContentId,
        registry: &RegistryScope,
        now: Instant,
    ) -> Standing {
        let proof_age = self.proof_age(claim, now);
        let place_age = self.places.age(&(claim.repository, *id), now);
        if let (Some(proof), Some(place)) = (proof_age, place_age) {
            if proof < PROOF_LASTS && place < PLACE_LASTS {
                return Standing::Granted { renew: proof >= RENEWED_FROM };
            }
            if proof < self.grace && self.down.age(registry, now).is_some_and(|age| age < DOWN_LASTS) {
                return Standing::Granted { renew: false };
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
        let within = |age: Option<Duration>| age.is_some_and(|age| age < self.grace);
        within(self.proof_age(claim, now)) && within(self.places.age(&(claim.repository, *id), now))
    }

    /// Whether it is time to try the repository without a credential; true once in a while.
    pub(super) fn try_public(&mut self, claim: &Claim, now: Instant) -> bool {
        if *claim == claim.public() {
            return false;
        }
        let public = self.proofs.age(&claim.public(), now).is_some_and(|age| age < RENEWED_FROM);
        let tried = self.public_tried.age(&claim.repository, now).is_some_and(|age| age < PUBLIC_TRIED_EVERY);
        let was_public = self.proofs.age(&claim.public(), now).is_some();
        if public || (tried && !was_public) {
            return false;
        }
        self.public_tried.insert(claim.repository, now);
        true
    }

    /// The age of the younger of the claim's own proof and everyone's.
    fn proof_age(&self, claim: &Claim, now: Instant) -> Option<Duration> {
        let own = self.proofs.age(claim, now);
        let public = self.proofs.age(&claim.public(), now);
        own.into_iter().chain(public).min()
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
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode, header};

    use super::super::claim::Credential;
    use super::*;

    const GRACE: Duration = Duration::from_secs(3600);

    fn claim(repository: &str, user: &str) -> Claim {
        let mut headers = HeaderMap::new();
        if !user.is_empty() {
            headers.insert(header::AUTHORIZATION, user.parse().unwrap());
        }
        let registry = "http://registry".parse().unwrap();
        let repository = Repository::of(&registry, &format!("/v2/{repository}/blobs/x"));
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
            Standing::Granted { renew: false } => "granted",
            Standing::Granted { renew: true } => "granted, renew",
            Standing::Refused(_) => "refused",
            Standing::Unknown => "unknown",
        }
    }

    #[test]
    fn a_proof_is_for_one_claim_one_content_and_five_minutes() {
        let now = Instant::now();
        let mut ledger = Ledger::new(GRACE);
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
        let mut ledger = Ledger::new(GRACE);
        assert!(!ledger.try_public(&claim("app", ""), now), "that is the question itself");
        assert!(ledger.try_public(&claim("app", "a"), now));
        assert!(!ledger.try_public(&claim("app", "b"), now));
        ledger.prove(claim("app", ""), Some(ContentId::of_name("x")), &registry(), now);
        assert_eq!(standing(&ledger, &claim("app", "b"), "x", now, 0), "granted");
        assert!(!ledger.try_public(&claim("app", "c"), now + Duration::from_secs(200)));
        assert!(ledger.try_public(&claim("app", "c"), now + Duration::from_secs(250)), "renewed");
    }

    #[test]
    fn a_refusal_holds_for_ten_seconds_and_ends_the_proof() {
        let now = Instant::now();
        let mut ledger = Ledger::new(GRACE);
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
        let mut ledger = Ledger::new(GRACE);
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
    fn rooms_are_bounded() {
        let now = Instant::now();
        let mut dated = Dated::new(100);
        (0..1000_u64).for_each(|key| dated.insert(key, now + Duration::from_secs(key)));
        assert!(dated.at.len() <= 100);
        assert!(dated.age(&999, now + Duration::from_secs(999)).is_some(), "the youngest stay");
    }
}
