//! Directories of web servers, as their pages list them.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use url::Url;

use super::index::{self, Entry};
use super::options::StorageArgs;
use super::{Listed, ObjectError, Place};
use crate::commands::text;
use crate::origin::innermost;

const SILENCE: Duration = Duration::from_secs(30);
const PAGE_BYTES_MAX: usize = 16 << 20;
/// Directories that are found and not looked at yet.
const DIRECTORIES_MAX: usize = 100_000;
/// Directories in directories. A server that makes them up as it goes has no end.
const DEPTH_MAX: usize = 64;
const SHOWN_CHARS_MAX: usize = 300;

/// A directory of a web server.
#[derive(Debug)]
pub(crate) struct Web {
    directory: Url,
    client: reqwest::Client,
    authorization: Option<HeaderValue>,
}

impl Web {
    pub(super) fn open(directory: &Url, options: &StorageArgs) -> Result<Self, ObjectError> {
        Ok(Self {
            directory: directory.clone(),
            client: client(SILENCE)?,
            authorization: options.authorization()?,
        })
    }

    pub(super) fn place(&self, url: &str) -> Result<Place, ObjectError> {
        let url: Url = url.parse().map_err(|error| ObjectError::Failed(format!("{url}: {error}")))?;
        let shown = url.to_string();
        Ok(Place::cached(url, shown).authorized(self.authorization.as_ref()))
    }

    pub(super) fn list(&self) -> BoxStream<'_, Result<Listed, ObjectError>> {
        let top = Directory { url: self.directory.clone(), name: String::new(), depth: 0 };
        let pages = stream::try_unfold(VecDeque::from([top]), move |mut queue| async move {
            let Some(directory) = queue.pop_front() else { return Ok(None) };
            let files = self.look(&directory, &mut queue).await?;
            Ok::<_, ObjectError>(Some((stream::iter(files).map(Ok), queue)))
        });
        pages.try_flatten().boxed()
    }

    /// The files of a directory; directories in it are queued.
    async fn look(
        &self,
        directory: &Directory,
        queue: &mut VecDeque<Directory>,
    ) -> Result<Vec<Listed>, ObjectError> {
        let Directory { url, name, depth } = directory;
        let failed = |why: &str| ObjectError::Failed(format!("{url} cannot be listed: {why}"));
        let mut headers = HeaderMap::new();
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        let page = page(&self.client, url, headers, PAGE_BYTES_MAX).await?;
        let kind =
            page.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !kind.to_ascii_lowercase().starts_with("text/html") {
            return Err(failed("the answer is no page of a directory (text/html)"));
        }
        let entries = index::entries(url, &String::from_utf8_lossy(&page.body));
        let mut files = Vec::new();
        for entry in entries.ok_or_else(|| failed("the page has too many links"))? {
            let Entry { url: below, name: last, is_directory } = entry;
            let name = format!("{name}{last}");
            if !is_directory {
                files.push(Listed { key: below.into(), name, length_bytes: None, id: None });
                continue;
            }
            if *depth >= DEPTH_MAX {
                return Err(failed("directories lie in directories without an end"));
            }
            if queue.len() >= DIRECTORIES_MAX {
                return Err(failed("there are too many directories"));
            }
            queue.push_back(Directory { url: below, name: format!("{name}/"), depth: depth + 1 });
        }
        Ok(files)
    }
}

/// One that is to be looked at.
#[derive(Debug)]
struct Directory {
    url: Url,
    /// Below the top, with `/` at its end.
    name: String,
    depth: usize,
}

/// A short answer.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// For lists. It follows no redirect: what it shows is for that server.
pub(super) fn client(silence: Duration) -> Result<reqwest::Client, ObjectError> {
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let builder = builder.connect_timeout(silence).read_timeout(silence);
    let builder = builder.user_agent(concat!("darter/", env!("CARGO_PKG_VERSION")));
    builder
        .build()
        .map_err(|error| ObjectError::Failed(format!("no client can be made: {}", innermost(&error))))
}

/// Asks for a page.
pub(super) async fn page(
    client: &reqwest::Client,
    url: &Url,
    headers: HeaderMap,
    bytes_max: usize,
) -> Result<Page, ObjectError> {
    let failed = |why: String| ObjectError::Failed(format!("{url} cannot be listed: {why}"));
    let answer = client.get(url.clone()).headers(headers).send().await;
    let answer = answer.map_err(|error| failed(innermost(&error)))?;
    let status = answer.status();
    if status == StatusCode::NOT_FOUND {
        return Err(ObjectError::NotFound(format!("{url} is not there")));
    }
    if status.is_redirection() {
        let to =
            answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).unwrap_or("nowhere");
        return Err(failed(format!("it redirects to {}: name that place", text::plain(to, SHOWN_CHARS_MAX))));
    }
    if status != StatusCode::OK {
        return Err(failed(format!("the answer is {status}")));
    }
    let headers = answer.headers().clone();
    let mut body = BytesMut::new();
    let mut parts = answer.bytes_stream();
    while let Some(part) = parts.next().await {
        let part = part.map_err(|error| failed(innermost(&error)))?;
        if body.len() + part.len() > bytes_max {
            return Err(failed(format!("the page is longer than {bytes_max} bytes")));
        }
        body.extend_from_slice(&part);
    }
    Ok(Page { url: url.clone(), headers, body: body.freeze() })
}
