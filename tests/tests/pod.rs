//! The pods of the Helm chart, run by `runc` with all that the chart holds them to: user, capabilities, read-only root,
//! seccomp profile. The kubelet's part, which is to make volumes, is the test's.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use darter_tests::need::{Need, need};
use darter_tests::{Container, Helm, Mount, Rendered, Secrets, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Whoever runs in a pod, by the chart.
const USER: u32 = 65532;
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The volumes of a pod, as a kubelet would make them.
struct Volumes(TempDir);

impl Volumes {
    fn new(rendered: &Rendered, kind: &str, secret: &Path) -> Self {
        let volumes = Self(tempfile::tempdir().expect("a temporary directory can be made"));
        let name = format!("darter-{kind}");
        volumes.put("config/darter.yaml", rendered.configuration(&name));
        volumes.put("secret/cluster", &fs::read_to_string(secret).expect("it is there"));
        // As fsGroup and defaultMode have it.
        let file = volumes.0.path().join("secret/cluster");
        chown(&file, Some(0), Some(USER)).expect("root may");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o440)).expect("root may");
        if let Some(profile) = rendered.find("ConfigMap", "darter-seccomp") {
            volumes.put("seccomp/darter.json", profile["data"]["darter.json"].as_str().expect("a file"));
        }
        volumes.put("host-containerd/config.toml", "version = 3\n");
        for empty in ["data", "kubelet-seccomp", "host-init"] {
            fs::create_dir_all(volumes.0.path().join(empty)).expect("a directory can be made");
        }
        fs::set_permissions(volumes.0.path(), fs::Permissions::from_mode(0o755)).expect("root may");
        volumes
    }

    fn put(&self, name: &str, text: &str) {
        let file = self.0.path().join(name);
        fs::create_dir_all(file.parent().expect("a directory")).expect("a directory can be made");
        fs::write(file, text).expect("a file can be written");
    }

    fn mounts(&self) -> Vec<Mount> {
        let names =
            ["config", "secret", "data", "seccomp", "kubelet-seccomp", "host-containerd", "host-init"];
        names.map(|volume| Mount { volume, from: self.path(volume) }).into()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn profile() -> Value {
    let text = fs::read_to_string(Helm::chart().join("files/seccomp.json")).expect("the profile is there");
    serde_json::from_str(&text).expect("JSON")
}

/// As the profiles of runtimes, which refuse io_uring.
fn without_io_uring() -> Value {
    let mut profile = profile();
    let names = profile["syscalls"][0]["names"].as_array_mut().expect("a list");
    names.retain(|name| !name.as_str().is_some_and(|name| name.starts_with("io_uring_")));
    profile
}

fn render(values: &Value) -> Rendered {
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    fs::write(file.path(), values.to_string()).expect("a file can be written");
    Helm::BOTH[0].render(&[file.path()])
}

fn needs() -> Vec<Need> {
    let curl = Need::Program { name: "curl", package: "curl" };
    [&Helm::NEEDS[..], &Container::NEEDS[..], &[curl]].concat()
}

fn spec<'a>(rendered: &'a Rendered, kind: &str, name: &str) -> &'a Value {
    &rendered.object(kind, name)["spec"]["template"]["spec"]
}

/// Runs a step of the pod; every one of them has to be able to run again at the next start.
fn run_steps(pod: &Value, volumes: &Volumes) {
    for step in pod["initContainers"].as_array().into_iter().flatten() {
        for _ in 0..2 {
            let ran = Container::new(step, &volumes.mounts(), &without_io_uring()).run();
            assert_eq!(ran.status, 0, "{}: {ran:?}", step["name"]);
        }
    }
}

fn wait_until_ready(daemon: &Container) {
    let ready = || daemon.fetch(40901, "/readyz").0 == "200";
    wait_until(READY_WITHIN, ready, || format!("the pod is not ready: {}", daemon.log()));
}

fn uses(daemon: &Container, io: &str) -> bool {
    let (_, metrics) = daemon.fetch(40901, "/metrics");
    metrics
        .lines()
        .any(|line| line.starts_with("darter_build_info{") && line.contains(&format!("io=\"{io}\"")))
}

