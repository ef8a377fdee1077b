//! The daemon's own refusals and trouble, as answers.
//!
//! nydusd falls back to the origin on 5xx only, and containerd on 404 and 5xx: so our own trouble is 502, 503 or
//! 504, before any header was sent, and says that it is ours. The origin's verdicts are not in here.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::body::AnswerBody;
use super::connect::ConnectError;
use super::route::RouteError;
use crate::fetch::FetchError;
use crate::metrics::Source;
use crate::origin::OriginError;

/// What went wrong before the headers of an answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Trouble {
    /// The request cannot be routed: 502, so that clients fall back.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The request makes no sense: 400.
    #[error("{0}")]
    Request(&'static str),
    /// A registry leads back to this front: 502.
    #[error(
        "the request has been through this front before: name the registry itself, not something that leads back here"
    )]
    Loop,
    /// The content cannot be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Not in time: 503.
    #[error("the registry has not delivered in time")]
    Late,
    /// Limits are reached: 503.
    #[error("this node is at its limits")]
    Busy,
    /// Removed from the store while its whole digest was waited for: 503.
    #[error("the content was removed while it was read; ask again")]
    Gone,
    /// A request for a token, of a registry that has named no such realm: 502.
    #[error(
        "the registry has named no realm with this path, so the request for a token is sent nowhere: ask for something of the registry first, or ask the realm itself"
    )]
    NoRealm,
    /// A CONNECT, or a request on what it has opened: by what is wrong.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The bytes that the registry delivered are not those of the digest: 502.
    #[error("the registry delivers bytes that are not those of the digest")]
    WrongDigest,
}

impl Trouble {
    /// Whether the same request may get another answer in a moment. Else something must be changed first, which the
    /// message names.
    fn may_pass(&self) -> bool {
        match self {
            Self::Late | Self::Busy | Self::Gone => true,
            Self::Connect(error) => error.may_pass(),
            Self::Fetch(FetchError::Busy | FetchError::Verdict(_)) => true,
            Self::Fetch(FetchError::Origin(error)) => matches!(error, OriginError::Unreachable { .. }),
            _ => false,
        }
    }

    /// Whether limits of this node are reached: another time it might have been answered.
    pub(super) fn is_of_load(&self) -> bool {
        matches!(self, Self::Busy | Self::Fetch(FetchError::Busy) | Self::Connect(ConnectError::Full))
    }

    /// The answer, and whose it is. A verdict of the origin is passed on; everything else is marked as the proxy's.
    pub fn answer(&self) -> (Response<AnswerBody>, Source) {
        let status = match self {
            Self::Request(_) | Self::Route(RouteError::Option(_)) => StatusCode::BAD_REQUEST,
            Self::Route(RouteError::Forbidden) => StatusCode::FORBIDDEN,
            Self::Connect(error) => error.status(),
            Self::Route(_)
            | Self::NoRealm
            | Self::Loop
            | Self::WrongDigest
            | Self::Fetch(FetchError::Origin(_) | FetchError::Unkeepable | FetchError::WrongDigest) => {
                StatusCode::BAD_GATEWAY
            }
            Self::Fetch(FetchError::Unsatisfiable { .. }) => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Late | Self::Busy | Self::Gone | Self::Fetch(FetchError::Busy) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Fetch(FetchError::Verdict(verdict)) => {
                // nydusd retries a 429 twenty times and gives up; a 5xx lets it go to the origin itself.
                let ours = match verdict.status {
                    StatusCode::TOO_MANY_REQUESTS => Some(StatusCode::SERVICE_UNAVAILABLE),
                    status if status.is_server_error() || status.is_redirection() => {
                        Some(StatusCode::BAD_GATEWAY)
                    }
                    _ => None,
                };
                match ours {
                    Some(status) => status,
                    None => {
                        let mut answer = Response::new(AnswerBody::full(verdict.body.clone()));
                        *answer.status_mut() = verdict.status;
                        *answer.headers_mut() = verdict.headers.clone();
                        return (answer, Source::Origin);
                    }
                }
            }
        };
        let mut answer = Response::new(AnswerBody::full(Bytes::from(format!("darter: {self}\n"))));
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        if self.may_pass() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        headers.insert("x-dragonfly-error-type", HeaderValue::from_static("proxy"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        (answer, Source::Own)
    }
}
