//! A file system on a disk of a test's own, which can be taken away in part, lose its power, or have no room for what
//! it promised. The disk is a loop device over a file. Needs root.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::need::Need;
use crate::wait_until;

/// What a [`Disk`] needs, whatever is on it.
pub const DISK: [Need; 4] = [
    Need::Root,
    Need::Program { name: "losetup", package: "mount" },
    Need::Program { name: "mkfs.ext4", package: "e2fsprogs" },
    // For its `xfs_io` too, which takes the power from any file system.
    Need::Program { name: "mkfs.xfs", package: "xfsprogs" },
];

/// What is on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4 as it comes.
    Ext4,
    /// ext4 without a journal: nothing is written to the disk but what somebody writes to a file.
    Ext4WithoutJournal,
    /// xfs, which takes 300 MiB at least.
    Xfs,
}

/// What becomes of the journal that is in memory when the power is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    /// It is lost.
    Lost,
    /// It was written a moment before.
    Flushed,
}

/// A mounted file system. Dropped, it is unmounted, also while somebody still has it open.
#[derive(Debug)]
pub struct Disk {
    home: TempDir,
    /// After the first.
    mounts: u32,
}

impl Disk {
    /// With room for that many bytes; the file beneath takes what is written.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(holds: FileSystem, bytes: u64) -> Disk {
        Disk::on(&std::env::temp_dir(), holds, bytes)
    }

    /// As [`Disk::new`], with the file beneath in that directory.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn on(directory: &Path, holds: FileSystem, bytes: u64) -> Disk {
        let home = TempDir::with_prefix_in("darter-disk-", directory).expect("a directory can be made");
        let image = image(&home, 0);
        File::create(&image).and_then(|file| file.set_len(bytes)).expect("an image can be made");
        fs::create_dir(home.path().join("disk")).expect("a directory can be made");
        let mut made = match holds {
            FileSystem::Xfs => Command::new("mkfs.xfs"),
            FileSystem::Ext4 | FileSystem::Ext4WithoutJournal => Command::new("mkfs.ext4"),
        };
        match holds {
            FileSystem::Xfs => made.arg("-q"),
            FileSystem::Ext4 => made.args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0"]),
            FileSystem::Ext4WithoutJournal => {
                made.args(["-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=0"])
            }
        };
        run(made.arg(&image));
        let disk = Disk { home, mounts: 0 };
        disk.mount();
        disk
    }

    /// Where it is mounted.
    pub fn directory(&self) -> PathBuf {
        self.home.path().join("disk")
    }

    /// The file beneath.
    pub fn image(&self) -> PathBuf {
        image(&self.home, self.mounts)
    }

    /// The loop device as the kernel's settings name it: `7:0`.
    ///
    /// # Panics
    /// When it is not mounted.
    pub fn device(&self) -> String {
        let device = fs::metadata(self.directory()).expect("the disk is mounted").dev();
        format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device))
    }

    /// Cuts the file beneath: what lay behind is EIO to read.
    ///
    /// # Panics
    /// When it cannot be cut.
    pub fn cut(&self, bytes: u64) {
        let image = File::options().write(true).open(self.image()).expect("the image is there");
        image.sync_all().expect("the image can be synced");
        image.set_len(bytes).expect("the image can be cut");
    }

    /// From now on nothing reaches the disk, and nothing can be read from it.
    ///
    /// # Panics
    /// When the file system does not take the command.
    pub fn lose_power(&self, journal: Journal) {
        let command = match journal {
            Journal::Lost => "shutdown",
            Journal::Flushed => "shutdown -f",
        };
        run(Command::new("xfs_io").args(["-x", "-c", command]).arg(self.directory()));
    }

    /// Forgets what is in memory, and mounts what is on the disk, which replays the journal. Nobody may have a file
    /// open.
    ///
    /// # Panics
    /// When somebody has, or the file system cannot be mounted.
    pub fn mount_again(&mut self) {
        // A ring of a process that was killed lets its files go a little after the process is gone.
        let mut unmount = Command::new("umount");
        on_path(&mut unmount).arg(self.directory());
        let unmounted = || unmount.output().expect("the program is there").status.success();
        wait_until(Duration::from_secs(30), unmounted, || "the disk stays in use".to_owned());
        // A copy: another test's mount namespace, made meanwhile, would keep the file system as it is, without power,
        // and mounting the same image again would find that one.
        let before = self.image();
        self.mounts += 1;
        run(Command::new("cp").arg("--sparse=always").args([&before, &self.image()]));
        fs::remove_file(before).expect("the image is there");
        self.mount();
    }

    fn mount(&self) {
        run(Command::new("mount").args(["-o", "loop"]).arg(self.image()).arg(self.directory()));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the daemon of a test that failed may still have it open. Not with a panic, which would end a test
        // that is failing already without its message.
        let mut unmount = Command::new("umount");
        let unmounted = on_path(&mut unmount).arg("--lazy").arg(self.directory()).output();
        if !unmounted.is_ok_and(|ran| ran.status.success()) {
            eprintln!("{} stays mounted", self.directory().display());
        }
    }
}

fn image(home: &TempDir, mounts: u32) -> PathBuf {
    home.path().join(format!("image-{mounts}"))
}

/// Runs a program of the system's to its end.
///
/// # Panics
/// With what it says, when it fails.
pub(crate) fn run(command: &mut Command) -> String {
    let ran = on_path(command).output().expect("the program is there");
    assert!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

/// Debian keeps some programs where not every user's path leads.
fn on_path(command: &mut Command) -> &mut Command {
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
}
