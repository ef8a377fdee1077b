//! Secrets of Kubernetes, as far as a pod needs them that makes those of a cluster: to read one, and to create one.
//!
//! It speaks to the API server of the pod's own cluster, by the account that is mounted into the pod, and trusts the
//! authority there alone. Nothing is changed or removed.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use reqwest::{Certificate, Client, Method, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::CommandError;

/// Where the account of a pod is.
pub(super) const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The key in a Secret under which a file of a cluster's secrets is.
const KEY: &str = "cluster";
/// An answer of the API server within which it begins, and goes on.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A Secret has 1 MiB at most, in base64.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// The longest name of an object.
const NAME_BYTES_MAX: usize = 253;

/// The Secrets of one namespace.
#[derive(Debug)]
pub(super) struct Secrets {
    client: Client,
    token: String,
    /// Of the collection, without a slash at its end.
    url: String,
}

#[derive(Deserialize)]
struct Secret {
    #[serde(default)]
    data: std::collections::BTreeMap<String, String>,
}

impl Secrets {
    /// Those of the pod's own namespace, by the account in a directory, from the server that the environment names.
    ///
    /// # Errors
    /// This is no pod, or it has no account.
    pub(super) fn of_pod(account: &Path) -> Result<Self, CommandError> {
        let variable = |name: &str| {
            std::env::var(name).map_err(|_| {
                CommandError::Failed(format!(
                    "{name} is not set: --kubernetes is for a pod; elsewhere say --out FILE and make the Secrets with \
                     kubectl create secret generic"
                ))
            })
        };
        let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
        let read = |name: &str| {
            let file = account.join(name);
            fs::read_to_string(&file).map_err(|error| {
                CommandError::Failed(format!(
                    "cannot read {}: {error}; give the pod a service account, with automountServiceAccountToken: true",
                    file.display()
                ))
            })
        };
        let (ca, token, namespace) = (read("ca.crt")?, read("token")?, read("namespace")?);
        let unusable =
            |error: reqwest::Error| CommandError::Failed(format!("cannot speak to the API server: {error}"));
        let client = Client::builder()
            .tls_certs_only(Certificate::from_pem_bundle(ca.as_bytes()).map_err(unusable)?)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(TIMEOUT)
            .read_timeout(TIMEOUT)
            .build()
            .map_err(unusable)?;
        let namespace = name(namespace.trim())?;
        let url = format!("https://{}:{port}/api/v1/namespaces/{namespace}/secrets", host_of_url(&host));
        Ok(Self { client, token: token.trim().to_owned(), url })
    }

    /// The file in a Secret; `None` where there is no such Secret.
    ///
    /// # Errors
    /// The server does not tell, or the Secret has no such file.
    pub(super) async fn read(&self, secret: &str) -> Result<Option<String>, CommandError> {
        let (status, body) = self.ask(Method::GET, secret, None).await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if status != StatusCode::OK {
            return Err(refused("read", secret, status, &body));
        }
        let file =
            serde_json::from_slice::<Secret>(&body).ok().and_then(|mut secret| secret.data.remove(KEY));
        let text = file.and_then(|file| String::from_utf8(STANDARD.decode(file).ok()?).ok());
        text.map(Some).ok_or_else(|| {
            CommandError::Failed(format!(
                "the Secret {secret} is there and has no text under the key {KEY}: name another one, or remove it"
            ))
        })
    }

    /// Creates a Secret with this file in it. False when it is there already, and has not been changed.
    ///
    /// # Errors
    /// The server does not create it.
    pub(super) async fn create(&self, secret: &str, text: &str) -> Result<bool, CommandError> {
        let object = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {"name": secret, "labels": {"app.kubernetes.io/managed-by": "darter"}},
            "stringData": {KEY: text},
        });
        match self.ask(Method::POST, secret, Some(object)).await? {
            (StatusCode::CREATED, _) => Ok(true),
            (StatusCode::CONFLICT, _) => Ok(false),
            (status, body) => Err(refused("create", secret, status, &body)),
        }
    }

    async fn ask(
        &self,
        method: Method,
        secret: &str,
        object: Option<Value>,
    ) -> Result<(StatusCode, Vec<u8>), CommandError> {
        let lost = |error: reqwest::Error| {
            let url = &self.url;
            CommandError::Failed(format!("the API server does not answer at {url}: {}", causes(&error)))
        };
        let (url, body) = match object {
            None => (format!("{}/{secret}", self.url), Vec::new()),
            Some(object) => (self.url.clone(), object.to_string().into_bytes()),
        };
        let request = self.client.request(method, url).bearer_auth(&self.token);
        let request = request.header(http::header::CONTENT_TYPE, "application/json").body(body);
        let answer = request.send().await.map_err(lost)?;
        Ok((answer.status(), whole(answer).await.map_err(lost)?))
    }
}

/// A name that may be a part of a URL's path, and of an object.
///
/// # Errors
/// It may not.
pub(super) fn name(name: &str) -> Result<&str, CommandError> {
    let is_fine =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let at_ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    let fine = bytes.len() <= NAME_BYTES_MAX
        && bytes.iter().all(|byte| is_fine(*byte))
        && at_ends(bytes.first())
        && at_ends(bytes.last());
    fine.then_some(name).ok_or_else(|| {
        CommandError::Usage(format!(
            "{name:?} is no name of a Kubernetes object: small letters, digits, - and ., {NAME_BYTES_MAX} at most"
        ))
    })
}

/// An IPv6 address is in brackets there.
fn host_of_url(host: &str) -> String {
    match host.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => host.to_owned(),
    }
}

/// As much of a body as is needed.
async fn whole(mut answer: Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await? {
        body.extend_from_slice(&part[..part.len().min(ANSWER_BYTES_MAX - body.len())]);
        if body.len() == ANSWER_BYTES_MAX {
            break;
        }
    }
    Ok(body)
}

fn refused(what: &str, secret: &str, status: StatusCode, body: &[u8]) -> CommandError {
    let told: Option<Value> = serde_json::from_slice(body).ok();
    let told = told.as_ref().and_then(|told| told["message"].as_str()).unwrap_or("it does not say why");
    let next = match status {
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
            "; give the pod's account a Role with create on secrets, and get on this one"
        }
        _ => "",
    };
    CommandError::Failed(format!(
        "the API server does not {what} the Secret {secret} ({status}: {told}){next}"
    ))
}

/// What went wrong, and why, to the bottom.
fn causes(error: &reqwest::Error) -> String {
    let sources = std::iter::successors(std::error::Error::source(error), |error| error.source());
    sources.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_objects() {
        for fine in ["darter-cluster", "a", "0.b-c"] {
            assert_eq!(name(fine).unwrap(), fine);
        }
        let long = "a".repeat(254);
        for wrong in ["", "Darter", "a/b", "..", "-a", "a-", "a b", "a%2f", &long] {
            assert!(matches!(name(wrong), Err(CommandError::Usage(_))), "{wrong:?}");
        }
    }

    #[test]
    fn hosts_are_as_urls_have_them() {
        assert_eq!(host_of_url("10.96.0.1"), "10.96.0.1");
        assert_eq!(host_of_url("fd00::1"), "[fd00::1]");
        assert_eq!(host_of_url("kubernetes.default"), "kubernetes.default");
    }
}
