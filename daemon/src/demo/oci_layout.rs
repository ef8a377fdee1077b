//! Reads an image from an OCI image layout: the directory form that `skopeo copy … oci:DIR`,
//! `crane pull --format=oci` and `docker buildx build -o type=oci,tar=false` write ([OCI image spec],
//! image-layout.md).
//!
//! [OCI image spec]: https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::image::{Image, Manifest};
use super::registry::{Blob, Digest};

/// How deep indices may nest. Real layouts have two levels: `index.json`, and the index of a multi-platform
/// image.
const INDEX_DEPTH_MAX: usize = 4;

/// Why a directory does not yield an image.
#[derive(Debug, thiserror::Error)]
#[error("the image layout cannot be used: {}: {reason}", path.display())]
pub struct LayoutError {
    path: PathBuf,
    reason: Reason,
}

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("{0}")]
    Read(#[from] io::Error),
    #[error("not the JSON expected here: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the content does not have the digest that names it; copy the image again")]
    WrongDigest,
    #[error("only sha256 digests are supported")]
    OtherDigest,
    #[error("no image for linux/amd64 is listed")]
    NoImage,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct ImageManifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// The image for linux/amd64 in the layout at `directory`; of several the first. All digests are checked.
pub(super) fn read(directory: &Path) -> Result<Image, LayoutError> {
    let mut path = directory.join("index.json");
    let mut index: Index = parse(&path, &read_file(&path)?)?;
    for _ in 0..INDEX_DEPTH_MAX {
        let Some(chosen) = index.manifests.into_iter().find(Descriptor::is_for_us) else { break };
        path = chosen.path(directory)?;
        let body = read_file(&path)?;
        if Digest::of(&body).to_string() != chosen.digest {
            return Err(LayoutError { path, reason: Reason::WrongDigest });
        }
        if !chosen.is_index() {
            let manifest: ImageManifest = parse(&path, &body)?;
            return Ok(Image {
                source: directory.display().to_string(),
                config: manifest.config.blob(directory)?,
                layers: manifest
                    .layers
                    .iter()
                    .map(|layer| layer.blob(directory))
                    .collect::<Result<_, _>>()?,
                manifest: Manifest { media_type: chosen.media_type, body: body.into() },
            });
        }
        index = parse(&path, &body)?;
    }
    Err(LayoutError { path, reason: Reason::NoImage })
}

impl Descriptor {
    fn is_index(&self) -> bool {
        matches!(
            &*self.media_type,
            "application/vnd.oci.image.index.v1+json"
                | "application/vnd.docker.distribution.manifest.list.v2+json"
        )
    }

    /// Attestations are listed beside images, as platform `unknown`.
    fn is_for_us(&self) -> bool {
        self.platform
            .as_ref()
            .is_none_or(|platform| platform.os == "linux" && platform.architecture == "amd64")
    }

    fn path(&self, directory: &Path) -> Result<PathBuf, LayoutError> {
        // Parsed before it becomes a path, so that a layout cannot point outside of its directory.
        let Ok(digest) = self.digest.parse::<Digest>() else {
            return Err(LayoutError { path: directory.join("blobs"), reason: Reason::OtherDigest });
        };
        Ok(directory.join("blobs").join(digest.to_string().replace(':', "/")))
    }

    fn blob(&self, directory: &Path) -> Result<Blob, LayoutError> {
        let path = self.path(directory)?;
        match Blob::file(&path) {
            Ok(blob) if blob.digest().to_string() == self.digest => Ok(blob),
            Ok(_) => Err(LayoutError { path, reason: Reason::WrongDigest }),
            Err(error) => Err(LayoutError { path, reason: error.into() }),
        }
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, LayoutError> {
    fs::read(path).map_err(|error| LayoutError { path: path.to_owned(), reason: error.into() })
}

fn parse<T: DeserializeOwned>(path: &Path, json: &[u8]) -> Result<T, LayoutError> {
    serde_json::from_slice(json).map_err(|error| LayoutError { path: path.to_owned(), reason: error.into() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";

    /// A layout under construction.
    struct Layout(tempfile::TempDir);

    impl Layout {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            fs::create_dir_all(directory.path().join("blobs/sha256")).unwrap();
            Self(directory)
        }

        fn add(&self, media_type: &str, content: &[u8]) -> Value {
            let digest = Digest::of(content).to_string();
            fs::write(self.0.path().join("blobs").join(digest.replace(':', "/")), content).unwrap();
            json!({ "mediaType": media_type, "digest": digest, "size": content.len() })
        }

        fn add_image(&self, layers: &[&[u8]]) -> Value {
            let config = self.add("application/vnd.oci.image.config.v1+json", b"{}");
            let layers: Vec<_> = layers.iter().map(|content| self.add("layer", content)).collect();
            self.add(MANIFEST, json!({ "config": config, "layers": layers }).to_string().as_bytes())
        }

        fn finish(self, manifests: &[Value]) -> Self {
            let index = json!({ "schemaVersion": 2, "manifests": manifests });
            fs::write(self.0.path().join("index.json"), index.to_string()).unwrap();
            self
        }

        fn read(&self) -> Result<Image, String> {
            read(self.0.path()).map_err(|error| error.to_string())
        }
    }

    fn on(mut descriptor: Value, os: &str, architecture: &str) -> Value {
        descriptor["platform"] = json!({ "os": os, "architecture": architecture });
        descriptor
    }

    #[test]
    fn a_single_image() {
        let layout = Layout::new();
        let manifest = layout.add_image(&[b"base", b"application"]);
        let image = layout.finish(std::slice::from_ref(&manifest)).read().unwrap();
        assert_eq!(image.layers.iter().map(Blob::len).collect::<Vec<_>>(), [4, 11]);
        assert_eq!(Digest::of(&image.manifest.body).to_string(), manifest["digest"]);
        assert_eq!(image.manifest.media_type, MANIFEST);
    }

    #[test]
    fn our_platform_of_several() {
        let layout = Layout::new();
        let others = [
            on(layout.add_image(&[b"arm"]), "linux", "arm64"),
            on(
                json!({
            "mediaType": MANIFEST, "digest": Digest::of(b"attestation").to_string() }),
                "unknown",
                "unknown",
            ),
        ];
        let ours = on(layout.add_image(&[b"amd64!"]), "linux", "amd64");
        let index = json!({ "manifests": [others[0], others[1], ours] }).to_string();
        let nested = layout.add(INDEX, index.as_bytes());
        let image = layout.finish(&[nested]).read().unwrap();
        assert_eq!(image.layers[0].len(), 6);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let empty = Layout::new();
        assert!(empty.read().unwrap_err().contains("index.json: No such file"));

        let layout = Layout::new();
        let arm = on(layout.add_image(&[b"arm"]), "linux", "arm64");
        assert!(layout.finish(&[arm]).read().unwrap_err().ends_with("no image for linux/amd64 is listed"));

        let layout = Layout::new();
        let image = layout.add_image(&[b"layer"]);
        let layer = layout.0.path().join("blobs").join(Digest::of(b"layer").to_string().replace(':', "/"));
        fs::write(&layer, "other").unwrap();
        let error = layout.finish(&[image]).read().unwrap_err();
        assert!(error.contains("does not have the digest"), "{error}");

        let layout = Layout::new();
        let outside = json!({ "mediaType": MANIFEST, "digest": "sha256:../../index.json" });
        assert!(layout.finish(&[outside]).read().unwrap_err().contains("only sha256"));
    }
}
