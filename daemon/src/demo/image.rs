//! The image that is pulled: generated, or read from an OCI layout (see [`oci_layout`](super::oci_layout)).

use bytes::Bytes;
use serde_json::json;

use super::registry::{Blob, Digest, Registry};

/// Media type of an image manifest of the OCI image spec 1.0.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Sizes of the layers of a Python application's image, as containerd 1.6 pulled it
/// (`tests/fixtures/traces/containerd-1.6.20-pull.jsonl`): a base, what was installed on it, the application
/// itself, and a layer with hardly anything. A generated image has this shape at its own size.
const SHAPE_BYTES: [u64; 5] = [47_810_464, 32_713_237, 22_552_403, 16_389_110, 1_298_045];

/// The layer with hardly anything in it, of the same pull. It stays as small at any size.
const SMALLEST_LAYER_BYTES: u64 = 535;

/// Seeds that the layers of one generated image may take.
const LAYERS_MAX: u64 = 16;
const _: () = assert!(SHAPE_BYTES.len() < LAYERS_MAX as usize);

/// An image as a registry holds it.
#[derive(Clone, Debug)]
pub(super) struct Image {
    /// Where it comes from, for the reader of the chart.
    pub(super) source: String,
    pub(super) config: Blob,
    /// In the order of the manifest.
    pub(super) layers: Vec<Blob>,
    pub(super) manifest: Manifest,
}

/// A manifest, byte for byte.
#[derive(Clone, Debug)]
pub(super) struct Manifest {
    pub(super) media_type: String,
    pub(super) body: Bytes,
}

impl Image {
    /// An image whose layers have about `total_bytes` together. Their content is pseudo-random, of the same
    /// digests each time for the same `number`, and of others for another: they can be pulled, stored and compared,
    /// but not unpacked.
    pub(super) fn generate(number: u16, total_bytes: u64) -> Self {
        let first_seed = u64::from(number) * LAYERS_MAX + 1;
        let layers: Vec<_> = layer_sizes(total_bytes)
            .zip(first_seed..)
            .map(|(len, seed)| Blob::synthetic(seed, len))
            .collect();
        let digests: Vec<_> = layers.iter().map(|layer| layer.digest().to_string()).collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": digests },
        });
        let config = Blob::bytes(config.to_string());
        let descriptor = |media_type: &str, blob: &Blob| {
            json!({
                "mediaType": format!("application/vnd.oci.image.{media_type}"),
                "digest": blob.digest().to_string(),
                "size": blob.len(),
            })
        };
        let layer_descriptors: Vec<_> =
            layers.iter().map(|layer| descriptor("layer.v1.tar+gzip", layer)).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor("config.v1+json", &config),
            "layers": layer_descriptors,
        });
        let manifest = Manifest { media_type: MANIFEST.into(), body: manifest.to_string().into() };
        Self { source: "a generated image".into(), config, layers, manifest }
    }

    /// Puts all of it into `registry` as `repo:tag`.
    pub(super) fn publish(&self, registry: &Registry, repo: &str, tag: &str) -> Digest {
        for blob in self.layers.iter().chain([&self.config]) {
            registry.add_blob(repo, blob.clone());
        }
        registry.add_manifest(repo, tag, &self.manifest.media_type, self.manifest.body.clone())
    }

    /// What a pull brings in: all layers together.
    pub(super) fn layer_bytes(&self) -> u64 {
        self.layers.iter().map(Blob::len).sum()
    }
}

/// `total_bytes` in the proportions of [`SHAPE_BYTES`], and the smallest layer.
fn layer_sizes(total_bytes: u64) -> impl Iterator<Item = u64> {
    let shape_total: u64 = SHAPE_BYTES.iter().sum();
    // In 128 bits the product is exact at any size. A layer is never empty.
    let scaled = move |part: u64| {
        ((u128::from(part) * u128::from(total_bytes) / u128::from(shape_total)) as u64).max(1)
    };
    SHAPE_BYTES.into_iter().map(scaled).chain([SMALLEST_LAYER_BYTES])
}

#[cfg(test)]
mod tests {
    use super::super::registry::RegistryOptions;
    use super::*;

    #[test]
    fn the_shape_is_kept_at_any_size() {
        let sizes: Vec<_> = layer_sizes(500_000_000).collect();
        assert_eq!(sizes.len(), 6);
        assert!((499_999_990..=500_000_535).contains(&sizes.iter().sum::<u64>()), "{sizes:?}");
        assert!(sizes.is_sorted_by(|larger, smaller| larger > smaller), "{sizes:?}");
        assert!((195_000_000..205_000_000).contains(&sizes[0]), "{sizes:?}");
        assert_eq!(layer_sizes(0).collect::<Vec<_>>(), [1, 1, 1, 1, 1, 535]);
    }

    #[test]
    fn a_generated_image_is_the_same_each_time_and_hangs_together() {
        let image = Image::generate(0, 1_000_000);
        assert_eq!(image.manifest.body, Image::generate(0, 1_000_000).manifest.body);
        let digests = |image: &Image| image.layers.iter().map(Blob::digest).collect::<Vec<_>>();
        let other = digests(&Image::generate(1, 1_000_000));
        assert!(digests(&image)[..5].iter().all(|digest| !other.contains(digest)));
        let manifest: serde_json::Value = serde_json::from_slice(&image.manifest.body).unwrap();
        assert_eq!(manifest["config"]["digest"], image.config.digest().to_string());
        let listed = manifest["layers"].as_array().unwrap();
        assert_eq!(listed.len(), image.layers.len());
        for (listed, layer) in listed.iter().zip(&image.layers) {
            assert_eq!(listed["digest"], layer.digest().to_string());
            assert_eq!(listed["size"], layer.len());
        }
        let registry = Registry::start(RegistryOptions::default()).unwrap();
        assert_eq!(image.publish(&registry, "app", "1"), Digest::of(&image.manifest.body));
    }
}
