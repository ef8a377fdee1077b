//! The route of a request: a byte that chooses method and front, then a line with the URI and a line with
//! `X-Dragonfly-Registry`.
//!
//! Only a GET of a digest goes through the cache, and what is asked of the registry names that digest. A front that
//! is open to others asks no registry that is not configured. An upstream that is named once more, as itself, is the
//! same.
#![no_main]

use std::sync::LazyLock;

use darter::config::{Override, RawConfig, Registry, Surroundings, resolve};
use darter::front::route::{Route, RouteError, Routing, Upstream};
use http::{HeaderMap, HeaderValue, Method, Uri};
use libfuzzer_sys::fuzz_target;

const CONFIGURED: [&str; 2] = ["https://registry.example", "https://ghcr.io"];

static ON_LOOPBACK: LazyLock<Routing> = LazyLock::new(|| routing("127.0.0.1"));
static OPEN_TO_OTHERS: LazyLock<Routing> = LazyLock::new(|| routing("0.0.0.0"));

fuzz_target!(|input: (u8, &str)| {
    let (choice, text) = input;
    let (uri, registry) = text.split_once('\n').unwrap_or((text, ""));
    let Ok(uri) = uri.parse::<Uri>() else { return };
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(registry)
        && !registry.is_empty()
    {
        headers.insert("x-dragonfly-registry", value);
    }
    let method = [Method::GET, Method::HEAD, Method::POST, Method::OPTIONS][usize::from(choice & 3)].clone();
    let open = choice & 4 != 0;
    let routing: &Routing = if open { &OPEN_TO_OTHERS } else { &ON_LOOPBACK };
    let upstream = match routing.route(&method, &uri, &headers) {
        Ok(Route::Ping) => return assert_eq!(uri.path(), "/server/ping"),
        Ok(Route::Blob { upstream, id }) => {
            assert_eq!(method, Method::GET);
            let path = upstream.path_and_query.split('?').next().unwrap_or_default();
            assert!(path.ends_with(&format!("/blobs/sha256:{id}")), "{path} is not of {id}");
            upstream
        }
        Ok(Route::Pass(upstream)) => upstream,
        Err(RouteError::NotAllowed { .. }) => return assert!(open),
        Err(RouteError::Registry { .. }) => return,
    };
    let name = upstream.registry.to_string();
    if open {
        assert!(CONFIGURED.contains(&name.as_str()), "{name}");
    }
    check_named_again(routing, &method, &upstream);
});

/// What goes upstream, sent to the front itself under the registry's own name, goes to the same place.
fn check_named_again(routing: &Routing, method: &Method, upstream: &Upstream) {
    let name = upstream.registry.to_string();
    assert_eq!(Registry::from_reference(&name).as_ref(), Ok(&upstream.registry));
    let Ok(uri) = upstream.path_and_query.parse::<Uri>() else {
        panic!("{:?} came out of a URI and is none", upstream.path_and_query)
    };
    let mut headers = HeaderMap::new();
    headers.insert("x-dragonfly-registry", HeaderValue::try_from(name).expect("a registry's name is plain"));
    match routing.route(method, &uri, &headers) {
        Ok(Route::Blob { upstream: again, .. } | Route::Pass(again)) => assert_eq!(again, *upstream),
        // An absolute URL may have the path of a ping, or none that a server can be asked for.
        Ok(Route::Ping) => assert_eq!(uri.path(), "/server/ping"),
        Err(error) => panic!("{error}"),
    }
}

fn routing(front: &str) -> Routing {
    let given = |key, text: &str| Override { key, flag: "--flag", text: text.to_owned() };
    let flags = [
        given("proxy.tcpListen.listen", front),
        given("proxy.registryMirror.url", CONFIGURED[0]),
        given("proxy.allowedRegistries[]", "ghcr.io"),
    ];
    let resolved = resolve(&RawConfig::default(), &flags, &Surroundings::default()).expect("right flags");
    Routing::new(&resolved.settings)
}
