//! What a person names: an object of a storage service, a file of the hub, a directory of a web server. Pure.

use std::fmt;

use url::Url;

use super::ObjectError;
use super::relative::{BadName, RelativePath};

/// Storage services that sign addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Service {
    S3,
    Gcs,
    Azblob,
    Oss,
    Obs,
    Cos,
}

impl Service {
    /// By the scheme of an address; some have two names.
    fn of_scheme(scheme: &str) -> Option<Self> {
        Some(match scheme {
            "s3" => Self::S3,
            "gs" | "gcs" => Self::Gcs,
            "abs" | "azblob" => Self::Azblob,
            "oss" => Self::Oss,
            "obs" => Self::Obs,
            "cos" => Self::Cos,
            _ => return None,
        })
    }

    /// As it is written.
    pub(crate) fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azblob => "abs",
            Self::Oss => "oss",
            Self::Obs => "obs",
            Self::Cos => "cos",
        }
    }
}

/// An object, or all whose names begin alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ObjectAddress {
    pub(crate) service: Service,
    pub(crate) bucket: String,
    /// To the letter: nothing in it is percent-encoded. Empty: the whole bucket; with `/` at its end: all below it.
    pub(crate) key: String,
}

/// Kinds of repositories of the hub.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HubKind {
    Model,
    Dataset,
    Space,
}

/// A file of a repository of the hub, or all below a directory of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HubAddress {
    pub(crate) kind: HubKind,
    /// `OWNER/NAME`.
    pub(crate) repository: String,
    pub(crate) revision: String,
    /// As [`ObjectAddress::key`].
    pub(crate) path: String,
}

/// A file of HDFS, or all below a directory of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HdfsAddress {
    /// Where WebHDFS is.
    pub(crate) server: Url,
    /// As [`ObjectAddress::key`].
    pub(crate) path: String,
}

/// What is named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Address {
    /// `s3://BUCKET/KEY` and the like.
    Object(ObjectAddress),
    /// `hf://OWNER/NAME[@REVISION]/PATH`.
    Hub(HubAddress),
    /// `hdfs://HOST[:PORT]/PATH`, by WebHDFS.
    Hdfs(HdfsAddress),
    /// `http(s)://HOST/DIRECTORY/`, of which all is wanted.
    Directory(Url),
}

impl Address {
    /// Reads it; `all_below` is whether a directory is meant. `None`: it is of none of these kinds, but a plain URL or an image.
    ///
    /// # Errors
    /// It is of one of these kinds, and makes no sense.
    pub(crate) fn parse(text: &str, all_below: bool) -> Result<Option<Self>, ObjectError> {
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(None) };
        let wrong = |why: &str| ObjectError::Usage(format!("{text:?}: {why}"));
        let scheme = scheme.to_ascii_lowercase();
        if let Some(service) = Service::of_scheme(&scheme) {
            let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty()
                || !bucket.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
            {
                return Err(wrong("expected SERVICE://BUCKET/NAME, without a user name, port or password"));
            }
            let key = below(key, all_below).map_err(|why| wrong(&why))?;
            return Ok(Some(Self::Object(ObjectAddress { service, bucket: bucket.to_owned(), key })));
        }
        match scheme.as_str() {
            "hf" => hub(rest, all_below).map(|hub| Some(Self::Hub(hub))).map_err(|why| wrong(&why)),
            "hdfs" | "webhdfs" => hdfs(("http", 9870), rest, all_below)
                .map(|file| Some(Self::Hdfs(file)))
                .map_err(|why| wrong(&why)),
            "swebhdfs" => hdfs(("https", 9871), rest, all_below)
                .map(|file| Some(Self::Hdfs(file)))
                .map_err(|why| wrong(&why)),
            "http" | "https" if all_below => {
                directory(text).map(|url| Some(Self::Directory(url))).map_err(|why| wrong(&why))
            }
            _ => Ok(None),
        }
    }

    /// Of an object that is named by itself: what [`Store::place`](super::Store::place) takes.
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Object(object) => &object.key,
            Self::Hub(hub) => &hub.path,
            Self::Hdfs(hdfs) => &hdfs.path,
            Self::Directory(url) => url.as_str(),
        }
    }

    /// What it is called, for the name of a file or directory. Empty for a whole bucket.
    pub(crate) fn last_part(&self) -> String {
        let (path, else_name) = match self {
            Self::Object(ObjectAddress { key, bucket, .. }) => (key.as_str(), bucket.as_str()),
            Self::Hub(HubAddress { path, repository, .. }) => {
                (path.as_str(), repository.rsplit('/').next().unwrap_or_default())
            }
            Self::Hdfs(HdfsAddress { path, server }) => {
                (path.as_str(), server.host_str().unwrap_or_default())
            }
            Self::Directory(url) => (url.path(), url.host_str().unwrap_or_default()),
        };
        let last = path.trim_matches('/').rsplit('/').next().unwrap_or_default();
        if last.is_empty() { else_name.to_owned() } else { last.to_owned() }
    }
}

