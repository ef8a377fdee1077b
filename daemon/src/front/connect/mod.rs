//! `CONNECT`: what a client of the forward proxy asks for where the URL is https.
//!
//! It is let through to the place as it is, a tunnel (`carry`), or, for hosts that the configuration names, its TLS
//! ends here (`inside`) and its requests are answered as those of the forward proxy in the clear are: then they find
//! what is cached.
//!
//! Where a client may go the destination guard says, as for every request, and beside what is configured only at the
//! port of https. What a tunnel leads to is checked on the address that is connected to.

pub(crate) mod carry;
pub(crate) mod inside;
pub mod place;
pub(crate) mod seats;

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{StatusCode, Uri};
use rustls::ServerConfig;

pub use place::{NoPlace, Place};
pub(crate) use seats::{Seat, Seats};

use self::carry::Upstream;
use super::Front;
use super::route::RouteError;
use super::trouble::Trouble;
use crate::metrics::ConnectFate;
use crate::origin::DialError;
use crate::termination::AuthorityError;

/// What a client that has sent CONNECT is then given.
pub(crate) struct Opened {
    pub(crate) seat: Seat,
    pub(crate) end: FarEnd,
}

/// Who is at the other end.
pub(crate) enum FarEnd {
    /// Somebody else.
    Upstream(Upstream),
    /// This node, in that place's stead.
    Here(Rc<Inside>),
}

/// A place that this node stands for.
pub(crate) struct Inside {
    pub(crate) place: Place,
    pub(crate) tls: Arc<ServerConfig>,
}

/// Why a CONNECT opens nothing. Each message says what to do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not `HOST:PORT`.
    #[error("CONNECT takes HOST:PORT, and of what was sent {0}")]
    Place(#[from] NoPlace),
    /// Within another one.
    #[error("a CONNECT within one whose TLS ends here; send it to the proxy itself")]
    Nested,
    /// A request over TLS is for another host than its connection.
    #[error("this connection was opened to {opened}, and a request on it is for {asked}")]
    Misdirected {
        /// What CONNECT said.
        opened: String,
        /// What the request says.
        asked: String,
    },
    /// Nobody has configured it.
    #[error(
        "{0} is not configured, and only port 443 is open without that: start darter with --allow-registry {0}, or add \
         it to proxy.allowedRegistries"
    )]
    Port(Place),
    /// The front is open to others.
    #[error(transparent)]
    NotAllowed(RouteError),
    /// The other end.
    #[error(transparent)]
    Dial(#[from] Dial),
    /// All seats are taken.
    #[error("as many tunnels are open as this node may have; ask again")]
    Full,
    /// No certificate for it.
    #[error("TLS to {place} cannot be ended here: {reason}")]
    Certificate {
        /// For whom.
        place: Place,
        /// Why.
        reason: String,
    },
}

/// Why the other end is not reached.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct Dial(DialError);

impl ConnectError {
    /// Of the answer.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Place(_) | Self::Nested => StatusCode::BAD_REQUEST,
            Self::Misdirected { .. } => StatusCode::MISDIRECTED_REQUEST,
            Self::Port(_) | Self::NotAllowed(_) | Self::Dial(Dial(DialError::Forbidden { .. })) => {
                StatusCode::FORBIDDEN
            }
            Self::Dial(Dial(DialError::Late { .. })) => StatusCode::GATEWAY_TIMEOUT,
            Self::Dial(_) | Self::Certificate { .. } => StatusCode::BAD_GATEWAY,
            Self::Full => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Whether the same may be had in a moment.
    pub(super) fn may_pass(&self) -> bool {
        let of_dial = |error: &DialError| !matches!(error, DialError::Forbidden { .. });
        matches!(self, Self::Full) || matches!(self, Self::Dial(Dial(error)) if of_dial(error))
    }

    fn fate(&self) -> ConnectFate {
        match self {
            Self::Full => ConnectFate::Shed,
            error if error.status() == StatusCode::FORBIDDEN || error.status() == StatusCode::BAD_REQUEST => {
                ConnectFate::Refused
            }
            _ => ConnectFate::Failed,
        }
    }
}

impl Front {
    /// Opens what a CONNECT asks for.
    ///
    /// # Errors
    /// The client may not go there, nobody is there, or there are too many.
    pub(super) async fn connect(&self, uri: &Uri) -> Result<Opened, Trouble> {
        let opened = self.open(uri).await;
        let fate = match &opened {
            Ok(Opened { end: FarEnd::Upstream(_), .. }) => ConnectFate::Tunnel,
            Ok(Opened { end: FarEnd::Here(_), .. }) => ConnectFate::Terminated,
            Err(error) => error.fate(),
        };
        self.shared.seats().counts().asked(fate);
        opened.map_err(Trouble::from)
    }

    async fn open(&self, uri: &Uri) -> Result<Opened, ConnectError> {
        let place = Place::of_connect(uri)?;
        let url = place.url()?;
        self.routing.may_serve(&place.registry()?).map_err(ConnectError::NotAllowed)?;
        let is_configured = self.origin.is_configured(&url).map_err(Dial)?;
        if !is_configured && !place.has_https_port() {
            return Err(ConnectError::Port(place));
        }
        let seat = self.shared.seats().take().ok_or(ConnectError::Full)?;
        let termination = self.termination.as_ref().filter(|termination| termination.takes(&place));
        let end = if let Some(termination) = termination {
            let tls = termination.config_for(&place).await;
            let failed = |error: AuthorityError| ConnectError::Certificate {
                place: place.clone(),
                reason: error.to_string(),
            };
            FarEnd::Here(Rc::new(Inside { tls: tls.map_err(failed)?, place }))
        } else {
            let (stream, seen): (_, Bytes) = self.origin.dial(&url).await.map_err(Dial)?;
            FarEnd::Upstream(Upstream { stream, seen })
        };
        Ok(Opened { seat, end })
    }
}
