//! One request to a daemon's port over a connection of its own: the daemon is on this machine, or near.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::origin::innermost;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// Nobody listens there, or cannot be reached.
    #[error("{0}")]
    Connect(String),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// Nothing came for so long.
    #[error("nothing came for {} s", .0.as_secs())]
    Silent(Duration),
    /// More than the caller has use for.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
}

/// Sends a request and waits for the head of its answer, for `silence` at most. The target goes out as it stands,
/// with or without a host before the path.
pub(crate) async fn send(
    address: SocketAddr,
    request: Request<Empty<Bytes>>,
    silence: Duration,
) -> Result<Response<Incoming>, HttpError> {
    let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(address));
    let stream = match connecting.await {
        Err(_) => {
            return Err(HttpError::Connect(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())));
        }
        Ok(Err(error)) => return Err(HttpError::Connect(error.to_string())),
        Ok(Ok(stream)) => stream,
    };
    let broken = |error: hyper::Error| HttpError::Broken(innermost(&error));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // It ends with the answer's body; what went wrong is told to whoever reads that.
    tokio::spawn(connection);
    let answer = timeout(silence, sender.send_request(request)).await;
    answer.map_err(|_| HttpError::Silent(silence))?.map_err(broken)
}

/// The body of an answer, if it is not longer than `bytes_max`.
pub(crate) async fn whole(
    answer: Response<Incoming>,
    bytes_max: usize,
    silence: Duration,
) -> Result<(StatusCode, http::HeaderMap, Bytes), HttpError> {
    let (head, body) = answer.into_parts();
    let body = timeout(silence, Limited::new(body, bytes_max).collect()).await;
    match body.map_err(|_| HttpError::Silent(silence))? {
        Ok(body) => Ok((head.status, head.headers, body.to_bytes())),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(HttpError::TooLong(bytes_max)),
        Err(error) => Err(HttpError::Broken(innermost(&*error))),
    }
}
