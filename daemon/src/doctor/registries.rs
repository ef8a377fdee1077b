//! Registries: whether they answer, and what an answer means. Pure.

use super::finding::Finding;

/// What was seen of one registry.
#[derive(Clone, Debug)]
pub(super) struct RegistrySeen {
    /// As it was asked: `https://ghcr.io`.
    pub(super) registry: String,
    /// The proxy through which it was asked, `HOST:PORT`.
    pub(super) proxy: Option<String>,
    /// Nobody has named it: requests that name none go there.
    pub(super) by_default: bool,
    pub(super) answer: Result<Answer, String>,
}

/// To `GET /v2/`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// From the question to the head of the answer, with all connecting, in milliseconds.
    pub(super) after_ms: u64,
}

pub(super) fn finding(seen: &RegistrySeen) -> Finding {
    let RegistrySeen { registry, proxy, by_default, answer } = seen;
    let way = proxy
        .as_ref()
        .map(|proxy| format!(" through the proxy {proxy} of this environment"))
        .unwrap_or_default();
    let bad = |words: String, advice: &str| match by_default {
        // A node that is used for other registries only does not need it.
        true => Finding::warning(
            registry,
            format!("{words}; requests that name no registry go there"),
            format!("{advice}; or name your registry in proxy.registryMirror.url or with --registry"),
        ),
        false => Finding::failed(registry, words, advice),
    };
    match answer {
        Ok(Answer { status: 200 | 401 | 403, after_ms }) => {
            Finding::ok(registry, format!("answers{way}, after {after_ms} ms"))
        }
        Ok(Answer { status: 407, .. }) => bad(
            format!(
                "the proxy {} wants a name and a password",
                proxy.as_deref().unwrap_or("of the environment")
            ),
            "write them into HTTPS_PROXY or HTTP_PROXY: http://NAME:PASSWORD@HOST:PORT",
        ),
        Ok(Answer { status: status @ (429 | 500..), .. }) => Finding::warning(
            registry,
            format!("answers{way} with {status}: it is in trouble, or has had enough of this address"),
            "try again later, or ask who runs it",
        ),
        Ok(Answer { status, .. }) => bad(
            format!("answers{way} to /v2/ with {status}, as no registry does"),
            "look at its address and port: is it a registry, or the web page of one?",
        ),
        Err(reason) => bad(format!("does not answer{way}: {reason}"), advice(registry, reason)),
    }
}

/// What to do about it, by what the network and the TLS library say.
fn advice(registry: &str, reason: &str) -> &'static str {
    let reason = reason.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    if has(&["unknownissuer", "unknown issuer", "self-signed"]) {
        "its authority is not known here: name its file in ca of proxy.registries, or install it in the system"
    } else if has(&["expired", "notvalidyet", "not valid yet"]) {
        "its certificate does not hold now: set this machine's clock, or have the registry's certificate renewed"
    } else if has(&["notvalidforname", "not valid for name"]) {
        "its certificate is another host's: name the registry by a host that the certificate has"
    } else if has(&["certificate required", "certificaterequired"]) {
        "it wants a certificate: name cert and key in proxy.registries"
    } else if has(&["invalidcontenttype", "corrupt message", "record overflow"])
        && registry.starts_with("https:")
    {
        "it speaks no TLS there: write http:// before its name, or another port"
    } else if has(&["lookup", "dns", "name or service", "resolve", "no address"]) {
        "its name is not known here: correct it, or look at /etc/resolv.conf"
    } else if has(&["refused"]) {
        "nothing listens there: is it running, and is the port right?"
    } else if has(&["timed out", "deadline", "unreachable", "within"]) {
        "the network does not lead there: look at routes and firewalls, or set HTTPS_PROXY"
    } else {
        "look at its address, and at what it logs"
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn check(answer: Result<u16, &str>, by_default: bool, level: Level, words: &str) {
        let seen = RegistrySeen {
            registry: "https://r.example".into(),
            proxy: Some("p:3128".into()),
            by_default,
            answer: answer.map(|status| Answer { status, after_ms: 7 }).map_err(str::to_owned),
        };
        let finding = finding(&seen);
        let said = format!("{} {}", finding.seen, finding.advice.as_deref().unwrap_or_default());
        assert_eq!(finding.level, level, "{said}");
        assert!(said.contains(words), "no {words:?} in {said:?}");
    }

    #[test]
    fn answers() {
        for status in [200, 401, 403] {
            check(Ok(status), false, Level::Ok, "through the proxy p:3128 of this environment, after 7 ms");
        }
        check(Ok(407), false, Level::Failed, "NAME:PASSWORD");
        check(Ok(503), false, Level::Warning, "in trouble");
        check(Ok(429), true, Level::Warning, "had enough");
        check(Ok(404), false, Level::Failed, "as no registry does");
        check(Ok(301), true, Level::Warning, "--registry");
    }

    #[test]
    fn refusals_say_what_to_do() {
        check(Err("invalid peer certificate: UnknownIssuer"), false, Level::Failed, "ca of proxy.registries");
        check(Err("invalid peer certificate: Expired"), false, Level::Failed, "clock");
        check(Err("certificate not valid for name \"r\""), false, Level::Failed, "another host's");
        check(Err("received corrupt message of type InvalidContentType"), false, Level::Failed, "http://");
        check(Err("failed to lookup address information"), false, Level::Failed, "resolv.conf");
        check(Err("Connection refused (os error 111)"), false, Level::Failed, "nothing listens");
        check(Err("deadline has elapsed"), true, Level::Warning, "--registry");
        check(Err("strange"), false, Level::Failed, "what it logs");
    }
}
