//! Who may change something through the admin port: programs of this machine that mean this daemon, and others with the
//! [`Token`], if there is one; and who may look.
//!
//! A web page can make a browser send requests to loopback. It cannot choose their `Host` and `Origin` freely: with
//! DNS rebinding `Host` is the page's own name, with a form sent across sites `Origin` is the page's. So both must
//! name this listener, by an address or as `localhost`. What changes nothing may be asked across sites, since a browser does
//! not hand the answer to the page; after rebinding it would, so that `Host` is looked at where the admin port is this
//! machine's own. A token is shown by no page that does not know it, but lets none in either. Pure.

use std::net::{IpAddr, SocketAddr};

use http::uri::Authority;
use http::{HeaderMap, Uri, header};

use super::token::Token;

/// One connection to the admin port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    /// Where the daemon was reached.
    pub(crate) local: SocketAddr,
    /// Who connected.
    pub(crate) peer: SocketAddr,
}

/// Why a state-changing call is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "what changes something is taken from this machine only, and {0} is another: run the command on the daemon's own \
         machine, or name a file with a token in health.tokenFile of the daemon's configuration, and in --token-file of the \
         command"
    )]
    Peer(IpAddr),
    #[error(
        "what changes something is taken from another machine, such as {0}, only with the token in health.tokenFile of the \
         daemon's configuration: name a file with it in --token-file or DARTER_TOKEN_FILE, or send Authorization: Bearer TOKEN"
    )]
    NoToken(IpAddr),
    #[error(
        "the token that {0} shows is not the one in health.tokenFile of the daemon's configuration: name a file with that one \
         in --token-file or DARTER_TOKEN_FILE; if the daemon's file has another since, darter reload on its own machine takes \
         that up"
    )]
    WrongToken(IpAddr),
    #[error(
        "Host names {host:?}, which is not this admin port: expected {expected}, or localhost with that port"
    )]
    Host { host: String, expected: SocketAddr },
    #[error("there is no single Host header: expected {0}")]
    NoHost(SocketAddr),
    #[error("Origin is {0:?}: what changes something is not taken from pages of other sites")]
    Origin(String),
}

impl Refusal {
    /// Whether a right token would help.
    pub(crate) fn wants_token(&self) -> bool {
        matches!(self, Self::NoToken(_) | Self::WrongToken(_))
    }
}

impl Ends {
    /// Whether a request over this connection may change something, where that `token` lets other machines do so.
    ///
    /// # Errors
    /// It may not, and why.
    pub(crate) fn may_change(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        token: Option<&Token>,
    ) -> Result<(), Refusal> {
        let peer = self.peer.ip().to_canonical();
        if peer.is_loopback() || peer == self.local.ip().to_canonical() {
            self.is_meant(uri, headers, |name| self.is_named_by(name))?;
        } else {
            match token.ok_or(Refusal::Peer(peer))?.is_shown_by(headers) {
                Some(true) => {}
                Some(false) => return Err(Refusal::WrongToken(peer)),
                None => return Err(Refusal::NoToken(peer)),
            }
        }
        for origin in headers.get_all(header::ORIGIN) {
            let origin = origin.to_str().unwrap_or("?");
            if !origin.strip_prefix("http://").is_some_and(|host| self.is_named_by(host)) {
                return Err(Refusal::Origin(shown(origin)));
            }
        }
        Ok(())
    }

    /// Whether a request over this connection that changes nothing may be answered: from another machine any, from this one
    /// if it names this machine. The port may be another, that of a tunnel.
    ///
    /// # Errors
    /// It may not, and why.
    pub(crate) fn may_look(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        match self.peer.ip().to_canonical().is_loopback() {
            true => self.is_meant(uri, headers, |name| self.port_if_named_by(name).is_some()),
            false => Ok(()),
        }
    }

    /// Whether the only `Host`, and the URL if it has a host, are right.
    fn is_meant(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        is_right: impl Fn(&str) -> bool,
    ) -> Result<(), Refusal> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err(Refusal::NoHost(self.local));
        };
        let named = std::iter::once(host.to_str().ok()).chain(uri.authority().map(|it| Some(it.as_str())));
        for name in named {
            if !name.is_some_and(&is_right) {
                let host = shown(name.unwrap_or("?"));
                return Err(Refusal::Host { host, expected: self.local });
            }
        }
        Ok(())
    }

    /// Whether `HOST[:PORT]` is this listener.
    fn is_named_by(&self, host: &str) -> bool {
        self.port_if_named_by(host) == Some(self.local.port())
    }

    /// The port of `HOST[:PORT]`, if the host is this machine: an address cannot be rebound, and `localhost` is not asked of
    /// DNS.
    fn port_if_named_by(&self, host: &str) -> Option<u16> {
        let authority = host.parse::<Authority>().ok()?;
        let name = authority.host().trim_start_matches('[').trim_end_matches(']');
        let known = match name.parse::<IpAddr>() {
            Ok(address) => {
                let address = address.to_canonical();
                address.is_loopback() || address == self.local.ip().to_canonical()
            }
            Err(_) => name.eq_ignore_ascii_case("localhost"),
        };
        (known && !host.contains('@')).then(|| authority.port_u16().unwrap_or(80))
    }
}

