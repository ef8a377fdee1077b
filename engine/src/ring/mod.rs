//! Reads and writes of files, by io_uring or by a pool of blocking threads.
//!
//! io_uring is denied by the default seccomp profiles of containerd and Docker, so everything that wants it goes
//! through this module, and the daemon works fully with either implementation. [`Backend::probe`] decides at
//! start; [`run_shard`] makes the runtime that belongs to the backend.
//!
//! An operation owns its file, its buffers and whatever else must live until the kernel is done with it (a
//! lease), and gives the buffers back with its result. Dropping the future does not end the operation.
#![allow(unsafe_code, reason = "submission entries point into buffers that the operation owns")]

mod pool;
mod uring;

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::buffer::BlockBuffer;
use crate::device::Device;

/// What does the I/O of a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backend {
    /// io_uring under tokio-uring.
    Ring,
    /// preadv and pwritev on tokio's blocking threads.
    Pool,
    /// A simulated disk's own.
    #[cfg(test)]
    Simulated,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ring => "ring",
            Self::Pool => "pool",
            #[cfg(test)]
            Self::Simulated => "simulated",
        })
    }
}

/// Why io_uring cannot be used here.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The kernel or a seccomp profile refused to make a ring.
    #[error("io_uring is not available: {0} (containerd's and Docker's default seccomp profiles deny it)")]
    Denied(#[source] io::Error),
    /// A ring can be made, but it lacks an operation.
    #[error("this kernel's io_uring lacks vectored reads or writes; Linux 5.6 or newer has them")]
    Lacking,
}

impl Backend {
    /// The ring where it works, with the reason where it does not.
    pub fn probe() -> Result<(), ProbeError> {
        uring::probe()
    }
}

/// Runs a shard's future to its end on this thread, on a runtime with this backend beneath it.
/// `tokio::task::spawn_local` works inside.
pub fn run_shard<F: Future>(backend: Backend, future: F) -> io::Result<F::Output> {
    match backend {
        Backend::Ring => uring::run(future),
        Backend::Pool => pool::run(future),
        #[cfg(test)]
        Backend::Simulated => pool::run(future),
    }
}

/// Bytes on their way to a file, with what must live until they are there.
pub(crate) struct WriteOp<G> {
    pub(crate) file: Arc<Device>,
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<Bytes>,
    /// Dropped when the kernel is done, even if nobody waits any more.
    pub(crate) guard: G,
}

/// Writes all bytes, one after the other, from `offset` on.
pub(crate) async fn write<G: Send + 'static>(backend: Backend, op: WriteOp<G>) -> io::Result<()> {
    match backend {
        Backend::Ring => uring::write(op).await,
        Backend::Pool => pool::write(op).await,
        #[cfg(test)]
        Backend::Simulated => crate::simulation::write(op).await,
    }
}

/// A read into block buffers, filled one after the other from `offset` on.
pub(crate) struct ReadOp<G> {
    pub(crate) file: Arc<Device>,
    pub(crate) offset: u64,
    /// Bytes wanted; the buffers have room for them.
    pub(crate) bytes: usize,
    pub(crate) buffers: Vec<BlockBuffer>,
    /// Dropped when the kernel is done, even if nobody waits any more.
    pub(crate) guard: G,
}

/// Fills the buffers; an end of file before that is an error.
pub(crate) async fn read<G: Send + 'static>(backend: Backend, op: ReadOp<G>) -> io::Result<Vec<BlockBuffer>> {
    match backend {
        Backend::Ring => uring::read(op).await,
        Backend::Pool => pool::read(op).await,
        #[cfg(test)]
        Backend::Simulated => crate::simulation::read(op).await,
    }
}

fn short_read() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the slab ends before the block does")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::BlockPool;
    use crate::layout::BLOCK_BYTES;

    fn check_round_trip(backend: Backend) {
        let file = Arc::new(Device::from(tempfile::tempfile().unwrap()));
        let guard = Arc::new(());
        let bytes: Vec<Bytes> = (1..=5u8).map(|fill| Bytes::from(vec![fill; 50_000])).collect();
        let flat: Vec<u8> = bytes.concat();
        run_shard(backend, async {
            let op = WriteOp { file: file.clone(), offset: 7, bytes, guard };
            write(backend, op).await.unwrap();
            let pool = BlockPool::new(8);
            let buffers = (0..4).map(|_| pool.try_take().unwrap()).collect();
            let op = ReadOp { file: file.clone(), offset: 7, bytes: flat.len(), buffers, guard: () };
            let filled = read(backend, op).await.unwrap();
            let seen: Vec<u8> = filled.iter().flat_map(|buffer| buffer.as_ref().to_vec()).collect();
            assert_eq!(seen[..flat.len()], flat);
            let buffers = (0..4).map(|_| pool.try_take().unwrap()).collect();
            let beyond = ReadOp {
                file: file.clone(),
                offset: 200_000,
                bytes: 4 * BLOCK_BYTES as usize,
                buffers,
                guard: (),
            };
            assert_eq!(read(backend, beyond).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        })
        .unwrap();
    }

    #[test]
    fn the_pool_writes_and_reads() {
        check_round_trip(Backend::Pool);
    }

    #[test]
    fn the_ring_writes_and_reads() {
        match Backend::probe() {
            Ok(()) => check_round_trip(Backend::Ring),
            Err(reason) => eprintln!("SKIPPED: the_ring_writes_and_reads: {reason}"),
        }
    }

    #[test]
    fn a_runtime_ends_only_when_the_kernel_is_done() {
        if Backend::probe().is_err() {
            return eprintln!("SKIPPED: a ring is needed");
        }
        for _ in 0..50 {
            let file = Arc::new(Device::from(tempfile::tempfile().unwrap()));
            let guard = Arc::new(());
            run_shard(Backend::Ring, async {
                let bytes = vec![Bytes::from(vec![1; 1 << 20])];
                let op = WriteOp { file: file.clone(), offset: 0, bytes, guard: guard.clone() };
                let mut write = Box::pin(write(Backend::Ring, op));
                tokio::select! { biased; _ = &mut write => {}, () = std::future::ready(()) => {} }
            })
            .unwrap();
            assert_eq!((Arc::strong_count(&guard), file.length_bytes().unwrap()), (1, 1 << 20));
        }
    }

    #[test]
    fn a_write_that_nobody_waits_for_keeps_its_guard_until_it_is_done() {
        if Backend::probe().is_err() {
            return eprintln!("SKIPPED: a ring is needed");
        }
        let file = Arc::new(Device::from(tempfile::tempfile().unwrap()));
        let guard = Arc::new(());
        run_shard(Backend::Ring, async {
            let bytes = vec![Bytes::from(vec![1; 1 << 20])];
            let op = WriteOp { file: file.clone(), offset: 0, bytes, guard: guard.clone() };
            let mut write = Box::pin(write(Backend::Ring, op));
            tokio::select! { biased; _ = &mut write => {}, () = tokio::task::yield_now() => {} }
            drop(write);
            while Arc::strong_count(&guard) > 1 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        })
        .unwrap();
        assert_eq!(file.length_bytes().unwrap(), 1 << 20);
    }
}
