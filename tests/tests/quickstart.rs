//! `docs/quickstart-kubernetes.md`: every file that it names is there and does its part, as far as one can see that
//! without Docker and without Docker Hub.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use darter_tests::cli::{darter, ran};
use darter_tests::need::{Need, need};
use darter_tests::{Helm, yaml};
use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn document() -> String {
    read("docs/quickstart-kubernetes.md")
}

fn yaml_of(path: &str) -> Value {
    let [document] = <[Value; 1]>::try_from(yaml::documents(&read(path))).expect("one document");
    document
}

/// Places in the text that begin with this, up to what ends a path.
fn paths(text: &str, begin: &str) -> BTreeSet<String> {
    let is_of_path = |char: char| char.is_ascii_alphanumeric() || "-_./".contains(char);
    text.match_indices(begin)
        .map(|(at, _)| {
            let rest = &text[at..];
            let end = rest.find(|char| !is_of_path(char)).unwrap_or(rest.len());
            rest[..end].trim_end_matches('.').to_owned()
        })
        .collect()
}

#[test]
fn what_it_names_is_there_and_what_is_there_it_names() {
    for document in ["docs/quickstart-kubernetes.md", "docs/kubernetes.md"] {
        let named = paths(&read(document), "deploy/");
        assert!(named.len() > 1, "{named:?}");
        for path in named.iter().chain(&paths(&read(document), "tests/tests/")) {
            assert!(root().join(path).exists(), "{document} names {path}");
        }
    }
    let named = paths(&document(), "deploy/");
    for file in fs::read_dir(root().join("deploy/quickstart")).expect("it is there") {
        let name = file.expect("a file").file_name().into_string().expect("a plain name");
        assert!(named.contains(&format!("deploy/quickstart/{name}")), "nobody is told of {name}");
    }
}

/// Each line that begins with `helm install` or `helm upgrade` and names its chart is run as it stands, but for the cluster.
#[test]
fn its_helm_commands_are_right() {
    if !need("its_helm_commands_are_right", &Helm::NEEDS) {
        return;
    }
    let text = document();
    let commands = text.lines().filter_map(|line| line.strip_prefix("    helm "));
    let mut ran = 0;
    for command in commands.filter(|command| command.contains(" deploy/helm/darter ")) {
        let words: Vec<&str> = command.split_whitespace().filter(|word| *word != "--wait").collect();
        for helm in Helm::BOTH {
            // An upgrade asks the cluster what is there, and so does the older helm; what they would write is the same.
            let (instead, more) = if helm.needs_no_cluster() {
                ("install", &["--dry-run=client"][..])
            } else {
                ("template", &[][..])
            };
            let is_verb = |word: &str| ["install", "upgrade"].contains(&word);
            let words = words.iter().map(|word| if is_verb(word) { instead } else { *word });
            let words: Vec<&str> = words.chain(more.iter().copied()).collect();
            let done = helm.run_in(&root(), &words);
            assert_eq!(done.status, 0, "{command}: {done:?}");
            assert!(!done.out.contains(": has no meaning in darter"), "{command}: {}", done.out);
            assert!(
                done.out.contains("kind: DaemonSet") && done.out.contains("name: darter-peer"),
                "{command}"
            );
            assert_eq!(done.out.contains("--undo"), command.contains("undo=true"), "{command}");
            assert_eq!(
                done.out.contains("name: init-containerd"),
                command.contains("containerd.enable"),
                "{command}"
            );
        }
        ran += 1;
    }
    assert_eq!(ran, 3);
}

