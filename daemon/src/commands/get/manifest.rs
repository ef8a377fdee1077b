//! Indices and manifests of images, OCI's and Docker's (image spec 1.1; Docker's schema 2). Pure.

use std::fmt::Write;

use darter_engine::ContentId;
use serde::Deserialize;

use super::platform::Platform;

/// Longest index or manifest, as registries have it.
pub const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// Real images have some dozens.
const LAYERS_MAX: usize = 1024;
/// Platforms that an error names.
const NAMED_MAX: usize = 40;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What is asked for.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// A blob that a manifest names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// Its digest.
    pub id: ContentId,
    /// As the manifest says; not checked yet.
    pub length_bytes: u64,
    /// What it runs on, in an index.
    pub platform: Option<Platform>,
}

/// What a registry has under a tag or a digest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Document {
    /// Images for several platforms.
    Index(Vec<Descriptor>),
    /// One image.
    Manifest {
        /// OCI's or Docker's.
        media_type: String,
        /// The image's configuration.
        config: Descriptor,
        /// From the lowest on.
        layers: Vec<Descriptor>,
    },
}

/// Why bytes are none of these.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unusable {
    /// No JSON, or not of that shape.
    #[error("it is not the JSON of a manifest: {0}")]
    Json(String),
    /// Another kind of document.
    #[error("it is of the type {0:?}, which is neither an image nor an index of images")]
    MediaType(String),
    /// Another algorithm, or no digest.
    #[error("it names {0:?}, which is no sha256 digest")]
    Digest(String),
    /// More than any image has.
    #[error("it has more than {LAYERS_MAX} layers")]
    TooManyLayers,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    media_type: Option<String>,
    manifests: Option<Vec<RawDescriptor>>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
}

#[derive(Deserialize)]
struct RawDescriptor {
    digest: String,
    size: u64,
    platform: Option<RawPlatform>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

impl Document {
    /// Reads a body; `content_type` is what its answer said, for a body that does not say it itself.
    ///
    /// # Errors
    /// What it is instead.
    pub fn parse(body: &[u8], content_type: Option<&str>) -> Result<Self, Unusable> {
        let raw: RawDocument =
            serde_json::from_slice(body).map_err(|error| Unusable::Json(error.to_string()))?;
        let told = content_type.and_then(|value| value.split(';').next()).map(str::trim);
        let media_type = raw.media_type.as_deref().or(told).unwrap_or_default().to_owned();
        match (&*media_type, raw.manifests, raw.config, raw.layers) {
            (OCI_INDEX | DOCKER_INDEX, Some(manifests), ..) => {
                manifests.into_iter().map(Descriptor::try_from).collect::<Result<_, _>>().map(Self::Index)
            }
            (OCI_MANIFEST | DOCKER_MANIFEST, _, Some(config), Some(layers)) => {
                if layers.len() > LAYERS_MAX {
                    return Err(Unusable::TooManyLayers);
                }
                let layers = layers.into_iter().map(Descriptor::try_from).collect::<Result<_, _>>()?;
                Ok(Self::Manifest { media_type, config: config.try_into()?, layers })
            }
            _ => Err(Unusable::MediaType(media_type.chars().take(100).collect())),
        }
    }
}

impl TryFrom<RawDescriptor> for Descriptor {
    type Error = Unusable;

    fn try_from(raw: RawDescriptor) -> Result<Self, Unusable> {
        let id = raw.digest.strip_prefix("sha256:").and_then(|digits| digits.parse().ok());
        let id = id.ok_or_else(|| Unusable::Digest(raw.digest.chars().take(100).collect()))?;
        let platform = raw.platform.map(|raw| Platform {
            os: raw.os,
            architecture: raw.architecture,
            variant: raw.variant.filter(|variant| !variant.is_empty()),
        });
        Ok(Self { id, length_bytes: raw.size, platform })
    }
}

/// The image of an index for a platform.
///
/// # Errors
/// There is none; the names of those that there are.
pub fn choose<'a>(index: &'a [Descriptor], wanted: &Platform) -> Result<&'a Descriptor, String> {
    let takes = |image: &&Descriptor| image.platform.as_ref().is_none_or(|platform| wanted.takes(platform));
    index.iter().find(takes).ok_or_else(|| {
        // Attestations are listed beside images, as platform unknown.
        let known = index.iter().filter_map(|image| image.platform.as_ref()).filter(|it| it.os != "unknown");
        let mut names = String::new();
        for platform in known.take(NAMED_MAX) {
            // Writing to a String does not fail.
            let _ = write!(names, "{}{platform}", if names.is_empty() { "" } else { ", " });
        }
        names
    })
}

