//! The table of keys: what may stand in the file, which flag says the same, what it takes, what holds otherwise.
//!
//! A key of Dragonfly's that Darter does not have is listed too, with what to do instead: a daemon that drops a
//! setting in silence behaves differently from what its configuration says.

/// One setting.
#[derive(Debug)]
pub(super) struct Key {
    /// Dotted path; `[]` stands for each item of a list.
    pub(super) path: &'static str,
    /// What is allowed, to follow "allowed: ".
    pub(super) takes: &'static str,
    /// What holds when nobody says anything.
    pub(super) fallback: Fallback,
    /// When a changed value counts, in a daemon that runs.
    pub(super) taken_up: TakenUp,
}

/// When a changed value counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TakenUp {
    /// As soon as it has been read again.
    AtOnce,
    /// From the next start on.
    Restart,
}

#[derive(Debug)]
pub(super) enum Fallback {
    /// As if this had been written; of a list, its only item.
    Text(&'static str),
    /// The state directory of the user or of the system.
    DataDir,
    /// Decided by whoever uses the setting, in these words.
    Decided(&'static str),
}

use Fallback::{DataDir, Decided, Text};
use TakenUp::{AtOnce, Restart};

const BOOL: &str = "true or false";
const IP: &str = "an IP address such as 127.0.0.1, or 0.0.0.0 for every interface";
const PORT: &str = "a port, 0 to 65535; 0 lets the system choose";

pub(super) const DATA_DIR: Key =
    Key { path: "dataDir", takes: "a directory; ~ is not expanded", fallback: DataDir, taken_up: Restart };
pub(super) const CAPACITY: Key = Key {
    path: "storage.capacity",
    takes: "a size from 4MiB to 64TiB, such as 10GiB",
    fallback: Decided("20 % of free space, at most 50GiB"),
    taken_up: Restart,
};
pub(super) const TASK_EXPIRE_TIME: Key = Key {
    path: "storage.taskExpireTime",
    takes: "a time from 1s to 3650d, such as 6h or 1h30m; leave the key out to keep content until it is evicted",
    fallback: Decided("kept until evicted"),
    taken_up: Restart,
};
pub(super) const IO: Key =
    Key { path: "storage.io", takes: "auto, ring or pool", fallback: Text("auto"), taken_up: Restart };
pub(super) const SCRUB_RATE: Key = Key {
    path: "storage.scrub.rate",
    takes: "a size per second from 64KiB to 1TiB, such as 32MiB, or 0 to check nothing ahead of its readers",
    fallback: Text("32MiB"),
    taken_up: AtOnce,
};
pub(super) const SCRUB_INTERVAL: Key = Key {
    path: "storage.scrub.interval",
    takes: "a time from 1s to 3650d, such as 7d",
    fallback: Text("7d"),
    taken_up: AtOnce,
};
pub(super) const FRONT_IP: Key =
    Key { path: "proxy.tcpListen.listen", takes: IP, fallback: Text("127.0.0.1"), taken_up: Restart };
pub(super) const FRONT_PORT: Key =
    Key { path: "proxy.tcpListen.port", takes: PORT, fallback: Text("65001"), taken_up: Restart };
pub(super) const ADMIN_IP: Key =
    Key { path: "health.tcpListen.listen", takes: IP, fallback: Text("127.0.0.1"), taken_up: Restart };
pub(super) const ADMIN_PORT: Key =
    Key { path: "health.tcpListen.port", takes: PORT, fallback: Text("40901"), taken_up: Restart };
pub(super) const ADMIN_TOKEN_FILE: Key = Key {
    path: "health.tokenFile",
    takes: "a file with a token of at least 16 bytes that only its owner may read; ~ is not expanded",
    fallback: Decided("none: other machines change nothing"),
    taken_up: AtOnce,
};
pub(super) const REGISTRY: Key = Key {
    path: "proxy.registryMirror.url",
    takes: "http:// or https://, HOST and optionally :PORT, without a path",
    fallback: Text("https://index.docker.io"),
    taken_up: AtOnce,
};
pub(super) const REGISTRY_DYNAMIC: Key =
    Key { path: "proxy.registryMirror.dynamic", takes: BOOL, fallback: Text("true"), taken_up: AtOnce };
pub(super) const ALLOWED_REGISTRIES: Key = Key {
    path: "proxy.allowedRegistries[]",
    takes: "HOST or HOST:PORT, without a scheme",
    fallback: Decided("none beside the configured registry"),
    taken_up: AtOnce,
};
/// The list that the next five keys are in.
pub(super) const REGISTRIES: &str = "proxy.registries";
pub(super) const REGISTRY_HOST: Key = Key {
    path: "proxy.registries[].host",
    takes: "HOST or HOST:PORT, without a scheme",
    fallback: Decided("none with settings of its own"),
    taken_up: AtOnce,
};
pub(super) const REGISTRY_INSECURE: Key = Key {
    path: "proxy.registries[].insecure",
    takes: BOOL,
    fallback: Decided("proxy.security.insecure"),
    taken_up: AtOnce,
};
pub(super) const REGISTRY_CA: Key = Key {
    path: "proxy.registries[].ca",
    takes: "a PEM file with certificates; ~ is not expanded",
    fallback: Decided("the system's certificates"),
    taken_up: AtOnce,
};
pub(super) const REGISTRY_CERT: Key = Key {
    path: "proxy.registries[].cert",
    takes: "a PEM file with a certificate, and those that lead from it to its authority; ~ is not expanded",
    fallback: Decided("no client certificate"),
    taken_up: AtOnce,
};
pub(super) const REGISTRY_KEY: Key = Key {
    path: "proxy.registries[].key",
    takes: "a PEM file with the private key of cert; ~ is not expanded",
    fallback: Decided("no client certificate"),
    taken_up: AtOnce,
};
/// The list that the next two keys are in.
pub(super) const RULES: &str = "proxy.proxies";
pub(super) const RULE_REGX: Key = Key {
    path: "proxy.proxies[].regx",
    takes: "a regular expression without look-around or back-references, such as blobs/sha256.*",
    fallback: Text("blobs/sha256.*"),
    taken_up: AtOnce,
};
pub(super) const RULE_DIRECT: Key =
    Key { path: "proxy.proxies[].direct", takes: BOOL, fallback: Text("false"), taken_up: AtOnce };
pub(super) const DEFAULT_FILTER: Key = Key {
    path: "proxy.defaultFilter",
    takes: "names of query parameters joined by &",
    fallback: Text("Expires&Signature&ns"),
    taken_up: AtOnce,
};
pub(super) const ACCESS_PROOF: Key = Key {
    path: "access.proof",
    takes: "a time from 1s to 1h, such as 5m",
    fallback: Text("5m"),
    taken_up: AtOnce,
};
pub(super) const ACCESS_GRACE: Key = Key {
    path: "access.grace",
    takes: "a time from 0s to 3650d, such as 12h",
    fallback: Text("12h"),
    taken_up: AtOnce,
};
pub(super) const INSECURE: Key =
    Key { path: "proxy.security.insecure", takes: BOOL, fallback: Text("false"), taken_up: AtOnce };
pub(super) const PREFETCH: Key =
    Key { path: "download.prefetch", takes: BOOL, fallback: Text("false"), taken_up: AtOnce };
pub(super) const PREFETCH_RATE_LIMIT: Key = Key {
    path: "download.prefetchRateLimit",
    takes: "a size per second from 64KiB to 1TiB, such as 128MiB",
    fallback: Text("128MiB"),
    taken_up: AtOnce,
};
/// One address: peers are reached by UDP and by TCP at the same port.
const PEER_ADDRESS: &str = "IP:PORT, such as 10.0.0.7:65000 or 0.0.0.0:65000; port 0 lets the system choose";
const PEM: &str = "a PEM file; ~ is not expanded";

pub(super) const CLUSTER_ROLE: Key =
    Key { path: "cluster.role", takes: "peer or seed", fallback: Text("peer"), taken_up: Restart };
pub(super) const CLUSTER_LISTEN: Key =
    Key { path: "cluster.listen", takes: PEER_ADDRESS, fallback: Text("127.0.0.1:65000"), taken_up: Restart };
pub(super) const CLUSTER_ADVERTISE: Key = Key {
    path: "cluster.advertise",
    takes: "IP or IP:PORT at which other nodes reach this one, such as 10.0.0.7",
    fallback: Decided("where it listens"),
    taken_up: Restart,
};
pub(super) const CLUSTER_JOIN: Key = Key {
    path: "cluster.join[]",
    takes: "HOST:PORT, dns://NAME:PORT or dns+srv://NAME, where seeds are",
    fallback: Decided("nobody"),
    taken_up: Restart,
};
pub(super) const CLUSTER_ZONE: Key = Key {
    path: "cluster.zone",
    takes: "a name of at most 63 bytes without white space, such as rack-7",
    fallback: Decided("none"),
    taken_up: Restart,
};
pub(super) const CLUSTER_SECRET_FILE: Key = Key {
    path: "cluster.secretFile",
    takes: "a file that `darter cluster init` has written; ~ is not expanded",
    fallback: Decided("none: no cluster, unless cluster.tls is given"),
    taken_up: Restart,
};
pub(super) const CLUSTER_CA: Key =
    Key { path: "cluster.tls.ca", takes: PEM, fallback: Decided("none"), taken_up: Restart };
pub(super) const CLUSTER_CERT: Key =
    Key { path: "cluster.tls.cert", takes: PEM, fallback: Decided("none"), taken_up: Restart };
pub(super) const CLUSTER_KEY: Key =
    Key { path: "cluster.tls.key", takes: PEM, fallback: Decided("none"), taken_up: Restart };
pub(super) const CLUSTER_TRANSPORT: Key =
    Key { path: "cluster.transport", takes: "auto, quic or tcp", fallback: Text("auto"), taken_up: Restart };
const PEER_RATE: &str =
    "a size per second from 64KiB to 1TiB, such as 500MiB; leave the key out for no limit";
pub(super) const CLUSTER_UPLOAD_RATE: Key = Key {
    path: "cluster.limits.uploadRate",
    takes: PEER_RATE,
    fallback: Decided("no limit"),
    taken_up: AtOnce,
};
pub(super) const CLUSTER_DOWNLOAD_RATE: Key = Key {
    path: "cluster.limits.downloadRate",
    takes: PEER_RATE,
    fallback: Decided("no limit"),
    taken_up: AtOnce,
};
pub(super) const CLUSTER_CONCURRENT_UPLOADS: Key = Key {
    path: "cluster.limits.concurrentUploads",
    takes: "a number of uploads, 1 to 4096",
    fallback: Text("64"),
    taken_up: AtOnce,
};
pub(super) const SANDBOX_MODE: Key =
    Key { path: "sandbox.mode", takes: "auto, off or required", fallback: Text("auto"), taken_up: Restart };
pub(super) const SANDBOX_USER: Key = Key {
    path: "sandbox.user",
    takes: "the name or number of a user that this machine knows",
    fallback: Decided("whoever starts the daemon"),
    taken_up: Restart,
};
pub(super) const SHARDS: Key = Key {
    path: "shards",
    takes: "a number of threads, 1 to 256",
    fallback: Decided("the CPUs that the daemon may use, at most 4"),
    taken_up: Restart,
};
pub(super) const LOG_FORMAT: Key =
    Key { path: "log.format", takes: "text or json", fallback: Text("text"), taken_up: Restart };
pub(super) const VERBOSE: Key =
    Key { path: "verbose", takes: BOOL, fallback: Text("false"), taken_up: AtOnce };
pub(super) const METRICS: Key =
    Key { path: "metrics.enable", takes: BOOL, fallback: Text("true"), taken_up: Restart };
pub(super) const TRACING_ENDPOINT: Key = Key {
    path: "tracing.endpoint",
    takes: "http:// or https://, HOST and optionally :PORT and a path: a collector that takes OTLP over HTTP, such as \
            http://127.0.0.1:4318",
    fallback: Decided("no traces"),
    taken_up: Restart,
};
pub(super) const TRACING_SAMPLE_RATIO: Key = Key {
    path: "tracing.sampleRatio",
    takes: "a number from 0 to 1",
    fallback: Text("0.01"),
    taken_up: Restart,
};
pub(super) const PPROF_PORT: Key = Key {
    path: "pprofPort",
    takes: "a port, 1 to 65535, or -1 for none",
    fallback: Text("-1"),
    taken_up: Restart,
};

/// All of them, in the order in which `config show` prints them.
pub(super) const KEYS: [&Key; 49] = [
    &DATA_DIR,
    &CAPACITY,
    &TASK_EXPIRE_TIME,
    &IO,
    &SCRUB_RATE,
    &SCRUB_INTERVAL,
    &FRONT_IP,
    &FRONT_PORT,
    &ADMIN_IP,
    &ADMIN_PORT,
    &ADMIN_TOKEN_FILE,
    &REGISTRY,
    &REGISTRY_DYNAMIC,
    &ALLOWED_REGISTRIES,
    &REGISTRY_HOST,
    &REGISTRY_INSECURE,
    &REGISTRY_CA,
    &REGISTRY_CERT,
    &REGISTRY_KEY,
    &RULE_REGX,
    &RULE_DIRECT,
    &DEFAULT_FILTER,
    &INSECURE,
    &ACCESS_PROOF,
    &ACCESS_GRACE,
    &PREFETCH,
    &PREFETCH_RATE_LIMIT,
    &CLUSTER_ROLE,
    &CLUSTER_LISTEN,
    &CLUSTER_ADVERTISE,
    &CLUSTER_JOIN,
    &CLUSTER_ZONE,
    &CLUSTER_SECRET_FILE,
    &CLUSTER_CA,
    &CLUSTER_CERT,
    &CLUSTER_KEY,
    &CLUSTER_TRANSPORT,
    &CLUSTER_UPLOAD_RATE,
    &CLUSTER_DOWNLOAD_RATE,
    &CLUSTER_CONCURRENT_UPLOADS,
    &SANDBOX_MODE,
    &SANDBOX_USER,
    &SHARDS,
    &LOG_FORMAT,
    &VERBOSE,
    &METRICS,
    &TRACING_ENDPOINT,
    &TRACING_SAMPLE_RATIO,
    &PPROF_PORT,
];

/// Keys of Dragonfly's dfdaemon (2.0 in Go and 2.1 ff. in Rust) that are not Darter's, and what to do instead.
const REFUSED: &[(&str, &str)] = &[
    ("console", "remove it: logs always go to standard error"),
    (
        "download.perPeerRateLimit",
        "remove it: cluster.limits.downloadRate limits what all peers send together",
    ),
    (
        "download.rateLimit",
        "set cluster.limits.downloadRate for peers, download.prefetchRateLimit for registries",
    ),
    (
        "download.totalRateLimit",
        "set cluster.limits.downloadRate for peers, download.prefetchRateLimit for registries",
    ),
    ("gc", "set storage.capacity and storage.taskExpireTime"),
    ("health.server", "set health.tcpListen.listen and health.tcpListen.port"),
    ("host", "set cluster.advertise (advertiseIP) and cluster.zone (idc)"),
    ("keepStorage", "remove it: what is cached always outlives the daemon"),
    ("log.level", "set verbose: true for more, or DARTER_LOG for a level by module"),
    ("manager", "remove it: Darter has no manager"),
    ("metrics.server", "remove it: /metrics is on the admin port, health.tcpListen.port"),
    ("objectStorage", "remove it: Darter has no object storage service"),
    ("pprof-port", "set pprofPort"),
    ("proxy.basicAuth", "remove it: keep the front on loopback, proxy.tcpListen.listen: 127.0.0.1"),
    ("proxy.hijackHTTPS", "remove it: point clients at the front over http"),
    ("proxy.prefetch", "set download.prefetch"),
    ("proxy.prefetchRateLimit", "set download.prefetchRateLimit"),
    ("proxy.proxies[].filteredQueryParams", "set proxy.defaultFilter, which holds for every rule"),
    ("proxy.proxies[].redirect", "name the other registry in proxy.registryMirror.url or at the client"),
    ("proxy.proxies[].regex", "set regx"),
    ("proxy.proxies[].useHTTPS", "write https:// in proxy.registryMirror.url or X-Dragonfly-Registry"),
    ("proxy.proxies[].useTLS", "write https:// in proxy.registryMirror.url or X-Dragonfly-Registry"),
    ("proxy.registryMirror.addr", "set proxy.registryMirror.url"),
    ("proxy.registryMirror.cert", "set proxy.registries, a list with host and ca"),
    ("proxy.registryMirror.certs", "set proxy.registries, a list with host and ca"),
    ("proxy.registryMirror.direct", "add a rule to proxy.proxies with direct: true"),
    ("proxy.registryMirror.insecure", "set proxy.registries, a list with host and insecure"),
    ("proxy.registryMirror.useProxies", "remove it: proxy.proxies always decides"),
    ("proxy.rules", "set proxy.proxies, a list of regx"),
    ("proxy.security.cacert", "remove it: the front speaks http, on loopback by default"),
    ("proxy.security.cert", "remove it: the front speaks http, on loopback by default"),
    ("proxy.security.key", "remove it: the front speaks http, on loopback by default"),
    ("proxy.security.tlsVerify", "remove it: origin TLS is verified unless proxy.security.insecure is true"),
    ("proxy.server", "set proxy.tcpListen.listen and proxy.tcpListen.port"),
    ("proxy.tcpListen.namespace", "remove it: start the daemon in that network namespace"),
    ("proxy.whiteList", "set proxy.allowedRegistries, a list of HOST or HOST:PORT"),
    ("scheduler", "remove it: Darter has no scheduler; name the seeds of a cluster in cluster.join"),
    ("security", "set cluster.secretFile or cluster.tls"),
    ("seedPeer", "set cluster.role: seed; a node without a cluster is its own seed"),
    ("storage.dataPath", "set dataDir"),
    ("storage.dir", "set dataDir"),
    ("storage.diskGCThreshold", "set storage.capacity; that many bytes are reserved at start"),
    ("storage.diskGCThresholdPercent", "set storage.capacity; that many bytes are reserved at start"),
    ("storage.keep", "remove it: what is cached always outlives the daemon"),
    ("storage.multiplex", "remove it: the same content is always kept once"),
    ("storage.strategy", "remove it: there is one way of storing"),
    ("upload", "set cluster.listen and cluster.limits"),
];

/// What the table says about a path without indices.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    Value,
    List,
    Map,
    /// Dragonfly's, with what to do instead.
    Refused(&'static str),
    No,
}

pub(super) fn known(pattern: &str) -> Known {
    if let Some((_, advice)) = REFUSED.iter().find(|(path, _)| *path == pattern) {
        return Known::Refused(advice);
    }
    let rests = || KEYS.iter().filter_map(|key| key.path.strip_prefix(pattern));
    match pattern {
        "" => Known::Map,
        _ if rests().any(str::is_empty) => Known::Value,
        _ if rests().any(|rest| rest.starts_with("[]")) => Known::List,
        _ if rests().any(|rest| rest.starts_with('.')) => Known::Map,
        _ => Known::No,
    }
}

/// When a changed value counts, of a key or of a list as a whole. The items of a list are all alike.
pub(super) fn taken_up(key_or_list: &str) -> TakenUp {
    let is_below = |path: &str| {
        path.strip_prefix(key_or_list).is_some_and(|rest| rest.is_empty() || rest.starts_with("[]"))
    };
    KEYS.iter().find(|key| is_below(key.path)).map_or(TakenUp::Restart, |key| key.taken_up)
}

/// The map or list that a path is in.
pub(super) fn parent(pattern: &str) -> &str {
    pattern.strip_suffix("[]").unwrap_or_else(|| pattern.rsplit_once('.').map_or("", |(parent, _)| parent))
}

/// The names in a map, sorted.
pub(super) fn children(map: &str) -> Vec<&'static str> {
    let mut names: Vec<_> = KEYS
        .iter()
        .filter_map(|key| match map {
            "" => Some(key.path),
            _ => key.path.strip_prefix(map)?.strip_prefix('.'),
        })
        .filter_map(|rest| rest.split(['.', '[']).next())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The known path that an unknown one was probably meant to be: a name beside it that is written alike, or
/// the same name in another place.
pub(super) fn nearest(pattern: &str) -> Option<String> {
    let place = parent(pattern);
    let name = pattern[place.len()..].trim_start_matches('.');
    let plain = |name: &str| name.replace(['-', '_'], "").to_lowercase();
    let join =
        |place: &str, name: &str| if place.is_empty() { name.into() } else { format!("{place}.{name}") };
    let wanted = plain(name);

    let beside = children(place)
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&wanted, &plain(name)), name))
        .min()
        .filter(|(distance, _)| *distance <= wanted.chars().count().div_ceil(3).min(3));
    let elsewhere = || {
        let paths = KEYS.iter().flat_map(|key| ancestors(key.path));
        paths
            .filter(|path| path.rsplit('.').next().is_some_and(|name| plain(name) == wanted))
            .min_by_key(|path| path.len())
    };
    beside.map(|(_, name)| join(place, name)).or_else(|| elsewhere().map(str::to_owned))
}

