//! RAFS v6 images: one is built as `nydus-image` does it, one is a fixture.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nydus_api::ConfigV2;
use nydus_builder::attributes::Attributes;
use nydus_builder::{
    ArtifactStorage, BlobManager, BootstrapManager, BuildContext, Builder, ConversionType, DirectoryBuilder,
    Features, Prefetch, WhiteoutSpec,
};
use nydus_rafs::metadata::RafsVersion;
use nydus_utils::{compress, digest};

/// The two files of an image: its metadata, which a node always has, and its data, which it reads lazily.
#[derive(Debug)]
pub(crate) struct Image {
    /// RAFS metadata.
    pub(crate) bootstrap: PathBuf,
    /// The directory with the blob, under its digest.
    pub(crate) blobs: PathBuf,
    /// The digest of the blob, hexadecimal.
    pub(crate) blob_id: String,
}

impl Image {
    /// Builds the tree below `source` into the empty directory `into`.
    pub(crate) fn build(source: &Path, compressor: compress::Algorithm, into: &Path) -> Self {
        let (bootstrap, blobs) = (into.join("bootstrap"), into.join("blobs"));
        fs::create_dir(&blobs).expect("a directory for the blob");
        let digester = digest::Algorithm::Sha256;
        let mut context = BuildContext::new(
            // The builder names the blob by its digest.
            String::new(),
            // Version 6 is mapped page by page.
            true,
            0,
            compressor,
            digester,
            true,
            WhiteoutSpec::Oci,
            ConversionType::DirectoryToRafs,
            source.to_owned(),
            Prefetch::default(),
            Some(ArtifactStorage::FileDir((blobs.clone(), String::new()))),
            None,
            // The bootstrap is a file of its own.
            false,
            Features::default(),
            false,
            Attributes::default(),
        );
        context.set_fs_version(RafsVersion::V6);
        let config = ConfigV2::default();
        config.internal.set_blob_accessible(true);
        context.set_configuration(Arc::new(config));
        let mut bootstraps =
            BootstrapManager::new(Some(ArtifactStorage::SingleFile(bootstrap.clone())), None);
        let mut manager = BlobManager::new(digester, false);
        let built = DirectoryBuilder::new()
            .build(&mut context, &mut bootstraps, &mut manager)
            .expect("the image is built");
        let [blob_id] = &built.blobs[..] else { panic!("one directory makes one blob: {:?}", built.blobs) };
        Self { bootstrap, blobs, blob_id: blob_id.clone() }
    }

    /// The image of the fixtures, built by a released `nydus-image`.
    pub(crate) fn sample() -> Self {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nydus-tiny-v6");
        Self {
            bootstrap: fixture.join("bootstrap"),
            blobs: fixture.join("blobs"),
            blob_id: "e85afb9ae5eecd08f395b9777442e2642fb94dc49bd2d92f7c0a2763cb419f40".to_owned(),
        }
    }

    /// The blob, whole.
    pub(crate) fn blob(&self) -> PathBuf {
        self.blobs.join(&self.blob_id)
    }
}
