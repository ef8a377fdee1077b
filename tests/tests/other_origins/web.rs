//! Directories of web servers, as nginx lists them.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use darter_tests::cli::{command, ran};
use darter_tests::gate::Gate;
use darter_tests::need::{Need, need};
use darter_tests::{Blob, Daemon, Request, wait_until};
use tempfile::TempDir;

use super::{PATIENCE, fetched, tree};

#[test]
fn a_directory_of_a_web_server_comes_as_its_pages_list_it() {
    const NGINX: Need = Need::Program { name: "nginx", package: "nginx-light" };
    if !need("a_directory_of_a_web_server_comes_as_its_pages_list_it", &[NGINX]) {
        return;
    }
    let web = Nginx::start("Bearer open-sesame");
    for (number, name) in
        ["pub/a.bin", "pub/e/c d.bin", "pub/e/ä&b.bin", "pub/e/f/g.txt", "other.bin"].into_iter().enumerate()
    {
        web.put(name, &Blob::synthetic(number as u64, 300_000 + number as u64));
    }
    let gate = Gate::before(web.address);
    let daemon = Daemon::builder().registry("http://127.0.0.1:1").allow_registry(&gate.host()).start();
    let directory = TempDir::new().unwrap();
    let (out, secret) = (directory.path().join("out"), directory.path().join("authorization"));
    fs::write(&secret, "Bearer open-sesame\n").unwrap();
    let get = |args: &[&str]| {
        let mut command =
            command(&[&["get", "--front", &daemon.front().to_string(), "--json"], args].concat());
        command.arg("-o").arg(&out);
        ran(command)
    };
    let url = format!("{}/pub", gate.url());
    let secret = secret.to_str().unwrap();
    get(&["-r", &url]).failed(1, &["403"]);
    let args = ["-r", &url, "--authorization-file", secret, "--exclude", "*.txt"];
    for _ in 0..2 {
        let got = get(&args).json();
        assert_eq!(got["objects"], 3, "{got}");
        assert_eq!(tree(&out), ["a.bin", "e/c d.bin", "e/ä&b.bin"]);
        for name in tree(&out) {
            assert!(
                fs::read(out.join(&name)).unwrap() == fs::read(web.file(&format!("pub/{name}"))).unwrap(),
                "{name}"
            );
        }
        let given: u64 =
            gate.seen().iter().filter(|seen| seen.asked.path().ends_with(".bin")).map(fetched).sum();
        assert_eq!(given, 300_000 + 300_001 + 300_002, "each byte once, over both runs: {}", gate.lines());
    }
    get(&["-r", &format!("{}/other.bin", gate.url()), "--authorization-file", secret])
        .failed(3, &["not there"]);
    assert!(!daemon.log().contains("open-sesame"));
}

/// nginx with pages of its directories, for who shows this `Authorization`.
struct Nginx {
    address: SocketAddr,
    home: TempDir,
    child: std::process::Child,
}

impl Nginx {
    fn start(authorization: &str) -> Self {
        let home = TempDir::with_prefix("darter-nginx-").unwrap();
        let (address, root) = (darter_tests::free_address(), home.path().join("root"));
        fs::create_dir(&root).unwrap();
        let config = home.path().join("nginx.conf");
        let at = home.path().display();
        let text = format!(
            "daemon off; worker_processes 1; pid {at}/pid; error_log {at}/error.log;\n\
             events {{}}\n\
             http {{ access_log off; client_body_temp_path {at}/1; proxy_temp_path {at}/2; fastcgi_temp_path {at}/3;\n\
             uwsgi_temp_path {at}/4; scgi_temp_path {at}/5; charset utf-8;\n\
             server {{ listen {address}; root {}; autoindex on;\n\
             if ($http_authorization != '{authorization}') {{ return 403; }} }} }}\n",
            root.display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(darter_tests::need::program("nginx").unwrap());
        command.arg("-c").arg(&config).arg("-e").arg(home.path().join("early.log"));
        // Its workers read as another user, where it is started as root.
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let child = command.spawn().expect("nginx can be executed");
        let nginx = Self { address, home, child };
        let answers = || darter_tests::Client::new(address).fetch(&Request::get("/")).is_ok();
        wait_until(PATIENCE, answers, || "nginx does not answer".to_owned());
        nginx
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join("root").join(name)
    }

    fn put(&self, name: &str, blob: &Blob) {
        let path = self.file(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, blob.bytes(blob.whole())).unwrap();
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its worker when it is told to; killed, it would leave it.
        if let Some(pid) = rustix_pid(&self.child) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

fn rustix_pid(child: &std::process::Child) -> Option<rustix::process::Pid> {
    rustix::process::Pid::from_raw(i32::try_from(child.id()).ok()?)
}
