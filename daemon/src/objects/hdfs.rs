//! Files of HDFS, by WebHDFS: the daemon reads the call that opens a file, and knows how ranges of it are asked for.
//!
//! Readers are told by a name that anybody may give (HADOOP_USER_NAME), as HDFS has it without Kerberos, which is not spoken.

use std::collections::VecDeque;
use std::env;
use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use http::HeaderMap;
use serde::Deserialize;
use url::Url;

use super::address::HdfsAddress;
use super::web::{self, Page};
use super::{Listed, ObjectError, Place};

const SILENCE: Duration = Duration::from_secs(30);
const PAGE_BYTES_MAX: usize = 64 << 20;
/// Directories that are found and not looked at yet.
const DIRECTORIES_MAX: usize = 1 << 20;
/// The reader's name, of a call's parameters.
const USER: &str = "user.name";

/// Some of the files.
#[derive(Debug)]
pub(crate) struct Hdfs {
    address: HdfsAddress,
    client: reqwest::Client,
    user: Option<String>,
}

impl Hdfs {
    pub(super) fn open(address: &HdfsAddress) -> Result<Self, ObjectError> {
        let user = env::var("HADOOP_USER_NAME").ok().filter(|user| !user.is_empty());
        Ok(Self { address: address.clone(), client: web::client(SILENCE)?, user })
    }

    pub(super) fn place(&self, path: &str) -> Result<Place, ObjectError> {
        let shown = HdfsAddress { path: path.to_owned(), ..self.address.clone() }.to_string();
        Place::with_credentials(self.call(path, "OPEN")?, shown, &[USER])
    }

    pub(super) fn list(&self) -> BoxStream<'_, Result<Listed, ObjectError>> {
        let top = self.address.path.clone();
        let pages = stream::try_unfold(VecDeque::from([top]), move |mut queue| async move {
            let Some(directory) = queue.pop_front() else { return Ok(None) };
            let url = self.call(directory.trim_end_matches('/'), "LISTSTATUS")?;
            let page = web::page(&self.client, &url, HeaderMap::new(), PAGE_BYTES_MAX).await?;
            let files = self.listed(&directory, &page, &mut queue)?;
            Ok::<_, ObjectError>(Some((stream::iter(files).map(Ok), queue)))
        });
        pages.try_flatten().boxed()
    }

    /// The files of a directory, whose path ends with `/` or is empty; directories in it are queued.
    fn listed(
        &self,
        directory: &str,
        page: &Page,
        queue: &mut VecDeque<String>,
    ) -> Result<Vec<Listed>, ObjectError> {
        let failed = |why: &str| ObjectError::Failed(format!("{} cannot be listed: {why}", self.address));
        let Answer { statuses } =
            serde_json::from_slice(&page.body).map_err(|error| failed(&error.to_string()))?;
        let mut files = Vec::new();
        for Status { path_suffix, kind, length } in statuses.list {
            let path = format!("{directory}{path_suffix}");
            match kind.as_str() {
                // Of a file, the list of it is itself, without a name.
                _ if path_suffix.is_empty() => return Err(failed("it is a file: leave -r out")),
                "FILE" => {
                    let name = path.strip_prefix(&self.address.path).unwrap_or(&path).to_owned();
                    files.push(Listed { key: path, name, length_bytes: Some(length), id: None });
                }
                "DIRECTORY" if path_suffix.contains('/') || matches!(path_suffix.as_str(), "." | "..") => {
                    return Err(failed("a directory in it has a name that is none"));
                }
                "DIRECTORY" if queue.len() >= DIRECTORIES_MAX => {
                    return Err(failed("there are too many directories"));
                }
                "DIRECTORY" => queue.push_back(format!("{path}/")),
                // A link.
                _ => {}
            }
        }
        Ok(files)
    }

    fn call(&self, path: &str, operation: &str) -> Result<Url, ObjectError> {
        let mut url = self.address.server.clone();
        let mut parts = url
            .path_segments_mut()
            .map_err(|()| ObjectError::Usage(format!("{}: no server", self.address)))?;
        parts.clear().extend(["webhdfs", "v1"]).extend(path.split('/').filter(|part| !part.is_empty()));
        if path.is_empty() {
            parts.push("");
        }
        drop(parts);
        url.query_pairs_mut().append_pair("op", operation);
        if let Some(user) = &self.user {
            url.query_pairs_mut().append_pair(USER, user);
        }
        Ok(url)
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "FileStatuses")]
    statuses: Statuses,
}

#[derive(Deserialize)]
struct Statuses {
    #[serde(rename = "FileStatus")]
    list: Vec<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    path_suffix: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    length: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Address;

    fn hdfs(address: &str) -> Hdfs {
        let Ok(Some(Address::Hdfs(address))) = Address::parse(address, true) else { panic!("{address}") };
        Hdfs { address, client: web::client(SILENCE).unwrap(), user: Some("me".into()) }
    }

    #[test]
    fn a_file_is_a_call_without_its_readers_name() {
        let place = hdfs("hdfs://h/d").place("d/a b").unwrap();
        assert_eq!(place.url().as_str(), "http://h:9870/webhdfs/v1/d/a%20b?op=OPEN&user.name=me");
        assert_eq!(place.name(), "http://h:9870/webhdfs/v1/d/a%20b?op=OPEN");
        assert_eq!(place.headers()["x-dragonfly-filtered-query-params"], "user.name");
        assert_eq!(place.shown(), "hdfs://h:9870/d/a b");
        assert_eq!(
            hdfs("hdfs://h:81").call("", "LISTSTATUS").unwrap().as_str(),
            "http://h:81/webhdfs/v1/?op=LISTSTATUS&user.name=me"
        );
    }

    #[test]
    fn files_are_told_and_directories_queued() {
        let listed = |statuses: &str| {
            let body = format!(r#"{{"FileStatuses":{{"FileStatus":[{statuses}]}}}}"#).into();
            let page = Page { url: "http://h/".parse().unwrap(), headers: HeaderMap::new(), body };
            let mut queue = VecDeque::new();
            hdfs("hdfs://h/d").listed("d/e/", &page, &mut queue).map(|files| (files, queue))
        };
        let (files, queue) = listed(
            r#"{"pathSuffix":"x","type":"FILE","length":7},{"pathSuffix":"f","type":"DIRECTORY","length":0},
               {"pathSuffix":"l","type":"SYMLINK","length":0}"#,
        )
        .unwrap();
        let expected = Listed { key: "d/e/x".into(), name: "e/x".into(), length_bytes: Some(7), id: None };
        assert_eq!(
            (files, queue.into_iter().collect::<Vec<_>>()),
            (vec![expected], vec!["d/e/f/".to_owned()])
        );
        assert!(listed(r#"{"pathSuffix":"","type":"FILE","length":7}"#).is_err());
        assert!(listed(r#"{"pathSuffix":"..","type":"DIRECTORY"}"#).is_err());
    }
}
