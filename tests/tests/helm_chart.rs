//! The Helm chart: what it makes of values, whether Kubernetes and darter take that, and what the person is told.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use darter_tests::cli::{darter, ran};
use darter_tests::need::{Need, need};
use darter_tests::{Helm, Rendered, Secrets, yaml};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The oldest that the chart says it is for, and the newest that there are schemas of.
const KUBERNETES: [&str; 2] = ["1.25", "1.37"];
const VALIDATE: Need = Need::Tool { name: "kubernetes-validate", cure: Helm::CURE };

fn quickstart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/quickstart/charts-config.yaml")
}

/// Files of values.
struct Values(TempDir);

impl Values {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory can be made"))
    }

    fn file(&self, values: &Value) -> PathBuf {
        let number = fs::read_dir(self.0.path()).expect("it is there").count();
        let file = self.0.path().join(format!("{number}.yaml"));
        fs::write(&file, values.to_string()).expect("a file can be written");
        file
    }
}

/// What is asked of it all at once: everything that is off by default, on.
fn everything() -> Value {
    let metrics = json!({
        "enable": true,
        "serviceMonitor": {"enable": true, "additionalLabels": {"team": "a"}},
        "prometheusRule": {"enable": true},
    });
    let pod = json!({
        "pullSecrets": [{"name": "of-the-registry"}],
        "hostAliases": [{"ip": "10.0.0.5", "hostnames": ["registry.example.com"]}],
        "priorityClassName": "system-node-critical",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"operator": "Exists"}],
        "podAnnotations": {"a/b": "c"},
        "podLabels": {"d": "e"},
        "extraEnvVars": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/darter/ca"}],
        "metrics": metrics,
    });
    let mut values = json!({
        "seccomp": {"type": "Localhost"},
        "dashboard": {"enable": true},
        "containerRuntime": {
            "containerd": {"enable": true, "registries": ["https://ghcr.io", "http://10.0.0.5:5000"]},
            "crio": {"enable": true},
        },
        "dfdaemon": pod.clone(),
        "seedPeer": pod,
    });
    values["seedPeer"]["persistence"] =
        json!({"annotations": {"f": "g"}, "storageClass": "fast", "size": "2Ti"});
    values["seedPeer"]["affinity"] = json!({"podAntiAffinity": {}});
    values["dfdaemon"]["config"] = json!({
        "storage": {"capacity": 53_687_091_200_u64, "taskExpireTime": "168h", "io": "auto", "scrub": {"rate": "0", "interval": "7d"}},
        "proxy": {
            "allowedRegistries": ["10.0.0.5:5000"],
            "registries": [{"host": "10.0.0.5:5000", "insecure": true}],
            "proxies": [{"regx": "a", "direct": true}, {"regx": "blobs/sha256.*", "useHTTPS": true}],
        },
        "access": {"proof": "1m", "grace": "1h"},
        "download": {"prefetch": true, "prefetchRateLimit": "64MiB"},
        "cluster": {"transport": "tcp", "limits": {"concurrentUploads": 32}},
        "host": {"idc": "rack-7"},
        "upload": {"rateLimit": "1024Mi"},
        "health": {"tokenFile": "/etc/darter/token/token"},
        "tracing": {"endpoint": "http://collector.example.com:4318", "sampleRatio": 0.5},
        "sandbox": {"mode": "required"},
        "shards": 2,
        "log": {"format": "json"},
    });
    values
}

/// A cluster of others is joined, from pods that are not on the network of the node.
fn elsewhere() -> Value {
    json!({
        "seedPeer": {"enable": false},
        "cluster": {"createSecrets": false, "existingSecrets": {"peer": "of-theirs"}},
        "dfdaemon": {
            "hostNetwork": false, "mountDataDirAsHostPath": false,
            "config": {"cluster": {"join": ["seeds.example.com:65000"], "listen": "0.0.0.0:7000"}},
        },
    })
}

/// Nobody joins anybody.
fn alone() -> Value {
    json!({"seedPeer": {"enable": false}})
}

fn config(rendered: &Rendered, name: &str) -> Value {
    let [config] =
        <[Value; 1]>::try_from(yaml::documents(rendered.configuration(name))).expect("one document");
    config
}

