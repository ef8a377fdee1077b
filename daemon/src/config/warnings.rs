//! What is allowed but worth a second thought.

use std::fmt;

use url::Host;

use super::keys::{self, Key};
use super::layers::{Layers, Source};
use super::registry::{Registry, Scheme};
use super::settings::{SandboxMode, Settings};

/// A setting with its consequence; said by `config check` and at every start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where the value was given.
    pub source: Source,
    /// Its key.
    pub key: String,
    /// What it brings about.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}: {}", self.source, self.key, self.text)
    }
}

pub(super) fn of(settings: &Settings, layers: &Layers<'_>) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |key: &Key, text: String| {
        warnings.push(Warning { source: layers.source(key), key: key.path.into(), text });
    };
    if !settings.front.ip().is_loopback() {
        let text = "anyone who reaches the front may read through it, so it serves configured registries only: \
                    proxy.registryMirror.url and proxy.allowedRegistries";
        warn(&keys::FRONT_IP, text.into());
    }
    if !settings.admin.ip().is_loopback() {
        let mut text =
            "anyone who reaches the admin port sees names of registries and contents, and the metrics"
                .to_owned();
        if settings.admin_token.is_some() {
            text += "; the token of health.tokenFile goes there in the clear, so let the way there be one that nobody \
                     else reads along";
        }
        warn(&keys::ADMIN_IP, text);
    }
    let registry = &settings.registry;
    if registry.scheme() == Scheme::Http && !is_loopback(registry) {
        warn(&keys::REGISTRY, format!("credentials go to {registry} in the clear"));
    }
    if !settings.origin_tls_verified {
        let text = "the certificates of registries are not verified: whoever is on the path can take \
                    credentials and, for content that is not named by a digest, change it";
        warn(&keys::INSECURE, text.into());
    }
    if let Some(cluster) = &settings.cluster {
        let told = cluster.advertise.map_or(cluster.listen.ip(), |advertise| advertise.ip);
        if cluster.listen.ip().is_loopback() {
            warn(&keys::CLUSTER_LISTEN, "only nodes on this machine can connect to this one".into());
        } else if told.is_loopback() {
            warn(&keys::CLUSTER_ADVERTISE, format!("nodes on other machines cannot connect to {told}"));
        }
    }
    if settings.sandbox.mode == SandboxMode::Off {
        let text = "whoever breaks into the daemon may open all files of its user and execute programs";
        warn(&keys::SANDBOX_MODE, text.into());
    }
    for (index, registry) in settings.registries.iter().enumerate() {
        let key = keys::REGISTRY_INSECURE.path.replace("[]", &format!("[{index}]"));
        if let Some(given) = layers.in_file(&key)
            && !registry.tls.is_verified()
        {
            let text = format!(
                "the certificate of {} is not verified: whoever is on the path can take credentials; ca: FILE names \
                 an authority that is to be believed",
                registry.host
            );
            warnings.push(Warning { source: given.source, key, text });
        }
    }
    if settings.rules.is_empty() {
        let text = "no rule caches anything; every request passes straight through";
        warnings.push(Warning {
            source: layers.list_source(keys::RULES),
            key: keys::RULES.into(),
            text: text.into(),
        });
    }
    warnings
}

fn is_loopback(registry: &Registry) -> bool {
    match registry.host() {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => ip.is_loopback(),
    }
}
