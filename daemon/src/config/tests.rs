//! Whole configurations: a text goes in, settings or messages come out.

use std::num::NonZeroUsize;
use std::time::Duration;

use darter_transport::lane::Lanes;
use darter_transport::node::Role;
use proptest::prelude::*;

use super::*;

/// A file of that text, with flags over it.
fn resolved(yaml: &str, overrides: &[Override]) -> Result<Resolved, ConfigError> {
    resolve(&parse("f", yaml.as_bytes())?, overrides, &Surroundings::default())
}

fn settings(yaml: &str) -> Settings {
    resolved(yaml, &[]).map(|resolved| resolved.settings).unwrap_or_else(|error| panic!("{yaml:?}: {error}"))
}

/// The file is right, or wrong in these words.
#[track_caller]
fn check(yaml: &str, expected: &str) {
    let seen = resolved(yaml, &[]).map_or_else(|error| error.to_string(), |_| "ok".into());
    assert_eq!(seen, expected, "{yaml:?}");
}

const QUICKSTART: &str = "
verbose: true
metrics: { enable: true }
pprofPort: 18066
download: { prefetch: true }
proxy:
  defaultFilter: 'Expires&Signature&ns'
  security: { insecure: true }
  tcpListen: { listen: 0.0.0.0, port: 65001 }
  registryMirror: { dynamic: true, url: https://index.docker.io }
  proxies: [ { regx: 'blobs/sha256.*' } ]
";

#[test]
fn the_section_that_users_of_dragonfly_know_works_as_it_stands() {
    let Resolved { settings, warnings, .. } = resolved(QUICKSTART, &[]).expect("a right file");
    assert!(settings.log.verbose && settings.metrics && settings.prefetch && settings.registry_dynamic);
    assert!(!settings.origin_tls_verified);
    assert_eq!(settings.pprof_port, Some(18066));
    assert_eq!(settings.filter_params, ["Expires", "Signature", "ns"]);
    assert_eq!(settings.front.to_string(), "0.0.0.0:65001");
    assert_eq!(settings.registry.to_string(), "https://registry-1.docker.io");
    assert!(settings.rules.cache("/v2/library/debian/blobs/sha256:00"));
    assert!(!settings.rules.cache("/v2/library/debian/manifests/sha256:00"));
    let keys: Vec<_> = warnings.iter().map(|warning| format!("{} {}", warning.source, warning.key)).collect();
    assert_eq!(keys, ["f:9 proxy.tcpListen.listen", "f:8 proxy.security.insecure"]);
}

#[test]
fn without_a_file_everything_has_a_value() {
    let Resolved { settings, warnings, effective } = resolved("", &[]).expect("no file is a right file");
    assert_eq!(settings.front.to_string(), "127.0.0.1:65001");
    assert_eq!(settings.admin.to_string(), "127.0.0.1:40901");
    assert_eq!(settings.prefetch_bytes_per_s, 128 << 20);
    assert_eq!(
        (settings.capacity_bytes, settings.shards, settings.ttl, settings.pprof_port),
        (None, None, None, None)
    );
    assert!(settings.origin_tls_verified && settings.metrics && !settings.prefetch);
    assert!(settings.rules.cache("/v2/x/blobs/sha256:00"));
    assert_eq!(warnings, []);
    assert!(effective.iter().all(|row| row.source == Source::Default));
}

#[test]
fn every_key_is_looked_at() {
    let yaml = "
dataDir: /d
shards: 2
sandbox: {mode: off, user: darter}
verbose: true
pprofPort: 1
log: {format: json}
metrics: {enable: false}
tracing: {endpoint: 'http://c:4318', sampleRatio: 0.5}
storage: {capacity: 1GiB, taskExpireTime: 6h, io: pool, scrub: {rate: 0, interval: 1h}}
download: {prefetch: true, prefetchRateLimit: 1MB}
health: {tcpListen: {listen: '::1', port: 2}, tokenFile: t}
proxy:
  tcpListen: {listen: '::1', port: 3}
  registryMirror: {url: 'http://r:5000', dynamic: false}
  allowedRegistries: [a]
  registries: [{host: 'b:1', insecure: true, ca: c, cert: d, key: e}]
  proxies: [{regx: a, direct: true}]
  defaultFilter: x&y
  security: {insecure: true}
access: {proof: 1m, grace: 1h}
cluster:
  role: seed
  listen: 0.0.0.0:1
  advertise: 10.0.0.7
  join: ['dns+srv://seeds']
  zone: a
  tls: {ca: c, cert: d, key: e}
  transport: quic
  limits: {uploadRate: 1MB, downloadRate: 2MB, concurrentUploads: 3}
";
    let effective = resolved(yaml, &[]).expect("a right file").effective;
    let (given, defaults): (Vec<_>, Vec<_>) = effective.iter().partition(|row| row.source != Source::Default);
    let seen: Vec<_> = given.iter().map(|row| row.key.replace("[0]", "[]")).collect();
    // The one that cannot be beside another.
    let [other] = defaults[..] else { panic!("{defaults:?}") };
    assert_eq!(other.key, "cluster.secretFile");
    let keys: Vec<_> = keys::KEYS.map(|key| key.path).into_iter().filter(|key| *key != other.key).collect();
    assert_eq!(seen, keys);
    let settings = settings(yaml);
    assert_eq!(settings.ttl, Some(Duration::from_secs(21_600)));
    let access = (settings.access.proof, settings.access.grace);
    assert_eq!(access, (Duration::from_secs(60), Duration::from_secs(3600)));
    assert_eq!(settings.prefetch_bytes_per_s, 1_000_000);
    assert_eq!(settings.io, IoChoice::Pool);
    assert_eq!(settings.log, LogSettings { format: LogFormat::Json, verbose: true });
    assert!(!settings.registry_dynamic && !settings.metrics);
    let tracing = settings.tracing.as_ref().expect("a collector");
    assert_eq!((tracing.endpoint.as_str(), tracing.sample_ratio), ("http://c:4318/v1/traces", 0.5));
    let cluster = settings.cluster.as_ref().expect("a cluster");
    assert_eq!((cluster.role, cluster.lanes, &*cluster.zone), (Role::Seed, Lanes::Quic, "a"));
    assert_eq!(cluster.join, ["dns+srv://seeds".parse().expect("a place")]);
    assert_eq!(cluster.advertised(cluster.listen).to_string(), "10.0.0.7:1");
    let limits = ClusterLimits {
        upload_bytes_per_s: Some(1_000_000),
        download_bytes_per_s: Some(2_000_000),
        concurrent_uploads: 3,
    };
    assert_eq!(cluster.limits, limits);
    let named = |registry: &str| {
        settings
            .allowed_registries
            .iter()
            .any(|allowed| allowed.names(&registry.parse().expect("a registry")))
    };
    assert!(named("https://a") && named("https://b:1"), "a listed registry is allowed");
}

#[test]
fn the_environment_names_a_collector_below_the_file() {
    let collector = |text: &str| Some(("OTEL_EXPORTER_OTLP_ENDPOINT", text.to_owned()));
    let resolved = |yaml: &str, text| {
        let surroundings = Surroundings { collector: collector(text), ..Surroundings::default() };
        resolve(&parse("f", yaml.as_bytes())?, &[], &surroundings)
    };
    let of = |yaml, text| {
        let tracing = resolved(yaml, text).expect("right values").settings.tracing.expect("a collector");
        (tracing.endpoint.to_string(), tracing.sample_ratio)
    };
    assert_eq!(of("", "http://e/v1/traces"), ("http://e/v1/traces".into(), 0.01));
    assert_eq!(of("tracing: {endpoint: http://f}", "http://e"), ("http://f/v1/traces".into(), 0.01));
    let effective = resolved("", "http://e/v1/traces").expect("right values").effective;
    let row = effective.iter().find(|row| row.key == "tracing.endpoint").expect("a row");
    assert_eq!(row.source.to_string(), "OTEL_EXPORTER_OTLP_ENDPOINT");
    let wrong = resolved("", "grpc://e").expect_err("no such collector").to_string();
    assert!(wrong.starts_with("OTEL_EXPORTER_OTLP_ENDPOINT: tracing.endpoint: "), "{wrong}");
    assert_eq!(settings("tracing: {sampleRatio: 0.5}").tracing, None, "nobody takes them");
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_what_is_allowed() {
    check(
        "proxy:\n  registryMiror: {url: x}",
        "f:2: proxy.registryMiror: unknown key; did you mean proxy.registryMirror? allowed here: \
         allowedRegistries, defaultFilter, proxies, registries, registryMirror, security, tcpListen",
    );
    check(
        "bananas: {a: {b: c}}",
        "f:1: bananas: unknown key; allowed here: access, cluster, dataDir, download, health, log, metrics, pprofPort, proxy, \
         sandbox, shards, storage, tracing, verbose",
    );
    check(
        "proxy:\n  proxies:\n  - regx: a\n    regexp: b",
        "f:4: proxy.proxies[0].regexp: unknown key; did you mean proxy.proxies[].regx? allowed here: direct, regx",
    );
    check(
        "proxy:\n  <<: {a: b}",
        "f:2: proxy.<<: unknown key; allowed here: allowedRegistries, defaultFilter, \
         proxies, registries, registryMirror, security, tcpListen",
    );
}

#[test]
fn what_darter_lacks_is_refused_with_advice() {
    let lacks = "Darter does not have this key of Dragonfly's;";
    check(
        "scheduler: {manager: {enable: true}}",
        &format!(
            "f:1: scheduler: {lacks} remove it: Darter has no scheduler; name the seeds of a \
                  cluster in cluster.join"
        ),
    );
    check(
        "proxy:\n  proxies:\n  - regx: a\n    useHTTPS: true",
        &format!(
            "f:4: proxy.proxies[0].useHTTPS: {lacks} write https:// in proxy.registryMirror.url or \
             X-Dragonfly-Registry"
        ),
    );
    check(
        "storage:\n  diskGCThreshold: 50Gi",
        &format!(
            "f:2: storage.diskGCThreshold: {lacks} set storage.capacity; that many bytes are reserved at start"
        ),
    );
}

#[test]
fn a_listed_registry_is_whole() {
    let list = |items: &str| format!("proxy:\n  registries:\n{items}");
    let pem = "allowed: a PEM file with";
    check(&list("  - host: a\n  - {host: 'a:1', insecure: true}"), "ok");
    check(
        &list("  - insecure: true"),
        "f:3: proxy.registries[0].host: missing; allowed: HOST or HOST:PORT, without a scheme",
    );
    check(
        &list("  - {host: a, cert: c}"),
        &format!("f:3: proxy.registries[0].key: missing; {pem} the private key of cert; ~ is not expanded"),
    );
    check(
        &list("  - {host: a, ca: ~/x}"),
        &format!(
            "f:3: proxy.registries[0].ca: \"~/x\" is not allowed; {pem} certificates; ~ is not expanded"
        ),
    );
    check(&list("  - host: a\n  - host: A"), "f:4: proxy.registries[1]: a is listed twice; leave one");
    check(
        &list("  - a"),
        "f:3: proxy.registries[0]: keys are expected; allowed here: ca, cert, host, insecure, key",
    );
    let many: String = (0..65).map(|number| format!("  - host: r{number}\n")).collect();
    check(&list(&many), "f:2: proxy.registries: 65 registries; allowed: at most 64");
    let keys = |yaml: &str| -> Vec<String> {
        resolved(yaml, &[]).expect("a right file").warnings.into_iter().map(|warning| warning.key).collect()
    };
    assert_eq!(keys(&list("  - {host: a, insecure: true}")), ["proxy.registries[0].insecure"]);
    assert!(keys(&list("  - {host: a, insecure: false}")).is_empty());
}

#[test]
fn a_bad_value_is_named_with_what_is_allowed() {
    check(
        "verbose: yes",
        r#"f:1: verbose: "yes" is refused: provided string was not `true` or `false`; allowed: true or false"#,
    );
    check(
        "proxy:\n  tcpListen:\n    port: 70000",
        r#"f:3: proxy.tcpListen.port: "70000" is refused: number too large to fit in target type; allowed: a port, 0 to 65535; 0 lets the system choose"#,
    );
    check(
        "storage: {capacity: 10G}",
        r#"f:1: storage.capacity: "10G" is refused: G may mean GB or GiB; write which; allowed: a size from 4MiB to 64TiB, such as 10GiB"#,
    );
    check(
        "storage: {capacity: 1KB}",
        r#"f:1: storage.capacity: "1KB" is not allowed; allowed: a size from 4MiB to 64TiB, such as 10GiB"#,
    );
    check(
        "shards: 0",
        r#"f:1: shards: "0" is refused: number would be zero for non-zero type; allowed: a number of threads, 1 to 256"#,
    );
    check("shards: 257", r#"f:1: shards: "257" is not allowed; allowed: a number of threads, 1 to 256"#);
    check(
        "pprofPort: 0",
        r#"f:1: pprofPort: "0" is not allowed; allowed: a port, 1 to 65535, or -1 for none"#,
    );
    check("dataDir: ~/x", r#"f:1: dataDir: "~/x" is not allowed; allowed: a directory; ~ is not expanded"#);
    check(
        "proxy: {registryMirror: {url: https://a/v2}}",
        r#"f:1: proxy.registryMirror.url: "https://a/v2" is refused: it has more than a host and port; allowed: http:// or https://, HOST and optionally :PORT, without a path"#,
    );
    check(
        "proxy: {allowedRegistries: [a, 'http://b']}",
        r#"f:1: proxy.allowedRegistries[1]: "http://b" is refused: it has a scheme; allowed: HOST or HOST:PORT, without a scheme"#,
    );
    check(
        "proxy: {proxies: [{regx: 'a('}]}",
        r#"f:1: proxy.proxies[0].regx: "a(" is refused: unclosed group; allowed: a regular expression without look-around or back-references, such as blobs/sha256.*"#,
    );
    check(
        "proxy:\n  proxies:\n  - direct: true",
        "f:3: proxy.proxies[0].regx: missing; allowed: a regular expression without look-around or back-references, such as blobs/sha256.*",
    );
}

#[test]
fn a_wrong_shape_is_named_once() {
    check("verbose: {a: b}", "f:1: verbose: one value is expected");
    check(
        "proxy: 3",
        "f:1: proxy: keys are expected; allowed here: allowedRegistries, defaultFilter, proxies, registries, registryMirror, security, tcpListen",
    );
    check("proxy: {proxies: {regx: a}}", "f:1: proxy.proxies: a list is expected; begin each item with `- `");
    check("proxy: {proxies: [a]}", "f:1: proxy.proxies[0]: keys are expected; allowed here: direct, regx");
    check("proxy:\n  tcpListen: ~\nverbose:", "ok");
}

#[test]
fn all_problems_are_named_in_the_order_of_the_file() {
    check(
        "shards: x\nbananas: 1\ndataDir: ''",
        "f:1: shards: \"x\" is refused: invalid digit found in string; allowed: a number of threads, 1 to 256\n\
         f:2: bananas: unknown key; allowed here: access, cluster, dataDir, download, health, log, metrics, pprofPort, proxy, sandbox, \
         shards, storage, tracing, verbose\n\
         f:3: dataDir: \"\" is not allowed; allowed: a directory; ~ is not expanded",
    );
}

#[test]
fn front_and_admin_do_not_meet() {
    check(
        "health: {tcpListen: {port: 65001}}",
        "f:1: health.tcpListen.port: front and admin port are both 127.0.0.1:65001; give one another port",
    );
    check("pprofPort: 65001", "f:1: pprofPort: the front has port 65001 too; give one another port");
    check(
        "pprofPort: 40901\nhealth: {tcpListen: {listen: 0.0.0.0}}",
        "f:1: pprofPort: the admin port has port 40901 too; give one another port",
    );
    check("pprofPort: 65001\nproxy: {tcpListen: {listen: 10.0.0.7}}", "ok");
    check("health: {tcpListen: {port: 0}}\nproxy: {tcpListen: {port: 0}}", "ok");
}

/// The same of the section `cluster`, on line 2.
#[track_caller]
fn check_cluster(keys: &str, expected: &str) {
    check(&format!("cluster:\n  {{{keys}}}"), expected);
}

#[test]
fn a_cluster_is_what_works() {
    check_cluster("secretFile: /s, role: seed", "ok");
    check_cluster("secretFile: /s, join: ['a:1']", "ok");
    check_cluster("tls: {ca: a, cert: b, key: c}, join: ['dns://a:1', 'dns+srv://_p._udp.a.']", "ok");
    check_cluster("secretFile: /s, role: seed, listen: '0.0.0.0:1', advertise: 10.0.0.1", "ok");
    check_cluster("secretFile: /s, role: seed, listen: '[::]:0', advertise: '[fd00::1]:3'", "ok");
    check_cluster("listen: 127.0.0.1:65000, zone: a, limits: {uploadRate: 1MiB}", "ok");
    check("cluster: {role: peer}", "ok");
    assert!(settings("cluster: {role: peer}").cluster.is_none());
}

#[test]
fn what_cannot_work_in_a_cluster_is_refused_with_what_to_do() {
    check_cluster(
        "secretFile: /s, role: seed, tls: {ca: a}",
        "f:2: cluster.secretFile: cluster.tls is given too, and a node has one identity: leave out one of the two",
    );
    check_cluster(
        "secretFile: /s",
        "f:2: cluster.role: a peer finds its cluster by a seed: name one or more in cluster.join (--join HOST:PORT), or \
         make this node the first seed with cluster.role: seed (--seed)",
    );
    check_cluster(
        "secretFile: /s, role: seed, listen: '[::]:1'",
        "f:2: cluster.listen: other nodes cannot connect to ::: name the address at which they reach this one in \
         cluster.advertise (--peer-advertise IP), or listen at that address alone",
    );
    check_cluster(
        "secretFile: /s, role: seed, listen: 127.0.0.1:65001",
        "f:2: cluster.listen: the front is 127.0.0.1:65001 too; give one another port",
    );
    check_cluster(
        "secretFile: /s, role: seed, listen: 127.0.0.1:40901",
        "f:2: cluster.listen: the admin port is 127.0.0.1:40901 too; give one another port",
    );
    check_cluster(
        "role: seed, tls: {ca: a}",
        "f:2: cluster.tls.cert: missing beside cluster.tls.ca; allowed: a PEM file; ~ is not expanded\n\
         f:2: cluster.tls.key: missing beside cluster.tls.ca; allowed: a PEM file; ~ is not expanded",
    );
    check_cluster(
        "role: seed, secretFile: ~/s",
        "f:2: cluster.secretFile: \"~/s\" is not allowed; allowed: a file that `darter cluster init` has written; ~ is \
         not expanded",
    );
    let many: Vec<_> = (0..65).map(|number| format!("'a{number}:1'")).collect();
    check_cluster(
        &format!("secretFile: /s, join: [{}]", many.join(", ")),
        "f:2: cluster.join: 65 places; allowed: at most 64",
    );
}

#[test]
fn a_cluster_without_an_identity_is_refused() {
    let needs = "nodes speak to each other with certificates only: write the secrets of a cluster with `darter cluster \
                 init --out FILE` and name the file in cluster.secretFile (--cluster-secret FILE), or certificates in \
                 cluster.tls";
    check_cluster("role: seed", &format!("f:2: cluster.role: {needs}"));
    check_cluster("listen: '10.0.0.1:1'", &format!("f:2: cluster.listen: {needs}"));
    check_cluster("listen: '0.0.0.0:1'", &format!("f:2: cluster.listen: {needs}"));
    check_cluster("advertise: 10.0.0.1", &format!("f:2: cluster.advertise: {needs}"));
    check_cluster("join: ['a:1', 'b:1']", &format!("f:2: cluster.join: {needs}"));
    let seed = Override { key: "cluster.role", flag: "--seed", text: "seed".into() };
    let error = resolved("", &[seed]).expect_err("no identity").to_string();
    assert_eq!(error, format!("--seed: cluster.role: {needs}"));
}

#[test]
fn who_cannot_be_reached_is_warned() {
    let warned = |keys: &str| -> Vec<String> {
        let yaml = format!("cluster: {{secretFile: /s, role: seed, {keys}}}");
        let warnings = resolved(&yaml, &[]).expect("a right file").warnings;
        warnings.into_iter().map(|warning| warning.key).collect()
    };
    assert_eq!(warned("zone: a"), ["cluster.listen"]);
    assert_eq!(warned("listen: '10.0.0.1:1'"), [""; 0]);
    assert_eq!(warned("listen: '0.0.0.0:1', advertise: 127.0.0.1"), ["cluster.advertise"]);
}

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
    let flag = |key, flag, text: &str| Override { key, flag, text: text.into() };
    let yaml = "shards: 2\nproxy: {allowedRegistries: [a, b]}\ndownload: {prefetch: true}";
    let flags = [flag("shards", "--shards", "3"), flag("proxy.allowedRegistries[]", "--allow-registry", "c")];
    let Resolved { settings, effective, .. } = resolved(yaml, &flags).expect("right layers");
    assert_eq!(settings.shards.map(NonZeroUsize::get), Some(3));
    assert_eq!(settings.allowed_registries, ["c".parse().expect("a host")]);
    let source = |key| effective.iter().find(|row| row.key == key).map(|row| row.source.to_string());
    assert_eq!(source("shards").as_deref(), Some("--shards"));
    assert_eq!(source("download.prefetch").as_deref(), Some("f:3"));
    assert_eq!(source("verbose").as_deref(), Some("default"));

    let error = resolved(yaml, &[flag("shards", "--shards", "x")]).expect_err("a wrong flag").to_string();
    assert!(error.starts_with("--shards: shards: \"x\" is refused"), "{error}");
}

#[test]
fn no_rules_is_a_choice_and_warned_about() {
    for yaml in ["proxy: {proxies: []}", "proxy: {proxies: [{regx: a, direct: true}]}"] {
        let Resolved { settings, warnings, .. } = resolved(yaml, &[]).expect("a right file");
        assert!(!settings.rules.cache("a"));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
    }
}

#[test]
fn the_sample_is_right_and_says_what_holds_anyway() {
    let sample = include_str!("../../../deploy/darter.yaml");
    let Resolved { effective, warnings, .. } = resolved(sample, &[]).expect("a right sample");
    assert_eq!(warnings, []);
    let defaults = resolved("", &[]).expect("no file is a right file").effective;
    for row in effective {
        let default = defaults.iter().find(|default| default.key == row.key);
        // Settings without a fixed default are shown with an example in the sample.
        if let Some(default) = default.filter(|default| !default.value.starts_with('(')) {
            assert_eq!(row.value, default.value, "{}", row.key);
        }
    }
}

#[test]
fn every_key_is_documented_and_in_the_sample() {
    let document = include_str!("../../../docs/configuration.md");
    let sample = include_str!("../../../deploy/darter.yaml");
    for key in keys::KEYS {
        assert!(document.contains(&format!("`{}`", key.path)), "docs/configuration.md lacks {}", key.path);
        let name = key.path.trim_end_matches("[]").rsplit('.').next().unwrap_or_default();
        assert!(sample.contains(&format!("{name}:")), "deploy/darter.yaml lacks {}", key.path);
    }
}

#[test]
fn the_document_marks_the_keys_that_need_a_restart() {
    let document = include_str!("../../../docs/configuration.md");
    for key in keys::KEYS {
        let rows: Vec<_> =
            document.lines().filter(|row| row.starts_with(&format!("| `{}`", key.path))).collect();
        let [row] = rows[..] else { panic!("{} has rows {rows:?}", key.path) };
        let is_marked = row.starts_with(&format!("| `{}` † |", key.path));
        assert_eq!(is_marked, key.taken_up == keys::TakenUp::Restart, "{row}");
    }
}

#[test]
fn what_cannot_be_read_again_is_refused() {
    let inputs = |file: &str| Inputs { file: Some(file.into()), overrides: Vec::new() };
    assert!(inputs("/dev/null").load().is_ok());
    let error = inputs("/dev/null").load_again().expect_err("a device").to_string();
    assert!(
        error.ends_with("/dev/null: it is no regular file, so it cannot be read a second time"),
        "{error}"
    );
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let inputs = inputs(file.path().to_str().expect("UTF-8"));
    assert!(!inputs.load_again().expect("an empty file is right").settings.log.verbose);
    std::fs::write(file.path(), "verbose: true").expect("it can be written");
    assert!(inputs.load_again().expect("a right file").settings.log.verbose);
}

proptest! {
    #[test]
    fn any_known_key_with_any_value_is_resolved_or_refused(index in 0..keys::KEYS.len(), value in r"\PC{0,30}") {
        let item = |path: &str| path.ends_with("[]");
        let path = keys::KEYS[index].path;
        let text = path.split('.').rev().fold(format!("{value:?}"), |inner, step| {
            let inner = if item(step) { format!("[{inner}]") } else { inner };
            format!("{{{}: {inner}}}", step.trim_end_matches("[]"))
        });
        let _ = resolved(&text, &[]);
    }

    #[test]
    fn any_text_is_resolved_or_refused(text in r"((proxy|tcpListen|port|proxies|regx|dataDir|shards|[a-z]): ?|[\[\]{},'\n-]|\n  |[0-9]|true){0,40}") {
        let _ = resolved(&text, &[]);
    }
}
