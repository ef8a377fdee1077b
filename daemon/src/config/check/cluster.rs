//! The section `cluster`: each value, and which of them go together.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use darter_transport::node::Role;
use darter_transport::wire::Text;

use super::Pass;
use crate::config::cluster::{Advertise, IdentitySource, JoinTarget, LanesWord, RoleWord, Zone};
use crate::config::error::Problem;
use crate::config::keys::{self, Key};
use crate::config::layers::Source;
use crate::config::settings::{ClusterLimits, ClusterSettings, Settings};
use crate::config::size::ByteSize;

/// Bytes per second: from one block, below which nothing would move.
const PEER_BYTES_PER_S: RangeInclusive<u64> = 64 << 10..=1 << 40;
/// More than any node has others that ask it at one time.
const CONCURRENT_UPLOADS: RangeInclusive<usize> = 1..=4096;
/// A cluster has at most 128 seeds, and one that answers is enough.
const TARGETS_MAX: usize = 64;

impl Pass<'_> {
    /// `None` where the node has no identity, or one that is wrong.
    pub(super) fn cluster(&mut self) -> Option<ClusterSettings> {
        let RoleWord(role) = self.value(&keys::CLUSTER_ROLE);
        let listen: SocketAddr = self.value(&keys::CLUSTER_LISTEN);
        let advertise: Option<Advertise> = self.optional_if(&keys::CLUSTER_ADVERTISE, |_| true);
        let join = self.join_targets();
        let zone: Option<Zone> = self.optional_if(&keys::CLUSTER_ZONE, |_| true);
        let identity = self.identity();
        let LanesWord(lanes) = self.value(&keys::CLUSTER_TRANSPORT);
        let limits = self.limits();
        let Some(identity) = identity else {
            self.only_with_identity(role);
            return None;
        };
        let named = !join.is_empty() || self.is_given(&keys::CLUSTER_JOIN);
        if role == Role::Peer && !named {
            self.wrong(
                &keys::CLUSTER_ROLE,
                "a peer finds its cluster by a seed: name one or more in cluster.join (--join HOST:PORT), or make this \
                 node the first seed with cluster.role: seed (--seed)",
            );
        }
        if listen.ip().is_unspecified() && advertise.is_none() && !self.is_given(&keys::CLUSTER_ADVERTISE) {
            let text = format!(
                "other nodes cannot connect to {}: name the address at which they reach this one in cluster.advertise \
                 (--peer-advertise IP), or listen at that address alone",
                listen.ip()
            );
            self.wrong(&keys::CLUSTER_LISTEN, &text);
        }
        let zone = Text::cut(zone.as_ref().map_or("", |zone| &zone.0));
        Some(ClusterSettings { role, identity, listen, advertise, join, zone, lanes, limits })
    }

    /// A port of the front or of the admin port cannot be that of peers too: all three take TCP.
    pub(super) fn peer_port_is_free(&mut self, listen: SocketAddr, settings: &Settings) {
        if listen.port() == 0 {
            return;
        }
        for (what, other) in [("the front", settings.front), ("the admin port", settings.admin)] {
            if listen == other {
                let text = format!("{what} is {other} too; give one another port");
                self.wrong(&keys::CLUSTER_LISTEN, &text);
            }
        }
    }

    fn limits(&mut self) -> ClusterLimits {
        let is_rate = |rate: &ByteSize| PEER_BYTES_PER_S.contains(&rate.0);
        let upload = self.optional_if(&keys::CLUSTER_UPLOAD_RATE, is_rate);
        let download = self.optional_if(&keys::CLUSTER_DOWNLOAD_RATE, is_rate);
        ClusterLimits {
            upload_bytes_per_s: upload.map(|rate| rate.0),
            download_bytes_per_s: download.map(|rate| rate.0),
            concurrent_uploads: self
                .value_if(&keys::CLUSTER_CONCURRENT_UPLOADS, |uploads| CONCURRENT_UPLOADS.contains(uploads)),
        }
    }

    fn join_targets(&mut self) -> Vec<JoinTarget> {
        let join: Vec<JoinTarget> = self.items(&keys::CLUSTER_JOIN);
        if join.len() > TARGETS_MAX {
            let text = format!("{} places; allowed: at most {TARGETS_MAX}", join.len());
            self.wrong(&keys::CLUSTER_JOIN, &text);
        }
        join
    }

    fn identity(&mut self) -> Option<IdentitySource> {
        let is_path = |path: &String| !path.is_empty() && !path.starts_with('~');
        let secrets: Option<String> = self.optional_if(&keys::CLUSTER_SECRET_FILE, is_path);
        let tls = [&keys::CLUSTER_CA, &keys::CLUSTER_CERT, &keys::CLUSTER_KEY];
        let files = tls.map(|key| self.optional_if::<String>(key, is_path).map(PathBuf::from));
        if self.is_given(&keys::CLUSTER_SECRET_FILE) && tls.iter().any(|key| self.is_given(key)) {
            self.wrong(
                &keys::CLUSTER_SECRET_FILE,
                "cluster.tls is given too, and a node has one identity: leave out one of the two",
            );
            return None;
        }
        match (secrets, files) {
            (Some(path), _) => Some(IdentitySource::Secrets(path.into())),
            (None, [Some(ca), Some(cert), Some(key)]) => Some(IdentitySource::Files { ca, cert, key }),
            _ => {
                let given: Vec<_> = tls.into_iter().filter(|key| self.is_given(key)).collect();
                if let [first, ..] = given[..] {
                    for missing in tls.into_iter().filter(|key| !self.is_given(key)).collect::<Vec<_>>() {
                        let text = format!("missing beside {}; allowed: {}", first.path, missing.takes);
                        let source = self.layers.source(first);
                        self.problems.push(Problem { source, key: missing.path.into(), text });
                    }
                }
                None
            }
        }
    }

    /// What asks for a cluster must not be passed over because the identity is missing.
    fn only_with_identity(&mut self, role: Role) {
        let identities =
            [&keys::CLUSTER_SECRET_FILE, &keys::CLUSTER_CA, &keys::CLUSTER_CERT, &keys::CLUSTER_KEY];
        if identities.into_iter().any(|key| self.is_given(key)) {
            // It has been said what is wrong with it.
            return;
        }
        let needs = "nodes speak to each other with certificates only: write the secrets of a cluster with `darter \
                     cluster init --out FILE` and name the file in cluster.secretFile (--cluster-secret FILE), or \
                     certificates in cluster.tls";
        if role == Role::Seed {
            self.wrong(&keys::CLUSTER_ROLE, needs);
        }
        for key in [&keys::CLUSTER_LISTEN, &keys::CLUSTER_ADVERTISE, &keys::CLUSTER_JOIN] {
            // A port on loopback that nobody opens yet is no harm: a file may be prepared before it has its secret.
            let is_harmless = key.path == keys::CLUSTER_LISTEN.path
                && self.layers.value(key).is_some_and(|given| {
                    given.text.parse::<SocketAddr>().is_ok_and(|listen| listen.ip().is_loopback())
                });
            if self.is_given(key) && !is_harmless {
                self.wrong(key, needs);
            }
        }
    }

    fn is_given(&self, key: &Key) -> bool {
        let source = match key.path.strip_suffix("[]") {
            Some(_) => self.layers.items(key).into_iter().next().map(|given| given.source),
            None => self.layers.value(key).map(|given| given.source),
        };
        source.is_some_and(|source| source != Source::Default)
    }

    fn wrong(&mut self, key: &Key, text: &str) {
        let given = match key.path.strip_suffix("[]") {
            Some(_) => self.layers.items(key).into_iter().next().map(|given| given.source),
            None => Some(self.layers.source(key)),
        };
        // What is wrong by its default is said where the identity was given.
        let identity = [&keys::CLUSTER_SECRET_FILE, &keys::CLUSTER_CA];
        let source = given.filter(|source| *source != Source::Default).unwrap_or_else(|| {
            let sources = identity.map(|key| self.layers.source(key));
            sources.into_iter().max().unwrap_or(Source::Default)
        });
        let path = key.path.trim_end_matches("[]").to_owned();
        self.problems.push(Problem { source, key: path, text: text.into() });
    }
}
