//! What a person names to be fetched: a URL, or an image. Pure.

use darter_engine::ContentId;
use url::Url;

use super::reference::ImageReference;
use crate::commands::{CommandError, front_request, text};
use crate::config::Registry;
use crate::objects::Address;

/// What is to be fetched.
#[derive(Debug)]
pub(in crate::commands) enum Named {
    /// Anything else than an image.
    Url {
        /// http or https.
        url: Url,
        /// Of a path below `/v2/`: whose it is.
        registry: Option<Registry>,
        /// The digest that it ends in.
        id: Option<ContentId>,
    },
    /// An image.
    Image(ImageReference),
    /// What lies in a storage service, or all of a directory.
    Objects(Address),
}

impl Named {
    /// Reads it; `has_platform` and `plain_http` are flags that only mean something for images, `all_below` one that means
    /// nothing for them.
    ///
    /// # Errors
    /// It names nothing that can be fetched.
    pub(in crate::commands) fn parse(
        what: &str,
        has_platform: bool,
        plain_http: bool,
        all_below: bool,
    ) -> Result<Self, CommandError> {
        if let Some(address) = Address::parse(what, all_below)? {
            if has_platform || plain_http {
                let message = format!("{address}: --platform and --plain-http are for images");
                return Err(CommandError::Usage(message));
            }
            return Ok(Self::Objects(address));
        }
        if all_below {
            let what = text::plain(what, 200);
            let message = format!(
                "{what:?}: -r is for directories, such as s3://BUCKET/DIRECTORY/ or https://HOST/DIRECTORY/"
            );
            return Err(CommandError::Usage(message));
        }
        if !what.contains("://") {
            let image = ImageReference::parse(what, plain_http);
            return image.map(Self::Image).map_err(|error| CommandError::Usage(error.to_string()));
        }
        let wrong = |why: &str| CommandError::Usage(format!("{:?}: {why}", text::plain(what, 200)));
        if has_platform || plain_http {
            return Err(wrong("--platform and --plain-http are for images, and this is a URL"));
        }
        let mut url = Url::parse(what).map_err(|error| wrong(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(wrong(
                "expected an http or https URL, an image, or an object such as s3://BUCKET/NAME",
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong(
                "a URL with a user name or password shows them to everybody: use `docker login`",
            ));
        }
        url.set_fragment(None);
        let id = digest_in(url.path());
        Ok(Self::Url { registry: front_request::registry_of(&url), id, url })
    }
}

/// The digest that the last segment of a path is: of a blob, or of a manifest.
fn digest_in(path: &str) -> Option<ContentId> {
    path.rsplit('/').next()?.strip_prefix("sha256:")?.parse().ok()
}
