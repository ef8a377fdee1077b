//! What is read in each step: the image, and the blob of the lazy boot with its trace.

use std::sync::Arc;

use super::image::Image;
use super::registry::{Blob, Registry};
use super::report::{BootFacts, ImageFacts};
use super::trace::Trace;

/// Where the registry has the image and the blob of the boot.
pub(super) const IMAGE_REPO: &str = "demo/app";
pub(super) const IMAGE_TAG: &str = "latest";
pub(super) const BOOT_REPO: &str = "demo/app-nydus";

/// The boot's blob differs from all layers, so that it is as cold as they are.
const BOOT_SEED: u64 = 1 << 32;

/// What is going to be read.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) image: Arc<Image>,
    pub(super) boot_blob: Blob,
    pub(super) trace: Arc<Trace>,
}

impl Load {
    pub(super) fn new(image: Image) -> Self {
        let trace = Trace::boot();
        let boot_blob = Blob::synthetic(BOOT_SEED, trace.blob_len());
        Self { image: Arc::new(image), boot_blob, trace: Arc::new(trace) }
    }

    pub(super) fn publish(&self, registry: &Registry) {
        self.image.publish(registry, IMAGE_REPO, IMAGE_TAG);
        registry.add_blob(BOOT_REPO, self.boot_blob.clone());
    }

    /// All that a cache will hold of it.
    pub(super) fn bytes(&self) -> u64 {
        self.image.layer_bytes() + self.boot_blob.len()
    }

    pub(super) fn image_facts(&self, parallel: usize) -> ImageFacts {
        ImageFacts {
            source: self.image.source.clone(),
            layers: self.image.layers.len(),
            bytes: self.image.layer_bytes(),
            parallel,
        }
    }

    pub(super) fn boot_facts(&self, prefetch: bool) -> BootFacts {
        BootFacts {
            blob_bytes: self.boot_blob.len(),
            reads: self.trace.reads().count(),
            bytes: self.trace.bytes(),
            thinking: self.trace.reads().map(|read| read.pause).sum(),
            prefetch,
        }
    }
}