fn pod(object: &Value) -> &Value {
    &object["spec"]["template"]["spec"]
}

/// The lines about values that change nothing: path and reason.
fn ignored(notes: &str) -> Vec<(&str, &str)> {
    let lines = notes.split_once("These values change nothing:\n").map_or("", |(_, lines)| lines).lines();
    lines.filter_map(|line| line.trim().split_once(": ")).collect()
}

#[test]
fn the_quickstarts_values_are_taken_as_they_stand() {
    if !need("the_quickstarts_values_are_taken_as_they_stand", &Helm::NEEDS) {
        return;
    }
    for helm in Helm::BOTH {
        let rendered = helm.render(&[&quickstart()]);
        let peer = config(&rendered, "darter-peer");
        let expected = json!({
            "dataDir": "/var/lib/darter/data",
            "verbose": true,
            "pprofPort": 18066,
            "download": {"prefetch": true},
            "proxy": {
                "defaultFilter": "Expires&Signature&ns",
                "tcpListen": {"listen": "0.0.0.0", "port": 65001},
                "registryMirror": {"dynamic": true, "url": "https://index.docker.io"},
                "proxies": [{"regx": "blobs/sha256.*"}],
            },
            "health": {"tcpListen": {"listen": "0.0.0.0", "port": 40901}},
            "cluster": {
                "role": "peer",
                "secretFile": "/etc/darter/cluster/cluster",
                "join": ["dns://darter-seed.darter-system.svc.cluster.local:65000"],
            },
        });
        assert_eq!(peer, expected, "{helm:?}");
        let mut seed = config(&rendered, "darter-seed");
        let own = seed["proxy"].as_object_mut().expect("a section");
        // A seed is nobody's front; what it asks of registries it asks as the peers are told to.
        assert_eq!(own.remove("tcpListen"), Some(json!({"listen": "127.0.0.1", "port": 65001})));
        let mut shared = expected["proxy"].clone();
        shared.as_object_mut().expect("a section").remove("tcpListen");
        assert_eq!(seed["proxy"], shared);
        assert_eq!(
            (&seed["cluster"]["role"], &seed["download"]),
            (&json!("seed"), &json!({"prefetch": true}))
        );
        assert_eq!(seed["storage"]["capacity"], "6963MiB", "85 % of 8Gi");
        let set = rendered.object("StatefulSet", "darter-seed");
        assert_eq!(
            (&set["spec"]["replicas"], &set["spec"]["serviceName"]),
            (&json!(1), &json!("darter-seed"))
        );
        assert!(
            rendered.find("PodDisruptionBudget", "darter-seed").is_none(),
            "the only seed may be drained"
        );
        let set = rendered.object("DaemonSet", "darter-peer");
        assert_eq!(pod(set)["hostNetwork"], true);
        assert_eq!(pod(set)["dnsPolicy"], "ClusterFirstWithHostNet", "or the name of the seeds is not known");
        for kind in ["peer", "seed"] {
            let service = rendered.object("Service", &format!("darter-{kind}-metrics"));
            assert_eq!(service["spec"]["ports"][0]["port"], 40901);
        }
        if !helm.needs_no_cluster() {
            continue;
        }
        let named = ignored(&rendered.notes);
        let paths: Vec<&str> = named.iter().map(|(path, _)| *path).collect();
        assert_eq!(paths, ["dfdaemon.config.proxy.security", "manager", "scheduler"], "{}", rendered.notes);
        assert!(named[0].1.contains("certificates are verified"), "{named:?}");
    }
}

