//! Which core serves and which one asks.

use std::{fs, io};

use anyhow::Context;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Two cores: one for the server, with all of its threads, one for the generator of load. Neither waits for the
/// other's turn, and what a server does beside serving counts against it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    allowed: CpuSet,
    server: usize,
    generator: usize,
}

impl Cores {
    /// The first two that this process may use.
    pub(crate) fn choose() -> anyhow::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let (server, generator) = (cores.next(), cores.next());
        let needed = "two cores are needed: one for the server, one for who asks";
        Ok(Self { allowed, server: server.context(needed)?, generator: generator.context(needed)? })
    }

    /// Runs `start` confined to the server's core, which the threads and children that it makes inherit.
    pub(crate) fn on_server<T>(&self, start: impl FnOnce() -> T) -> io::Result<T> {
        self.on(self.server, start)
    }

    /// Runs `ask` on the generator's core.
    pub(crate) fn on_generator<T>(&self, ask: impl FnOnce() -> T) -> io::Result<T> {
        self.on(self.generator, ask)
    }

    /// Confines a running process, with all threads that it has now and what these will make, to the server's core.
    pub(crate) fn keep_on_server(&self, process: u32) -> io::Result<()> {
        keep_on(self.server, process)
    }

    /// The same, to the generator's core.
    pub(crate) fn keep_on_generator(&self, process: u32) -> io::Result<()> {
        keep_on(self.generator, process)
    }

    fn on<T>(&self, core: usize, run: impl FnOnce() -> T) -> io::Result<T> {
        let mut set = CpuSet::new();
        set.set(core);
        sched_setaffinity(None, &set)?;
        let done = run();
        sched_setaffinity(None, &self.allowed)?;
        Ok(done)
    }
}

fn keep_on(core: usize, process: u32) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let id = thread?.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        sched_setaffinity(id, &set)?;
    }
    Ok(())
}
