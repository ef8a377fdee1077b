//! Profiles of this daemon, in the form and at the paths that `go tool pprof` knows: `pprofPort`, on loopback, off by default.
//!
//! One profile is taken at a time ([`cpu`]); the engine's `sampler` has the signal handler. There is no profile of the heap: it
//! would need another allocator, of which the memory under slow readers would have to be measured anew.

mod cpu;
mod modules;
mod pprof;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use darter_engine::sampler::{HZ_MAX, SamplerError};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use url::form_urlencoded;

use self::cpu::Asked;
use crate::admin::connection::{self, Places};
use crate::admin::guard::Ends;

const SECONDS_MAX: u64 = 60;
/// As `net/http/pprof` of Go, by which tools set their patience.
const SECONDS_DEFAULT: u64 = 30;
/// In step with nothing that happens each 10 ms.
const HZ_DEFAULT: u32 = 99;
const INDEX: &str = "/debug/pprof/";
const CPU: &str = "/debug/pprof/profile";
const PAGE: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>darter: profiles</title>\
<h1>Profiles of this darter</h1>\
<p><a href=\"profile?seconds=10\">profile?seconds=10</a>: what its threads spend processor time on, sampled for so long \
(1 to 60 s; <code>hz=99</code> samples in a second of it, 1 to 250).</p>\
<p>To look at one: <code>go tool pprof -http=: http://HOST:PORT/debug/pprof/profile?seconds=10</code></p>\n";

type Answer = Response<Full<Bytes>>;

/// Serves connections for as long as the future lives.
pub(crate) async fn serve(listener: TcpListener) {
    let places = Rc::<Places>::default();
    let turn = Arc::new(Semaphore::new(1));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the port for profiles cannot accept connections for the moment");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // It fails only when the connection is gone.
        let Ok(local) = stream.local_addr() else { continue };
        let ends = Ends { local, peer };
        let turn = turn.clone();
        let answer = move |request: Request<Incoming>| {
            let turn = turn.clone();
            async move { answer(&request, ends, turn).await }
        };
        tokio::task::spawn_local(connection::serve(stream, places.take(), answer));
    }
}

async fn answer(request: &Request<Incoming>, ends: Ends, turn: Arc<Semaphore>) -> Answer {
    if request.method() != Method::GET {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "GET");
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return answer;
    }
    // A page whose name was made to mean loopback learns nothing, and costs nothing.
    if let Err(refusal) = ends.may_look(request.uri(), request.headers()) {
        return text(StatusCode::FORBIDDEN, &refusal.to_string());
    }
    match request.uri().path() {
        CPU => match asked(request.uri().query().unwrap_or_default()) {
            Ok(asked) => profile(asked, turn).await,
            Err(why) => text(StatusCode::BAD_REQUEST, &why),
        },
        INDEX => whole(StatusCode::OK, "text/html; charset=utf-8", PAGE.into()),
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /debug/pprof/ and /debug/pprof/profile?seconds=N&hz=N; there is no profile of the heap",
        ),
    }
}

async fn profile(asked: Asked, turn: Arc<Semaphore>) -> Answer {
    // Until the thread of the profile has ended, and not only this call.
    let Ok(turn) = turn.try_acquire_owned() else {
        let mut answer = text(StatusCode::SERVICE_UNAVAILABLE, &SamplerError::Busy.to_string());
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        return answer;
    };
    let left = Arc::new(AtomicBool::new(false));
    // Dropped with this future, when the client hangs up.
    let _left = SetAtEnd(left.clone());
    tracing::info!(seconds = asked.duration.as_secs(), hz = asked.hz, "a profile is being taken");
    let taken = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        cpu::take(asked, &left)
    });
    match taken.await {
        Ok(Ok(profile)) => {
            let mut answer = whole(StatusCode::OK, "application/octet-stream", profile.into());
            let name = HeaderValue::from_static("attachment; filename=\"darter.pb.gz\"");
            answer.headers_mut().insert(header::CONTENT_DISPOSITION, name);
            answer
        }
        Ok(Err(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        Err(_) => {
            text(StatusCode::INTERNAL_SERVER_ERROR, "the thread of the profile has panicked; see the log")
        }
    }
}

struct SetAtEnd(Arc<AtomicBool>);

impl Drop for SetAtEnd {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a query asks for. Tools may add parameters that mean nothing here.
fn asked(query: &str) -> Result<Asked, String> {
    let number = |name: &str, default: u64, max: u64| {
        let given = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name);
        let Some((_, text)) = given else { return Ok(default) };
        let number = text.parse().ok().filter(|number| (1..=max).contains(number));
        let shown: String = text.chars().take(50).collect();
        number.ok_or_else(|| format!("{name}: {shown:?} is not allowed; allowed: a whole number, 1 to {max}"))
    };
    let seconds = number("seconds", SECONDS_DEFAULT, SECONDS_MAX)?;
    let hz = number("hz", HZ_DEFAULT.into(), HZ_MAX.into())?;
    Ok(Asked { duration: Duration::from_secs(seconds), hz: u32::try_from(hz).unwrap_or(HZ_MAX) })
}

fn text(status: StatusCode, words: &str) -> Answer {
    whole(status, "text/plain; charset=utf-8", format!("darter: {words}\n").into())
}

fn whole(status: StatusCode, media_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_right_or_says_what_is_allowed() {
        let right = |query: &str, seconds: u64, hz: u32| {
            assert_eq!(asked(query), Ok(Asked { duration: Duration::from_secs(seconds), hz }), "{query}");
        };
        right("", 30, 99);
        right("seconds=1&hz=250", 1, 250);
        right("seconds=60&debug=0", 60, 99);
        for wrong in
            ["seconds=0", "seconds=61", "seconds=x", "seconds=", "seconds=1.5", "hz=0", "hz=251", "hz=-1"]
        {
            let (name, _) = wrong.split_once('=').unwrap();
            let why = asked(wrong).unwrap_err();
            assert!(why.starts_with(name) && why.contains("allowed: a whole number, 1 to"), "{why}");
        }
    }
}
