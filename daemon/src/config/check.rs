//! The one validation pass: layers of text in, typed settings out, or every problem at once.

mod cluster;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use darter_engine::store::ScrubOptions;

use super::age::Age;
use super::collector::Collector;
use super::error::{ConfigError, Problem, quoted};
use super::keys::{self, Fallback, Key, Known};
use super::layers::{Given, Layers, Override, Source, Surroundings};
use super::listed::{ListedRegistry, TlsSetting};
use super::raw::{RawConfig, Shape};
use super::registry::{Registry, RegistryHost};
use super::rules::{Pattern, Rule, Rules};
use super::settings::{
    IoChoice, LogFormat, LogSettings, SandboxMode, SandboxSettings, Settings, TracingSettings,
};
use super::size::ByteSize;
use super::token::TokenSetting;
use super::warnings::{self, Warning};
use crate::access::Lasting;

/// A checked configuration and what a person may want to know of it.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// What to run by.
    pub settings: Settings,
    /// What is allowed but worth a second thought; to be said at start.
    pub warnings: Vec<Warning>,
    /// Every value as text, with its source, in the order of the documentation.
    pub effective: Vec<Effective>,
}

/// One value as `config show` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Dotted path, with indices.
    pub key: String,
    /// In its usual form, or in brackets what happens without a value.
    pub value: String,
    /// Where it was given.
    pub source: Source,
    /// Of a file that is named here, once it has been read.
    pub(super) content: Option<blake3::Hash>,
}

/// Bytes: the largest ranged answer that must be in hand before its headers go out has to fit.
const CAPACITY_BYTES: std::ops::RangeInclusive<u64> = 4 << 20..=64 << 40;
/// Bytes per second: from one block, below which nothing would be fetched.
const PREFETCH_BYTES_PER_S: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 40;
const SCRUB_BYTES_PER_S: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 40;
const TTL: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3650 * 86_400);
/// A proof that lasts longer would let a revoked credential read for longer.
const PROOF: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
/// Of a connection id the first byte is the shard.
const SHARDS_MAX: usize = 256;
/// Rules that each request may have to be compared with.
const RULES_MAX: usize = 64;
/// Registries with settings of their own: each may take a client, with its connections, of each shard.
const REGISTRIES_MAX: usize = 64;

/// Lays flags over the file over the defaults and checks the result. Pure: it touches neither disk nor network.
///
/// # Errors
/// Every unknown key, every value that is not allowed, in the order of the file and then of the flags.
pub fn resolve(
    raw: &RawConfig,
    overrides: &[Override],
    surroundings: &Surroundings,
) -> Result<Resolved, ConfigError> {
    let layers = Layers::new(raw, overrides, surroundings);
    let mut pass = Pass { layers, problems: Vec::new(), effective: Vec::new() };
    pass.keys();
    let settings = pass.settings();
    pass.relations(&settings);
    let warnings = warnings::of(&settings, &pass.layers);
    if pass.problems.is_empty() {
        return Ok(Resolved { settings, warnings, effective: pass.effective });
    }
    pass.problems.sort_by(|a, b| a.source.cmp(&b.source));
    Err(ConfigError::Invalid(pass.problems))
}

struct Pass<'a> {
    layers: Layers<'a>,
    problems: Vec<Problem>,
    effective: Vec<Effective>,
}

