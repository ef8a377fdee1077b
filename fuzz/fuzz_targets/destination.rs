//! Where a request may go: a URL, or the `Location` of a redirect from a public one.
//!
//! Only what is configured, by host and port, is asked although it is near. A literal address that is asked otherwise
//! is none that the standard library calls loopback, private, link-local or the like, and the form that a resolver or
//! a socket would read is the one that was looked at.
#![no_main]

use std::net::IpAddr;
use std::sync::LazyLock;

use darter::config::{Override, RawConfig, Surroundings, resolve};
use darter::origin::OriginOptions;
use darter::origin::guard::Way;
use darter::origin::proxies::Proxies;
use libfuzzer_sys::fuzz_target;
use url::Url;

static OPTIONS: LazyLock<OriginOptions> = LazyLock::new(|| {
    let allowed = Override { key: "proxy.allowedRegistries[]", flag: "--flag", text: "10.0.0.5:5000".into() };
    let resolved = resolve(&RawConfig::default(), &[allowed], &Surroundings::default()).expect("right flags");
    OriginOptions::new(&resolved.settings)
});
static PROXIES: LazyLock<Proxies> = LazyLock::new(Proxies::of_environment);

fuzz_target!(|location: &str| {
    let base = Url::parse("https://registry.example/v2/").expect("a URL");
    let Ok(url) = base.join(location) else { return };
    if !matches!(url.scheme(), "http" | "https") {
        return;
    }
    let host = url.host_str().expect("http has a host").trim_matches(['[', ']']).trim_end_matches('.');
    match OPTIONS.guard.way(&url, &PROXIES) {
        Ok(Way::Configured(client)) => {
            let place = (host, url.port_or_known_default());
            let docker_hub = ["registry-1.docker.io", "docker.io", "index.docker.io"].contains(&host);
            assert!(place == ("10.0.0.5", Some(5000)) || docker_hub && place.1 == Some(443), "{url}");
            assert_eq!(client, 0);
        }
        Ok(Way::Proxied | Way::Guarded) => {
            assert!(!host.eq_ignore_ascii_case("localhost"), "{url}");
            let address = host.parse::<IpAddr>().map(|address| address.to_canonical());
            let near = address.is_ok_and(|address| match address {
                IpAddr::V4(address) => {
                    address.is_loopback()
                        || address.is_private()
                        || address.is_link_local()
                        || address.is_unspecified()
                        || address.is_broadcast()
                        || address.is_multicast()
                }
                IpAddr::V6(address) => {
                    address.is_loopback()
                        || address.is_unspecified()
                        || address.is_unique_local()
                        || address.is_unicast_link_local()
                        || address.is_multicast()
                }
            });
            assert!(!near, "{url}");
        }
        Err(refusal) => assert!(refusal.to_string().contains("--allow-registry"), "{refusal}"),
    }
});