#[test]
fn a_peer_serves_as_the_chart_has_it() {
    let kernel = [Need::IoUring, Need::Landlock];
    if !need("a_peer_serves_as_the_chart_has_it", &[&needs()[..], &kernel].concat()) {
        return;
    }
    let values = json!({
        "seccomp": {"type": "Localhost"},
        "containerRuntime": {"containerd": {"enable": true}},
        "dfdaemon": {"config": {
            "storage": {"capacity": "64MiB"}, "sandbox": {"mode": "required"}, "pprofPort": 18066,
        }},
    });
    let (rendered, secrets) = (render(&values), Secrets::init());
    let pod = spec(&rendered, "DaemonSet", "darter-peer");
    let volumes = Volumes::new(&rendered, "peer", &secrets.of_peers());
    run_steps(pod, &volumes);
    let installed =
        fs::read_to_string(volumes.path("kubelet-seccomp/darter/darter.json")).expect("the profile is there");
    let installed: Value = serde_json::from_str(&installed).expect("JSON");
    assert_eq!(installed, profile());
    assert_eq!(
        pod["containers"][0]["securityContext"]["seccompProfile"]["localhostProfile"],
        "darter/darter.json"
    );
    let data = fs::metadata(volumes.path("data")).expect("it is there");
    assert_eq!((data.uid(), data.mode() & 0o777), (USER, 0o700));
    let hosts = volumes.path("host-containerd/certs.d/_default/hosts.toml");
    assert!(fs::read_to_string(&hosts).expect("containerd is told").contains("http://127.0.0.1:65001"));

    let daemon = Container::new(&pod["containers"][0], &volumes.mounts(), &installed);
    daemon.start();
    wait_until_ready(&daemon);
    assert!(uses(&daemon, "ring"), "the profile refuses io_uring: {}", daemon.log());
    // Its own sandbox fits in, and so does what takes profiles.
    assert!(daemon.log().contains("no programs, no debugging, no mounts"), "{}", daemon.log());
    assert_eq!(
        daemon.status(18066, "/debug/pprof/profile?seconds=1"),
        "200",
        "no profile is taken: {}",
        daemon.log()
    );
    // What the kubelet makes of the Secret is as it should be.
    assert!(!daemon.log().contains("may read the cluster's secrets"), "{}", daemon.log());
    let peers = daemon.exec(&["/usr/local/bin/darter", "peers"]);
    assert!(peers.status == 0 && peers.out.contains("127.0.0.1:65000"), "{peers:?}");
    // Nothing is written beside the volume.
    assert_ne!(daemon.exec(&["/usr/bin/touch", "/tmp/x"]).status, 0, "its root can be written");
    daemon.stop();
    assert!(daemon.log().contains("what is cached will be found"), "{}", daemon.log());
    // A pod that takes its place has its steps run again, on a directory that is in use.
    run_steps(pod, &volumes);
    daemon.start();
    wait_until_ready(&daemon);
    assert!(!daemon.log().contains("did not stop cleanly"), "{}", daemon.log());

    let undo = json!({"containerRuntime": {"containerd": {"enable": true, "undo": true}}});
    let undo = render(&undo);
    run_steps(spec(&undo, "DaemonSet", "darter-peer"), &volumes);
    assert!(!hosts.exists(), "containerd still reads through darter");
}

#[test]
fn a_seed_serves_where_io_uring_is_refused() {
    if !need("a_seed_serves_where_io_uring_is_refused", &needs()) {
        return;
    }
    let values = json!({"seedPeer": {"config": {"storage": {"capacity": "64MiB"}}}});
    let (rendered, secrets) = (render(&values), Secrets::init());
    let pod = spec(&rendered, "StatefulSet", "darter-seed");
    let volumes = Volumes::new(&rendered, "seed", &secrets.of_seeds());
    assert!(pod["initContainers"].is_null());
    // A volume with fsGroup.
    chown(volumes.path("data"), Some(0), Some(USER)).expect("root may");
    fs::set_permissions(volumes.path("data"), fs::Permissions::from_mode(0o2775)).expect("root may");
    let daemon = Container::new(&pod["containers"][0], &volumes.mounts(), &without_io_uring());
    daemon.start();
    wait_until_ready(&daemon);
    assert!(uses(&daemon, "pool"), "{}", daemon.log());
    assert!(daemon.log().contains("slower"), "that it is slower is not said: {}", daemon.log());
    daemon.stop();
}
