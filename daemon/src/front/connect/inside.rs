//! Requests within a connection whose TLS ends here. They are for the place that the connection was opened to, and no
//! other; as requests of a forward proxy they name it in their URLs.

use http::{Request, Uri, header};

use super::{ConnectError, Place};

/// A request as it would have been sent to a forward proxy in the clear.
///
/// # Errors
/// It is for another place.
pub(crate) fn as_of_a_proxy<B>(request: Request<B>, place: &Place) -> Result<Request<B>, ConnectError> {
    let misdirected = |asked: &str| ConnectError::Misdirected {
        opened: place.to_string(),
        asked: asked.chars().take(200).collect(),
    };
    let uri = request.uri();
    if let Some(authority) = uri.authority() {
        let is_https = uri.scheme_str() == Some("https");
        if !is_https || Place::of_host_header(authority.as_str()).as_ref() != Ok(place) {
            return Err(misdirected(&uri.to_string()));
        }
    }
    // hyper takes one of several to be as good as none.
    for host in request.headers().get_all(header::HOST) {
        let text = host.to_str().unwrap_or("?");
        if Place::of_host_header(text).as_ref() != Ok(place) {
            return Err(misdirected(text));
        }
    }
    let path = uri.path_and_query().filter(|path| path.as_str().starts_with('/'));
    let path = path.ok_or_else(|| misdirected(&uri.to_string()))?.clone();
    let named = Uri::builder().scheme("https").authority(place.authority()?).path_and_query(path).build();
    let named = named.map_err(|_| misdirected(&uri.to_string()))?;
    let (mut head, body) = request.into_parts();
    head.uri = named;
    Ok(Request::from_parts(head, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(place: &str, uri: &str, hosts: &[&str]) -> Result<String, String> {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        let named = as_of_a_proxy(request.body(()).unwrap(), &place.parse().unwrap());
        named.map(|request| request.uri().to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_request_names_the_place_of_its_connection() {
        let ghcr = |uri, hosts: &[&str]| named("ghcr.io:443", uri, hosts);
        assert_eq!(ghcr("/v2/?a=b", &["ghcr.io"]).as_deref(), Ok("https://ghcr.io/v2/?a=b"));
        assert_eq!(ghcr("/v2/", &["GHCR.io:443"]).as_deref(), Ok("https://ghcr.io/v2/"));
        assert_eq!(ghcr("/v2/", &[]).as_deref(), Ok("https://ghcr.io/v2/"));
        assert_eq!(ghcr("https://ghcr.io/v2/", &["ghcr.io"]).as_deref(), Ok("https://ghcr.io/v2/"));
        assert_eq!(named("10.0.0.5:5000", "/", &["10.0.0.5:5000"]).as_deref(), Ok("https://10.0.0.5:5000/"));
    }

    #[test]
    fn a_request_for_another_place_is_misdirected() {
        let refused = |uri, hosts: &[&str]| {
            let error = named("ghcr.io:443", uri, hosts).unwrap_err();
            assert!(error.contains("was opened to ghcr.io:443"), "{error}");
        };
        refused("/v2/", &["quay.io"]);
        refused("/v2/", &["ghcr.io:444"]);
        refused("/v2/", &["ghcr.io", "quay.io"]);
        refused("/v2/", &["user@ghcr.io"]);
        refused("https://quay.io/v2/", &["ghcr.io"]);
        refused("http://ghcr.io/v2/", &["ghcr.io"]);
        refused("*", &["ghcr.io"]);
    }
}
