//! Registries, asked as a daemon would ask them: through the same proxies, with the same certificates and guard.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt, stream};
use http::{HeaderMap, Method, header};
use tokio::time::timeout;
use url::Url;

use super::super::registries::{Answer, RegistrySeen};
use crate::config::{Registry, Scheme, Settings};
use crate::origin::proxies::Proxies;
use crate::origin::{Origin, OriginOptions, Target, innermost};

/// For the head of an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Asked at a time, and at all: a list may be long.
const ASKED_AT_A_TIME: usize = 8;
const ASKED_MAX: usize = 64;

/// What was seen of all registries, and how many seconds this clock is ahead of those that said what time it is.
pub(in super::super) struct Seen {
    pub(in super::super) registries: Vec<RegistrySeen>,
    pub(in super::super) ahead_s: Vec<(String, i64)>,
}

/// A registry to ask.
struct Wanted {
    registry: Registry,
    by_default: bool,
    /// Only its host is configured: it may speak http, too.
    any_scheme: bool,
}

/// Asks the registry of requests that name none, which may be there `by_default`, and those that are listed or
/// allowed.
///
/// # Errors
/// No client can be made.
pub(in super::super) async fn look(settings: &Settings, by_default: bool) -> Result<Seen, String> {
    let origin = Origin::new(&OriginOptions::new(settings)).map_err(|error| innermost(&error))?;
    let own = Wanted { registry: settings.registry.clone(), by_default, any_scheme: false };
    let mut wanted = vec![own];
    for host in &settings.allowed_registries {
        let Ok(registry) = Registry::from_reference(&host.to_string()) else { continue };
        let is_known = wanted.iter().any(|known| host.names(&known.registry));
        if !is_known {
            wanted.push(Wanted { registry, by_default: false, any_scheme: true });
        }
    }
    let proxies = Proxies::of_environment();
    let mut asked = stream::iter(wanted.into_iter().take(ASKED_MAX))
        .map(|wanted| ask(&origin, &proxies, wanted))
        .buffered(ASKED_AT_A_TIME);
    let mut seen = Seen { registries: Vec::new(), ahead_s: Vec::new() };
    while let Some((registry, ahead_s)) = asked.next().await {
        seen.ahead_s.extend(ahead_s.map(|ahead_s| (registry.registry.clone(), ahead_s)));
        seen.registries.push(registry);
    }
    Ok(seen)
}

async fn ask(origin: &Origin, proxies: &Proxies, wanted: Wanted) -> (RegistrySeen, Option<i64>) {
    let Wanted { registry, by_default, any_scheme } = wanted;
    let mut asked = registry.clone();
    let mut answer = ask_one(origin, &asked).await;
    // Over TLS nobody understood us: whoever names that registry writes http://.
    if answer.is_err()
        && any_scheme
        && let Some(plain) = in_the_clear(&registry)
        && let Ok(answered) = ask_one(origin, &plain).await
    {
        (asked, answer) = (plain, Ok(answered));
    }
    let proxy = Url::parse(&asked.to_string()).ok().and_then(|url| proxies.of_url(&url));
    let ahead_s = answer.as_ref().ok().and_then(|(_, ahead_s)| *ahead_s);
    let answer = answer.map(|(answer, _)| answer);
    (RegistrySeen { registry: asked.to_string(), proxy, by_default, answer }, ahead_s)
}

/// The same host, over http: with the port that was named, if one was.
fn in_the_clear(registry: &Registry) -> Option<Registry> {
    (registry.scheme() == Scheme::Https).then(|| format!("http://{}", registry.authority()).parse().ok())?
}

async fn ask_one(origin: &Origin, registry: &Registry) -> Result<(Answer, Option<i64>), String> {
    let target = Target::new(registry.clone(), "/v2/", &HeaderMap::new(), &[]).ok_or("it has no URLs")?;
    let start = Instant::now();
    let answer = timeout(TIMEOUT, origin.pass(&target, Method::GET)).await;
    let answer = answer.map_err(|_| format!("no answer within {} s", TIMEOUT.as_secs()))?;
    let answer = answer.map_err(|error| error.reason())?;
    let after_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok((Answer { status: answer.status().as_u16(), after_ms }, ahead_s(answer.headers(), SystemTime::now())))
}

/// How many seconds `now` is ahead of the answer's date. An answer out of a cache has an old one.
fn ahead_s(headers: &HeaderMap, now: SystemTime) -> Option<i64> {
    if headers.contains_key(header::AGE) {
        return None;
    }
    let date = httpdate::parse_http_date(headers.get(header::DATE)?.to_str().ok()?).ok()?;
    let seconds = |time: SystemTime| i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok();
    Some(seconds(now)?.saturating_sub(seconds(date)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_compared() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let with = |name, value| HeaderMap::from_iter([(name, http::HeaderValue::from_static(value))]);
        let check =
            |headers: HeaderMap, expected| assert_eq!(ahead_s(&headers, now), expected, "{headers:?}");
        check(with(header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT"), Some(0));
        check(with(header::DATE, "Sun, 06 Nov 1994 08:50:37 GMT"), Some(-60));
        check(with(header::DATE, "yesterday"), None);
        check(HeaderMap::new(), None);
        let mut cached = with(header::DATE, "Sun, 06 Nov 1994 08:00:00 GMT");
        cached.insert(header::AGE, http::HeaderValue::from_static("5"));
        check(cached, None);
    }
}
