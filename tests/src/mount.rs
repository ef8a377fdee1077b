//! File systems with a shortcoming. Needs root.

use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};

/// Something mounted on a directory, until dropped.
#[derive(Debug)]
pub struct Mounted {
    directory: PathBuf,
}

impl Mounted {
    /// An empty file system in memory with room for that many bytes.
    pub fn tmpfs(directory: &Path, bytes: u64) -> Mounted {
        let size = std::ffi::CString::new(format!("size={bytes}")).expect("digits only");
        mount("darter-test", directory, "tmpfs", MountFlags::empty(), size.as_c_str())
            .expect("root may mount");
        Mounted { directory: directory.to_owned() }
    }

    /// The directory itself, but nobody may write.
    pub fn read_only(directory: &Path) -> Mounted {
        mount_bind(directory, directory).expect("root may mount");
        let mounted = Mounted { directory: directory.to_owned() };
        // A bind mount takes no flags of its own at first; only its remount does.
        mount_remount(directory, MountFlags::BIND | MountFlags::RDONLY, "").expect("root may remount");
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Detached, so that a file somebody still holds open does not keep it in the tree.
        unmount(&self.directory, UnmountFlags::DETACH).expect("what was mounted can be unmounted");
    }
}
