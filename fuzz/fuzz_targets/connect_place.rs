//! Where a CONNECT leads to: any text, and the `Host` of requests within.
//!
//! What is read has one form, is read again as itself, and is the place that its URL leads to: else the guard would look
//! at one and the tunnel lead to another.
#![no_main]

use darter::front::connect::Place;
use libfuzzer_sys::fuzz_target;
use url::Host;

fuzz_target!(|text: &str| {
    if let Ok(place) = Place::of_host_header(text) {
        let url = place.url().expect("a place has a URL");
        assert_eq!(url.host().map(|host| host.to_owned()).as_ref(), Some(place.host()), "{text:?}");
        assert_eq!(url.port_or_known_default(), Some(place.port()), "{text:?}");
        assert!(url.username().is_empty() && url.password().is_none() && url.path() == "/", "{text:?}");
        assert_eq!(place.to_string().parse().as_ref(), Ok(&place), "{text:?}");
        let authority = place.authority().expect("a place has an authority");
        assert_eq!(Place::of_host_header(authority.as_str()).as_ref(), Ok(&place), "{text:?}");
        let is_name = matches!(place.host(), Host::Domain(_));
        assert_eq!(place.is_named_by(Some(&place.host().to_string())), is_name, "{text:?}");
    }
    if let Ok(place) = text.parse::<Place>() {
        assert_eq!(Place::of_host_header(text), Ok(place), "{text:?}");
    }
});
