//! A directory in the form of the OCI image layout (image spec 1.1, image-layout.md), which skopeo, crane and
//! containerd read: `oci-layout`, `index.json`, `blobs/sha256/…`.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use darter_engine::ContentId;
use serde_json::{Value, json};

use super::part::io_failed;
use super::platform::Platform;
use crate::commands::CommandError;

const INDEX_BYTES_MAX: u64 = 4 << 20;
const NAME: &str = "org.opencontainers.image.ref.name";

/// A layout under construction.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    directory: PathBuf,
}

/// The image that a layout's index names.
#[derive(Clone, Debug)]
pub(super) struct Named<'a> {
    pub(super) media_type: &'a str,
    pub(super) id: ContentId,
    pub(super) length_bytes: usize,
    pub(super) platform: &'a Platform,
    pub(super) tag: Option<&'a str>,
}

impl Layout {
    /// Makes the directory, or goes on with one that is a layout.
    pub(super) fn open(directory: &Path) -> Result<Self, CommandError> {
        let blobs = directory.join("blobs/sha256");
        let failed = |path: &Path, error| io_failed("write", path, &error);
        if directory.exists() && !directory.is_dir() {
            let message = format!("{} is a file: name a directory with -o", directory.display());
            return Err(CommandError::Failed(message));
        }
        fs::create_dir_all(&blobs).map_err(|error| failed(&blobs, error))?;
        let layout = Self { directory: directory.to_owned() };
        layout.put(&directory.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(layout)
    }

    /// Where a blob is, or will be.
    pub(super) fn blob(&self, id: ContentId) -> PathBuf {
        self.directory.join("blobs/sha256").join(id.to_string())
    }

    /// Writes a blob that is in memory.
    pub(super) fn put_blob(&self, id: ContentId, bytes: &[u8]) -> Result<(), CommandError> {
        self.put(&self.blob(id), bytes)
    }

    /// Names the image, all of whose blobs are there. Other images of the layout stay.
    pub(super) fn name(&self, image: &Named<'_>) -> Result<(), CommandError> {
        let path = self.directory.join("index.json");
        let mut entry = json!({
            "mediaType": image.media_type,
            "digest": format!("sha256:{}", image.id),
            "size": image.length_bytes,
            "platform": { "os": image.platform.os, "architecture": image.platform.architecture },
        });
        if let Some(variant) = &image.platform.variant {
            entry["platform"]["variant"] = json!(variant);
        }
        if let Some(tag) = image.tag {
            entry["annotations"] = json!({ NAME: tag });
        }
        let mut manifests = self.others(&path, &entry)?;
        manifests.push(entry);
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        });
        self.put(&path, index.to_string().as_bytes())
    }

    /// What the index names beside this entry.
    fn others(&self, path: &Path, entry: &Value) -> Result<Vec<Value>, CommandError> {
        let mut text = Vec::new();
        match fs::File::open(path) {
            Ok(file) => file.take(INDEX_BYTES_MAX).read_to_end(&mut text),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => Err(error),
        }
        .map_err(|error| io_failed("read", path, &error))?;
        let unusable = || {
            CommandError::Failed(format!(
                "{} is no index of an OCI layout: name another directory with -o",
                path.display()
            ))
        };
        let index: Value = serde_json::from_slice(&text).map_err(|_| unusable())?;
        let mut manifests = index["manifests"].as_array().ok_or_else(unusable)?.clone();
        let name = |entry: &Value| entry["annotations"][NAME].clone();
        manifests.retain(|known| {
            let same_name = !name(entry).is_null()
                && name(known) == name(entry)
                && known["platform"] == entry["platform"];
            known["digest"] != entry["digest"] && !same_name
        });
        Ok(manifests)
    }

    /// Whole or not at all.
    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), CommandError> {
        let failed = |error: std::io::Error| io_failed("write", path, &error);
        let parent = path.parent().unwrap_or(&self.directory);
        let mut file = tempfile::Builder::new()
            .prefix(".darter-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(parent)
            .map_err(failed)?;
        std::io::Write::write_all(&mut file, bytes).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named<'a>(digit: char, platform: &'a Platform, tag: Option<&'a str>) -> Named<'a> {
        let id = digit.to_string().repeat(64).parse().unwrap();
        Named { media_type: "m", id, length_bytes: 1, platform, tag }
    }

    #[test]
    fn an_index_keeps_what_others_have_put_there() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::open(directory.path()).unwrap();
        let (amd64, arm64) = ("linux/amd64".parse().unwrap(), "linux/arm64".parse().unwrap());
        layout.name(&named('a', &amd64, Some("1"))).unwrap();
        layout.name(&named('b', &arm64, Some("1"))).unwrap();
        layout.name(&named('c', &amd64, None)).unwrap();
        // The tag has moved; the same image again.
        layout.name(&named('d', &amd64, Some("1"))).unwrap();
        layout.name(&named('c', &amd64, None)).unwrap();
        let index: Value =
            serde_json::from_slice(&fs::read(directory.path().join("index.json")).unwrap()).unwrap();
        let digests = index["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["digest"].as_str().unwrap().chars().nth(7).unwrap());
        assert_eq!(digests.collect::<String>(), "bdc");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3, "oci-layout, index.json and blobs");
    }

    #[test]
    fn a_strangers_file_is_not_written_over() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("index.json"), "hello").unwrap();
        let platform = "linux/amd64".parse().unwrap();
        let refused = Layout::open(directory.path()).unwrap().name(&named('a', &platform, None)).unwrap_err();
        assert!(refused.to_string().contains("no index of an OCI layout"), "{refused}");
        assert_eq!(fs::read(directory.path().join("index.json")).unwrap(), b"hello");
    }
}