impl fmt::Display for ObjectAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}://{}/{}", self.service.scheme(), self.bucket, self.key)
    }
}

impl fmt::Display for HubAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            HubKind::Model => "",
            HubKind::Dataset => "datasets/",
            HubKind::Space => "spaces/",
        };
        write!(out, "hf://{kind}{}@{}/{}", self.repository, self.revision, self.path)
    }
}

impl fmt::Display for HdfsAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.server.scheme() == "https" { "swebhdfs" } else { "hdfs" };
        let (host, port) = (
            self.server.host_str().unwrap_or_default(),
            self.server.port_or_known_default().unwrap_or_default(),
        );
        write!(out, "{scheme}://{host}:{port}/{}", self.path)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(object) => object.fmt(out),
            Self::Hub(hub) => hub.fmt(out),
            Self::Hdfs(hdfs) => hdfs.fmt(out),
            Self::Directory(url) => url.fmt(out),
        }
    }
}

/// The name of an object; or what all names below a directory begin with.
fn below(key: &str, all_below: bool) -> Result<String, String> {
    if !all_below {
        return match RelativePath::parse(key) {
            Err(BadName::Empty) => Err("it names a bucket: name an object, or take all of it with -r".into()),
            Err(BadName::EmptyPart) if key.ends_with('/') => {
                Err("it names a directory: take all of it with -r".into())
            }
            // It is written under the name that -o says, or that it would have.
            Ok(_) | Err(BadName::UnderWay) => Ok(key.to_owned()),
            Err(error) => Err(format!("it cannot be asked for: {error}")),
        };
    }
    let trimmed = key.strip_suffix('/').unwrap_or(key);
    match RelativePath::parse(trimmed) {
        Err(BadName::Empty) if key.is_empty() => Ok(String::new()),
        Ok(_) | Err(BadName::UnderWay) => Ok(format!("{trimmed}/")),
        Err(error) => Err(format!("it cannot be asked for: {error}")),
    }
}

fn hub(rest: &str, all_below: bool) -> Result<HubAddress, String> {
    const EXPECTED: &str = "expected hf://[datasets/|spaces/]OWNER/NAME[@REVISION]/PATH";
    let (kind, rest) = match rest.split_once('/') {
        Some(("models", rest)) => (HubKind::Model, rest),
        Some(("datasets", rest)) => (HubKind::Dataset, rest),
        Some(("spaces", rest)) => (HubKind::Space, rest),
        _ => (HubKind::Model, rest),
    };
    let (owner, rest) = rest.split_once('/').ok_or(EXPECTED)?;
    let end = rest.find(['/', '@']).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    let (revision, path) = match rest.strip_prefix('@') {
        None => ("main", rest.strip_prefix('/').unwrap_or(rest)),
        // Of pull requests and conversions: refs/pr/1.
        Some(rest) if rest.starts_with("refs/") => {
            let end = rest.match_indices('/').nth(2).map_or(rest.len(), |(at, _)| at);
            (&rest[..end], rest[end..].trim_start_matches('/'))
        }
        Some(rest) => rest.split_once('/').unwrap_or((rest, "")),
    };
    let is_plain = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        !part.is_empty() && part != "." && part != ".." && part.bytes().all(plain)
    };
    if !is_plain(owner) || !is_plain(name) || !revision.split('/').all(is_plain) {
        return Err(EXPECTED.into());
    }
    let path = below(path, all_below)?;
    Ok(HubAddress { kind, repository: format!("{owner}/{name}"), revision: revision.to_owned(), path })
}

/// The port of HDFS's own protocol, which other tools have in such an address, is another one.
fn hdfs((scheme, port): (&str, u16), rest: &str, all_below: bool) -> Result<HdfsAddress, String> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let server = Url::parse(&format!("{scheme}://{authority}/")).ok().filter(|url| {
        url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
    });
    let mut server = server.ok_or("expected hdfs://HOST[:PORT]/PATH, with the port of WebHDFS")?;
    let has_port =
        authority.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    if !has_port {
        server.set_port(Some(port)).map_err(|()| "expected hdfs://HOST[:PORT]/PATH")?;
    }
    Ok(HdfsAddress { server, path: below(path, all_below)? })
}

