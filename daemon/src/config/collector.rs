//! Where traces go: the URL of a collector.

use std::fmt;
use std::str::FromStr;

use url::Url;

/// Where a collector takes traces, unless another path is named.
pub(super) const TRACES_PATH: &str = "/v1/traces";

/// A collector's URL, with its path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Collector(pub(super) Url);

impl FromStr for Collector {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut url: Url = text.parse().map_err(|_| "it is no URL")?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err("it is no http:// or https:// URL");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("there are credentials in it, which would stand in logs");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("it ends with its path");
        }
        if url.path() == "/" {
            url.set_path(TRACES_PATH);
        }
        Ok(Self(url))
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_named_with_or_without_its_path() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let seen = text.parse().map(|Collector(url)| url.to_string());
            assert_eq!(seen.as_deref().map_err(|why| *why), expected, "{text}");
        };
        check("http://collector:4318", Ok("http://collector:4318/v1/traces"));
        check("http://[::1]:4318/", Ok("http://[::1]:4318/v1/traces"));
        check("https://otlp.example/otlp/v1/traces", Ok("https://otlp.example/otlp/v1/traces"));
        check("collector:4318", Err("it is no http:// or https:// URL"));
        check("grpc://collector:4317", Err("it is no http:// or https:// URL"));
        check("collector", Err("it is no URL"));
        check("http://user:secret@collector", Err("there are credentials in it, which would stand in logs"));
        check("http://collector/?token=x", Err("it ends with its path"));
    }
}
