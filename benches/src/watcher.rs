//! `darter top` at a terminal that nobody sees.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::ensure;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::darter_side::Darter;
use crate::server::cpu_of;

/// It runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Watcher {
    top: Child,
    /// Reads what is shown, until the terminal is gone.
    reader: Option<thread::JoinHandle<u64>>,
}

impl Watcher {
    /// As a person starts it, with nothing but the address.
    pub(crate) fn start(binary: &Path, darter: &Darter) -> anyhow::Result<Self> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let name = ptsname(&ours, Vec::new())?.into_string()?;
        let theirs = OpenOptions::new().read(true).write(true).open(name)?;
        let screen = || -> io::Result<Stdio> { Ok(theirs.try_clone()?.into()) };
        let mut command = Command::new(binary);
        command.args(["top", "--admin", &darter.admin().to_string()]).env("TERM", "xterm-256color");
        let top = command.stdin(screen()?).stdout(screen()?).stderr(screen()?).spawn()?;
        drop(theirs);
        let mut shown = File::from(ours);
        let reader = thread::spawn(move || {
            let (mut buffer, mut total) = ([0; 16 << 10], 0);
            // The end of a terminal is an error.
            while let Ok(count @ 1..) = shown.read(&mut buffer) {
                total += count as u64;
            }
            total
        });
        Ok(Self { top, reader: Some(reader) })
    }

    /// Its own CPU time so far, to 10 ms.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        cpu_of(self.top.id())
    }

    /// Ends it.
    ///
    /// # Errors
    /// It had ended before, or has shown nothing.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        let ended = self.top.try_wait()?;
        self.stop();
        let shown = self.reader.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        ensure!(
            ended.is_none() && shown > 1_000,
            "darter top ended ({ended:?}) or showed only {shown} bytes"
        );
        Ok(())
    }

    fn stop(&mut self) {
        // It fails where it has ended.
        let _ = self.top.kill();
        let _ = self.top.wait();
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop();
    }
}
