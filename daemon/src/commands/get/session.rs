//! Requests through the front, with the credentials that the registry asks for.
//!
//! A registry answers 401 and says where tokens are given out; the token is asked for there directly, as containerd
//! does it, with the name and password of that registry if `docker login` has stored some. They go to the registry
//! and to the place that it names, and to the latter over https unless the registry itself is without.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hyper::body::Incoming;
use serde::Deserialize;
use url::Url;

use super::credentials::{self, Basic};
use crate::commands::wire::{self, HttpError};
use crate::commands::{CommandError, front_request, text};
use crate::config::{Registry, Scheme};
use crate::front::trouble::Trouble;
use crate::origin::challenge::BearerChallenge;
use crate::origin::content_range::number;
use crate::origin::innermost;

/// How long the front may be silent: it waits for slow registries for 30 s.
pub(in crate::commands) const SILENCE: Duration = Duration::from_secs(90);
const TOKEN_TIMEOUT: Duration = Duration::from_secs(30);
const TOKEN_BYTES_MAX: usize = 64 << 10;
const REFUSAL_BYTES_MAX: usize = 16 << 10;
const SHOWN_CHARS_MAX: usize = 300;

/// All requests of one `darter get`.
#[derive(Debug)]
pub(in crate::commands) struct Session {
    front: SocketAddr,
    registry: Option<Registry>,
    credentials: Option<Basic>,
    authorization: RefCell<Option<HeaderValue>>,
    /// What opens a place that is private, where `docker login` does not.
    advice: Option<String>,
    tokens: reqwest::Client,
}

/// Why a request brought no content.
#[derive(Debug)]
pub(in crate::commands) enum Trying {
    /// Another try may help, perhaps after the time that the server asks for.
    Again(String, Option<Duration>),
    /// None will.
    No(CommandError),
}

impl From<CommandError> for Trying {
    fn from(error: CommandError) -> Self {
        Self::No(error)
    }
}

impl Session {
    pub(in crate::commands) fn new(
        front: SocketAddr,
        registry: Option<Registry>,
    ) -> Result<Self, CommandError> {
        let tokens =
            reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(TOKEN_TIMEOUT);
        let tokens = tokens.build().map_err(|error| {
            CommandError::Failed(format!("the client for tokens cannot be made: {}", innermost(&error)))
        })?;
        let credentials = registry.as_ref().and_then(credentials::of);
        Ok(Self { front, registry, credentials, authorization: RefCell::default(), advice: None, tokens })
    }

    /// The same, for a place that something else opens than `docker login`.
    pub(in crate::commands) fn advising(self, advice: String) -> Self {
        Self { advice: Some(advice), ..self }
    }

    /// The answer to a GET that is neither a demand for credentials that we have nor a refusal.
    pub(in crate::commands) async fn get(
        &self,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, Trying> {
        let answer = self.send(url, headers, self.authorization()).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return self.judged(url, answer).await;
        }
        let Some(fresh) = self.authorize_anew(answer.headers()).await? else {
            return self.judged(url, answer).await;
        };
        let answer = self.send(url, headers, Some(fresh)).await?;
        self.judged(url, answer).await
    }

    /// What the registry was shown last.
    pub(in crate::commands) fn authorization(&self) -> Option<HeaderValue> {
        self.authorization.borrow().clone()
    }

    /// What it is to be shown after this refusal, from now on; `None` if there is nothing.
    pub(in crate::commands) async fn authorize_anew(
        &self,
        refusal: &HeaderMap,
    ) -> Result<Option<HeaderValue>, CommandError> {
        let fresh = self.authorize(refusal).await?;
        if fresh.is_some() {
            self.authorization.borrow_mut().clone_from(&fresh);
        }
        Ok(fresh)
    }

