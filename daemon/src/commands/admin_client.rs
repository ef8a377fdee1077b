//! The admin API as its commands use it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::Empty;
use serde::de::DeserializeOwned;
use url::form_urlencoded;

use super::text::plain;
use super::wire::{self, HttpError};
use super::{AdminArgs, CommandError, secret_header};
use crate::admin::api::{self, Code, ContentInfo, PAGE_MAX, Page, Problem, Refused};
use crate::admin::reference::ContentRef;

/// Longest answer that is read: a page at its longest has a tenth of that.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// A verification reads a content through before it answers, at the speed of a disk.
const VERIFY_SILENCE: Duration = Duration::from_secs(6 * 3600);
const SILENCE: Duration = Duration::from_secs(60);
const SHOWN_CHARS_MAX: usize = 400;

/// The daemon whose admin port that is.
#[derive(Clone, Debug)]
pub(super) struct AdminClient {
    address: SocketAddr,
    args: AdminArgs,
}

impl AdminClient {
    pub(super) fn new(args: &AdminArgs) -> Self {
        Self { address: args.admin, args: args.clone() }
    }

    /// The answer of `METHOD /api/v1/PATH`.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> Result<T, CommandError> {
        let address = self.address;
        let silence = if path.contains("/verify") { VERIFY_SILENCE } else { SILENCE };
        // What changes nothing needs no token, and nothing goes over a network in vain.
        let token = if method == Method::GET { None } else { self.args.token()? };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}/{path}", api::ROOT))
            .header(header::HOST, address.to_string())
            .body(Empty::<Bytes>::new())
            .map_err(|error| CommandError::Failed(error.to_string()))?;
        if let Some(token) = token {
            let shown = secret_header(&format!("Bearer {token}"))?;
            request.headers_mut().insert(header::AUTHORIZATION, shown);
        }
        let answered = async {
            wire::whole(wire::send(address, request, silence).await?, ANSWER_BYTES_MAX, silence).await
        };
        let (status, _, body) = answered.await.map_err(|error| failed(address, error))?;
        if status.is_success()
            && let Ok(value) = serde_json::from_slice(&body)
        {
            return Ok(value);
        }
        let Ok(Refused { error }) = serde_json::from_slice(&body) else {
            let said = plain(&String::from_utf8_lossy(&body), SHOWN_CHARS_MAX);
            return Err(CommandError::Failed(format!(
                "{address} is not the admin port of a darter of this version: it answers {status} ({said}); name \
                 another with --admin"
            )));
        };
        Err(refusal(&error))
    }

    /// The text of `/metrics`.
    pub(super) async fn metrics(&self) -> Result<String, CommandError> {
        let address = self.address;
        let request = Request::get("/metrics").header(header::HOST, address.to_string());
        let request = request.body(Empty::<Bytes>::new());
        let request = request.map_err(|error| CommandError::Failed(error.to_string()))?;
        let answered = async {
            wire::whole(wire::send(address, request, SILENCE).await?, ANSWER_BYTES_MAX, SILENCE).await
        };
        let (status, _, body) = answered.await.map_err(|error| failed(address, error))?;
        if status.is_success() {
            return Ok(String::from_utf8_lossy(&body).into_owned());
        }
        Err(CommandError::Failed(format!(
            "{address} answers {status} to /metrics: set metrics.enable: true in its configuration, or name the admin \
             port of another darter with --admin"
        )))
    }

    /// All contents, page by page, in the order of their ids.
    pub(super) async fn contents(&self) -> Result<Vec<ContentInfo>, CommandError> {
        let mut contents = Vec::new();
        let mut after = String::new();
        loop {
            let path = format!("contents?limit={PAGE_MAX}{after}");
            let page: Page = self.call(Method::GET, &path).await?;
            contents.extend(page.contents);
            match page.next {
                Some(next) => after = format!("&after={next}"),
                None => return Ok(contents),
            }
        }
    }
}

fn failed(address: SocketAddr, error: HttpError) -> CommandError {
    match error {
        HttpError::Connect(reason) => unreachable(address, &reason),
        error => CommandError::Failed(format!("the admin port at {address} gave no answer: {error}")),
    }
}

/// Nobody listens there.
pub(super) fn unreachable(address: SocketAddr, reason: &str) -> CommandError {
    CommandError::Unreachable(format!(
        "no daemon answers at {address} ({reason}): start one with `darter serve`, or name its admin port with --admin"
    ))
}

/// What a refusal of the admin port comes to.
pub(super) fn refusal(refusal: &Problem) -> CommandError {
    let message = shown(refusal);
    match refusal.code {
        Code::NotFound => CommandError::NotFound(message),
        Code::BadRequest | Code::Ambiguous => CommandError::Usage(message),
        _ => CommandError::Failed(message),
    }
}

/// A refusal for people; of a configuration, a line for each of its problems.
fn shown(refusal: &Problem) -> String {
    if refusal.problems.is_empty() {
        return plain(&refusal.message, SHOWN_CHARS_MAX);
    }
    refusal.message.lines().map(|line| plain(line, SHOWN_CHARS_MAX)).collect::<Vec<_>>().join("\n")
}

/// The path of a content below the API's root, with what is to be done to it.
pub(super) fn content_path(id: &ContentRef, verb: &str, registry: Option<&str>) -> String {
    let mut path = format!("contents/{id}{verb}");
    if let Some(registry) = registry {
        let query =
            form_urlencoded::Serializer::new(String::new()).append_pair("registry", registry).finish();
        path += &format!("?{query}");
    }
    path
}
