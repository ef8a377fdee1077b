//! A registry that gives out tokens: the bearer flow of the distribution project's "Token Authentication
//! Specification", as the large public registries have it, with the realm on a host of its own.
//!
//! It stands before any registry. Tokens are opaque and know a user and a repository; what a user may read is
//! looked up when a token is shown, so that a test can change its mind.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::json;

use crate::daemon::{free_port, own_loopback_address};
use crate::gate::{Asked, Gate, GateOptions, Reply};

const SERVICE: &str = "darter-test";
/// Announced, not kept: a token ends when the test says so.
const EXPIRES_IN_S: u64 = 300;

/// A registry behind tokens. Its doors are made by [`TokenRegistry::door`].
#[derive(Debug)]
pub struct TokenRegistry {
    upstream: SocketAddr,
    rights: Arc<Rights>,
    realm: Gate,
}

impl TokenRegistry {
    /// Tokens for what the registry at `upstream` has.
    pub fn before(upstream: SocketAddr) -> Self {
        // Another host than the registry's: a token must not be sent there, nor a password to the registry.
        let address = SocketAddr::new(realm_address(), free_port());
        let rights = Arc::new(Rights { realm: format!("http://{address}/token"), state: Mutex::default() });
        let granting = Arc::clone(&rights);
        let realm = Gate::with(GateOptions {
            address: Some(address),
            guard: Some(Arc::new(move |asked| Some(granting.grant(asked)))),
            ..GateOptions::default()
        });
        Self { upstream, rights, realm }
    }

    /// An entrance of its own, where tokens are asked for.
    pub fn door(&self) -> Gate {
        let rights = Arc::clone(&self.rights);
        Gate::with(GateOptions {
            upstream: Some(self.upstream),
            guard: Some(Arc::new(move |asked| rights.refuse(asked))),
            ..GateOptions::default()
        })
    }

    /// Where tokens are given out.
    pub fn realm(&self) -> &Gate {
        &self.realm
    }

    /// The same, to close it.
    pub fn realm_mut(&mut self) -> &mut Gate {
        &mut self.realm
    }

    /// Lets a user read a repository. Every user has the password of [`password`].
    pub fn allow(&self, user: &str, repository: &str) {
        let mut state = self.rights.state();
        state.users.insert(user.to_owned());
        state.allowed.insert((user.to_owned(), repository.to_owned()));
    }

    /// Makes a user who may read nothing yet.
    pub fn add_user(&self, user: &str) {
        self.rights.state().users.insert(user.to_owned());
    }

    /// Lets everybody read a repository who fetches an anonymous token, as Docker Hub does.
    pub fn publish(&self, repository: &str) {
        self.rights.state().public.insert(repository.to_owned());
    }

    /// What a token gets that is not good enough for a repository: 403, or 404 from registries that do not tell
    /// what they have. Without this, 401 with `insufficient_scope`.
    pub fn refuse_with(&self, repository: &str, status: u16) {
        self.rights.state().refusals.insert(repository.to_owned(), status);
    }

    /// A fresh token as the realm would give it, as the value of `Authorization`. No user: an anonymous one.
    pub fn token(&self, user: Option<&str>, repository: &str) -> String {
        let mut state = self.rights.state();
        format!("Bearer {}", state.issue(user.map(str::to_owned), [repository.to_owned()].into()))
    }

    /// Ends a token's life.
    pub fn expire(&self, bearer: &str) {
        let token = bearer.strip_prefix("Bearer ").unwrap_or(bearer);
        let known = self.rights.state().tokens.remove(token);
        assert!(known.is_some(), "there is no such token: {bearer}");
    }
}

/// The password of a user.
pub fn password(user: &str) -> String {
    format!("the-password-of-{user}")
}

/// `NAME:PASSWORD` in base64: what follows `Basic`, and `auth` in configurations of clients.
pub fn basic(user: &str) -> String {
    STANDARD.encode(format!("{user}:{}", password(user)))
}