    async fn send(
        &self,
        url: &Url,
        headers: &HeaderMap,
        authorization: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, Trying> {
        let request = front_request::get(self.front, self.registry.as_ref(), url);
        let mut request = request
            .map_err(|error| CommandError::Usage(format!("{} cannot be asked for: {error}", url.path())))?;
        for (name, value) in headers {
            request.headers_mut().insert(name, value.clone());
        }
        if let Some(authorization) = authorization {
            request.headers_mut().insert(header::AUTHORIZATION, authorization);
        }
        wire::send(self.front, request, SILENCE).await.map_err(|error| match error {
            HttpError::Connect(reason) => Trying::No(CommandError::Unreachable(format!(
                "no daemon answers at {} ({reason}): start one with `darter serve`, or name its front with --front",
                self.front
            ))),
            error => Trying::Again(format!("the front at {}: {error}", self.front), None),
        })
    }

    /// What to say so that the registry lets us in; `None` if there is nothing.
    async fn authorize(&self, refusal: &HeaderMap) -> Result<Option<HeaderValue>, CommandError> {
        let Some(registry) = &self.registry else { return Ok(None) };
        if let Some(challenge) = BearerChallenge::find(refusal) {
            return self.token(registry, &challenge).await.map(Some);
        }
        let basic = refusal.get_all(header::WWW_AUTHENTICATE).iter().any(|value| {
            value.to_str().is_ok_and(|value| value.trim_start().to_ascii_lowercase().starts_with("basic"))
        });
        Ok(self.credentials.as_ref().filter(|_| basic).map(Basic::header))
    }

    async fn token(
        &self,
        registry: &Registry,
        challenge: &BearerChallenge,
    ) -> Result<HeaderValue, CommandError> {
        #[derive(Deserialize)]
        struct Given {
            token: Option<String>,
            access_token: Option<String>,
        }
        let realm = &challenge.realm;
        let failed = |what: &str| {
            let place = text::plain(realm.as_str(), SHOWN_CHARS_MAX);
            CommandError::Failed(format!("{registry} gives out tokens at {place}, and that {what}"))
        };
        let mut request = self.tokens.get(challenge.token_url(None));
        let safe = realm.scheme() == "https" || registry.scheme() == Scheme::Http;
        if let Some(basic) = self.credentials.as_ref().filter(|_| safe) {
            request = request.header(header::AUTHORIZATION, basic.header());
        }
        let answer = request.send().await;
        let answer = answer.map_err(|error| failed(&format!("cannot be reached: {}", innermost(&error))))?;
        let status = answer.status();
        if !status.is_success() {
            let host = registry.authority();
            return Err(failed(&format!("answers {status}: is `docker login {host}` needed, or again?")));
        }
        let mut body = Vec::new();
        let mut parts = answer.bytes_stream();
        while let Some(part) = parts.next().await {
            body.extend_from_slice(&part.map_err(|error| failed(&innermost(&error)))?);
            if body.len() > TOKEN_BYTES_MAX {
                return Err(failed(&format!("answers more than {TOKEN_BYTES_MAX} bytes")));
            }
        }
        let given: Given =
            serde_json::from_slice(&body).map_err(|_| failed("answers no JSON with a token"))?;
        let token = given.token.or(given.access_token).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| failed("answers no token"))?;
        let mut header = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| failed("answers a token of odd characters"))?;
        header.set_sensitive(true);
        Ok(header)
    }

    /// An answer with content, or 416, which tells of content; all else as an error.
    pub(in crate::commands) async fn judged(
        &self,
        url: &Url,
        answer: Response<Incoming>,
    ) -> Result<Response<Incoming>, Trying> {
        if matches!(
            answer.status(),
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE
        ) {
            return Ok(answer);
        }
        let status = answer.status();
        let ours = answer.headers().contains_key("x-dragonfly-error-type");
        let pause = answer.headers().get(header::RETRY_AFTER).and_then(|value| number(value.to_str().ok()?));
        let body = match wire::whole(answer, REFUSAL_BYTES_MAX, SILENCE).await {
            Ok((_, _, body)) => String::from_utf8_lossy(&body).into_owned(),
            Err(_) => String::new(),
        };
        let said = text::plain(&body, SHOWN_CHARS_MAX);
        let whose = if ours { "the daemon" } else { url.host_str().unwrap_or("the origin") };
        let message = format!(
            "{whose} answers {status} for {}{}{said}",
            url.path(),
            if said.is_empty() { "" } else { ": " }
        );
        Err(match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Trying::No(CommandError::NotFound(message)),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let login = || format!("`docker login {}`", url.host_str().unwrap_or_default());
                let advice = self.advice.clone().unwrap_or_else(login);
                Trying::No(CommandError::Failed(format!("{message}; if it is private: {advice}")))
            }
            _ if ours && body.contains(&Trouble::WrongDigest.to_string()) => {
                Trying::No(CommandError::WrongBytes(message))
            }
            // The daemon tells when to come back, unless something must be changed first.
            StatusCode::BAD_GATEWAY if ours && pause.is_none() => Trying::No(CommandError::Failed(message)),
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::BAD_GATEWAY
            | StatusCode::GATEWAY_TIMEOUT => Trying::Again(message, pause.map(Duration::from_secs)),
            _ => Trying::No(CommandError::Failed(message)),
        })
    }
}
