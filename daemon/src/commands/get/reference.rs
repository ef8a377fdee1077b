//! `[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]`: how people name images (the distribution project's `reference` package).
//! Pure.

use std::fmt;

use darter_engine::ContentId;

use crate::config::Registry;

const REPOSITORY_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// One image at one registry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageReference {
    /// Docker Hub where none is named.
    pub registry: Registry,
    /// With `library/` where Docker Hub has it.
    pub repository: String,
    /// `None` only beside a digest.
    pub tag: Option<String>,
    /// Which of the tag's images, if that was said.
    pub digest: Option<ContentId>,
}

/// Why a text names no image.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{text:?} names no image ({why}): expected [HOST[:PORT]/]REPOSITORY[:TAG][@sha256:…], such as alpine or ghcr.io/org/app:1.2"
)]
pub struct NoImage {
    text: String,
    why: &'static str,
}

impl ImageReference {
    /// Reads a reference; what has no host is Docker Hub's. `plain_http` is how the registry is spoken to.
    ///
    /// # Errors
    /// It names no image, and why.
    pub fn parse(text: &str, plain_http: bool) -> Result<Self, NoImage> {
        let wrong = |why| NoImage { text: text.chars().take(200).collect(), why };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let digits = digest.strip_prefix("sha256:").and_then(|digits| digits.parse().ok());
                (
                    name,
                    Some(digits.ok_or_else(|| {
                        wrong("the digest is not sha256: with 64 lower-case hexadecimal digits")
                    })?),
                )
            }
            None => (text, None),
        };
        // A colon before the last slash belongs to the host's port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if !tag.is_none_or(is_tag) {
            return Err(wrong(
                "the tag has other characters than letters, digits, _, . and -, or is too long",
            ));
        }
        let (host, path) = match name.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
            _ => ("docker.io", name),
        };
        let hub = matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
        let repository = if hub && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
        if repository.len() > REPOSITORY_BYTES_MAX || !repository.split('/').all(is_component) {
            return Err(wrong(
                "the repository has other characters than lower-case letters, digits, _, . and -",
            ));
        }
        let scheme = if plain_http { "http" } else { "https" };
        let registry = format!("{scheme}://{host}").parse().map_err(|_| wrong("its host is none"))?;
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Self { registry, repository, tag, digest })
    }

    /// By which a registry finds the manifest: the digest, or else the tag.
    pub fn asked_as(&self) -> String {
        match (self.digest, &self.tag) {
            (Some(digest), _) => format!("sha256:{digest}"),
            (None, tag) => tag.clone().unwrap_or_else(|| "latest".into()),
        }
    }

    /// A name for a directory: `alpine-3.20`, `app-sha256-e85afb9ae5ee`.
    pub fn directory_name(&self) -> String {
        let last = self.repository.rsplit('/').next().unwrap_or_default();
        match (&self.tag, self.digest) {
            (Some(tag), _) => format!("{last}-{tag}"),
            (None, Some(digest)) => format!("{last}-sha256-{}", &digest.to_string()[..12]),
            (None, None) => last.to_owned(),
        }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.registry.authority();
        f.write_str(&host)?;
        // A bare word would be read as the beginning of a repository.
        if !host.contains(['.', ':']) && host != "localhost" {
            write!(f, ":{}", self.registry.port())?;
        }
        write!(f, "/{}", self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = self.digest {
            write!(f, "@sha256:{digest}")?;
        }
        Ok(())
    }
}

fn is_tag(tag: &str) -> bool {
    let first = tag.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let right = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    first && tag.len() <= TAG_BYTES_MAX && tag.bytes().all(right)
}

fn is_component(component: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = [component.bytes().next(), component.bytes().next_back()];
    ends.into_iter().all(|byte| byte.is_some_and(plain))
        && component.bytes().all(|byte| plain(byte) || matches!(byte, b'_' | b'.' | b'-'))
        && !component.contains("..")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "@sha256:e85afb9ae5eecd08f395b9777442e2642fb94dc49bd2d92f7c0a2763cb419f40";

    fn check(text: &str, registry: &str, repository: &str, asked_as: &str, directory: &str) {
        let text = text.replace("@D", DIGEST);
        let image = ImageReference::parse(&text, false).unwrap();
        assert_eq!(image.registry.to_string(), registry, "{text}");
        assert_eq!(image.repository, repository, "{text}");
        assert_eq!(format!("@{}", image.asked_as()), format!("@{asked_as}").replace("@@D", DIGEST), "{text}");
        assert_eq!(image.directory_name(), directory, "{text}");
    }

    #[test]
    fn what_people_write() {
        let hub = "https://registry-1.docker.io";
        check("alpine", hub, "library/alpine", "latest", "alpine-latest");
        check("alpine:3.20", hub, "library/alpine", "3.20", "alpine-3.20");
        check("docker.io/alpine", hub, "library/alpine", "latest", "alpine-latest");
        check("org/app", hub, "org/app", "latest", "app-latest");
        check("ghcr.io/org/app:1", "https://ghcr.io", "org/app", "1", "app-1");
        check("localhost/app", "https://localhost", "app", "latest", "app-latest");
        check("localhost:5000/a/b/c:x", "https://localhost:5000", "a/b/c", "x", "c-x");
        check("127.0.0.1:5000/app", "https://127.0.0.1:5000", "app", "latest", "app-latest");
        check("[::1]:5000/app", "https://[::1]:5000", "app", "latest", "app-latest");
        check("alpine@D", hub, "library/alpine", "@D", "alpine-sha256-e85afb9ae5ee");
        check("ghcr.io/a/b:1@D", "https://ghcr.io", "a/b", "@D", "b-1");
    }

    #[test]
    fn what_names_no_image() {
        let long = "a".repeat(256);
        for text in [
            "",
            ":",
            "/",
            "@",
            "Alpine",
            "a b",
            "a//b",
            "a/",
            "/a",
            "a:",
            "a:b:c",
            "a:-x",
            "a@sha256:1",
            "../a",
            "a/../b",
            "ghcr.io/",
            "-a",
            "ghcr.io:99999/a",
            &long,
        ] {
            assert!(ImageReference::parse(text, false).is_err(), "{text:?}");
        }
    }

    #[test]
    fn plain_http_is_the_registrys_scheme() {
        let image = ImageReference::parse("localhost:5000/app", true).unwrap();
        assert_eq!(image.registry.to_string(), "http://localhost:5000");
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(text in r"([a-z0-9.:]{0,9}/)?[a-z0-9._/-]{0,12}(:[a-zA-Z0-9._-]{0,6})?|\PC{0,20}") {
            if let Ok(image) = ImageReference::parse(&text, false) {
                prop_assert!(!image.directory_name().contains('/'));
                prop_assert!(!image.directory_name().starts_with('.'));
                prop_assert_eq!(ImageReference::parse(&image.to_string(), false), Ok(image));
            }
        }
    }
}
