//! How long an origin that is overloaded or broken is waited for before its answer stands.
//!
//! The front must answer within 3.5 s, and nydusd takes a 429 for a broken disk: so the wait is made here, and
//! short enough that the origin's last answer still reaches the front in time.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use tokio::time::Instant;

use crate::origin::{OriginHead, Verdict};

/// No try begins later than this after the first.
const WITHIN: Duration = Duration::from_millis(2500);
/// Pause before an unanswered request, or the second one where the origin names no time; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(150);
/// Tries where the origin names no time.
const UNNAMED_MAX: u32 = 3;
/// Longest pause: an origin that asks for more may be well before that.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What is left of the patience with one request.
#[derive(Debug)]
pub(crate) struct Patience {
    until: Instant,
    pauses: u32,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self { until: Instant::now() + WITHIN, pauses: 0 }
    }

    /// Waits, if this is a refusal that another try may change and there is time for one. False: it stands.
    pub(crate) async fn wait(&mut self, verdict: &Verdict) -> bool {
        self.wait_for(verdict.status, &verdict.headers).await
    }

    /// The same, of a registry that is overloaded and not broken: what nobody waits for but a question is given up
    /// early.
    pub(crate) async fn wait_if_overloaded(&mut self, head: &OriginHead) -> bool {
        head.status == StatusCode::TOO_MANY_REQUESTS && self.wait_for(head.status, &head.headers).await
    }

    async fn wait_for(&mut self, status: StatusCode, headers: &HeaderMap) -> bool {
        let Some(pause) = self.pause(status, headers, Instant::now()) else { return false };
        self.pauses += 1;
        tokio::time::sleep(pause).await;
        true
    }

    /// Waits before the one more try that a request without an answer has. False: there was one.
    pub(crate) async fn wait_once(&mut self) -> bool {
        let first = self.pauses == 0;
        if first {
            self.pauses += 1;
            tokio::time::sleep(FIRST_PAUSE).await;
        }
        first
    }

    fn pause(&self, status: StatusCode, headers: &HeaderMap, now: Instant) -> Option<Duration> {
        if status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
            return None;
        }
        let pause = match headers.get(header::RETRY_AFTER) {
            // A date is as exact as the longest pause is long, so it says no more than a second does.
            Some(after) => {
                let seconds = after.to_str().ok().and_then(|text| text.trim().parse().ok());
                seconds.map_or(LONGEST_PAUSE, Duration::from_secs).clamp(FIRST_PAUSE, LONGEST_PAUSE)
            }
            None if self.pauses < UNNAMED_MAX => FIRST_PAUSE * (1 << self.pauses),
            None => return None,
        };
        (now + pause <= self.until).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: u16, retry_after: Option<&'static str>, pauses: u32, expected_ms: Option<u64>) {
        let mut headers = HeaderMap::new();
        if let Some(after) = retry_after {
            headers.insert(header::RETRY_AFTER, http::HeaderValue::from_static(after));
        }
        let status = StatusCode::from_u16(status).unwrap();
        let patience = Patience { pauses, ..Patience::new() };
        let pause = patience.pause(status, &headers, patience.until - WITHIN);
        assert_eq!(pause, expected_ms.map(Duration::from_millis), "{status} {retry_after:?} {pauses}");
    }

    #[test]
    fn what_another_try_may_change_is_waited_for() {
        check(429, Some("1"), 0, Some(1000));
        check(503, Some("0"), 5, Some(150));
        check(429, Some("3600"), 0, Some(1000));
        check(429, Some("Wed, 21 Oct 2015 07:28:00 GMT"), 0, Some(1000));
        check(500, None, 0, Some(150));
        check(500, None, 2, Some(600));
        check(500, None, 3, None);
        check(404, Some("1"), 0, None);
    }

    #[test]
    fn no_try_begins_too_late_for_the_front() {
        let status = StatusCode::TOO_MANY_REQUESTS;
        let headers = [(header::RETRY_AFTER, http::HeaderValue::from_static("1"))].into_iter().collect();
        let patience = Patience::new();
        let last = patience.until - Duration::from_secs(1);
        assert!(patience.pause(status, &headers, last).is_some());
        assert!(patience.pause(status, &headers, last + Duration::from_millis(1)).is_none());
    }
}