/// From a port of this machine through the node and the service to the port of a peer.
#[test]
fn ports_lead_to_the_peers() {
    let test = "ports_lead_to_the_peers";
    let validate = Need::Tool { name: "kubernetes-validate", cure: Helm::CURE };
    if !need(test, &[&Helm::NEEDS[..], &[validate]].concat()) {
        return;
    }
    let kind = yaml_of("deploy/quickstart/kind-config.yaml");
    assert_eq!((&kind["kind"], &kind["apiVersion"]), (&json!("Cluster"), &json!("kind.x-k8s.io/v1alpha4")));
    let roles: Vec<_> =
        kind["nodes"].as_array().expect("nodes").iter().map(|node| node["role"].as_str()).collect();
    assert_eq!(roles, [Some("control-plane"), Some("worker"), Some("worker")]);
    let nodes = kind["nodes"].as_array().expect("nodes");
    let mappings: Vec<&Value> =
        nodes.iter().filter_map(|node| node["extraPortMappings"].as_array()).flatten().collect();

    let service = yaml_of("deploy/quickstart/peer-service-config.yaml");
    let mut check = Command::new("kubernetes-validate");
    check.arg("--strict").arg(root().join("deploy/quickstart/peer-service-config.yaml"));
    let checked = ran(check);
    assert_eq!(checked.status, 0, "{checked:?}");
    let rendered = Helm::BOTH[0].render(&[&root().join("deploy/quickstart/charts-config.yaml")]);
    let peers = rendered.object("DaemonSet", "darter-peer");
    assert_eq!(service["metadata"]["namespace"], peers["metadata"]["namespace"]);
    let labels = &peers["spec"]["template"]["metadata"]["labels"];
    let chosen = service["spec"]["selector"].as_object().expect("labels");
    assert!(
        chosen.len() == 3 && chosen.iter().all(|(name, value)| labels[name] == *value),
        "{chosen:?} {labels}"
    );
    let seeds = &rendered.object("StatefulSet", "darter-seed")["spec"]["template"]["metadata"]["labels"];
    assert!(chosen.iter().any(|(name, value)| seeds[name] != *value), "a seed is no peer: {chosen:?}");
    let [config] =
        <[Value; 1]>::try_from(yaml::documents(rendered.configuration("darter-peer"))).expect("one");
    let nydusd: Value = serde_json::from_str(&read("deploy/quickstart/nydusd-config.json")).expect("JSON");
    let mirror = &nydusd["device"]["backend"]["config"]["mirrors"][0];
    let [front, admin] =
        [("proxy", &mirror["host"]), ("health", &mirror["ping_url"])].map(|(section, url)| {
            let listen = &config[section]["tcpListen"];
            assert_eq!(listen["listen"], "0.0.0.0", "a service does not reach a loopback");
            let port = listen["port"].as_u64().expect("a port");
            let ports = service["spec"]["ports"].as_array().expect("ports");
            let of_node =
                ports.iter().find(|named| named["port"] == port).expect("the service has it")["nodePort"]
                    .clone();
            let mapped =
                mappings.iter().find(|mapping| mapping["containerPort"] == of_node).expect("kind has it");
            let here = format!("http://127.0.0.1:{}", mapped["hostPort"]);
            assert!(url.as_str().is_some_and(|url| url.starts_with(&here)), "{url} is not at {here}");
            here
        });
    for port in [front, admin] {
        assert!(document().contains(&port), "nobody is told of {port}");
    }
}

/// nydusd's file is that of `deploy/nydus`, which the unchanged client reads in `nydus_storage.rs`, for Docker Hub.
#[test]
fn nydusd_is_told_what_the_tests_of_nydusd_prove() {
    let parse = |path: &str| -> Value { serde_json::from_str(&read(path)).expect("JSON") };
    let own = parse("deploy/quickstart/nydusd-config.json");
    let text = read("deploy/nydus/nydusd-2.1-mirrors.json")
        .replace("https://registry.example.com", "https://index.docker.io");
    let proven: Value = serde_json::from_str(&text).expect("JSON");
    let backend = |file: &Value| file["device"]["backend"]["config"].clone();
    assert_eq!(backend(&own)["mirrors"], backend(&proven)["mirrors"]);
    let keys = |value: &Value| value.as_object().expect("fields").keys().cloned().collect::<BTreeSet<_>>();
    assert!(keys(&backend(&own)).is_subset(&keys(&backend(&proven))), "{own}");
    assert_eq!(keys(&own), keys(&proven));
    // The header names the registry that the values name: open to others, the front serves no other one.
    let values = yaml_of("deploy/quickstart/charts-config.yaml");
    let registry = &values["dfdaemon"]["config"]["proxy"]["registryMirror"]["url"];
    assert_eq!(backend(&own)["mirrors"][0]["headers"]["X-Dragonfly-Registry"], *registry);
}

#[test]
fn containerd_and_the_snapshotter_meet() {
    let root_of_host = tempfile::tempdir().expect("a temporary directory can be made");
    let put = |to: &str, from: &str| {
        let file = root_of_host.path().join(to);
        fs::create_dir_all(file.parent().expect("a directory")).expect("a directory can be made");
        fs::write(file, read(from)).expect("a file can be written");
    };
    put("etc/containerd/config.toml", "deploy/quickstart/containerd-config.toml");
    // What it says of registries is what `darter init` wants: nothing is left to do.
    let root = root_of_host.path().to_str().expect("a plain path");
    let written = darter(&["init", "containerd", "--root", root]);
    assert_eq!((written.status, &*written.err), (0, ""), "{written:?}");
    assert!(written.out.contains("next: nothing"), "{written:?}");
    assert!(root_of_host.path().join("etc/containerd/certs.d/_default/hosts.toml").exists());

    let unit = read("deploy/quickstart/nydus-snapshotter.service");
    assert!(unit.contains("--config-path /etc/nydus/config.json"), "{unit}");
    assert!(document().contains("nydusd-config.json /etc/nydus/config.json"), "the unit reads another file");
    let socket = read("deploy/quickstart/containerd-config.toml");
    assert!(
        socket.contains("[proxy_plugins.nydus]") && socket.contains("snapshotter = \"nydus\""),
        "{socket}"
    );
}
