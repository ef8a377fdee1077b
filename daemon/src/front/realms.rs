//! Where registries send clients for tokens.
//!
//! nydusd 2.2.3 to 2.3.4 sends its token request to the mirror too: as a POST (later a GET) of the realm's path, with
//! the mirror's host. It belongs to the realm that the registry named last; a credential goes nowhere else.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use http::HeaderMap;
use url::Url;

use crate::config::Registry;
use crate::origin::challenge::BearerChallenge;

/// Registries whose realm is remembered.
const REALMS_MAX: usize = 1024;

/// The realm that each registry named last. Shared by all shards.
#[derive(Debug, Default)]
pub(crate) struct Realms {
    of: Mutex<HashMap<Registry, Url>>,
}

impl Realms {
    /// Looks whether a registry's answer names a realm.
    pub(super) fn note(&self, registry: &Registry, headers: &HeaderMap) {
        let Some(challenge) = BearerChallenge::find(headers) else { return };
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if of.len() >= REALMS_MAX && !of.contains_key(registry) {
            of.clear();
        }
        of.insert(registry.clone(), challenge.realm);
    }

    /// The realm of a registry, if that is the path of a request.
    pub(super) fn at(&self, registry: &Registry, path: &str) -> Option<Url> {
        let of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        of.get(registry).filter(|realm| realm.path() == path).cloned()
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header};

    use super::*;

    #[test]
    fn a_realm_is_known_by_its_path_for_the_registry_that_named_it() {
        let realms = Realms::default();
        let challenge = HeaderValue::from_static(r#"Bearer realm="https://auth/token",service="r""#);
        let headers: HeaderMap = [(header::WWW_AUTHENTICATE, challenge)].into_iter().collect();
        let registry: Registry = "https://r".parse().unwrap();
        realms.note(&registry, &headers);
        realms.note(&registry, &HeaderMap::new());
        assert_eq!(realms.at(&registry, "/token").map(String::from).as_deref(), Some("https://auth/token"));
        assert_eq!(realms.at(&registry, "/v2/"), None);
        assert_eq!(realms.at(&"https://other".parse().unwrap(), "/token"), None);
    }
}
