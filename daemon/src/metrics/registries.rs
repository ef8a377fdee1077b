//! What is asked of registries, and what they send.
//!
//! A registry is named by a label: those of the configuration from the beginning, each other one once it has answered. Of
//! more than [`NAMED_MAX`] others the rest are one, `other`, since clients may name any number of them.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use http::{Method, StatusCode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::status::Status;
use crate::config::{self, Scheme, Settings};
use crate::origin::{BlobAnswer, BlobStream, OriginError};

/// Registries that no configuration names and that have a name of their own in labels.
const NAMED_MAX: usize = 32;
const OTHER: &str = "other";
/// In place of a status where there was no answer.
const NO_ANSWER: &str = "none";

type Labels<const N: usize> = [(&'static str, Arc<str>); N];

/// Of one node.
#[derive(Debug, Default)]
pub(crate) struct Registries {
    named: RwLock<Named>,
    requests: Family<Labels<3>, Counter>,
    blob_requests: Family<Labels<3>, Counter>,
    blob_bytes: Family<Labels<2>, Counter>,
    /// The sum of those, which a family does not tell.
    all_blob_bytes: Counter,
    transfers: Gauge,
}

#[derive(Debug, Default)]
struct Named {
    /// By this configuration or an earlier one.
    configured: BTreeSet<Arc<str>>,
    others: BTreeSet<Arc<str>>,
}

/// A body that is being read, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Coming {
    bytes: Counter,
    all_bytes: Counter,
    transfers: Gauge,
}

impl Registries {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "registry_requests",
            "Requests sent to registries, of all kinds; each hop of a redirect is one",
            self.requests.clone(),
        );
        registry.register(
            "origin_requests",
            "Requests for bytes of blobs to registries",
            self.blob_requests.clone(),
        );
        registry.register_with_unit(
            "origin",
            "Bytes of blobs from registries",
            Unit::Bytes,
            self.blob_bytes.clone(),
        );
        registry.register(
            "origin_transfers",
            "Bodies of registries that are being read",
            self.transfers.clone(),
        );
    }

    /// Those of a configuration have names from the beginning.
    pub(crate) fn name_all_of(&self, settings: &Settings) {
        self.name(&settings.registry);
        for host in &settings.allowed_registries {
            // How it is spoken to is the requests' to say; most are by TLS.
            self.reserve(&host.over(Scheme::Http));
            self.name(&host.over(Scheme::Https));
        }
    }

    fn reserve(&self, registry: &config::Registry) -> Arc<str> {
        let label: Arc<str> = registry.to_string().into();
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        named.others.remove(&label);
        named.configured.insert(label.clone());
        label
    }

    fn name(&self, registry: &config::Registry) {
        let label = self.reserve(registry);
        // So that the first request counts as an increase.
        let bytes: Labels<2> = [("registry", label.clone()), ("status", "206".into())];
        let _ = self.blob_bytes.get_or_create(&bytes);
        for (outcome, status) in [("bytes", "206"), ("unreachable", NO_ANSWER)] {
            let asked = [("registry", label.clone()), ("outcome", outcome.into()), ("status", status.into())];
            let _ = self.blob_requests.get_or_create(&asked);
        }
        for (method, status) in [("GET", "206"), ("GET", NO_ANSWER), ("HEAD", "200")] {
            let sent = [("registry", label.clone()), ("method", method.into()), ("status", status.into())];
            let _ = self.requests.get_or_create(&sent);
        }
    }

    /// A request was sent, for this registry or realm; with which status it was answered, if it was.
    pub(crate) fn sent(&self, registry: &str, method: &Method, status: Option<StatusCode>) {
        let method = match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            _ => OTHER,
        };
        let labels = [
            ("registry", self.label(registry, status.is_some())),
            ("method", method.into()),
            ("status", status_label(status)),
        ];
        self.requests.get_or_create(&labels).inc();
    }

    /// What came of a request for bytes of a blob.
    pub(crate) fn blob_asked(&self, registry: &config::Registry, answer: &Result<BlobAnswer, OriginError>) {
        let (outcome, status) = match answer {
            Ok(BlobAnswer::Bytes(stream)) => ("bytes", Some(status_of(stream))),
            Ok(BlobAnswer::NoLength) => ("bytes", Some(StatusCode::OK)),
            Ok(BlobAnswer::Unsatisfied { .. }) => ("refused", Some(StatusCode::RANGE_NOT_SATISFIABLE)),
            Ok(BlobAnswer::Verdict(verdict)) => ("refused", Some(verdict.status)),
            Err(OriginError::Unusable { .. }) => ("unusable", None),
            Err(OriginError::Unreachable { .. }) => ("unreachable", None),
            Err(OriginError::Forbidden { .. }) => ("forbidden", None),
        };
        let labels = [
            ("registry", self.label(&registry.to_string(), status.is_some())),
            ("outcome", outcome.into()),
            ("status", status_label(status)),
        ];
        self.blob_requests.get_or_create(&labels).inc();
    }

    /// A body begins to be read.
    pub(crate) fn coming(&self, registry: &config::Registry, stream: &BlobStream) -> Coming {
        let label = self.label(&registry.to_string(), true);
        let labels = [("registry", label), ("status", status_label(Some(status_of(stream))))];
        self.transfers.inc();
        Coming {
            bytes: self.blob_bytes.get_or_create_owned(&labels),
            all_bytes: self.all_blob_bytes.clone(),
            transfers: self.transfers.clone(),
        }
    }

    /// From all registries.
    pub(super) fn all_blob_bytes(&self) -> u64 {
        self.all_blob_bytes.get()
    }

    /// What stands for a registry in labels; one that `has_answered` gets a name if there is one left.
    fn label(&self, registry: &str, has_answered: bool) -> Arc<str> {
        let named = self.named.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = named.configured.get(registry).or_else(|| named.others.get(registry)) {
            return name.clone();
        }
        let is_to_be_named = has_answered && named.others.len() < NAMED_MAX;
        drop(named);
        if !is_to_be_named {
            return OTHER.into();
        }
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        // Others may have been named meanwhile, or the same.
        let is_named = named.others.contains(registry) || named.configured.contains(registry);
        if named.others.len() >= NAMED_MAX && !is_named {
            return OTHER.into();
        }
        let name: Arc<str> = registry.into();
        if !is_named {
            named.others.insert(name.clone());
        }
        name
    }
}

