//! A whole image: index, manifest, configuration and layers, into an OCI layout. Each is checked against the digest
//! that names it; what is there already is not asked for.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use darter_engine::ContentId;
use futures_util::{StreamExt, TryStreamExt};
use http::{HeaderMap, HeaderValue, header};
use serde::Serialize;
use sha2::{Digest, Sha256};
use url::Url;

use super::download::{Done, Download, blocking, download};
use super::layout::{Layout, Named};
use super::manifest::{self, ACCEPT, Descriptor, Document, MANIFEST_BYTES_MAX};
use super::platform::Platform;
use super::progress::Progress;
use super::reference::ImageReference;
use super::session::{SILENCE, Session, Trying};
use crate::commands::wire::whole;
use crate::commands::{CommandError, text};
use crate::objects::Place;

/// Blobs under way at a time.
const BLOBS_AT_ONCE: usize = 4;
/// Tries for a manifest: a registry may ask to come again.
const TRIES_MAX: u32 = 4;
/// Longest configuration that is looked into for its platform.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// What `darter get IMAGE` has fetched.
#[derive(Serialize)]
pub(super) struct Got {
    image: String,
    pub(super) path: String,
    /// Of the manifest.
    pub(super) digest: String,
    pub(super) platform: String,
    layers: usize,
    /// Of configuration and layers.
    pub(super) length_bytes: u64,
    /// Of these, from earlier runs.
    resumed_from_bytes: u64,
}

/// An index or a manifest, byte for byte.
struct Fetched {
    id: ContentId,
    body: Bytes,
    document: Document,
}

pub(super) async fn get(
    session: &Session,
    image: &ImageReference,
    platform: Option<&Platform>,
    path: &Path,
    progress: &Progress,
) -> Result<Got, CommandError> {
    let Chosen { id, body, media_type, config, layers, platform: chosen } =
        choose(session, image, platform).await?;
    let layout = Layout::open(path)?;
    let fetch_config = blob(session, image, &layout, &config, progress);
    let mut done = vec![fetch_config.await?];
    let of_config = platform_in(&layout, &config).await;
    if let (None, Some(asked), Some(is)) = (&chosen, platform, &of_config)
        && !asked.takes(is)
    {
        return Err(CommandError::NotFound(format!("{image} is for {is} only, and not for {asked}")));
    }
    // A layer that is in an image twice is fetched once.
    let distinct: BTreeMap<_, _> =
        layers.iter().filter(|layer| layer.id != config.id).map(|layer| (layer.id, layer)).collect();
    let blobs = futures_util::stream::iter(
        distinct.into_values().map(|layer| blob(session, image, &layout, layer, progress)),
    );
    done.extend(blobs.buffer_unordered(BLOBS_AT_ONCE).try_collect::<Vec<_>>().await?);
    layout.put_blob(id, &body)?;
    let platform = chosen.or(of_config).or(platform.cloned()).unwrap_or_else(Platform::of_this_machine);
    layout.name(&Named {
        media_type: &media_type,
        id,
        length_bytes: body.len(),
        platform: &platform,
        tag: image.tag.as_deref(),
    })?;
    let resumed = |done: &Done| if done.already_there { done.length_bytes } else { done.resumed_from_bytes };
    Ok(Got {
        image: image.to_string(),
        path: path.display().to_string(),
        digest: format!("sha256:{id}"),
        platform: platform.to_string(),
        layers: layers.len(),
        length_bytes: done.iter().map(|done| done.length_bytes).sum(),
        resumed_from_bytes: done.iter().map(resumed).sum(),
    })
}

/// The manifest of an image.
pub(in crate::commands) struct Chosen {
    pub(in crate::commands) id: ContentId,
    /// Byte for byte.
    body: Bytes,
    media_type: String,
    pub(in crate::commands) config: Descriptor,
    pub(in crate::commands) layers: Vec<Descriptor>,
    /// As the index says, where there is one.
    pub(in crate::commands) platform: Option<Platform>,
}

