//! A repository of Hugging Face's hub: its own API lists it, and its files are plain URLs.
//!
//! opendal's service for it would bring a client of its own for chunked storage; what is needed is one list.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use darter_engine::ContentId;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use http::{HeaderMap, HeaderValue, header};
use serde::Deserialize;
use url::Url;

use super::address::{HubAddress, HubKind};
use super::web::{self, Page};
use super::{Listed, ObjectError, Place};

const ENDPOINT: &str = "https://huggingface.co";
/// A page of a list has 1000 files.
const PAGE_BYTES_MAX: usize = 16 << 20;
const SILENCE: Duration = Duration::from_secs(30);
const TOKEN_BYTES_MAX: u64 = 4096;

/// Some of a repository's files.
#[derive(Debug)]
pub(crate) struct Hub {
    endpoint: Url,
    address: HubAddress,
    client: reqwest::Client,
    authorization: Option<HeaderValue>,
}

impl Hub {
    pub(super) fn open(address: &HubAddress) -> Result<Self, ObjectError> {
        let named = env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty());
        let endpoint = named.as_deref().unwrap_or(ENDPOINT);
        let url = Url::parse(endpoint).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
        });
        let endpoint =
            url.ok_or_else(|| ObjectError::Usage("HF_ENDPOINT: expected http(s)://HOST".into()))?;
        let token = token().map(|token| HeaderValue::try_from(format!("Bearer {token}")));
        let mut authorization =
            token.transpose().map_err(|_| ObjectError::Failed("HF_TOKEN has odd characters".into()))?;
        if let Some(value) = &mut authorization {
            value.set_sensitive(true);
        }
        Ok(Self { endpoint, address: address.clone(), client: web::client(SILENCE)?, authorization })
    }

    pub(super) fn place(&self, path: &str) -> Result<Place, ObjectError> {
        let HubAddress { kind, repository, revision, .. } = &self.address;
        let kind = match kind {
            HubKind::Model => None,
            HubKind::Dataset => Some("datasets"),
            HubKind::Space => Some("spaces"),
        };
        let parts =
            kind.into_iter().chain(repository.split('/')).chain(["resolve", revision]).chain(path.split('/'));
        let shown = HubAddress { path: path.to_owned(), ..self.address.clone() }.to_string();
        Ok(Place::cached(below(&self.endpoint, parts)?, shown).authorized(self.authorization.as_ref()))
    }

    pub(super) fn list(&self) -> BoxStream<'_, Result<Listed, ObjectError>> {
        let pages = stream::try_unfold(Some(self.first_page()), move |next| async move {
            let Some(url) = next else { return Ok(None) };
            let mut headers = HeaderMap::new();
            if let Some(authorization) = &self.authorization {
                headers.insert(header::AUTHORIZATION, authorization.clone());
            }
            let page = web::page(&self.client, &url?, headers, PAGE_BYTES_MAX).await?;
            let next = next_page(&page).map(Ok);
            Ok(Some((stream::iter(self.listed(&page)?).map(Ok), next)))
        });
        pages.try_flatten().boxed()
    }

    fn first_page(&self) -> Result<Url, ObjectError> {
        let HubAddress { kind, repository, revision, path } = &self.address;
        let kind = match kind {
            HubKind::Model => "models",
            HubKind::Dataset => "datasets",
            HubKind::Space => "spaces",
        };
        let parts = ["api", kind].into_iter().chain(repository.split('/')).chain(["tree", revision]);
        let directory = path.trim_end_matches('/');
        let below_directory = directory.split('/').filter(|part| !part.is_empty());
        let mut url = below(&self.endpoint, parts.chain(below_directory))?;
        url.set_query(Some("recursive=true"));
        Ok(url)
    }

    fn listed(&self, page: &Page) -> Result<Vec<Listed>, ObjectError> {
        let failed = |why: &str| ObjectError::Failed(format!("{} cannot be listed: {why}", self.address));
        let files: Vec<Entry> =
            serde_json::from_slice(&page.body).map_err(|error| failed(&error.to_string()))?;
        let files = files.into_iter().filter(|entry| entry.kind == "file");
        files
            .map(|Entry { path, size, lfs, .. }| {
                let name = path.strip_prefix(&self.address.path).map(str::to_owned);
                let name = name.ok_or_else(|| failed("the hub lists what is not below it"))?;
                let id = lfs.and_then(|lfs| lfs.oid.parse::<ContentId>().ok());
                Ok(Listed { key: path, name, length_bytes: size, id })
            })
            .collect()
    }
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    size: Option<u64>,
    /// Of large files.
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    /// The SHA-256.
    oid: String,
}