impl Coming {
    pub(crate) fn came(&self, bytes: usize) {
        self.bytes.inc_by(bytes as u64);
        self.all_bytes.inc_by(bytes as u64);
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.transfers.dec();
    }
}

fn status_of(stream: &BlobStream) -> StatusCode {
    if stream.is_part { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK }
}

fn status_label(status: Option<StatusCode>) -> Arc<str> {
    status.map_or_else(|| NO_ANSWER.into(), |status| Status::of(status.as_u16()).label().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_have_names_up_to_a_number_and_only_if_they_answer() {
        let registries = Registries::default();
        let ok = Some(StatusCode::OK);
        registries.sent("https://never", &Method::GET, None);
        for number in 0..100 {
            registries.sent(&format!("https://{number}"), &Method::GET, ok);
        }
        registries.sent("https://3", &Method::GET, ok);
        let of = |name: &str, status: &str| {
            let labels: Labels<3> =
                [("registry", name.into()), ("method", "GET".into()), ("status", status.into())];
            registries.requests.get(&labels).map(|counter| counter.get())
        };
        assert_eq!((of("https://never", "none"), of(OTHER, "none")), (None, Some(1)));
        assert_eq!((of("https://3", "200"), of("https://31", "200")), (Some(2), Some(1)));
        assert_eq!((of("https://32", "200"), of(OTHER, "200")), (None, Some(68)));
    }

    #[test]
    fn those_of_the_configuration_take_no_name_from_others() {
        let registries = Registries::default();
        let ok = Some(StatusCode::OK);
        (0..100).for_each(|number| registries.sent(&format!("https://{number}.example"), &Method::GET, ok));
        let settings = |yaml: &str| {
            let (directory, inputs) = (tempfile::tempdir().unwrap(), yaml);
            let file = directory.path().join("darter.yaml");
            std::fs::write(&file, inputs).unwrap();
            config::load(Some(&file), &[]).expect("a right configuration").settings
        };
        let named = |name: &str| &*registries.label(name, false) == name;
        assert!(named("https://31.example") && !named("https://32.example"));
        registries.name_all_of(&settings(
            "proxy:\n  registryMirror: {url: \"https://mirror.example\"}\n  allowedRegistries: [\"listed.example:5000\"]\n  \
             registries: [{host: \"own.example\", insecure: true}]\n",
        ));
        for name in ["mirror.example", "listed.example:5000", "own.example"] {
            assert!(named(&format!("https://{name}")), "{name}");
        }
        assert!(named("http://listed.example:5000") && !named("http://mirror.example"));
        // Those that were there keep theirs, and one of theirs makes place for another.
        registries.name_all_of(&settings("proxy: {allowedRegistries: [\"7.example\"]}\n"));
        assert!(named("https://7.example") && named("https://31.example") && named("https://own.example"));
        registries.sent("https://99.example", &Method::GET, ok);
        assert!(named("https://99.example"));
        registries.sent("https://98.example", &Method::GET, ok);
        assert!(!named("https://98.example"));
        let labels: Labels<3> = [
            ("registry", "https://own.example".into()),
            ("method", "GET".into()),
            ("status", NO_ANSWER.into()),
        ];
        assert_eq!(registries.requests.get(&labels).map(|counter| counter.get()), Some(0), "it is told of");
    }
}