/// The image itself, or of an index the one for `platform`.
pub(in crate::commands) async fn choose(
    session: &Session,
    image: &ImageReference,
    platform: Option<&Platform>,
) -> Result<Chosen, CommandError> {
    let wanted = platform.cloned().unwrap_or_else(Platform::of_this_machine);
    let mut fetched = fetch(session, image, &image.asked_as(), image.digest).await?;
    let mut chosen = None;
    if let Document::Index(images) = &fetched.document {
        let found = manifest::choose(images, &wanted).map_err(|names| {
            let names = text::plain(&names, 1000);
            CommandError::NotFound(format!(
                "{image} is not there for {wanted}, but for {names}: choose one with --platform"
            ))
        })?;
        chosen = found.platform.clone();
        fetched = fetch(session, image, &format!("sha256:{}", found.id), Some(found.id)).await?;
    }
    let Fetched { id, body, document: Document::Manifest { media_type, config, layers } } = fetched else {
        return Err(CommandError::Failed(format!(
            "{image} is an index in an index, which no registry needs"
        )));
    };
    Ok(Chosen { id, body, media_type, config, layers, platform: chosen })
}

/// An index or manifest, checked against the digest if one names it.
async fn fetch(
    session: &Session,
    image: &ImageReference,
    asked_as: &str,
    digest: Option<ContentId>,
) -> Result<Fetched, CommandError> {
    let url = url_of(image, "manifests", asked_as)?;
    let (headers, body) = body_of(session, &url).await?;
    let id = ContentId::from_bytes(Sha256::digest(&body).into());
    if digest.is_some_and(|digest| digest != id) {
        return Err(CommandError::WrongBytes(format!(
            "{url} has other bytes than its digest says (these have sha256:{id}); nothing of it is kept"
        )));
    }
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let document = Document::parse(&body, content_type)
        .map_err(|error| CommandError::Failed(format!("{url} cannot be used: {error}")))?;
    Ok(Fetched { id, body, document })
}

/// A short body, asked for again where that may help.
async fn body_of(session: &Session, url: &Url) -> Result<(HeaderMap, Bytes), CommandError> {
    let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(ACCEPT))]);
    let mut tries = 0;
    loop {
        let tried = async {
            let answer = session.get(url, &headers).await?;
            let read = whole(answer, MANIFEST_BYTES_MAX, SILENCE).await;
            read.map_err(|error| Trying::Again(format!("{url}: {error}"), None))
        };
        match tried.await {
            Ok((_, headers, body)) => return Ok((headers, body)),
            Err(Trying::No(error)) => return Err(error),
            Err(Trying::Again(why, pause)) => {
                tries += 1;
                if tries == TRIES_MAX {
                    return Err(CommandError::Failed(why));
                }
                super::download::pause(tries, pause).await;
            }
        }
    }
}

async fn blob(
    session: &Session,
    image: &ImageReference,
    layout: &Layout,
    blob: &Descriptor,
    progress: &Progress,
) -> Result<Done, CommandError> {
    let wanted = Download {
        place: Place::of_url(blob_url(image, blob.id)?),
        id: Some(blob.id),
        length_bytes: Some(blob.length_bytes),
        path: layout.blob(blob.id),
    };
    download(session, &wanted, progress).await
}

/// What the configuration, which is there, says that the image runs on.
async fn platform_in(layout: &Layout, config: &Descriptor) -> Option<Platform> {
    if config.length_bytes > CONFIG_BYTES_MAX {
        return None;
    }
    let path = layout.blob(config.id);
    let read = blocking(move || std::fs::read(path)).await.ok()?.ok()?;
    manifest::platform_of_config(&read).filter(|platform| !platform.os.is_empty())
}

/// What the configuration says that the image runs on, if it is one that says so.
pub(in crate::commands) async fn platform_in_config(
    session: &Session,
    image: &ImageReference,
    config: &Descriptor,
) -> Result<Option<Platform>, CommandError> {
    if config.length_bytes > CONFIG_BYTES_MAX {
        return Ok(None);
    }
    let (_, body) = body_of(session, &blob_url(image, config.id)?).await?;
    Ok(manifest::platform_of_config(&body).filter(|platform| !platform.os.is_empty()))
}

/// Where a blob of the image is.
pub(in crate::commands) fn blob_url(image: &ImageReference, id: ContentId) -> Result<Url, CommandError> {
    url_of(image, "blobs", &format!("sha256:{id}"))
}

fn url_of(image: &ImageReference, what: &str, reference: &str) -> Result<Url, CommandError> {
    let url = format!("{}/v2/{}/{what}/{reference}", image.registry, image.repository);
    url.parse().map_err(|error| CommandError::Usage(format!("{url}: {error}")))
}