/// Peers find the seeds by a name of theirs, each node by the secrets that the Job makes; and the Job may do that.
#[test]
fn what_belongs_together_has_one_name() {
    if !need("what_belongs_together_has_one_name", &Helm::NEEDS) {
        return;
    }
    let values = Values::new();
    let files = [values.file(
        &json!({"fullnameOverride": "d", "seedPeer": {"config": {"cluster": {"listen": "0.0.0.0:7000"}}}}),
    )];
    let rendered = Helm::BOTH[0].render(&[&files[0]]);
    let service = rendered.object("Service", "d-seed");
    assert_eq!(
        (&service["spec"]["clusterIP"], &service["spec"]["publishNotReadyAddresses"]),
        (&json!("None"), &json!(true))
    );
    let place = json!(["dns://d-seed.darter-system.svc.cluster.local:7000"]);
    for name in ["d-peer", "d-seed"] {
        assert_eq!(config(&rendered, name)["cluster"]["join"], place);
    }
    let ports = service["spec"]["ports"].as_array().expect("ports");
    let protocols: Vec<_> =
        ports.iter().map(|port| (port["port"].as_u64(), port["protocol"].as_str())).collect();
    assert_eq!(protocols, [(Some(7000), Some("UDP")), (Some(7000), Some("TCP"))]);
    let seeds = rendered.object("StatefulSet", "d-seed");
    let peers = rendered.object("DaemonSet", "d-peer");
    for (selector, set) in
        [(&service["spec"]["selector"], seeds), (&peers["spec"]["selector"]["matchLabels"], peers)]
    {
        let labels = &set["spec"]["template"]["metadata"]["labels"];
        let chosen = selector.as_object().expect("labels");
        assert!(
            !chosen.is_empty() && chosen.iter().all(|(name, value)| labels[name] == *value),
            "{selector} {labels}"
        );
    }
    // No peer is chosen as a seed.
    assert_ne!(
        service["spec"]["selector"]["component"],
        peers["spec"]["template"]["metadata"]["labels"]["component"]
    );

    let mounted = |set: &Value| {
        let volumes = pod(set)["volumes"].as_array().expect("volumes");
        let secrets: Vec<&Value> = volumes
            .iter()
            .map(|volume| &volume["secret"]["secretName"])
            .filter(|name| !name.is_null())
            .collect();
        secrets.iter().map(|name| name.as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        (mounted(seeds), mounted(peers)),
        (vec!["d-cluster-seed".to_owned()], vec!["d-cluster-peer".to_owned()])
    );
    let job = rendered.object("Job", "d-cluster");
    assert_eq!(pod(job)["containers"][0]["args"], json!(["cluster", "init", "--kubernetes=d-cluster"]));
    let role = rendered.object("Role", "d-cluster");
    assert_eq!(role["rules"][1]["resourceNames"], json!(["d-cluster-seed", "d-cluster-peer"]));
    assert_eq!(
        (&role["rules"][0]["verbs"], &role["rules"][1]["verbs"]),
        (&json!(["create"]), &json!(["get"]))
    );
    for kind in ["ServiceAccount", "Role", "RoleBinding", "Job"] {
        let hook = &rendered.object(kind, "d-cluster")["metadata"]["annotations"];
        assert_eq!(hook["helm.sh/hook"], "pre-install,pre-upgrade", "{kind}");
    }

    let own = json!({"cluster": {"existingSecrets": {"seed": "mine", "peer": "mine-too"}}});
    let rendered = Helm::BOTH[0].render(&[&values.file(&own)]);
    let [seeds, peers] = [("StatefulSet", "darter-seed"), ("DaemonSet", "darter-peer")];
    assert_eq!(mounted(rendered.object(seeds.0, seeds.1)), ["mine"]);
    assert_eq!(mounted(rendered.object(peers.0, peers.1)), ["mine-too"]);
    assert!(!rendered.objects.iter().any(|object| object["kind"] == "Job"), "{}", rendered.text);
    assert!(rendered.notes.contains("create secret generic mine "), "{}", rendered.notes);
}

/// Twice rendered it is the same: nothing in it is drawn by chance, or an upgrade would change what runs.
#[test]
fn a_rendering_is_repeatable() {
    if !need("a_rendering_is_repeatable", &Helm::NEEDS) {
        return;
    }
    let values = Values::new();
    let everything = values.file(&everything());
    let first = Helm::BOTH[0].render(&[&everything]);
    assert_eq!(first.text, Helm::BOTH[0].render(&[&everything]).text);
    assert_eq!(first.objects, Helm::BOTH[1].render(&[&everything]).objects, "by one helm and by the other");
}

#[test]
fn kubernetes_takes_every_manifest() {
    let test = "kubernetes_takes_every_manifest";
    if !need(test, &[&Helm::NEEDS[..], &[VALIDATE]].concat()) {
        return;
    }
    let values = Values::new();
    let all = [
        quickstart(),
        values.file(&json!({})),
        values.file(&everything()),
        values.file(&elsewhere()),
        values.file(&alone()),
    ];
    for (number, file) in all.iter().enumerate() {
        for helm in Helm::BOTH {
            let rendered = helm.render(&[file]);
            check_against_schemas(&rendered.text, &format!("values {number}"));
        }
    }
    let lint = Helm::BOTH[0].run(&["lint", "--strict", Helm::chart().to_str().expect("a plain path")]);
    assert_eq!(lint.status, 0, "{lint:?}");
    // The check can fail.
    let broken = Helm::BOTH[0]
        .render(&[&all[0]])
        .text
        .replace("terminationGracePeriodSeconds: 45", "graceSeconds: 45");
    assert!(!validate(&broken, KUBERNETES[1]).0, "a field that there is not was taken");
}

/// Against the schemas of both versions, strictly.
fn check_against_schemas(text: &str, what: &str) {
    // Those of Prometheus' operator are none of Kubernetes'.
    let foreign = text.matches("\napiVersion: monitoring.coreos.com/v1\n").count();
    let all = yaml::documents(text).len();
    for version in KUBERNETES {
        let (fine, said) = validate(text, version);
        assert!(fine, "{what}: {said}");
        assert_eq!(said.matches(" passed for resource ").count(), all - foreign, "{what}: {said}");
    }
}

fn validate(text: &str, version: &str) -> (bool, String) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    fs::write(file.path(), text).expect("a file can be written");
    let mut check = Command::new("kubernetes-validate");
    check.args(["--strict", "--kubernetes-version", version]).arg(file.path());
    let checked = ran(check);
    (checked.status == 0, checked.out + &checked.err)
}

