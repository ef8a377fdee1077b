//! Files of HDFS by its web interface, WebHDFS, which knows neither `Range` nor `ETag`: a range is two parameters, and what a
//! file is, another call tells. So ranges are asked for as it wants them, and its answers read as if it had the usual ones.
//!
//! Two requests for a range: what the file is now, then its bytes, from a node of data to which it redirects.

use std::ops::Range;

use futures_util::StreamExt;
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use url::Url;

use super::answer::Part;
use super::{Answered, Ask, BlobAnswer, Origin, OriginError, Place, Target, Verdict, innermost};

const ROOT: &str = "/webhdfs/v1/";
/// Longest status of a file.
const STATUS_BYTES_MAX: usize = 64 << 10;

/// A file, as a URL names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct HdfsFile(Url);

/// What a file is now.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Status {
    length_bytes: u64,
    validator: String,
}

impl HdfsFile {
    /// Whether a URL is a call that opens a file, all of it.
    pub(super) fn of(url: &Url) -> Option<Self> {
        if !url.path().starts_with(ROOT) {
            return None;
        }
        let is = |name: &str| url.query_pairs().any(|(known, _)| known.eq_ignore_ascii_case(name));
        let opens = url
            .query_pairs()
            .any(|(name, value)| name.eq_ignore_ascii_case("op") && value.eq_ignore_ascii_case("OPEN"));
        (opens && !is("offset") && !is("length")).then(|| Self(url.clone()))
    }

    /// The call that tells what it is.
    fn status(&self) -> Url {
        let mut url = self.0.clone();
        let others: Vec<_> = self
            .0
            .query_pairs()
            .filter(|(name, _)| !name.eq_ignore_ascii_case("op"))
            .map(|(n, v)| (n.into_owned(), v.into_owned()))
            .collect();
        url.query_pairs_mut().clear().append_pair("op", "GETFILESTATUS").extend_pairs(others);
        url
    }

    /// The call that gives these of its bytes.
    fn part(&self, bytes: &Range<u64>) -> Url {
        let mut url = self.0.clone();
        let (offset, length) = (bytes.start.to_string(), (bytes.end - bytes.start).to_string());
        url.query_pairs_mut().append_pair("offset", &offset).append_pair("length", &length);
        url
    }
}

impl Status {
    /// Of the answer; `None` if it is none of a file.
    fn read(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            file_status: FileStatus,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct FileStatus {
            #[serde(rename = "type")]
            kind: String,
            length: u64,
            modification_time: u64,
            #[serde(default)]
            file_id: u64,
        }
        let Answer { file_status } = serde_json::from_slice(body).ok()?;
        let FileStatus { kind, length, modification_time, file_id } = file_status;
        // What is written on keeps its ID, and is longer; what takes its place has another one.
        let validator = format!("\"hdfs-{file_id}-{modification_time}-{length}\"");
        (kind == "FILE").then_some(Self { length_bytes: length, validator })
    }

    /// The bytes that are asked for; `None` if they are beyond the end.
    fn bytes(&self, ask: Ask) -> Option<Range<u64>> {
        let end = self.length_bytes;
        let bytes = match ask {
            Ask::Span { first, last } => first..end.min(last.saturating_add(1)),
            Ask::Suffix { bytes } => end.saturating_sub(bytes)..end,
        };
        (bytes.start < bytes.end).then_some(bytes)
    }
}

