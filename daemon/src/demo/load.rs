//! What is read in the steps: images, and blobs for the lazy boot with its trace. What several peers read at once is
//! fresh: no node has any of it before.

use std::sync::Arc;

use super::image::Image;
use super::registry::{Blob, Registry};
use super::report::{BootFacts, ImageFacts};
use super::trace::Trace;

/// Where the registry has the image and the blob of the boot.
pub(super) const IMAGE_REPO: &str = "demo/app";
pub(super) const IMAGE_TAG: &str = "latest";
pub(super) const BOOT_REPO: &str = "demo/app-nydus";

/// The boots' blobs differ from all layers, so that they are as cold as they are.
const BOOT_SEED: u64 = 1 << 32;

/// What is going to be read. [`Step::image`](super::report::Step::image) and
/// [`Step::boot_blob`](super::report::Step::boot_blob) say which in which step.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) images: [Arc<Image>; 3],
    pub(super) boot_blobs: [Blob; 2],
    pub(super) trace: Arc<Trace>,
}

impl Load {
    /// `image`, and what is generated beside it; its layers are hashed here.
    pub(super) fn new(image: Image) -> Self {
        let trace = Trace::boot();
        let fresh = |number| Arc::new(Image::generate(number, image.layer_bytes()));
        let boot_blobs = [BOOT_SEED, BOOT_SEED + 1].map(|seed| Blob::synthetic(seed, trace.blob_len()));
        let [second, third] = [fresh(1), fresh(2)];
        Self { images: [Arc::new(image), second, third], boot_blobs, trace: Arc::new(trace) }
    }

    pub(super) fn publish(&self, registry: &Registry) {
        for (number, image) in self.images.iter().enumerate() {
            let tag = if number == 0 { IMAGE_TAG.to_owned() } else { format!("fresh-{number}") };
            image.publish(registry, IMAGE_REPO, &tag);
        }
        for blob in &self.boot_blobs {
            registry.add_blob(BOOT_REPO, blob.clone());
        }
    }

    /// All that a cache will hold of it.
    pub(super) fn bytes(&self) -> u64 {
        let images: u64 = self.images.iter().map(|image| image.layer_bytes()).sum();
        images + self.boot_blobs.iter().map(Blob::len).sum::<u64>()
    }

    pub(super) fn image_facts(&self, parallel: usize) -> ImageFacts {
        let [image, ..] = &self.images;
        ImageFacts {
            source: image.source.clone(),
            layers: image.layers.len(),
            bytes: image.layer_bytes(),
            parallel,
        }
    }

    pub(super) fn boot_facts(&self, prefetch: bool) -> BootFacts {
        BootFacts {
            blob_bytes: self.trace.blob_len(),
            reads: self.trace.reads().count(),
            bytes: self.trace.bytes(),
            thinking: self.trace.reads().map(|read| read.pause).sum(),
            prefetch,
        }
    }
}
