//! The status page: files that are part of the binary, and what a browser may do with them.
//!
//! Nothing is built and nothing is loaded from elsewhere. The policy lets the page run its own scripts and ask its own
//! daemon, and nothing besides: whatever a name from outside says, it is text.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{Either, Full};

use super::Answer;

/// One file of the page.
struct File {
    path: &'static str,
    media_type: &'static str,
    text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

/// No scheme, no host, no inline script or style: what is not here is not loaded.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const fn file(path: &'static str, media_type: &'static str, text: &'static str) -> File {
    File { path, media_type, text }
}

const FILES: &[File] = &[
    file("/", HTML, include_str!("page/index.html")),
    file("/page/style.css", STYLE, include_str!("page/style.css")),
    file("/page/page.js", SCRIPT, include_str!("page/page.js")),
    file("/page/words.js", SCRIPT, include_str!("page/words.js")),
    file("/page/plot.js", SCRIPT, include_str!("page/plot.js")),
    file("/page/contents.js", SCRIPT, include_str!("page/contents.js")),
    file("/page/cluster.js", SCRIPT, include_str!("page/cluster.js")),
    file("/page/requests.js", SCRIPT, include_str!("page/requests.js")),
    file("/page/icon.svg", PICTURE, include_str!("page/icon.svg")),
];

/// The tag of each file, in their order: another file has another one.
static TAGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let tag = |file: &File| format!("\"{}\"", &blake3::hash(file.text.as_bytes()).to_hex()[..16]);
    FILES.iter().map(tag).collect()
});

/// The file at that path, if there is one. `headers` are the request's.
pub(super) fn answer(path: &str, headers: &HeaderMap) -> Option<Answer> {
    let (file, tag) = FILES.iter().zip(&*TAGS).find(|(file, _)| file.path == path)?;
    let is_known = headers.get_all(header::IF_NONE_MATCH).iter().any(|known| {
        let known = known.to_str().unwrap_or_default();
        known.split(',').any(|known| known.trim().trim_start_matches("W/") == *tag)
    });
    let body = if is_known { Bytes::new() } else { Bytes::from_static(file.text.as_bytes()) };
    let mut answer = Response::new(Either::Left(Full::new(body)));
    if is_known {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let fields: [(HeaderName, &'static str); 5] = [
        (header::CONTENT_TYPE, file.media_type),
        // Asked about each time, so that a new daemon's page is never mixed with an old one's.
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in fields {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    if let Ok(tag) = HeaderValue::from_str(tag) {
        answer.headers_mut().insert(header::ETAG, tag);
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What must come before the page can be painted: all of it.
    const FIRST_PAINT_BYTES_MAX: usize = 100 << 10;

    #[test]
    fn the_whole_page_is_small() {
        let bytes: usize = FILES.iter().map(|file| file.text.len()).sum();
        assert!(bytes <= FIRST_PAINT_BYTES_MAX, "{bytes} bytes");
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere_and_names_are_text() {
        for File { path, text, .. } in FILES {
            for word in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style=\""]
            {
                assert!(!text.contains(word), "{path} has {word}");
            }
            let elsewhere = text.match_indices("//").filter(|(at, _)| text[..*at].ends_with("http:"));
            // The names of XML's vocabularies are no addresses.
            let elsewhere = elsewhere.filter(|(at, _)| !text[*at..].starts_with("//www.w3.org/2000/svg"));
            assert_eq!(elsewhere.count() + text.matches("https://").count(), 0, "{path}");
        }
    }

    #[test]
    fn every_file_that_is_named_is_there() {
        let named = FILES.iter().flat_map(|file| file.text.split(['"', '\'']));
        let mut count = 0;
        for path in named.filter(|text| text.starts_with("/page/") || text.starts_with("./")) {
            let path = path.replacen("./", "/page/", 1);
            assert!(FILES.iter().any(|file| file.path == path), "{path} is missing");
            count += 1;
        }
        assert!(count >= FILES.len() - 1, "{count} names");
    }

    #[test]
    fn a_known_file_is_not_sent_again() {
        let first = answer("/", &HeaderMap::new()).unwrap();
        let tag = first.headers()[header::ETAG].clone();
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, tag.clone());
        let again = answer("/", &headers).unwrap();
        assert_eq!((again.status(), &again.headers()[header::ETAG]), (StatusCode::NOT_MODIFIED, &tag));
        headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("\"another\""));
        assert_eq!(answer("/", &headers).unwrap().status(), StatusCode::OK);
        assert!(answer("/page/", &headers).is_none());
    }
}
