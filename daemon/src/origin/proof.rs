//! What the registry says about who may read, without moving content: heads, and tokens for anybody.
//!
//! Nothing here follows a redirect: where a registry sends a request elsewhere, it has said yes.

use std::time::Duration;

use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::Deserialize;

use super::challenge::BearerChallenge;
use super::{Origin, OriginError, Target, innermost};
use crate::trace::Trace;

/// How long a realm may take for a whole answer.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer of a realm. Tokens are JSON web tokens of some kilobytes, and their headers have to fit into ours.
const TOKEN_BODY_BYTES_MAX: usize = 64 * 1024;

/// The registry's own answer, of which only the head counts.
#[derive(Clone, Debug)]
pub struct OriginHead {
    /// As it came; a redirect too.
    pub status: StatusCode,
    /// Without those that end at each hop.
    pub headers: HeaderMap,
}

impl Origin {
    /// Asks the registry itself about a target, with the client's credentials and without its range and conditions:
    /// one HEAD, or a GET of the first byte where HEAD is not understood.
    ///
    /// # Errors
    /// No answer. A refusal is an answer.
    pub async fn head(&self, target: &Target) -> Result<OriginHead, OriginError> {
        let mut headers = target.clone().for_blob().headers().clone();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let (head, _) = self.send(target, Method::HEAD, target.url(), headers.clone()).await?;
        let response = match head.status() {
            StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
                self.send(target, Method::GET, target.url(), headers).await?.0
            }
            _ => head,
        };
        // The body goes with the response.
        Ok(OriginHead { status: response.status(), headers: super::end_to_end(response.headers()) })
    }

    /// Asks a realm, as anybody, for a token to pull from a repository: the value of `Authorization` that goes with
    /// it, or `None` where the realm gives none to anybody.
    ///
    /// # Errors
    /// No answer, or one without a token that can be used.
    pub async fn anonymous_token(
        &self,
        challenge: &BearerChallenge,
        repository: &str,
    ) -> Result<Option<HeaderValue>, OriginError> {
        let realm = challenge.realm.origin().ascii_serialization();
        let late = || OriginError::Unreachable {
            registry: realm.clone(),
            reason: format!("no token within {} s", TOKEN_TIMEOUT.as_secs()),
        };
        let asked = self.ask_realm(challenge, repository, &realm);
        tokio::time::timeout(TOKEN_TIMEOUT, asked).await.map_err(|_| late())?
    }

    async fn ask_realm(
        &self,
        challenge: &BearerChallenge,
        repository: &str,
        realm: &str,
    ) -> Result<Option<HeaderValue>, OriginError> {
        let unreachable = |reason| OriginError::Unreachable { registry: realm.to_owned(), reason };
        let unusable =
            |reason: &str| OriginError::Unusable { registry: realm.to_owned(), reason: reason.into() };
        let url = challenge.token_url(Some(&format!("repository:{repository}:pull")));
        // For all readers of the repository, so it is a part of nobody's request.
        let answer = self.dispatch(realm, self.request(realm, Method::GET, &url)?, &Trace::default()).await;
        let (response, _) = answer.map_err(|error| super::failed(realm.to_owned(), &url, &error))?;
        match response.status() {
            StatusCode::OK => {}
            // Overloaded or broken: that says nothing about who may read.
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(unreachable(format!("it answered {status}")));
            }
            _ => return Ok(None),
        }
        let mut body = Vec::new();
        let mut parts = response.bytes_stream();
        while let Some(part) = parts.next().await {
            let part = part.map_err(|error| unreachable(innermost(&error)))?;
            if body.len() + part.len() > TOKEN_BODY_BYTES_MAX {
                return Err(unusable("more than 64 KiB where a token was expected"));
            }
            body.extend_from_slice(&part);
        }
        bearer_of(&body).map(Some).ok_or_else(|| unusable("no token that can be used"))
    }
}