#[test]
fn the_daemon_takes_every_configuration_and_flag() {
    if !need("the_daemon_takes_every_configuration_and_flag", &Helm::NEEDS) {
        return;
    }
    let (values, secrets) = (Values::new(), Secrets::init());
    let token = values.0.path().join("token");
    fs::write(&token, "0123456789abcdef").expect("a file can be written");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o440)).expect("its owner may");
    for (number, file) in [
        quickstart(),
        values.file(&json!({})),
        values.file(&everything()),
        values.file(&elsewhere()),
        values.file(&alone()),
    ]
    .iter()
    .enumerate()
    {
        let rendered = Helm::BOTH[0].render(&[file]);
        for (set, name, secret) in [
            ("DaemonSet", "darter-peer", secrets.of_peers()),
            ("StatefulSet", "darter-seed", secrets.of_seeds()),
        ] {
            let Some(set) = rendered.find(set, name) else {
                assert!(name == "darter-seed" && number > 2, "values {number}: no {name}");
                continue;
            };
            let text = rendered.configuration(name);
            let text = text.replace("/etc/darter/cluster/cluster", secret.to_str().expect("a plain path"));
            let text = text.replace("/etc/darter/token/token", token.to_str().expect("a plain path"));
            let file = values.0.path().join("darter.yaml");
            fs::write(&file, &text).expect("a file can be written");
            let path = file.to_str().expect("a plain path");
            let args = pod(set)["containers"][0]["args"].as_array().expect("flags");
            let flags: Vec<String> = args
                .iter()
                .skip(1)
                .map(|arg| {
                    let arg = arg.as_str().expect("a flag").replace("$(POD_IP)", "10.244.0.7");
                    if arg.starts_with("--config=") { format!("--config={path}") } else { arg }
                })
                .collect();
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            let shown = darter(&[&["config", "show", "--json"], &flags[..]].concat());
            let shown = shown.json();
            let value = |key: &str| {
                let settings = shown["settings"].as_array().expect("settings");
                let found = settings.iter().find(|setting| setting["key"] == key);
                found.map(|setting| setting["value"].as_str().expect("a text").to_owned())
            };
            let clustered = number != 4;
            assert_eq!(
                flags.iter().any(|flag| flag.starts_with("--peer-advertise=")),
                clustered,
                "values {number}"
            );
            if clustered {
                assert_eq!(value("cluster.role").as_deref(), name.strip_prefix("darter-"));
                assert!(
                    value("cluster.advertise").is_some_and(|address| address.starts_with("10.244.0.7")),
                    "{shown}"
                );
            }
            if number == 2 && name == "darter-peer" {
                assert_eq!(value("storage.capacity").as_deref(), Some("50GiB"));
                assert_eq!(value("cluster.zone").as_deref(), Some("rack-7"));
                assert_eq!(value("cluster.limits.uploadRate").as_deref(), Some("1GiB"));
                assert_eq!(value("proxy.proxies[0].direct").as_deref(), Some("true"));
                assert_eq!(value("health.tokenFile").as_deref(), token.to_str());
                assert_eq!(value("health.tcpListen.port").as_deref(), Some("40901"));
                assert_eq!(value("tracing.sampleRatio").as_deref(), Some("0.5"));
                assert_eq!(value("sandbox.mode").as_deref(), Some("required"));
            }
        }
    }
}