impl Pass<'_> {
    /// In the order of [`keys::KEYS`], which is that of `config show`.
    fn settings(&mut self) -> Settings {
        let data_dir: String = self.value_if(&keys::DATA_DIR, |dir: &String| is_path(dir));
        let capacity = self.optional_if(&keys::CAPACITY, |size: &ByteSize| CAPACITY_BYTES.contains(&size.0));
        let ttl = self.optional_if(&keys::TASK_EXPIRE_TIME, |age: &Age| TTL.contains(&age.0));
        let io: IoChoice = self.value(&keys::IO);
        let scrub_rate = self.value_if(&keys::SCRUB_RATE, |rate: &ByteSize| {
            rate.0 == 0 || SCRUB_BYTES_PER_S.contains(&rate.0)
        });
        let scrub_interval: Age = self.value_if(&keys::SCRUB_INTERVAL, |age: &Age| TTL.contains(&age.0));
        let front = self.address(&keys::FRONT_IP, &keys::FRONT_PORT);
        let admin = self.address(&keys::ADMIN_IP, &keys::ADMIN_PORT);
        let admin_token = self.optional_if(&keys::ADMIN_TOKEN_FILE, |path: &String| is_path(path));
        let registry: Registry = self.value(&keys::REGISTRY);
        let registry_dynamic = self.value(&keys::REGISTRY_DYNAMIC);
        let mut allowed_registries: Vec<RegistryHost> = self.items(&keys::ALLOWED_REGISTRIES);
        let registries = self.listed_registries();
        allowed_registries.extend(registries.iter().map(|registry| registry.host.clone()));
        let rules = self.rules();
        let filter: String = self.value(&keys::DEFAULT_FILTER);
        let insecure: bool = self.value(&keys::INSECURE);
        let access_proof: Age = self.value_if(&keys::ACCESS_PROOF, |age: &Age| PROOF.contains(&age.0));
        let access_grace: Age = self.value_if(&keys::ACCESS_GRACE, |age: &Age| age.0 <= *TTL.end());
        let prefetch = self.value(&keys::PREFETCH);
        let prefetch_rate = self
            .value_if(&keys::PREFETCH_RATE_LIMIT, |rate: &ByteSize| PREFETCH_BYTES_PER_S.contains(&rate.0));
        let cluster = self.cluster();
        let mode: SandboxMode = self.value(&keys::SANDBOX_MODE);
        let user: Option<String> = self.optional_if(&keys::SANDBOX_USER, |user: &String| is_user_name(user));
        let shards = self.optional_if(&keys::SHARDS, |shards: &NonZeroUsize| shards.get() <= SHARDS_MAX);
        let format: LogFormat = self.value(&keys::LOG_FORMAT);
        let verbose = self.value(&keys::VERBOSE);
        let metrics = self.value(&keys::METRICS);
        let tracing = self.tracing();
        let pprof_port =
            self.value_if(&keys::PPROF_PORT, |port: &i32| *port == -1 || (1..=65535).contains(port));
        Settings {
            data_dir: PathBuf::from(data_dir),
            capacity_bytes: capacity.map(|size| size.0),
            front,
            admin,
            admin_token: admin_token.map(|path: String| TokenSetting::new(path.into())),
            registry,
            registry_dynamic,
            allowed_registries,
            registries,
            rules,
            filter_params: filter.split('&').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            origin_tls_verified: !insecure,
            access: Lasting { proof: access_proof.0, grace: access_grace.0 },
            prefetch,
            prefetch_bytes_per_s: prefetch_rate.0,
            cluster,
            sandbox: SandboxSettings { mode, user },
            shards,
            io,
            scrub: ScrubOptions { bytes_per_s: scrub_rate.0, interval: scrub_interval.0 },
            log: LogSettings { format, verbose },
            metrics,
            tracing,
            pprof_port: u16::try_from(pprof_port).ok(),
            ttl: ttl.map(|age| age.0),
        }
    }

    /// `None` where no collector is named.
    fn tracing(&mut self) -> Option<TracingSettings> {
        let endpoint: Option<Collector> = self.optional_if(&keys::TRACING_ENDPOINT, |_| true);
        let sample_ratio =
            self.value_if(&keys::TRACING_SAMPLE_RATIO, |ratio: &f64| (0.0..=1.0).contains(ratio));
        endpoint.map(|Collector(endpoint)| TracingSettings { endpoint, sample_ratio })
    }

    /// Every key of the file is known, and holds what the table says: a value, a list or a map.
    fn keys(&mut self) {
        let raw = self.layers.raw();
        for (path, entry) in raw.entries() {
            let place = keys::parent(&entry.pattern);
            // What is below an unknown or misshapen key has been reported with it.
            match (keys::known(place), entry.pattern.ends_with("[]")) {
                (Known::Map, false) | (Known::List, true) => {}
                _ => continue,
            }
            let text = match (keys::known(&entry.pattern), &entry.shape) {
                (Known::Refused(advice), _) => {
                    format!("Darter does not have this key of Dragonfly's; {advice}")
                }
                (Known::No, _) => {
                    let nearest = keys::nearest(&entry.pattern);
                    let hint = nearest.map(|key| format!("did you mean {key}? ")).unwrap_or_default();
                    format!("unknown key; {hint}allowed here: {}", keys::children(place).join(", "))
                }
                (_, Shape::Null)
                | (Known::Value, Shape::Scalar(_))
                | (Known::List, Shape::List(_))
                | (Known::Map, Shape::Map) => continue,
                (Known::Value, _) => "one value is expected".into(),
                (Known::List, _) => "a list is expected; begin each item with `- `".into(),
                (Known::Map, _) => {
                    format!("keys are expected; allowed here: {}", keys::children(&entry.pattern).join(", "))
                }
            };
            self.problems.push(Problem { source: raw.source(entry.line), key: path.to_owned(), text });
        }
    }

    fn value<T: FromStr<Err: fmt::Display> + fmt::Display>(&mut self, key: &Key) -> T {
        self.value_if(key, |_| true)
    }

    /// A value that is always there. After a problem the default stands in, so that the pass goes on and finds
    /// the others too.
    fn value_if<T>(&mut self, key: &Key, allowed: impl Fn(&T) -> bool) -> T
    where
        T: FromStr<Err: fmt::Display> + fmt::Display,
    {
        self.optional_if(key, allowed).unwrap_or_else(|| {
            let default = self.layers.default(key).and_then(|text| text.parse().ok());
            default.unwrap_or_else(|| unreachable!("{} has a valid default", key.path))
        })
    }

    fn optional_if<T>(&mut self, key: &Key, allowed: impl Fn(&T) -> bool) -> Option<T>
    where
        T: FromStr<Err: fmt::Display> + fmt::Display,
    {
        let Some(Given { text, source }) = self.layers.value(key) else {
            self.show_fallback(key);
            return None;
        };
        let value = checked(key, text, allowed);
        self.keep(key.path.to_owned(), source, value)
    }

    fn address(&mut self, ip: &Key, port: &Key) -> SocketAddr {
        let ip: IpAddr = self.value(ip);
        SocketAddr::new(ip, self.value(port))
    }

    fn items<T: FromStr<Err: fmt::Display> + fmt::Display>(&mut self, key: &Key) -> Vec<T> {
        let list = key.path.trim_end_matches("[]");
        let found: Vec<_> = self
            .layers
            .items(key)
            .into_iter()
            .enumerate()
            .map(|(index, given)| {
                (format!("{list}[{index}]"), given.source, checked(key, given.text, |_| true))
            })
            .collect();
        if found.is_empty() {
            self.show_fallback(key);
        }
        found.into_iter().filter_map(|(path, source, value)| self.keep(path, source, value)).collect()
    }

    fn listed_registries(&mut self) -> Vec<ListedRegistry> {
        let raw = self.layers.raw();
        let list = keys::REGISTRIES;
        let source = self.layers.list_source(list);
        let len = raw.list_len(list);
        if len > REGISTRIES_MAX {
            let text = format!("{len} registries; allowed: at most {REGISTRIES_MAX}");
            self.problems.push(Problem { source, key: list.into(), text });
            return Vec::new();
        }
        if len == 0 {
            self.show(list.to_owned(), "(none with settings of its own)", source);
        }
        let mut listed: Vec<ListedRegistry> = Vec::with_capacity(len);
        for index in 0..len {
            let item = format!("{list}[{index}]");
            let Some(registry) = self.listed_registry(&item) else { continue };
            if listed.iter().any(|other| other.host == registry.host) {
                let text = format!("{} is listed twice; leave one", registry.host);
                let source = self.layers.list_source(&item);
                self.problems.push(Problem { source, key: item, text });
            }
            listed.push(registry);
        }
        listed
    }

    fn listed_registry(&mut self, item: &str) -> Option<ListedRegistry> {
        let host = self.in_item(item, &keys::REGISTRY_HOST, |_| true);
        let insecure = self.in_item(item, &keys::REGISTRY_INSECURE, |_| true);
        let ca: Option<String> = self.in_item(item, &keys::REGISTRY_CA, |path: &String| is_path(path));
        let cert: Option<String> = self.in_item(item, &keys::REGISTRY_CERT, |path: &String| is_path(path));
        let key: Option<String> = self.in_item(item, &keys::REGISTRY_KEY, |path: &String| is_path(path));
        self.needed(item, &keys::REGISTRY_HOST);
        match (&cert, &key) {
            (Some(_), None) => self.needed(item, &keys::REGISTRY_KEY),
            (None, Some(_)) => self.needed(item, &keys::REGISTRY_CERT),
            _ => {}
        }
        // What holds for all, checked with the key of its own.
        let for_all = self.layers.value(&keys::INSECURE).is_some_and(|given| given.text == "true");
        let client = cert.zip(key).map(|(cert, key)| (cert.into(), key.into()));
        let tls = TlsSetting::new(!insecure.unwrap_or(for_all), ca.map(PathBuf::from), client);
        Some(ListedRegistry { host: host?, tls })
    }

    /// The value of a key within an item of a list, if it is given.
    fn in_item<T>(&mut self, item: &str, key: &Key, allowed: impl Fn(&T) -> bool) -> Option<T>
    where
        T: FromStr<Err: fmt::Display> + fmt::Display,
    {
        let (_, name) = key.path.rsplit_once('.')?;
        let path = format!("{item}.{name}");
        let given = self.layers.in_file(&path)?;
        self.keep(path, given.source, checked(key, given.text, allowed))
    }

    /// A problem if the item has no such key. What is no map has been reported as that.
    fn needed(&mut self, item: &str, key: &Key) {
        let raw = self.layers.raw();
        let path = key.path.rsplit_once('.').map_or_else(String::new, |(_, name)| format!("{item}.{name}"));
        let Some(entry) = raw.entry(item).filter(|entry| matches!(entry.shape, Shape::Map | Shape::Null))
        else {
            return;
        };
        if raw.entry(&path).is_none_or(|entry| matches!(entry.shape, Shape::Null)) {
            let text = format!("missing; allowed: {}", key.takes);
            self.problems.push(Problem { source: raw.source(entry.line), key: path, text });
        }
    }

    fn rules(&mut self) -> Rules {
        let raw = self.layers.raw();
        let list = keys::RULES;
        let line = match raw.entry(list) {
            Some(entry) if matches!(entry.shape, Shape::List(_)) => entry.line,
            _ => return self.default_rules(list),
        };
        let len = raw.list_len(list);
        if len > RULES_MAX {
            let text = format!("{len} rules; allowed: at most {RULES_MAX}");
            self.problems.push(Problem { source: raw.source(line), key: list.into(), text });
            return Rules::default();
        }
        if len == 0 {
            self.show(list.to_owned(), "(nothing is cached)", raw.source(line));
        }
        (0..len).filter_map(|index| self.rule(&format!("{list}[{index}]"))).collect()
    }

    fn rule(&mut self, item: &str) -> Option<Rule> {
        let raw = self.layers.raw();
        let (regx, direct) = (format!("{item}.regx"), format!("{item}.direct"));
        let entry = raw.entry(item)?;
        let Some(given) = self.layers.in_file(&regx) else {
            if matches!(entry.shape, Shape::Map | Shape::Null) {
                let text = format!("missing; allowed: {}", keys::RULE_REGX.takes);
                self.problems.push(Problem { source: raw.source(entry.line), key: regx, text });
            }
            return None;
        };
        let pattern: Pattern =
            self.keep(regx, given.source, checked(&keys::RULE_REGX, given.text, |_| true))?;
        let direct = match self.layers.in_file(&direct) {
            Some(given) => {
                self.keep(direct, given.source, checked(&keys::RULE_DIRECT, given.text, |_| true))?
            }
            None => false,
        };
        Some(Rule { pattern: pattern.0, direct })
    }

    fn default_rules(&mut self, list: &str) -> Rules {
        let Pattern(pattern) = self
            .layers
            .default(&keys::RULE_REGX)
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| unreachable!("{} has a valid default", keys::RULE_REGX.path));
        self.show(format!("{list}[0].regx"), &pattern, Source::Default);
        std::iter::once(Rule { pattern, direct: false }).collect()
    }

    /// What no single value shows.
    fn relations(&mut self, settings: &Settings) {
        // Port 0 is a different port each time.
        if settings.front == settings.admin && settings.front.port() != 0 {
            let text = format!("front and admin port are both {}; give one another port", settings.front);
            let source = self.layers.source(&keys::ADMIN_PORT).max(self.layers.source(&keys::FRONT_PORT));
            self.problems.push(Problem { source, key: keys::ADMIN_PORT.path.into(), text });
        }
        if let Some(profiles) = settings.profiles() {
            let others = [("the front", settings.front), ("the admin port", settings.admin)];
            for (what, _) in others.into_iter().filter(|(_, other)| would_meet(profiles, *other)) {
                let text = format!("{what} has port {} too; give one another port", profiles.port());
                let source = self.layers.source(&keys::PPROF_PORT);
                self.problems.push(Problem { source, key: keys::PPROF_PORT.path.into(), text });
            }
        }
        if let Some(cluster) = &settings.cluster {
            self.peer_port_is_free(cluster.listen, settings);
        }
    }

    /// Records the outcome for one path.
    fn keep<T: fmt::Display>(&mut self, path: String, source: Source, value: Result<T, String>) -> Option<T> {
        match value {
            Ok(value) => {
                self.show(path, &value, source);
                Some(value)
            }
            Err(text) => {
                self.problems.push(Problem { source, key: path, text });
                None
            }
        }
    }

    fn show(&mut self, key: String, value: &(impl fmt::Display + ?Sized), source: Source) {
        self.effective.push(Effective { key, value: value.to_string(), source, content: None });
    }

    fn show_fallback(&mut self, key: &Key) {
        if let Fallback::Decided(words) = key.fallback {
            self.show(
                key.path.trim_end_matches("[]").to_owned(),
                &format_args!("({words})"),
                Source::Default,
            );
        }
    }
}

/// A name or a number as `useradd` takes it.
fn is_user_name(name: &str) -> bool {
    const BYTES_MAX: usize = 32;
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    (1..=BYTES_MAX).contains(&name.len()) && !name.starts_with('-') && name.chars().all(is_allowed)
}

/// Whether who listens at one cannot listen at the other: it is the same, or one of all.
fn would_meet(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port() && (one.ip() == other.ip() || other.ip().is_unspecified())
}

/// Nobody expands `~` here, and a directory of that name is hardly meant.
fn is_path(path: &str) -> bool {
    !path.is_empty() && !path.starts_with('~')
}

/// A text as a value, or what is wrong with it and what is allowed.
fn checked<T>(key: &Key, text: &str, allowed: impl Fn(&T) -> bool) -> Result<T, String>
where
    T: FromStr<Err: fmt::Display>,
{
    match text.parse::<T>() {
        Ok(value) if allowed(&value) => Ok(value),
        Ok(_) => Err(format!("{} is not allowed; allowed: {}", quoted(text), key.takes)),
        Err(why) => Err(format!("{} is refused: {why}; allowed: {}", quoted(text), key.takes)),
    }
}
