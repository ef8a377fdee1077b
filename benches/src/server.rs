//! A server as a child process, and what it costs by `/proc`.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::measure::Measure;
use crate::rounds::Round;

const READY_WITHIN: Duration = Duration::from_secs(30);
const STOPPED_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);

/// A running server. It is ended by its own process id when dropped: asked first, then killed.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
}

/// Memory of a server with its workers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Its own: heap, stacks, buffers.
    pub(crate) anonymous_bytes: u64,
    /// Mapped files, which are page cache that it shares: slabs, its own binary.
    pub(crate) file_bytes: u64,
    /// What maps them.
    pub(crate) page_tables_bytes: u64,
}

impl Memory {
    /// What it costs the machine: page cache would be there without it.
    pub(crate) fn counted(self) -> u64 {
        self.anonymous_bytes + self.page_tables_bytes
    }

    /// As measures of a turn.
    pub(crate) fn round(self) -> Round {
        Round::default()
            .with(Measure::OwnAndPageTablesBytes, self.counted() as f64)
            .with(Measure::OwnBytes, self.anonymous_bytes as f64)
            .with(Measure::PageTablesBytes, self.page_tables_bytes as f64)
            .with(Measure::MappedBytes, self.file_bytes as f64)
    }
}

impl Server {
    /// Starts a command that serves at `address` and whose output goes to `log`, and waits until it accepts connections
    /// at `ready`.
    pub(crate) fn start(
        mut command: Command,
        ready: SocketAddr,
        address: SocketAddr,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let program = PathBuf::from(command.get_program());
        let output = File::create(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let mut server = Self { child, address };
        let deadline = Instant::now() + READY_WITHIN;
        while TcpStream::connect(ready).is_err() {
            let ended = server.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(log).unwrap_or_default();
                bail!("{} does not serve at {address} ({ended:?}):\n{said}", program.display());
            }
            pause(POLL);
        }
        Ok(server)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Kills it at once, and waits until it is gone.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// CPU time of the server and its workers so far, user and system, to 10 ms.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let ticks_per_s = rustix::param::clock_ticks_per_second();
        let ticks: u64 = self.processes()?.iter().map(|process| process.ticks).sum();
        Ok(Duration::from_secs_f64(ticks as f64 / ticks_per_s as f64))
    }

    /// Resident memory of the server and its workers now.
    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        let mut memory = Memory::default();
        for process in self.processes()? {
            let status = fs::read_to_string(format!("/proc/{}/status", process.id))?;
            let kib = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name))?;
                line.trim().trim_end_matches(" kB").parse::<u64>().ok()
            };
            memory.anonymous_bytes += kib("RssAnon:").unwrap_or_default() << 10;
            memory.file_bytes +=
                (kib("RssFile:").unwrap_or_default() + kib("RssShmem:").unwrap_or_default()) << 10;
            memory.page_tables_bytes += kib("VmPTE:").unwrap_or_default() << 10;
        }
        Ok(memory)
    }

    /// The child and its own children.
    fn processes(&self) -> anyhow::Result<Vec<Process>> {
        let own = self.child.id();
        let mut processes = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A process may end while the list is read.
            let Some(process) = Process::read(id) else { continue };
            if process.id == own || process.parent == own {
                processes.push(process);
            }
        }
        Ok(processes)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            // Its id may be another's by now.
            return;
        }
        let deadline = Instant::now() + STOPPED_WITHIN;
        let asked = Pid::from_raw(self.child.id().cast_signed()).map(|id| kill_process(id, Signal::TERM));
        while matches!(asked, Some(Ok(()))) && Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            pause(POLL);
        }
        // Not gone by itself; what fails here has nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line of `/proc/PID/stat`.
#[derive(Debug)]
struct Process {
    id: u32,
    parent: u32,
    ticks: u64,
}

impl Process {
    fn read(id: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The name in brackets may have anything in it, brackets too.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        // proc_pid_stat(5) counts from 1 and begins with the id and the name: (4) ppid, (14) utime, (15) stime.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self { id, parent: field(4)? as u32, ticks: field(14)? + field(15)? })
    }
}

/// CPU time of a process so far, user and system, to 10 ms.
pub(crate) fn cpu_of(process: u32) -> anyhow::Result<Duration> {
    let process = Process::read(process).context("the process has ended")?;
    Ok(Duration::from_secs_f64(process.ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// An address on loopback that nobody listens at now.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

#[allow(clippy::disallowed_methods, reason = "no runtime is here, and nothing else to do")]
pub(crate) fn pause(time: Duration) {
    thread::sleep(time);
}
