//! An image mounted in this process, put together as nydusd does it: RAFS in a VFS behind a FUSE session.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::api::{Vfs, VfsOptions};
use fuse_backend_rs::transport::{FuseChannel, FuseSession};
use nydus_api::ConfigV2;
use nydus_rafs::fs::Rafs;
use rustix::mount::{UnmountFlags, unmount};

/// As many as nydusd starts by default.
const SERVERS: usize = 4;

/// A mounted image. Dropped, also by a panic, it is unmounted.
pub(crate) struct RafsMount {
    session: FuseSession,
    point: PathBuf,
    servers: Vec<JoinHandle<()>>,
}

impl RafsMount {
    /// Mounts the image of `bootstrap` on `point`, with nydusd's configuration file `config`.
    pub(crate) fn new(bootstrap: &Path, config: &str, point: &Path) -> Self {
        let config = Arc::new(ConfigV2::from_str(config).expect("nydusd understands its configuration"));
        let (mut rafs, reader) =
            Rafs::new(&config, "/", bootstrap).expect("nydusd accepts image and backend");
        rafs.import(reader, None).expect("the image has a root");
        let vfs = Arc::new(Vfs::new(VfsOptions::default()));
        vfs.mount(Box::new(rafs), "/").expect("RAFS in a VFS");
        let server = Arc::new(Server::new(vfs));

        let mut session = FuseSession::new(point, "rafs", "", true).expect("a directory to mount on");
        session.mount().expect("root may mount");
        let mut mount = Self { session, point: point.to_owned(), servers: Vec::new() };
        for _ in 0..SERVERS {
            let channel = mount.session.new_channel().expect("a session has channels");
            let server = Arc::clone(&server);
            mount.servers.push(thread::spawn(move || serve(channel, &server)));
        }
        mount
    }
}

impl Drop for RafsMount {
    fn drop(&mut self) {
        // Forced, so that a reader that hangs gets an error; detached, so that it cannot fail as busy.
        let unmounted = unmount(&self.point, UnmountFlags::FORCE | UnmountFlags::DETACH);
        let woken = self.session.wake();
        if thread::panicking() {
            // A server may be busy for minutes with a front that does not answer; it ends with the process.
            return;
        }
        unmounted.expect("what was mounted can be unmounted");
        woken.expect("the servers were told to end");
        for server in self.servers.drain(..) {
            server.join().expect("a FUSE server does not panic");
        }
    }
}

/// Answers requests until the session ends.
fn serve(mut channel: FuseChannel, server: &Server<Arc<Vfs>>) {
    // An error is the end as well: that of a connection that was aborted.
    while let Ok(Some((request, answer))) = channel.get_request() {
        // A request that was interrupted has nobody to answer.
        let _ = server.handle_message(request, answer.into(), None, None);
    }
}
