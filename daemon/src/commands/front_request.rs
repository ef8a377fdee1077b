//! How a request reaches a daemon's front: as to a mirror of the registry, or as to a forward proxy.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Empty;
use url::{Position, Url};

use crate::config::Registry;

/// Whose a URL is, if its path is one of a registry.
pub(crate) fn registry_of(url: &Url) -> Option<Registry> {
    if !url.path().starts_with("/v2/") {
        return None;
    }
    url[..Position::BeforePath].parse().ok()
}

/// A GET of that URL, of which the whole is wanted, without credentials.
///
/// # Errors
/// It cannot be asked for.
pub(crate) fn get(
    front: SocketAddr,
    registry: Option<&Registry>,
    url: &Url,
) -> Result<Request<Empty<Bytes>>, http::Error> {
    let mut request = Request::get("/");
    if let Some(registry) = registry {
        let target = &url[Position::BeforePath..Position::AfterQuery];
        request = request
            .uri(target)
            .header(header::HOST, front.to_string())
            .header("X-Dragonfly-Registry", registry.to_string());
    } else {
        // The front takes it for https too.
        request = request.uri(url.as_str()).header(header::HOST, url.authority());
    }
    request
        .header(header::ACCEPT_ENCODING, "identity")
        .header(header::USER_AGENT, concat!("darter/", env!("CARGO_PKG_VERSION")))
        .body(Empty::new())
}
