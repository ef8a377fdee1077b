//! Debian's `docker-registry`, the registry that most private ones are, as a private instance on loopback.

use std::fs;
use std::net::SocketAddr;

use tempfile::TempDir;

use crate::daemon::free_address;
use crate::image::{Document, Image};
use crate::need::Need;
use crate::process::{self, Process};
use crate::{Answer, Client, Request};

/// A running registry with a directory of its own, http, open to all. Ends when dropped.
#[derive(Debug)]
pub struct DebianRegistry {
    address: SocketAddr,
    _process: Process,
    _home: TempDir,
}

impl DebianRegistry {
    /// What a test needs for it.
    pub const NEED: Need = Need::Program { name: "docker-registry", package: "docker-registry" };

    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn start() -> Self {
        let home = TempDir::with_prefix("darter-registry-").expect("a temporary directory can be made");
        let address = free_address();
        let config = home.path().join("config.yml");
        let root = home.path().join("data");
        let text = format!(
            "version: 0.1\nlog: {{ level: warn, accesslog: {{ disabled: true }} }}\n\
             storage:\n  filesystem: {{ rootdirectory: {} }}\n  maintenance: {{ uploadpurging: {{ enabled: false }} }}\n\
             http: {{ addr: '{address}', relativeurls: true }}\n",
            root.display()
        );
        fs::write(&config, text).expect("the configuration can be written");
        let mut command = process::command("docker-registry");
        command.arg("serve").arg(&config);
        let base = Request::get("/v2/");
        let ready = || Client::new(address).fetch(&base).is_ok_and(|answer| answer.status() == 200);
        let process = Process::start(command, home.path(), ready);
        Self { address, _process: process, _home: home }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Pushes all of the image as `repository:tag`.
    ///
    /// # Panics
    /// When the registry does not take it.
    pub fn push(&self, image: &Image, repository: &str, tag: &str) {
        let mut client = Client::new(self.address);
        for blob in image.blobs() {
            push_blob(&mut client, repository, blob);
        }
        for manifest in image.manifests() {
            push_manifest(&mut client, repository, &manifest.digest(), manifest);
        }
        push_manifest(&mut client, repository, tag, image.tagged());
    }
}

/// An upload in two steps, as the distribution spec has it.
fn push_blob(client: &mut Client, repository: &str, blob: &Document) {
    let begun = answer(client, &Request::post(format!("/v2/{repository}/blobs/uploads/")), 202);
    let location = begun.header("Location").expect("an upload has an address");
    let digest = blob.digest();
    let request = Request::put(format!("{location}&digest={digest}"), blob.bytes.clone())
        .header("Content-Type", "application/octet-stream");
    answer(client, &request, 201);
}

fn push_manifest(client: &mut Client, repository: &str, reference: &str, manifest: &Document) {
    let target = format!("/v2/{repository}/manifests/{reference}");
    let request = Request::put(target, manifest.bytes.clone()).header("Content-Type", manifest.media_type);
    answer(client, &request, 201);
}

fn answer(client: &mut Client, request: &Request, expected: u16) -> Answer {
    let answer = client.fetch(request).expect("the registry answers");
    let said = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.status(), expected, "{request:?}: {said}");
    answer
}