impl Origin {
    /// Bytes of a file; `None` if the server is none of HDFS, after all.
    pub(super) async fn hdfs(
        &self,
        target: &Target,
        (file, ask): (&HdfsFile, Ask),
        headers: HeaderMap,
    ) -> Result<Option<BlobAnswer>, OriginError> {
        let registry = target.registry();
        let (response, _) = self.send(target, Method::GET, &file.status(), headers.clone()).await?;
        if response.status() != StatusCode::OK {
            return Ok(Some(BlobAnswer::Verdict(Verdict::read(response).await)));
        }
        let unreachable = |error: &reqwest::Error| OriginError::Unreachable {
            registry: registry.to_string(),
            reason: innermost(error),
        };
        let (mut body, mut parts) = (Vec::new(), response.bytes_stream());
        while let Some(part) = parts.next().await {
            let part = part.map_err(|error| unreachable(&error))?;
            if body.len() + part.len() > STATUS_BYTES_MAX {
                return Ok(None);
            }
            body.extend_from_slice(&part);
        }
        let Some(status) = Status::read(&body) else { return Ok(None) };
        let length_bytes = status.length_bytes;
        let Some(bytes) = status.bytes(ask) else {
            return Ok(Some(BlobAnswer::Unsatisfied { length_bytes }));
        };
        let at = Place(file.part(&bytes));
        let ((response, span), _): (Answered, _) =
            self.follow(target, Method::GET, headers, Some(&at)).await?;
        let part = Part { bytes, length_bytes, validator: status.validator };
        let mut answer = BlobAnswer::of_part(registry, part, response).await?;
        if let BlobAnswer::Bytes(stream) = &mut answer {
            stream.is_read_in(span);
        }
        Ok(Some(answer))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(url: &str) -> Option<HdfsFile> {
        HdfsFile::of(&url.parse().unwrap())
    }

    #[test]
    fn a_call_that_opens_a_file_and_no_other() {
        for url in ["http://h:9870/webhdfs/v1/a?op=OPEN", "http://h/webhdfs/v1/a/b?user.name=x&OP=open"] {
            assert!(file(url).is_some(), "{url}");
        }
        for url in [
            "http://h/webhdfs/v1/a",
            "http://h/webhdfs/v1/a?op=LISTSTATUS",
            "http://h/webhdfs/v1/a?op=OPEN&offset=5",
            "http://h/webhdfs/v1/a?op=OPEN&length=5",
            "http://h/other/a?op=OPEN",
        ] {
            assert_eq!(file(url), None, "{url}");
        }
    }

    #[test]
    fn calls_have_the_readers_name_and_the_range() {
        let file = file("http://h:9870/webhdfs/v1/a%20b?op=OPEN&user.name=x").unwrap();
        assert_eq!(file.status().as_str(), "http://h:9870/webhdfs/v1/a%20b?op=GETFILESTATUS&user.name=x");
        assert_eq!(
            file.part(&(10..15)).as_str(),
            "http://h:9870/webhdfs/v1/a%20b?op=OPEN&user.name=x&offset=10&length=5"
        );
    }

    const STATUS: &str = r#"{"FileStatus":{"accessTime":1,"blockSize":134217728,"fileId":16392,"group":"g","length":24930,
        "modificationTime":1320173277227,"owner":"o","pathSuffix":"","permission":"644","replication":1,"type":"FILE"}}"#;

    #[test]
    fn a_status_tells_length_and_version() {
        let status = Status::read(STATUS.as_bytes()).unwrap();
        assert_eq!(
            (status.length_bytes, status.validator.as_str()),
            (24930, "\"hdfs-16392-1320173277227-24930\"")
        );
        assert_ne!(Status::read(STATUS.replace("277227", "277228").as_bytes()), Some(status));
        for other in ["{}", "", "<html>", &STATUS.replace("FILE", "DIRECTORY")] {
            assert_eq!(Status::read(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn ranges_end_with_the_file() {
        let bytes = |length_bytes, ask| Status { length_bytes, validator: String::new() }.bytes(ask);
        assert_eq!(bytes(10, Ask::Span { first: 2, last: 4 }), Some(2..5));
        assert_eq!(bytes(10, Ask::Span { first: 2, last: u64::MAX }), Some(2..10));
        assert_eq!(bytes(10, Ask::Span { first: 10, last: 12 }), None);
        assert_eq!(bytes(10, Ask::Suffix { bytes: 3 }), Some(7..10));
        assert_eq!(bytes(10, Ask::Suffix { bytes: 30 }), Some(0..10));
        assert_eq!(bytes(0, Ask::Span { first: 0, last: 0 }), None);
    }

    proptest! {
        #[test]
        fn any_status_is_read_without_a_panic(body: Vec<u8>) {
            let _ = Status::read(&body);
        }
    }
}