/// `files/keys.yaml` is the tree of the daemon's keys, but for those that are the chart's business.
#[test]
fn every_key_of_the_daemon_is_handed_on() {
    let of_chart = |key: &str| {
        let own = ["cluster.role", "cluster.advertise", "cluster.secretFile", "sandbox.user"];
        own.contains(&key) || key == "proxy.security.insecure" || key.starts_with("cluster.tls.")
    };
    let sample = Helm::chart().join("../../darter.yaml");
    let shown =
        darter(&["config", "show", "--json", "--config", sample.to_str().expect("a plain path")]).json();
    let settings = shown["settings"].as_array().expect("settings").clone();
    let keys = settings.iter().map(|setting| setting["key"].as_str().expect("a key").replace("[0]", ""));
    let daemons: BTreeSet<String> = keys.filter(|key| !of_chart(key)).collect();
    let text = fs::read_to_string(Helm::chart().join("files/keys.yaml")).expect("it is there");
    let [tree] = <[Value; 1]>::try_from(yaml::documents(&text)).expect("one document");
    let mut charts = BTreeSet::new();
    leaves(&tree, "", &mut charts);
    // Of a list that is empty by default no keys are shown.
    for list in ["proxy.registries", "proxy.hijackHTTPS.hosts"] {
        charts.retain(|key| !key.starts_with(&format!("{list}.")));
        charts.insert(list.to_owned());
    }
    assert_eq!(charts, daemons);
}

fn leaves(value: &Value, path: &str, all: &mut BTreeSet<String>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| leaves(value, &below(key), all)),
        Value::Array(items) => items.iter().for_each(|item| leaves(item, path, all)),
        _ => {
            all.insert(path.to_owned());
        }
    }
}

