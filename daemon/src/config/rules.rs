//! `proxy.proxies`: which requests go through the cache.

use std::fmt;
use std::str::FromStr;

use regex::Regex;

/// The rules in their order. The first whose pattern matches decides; what none matches passes straight through.
#[derive(Clone, Debug, Default)]
pub struct Rules(Vec<Rule>);

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Matches anywhere in what it is compared with, unless anchored.
    pub pattern: Regex,
    /// Pass matching requests straight through, although a later rule would cache them.
    pub direct: bool,
}

impl Rules {
    /// Whether a GET of this path, or of this URL when a client sent one, goes through the cache.
    #[must_use]
    pub fn cache(&self, target: &str) -> bool {
        self.0.iter().find(|rule| rule.pattern.is_match(target)).is_some_and(|rule| !rule.direct)
    }

    /// Whether a rule says that this path or URL passes straight through.
    #[must_use]
    pub fn direct(&self, target: &str) -> bool {
        self.0.iter().find(|rule| rule.pattern.is_match(target)).is_some_and(|rule| rule.direct)
    }

    /// Whether nothing can ever be cached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|rule| rule.direct)
    }

    /// The rules in their order.
    #[must_use]
    pub fn as_slice(&self) -> &[Rule] {
        &self.0
    }
}

impl FromIterator<Rule> for Rules {
    fn from_iter<I: IntoIterator<Item = Rule>>(rules: I) -> Self {
        Self(rules.into_iter().collect())
    }
}

/// A regular expression whose error fits on a line.
#[derive(Debug)]
pub(super) struct Pattern(pub(super) Regex);

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Regex::new(text).map(Self).map_err(|error| {
            // regex draws the pattern with a caret below it and ends with the reason.
            let text = error.to_string();
            text.lines().next_back().unwrap_or_default().trim_start_matches("error: ").to_owned()
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_match_decides() {
        let rules: Rules = [("private/", true), ("blobs/sha256.*", false)]
            .into_iter()
            .map(|(text, direct)| Rule { pattern: Regex::new(text).expect("a pattern"), direct })
            .collect();
        assert!(rules.cache("/v2/library/debian/blobs/sha256:00"));
        assert!(!rules.cache("/v2/private/debian/blobs/sha256:00"));
        assert!(!rules.cache("/v2/library/debian/manifests/latest"));
        assert!(!rules.direct("/v2/library/debian/manifests/latest"));
        assert!(rules.direct("/v2/private/debian/manifests/latest"));
        assert!(!Rules::default().cache("/v2/library/debian/blobs/sha256:00"));
    }
}
