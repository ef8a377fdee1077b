//! `/v2/`: whether there is a registry. Some clients ask before each pull, and would not ask for what is here when a
//! registry that is down does not answer; so its last word stands, within the grace.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, Response, StatusCode};

use super::body::AnswerBody;
use crate::access::Claim;
use crate::origin::Target;

/// Claims whose answer is remembered.
const WELCOMES_MAX: usize = 4096;

/// What registries answered last, to each claim of its own.
#[derive(Debug, Default)]
pub(crate) struct Welcomes {
    of: Mutex<HashMap<Claim, Welcome>>,
}

#[derive(Debug)]
struct Welcome {
    status: StatusCode,
    headers: HeaderMap,
    at: Instant,
}

impl Welcomes {
    /// Whether a target is a registry's base.
    pub(super) fn is_base(target: &Target) -> bool {
        matches!(target.url().path(), "/v2/" | "/v2")
    }

    /// The registry has answered: it lets the claim in, or says where to get a token.
    pub(super) fn note(&self, target: &Target, status: StatusCode, headers: &HeaderMap) {
        if !status.is_success() && status != StatusCode::UNAUTHORIZED {
            return;
        }
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if of.len() >= WELCOMES_MAX {
            of.clear();
        }
        let mut headers = headers.clone();
        headers.remove(http::header::CONTENT_LENGTH);
        of.insert(target.claim(), Welcome { status, headers, at: Instant::now() });
    }

    /// The answer that the registry gave last, without its body, if that was within `grace`.
    pub(super) fn last(&self, target: &Target, grace: Duration) -> Option<Response<AnswerBody>> {
        let of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let welcome = of.get(&target.claim()).filter(|welcome| welcome.at.elapsed() < grace)?;
        let mut answer = Response::new(AnswerBody::empty());
        *answer.status_mut() = welcome.status;
        *answer.headers_mut() = welcome.headers.clone();
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(authorization: &str) -> Target {
        let headers = [(http::header::AUTHORIZATION, authorization.parse().unwrap())].into_iter().collect();
        Target::new("http://r".parse().unwrap(), "/v2/", &headers, &[]).unwrap()
    }

    #[test]
    fn each_claim_gets_its_own_last_answer_for_the_grace() {
        let grace = Duration::from_secs(60);
        let welcomes = Welcomes::default();
        welcomes.note(&target("a"), StatusCode::OK, &HeaderMap::new());
        welcomes.note(&target("b"), StatusCode::UNAUTHORIZED, &HeaderMap::new());
        welcomes.note(&target("c"), StatusCode::BAD_GATEWAY, &HeaderMap::new());
        let status = |who| welcomes.last(&target(who), grace).map(|answer| answer.status().as_u16());
        assert_eq!((status("a"), status("b"), status("c"), status("d")), (Some(200), Some(401), None, None));
        assert!(welcomes.last(&target("a"), Duration::ZERO).is_none());
    }
}