/// What has no meaning is named with its path, wherever it is, and what is wrong is refused before anything is installed.
#[test]
fn values_are_named_or_refused() {
    if !need("values_are_named_or_refused", &Helm::NEEDS) {
        return;
    }
    let values = Values::new();
    let dragonflys = json!({
        "mysql": {"enable": true},
        "client": {"enable": true},
        "containerRuntime": {"docker": {"enable": true}, "containerd": {"configPathDir": "/etc/rke2"}},
        "dfdaemon": {
            "image": "dragonflyoss/dfdaemon", "tag": "v2.1.0",
            "config": {
                "metrics": ":8000", "keepStorage": true, "aliveTime": "0s",
                "proxy": {"proxies": [{"regx": "a", "redirect": "b"}], "registryMirror": {"insecure": true}},
                "storage": {"diskGCThreshold": "50Gi"},
                "download": {"peerGRPC": {"tcpListen": {"port": 7000}}},
            },
        },
        "seedPeer": {
            "initContainer": {"image": "busybox"},
            "config": {"cluster": {"role": "peer"}, "sandbox": {"user": "darter"}},
        },
    });
    let rendered = Helm::BOTH[0].render(&[&values.file(&dragonflys)]);
    let named = ignored(&rendered.notes);
    let paths: Vec<&str> = named.iter().map(|(path, _)| *path).collect();
    let expected = [
        "client",
        "containerRuntime.containerd.configPathDir",
        "containerRuntime.docker",
        "dfdaemon.config.aliveTime",
        "dfdaemon.config.download.peerGRPC",
        "dfdaemon.config.keepStorage",
        "dfdaemon.config.metrics",
        "dfdaemon.config.proxy.proxies[].redirect",
        "dfdaemon.config.proxy.registryMirror.insecure",
        "dfdaemon.config.storage.diskGCThreshold",
        "dfdaemon.image",
        "dfdaemon.tag",
        "mysql",
        "seedPeer.config.cluster.role",
        "seedPeer.config.sandbox.user",
        "seedPeer.initContainer",
    ];
    assert_eq!(paths, expected);
    assert!(named.iter().all(|(_, why)| why.len() > 10), "{named:?}");
    assert!(!rendered.text.contains("dragonflyoss"), "dfdaemon's image is run as darter's");
    // The older form of the quickstart: metrics are wanted, so the admin port is open.
    assert_eq!(config(&rendered, "darter-peer")["health"]["tcpListen"]["listen"], "0.0.0.0");
    assert!(rendered.text.contains("--peer-listen=0.0.0.0:7000"));
    for (wrong, word) in [
        (json!({"seccomp": {"type": "None"}}), "seccomp"),
        (json!({"seedPeer": {"replicas": 129}}), "replicas"),
        (json!({"dfdaemon": {"config": {"verbose": "yes"}}}), "verbose"),
        (json!({"seedPeer": {"config": {"sandbox": {"mode": "on"}}}}), "sandbox"),
        (json!({"dfdaemon": {"config": {"tracing": {"endpoint": "collector:4318"}}}}), "tracing"),
        (json!({"dfdaemon": {"config": {"proxy": {"tcpListen": {"port": 70000}}}}}), "port"),
        (json!({"containerRuntime": {"containerd": {"registries": ["ghcr.io"]}}}), "registries"),
        (json!({"seedPeer": {"persistence": {"size": "8G"}}}), "storage.capacity"),
    ] {
        let said = Helm::BOTH[0].refused(&[&values.file(&wrong)]);
        assert!(said.contains(word), "{wrong}: {said}");
    }
}

/// By default the ports of a node are on its loopback, and probes go there.
#[test]
fn nothing_is_open_to_others_unasked() {
    if !need("nothing_is_open_to_others_unasked", &Helm::NEEDS) {
        return;
    }
    let values = Values::new();
    let rendered = Helm::BOTH[0].render(&[&values.file(&json!({}))]);
    let peer = config(&rendered, "darter-peer");
    assert_eq!(peer["proxy"]["tcpListen"]["listen"], "127.0.0.1");
    assert_eq!(peer["health"]["tcpListen"]["listen"], "127.0.0.1");
    let daemon = &pod(rendered.object("DaemonSet", "darter-peer"))["containers"][0];
    for (probe, path) in
        [("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")]
    {
        let get = &daemon[probe]["httpGet"];
        assert_eq!(
            (&get["host"], &get["port"], &get["path"]),
            (&json!("127.0.0.1"), &json!(40901), &json!(path))
        );
    }
    assert!(rendered.find("Service", "darter-peer-metrics").is_none());
    // In a pod of its own the kubelet comes from outside.
    let seed = &pod(rendered.object("StatefulSet", "darter-seed"))["containers"][0];
    assert!(seed["livenessProbe"]["httpGet"]["host"].is_null());
    assert_eq!(config(&rendered, "darter-seed")["health"]["tcpListen"]["listen"], "0.0.0.0");
    assert_eq!(rendered.object("PodDisruptionBudget", "darter-seed")["spec"]["maxUnavailable"], 1);
    for (kind, name) in [("DaemonSet", "darter-peer"), ("StatefulSet", "darter-seed")] {
        let daemon = &pod(rendered.object(kind, name))["containers"][0]["securityContext"];
        assert_eq!(daemon["runAsNonRoot"], true);
        assert_eq!(daemon["capabilities"], json!({"drop": ["ALL"]}));
        assert_eq!(
            (&daemon["readOnlyRootFilesystem"], &daemon["allowPrivilegeEscalation"]),
            (&json!(true), &json!(false))
        );
        assert_eq!(pod(rendered.object(kind, name))["automountServiceAccountToken"], false);
    }
}