/// Who may read what.
#[derive(Debug)]
struct Rights {
    realm: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    users: HashSet<String>,
    allowed: HashSet<(String, String)>,
    public: HashSet<String>,
    refusals: HashMap<String, u16>,
    tokens: HashMap<String, Token>,
    issued: u64,
}

#[derive(Debug)]
struct Token {
    user: Option<String>,
    repositories: HashSet<String>,
}

impl State {
    fn issue(&mut self, user: Option<String>, repositories: HashSet<String>) -> String {
        self.issued += 1;
        let token = format!("token-{}-of-{}", self.issued, user.as_deref().unwrap_or("nobody"));
        self.tokens.insert(token.clone(), Token { user, repositories });
        token
    }

    fn may_read(&self, token: &Token, repository: &str) -> bool {
        let allowed = |user: &String| self.allowed.contains(&(user.clone(), repository.to_owned()));
        token.repositories.contains(repository)
            && (self.public.contains(repository) || token.user.as_ref().is_some_and(allowed))
    }

    /// The user whose name and password these are.
    fn user(&self, name: &str, given: &str) -> Option<String> {
        (self.users.contains(name) && given == password(name)).then(|| name.to_owned())
    }
}

impl Rights {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The registry's side: a refusal, or nothing.
    fn refuse(&self, asked: &Asked) -> Option<Reply> {
        let state = self.state();
        let repository = repository(asked.path());
        let token = asked.authorization().and_then(|header| header.strip_prefix("Bearer "));
        let Some(token) = token.and_then(|token| state.tokens.get(token)) else {
            return Some(self.challenge(repository, None));
        };
        let repository = repository?;
        if state.may_read(token, repository) {
            return None;
        }
        match state.refusals.get(repository) {
            None => Some(self.challenge(Some(repository), Some("insufficient_scope"))),
            Some(&status) => {
                let code = if status == 404 { "NAME_UNKNOWN" } else { "DENIED" };
                Some(Reply { status, headers: Vec::new(), body: error(code) })
            }
        }
    }

    fn challenge(&self, repository: Option<&str>, error_code: Option<&str>) -> Reply {
        let mut challenge = format!("Bearer realm=\"{}\",service=\"{SERVICE}\"", self.realm);
        if let Some(repository) = repository {
            challenge += &format!(",scope=\"repository:{repository}:pull\"");
        }
        if let Some(code) = error_code {
            challenge += &format!(",error=\"{code}\"");
        }
        Reply { status: 401, headers: vec![("WWW-Authenticate", challenge)], body: error("UNAUTHORIZED") }
    }

    /// The realm's side. GET with `Authorization: Basic`, or the POST of a form, which is OAuth2's "password
    /// grant"; nobody in particular gets a token for what is public.
    fn grant(&self, asked: &Asked) -> Reply {
        let form = if asked.method == Method::POST {
            String::from_utf8_lossy(&asked.body).into_owned()
        } else {
            asked.target.split_once('?').map_or_else(String::new, |(_, query)| query.to_owned())
        };
        let fields: Vec<(String, String)> =
            url::form_urlencoded::parse(form.as_bytes()).into_owned().collect();
        let field = |name: &str| fields.iter().find(|(known, _)| known == name).map(|(_, value)| &**value);
        if asked.path() != "/token" || field("service") != Some(SERVICE) {
            return Reply { status: 400, headers: Vec::new(), body: error("UNSUPPORTED") };
        }
        let sent = match asked.authorization() {
            Some(header) => Some(basic_of(header)),
            None if asked.method == Method::POST => {
                Some(field("username").zip(field("password")).map(|(u, p)| (u.to_owned(), p.to_owned())))
            }
            None => None,
        };
        let mut state = self.state();
        let user = match sent {
            None => None,
            Some(sent) => match sent.and_then(|(name, given)| state.user(&name, &given)) {
                None => return Reply { status: 401, headers: Vec::new(), body: error("UNAUTHORIZED") },
                user => user,
            },
        };
        // Several scopes come as several fields or in one with blanks.
        let scopes =
            fields.iter().filter(|(name, _)| name == "scope").flat_map(|(_, value)| value.split(' '));
        let repositories = scopes.filter_map(|scope| scope.strip_prefix("repository:")?.rsplit_once(':'));
        let repositories = repositories.map(|(repository, _)| repository.to_owned()).collect();
        let token = state.issue(user, repositories);
        let body = json!({ "token": token, "access_token": token, "expires_in": EXPIRES_IN_S });
        Reply { status: 200, headers: Vec::new(), body: body.to_string() }
    }
}

