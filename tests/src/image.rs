//! An image that a runtime can unpack: layers are gzipped tars of files whose bytes do not compress, so that a
//! layer is as long as asked for.

use std::io::Write;

use darter::demo::registry::Digest;
use fastrand::Rng;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A blob or a manifest: bytes under their digest.
#[derive(Clone, Debug)]
pub struct Document {
    /// What it is.
    pub media_type: &'static str,
    /// Every byte.
    pub bytes: Vec<u8>,
}

impl Document {
    /// `sha256:…`
    pub fn digest(&self) -> String {
        Digest::of(&self.bytes).to_string()
    }

    /// Length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no document is empty")]
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest(), "size": self.len() })
    }
}

/// A whole image.
#[derive(Clone, Debug)]
pub struct Image {
    blobs: Vec<Document>,
    manifests: Vec<Document>,
}

impl Image {
    /// An image for this platform with one layer for each length, in bytes; a layer comes out a little longer.
    /// Its bytes depend on `seed` alone.
    pub fn build(seed: u64, layers_bytes: &[usize]) -> Self {
        let mut random = Rng::with_seed(seed);
        let layers: Vec<_> =
            (0..).zip(layers_bytes).map(|(n, bytes)| layer(&mut random, n, *bytes)).collect();
        let diff_ids: Vec<_> = layers.iter().map(|(_, diff_id)| diff_id).collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": { "Cmd": ["/file-0"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = Document { media_type: CONFIG, bytes: config.to_string().into_bytes() };
        let layers: Vec<_> = layers.into_iter().map(|(layer, _)| layer).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": layers.iter().map(Document::descriptor).collect::<Vec<_>>(),
        });
        let manifest = Document { media_type: MANIFEST, bytes: manifest.to_string().into_bytes() };
        Self { blobs: layers.into_iter().chain([config]).collect(), manifests: vec![manifest] }
    }

    /// The same image behind an index, as images for several platforms are.
    #[must_use]
    pub fn with_index(mut self) -> Self {
        let mut descriptor = self.tagged().descriptor();
        descriptor["platform"] = json!({ "architecture": "amd64", "os": "linux" });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor] });
        self.manifests.push(Document { media_type: INDEX, bytes: index.to_string().into_bytes() });
        self
    }

    /// Layers and configuration.
    pub fn blobs(&self) -> &[Document] {
        &self.blobs
    }

    /// The manifest, and the index if it has one.
    pub fn manifests(&self) -> &[Document] {
        &self.manifests
    }

    /// What a tag names.
    pub fn tagged(&self) -> &Document {
        self.manifests.last().expect("an image has a manifest")
    }

    /// Bytes of all blobs together.
    pub fn blob_bytes(&self) -> u64 {
        self.blobs.iter().map(Document::len).sum()
    }
}

/// A layer and the digest of what is in it.
fn layer(random: &mut Rng, number: u32, bytes: usize) -> (Document, String) {
    let mut content = vec![0; bytes];
    random.fill(&mut content);
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_size(bytes as u64);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, format!("file-{number}"), &*content).expect("a buffer can be written");
    let tar = tar.into_inner().expect("a buffer can be written");
    let diff_id = Digest::of(&tar).to_string();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&tar).expect("a buffer can be written");
    let bytes = gzip.finish().expect("a buffer can be written");
    (Document { media_type: LAYER, bytes }, diff_id)
}