/// `Authorization` for the token in a realm's answer, which may have either of two names.
fn bearer_of(body: &[u8]) -> Option<HeaderValue> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let Answer { token, access_token } = serde_json::from_slice(body).ok()?;
    let token = token.or(access_token).filter(|token| !token.is_empty() && !token.contains([' ', '\t']))?;
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::OriginOptions;
    use super::*;

    fn check(body: &str, expected: Option<&str>) {
        let seen = bearer_of(body.as_bytes());
        assert_eq!(seen.as_ref().and_then(|value| value.to_str().ok()), expected, "{body}");
    }

    #[test]
    fn a_token_has_either_of_two_names() {
        check(r#"{"token":"a.b-c","expires_in":300}"#, Some("Bearer a.b-c"));
        check(r#"{"access_token":"x"}"#, Some("Bearer x"));
        check(r#"{"access_token":"x","token":"t"}"#, Some("Bearer t"));
        check(r#"{"access_token":"x","token":null}"#, Some("Bearer x"));
    }

    #[test]
    fn what_is_no_token_is_not_sent_on() {
        for body in ["", "{}", "[]", "x", r#"{"token":""}"#, r#"{"token":1}"#, r#"{"token":"a\r\nHost: b"}"#]
        {
            check(body, None);
        }
    }

    #[test]
    fn a_token_is_not_shown_in_messages() {
        let value = bearer_of(br#"{"token":"secret"}"#).unwrap();
        assert!(!format!("{value:?}").contains("secret"));
    }

    /// A server that answers by the method of a request, and the lines of the requests that it got.
    async fn serve(answer: fn(&str) -> &'static str) -> (std::net::SocketAddr, Rc<RefCell<Vec<String>>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Rc::new(RefCell::new(Vec::new()));
        let lines = asked.clone();
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let range = head.lines().find(|line| line.starts_with("range:")).unwrap_or_default();
                lines.borrow_mut().push(format!("{} {range}", head.lines().next().unwrap()));
                let answer = answer(head.split(' ').next().unwrap());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (address, asked)
    }

    fn on_a_local_set(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test);
    }

    async fn head_of(answer: fn(&str) -> &'static str) -> (u16, Vec<String>) {
        let (address, asked) = serve(answer).await;
        let mut client = HeaderMap::new();
        client.insert(header::RANGE, HeaderValue::from_static("bytes=5-9"));
        let target =
            Target::new(format!("http://{address}").parse().unwrap(), "/v2/x", &client, &[]).unwrap();
        let head = Origin::open().head(&target).await.unwrap();
        (head.status.as_u16(), asked.take())
    }

    #[test]
    fn one_head_is_asked_and_a_redirect_is_an_answer() {
        on_a_local_set(async {
            let redirect =
                |_: &str| "HTTP/1.1 307 X\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
            assert_eq!(head_of(redirect).await, (307, vec!["HEAD /v2/x HTTP/1.1 ".into()]));
            let forbidden = |_: &str| "HTTP/1.1 403 X\r\ncontent-length: 5\r\n\r\n";
            assert_eq!(head_of(forbidden).await, (403, vec!["HEAD /v2/x HTTP/1.1 ".into()]));
        });
    }

    #[test]
    fn where_head_is_not_understood_one_byte_is_asked() {
        on_a_local_set(async {
            let answer = |method: &str| match method {
                "HEAD" => "HTTP/1.1 405 X\r\nconnection: close\r\n\r\n",
                _ => "HTTP/1.1 206 X\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx",
            };
            let lines = ["HEAD /v2/x HTTP/1.1 ", "GET /v2/x HTTP/1.1 range: bytes=0-0"];
            assert_eq!(head_of(answer).await, (206, lines.map(str::to_owned).to_vec()));
        });
    }

    fn challenge(realm: &str) -> BearerChallenge {
        BearerChallenge::parse(&format!("Bearer realm=\"{realm}\",service=\"s\"")).unwrap()
    }

    #[test]
    fn a_realm_is_asked_as_anybody() {
        on_a_local_set(async {
            let check = async |answer, expected: Result<Option<&str>, ()>| {
                let (address, asked) = serve(answer).await;
                let token =
                    Origin::open().anonymous_token(&challenge(&format!("http://{address}/t")), "a/b").await;
                let seen =
                    token.map(|token| token.map(|token| token.to_str().unwrap().to_owned())).map_err(drop);
                assert_eq!(seen, expected.map(|token| token.map(str::to_owned)));
                let line = "GET /t?service=s&scope=repository%3Aa%2Fb%3Apull HTTP/1.1 ";
                assert_eq!(asked.take(), [line]);
            };
            check(|_| "HTTP/1.1 200 X\r\ncontent-length: 13\r\n\r\n{\"token\":\"x\"}", Ok(Some("Bearer x")))
                .await;
            check(|_| "HTTP/1.1 401 X\r\ncontent-length: 0\r\n\r\n", Ok(None)).await;
            check(|_| "HTTP/1.1 302 X\r\nlocation: /t2\r\ncontent-length: 0\r\n\r\n", Ok(None)).await;
            check(|_| "HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n", Err(())).await;
            check(|_| "HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\n{}", Err(())).await;
        });
    }

    #[test]
    fn a_realm_that_nobody_configured_is_asked_at_public_addresses_only() {
        on_a_local_set(async {
            let (address, asked) = serve(|_| "HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n").await;
            let settings = crate::config::load(None, &[]).unwrap().settings;
            let origin = Origin::new(&OriginOptions::new(&settings)).unwrap();
            for host in
                ["127.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "u:p@127.0.0.1", "localhost"]
            {
                let realm = format!("http://{host}:{}/t", address.port());
                let refused = origin.anonymous_token(&challenge(&realm), "a/b").await.unwrap_err();
                assert!(matches!(refused, OriginError::Forbidden { .. }), "{realm}: {refused}");
            }
            assert!(asked.borrow().is_empty(), "{asked:?}");
        });
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(body: Vec<u8>) {
            let _ = bearer_of(&body);
        }
    }
}