/// The alerts and the dashboard of the chart are those that the tests of Prometheus hold to account.
#[test]
fn alerts_and_dashboard_are_the_projects() {
    if !need("alerts_and_dashboard_are_the_projects", &Helm::NEEDS) {
        return;
    }
    let deploy = Helm::chart().join("../..");
    let read = |path: PathBuf| {
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    assert_eq!(read(Helm::chart().join("files/alerts.yaml")), read(deploy.join("prometheus/alerts.yaml")));
    assert_eq!(read(Helm::chart().join("files/dashboard.json")), read(deploy.join("grafana/darter.json")));
    let values = Values::new();
    let rendered = Helm::BOTH[0].render(&[&values.file(&everything())]);
    let [alerts] =
        <[Value; 1]>::try_from(yaml::documents(&read(deploy.join("prometheus/alerts.yaml")))).expect("one");
    assert_eq!(rendered.object("PrometheusRule", "darter")["spec"], alerts);
    let dashboard = &rendered.object("ConfigMap", "darter-dashboard")["data"]["darter.json"];
    let dashboard: Value = serde_json::from_str(dashboard.as_str().expect("a file")).expect("JSON");
    let own: Value = serde_json::from_str(&read(deploy.join("grafana/darter.json"))).expect("JSON");
    assert_eq!(dashboard, own);
    for name in ["darter-peer", "darter-seed"] {
        let monitor = &rendered.object("ServiceMonitor", name)["spec"];
        let service = &rendered.object("Service", &format!("{name}-metrics"))["metadata"]["labels"];
        let chosen = monitor["selector"]["matchLabels"].as_object().expect("labels");
        assert!(chosen.iter().all(|(label, value)| service[label] == *value), "{monitor} {service}");
        // `job="darter"` is what the alerts ask for.
        assert_eq!(
            monitor["endpoints"][0]["relabelings"][0],
            json!({"targetLabel": "job", "replacement": "darter"})
        );
    }
}

/// The image that `deploy/container/Containerfile` makes has what the pods of the chart run, where they run it.
#[test]
fn the_image_is_what_the_chart_runs() {
    if !need("the_image_is_what_the_chart_runs", &Helm::NEEDS) {
        return;
    }
    let root = Helm::chart().join("../../..");
    let read =
        |path: &str| fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let containerfile = read("deploy/container/Containerfile");
    let (build, image) = containerfile.rsplit_once("\nFROM ").expect("two stages");
    let values = Values::new();
    let rendered = Helm::BOTH[0].render(&[&values.file(&everything())]);
    let mut containers = Vec::new();
    for (kind, name) in
        [("DaemonSet", "darter-peer"), ("StatefulSet", "darter-seed"), ("Job", "darter-cluster")]
    {
        let pod = pod(rendered.object(kind, name));
        for list in ["initContainers", "containers"] {
            containers.extend(pod[list].as_array().into_iter().flatten());
        }
    }
    assert!(containers.len() > 6, "{containers:?}");
    for container in containers {
        let program = container["command"][0].as_str().expect("a program");
        // Debian's base has a shell.
        let is_there = image.contains(&format!(" {program}\n")) || program == "/bin/sh";
        assert!(is_there, "{program} is not in the image");
        let user = container["securityContext"]["runAsUser"].as_u64().expect("a user");
        assert!(user == 0 || image.contains(&format!("\nUSER {user}:{user}\n")), "{user}");
    }
    let version = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("it is said");
        line.trim_matches([' ', '=', ':', '"']).to_owned()
    };
    let cargo = read("Cargo.toml");
    assert!(build.contains(&format!("/rust:{}-slim-", version(&cargo, "rust-version"))), "another compiler");
    let chart = read("deploy/helm/darter/Chart.yaml");
    assert_eq!(version(&chart, "appVersion"), version(&cargo, "version"));
    // All else that the binary needs is in Debian's base.
    let needed = ran({
        let mut ldd = Command::new("ldd");
        ldd.arg(darter_tests::built("darter"));
        ldd
    });
    for line in needed.out.lines() {
        // zlib is dpkg's.
        let known = [
            "linux-vdso.so.1",
            "libc.so.6",
            "libm.so.6",
            "libgcc_s.so.1",
            "libz.so.1",
            "ld-linux-x86-64.so.2",
        ];
        assert!(known.iter().any(|library| line.contains(library)), "the image lacks {line}");
    }
}
