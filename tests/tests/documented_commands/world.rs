//! A machine as the documents take it to be: its own network with the names of registries in it, its own `/etc` and
//! `/var/lib`, a node that runs as the unit `darter`, and a seed that it has joined.
//!
//! It is made of namespaces of the kernel's, so nothing of it is left when the test has ended, and nobody else sees it. What
//! stands in for others: one registry with all images, behind nginx with certificates of an authority that this machine
//! believes; and a `systemctl` that starts and stops one daemon.

use std::env;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use darter::demo::registry::Blob;
use darter_tests::need::{Need, need};
use darter_tests::{Client, Image, Origin, Request, built, wait_until};

use super::documents::{Document, Line, Part};

pub(crate) const NEEDS: [Need; 7] = [
    Need::Root,
    Need::Program { name: "unshare", package: "util-linux" },
    Need::Program { name: "ip", package: "iproute2" },
    Need::Program { name: "mkfs.xfs", package: "xfsprogs" },
    Need::Program { name: "openssl", package: "openssl" },
    Need::Program { name: "nginx", package: "nginx-light" },
    Need::Program { name: "curl", package: "curl" },
];
/// Set inside: the page whose commands are run.
pub(crate) const PAGE: &str = "DARTER_TEST_PAGE";
/// Set inside: the directory that has the sources, and all that the world is made of.
pub(crate) const HOME: &str = "DARTER_TEST_WORLD";
/// An address that is nobody's secret, so that nothing has to be allowed.
const REGISTRY: &str = "93.184.216.34";
const NAMES: [&str; 6] = [
    "registry-1.docker.io",
    "index.docker.io",
    "ghcr.io",
    "registry.example.com",
    "registry.example",
    "files.example",
];
const ADMIN: &str = "127.0.0.1:40901";
const PATIENCE: Duration = Duration::from_secs(60);
/// Of one command.
const SECONDS_MAX: &str = "300";

/// Makes the namespaces, and in them `/etc`, `/var/lib` and a home; the disk is 60 GiB, of which nothing is written.
const ENTER: &str = r#"
set -e
home=$1; shift
ip link set lo up
for address in 10.0.0.1 10.0.0.2 10.0.0.7 93.184.216.34; do ip address add "$address/32" dev lo; done
cp -a /etc "$home/etc"; mount --bind "$home/etc" /etc
mkdir -p "$home/root" "$home/local/bin"
mount --bind "$home/root" /root
mount --bind "$home/local" /usr/local
mount -t tmpfs tmpfs /run
truncate -s 60G "$home/disk"; mkfs.xfs -q "$home/disk"; mount -o loop "$home/disk" /var/lib
"$@"
"#;

/// What `systemctl` is here.
const SYSTEMCTL: &str = r#"#!/bin/bash
set -e
start() {
    setsid darter serve --config /etc/darter/darter.yaml >> /run/darter.log 2>&1 < /dev/null &
    echo $! > /run/darter.pid
    for _ in $(seq 600); do curl -fsS http://127.0.0.1:40901/readyz > /dev/null 2>&1 && return; sleep 0.1; done
    cat /run/darter.log >&2; exit 1
}
stop() {
    pid=$(cat /run/darter.pid); kill "$pid"; rm /run/darter.pid
    for _ in $(seq 600); do kill -0 "$pid" 2> /dev/null || return 0; sleep 0.1; done
    exit 1
}
[ "${2%.service}" = darter ]
case $1 in start) start ;; stop) stop ;; restart) stop; start ;; *) exit 1 ;; esac
"#;

/// The unit's configuration.
const CONFIG: &str = "\
dataDir: /var/lib/darter
storage: {capacity: 256MiB}
health: {tcpListen: {listen: 0.0.0.0}}
pprofPort: 6060
cluster:
  secretFile: /etc/darter/cluster
  listen: 10.0.0.7:65000
  join: ['10.0.0.2:65000']
";