/// A path and every map above it.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let path = path.trim_end_matches("[]");
    path.match_indices('.').map(|(end, _)| &path[..end]).chain([path])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_found() {
        let check = |unknown: &str, expected: Option<&str>| {
            assert_eq!(nearest(unknown).as_deref(), expected, "{unknown}");
        };
        check("proxy.registryMiror", Some("proxy.registryMirror"));
        check("proxy.registry_mirror", Some("proxy.registryMirror"));
        check("registryMirror", Some("proxy.registryMirror"));
        check("pprof_port", Some("pprofPort"));
        check("proxy.proxies[].regexp", Some("proxy.proxies[].regx"));
        check("capacity", Some("storage.capacity"));
        check("data_dir", Some("dataDir"));
        check("proxy.dataDir", Some("dataDir"));
        check("bananas", None);
        check("x", None);
    }

    #[test]
    fn no_key_is_refused_and_no_refusal_is_in_vain() {
        for key in KEYS {
            assert_eq!(known(key.path), Known::Value, "{}", key.path);
        }
        for (path, _) in REFUSED {
            let mut above = path.to_string();
            while !above.is_empty() {
                above = parent(&above).to_owned();
                assert!(
                    matches!(known(&above), Known::Map | Known::List),
                    "{path}: {above} is never reached"
                );
            }
        }
    }
}
