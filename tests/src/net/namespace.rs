//! A network namespace without a name: it is there as long as somebody has it open or lives in it.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{disk, process};

/// Clones are the same namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    file: Arc<File>,
}

impl Namespace {
    /// A new one, which has nothing but its loopback.
    ///
    /// # Errors
    /// What stands in the way: most often, not to be root.
    pub fn new() -> io::Result<Namespace> {
        // A child moves into a namespace of its own, says so, and stays until that is open here.
        let mut command = process::command("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up && echo ready && read -r end"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut said = String::new();
        let read = BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut said);
        let opened = File::open(format!("/proc/{}/ns/net", child.id()));
        drop(child.stdin.take());
        child.wait()?;
        read?;
        if said.trim() != "ready" {
            return Err(io::Error::other("`unshare --net` makes no namespace here"));
        }
        Ok(Namespace { file: Arc::new(opened?) })
    }

    /// Does some work inside, on a thread of its own. Sockets that are made there, and threads and processes that are
    /// started there, belong to the namespace for good.
    ///
    /// # Panics
    /// When the work does.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let inside = || {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root may enter a namespace that it has open");
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Connects to an address as it is seen inside.
    ///
    /// # Errors
    /// What the socket says.
    pub fn connect(&self, server: SocketAddr) -> io::Result<TcpStream> {
        self.enter(|| TcpStream::connect(server))
    }

    /// Runs a program of the system's inside to its end, and gives what it printed.
    ///
    /// # Panics
    /// With what it says, when it fails.
    pub fn run(&self, program: &str, arguments: &str) -> String {
        self.enter(|| disk::run(Command::new(program).args(arguments.split_whitespace())))
    }

    /// Where another process of root's finds it.
    pub(crate) fn path(&self) -> String {
        use std::os::fd::AsRawFd;
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }
}
