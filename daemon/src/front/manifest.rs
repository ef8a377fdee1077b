//! Manifests by their tag.
//!
//! A tag may name something else in a moment, so the registry is asked each time: one HEAD, with the client's own
//! credential, which is its proof too. What the tag names is then a content like any other. While the registry is
//! down, the tag names what it named last, within the grace.

use std::sync::Arc;

use darter_engine::ContentId;
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::Front;
use super::route::digest_of;
use super::trouble::Trouble;
use crate::access::repository_name;
use crate::fetch::{FetchError, Patience};
use crate::origin::{OriginError, OriginHead, Target, Verdict};

/// How long the registry may take to say what a tag names, so that there is time left for the answer.
const HEAD_WITHIN: std::time::Duration = std::time::Duration::from_millis(3200);

/// What is to be done with a request for a manifest by its tag.
#[derive(Debug)]
pub(super) enum Named {
    /// The tag names this content, at this target.
    Content(ContentId, Box<Target>),
    /// Only the registry itself can answer.
    Pass,
}

/// What a tag names now, or named last.
pub(super) async fn resolve(front: &Front, target: &Target) -> Result<Named, Trouble> {
    let until = Instant::now() + HEAD_WITHIN;
    let down = match tokio::time::timeout_at(until, ask(front, target)).await {
        Ok(Ok(head)) if head.status.is_success() => {
            return Ok(match front.note_manifest(target, &head.headers) {
                Some(id) => named(target, id),
                None => Named::Pass,
            });
        }
        Ok(Ok(head)) if is_down(head.status) => {
            FetchError::Verdict(Arc::new(Verdict::without_body(head.status, &head.headers)))
        }
        // A refusal has a body that a HEAD does not show.
        Ok(Ok(_)) => return Ok(Named::Pass),
        Ok(Err(error)) if error.is_for_good() => return Err(FetchError::from(error).into()),
        Ok(Err(error)) => error.into(),
        Err(_) => {
            let (registry, reason) = (target.registry().to_string(), "no answer in time".into());
            OriginError::Unreachable { registry, reason }.into()
        }
    };
    match named_last(front, target) {
        Some(id) => {
            tracing::warn!(error = %down, path = target.url().path(), "the tag is taken to name what it named last");
            Ok(named(target, id))
        }
        None => Err(down.into()),
    }
}

/// An overloaded registry is waited for where nothing else is known of the tag.
async fn ask(front: &Front, target: &Target) -> Result<OriginHead, OriginError> {
    let mut patience = Patience::new();
    loop {
        let head = front.origin.head(target).await?;
        let is_known = is_down(head.status) && named_last(front, target).is_some();
        if is_known || !patience.wait_if_overloaded(&head).await {
            return Ok(head);
        }
    }
}

/// What the tag named last, for a reader who may read that while the registry is down.
fn named_last(front: &Front, target: &Target) -> Option<ContentId> {
    let access = &front.sources.access;
    access.tag_named_last(target).filter(|id| access.holds_while_down(target, id))
}

/// Whether the registry has not answered the question.
pub(super) fn is_down(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

impl Front {
    /// A registry has said, with success, what a manifest's reference names: its claim is proven, and the tag known.
    pub(super) fn note_manifest(&self, target: &Target, headers: &HeaderMap) -> Option<ContentId> {
        let digest = headers.get("docker-content-digest").and_then(|value| value.to_str().ok());
        let id = digest.and_then(digest_of);
        self.sources.access.prove(&self.origin, target, id.as_ref());
        if let Some(id) = id {
            self.sources.access.note_tag(target, id);
        }
        id
    }
}

fn named(target: &Target, id: ContentId) -> Named {
    let Some(repository) = repository_name(target.url().path()) else { return Named::Pass };
    let path = format!("/v2/{repository}/manifests/sha256:{id}");
    Named::Content(id, Box::new(target.clone().at(&path)))
}
