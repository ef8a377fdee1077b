//! A real S3 server (hadro, of PyPI) over a directory: it checks signatures of version 4, in headers and in addresses.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::daemon::free_address;
use crate::need::Need;
use crate::process::{self, Process};
use crate::{Client, Request};

/// A running server. Its objects are files. Ends when dropped.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    _process: Process,
    home: TempDir,
}

impl S3Server {
    /// What a test needs for it.
    pub const NEED: Need =
        Need::Tool { name: "hadro", cure: "tests/tools/s3-server DIRECTORY, and DIRECTORY/bin on the PATH" };
    /// Who may read.
    pub const KEY_ID: &str = "darterstestkeyid";
    /// What that one signs with.
    pub const SECRET: &str = "darters-test-secret-that-nobody-is-shown";
    /// The one bucket.
    pub const BUCKET: &str = "models";

    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn start() -> Self {
        let home = TempDir::with_prefix("darter-s3-").expect("a temporary directory can be made");
        let data = home.path().join("data");
        fs::create_dir_all(data.join(Self::BUCKET)).expect("a directory can be made");
        let address = free_address();
        let mut command = process::command("hadro");
        command.arg(&data).args(["--host", &address.ip().to_string(), "--port", &address.port().to_string()]);
        command.args(["--access-key", Self::KEY_ID, "--secret-key", Self::SECRET, "--region", "us-east-1"]);
        let ready =
            || Client::new(address).fetch(&Request::get("/")).is_ok_and(|answer| answer.status() == 403);
        let process = Process::start(command, home.path(), ready);
        Self { address, _process: process, home }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes or replaces an object.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        let path = self.path(key);
        fs::create_dir_all(path.parent().expect("a bucket is above it")).expect("a directory can be made");
        fs::write(path, bytes).expect("an object can be written");
    }

    /// The file that an object is.
    pub fn path(&self, key: &str) -> PathBuf {
        self.home.path().join("data").join(Self::BUCKET).join(key)
    }

    /// A command with the right credentials, and nobody else's.
    pub fn authorize(command: &mut Command) {
        Self::as_nobody(command);
        command.env("AWS_ACCESS_KEY_ID", Self::KEY_ID).env("AWS_SECRET_ACCESS_KEY", Self::SECRET);
    }

    /// A command without the credentials of whoever runs the tests.
    pub fn as_nobody(command: &mut Command) {
        for name in
            ["AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"]
        {
            command.env_remove(name);
        }
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        // No machine of Amazon's is to be asked.
        command.env("AWS_EC2_METADATA_DISABLED", "true");
    }
}
