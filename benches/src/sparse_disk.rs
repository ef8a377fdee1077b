//! A disk larger than the machine's: xfs in a sparse file, where preallocated files take no space until they are
//! written.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::server::pause;

const UNMOUNT_TRIES: u32 = 50;

/// A mounted file system. It is unmounted when dropped, before its file goes.
#[derive(Debug)]
pub(crate) struct SparseDisk {
    at: PathBuf,
    _home: TempDir,
}

impl SparseDisk {
    /// Of so many bytes. Needs root, and Debian's xfsprogs.
    pub(crate) fn mount(bytes: u64) -> anyhow::Result<Self> {
        let home = TempDir::with_prefix("darter-bench-disk-")?;
        let image = home.path().join("image");
        File::create(&image)?.set_len(bytes)?;
        run(Command::new("mkfs.xfs").arg("-q").arg(&image)).context("apt-get install xfsprogs")?;
        let at = home.path().join("mounted");
        std::fs::create_dir(&at)?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at)).context("root is needed")?;
        Ok(Self { at, _home: home })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for SparseDisk {
    fn drop(&mut self) {
        for _ in 0..UNMOUNT_TRIES {
            if run(Command::new("umount").arg(&self.at).stderr(Stdio::null())).is_ok() {
                return;
            }
            // Somebody is still closing a file.
            pause(Duration::from_millis(100));
        }
        eprintln!("{} is still mounted: umount it by hand", self.at.display());
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?} failed");
    Ok(())
}
