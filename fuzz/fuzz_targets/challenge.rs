//! `WWW-Authenticate` of a registry: the field's value.
//!
//! What is found is a realm that can be asked; asking it for a token, whatever the scope, asks that realm and nobody
//! else, and says service and scope as they were read.
#![no_main]

use darter::origin::challenge::BearerChallenge;
use libfuzzer_sys::fuzz_target;

const SCOPE: &str = "repository:a/b:pull";

fuzz_target!(|value: &str| {
    let Some(challenge) = BearerChallenge::parse(value) else { return };
    assert!(matches!(challenge.realm.scheme(), "http" | "https"), "{}", challenge.realm);
    let url = challenge.token_url(Some(SCOPE));
    assert!(url.has_host() && url.origin() == challenge.realm.origin(), "{url}");
    assert_eq!(url.path(), challenge.realm.path());
    let last = |wanted: &str| {
        let pairs = url.query_pairs().filter(|(name, _)| name == wanted);
        pairs.last().map(|(_, text)| text.into_owned())
    };
    assert_eq!(last("scope").as_deref(), Some(SCOPE));
    assert!(challenge.service.is_none() || last("service") == challenge.service, "{url}");
});