/// What the configuration of an image says that it runs on.
pub fn platform_of_config(config: &[u8]) -> Option<Platform> {
    let raw: RawPlatform = serde_json::from_slice(config).ok()?;
    let variant = raw.variant.filter(|variant| !variant.is_empty());
    Some(Platform { os: raw.os, architecture: raw.architecture, variant })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn descriptor(digit: char, platform: &str) -> serde_json::Value {
        let mut value = json!({ "digest": format!("sha256:{}", digit.to_string().repeat(64)), "size": 5 });
        if let Some((os, architecture)) = platform.split_once('/') {
            value["platform"] = json!({ "os": os, "architecture": architecture });
        }
        value
    }

    fn parse(value: &serde_json::Value, content_type: Option<&str>) -> Result<Document, Unusable> {
        Document::parse(value.to_string().as_bytes(), content_type)
    }

    #[test]
    fn images_and_indices() {
        for (index, manifest) in [(OCI_INDEX, OCI_MANIFEST), (DOCKER_INDEX, DOCKER_MANIFEST)] {
            let value = json!({ "mediaType": index, "manifests": [descriptor('a', "linux/amd64")] });
            assert!(matches!(parse(&value, None), Ok(Document::Index(images)) if images.len() == 1));
            let value = json!({ "config": descriptor('a', ""), "layers": [descriptor('b', "")] });
            let told = format!("{manifest}; charset=utf-8");
            let parsed = parse(&value, Some(&told)).unwrap();
            assert!(matches!(parsed, Document::Manifest { media_type, .. } if media_type == manifest));
        }
    }

    #[test]
    fn what_is_neither_is_told() {
        let check = |value: serde_json::Value, expected: &str| {
            let error = parse(&value, Some(OCI_MANIFEST)).unwrap_err().to_string();
            assert!(error.contains(expected), "{value}: {error}");
        };
        check(json!([]), "not the JSON");
        check(json!({}), OCI_MANIFEST);
        check(
            json!({ "mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws" }),
            "v1+prettyjws",
        );
        check(json!({ "config": { "digest": "sha256:../../x", "size": 1 }, "layers": [] }), "../../x");
        check(json!({ "config": { "digest": "sha512:1", "size": 1 }, "layers": [] }), "sha512:1");
        check(json!({ "config": { "digest": "sha256:1", "size": -1 }, "layers": [] }), "not the JSON");
        let many = vec![descriptor('a', ""); LAYERS_MAX + 1];
        check(json!({ "config": descriptor('a', ""), "layers": many }), "layers");
    }

    #[test]
    fn the_platform_chooses() {
        let images: Vec<Descriptor> = [('a', "unknown/unknown"), ('b', "linux/arm64"), ('c', "linux/amd64")]
            .map(|(digit, platform)| {
                serde_json::from_value::<RawDescriptor>(descriptor(digit, platform)).unwrap()
            })
            .into_iter()
            .map(|raw| raw.try_into().unwrap())
            .collect();
        let chosen = |platform: &str| choose(&images, &platform.parse().unwrap());
        assert_eq!(chosen("linux/amd64"), Ok(&images[2]));
        assert_eq!(chosen("linux/riscv64"), Err("linux/arm64, linux/amd64".into()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Document::parse(&body, Some(OCI_MANIFEST));
        }
    }
}
