//! `X-Dragonfly-*` of a request: what clients that know Dragonfly ask for. Pure.
//!
//! `X-Dragonfly-Registry` is the upstream's, see [`route`](super::route).

use http::HeaderMap;

/// What a client asks for beside the content.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Tells contents of one URL apart.
    pub tag: Option<String>,
    /// The same.
    pub application: Option<String>,
    /// Query parameters that do not tell contents apart, in place of the configured ones.
    pub filter: Option<Vec<String>>,
    /// Through the cache whatever the rules say, or past it.
    pub use_p2p: Option<bool>,
    /// Whether the rest of a content is brought behind a range, in place of the configured word.
    pub prefetch: Option<bool>,
    /// Dragonfly's level 1: this content is not to be had at all. The other levels say which peers come first, and
    /// have no meaning for one node.
    pub forbidden: bool,
}

/// What a client may not ask for, or asks for in a way that cannot be read: 400.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OptionError {
    /// A client names a path of this node.
    #[error(
        "{0} names a file on this node, which no client may: leave the header out and take the body of the answer"
    )]
    OurPath(&'static str),
    /// Neither true nor false, no level, too long.
    #[error("{name}: {value:?} is not understood; allowed: {allowed}")]
    Value {
        /// Which header.
        name: &'static str,
        /// What it says.
        value: String,
        /// What it may say.
        allowed: &'static str,
    },
}

/// Longest tag, application or filter.
const TEXT_BYTES_MAX: usize = 1024;

impl Options {
    /// Reads a request's headers.
    ///
    /// # Errors
    /// A header that is refused, or a value that is not understood.
    pub fn read(headers: &HeaderMap) -> Result<Self, OptionError> {
        for name in ["x-dragonfly-output-path", "x-dragonfly-force-hard-link"] {
            if headers.contains_key(name) {
                return Err(OptionError::OurPath(name));
            }
        }
        let priority = value(headers, "x-dragonfly-priority")?;
        let level = priority.map(|text| {
            let level = text.parse().ok().filter(|level: &u8| *level <= 6);
            level.ok_or_else(|| unreadable("x-dragonfly-priority", text, "0 to 6"))
        });
        let filter = value(headers, "x-dragonfly-filtered-query-params")?.map(|names| {
            let names = names.split(['&', ',']).map(str::trim).filter(|name| !name.is_empty());
            names.map(str::to_owned).collect()
        });
        Ok(Self {
            tag: value(headers, "x-dragonfly-tag")?.map(str::to_owned),
            application: value(headers, "x-dragonfly-application")?.map(str::to_owned),
            filter,
            use_p2p: truth(headers, "x-dragonfly-use-p2p")?,
            prefetch: truth(headers, "x-dragonfly-prefetch")?,
            forbidden: level.transpose()? == Some(1),
        })
    }
}

fn value<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, OptionError> {
    const ALLOWED: &str = "up to 1024 visible ASCII characters";
    let Some(value) = headers.get(name) else { return Ok(None) };
    match value.to_str() {
        Ok(text) if text.len() <= TEXT_BYTES_MAX => Ok(Some(text.trim()).filter(|text| !text.is_empty())),
        _ => Err(unreadable(name, &String::from_utf8_lossy(value.as_bytes()), ALLOWED)),
    }
}

fn truth(headers: &HeaderMap, name: &'static str) -> Result<Option<bool>, OptionError> {
    value(headers, name)?
        .map(|text| match text {
            _ if text.eq_ignore_ascii_case("true") => Ok(true),
            _ if text.eq_ignore_ascii_case("false") => Ok(false),
            _ => Err(unreadable(name, text, "true or false")),
        })
        .transpose()
}

fn unreadable(name: &'static str, value: &str, allowed: &'static str) -> OptionError {
    OptionError::Value { name, value: value.chars().take(200).collect(), allowed }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn read(lines: &[(&'static str, &'static str)]) -> Result<Options, OptionError> {
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        Options::read(&lines.iter().map(line).collect())
    }

    #[test]
    fn what_is_understood() {
        assert_eq!(read(&[("accept", "x")]), Ok(Options::default()));
        let all = read(&[
            ("x-dragonfly-tag", "t"),
            ("x-dragonfly-application", "a"),
            ("x-dragonfly-filtered-query-params", "Expires&Signature, X-Amz-Date"),
            ("x-dragonfly-use-p2p", "true"),
            ("x-dragonfly-prefetch", "False"),
            ("x-dragonfly-priority", "1"),
        ]);
        let filter = ["Expires", "Signature", "X-Amz-Date"].map(str::to_owned).into();
        let expected = Options {
            tag: Some("t".into()),
            application: Some("a".into()),
            filter: Some(filter),
            use_p2p: Some(true),
            prefetch: Some(false),
            forbidden: true,
        };
        assert_eq!(all, Ok(expected));
        assert_eq!(read(&[("x-dragonfly-priority", "6")]), Ok(Options::default()));
    }

    #[test]
    fn what_is_refused_says_why() {
        let check = |name, value, expected: &str| {
            let error = read(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(expected), "{error}");
        };
        check("x-dragonfly-output-path", "/etc/passwd", "names a file on this node");
        check("x-dragonfly-force-hard-link", "true", "names a file on this node");
        check("x-dragonfly-use-p2p", "yes", "true or false");
        check("x-dragonfly-priority", "7", "0 to 6");
        check("x-dragonfly-priority", "-1", "0 to 6");
    }

    proptest! {
        #[test]
        fn any_value_is_read_without_a_panic(value: Vec<u8>) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                for name in ["x-dragonfly-tag", "x-dragonfly-priority", "x-dragonfly-prefetch"] {
                    let _ = Options::read(&[(HeaderName::from_static(name), value.clone())].into_iter().collect());
                }
            }
        }
    }
}
