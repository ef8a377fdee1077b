//! What each tag was last seen to name: pure, bounded in number and time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use darter_engine::ContentId;
use http::header;

use super::ledger::Clock;
use crate::origin::Target;

/// Tags remembered at a time.
pub(super) const TAGS_MAX: usize = 4096;

/// A tag of a repository, as a hash: with its URL, the forms of manifest that the client accepts, by which the
/// registry may choose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tag([u8; 32]);

impl Tag {
    /// The tag that a request is for.
    pub fn of(target: &Target) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(target.url().as_str().as_bytes());
        for value in target.headers().get_all(header::ACCEPT) {
            hasher.update(&[0]).update(value.as_bytes());
        }
        Self(hasher.finalize().into())
    }

    pub(super) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Tags of all registries with what they named when a registry was last asked.
#[derive(Debug, Default)]
pub(super) struct Tags {
    of: HashMap<Tag, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    id: ContentId,
    at: Instant,
}

impl Tags {
    /// The registry says that the tag names this content now. What is older than `grace` makes room.
    pub(super) fn note(&mut self, tag: Tag, id: ContentId, now: Instant, grace: Duration) {
        if self.of.len() >= TAGS_MAX {
            self.of.retain(|_, seen| now.saturating_duration_since(seen.at) < grace);
        }
        if self.of.len() >= TAGS_MAX {
            self.of.clear();
        }
        self.of.insert(tag, Seen { id, at: now });
    }

    /// What the tag named last, if that was within `grace`.
    pub(super) fn last(&self, tag: &Tag, now: Instant, grace: Duration) -> Option<ContentId> {
        let seen = self.of.get(tag)?;
        (now.saturating_duration_since(seen.at) < grace).then_some(seen.id)
    }

    pub(super) fn remember(&self, clock: Clock) -> Vec<((Tag, ContentId), u64)> {
        self.of.iter().map(|(tag, seen)| ((*tag, seen.id), clock.unix_s(seen.at))).collect()
    }

    pub(super) fn recall(&mut self, remembered: Vec<((Tag, ContentId), u64)>, clock: Clock) {
        for ((tag, id), at_s) in remembered.into_iter().take(TAGS_MAX) {
            if let Some(at) = clock.instant(at_s) {
                self.of.insert(tag, Seen { id, at });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    const GRACE: Duration = Duration::from_secs(60);

    fn tag(name: &str, accept: &'static str) -> Tag {
        let headers: HeaderMap =
            [(header::ACCEPT, http::HeaderValue::from_static(accept))].into_iter().collect();
        let path = format!("/v2/a/manifests/{name}");
        Tag::of(&Target::new("http://r".parse().unwrap(), &path, &headers, &[]).unwrap())
    }

    #[test]
    fn a_tag_is_remembered_for_each_form_of_manifest_and_for_the_grace() {
        let (id, now) = (ContentId::of_name("x"), Instant::now());
        let mut tags = Tags::default();
        tags.note(tag("latest", "application/vnd.oci.image.index.v1+json"), id, now, GRACE);
        let check = |name, accept, age_s, expected| {
            let now = now + Duration::from_secs(age_s);
            assert_eq!(tags.last(&tag(name, accept), now, GRACE), expected, "{name} {accept} {age_s}");
        };
        check("latest", "application/vnd.oci.image.index.v1+json", 59, Some(id));
        check("latest", "application/vnd.oci.image.index.v1+json", 60, None);
        check("latest", "*/*", 0, None);
        check("other", "application/vnd.oci.image.index.v1+json", 0, None);
    }

    #[test]
    fn a_restart_makes_no_tag_younger() {
        let (id, now) = (ContentId::of_name("x"), Instant::now());
        let mut tags = Tags::default();
        tags.note(tag("latest", "*/*"), id, now, GRACE);
        let remembered = tags.remember(Clock { now: now + Duration::from_secs(10), now_s: 1_000_010 });
        let mut later = Tags::default();
        later.recall(remembered, Clock { now: now + Duration::from_secs(100), now_s: 1_000_050 });
        let last = |age_s| later.last(&tag("latest", "*/*"), now + Duration::from_secs(age_s), GRACE);
        assert_eq!((last(100), last(109), last(110)), (Some(id), Some(id), None));
    }

    #[test]
    fn the_room_is_bounded() {
        let now = Instant::now();
        let mut tags = Tags::default();
        (0..=TAGS_MAX).for_each(|number| {
            tags.note(tag(&number.to_string(), "*/*"), ContentId::of_name("x"), now, GRACE);
        });
        assert!(tags.of.len() <= TAGS_MAX);
    }
}