fn directory(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|error| error.to_string())?;
    if !url.has_host() || !url.username().is_empty() || url.password().is_some() {
        return Err("expected http(s)://HOST/DIRECTORY/, without a user name or password".into());
    }
    if url.query().is_some() {
        return Err("a directory of a web server has no query".into());
    }
    url.set_fragment(None);
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, all_below: bool, expected: &str) {
        let address = Address::parse(text, all_below).unwrap().expect("an address of these kinds");
        assert_eq!(address.to_string(), expected, "{text}");
        let again = Address::parse(expected, all_below).unwrap();
        assert_eq!(again, Some(address), "what is shown is the same address");
    }

    #[test]
    fn objects_of_each_service() {
        for (written, shown) in [
            ("s3", "s3"),
            ("gs", "gs"),
            ("gcs", "gs"),
            ("abs", "abs"),
            ("azblob", "abs"),
            ("oss", "oss"),
            ("obs", "obs"),
            ("cos", "cos"),
            ("S3", "s3"),
        ] {
            check(&format!("{written}://b/a/k.bin"), false, &format!("{shown}://b/a/k.bin"));
        }
        // To the letter.
        check("s3://b.c-d/a%20b c?x#y", false, "s3://b.c-d/a%20b c?x#y");
        check("s3://b/a.part", false, "s3://b/a.part");
    }

    #[test]
    fn all_below_a_directory() {
        check("s3://b", true, "s3://b/");
        check("s3://b/", true, "s3://b/");
        check("s3://b/d", true, "s3://b/d/");
        check("s3://b/d/e/", true, "s3://b/d/e/");
        check("https://h/d", true, "https://h/d/");
        check("http://h:81", true, "http://h:81/");
    }

    #[test]
    fn files_of_the_hub() {
        check("hf://o/n/a/b.bin", false, "hf://o/n@main/a/b.bin");
        check("hf://models/o/n/b", false, "hf://o/n@main/b");
        check("hf://datasets/o/n@v1.0/b", false, "hf://datasets/o/n@v1.0/b");
        check("hf://spaces/o/n@refs/pr/1/a/b", false, "hf://spaces/o/n@refs/pr/1/a/b");
        check("hf://o/n", true, "hf://o/n@main/");
        check("hf://o/n@v1/d", true, "hf://o/n@v1/d/");
    }

    #[test]
    fn files_of_hdfs() {
        check("hdfs://h/d/x", false, "hdfs://h:9870/d/x");
        check("webhdfs://h:80/d/x", false, "hdfs://h:80/d/x");
        check("swebhdfs://h/d", true, "swebhdfs://h:9871/d/");
        check("hdfs://[::1]:81/", true, "hdfs://[::1]:81/");
    }

    #[test]
    fn what_makes_no_sense_says_why() {
        let check = |text: &str, all_below, word: &str| {
            let Err(ObjectError::Usage(error)) = Address::parse(text, all_below) else {
                panic!("{text} is refused")
            };
            assert!(error.contains(word), "{error}");
        };
        check("s3://b", false, "-r");
        check("s3://b/d/", false, "-r");
        check("s3://b/../x", false, "..");
        check("s3://b/d/..", true, "..");
        check("s3://b//x", false, "begins with /");
        check("s3://b/ x", false, "space");
        check("s3://key:secret@b/x", false, "BUCKET");
        check("s3:///x", false, "BUCKET");
        check("hf://o", false, "OWNER");
        check("hf://o/n@a/../b", false, "..");
        check("hf://o/n@refs/../b", false, "OWNER");
        check("hf://o/n", false, "-r");
        check("hdfs://u:p@h/x", false, "WebHDFS");
        check("hdfs:///x", false, "WebHDFS");
        check("hdfs://h/../x", false, "..");
        check("https://u:p@h/d", true, "password");
        check("https://h/d?x", true, "query");
    }

    #[test]
    fn all_else_is_somebody_elses() {
        for (text, all_below) in
            [("https://h/x", false), ("alpine:3", false), ("ghcr.io/a/b", true), ("ftp://h/x", true)]
        {
            assert_eq!(Address::parse(text, all_below), Ok(None), "{text}");
        }
    }

    #[test]
    fn files_and_directories_are_named_after_what_is_fetched() {
        let check = |text: &str, expected: &str| {
            assert_eq!(Address::parse(text, true).unwrap().unwrap().last_part(), expected);
        };
        check("s3://b", "b");
        check("s3://b/d/e", "e");
        check("hf://o/n", "n");
        check("https://h/", "h");
        check("https://h/d/", "d");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(s3|hf|https|x)://\\PC{0,30}", all_below: bool) {
            let _ = Address::parse(&text, all_below);
        }
    }
}
