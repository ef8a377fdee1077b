//! TLS that ends here: for which hosts, and by which authority's word clients take this node for them.
//!
//! Whoever has the key of such an authority can be any host to whoever believes it. So it is made for these clients
//! alone, its key is read from a file that others cannot read, and its certificates hold for days.

mod authority;
mod making;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use regex::Regex;
use rustls::ServerConfig;

pub(crate) use authority::{Authority, AuthorityError};
pub(crate) use making::{Made, make};

use crate::front::connect::Place;

/// Hosts whose certificates are kept.
const KEPT_MAX: usize = 256;
/// After so long a certificate is made anew.
const RENEWED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// What all shards have in common under one policy.
pub(crate) struct Termination {
    authority: Arc<Authority>,
    hosts: Vec<Regex>,
    kept: Mutex<HashMap<Place, Kept>>,
}

struct Kept {
    config: Arc<ServerConfig>,
    made_at: SystemTime,
}

impl Termination {
    /// By that authority, for places of which one of the patterns matches `HOST:PORT`.
    pub(crate) fn new(authority: Arc<Authority>, hosts: Vec<Regex>) -> Arc<Self> {
        Arc::new(Self { authority, hosts, kept: Mutex::default() })
    }

    /// Whether TLS towards that place ends here.
    pub(crate) fn takes(&self, place: &Place) -> bool {
        let text = place.to_string();
        self.hosts.iter().any(|pattern| pattern.is_match(&text))
    }

    /// How a client that wants to speak to that place is answered. A key of RSA takes milliseconds to sign with, so that
    /// a certificate is made off the shard.
    ///
    /// # Errors
    /// No certificate can be made for it.
    pub(crate) async fn config_for(
        self: &Arc<Self>,
        place: &Place,
    ) -> Result<Arc<ServerConfig>, AuthorityError> {
        let now = SystemTime::now();
        if let Some(kept) = self.kept_for(place, now) {
            return Ok(kept);
        }
        let (termination, place) = (self.clone(), place.clone());
        let making = tokio::task::spawn_blocking(move || termination.make_for(&place, now));
        making.await.unwrap_or_else(|error| Err(AuthorityError::Leaf(error.to_string())))
    }

    fn kept_for(&self, place: &Place, now: SystemTime) -> Option<Arc<ServerConfig>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = |kept: &&Kept| now.duration_since(kept.made_at).is_ok_and(|age| age < RENEWED_AFTER);
        kept.get(place).filter(is_fresh).map(|kept| kept.config.clone())
    }

    fn make_for(&self, place: &Place, now: SystemTime) -> Result<Arc<ServerConfig>, AuthorityError> {
        let config = Arc::new(self.authority.server_config(place, now)?);
        // What is behind the lock is changed whole.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX && !kept.contains_key(place) {
            let oldest = kept.iter().min_by_key(|(_, kept)| kept.made_at).map(|(place, _)| place.clone());
            oldest.and_then(|place| kept.remove(&place));
        }
        kept.insert(place.clone(), Kept { config: config.clone(), made_at: now });
        Ok(config)
    }
}

impl fmt::Debug for Termination {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Termination").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn termination(patterns: &[&str]) -> Arc<Termination> {
        let now = SystemTime::now();
        let Made { certificate, key } = make(&[], now).unwrap();
        let authority = Authority::of_pem(certificate.as_bytes(), key.as_bytes(), now).unwrap();
        let hosts = patterns.iter().map(|pattern| Regex::new(pattern).unwrap()).collect();
        Termination::new(Arc::new(authority), hosts)
    }

    fn place(text: &str) -> Place {
        text.parse().unwrap()
    }

    #[test]
    fn patterns_see_host_and_port() {
        let termination = termination(&["^ghcr\\.io:443$", "example"]);
        assert!(termination.takes(&place("GHCR.IO:443")));
        assert!(!termination.takes(&place("ghcr.io:444")));
        assert!(!termination.takes(&place("ghcr.io.evil.org:443")));
        assert!(termination.takes(&place("registry.example:5000")));
    }

    #[test]
    fn a_certificate_is_made_once_a_day_and_so_many_are_kept() {
        let termination = termination(&[""]);
        let (now, a) = (SystemTime::now(), place("a.test:443"));
        assert!(termination.kept_for(&a, now).is_none());
        let first = termination.make_for(&a, now).unwrap();
        let later = termination.kept_for(&a, now + Duration::from_secs(3600)).unwrap();
        assert!(Arc::ptr_eq(&first, &later));
        assert!(termination.kept_for(&a, now + RENEWED_AFTER).is_none());
        assert!(termination.kept_for(&place("a.test:444"), now).is_none());
        for number in 0..KEPT_MAX + 10 {
            termination.make_for(&place(&format!("h{number}.test:443")), now).unwrap();
        }
        assert_eq!(termination.kept.lock().unwrap().len(), KEPT_MAX);
    }
}
