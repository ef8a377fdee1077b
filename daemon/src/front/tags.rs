//! Which content a tag was last seen to name. Shared by all shards; bounded in number and time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use darter_engine::ContentId;
use http::header;

use crate::origin::Target;

/// Tags remembered at a time.
const TAGS_MAX: usize = 4096;

/// Tags of all registries with what they named when a registry was last asked.
#[derive(Debug, Default)]
pub(crate) struct Tags {
    of: Mutex<HashMap<TagKey, Seen>>,
}

/// A tag's URL and what forms of manifest the client accepts: the registry may choose by that.
type TagKey = [u8; 32];

#[derive(Clone, Copy, Debug)]
struct Seen {
    id: ContentId,
    at: Instant,
}

impl Tags {
    /// The registry says that the tag names this content now. What is older than `grace` makes room.
    pub(super) fn note(&self, target: &Target, id: ContentId, grace: Duration) {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if of.len() >= TAGS_MAX {
            of.retain(|_, seen| seen.at.elapsed() < grace);
        }
        if of.len() >= TAGS_MAX {
            of.clear();
        }
        of.insert(key(target), Seen { id, at: Instant::now() });
    }

    /// What the tag named last, if that was within `grace`.
    pub(super) fn last(&self, target: &Target, grace: Duration) -> Option<ContentId> {
        let of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        of.get(&key(target)).filter(|seen| seen.at.elapsed() < grace).map(|seen| seen.id)
    }
}

fn key(target: &Target) -> TagKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(target.url().as_str().as_bytes());
    for value in target.headers().get_all(header::ACCEPT) {
        hasher.update(&[0]).update(value.as_bytes());
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    const GRACE: Duration = Duration::from_secs(60);

    fn target(tag: &str, accept: &'static str) -> Target {
        let headers: HeaderMap =
            [(header::ACCEPT, http::HeaderValue::from_static(accept))].into_iter().collect();
        Target::new("http://r".parse().unwrap(), &format!("/v2/a/manifests/{tag}"), &headers, &[]).unwrap()
    }

    #[test]
    fn a_tag_is_remembered_for_each_form_of_manifest_and_for_the_grace() {
        let id = ContentId::of_name("x");
        let tags = Tags::default();
        tags.note(&target("latest", "application/vnd.oci.image.index.v1+json"), id, GRACE);
        assert_eq!(tags.last(&target("latest", "application/vnd.oci.image.index.v1+json"), GRACE), Some(id));
        assert_eq!(tags.last(&target("latest", "*/*"), GRACE), None);
        assert_eq!(tags.last(&target("other", "application/vnd.oci.image.index.v1+json"), GRACE), None);
        tags.note(&target("latest", "*/*"), id, GRACE);
        assert_eq!(tags.last(&target("latest", "*/*"), Duration::ZERO), None);
    }

    #[test]
    fn the_room_is_bounded() {
        let tags = Tags::default();
        (0..=TAGS_MAX).for_each(|number| {
            tags.note(&target(&number.to_string(), "*/*"), ContentId::of_name("x"), GRACE)
        });
        assert!(tags.of.lock().unwrap().len() <= TAGS_MAX);
    }
}