/// What a stranger wrote, at a length that an answer can have.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: &str = "127.0.0.1:40901";

    const TOKEN: &str = "0123456789abcdef";

    /// Headers as `name: value`, apart by `|`.
    fn verdict(local: &str, peer: &str, uri: &str, headers: &str) -> Result<(), Refusal> {
        verdict_with(None, [local, peer, uri, headers])
    }

    fn verdict_with(token: Option<&Token>, [local, peer, uri, headers]: [&str; 4]) -> Result<(), Refusal> {
        let ends = Ends { local: local.parse().unwrap(), peer: peer.parse().unwrap() };
        let mut map = HeaderMap::new();
        for (name, value) in headers.split('|').filter_map(|line| line.split_once(": ")) {
            map.append(name.parse::<header::HeaderName>().unwrap(), value.parse().unwrap());
        }
        ends.may_change(&uri.parse().unwrap(), &map, token)
    }

    fn check(headers: &str, right: bool) {
        let seen = verdict(LOOPBACK, "127.0.0.1:5", "/", headers);
        assert_eq!(seen.is_ok(), right, "{headers}: {seen:?}");
    }

    #[test]
    fn the_host_must_be_this_listener() {
        check("host: 127.0.0.1:40901", true);
        check("host: localhost:40901", true);
        check("host: LocalHost:40901", true);
        check("host: [::1]:40901", true);
        check("host: 127.0.0.1", false);
        check("host: 127.0.0.1:40902", false);
        check("host: evil.example:40901", false);
        check("host: localhost.evil.example:40901", false);
        check("host: evil@127.0.0.1:40901", false);
        check("host: 127.0.0.1:40901|host: 127.0.0.1:40901", false);
        check("host: ", false);
        check("", false);
    }

    #[test]
    fn an_origin_must_be_this_listener_too() {
        let with = |origin: &str, right| check(&format!("host: {LOOPBACK}|origin: {origin}"), right);
        with("http://127.0.0.1:40901", true);
        with("http://localhost:40901", true);
        with("http://127.0.0.1:8080", false);
        with("https://127.0.0.1:40901", false);
        with("http://evil.example:40901", false);
        with("http://evil.example", false);
        with("null", false);
    }

    #[test]
    fn an_absolute_url_counts_as_a_host() {
        let host = "host: 127.0.0.1:40901";
        assert!(verdict(LOOPBACK, "127.0.0.1:5", "http://127.0.0.1:40901/", host).is_ok());
        let refused = verdict(LOOPBACK, "127.0.0.1:5", "http://evil.example:40901/", host).unwrap_err();
        assert!(refused.to_string().contains("evil.example"), "{refused}");
    }

    #[test]
    fn who_looks_from_this_machine_must_name_it() {
        let looks = |peer: &str, uri: &str, host: Option<&str>| {
            let (local, peer) = (LOOPBACK.parse().unwrap(), peer.parse().unwrap());
            let mut headers = HeaderMap::new();
            host.map(|host| headers.append(header::HOST, host.parse().unwrap()));
            Ends { local, peer }.may_look(&uri.parse().unwrap(), &headers).is_ok()
        };
        let here = "127.0.0.1:5";
        assert!(looks(here, "/", Some(LOOPBACK)));
        // The near end of a tunnel.
        assert!(looks(here, "/", Some("localhost:8000")));
        assert!(!looks(here, "/", Some("evil.example:40901")), "rebound");
        assert!(!looks(here, "http://evil.example:40901/", Some(LOOPBACK)));
        assert!(!looks(here, "/", None));
        assert!(looks("10.0.0.8:5", "/", Some("node7:40901")), "who lets others look lets them look");
    }

    #[test]
    fn other_machines_change_nothing() {
        let open = "10.0.0.7:40901";
        assert!(verdict(open, "10.0.0.7:5", "/", "host: 10.0.0.7:40901").is_ok());
        assert!(verdict(open, "10.0.0.7:5", "/", "host: node7:40901").is_err());
        let refused = verdict(open, "10.0.0.8:5", "/", "host: 10.0.0.7:40901").unwrap_err();
        assert_eq!(refused, Refusal::Peer("10.0.0.8".parse().unwrap()));
        assert!(
            verdict("[::ffff:127.0.0.1]:40901", "[::ffff:127.0.0.1]:5", "/", "host: 127.0.0.1:40901").is_ok()
        );
    }

    #[test]
    fn with_the_token_they_do() {
        let token = Token::of(TOKEN);
        let (here, other): (&str, IpAddr) = ("10.0.0.7:40901", "10.0.0.8".parse().unwrap());
        let check = |peer: &str, headers: &str, expected: Result<(), Refusal>| {
            let seen = verdict_with(Some(&token), [here, peer, "/", headers]);
            assert_eq!(seen, expected, "{peer}: {headers}");
        };
        let shown = format!("host: node7:40901|authorization: Bearer {TOKEN}");
        check("10.0.0.8:5", &shown, Ok(()));
        check("10.0.0.8:5", "host: node7:40901", Err(Refusal::NoToken(other)));
        check("10.0.0.8:5", &shown.replace('f', "g"), Err(Refusal::WrongToken(other)));
        // From this machine it is neither needed, nor does it lift what is asked of a request.
        check("10.0.0.7:5", "host: 10.0.0.7:40901", Ok(()));
        assert!(matches!(
            verdict_with(Some(&token), [here, "10.0.0.7:5", "/", &shown]),
            Err(Refusal::Host { .. })
        ));
        // A page that somebody has given a token to is another site all the same.
        let page = format!("{shown}|origin: http://evil.example");
        check("10.0.0.8:5", &page, Err(Refusal::Origin("http://evil.example".into())));
        let page = format!("{shown}|origin: http://node7:40901");
        check("10.0.0.8:5", &page, Err(Refusal::Origin("http://node7:40901".into())));
        check("10.0.0.8:5", &format!("{shown}|origin: http://{here}"), Ok(()));
    }
}