/// Name and password of a `Basic` header.
fn basic_of(header: &str) -> Option<(String, String)> {
    let decoded = STANDARD.decode(header.strip_prefix("Basic ")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(name, given)| (name.to_owned(), given.to_owned()))
}

/// The repository of `/v2/REPOSITORY/blobs/…` and the like.
fn repository(path: &str) -> Option<&str> {
    let mut segments = path.strip_prefix("/v2/")?.rsplitn(3, '/');
    let (_, kind) = (segments.next()?, segments.next()?);
    segments.next().filter(|_| matches!(kind, "blobs" | "manifests"))
}

fn error(code: &str) -> String {
    json!({ "errors": [{ "code": code, "message": "no" }] }).to_string()
}

/// Of this process alone, and not [`own_loopback_address`], where the registry is.
fn realm_address() -> IpAddr {
    let IpAddr::V4(own) = own_loopback_address() else { unreachable!("an address of 127.64.0.0/10") };
    let [loopback, high, middle, low] = own.octets();
    Ipv4Addr::new(loopback, high ^ 0b1100_0000, middle, low).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Kind;
    use crate::{Client, Origin, Request};

    fn token(realm: &Gate, query: &str, authorization: Option<String>) -> Result<String, u16> {
        let request = Request::get(format!("/token?service={SERVICE}&{query}"));
        let request = match authorization {
            Some(value) => request.header("Authorization", value),
            None => request,
        };
        let answer = Client::new(realm.address()).fetch(&request).expect("the realm answers");
        let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        if answer.status() != 200 {
            return Err(answer.status());
        }
        Ok(format!("Bearer {}", body["token"].as_str().expect("a token")))
    }

    #[test]
    fn tokens_are_of_a_user_for_a_repository() {
        let origin = Origin::start();
        let blob = origin.blob(1, 1000);
        let registry = TokenRegistry::before(origin.address());
        registry.allow("alice", "library/scenario");
        registry.add_user("bob");
        let door = registry.door();
        assert_ne!(door.address().ip(), registry.realm().address().ip());
        let mut client = Client::new(door.address());
        let mut get = |authorization: Option<&str>| {
            let request = authorization.map_or(blob.get(), |value| blob.get().header("Authorization", value));
            client.fetch(&request).expect("the door answers")
        };

        let refused = get(None);
        let challenge = refused.header("WWW-Authenticate").expect("a challenge").to_owned();
        assert_eq!(refused.status(), 401);
        assert!(challenge.contains(&registry.realm().host()), "{challenge}");
        assert!(challenge.contains("scope=\"repository:library/scenario:pull\""), "{challenge}");

        let query = "scope=repository:library/scenario:pull";
        let of = |user| token(registry.realm(), query, Some(format!("Basic {}", basic(user))));
        let alices = of("alice").expect("alice is known");
        assert_eq!(get(Some(&alices)).status(), 200);
        assert_eq!(of("mallory"), Err(401));

        let bobs = of("bob").expect("bob is known");
        assert_eq!(get(Some(&bobs)).status(), 401);
        registry.refuse_with("library/scenario", 403);
        assert_eq!(get(Some(&bobs)).status(), 403);

        let nobodys = token(registry.realm(), query, None).expect("an anonymous token");
        assert_eq!(get(Some(&nobodys)).status(), 403);
        registry.publish("library/scenario");
        assert_eq!(get(Some(&nobodys)).status(), 200);
        assert_eq!(get(None).status(), 401, "public, but by token only");

        registry.expire(&alices);
        assert_eq!(get(Some(&alices)).status(), 401);
        assert_eq!(registry.realm().gets(Kind::Token), 4);
    }
}
