//! What a daemon is asked for.

use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use url::Url;

use super::ObjectError;

/// Names of the query parameters that do not tell contents apart, as the front takes them.
const FILTER: HeaderName = HeaderName::from_static("x-dragonfly-filtered-query-params");
/// Through the cache, whatever the daemon's rules say of other URLs.
const CACHED: HeaderName = HeaderName::from_static("x-dragonfly-use-p2p");
/// The front takes no longer ones.
const FILTER_BYTES_MAX: usize = 1024;

/// Where the daemon reads something, and how that is called.
#[derive(Clone)]
pub(crate) struct Place {
    url: Url,
    /// For people and for messages: it opens nothing.
    shown: String,
    headers: HeaderMap,
    /// When its signature ends.
    until: Option<Instant>,
}

impl std::fmt::Debug for Place {
    /// The URL may be signed.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("Place").field(&self.shown).finish()
    }
}

impl Place {
    /// A URL as a person has written it.
    pub(crate) fn of_url(url: Url) -> Self {
        Self { shown: url.to_string(), url, headers: HeaderMap::new(), until: None }
    }

    /// One that the cache is to keep, called `shown`.
    pub(super) fn cached(url: Url, shown: String) -> Self {
        let headers = HeaderMap::from_iter([(CACHED, HeaderValue::from_static("true"))]);
        Self { url, shown, headers, until: None }
    }

    /// One whose whole query is its signature, good until then: the daemon names the content without it.
    ///
    /// # Errors
    /// The signature has more parameters than a daemon takes.
    pub(super) fn signed(url: Url, shown: String, until: Instant) -> Result<Self, ObjectError> {
        let names: Vec<_> = url.query_pairs().map(|(name, _)| name.into_owned()).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let place = Self::with_credentials(url, shown, &names)?;
        Ok(Self { until: (!names.is_empty()).then_some(until), ..place })
    }

    /// One of whose query these parameters say who reads: the daemon names the content without them.
    ///
    /// # Errors
    /// They are more than a daemon takes.
    pub(super) fn with_credentials(url: Url, shown: String, names: &[&str]) -> Result<Self, ObjectError> {
        let mut names: Vec<_> = names
            .iter()
            .copied()
            .filter(|name| url.query_pairs().any(|(known, _)| known == *name))
            .map(str::to_owned)
            .collect();
        names.sort_unstable();
        names.dedup();
        let mut place = Self::cached(url, shown);
        if names.is_empty() {
            return Ok(place);
        }
        let is_plain = |name: &String| !name.contains(['&', ',']) && name.trim() == name;
        let filter = HeaderValue::try_from(names.join("&")).ok();
        let filter = filter.filter(|filter| filter.len() <= FILTER_BYTES_MAX && names.iter().all(is_plain));
        let unusual = || ObjectError::Failed(format!("{}: its signed address has an odd query", place.shown));
        place.headers.insert(FILTER, filter.ok_or_else(unusual)?);
        Ok(place)
    }

    /// The same, shown this `Authorization`.
    #[must_use]
    pub(crate) fn authorized(mut self, value: Option<&HeaderValue>) -> Self {
        if let Some(value) = value {
            self.headers.insert(header::AUTHORIZATION, value.clone());
        }
        self
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// For people.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// What goes with the request.
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// What stays the same from one signature to the next.
    pub(crate) fn name(&self) -> String {
        let mut url = self.url.clone();
        if let Some(filter) = self.headers.get(FILTER).and_then(|filter| filter.to_str().ok()) {
            let filtered = |name: &str| filter.split('&').any(|filtered| filtered == name);
            let kept = self.url.query_pairs().filter(|(name, _)| !filtered(name));
            url.query_pairs_mut().clear().extend_pairs(kept);
            if url.query() == Some("") {
                url.set_query(None);
            }
        }
        url.into()
    }

    /// Whether its signature may have ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(url: &str) -> Result<Place, ObjectError> {
        Place::signed(url.parse().unwrap(), "s3://b/k".into(), Instant::now())
    }

    #[test]
    fn a_signature_is_no_part_of_the_name_and_is_not_shown() {
        let place = signed("https://h/b/k?X-Amz-Signature=secret&X-Amz-Date=1&X-Amz-Date=2").unwrap();
        assert_eq!(place.headers()[&FILTER], "X-Amz-Date&X-Amz-Signature");
        assert_eq!(place.headers()[&CACHED], "true");
        assert_eq!(place.name(), "https://h/b/k");
        assert!(place.has_ended());
        assert!(!format!("{place:?} {}", place.shown()).contains("secret"));
    }

    #[test]
    fn what_needs_no_signature_is_good_for_ever() {
        let place = signed("https://h/b/k").unwrap();
        assert!(!place.headers().contains_key(&FILTER) && !place.has_ended());
        let as_written = Place::of_url("https://h/k?v=1".parse().unwrap());
        assert_eq!((as_written.name().as_str(), as_written.headers().len()), ("https://h/k?v=1", 0));
    }

    #[test]
    fn a_signature_that_the_front_would_misread_is_refused() {
        let long = format!("https://h/k?{}=1", "a".repeat(FILTER_BYTES_MAX + 1));
        for url in ["https://h/k?a%26b=1", "https://h/k?a,b=1", "https://h/k?%20a=1", &long] {
            assert!(signed(url).is_err(), "{url}");
        }
    }
}
