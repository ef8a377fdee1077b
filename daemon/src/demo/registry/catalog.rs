//! What the registry holds: blobs and manifests by repository.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Blob, Digest};

/// A manifest as it was put in; its media type is part of the answer.
#[derive(Clone, Debug)]
pub(super) struct Manifest {
    pub(super) media_type: String,
    pub(super) body: Bytes,
    pub(super) digest: Digest,
}

#[derive(Debug, Default)]
pub(super) struct Catalog {
    repositories: HashMap<String, Repository>,
}

#[derive(Debug, Default)]
pub(super) struct Repository {
    blobs: HashMap<Digest, Blob>,
    manifests: HashMap<Digest, Manifest>,
    tags: HashMap<String, Digest>,
}

impl Catalog {
    pub(super) fn add_blob(&mut self, repo: &str, blob: Blob) -> Digest {
        let digest = blob.digest();
        self.repositories.entry(repo.to_owned()).or_default().blobs.insert(digest, blob);
        digest
    }

    pub(super) fn add_manifest(&mut self, repo: &str, tag: &str, media_type: &str, body: Bytes) -> Digest {
        let digest = Digest::of(&body);
        let repository = self.repositories.entry(repo.to_owned()).or_default();
        repository.manifests.insert(digest, Manifest { media_type: media_type.to_owned(), body, digest });
        repository.tags.insert(tag.to_owned(), digest);
        digest
    }

    pub(super) fn repository(&self, repo: &str) -> Option<&Repository> {
        self.repositories.get(repo)
    }

    /// A blob by digest alone, as the storage host behind a redirect sees it.
    pub(super) fn stored(&self, digest: &Digest) -> Option<&Blob> {
        self.repositories.values().find_map(|repository| repository.blob(digest))
    }
}

impl Repository {
    pub(super) fn blob(&self, digest: &Digest) -> Option<&Blob> {
        self.blobs.get(digest)
    }

    /// `reference` is a tag or a digest.
    pub(super) fn manifest(&self, reference: &str) -> Option<&Manifest> {
        let digest = reference.parse().ok().or_else(|| self.tags.get(reference).copied())?;
        self.manifests.get(&digest)
    }
}
