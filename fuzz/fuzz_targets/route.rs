//! The route of a request: a byte that chooses method and front, then a line with the URI and a line with
//! `X-Dragonfly-Registry`.
//!
//! Only a GET or HEAD is about a content, and what is asked of the registry names its digest. Nothing that a client
//! writes leads elsewhere than to the registry of the route, and a front that is open to others asks no
//! registry that is not configured. An upstream that is named once more, as itself, is the same.
#![no_main]

use std::sync::LazyLock;

use darter::config::{Override, RawConfig, Registry, Surroundings, resolve};
use darter::front::route::{Errand, Kind, Route, RouteError, Routing, Upstream, What};
use darter::origin::Target;
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
    let Errand { upstream, what, filter, .. } = match routing.route(&method, &uri, &headers) {
        Ok(Route::Ping) => return assert_eq!(uri.path(), "/server/ping"),
        Ok(Route::Errand(errand)) => errand,
        Err(RouteError::NotAllowed { .. }) => return assert!(open),
        Err(RouteError::Registry { .. }) => return,
        Err(error) => panic!("no such header was sent: {error}"),
    };
    let is_read = matches!(method, Method::GET | Method::HEAD);
    let digest = match what {
        What::Content { id, kind: Kind::Blob } => Some(format!("/blobs/sha256:{id}")),
        What::Content { id, kind: Kind::Manifest } => Some(format!("/manifests/sha256:{id}")),
        What::Content { kind: Kind::Url, .. } | What::Tag | What::Other => None,
    };
    assert!(is_read || what == What::Other);
    let name = upstream.registry.to_string();
    if open {
        assert!(CONFIGURED.contains(&name.as_str()), "{name}");
    }
    if let Some(target) = Target::new(upstream.registry.clone(), &upstream.path_and_query, &headers, &filter)
    {
        let url = target.url();
        assert_eq!(url.origin().ascii_serialization().parse::<Registry>().as_ref(), Ok(&upstream.registry));
        assert!(digest.is_none_or(|digest| url.path().ends_with(&digest)), "{url}");
    }
    // `*` and the authority form have no path that could be asked for again.
    if uri.path().starts_with('/') {
        check_named_again(routing, &method, &upstream);
    }
});

/// What goes upstream, sent to the front itself under the registry's own name, goes to the same place.
fn check_named_again(routing: &Routing, method: &Method, upstream: &Upstream) {
    let name = upstream.registry.to_string();
    assert_eq!(Registry::from_reference(&name).as_ref(), Ok(&upstream.registry));
    let uri: Uri = upstream.path_and_query.parse().expect("it came out of a URI");
    let mut headers = HeaderMap::new();
    headers.insert("x-dragonfly-registry", HeaderValue::try_from(name).expect("a registry's name is plain"));
    match routing.route(method, &uri, &headers) {
        Ok(Route::Errand(Errand { upstream: again, .. })) => assert_eq!(again, *upstream),
        // As a proxy the front is asked by URL for another server's `/server/ping`.
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
