//! `WWW-Authenticate` of a registry (RFC 9110, section 11.6.1; the token flow is the distribution project's
//! "Token Authentication Specification"): where a bearer token for a repository is to be had.

use http::{HeaderMap, header};
use url::Url;

/// Longest field value that is looked at.
const CHALLENGE_BYTES_MAX: usize = 8 * 1024;

/// An offer to give out tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BearerChallenge {
    /// Where to ask; http or https.
    pub realm: Url,
    /// For which service.
    pub service: Option<String>,
    /// For which access, such as `repository:library/app:pull`.
    pub scope: Option<String>,
}

impl BearerChallenge {
    /// The first bearer challenge of a refusal that names a realm which can be asked.
    pub fn find(headers: &HeaderMap) -> Option<Self> {
        headers
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .find_map(Self::parse)
    }

    /// Reads one field value, which may hold several challenges.
    pub fn parse(value: &str) -> Option<Self> {
        if value.len() > CHALLENGE_BYTES_MAX {
            return None;
        }
        let mut realm = None;
        let mut service = None;
        let mut scope = None;
        let mut inside = false;
        let mut rest = value;
        while let Some((item, after)) = next_item(rest) {
            rest = after;
            // `Scheme name=value` begins a challenge; `name=value`, also with spaces around `=`, goes on with it.
            let parameter = match item.split_once(|c: char| c.is_ascii_whitespace()) {
                Some((scheme, parameter))
                    if !scheme.contains('=') && !parameter.trim_start().starts_with('=') =>
                {
                    if inside && realm.is_some() {
                        break;
                    }
                    inside = scheme.eq_ignore_ascii_case("bearer");
                    parameter
                }
                _ => item,
            };
            let Some((name, text)) = parameter.split_once('=').filter(|_| inside) else { continue };
            let text = unquoted(text.trim());
            match name.trim().to_ascii_lowercase().as_str() {
                "realm" => realm = Url::parse(&text).ok(),
                "service" => service = Some(text),
                "scope" => scope = Some(text),
                _ => {}
            }
        }
        let realm = realm.filter(|realm| matches!(realm.scheme(), "http" | "https") && realm.has_host())?;
        Some(Self { realm, service, scope })
    }

    /// The address of a token for this access, or for another `scope`.
    pub fn token_url(&self, scope: Option<&str>) -> Url {
        let mut url = self.realm.clone();
        let wanted = [("service", self.service.as_deref()), ("scope", scope.or(self.scope.as_deref()))];
        let wanted: Vec<_> = wanted.into_iter().filter_map(|(name, text)| Some((name, text?))).collect();
        // Without any, an empty query would be added.
        if !wanted.is_empty() {
            url.query_pairs_mut().extend_pairs(wanted);
        }
        url
    }
}

/// Up to the next comma that is not inside quotes.
fn next_item(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches([',', ' ', '\t']);
    if text.is_empty() {
        return None;
    }
    let mut quoted = false;
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' => return !quoted,
            _ => {}
        }
        false
    });
    let end = end.unwrap_or(text.len());
    Some((text[..end].trim_end(), &text[end..]))
}

/// A token as it is, a quoted string without its quotes and backslashes.
fn unquoted(text: &str) -> String {
    let Some(inner) = text.strip_prefix('"') else { return text.to_owned() };
    let inner = inner.strip_suffix('"').unwrap_or(inner);
    let mut plain = String::with_capacity(inner.len());
    let mut escaped = false;
    for c in inner.chars() {
        if c == '\\' && !escaped {
            escaped = true;
        } else {
            plain.push(c);
            escaped = false;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(value: &str, expected: Option<&str>) {
        let seen = BearerChallenge::parse(value).map(|challenge| challenge.token_url(None).to_string());
        assert_eq!(seen.as_deref(), expected, "{value}");
    }

    #[test]
    fn what_registries_send() {
        check(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull,push""#,
            Some(
                "https://auth.docker.io/token?service=registry.docker.io&scope=repository%3Alibrary%2Falpine%3Apull%2Cpush",
            ),
        );
        check("bearer realm=http://r/token?a=b , service = x", Some("http://r/token?a=b&service=x"));
        check(r#"Basic realm="x", Bearer realm="https://r/t", error="no""#, Some("https://r/t"));
        check(r#"Bearer realm="https://r/t", Basic realm="x""#, Some("https://r/t"));
        check(r#"Bearer service="a\"b",realm="https://r/t""#, Some("https://r/t?service=a%22b"));
    }

    #[test]
    fn what_leads_nowhere() {
        for value in
            ["", "Basic realm=\"https://r/t\"", "Bearer", "Bearer realm=\"ftp://r/t\"", "Bearer realm=t"]
        {
            check(value, None);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(value in r#"(Bearer |Basic |realm=|"|\\|,|=|\PC){0,40}"#) {
            let _ = BearerChallenge::parse(&value).map(|challenge| challenge.token_url(Some("s")));
        }
    }
}