/// A URL with these parts of a path, each encoded as a whole.
fn below<'a>(endpoint: &Url, parts: impl Iterator<Item = &'a str>) -> Result<Url, ObjectError> {
    let mut url = endpoint.clone();
    let mut path = url
        .path_segments_mut()
        .map_err(|()| ObjectError::Usage("HF_ENDPOINT: expected http(s)://HOST".into()))?;
    path.pop_if_empty().extend(parts);
    drop(path);
    Ok(url)
}

/// Of the same server only: the token goes there.
fn next_page(page: &Page) -> Option<Url> {
    let links = page.headers.get_all(header::LINK).iter().filter_map(|value| value.to_str().ok());
    links.flat_map(|value| value.split(',')).find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next =
            parameters.split(';').any(|parameter| matches!(parameter.trim(), "rel=\"next\"" | "rel=next"));
        let url = page.url.join(target).ok().filter(|_| is_next)?;
        (url.origin() == page.url.origin()).then_some(url)
    })
}

/// As the hub's own tools find it.
fn token() -> Option<String> {
    let given = |name: &str| {
        env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    if let Some(token) = given("HF_TOKEN") {
        return Some(token);
    }
    let in_home = |home: PathBuf| home.join("token");
    let path = given("HF_TOKEN_PATH")
        .map(PathBuf::from)
        .or_else(|| given("HF_HOME").map(PathBuf::from).map(in_home))
        .or_else(|| Some(in_home(PathBuf::from(env::var_os("HOME")?).join(".cache/huggingface"))))?;
    if std::fs::metadata(&path).ok()?.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Address;

    fn hub(address: &str, all_below: bool) -> Hub {
        let Ok(Some(Address::Hub(address))) = Address::parse(address, all_below) else { panic!("{address}") };
        let endpoint = ENDPOINT.parse().unwrap();
        let authorization = Some(HeaderValue::from_static("Bearer hf_secret"));
        Hub { endpoint, address, client: web::client(SILENCE).unwrap(), authorization }
    }

    #[test]
    fn files_are_plain_urls_with_the_token_beside_them() {
        let check = |address: &str, expected: &str| {
            let hub = hub(address, false);
            let place = hub.place(&hub.address.path).unwrap();
            assert_eq!(place.url().as_str(), expected);
            assert_eq!(place.headers()[header::AUTHORIZATION], "Bearer hf_secret");
            assert!(!format!("{place:?}").contains("secret"));
        };
        check("hf://o/n/a b.bin", "https://huggingface.co/o/n/resolve/main/a%20b.bin");
        check("hf://datasets/o/n@v1/d/x", "https://huggingface.co/datasets/o/n/resolve/v1/d/x");
        check("hf://o/n@refs/pr/1/x", "https://huggingface.co/o/n/resolve/refs%2Fpr%2F1/x");
    }

    #[test]
    fn a_list_tells_lengths_and_digests() {
        let hub = hub("hf://o/n/d", true);
        assert_eq!(
            hub.first_page().unwrap().as_str(),
            "https://huggingface.co/api/models/o/n/tree/main/d?recursive=true"
        );
        let digest = "e85afb9ae5eecd08f395b9777442e2642fb94dc49bd2d92f7c0a2763cb419f40";
        let body = format!(
            r#"[{{"type":"directory","path":"d/e","oid":"1","size":0}},
                {{"type":"file","path":"d/e/x","oid":"2","size":7}},
                {{"type":"file","path":"d/y","oid":"3","size":9,"lfs":{{"oid":"{digest}","size":9,"pointerSize":1}}}}]"#
        );
        let page = |body: &str| Page {
            url: ENDPOINT.parse().unwrap(),
            headers: HeaderMap::new(),
            body: body.to_owned().into(),
        };
        let listed = hub.listed(&page(&body)).unwrap();
        let seen: Vec<_> =
            listed.iter().map(|file| (file.name.as_str(), file.length_bytes, file.id.is_some())).collect();
        assert_eq!(seen, [("e/x", Some(7), false), ("y", Some(9), true)]);
        assert!(hub.listed(&page(r#"[{"type":"file","path":"other/x"}]"#)).is_err());
        assert!(hub.listed(&page("{}")).is_err());
    }

    #[test]
    fn a_list_goes_on_at_the_same_server_only() {
        let next = |link: &'static str| {
            let headers = HeaderMap::from_iter([(header::LINK, HeaderValue::from_static(link))]);
            let page = Page { url: ENDPOINT.parse().unwrap(), headers, body: Default::default() };
            next_page(&page).map(String::from)
        };
        assert_eq!(
            next("<https://huggingface.co/x?cursor=1>; rel=\"next\""),
            Some("https://huggingface.co/x?cursor=1".into())
        );
        assert_eq!(next("</x>; rel=next"), Some("https://huggingface.co/x".into()));
        assert_eq!(next("<https://evil.example/x>; rel=\"next\""), None);
        assert_eq!(next("</x>; rel=\"prev\""), None);
        assert_eq!(next("nonsense"), None);
    }
}
