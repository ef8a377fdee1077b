//! A server of somebody else's (a registry, a containerd), as a child with its output in a file. Dropped, it is
//! killed by its own process id; dropped by a test that fails, it shows what it has printed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::{need, wait_until};

/// How long a server may take to answer for the first time, on a machine that runs many tests at once.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Variables that would send a client's requests somewhere else.
const PROXIES: [&str; 6] =
    ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];

/// A command without the proxies of the person who runs the tests. The program is looked up where Debian keeps
/// servers too.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(need::program(program).unwrap_or_else(|| program.into()));
    for proxy in PROXIES {
        command.env_remove(proxy);
    }
    command
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Executes `command` with its output in `home`, and waits until it `is_ready`.
    ///
    /// # Panics
    /// When it cannot be executed, ends, or is not ready in half a minute.
    pub(crate) fn start(mut command: Command, home: &Path, mut is_ready: impl FnMut() -> bool) -> Self {
        let name = Path::new(command.get_program()).file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let log = home.join(format!("{name}.log"));
        let output = File::create(&log).expect("the log can be made");
        let errors = output.try_clone().expect("a file can be shared");
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} cannot be executed: {error}"));
        let mut process = Self { name, log, child };
        let ready = || {
            let ended = process.child.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "{} ended before it was ready: {}", process.name, process.printed());
            is_ready()
        };
        wait_until(READY_WITHIN, ready, || "the server is not ready".to_owned());
        process
    }

    /// What it has said so far.
    fn printed(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the log of {}:\n{}", self.name, self.printed());
        }
    }
}