/// Runs a page's commands in a world of their own, where the calling test is run once more. Says whether all were right; which were
/// not is printed.
pub(crate) fn is_right_in_a_world(document: &Document, test: &str, sources: &Path) -> bool {
    let home = tempfile::TempDir::with_prefix("darter-world-").expect("a temporary directory can be made");
    let at = |name: &str| home.path().join(name);
    fs::create_dir(at("bin")).expect("a directory can be made");
    // Where the binaries lie otherwise may be hidden inside.
    let own = env::current_exe().expect("a test knows its own path");
    fs::copy(own, at("bin/test")).expect("a program can be copied");
    fs::copy(built("darter"), at("bin/darter")).expect("a program can be copied");
    for name in ["docs", "deploy", "README.md", "CONTRIBUTING.md"] {
        let copied = Command::new("cp").arg("-a").args([sources.join(name), at(name)]).status();
        assert!(copied.expect("cp can be executed").success(), "{name}");
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", ENTER, "sh"])
        .arg(home.path())
        .arg(at("bin/test"))
        .args(["--exact", test, "--nocapture"])
        .env(PAGE, &document.name)
        .env(HOME, home.path())
        .status();
    status.expect("unshare can be executed").success()
}

/// Whether this machine has what it takes.
pub(crate) fn is_possible(test: &str) -> bool {
    need(test, &NEEDS)
}

/// Inside.
pub(crate) struct World {
    home: PathBuf,
    _registry: Origin,
    _nginx: Child,
    _seed: Child,
    /// What a `darter serve` of the page has started.
    serving: Option<Child>,
    layer: String,
    manifest: String,
}

impl World {
    /// With the unit running, unless the page starts a daemon itself.
    pub(crate) fn start_for(document: &Document) -> World {
        let home = PathBuf::from(env::var_os(HOME).expect("it is set inside"));
        let (registry, image) = registry();
        prepare(&home);
        let nginx = nginx(&home, &registry);
        let seed = Command::new("/usr/local/bin/darter")
            .args(["serve", "--data-dir", "/var/lib/darter-seed", "--capacity", "64MiB", "--seed"])
            .args(["--cluster-secret", "/etc/darter/seed", "--peer-listen", "10.0.0.2:65000"])
            .args(["--front", "127.0.0.2:65001", "--admin", "127.0.0.2:41901"])
            .envs(environment())
            .stdout(Stdio::null())
            .stderr(fs::File::create(home.join("seed.log")).expect("a log can be made"))
            .spawn()
            .expect("the daemon can be executed");
        let (layer, manifest) = (image.blobs()[0].digest(), image.tagged().digest());
        let world =
            World { home, _registry: registry, _nginx: nginx, _seed: seed, serving: None, layer, manifest };
        if document.lines().any(|line| is_serve(&line.text)) {
            return world;
        }
        world.shell("systemctl start darter").expect("the unit starts");
        let joined = || world.shell("darter peers | grep -q connected").is_ok();
        wait_until(PATIENCE, joined, || "the node has not joined its seed".into());
        world
    }

    /// What the page says, in its order.
    ///
    /// # Panics
    /// With all commands that fail: a later one may do so because of an earlier one.
    pub(crate) fn follow(&mut self, document: &Document) {
        let mut failed = Vec::new();
        for part in &document.parts {
            match part {
                Part::File { path, text } => {
                    fs::create_dir_all(Path::new(path).parent().expect("an absolute path"))
                        .expect("a directory");
                    fs::write(path, text).expect("the file can be written");
                }
                Part::Commands { not_run: Some(_), .. } => {}
                Part::Commands { lines, not_run: None } => {
                    failed.extend(lines.iter().filter_map(|line| self.run(line).err()));
                }
            }
        }
        let log = fs::read_to_string("/run/darter.log").unwrap_or_default();
        assert!(failed.is_empty(), "{}\nthe unit's log:\n{log}", failed.join("\n"));
    }

    fn run(&mut self, line: &Line) -> Result<(), String> {
        let text = self.with_values(&line.text);
        println!("{}: {text}", line.place);
        let command = text.split(" #").next().unwrap_or_default().trim();
        if command.starts_with("cargo build") {
            // It has been.
            return Ok(());
        }
        let ran = match command {
            // What lasts is run beside the lines after it.
            _ if is_serve(command) => self.serve(command),
            "darter top" => self.shell("darter top --once").map(drop),
            _ => self.shell(command).map(drop),
        };
        ran.map_err(|said| format!("FAILED {}: {text}\n{said}", line.place))
    }

    /// What stands for something of the reader's own.
    fn with_values(&self, text: &str) -> String {
        let ids = || {
            let listed = self.shell("darter ls --no-trunc").expect("the node can be asked");
            let id = listed.split_whitespace().find(|word| word.starts_with("sha256:"));
            id.expect("something is held").to_owned()
        };
        let mut text = text
            .replace("blobs/sha256:…", &format!("blobs/{}", self.layer))
            .replace("@sha256:…", &format!("@{}", self.manifest));
        if text.split_whitespace().any(|word| word == "ID") {
            text = text.replace(" ID", &format!(" {}", ids()));
        }
        if text.split_whitespace().any(|word| word == "PID") {
            let pid = match &self.serving {
                Some(child) => child.id().to_string(),
                None => fs::read_to_string("/run/darter.pid").expect("the unit runs"),
            };
            text = text.replace(" PID", &format!(" {}", pid.trim()));
        }
        text
    }

    /// Starts what lasts, in the place of the daemon that was there.
    fn serve(&mut self, command: &str) -> Result<(), String> {
        self.stop_serving();
        if Path::new("/run/darter.pid").exists() {
            self.shell("systemctl stop darter")?;
        }
        let log = self.home.join("serve.log");
        let output = fs::File::create(&log).expect("a log can be made");
        let mut bash = self.within(Command::new("bash"));
        let child =
            bash.args(["-c", &format!("exec {command}")]).stdout(Stdio::null()).stderr(output).spawn();
        let mut child = child.expect("bash can be executed");
        let mut ended = None;
        let ready = || {
            ended = child.try_wait().expect("a child can be waited for");
            let ping = Request::get("/readyz");
            let mut client = Client::new(ADMIN.parse().expect("an address"));
            ended.is_some() || client.fetch(&ping).is_ok_and(|answer| answer.status() == 200)
        };
        wait_until(PATIENCE, ready, || format!("not ready: {:?}", fs::read_to_string(&log)));
        match ended {
            Some(status) => Err(format!("{status}\n{}", fs::read_to_string(&log).unwrap_or_default())),
            None => {
                self.serving = Some(child);
                Ok(())
            }
        }
    }

    fn stop_serving(&mut self) {
        if let Some(mut child) = self.serving.take() {
            child.kill().expect("a child can be killed");
            child.wait().expect("a child can be waited for");
        }
    }

    /// Runs a line to its end, and returns what it has printed.
    fn shell(&self, line: &str) -> Result<String, String> {
        let output = self.command(line).output().expect("bash can be executed");
        let [out, err] =
            [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        match output.status.success() {
            true => Ok(out),
            false => Err(format!("{}\n{out}{err}", output.status)),
        }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", SECONDS_MAX, "bash", "-euo", "pipefail", "-c", line]);
        self.within(command)
    }

    /// As a person who works here.
    fn within(&self, mut command: Command) -> Command {
        command.current_dir(self.home.join("work")).envs(environment()).stdin(Stdio::null());
        command
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop_serving();
    }
}

fn is_serve(command: &str) -> bool {
    let words: Vec<&str> = command.split_whitespace().take(2).collect();
    matches!(words[..], [program, "serve"] if program == "darter" || program.ends_with("/darter"))
}

/// Nothing of the person who runs the tests.
fn environment() -> [(&'static str, String); 8] {
    let nobody = String::new;
    [
        ("HOME", "/root".to_owned()),
        ("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("HTTP_PROXY", nobody()),
        ("HTTPS_PROXY", nobody()),
        ("ALL_PROXY", nobody()),
        ("http_proxy", nobody()),
        ("https_proxy", nobody()),
        ("all_proxy", nobody()),
    ]
}

/// All images that the documents name are this one.
fn registry() -> (Origin, Image) {
    let origin = Origin::start();
    let image = Image::build(1, &[300_000, 50_000]).with_index();
    for (repository, tag) in [("library/alpine", "3.20"), ("org/app", "1.2"), ("team/app", "v1")] {
        for blob in image.blobs() {
            origin.registry().add_blob(repository, Blob::bytes(blob.bytes.clone()));
        }
        for manifest in image.manifests() {
            let bytes = manifest.bytes.clone().into();
            origin.registry().add_manifest(repository, tag, manifest.media_type, bytes);
        }
    }
    (origin, image)
}

/// The files of the machine.
fn prepare(home: &Path) {
    let write = |path: &str, text: &str| {
        fs::create_dir_all(Path::new(path).parent().expect("an absolute path"))
            .expect("a directory can be made");
        fs::write(path, text).expect("a file can be written");
    };
    let executable = |path: &str| fs::set_permissions(path, fs::Permissions::from_mode(0o755));
    let work = home.join("work");
    fs::create_dir_all(work.join("target/release")).expect("a directory can be made");
    let darter = home.join("bin/darter");
    fs::copy(&darter, "/usr/local/bin/darter").expect("a program can be copied");
    fs::copy(&darter, work.join("darter-new")).expect("a program can be copied");
    symlink(&darter, work.join("target/release/darter")).expect("a link can be made");
    symlink(home.join("deploy"), work.join("deploy")).expect("a link can be made");
    write("/usr/local/bin/systemctl", SYSTEMCTL);
    executable("/usr/local/bin/systemctl").expect("a mode can be set");
    let hosts: String = NAMES.iter().map(|name| format!("{REGISTRY} {name}\n")).collect();
    write("/etc/hosts", &format!("127.0.0.1 localhost\n{hosts}"));
    write("/etc/darter/darter.yaml", CONFIG);
    let made = Command::new("/usr/local/bin/darter")
        .args(["cluster", "init", "--out", "/etc/darter/seed"])
        .envs(environment())
        .status();
    assert!(made.expect("darter can be executed").success());
    fs::rename("/etc/darter/seed.peer", "/etc/darter/cluster").expect("it has been written");
    // What the clients have on such a machine.
    write(
        "/etc/nydus/config.toml",
        "[daemon]\nnydusd_config = \"/etc/nydus/nydusd-config.json\"\n[remote.mirrors_config]\ndir = \"/etc/nydus/certs.d\"\n",
    );
    write(
        "/etc/nydus/nydusd-config.json",
        "{\"device\": {\"backend\": {\"type\": \"registry\", \"config\": {}}}}\n",
    );
    write("/etc/dragonfly/dfdaemon.yaml", "verbose: true\n");
    let mirror = "[host.\"http://127.0.0.1:4001\"]\n  capabilities = [\"pull\", \"resolve\"]\n";
    write("/etc/containerd/certs.d/docker.io/hosts.toml", mirror);
}

/// TLS for all names, with an authority that this machine believes.
fn nginx(home: &Path, registry: &Origin) -> Child {
    let pki = home.join("pki");
    fs::create_dir_all(pki.join("files")).expect("a directory can be made");
    fs::write(pki.join("files/model.bin"), vec![7; 3 << 20]).expect("a file can be written");
    let names = NAMES.map(|name| format!("DNS:{name}")).join(",");
    let key = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    let script = format!(
        "{key} -subj /CN=ca -keyout ca.key -out ca.pem
        {key} -subj /CN=registries -keyout tls.key -out tls.pem -CA ca.pem -CAkey ca.key \\
            -addext basicConstraints=critical,CA:FALSE -addext subjectAltName={names}
        cat ca.pem >> /etc/ssl/certs/ca-certificates.crt"
    );
    let made =
        Command::new("sh").args(["-ec", &script]).current_dir(&pki).output().expect("sh can be executed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let config = format!(
        "daemon off; user root; pid {pki}/pid; error_log {pki}/error.log;
        events {{}}
        http {{
            access_log off; client_body_temp_path {pki}/body; proxy_temp_path {pki}/proxy;
            fastcgi_temp_path {pki}/fastcgi; uwsgi_temp_path {pki}/uwsgi; scgi_temp_path {pki}/scgi;
            server {{
                listen {REGISTRY}:443 ssl; listen {REGISTRY}:5000;
                ssl_certificate {pki}/tls.pem; ssl_certificate_key {pki}/tls.key;
                location = /model.bin {{ root {pki}/files; }}
                location / {{ proxy_pass {origin}; proxy_set_header Host $host; proxy_buffering off; }}
            }}
        }}",
        pki = pki.display(),
        origin = registry.url(),
    );
    let file = pki.join("nginx.conf");
    fs::write(&file, config).expect("a file can be written");
    let child = Command::new("/usr/sbin/nginx").arg("-c").arg(&file).spawn().expect("nginx can be executed");
    let ready = || {
        let mut client = Client::new(format!("{REGISTRY}:5000").parse().expect("an address"));
        client.fetch(&Request::get("/v2/")).is_ok()
    };
    wait_until(PATIENCE, ready, || format!("nginx: {:?}", fs::read_to_string(pki.join("error.log"))));
    child
}
