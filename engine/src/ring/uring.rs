//! The operations on tokio-uring, with entries of our own where it has no method for them.

use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

use super::{ProbeError, ReadOp, WriteOp, short_read};
use crate::buffer::BlockBuffer;

/// IOV_MAX.
const VECTORS_MAX: usize = 1024;
/// Submission entries of one shard; tokio-uring flushes when they are used up.
const ENTRIES: u32 = 256;

pub(super) fn probe() -> Result<(), ProbeError> {
    let ring = IoUring::new(ENTRIES).map_err(ProbeError::Denied)?;
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|_| ProbeError::Lacking)?;
    let supported = [opcode::Writev::CODE, opcode::Readv::CODE, opcode::Fsync::CODE]
        .into_iter()
        .all(|code| probe.is_supported(code));
    if supported { Ok(()) } else { Err(ProbeError::Lacking) }
}

pub(super) fn run<F: Future>(future: F) -> io::Result<F::Output> {
    let runtime = Draining(tokio_uring::Runtime::new(tokio_uring::builder().entries(ENTRIES))?);
    Ok(runtime.0.block_on(future))
}

/// A runtime that ends only when the kernel is done with every operation. tokio-uring's own end frees the data of
/// operations whose futures were dropped before it waits for them: the kernel would go on reading and writing there.
struct Draining(tokio_uring::Runtime);

impl Drop for Draining {
    fn drop(&mut self) {
        const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(1);
        while IN_FLIGHT.with(Rc::strong_count) > 1 {
            self.0.block_on(async { tokio::time::sleep(LOOK_EVERY).await });
        }
    }
}

thread_local! {
    /// Each operation of this thread holds a count until the kernel is done with it.
    static IN_FLIGHT: Rc<()> = Rc::new(());
}

/// The result of an entry with the data that it pointed into.
struct WithData<D>(std::marker::PhantomData<D>);

impl<D: 'static> OneshotOutputTransform for WithData<D> {
    type Output = (io::Result<usize>, D);
    type StoredData = D;

    fn transform_oneshot_output(self, data: D, entry: cqueue::Entry) -> Self::Output {
        let result = entry.result();
        let result =
            usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.saturating_neg()));
        (result, data)
    }
}

/// Submits the entry. `data` owns everything that the entry points into.
async fn submit<D: Unpin + 'static>(data: D, entry: squeue::Entry) -> (io::Result<usize>, D) {
    let counted = (data, IN_FLIGHT.with(Rc::clone));
    let (result, (data, _)) =
        UnsubmittedOneshot::new(counted, WithData(std::marker::PhantomData), entry).submit().await;
    (result, data)
}

/// iovecs that stay where they are until the operation is done.
struct Vectors(Box<[libc::iovec]>);

impl Vectors {
    /// Over parts of `(address, bytes)`, without the first `skip` bytes; as many as one operation may have, the
    /// caller's loop does the rest.
    fn over(parts: impl Iterator<Item = (*const u8, usize)>, mut skip: usize) -> Self {
        let vectors = parts.filter_map(|(address, bytes)| {
            let passed = skip.min(bytes);
            skip -= passed;
            let base = address.wrapping_add(passed).cast_mut().cast();
            (passed < bytes).then_some(libc::iovec { iov_base: base, iov_len: bytes - passed })
        });
        Self(vectors.take(VECTORS_MAX).collect())
    }
}

pub(super) async fn write<G: Send + 'static>(mut op: WriteOp<G>) -> io::Result<()> {
    let total: usize = op.bytes.iter().map(|bytes| bytes.len()).sum();
    let mut done = 0;
    while done < total {
        let vectors = Vectors::over(op.bytes.iter().map(|bytes| (bytes.as_ptr(), bytes.len())), done);
        // A buffered write would stall the shard for 0.6–0.8 ms: IOSQE_ASYNC hands it to a kernel worker. The
        // pointers stay good because the data tuple owns the vectors and the bytes (whose heap places do not
        // move with it), and tokio-uring keeps that tuple until completion even if this future is dropped. When the
        // runtime ends, `Draining` waits for it.
        let entry =
            opcode::Writev::new(types::Fd(op.file.as_raw_fd()), vectors.0.as_ptr(), vectors.0.len() as u32)
                .offset(op.offset + done as u64)
                .build()
                .flags(squeue::Flags::ASYNC);
        let (result, (back, _)) = submit((Box::new(op), vectors), entry).await;
        op = *back;
        match result {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(bytes) => done += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    drop(op.guard);
    Ok(())
}

pub(super) async fn read<G: Send + 'static>(mut op: ReadOp<G>) -> io::Result<Vec<BlockBuffer>> {
    let mut done = 0;
    while done < op.bytes {
        let mut left = op.bytes;
        let parts = op.buffers.iter_mut().map(|buffer| {
            let slice = buffer.as_mut_slice();
            let bytes = left.min(slice.len());
            left -= bytes;
            (slice.as_mut_ptr().cast_const(), bytes)
        });
        let vectors = Vectors::over(parts, done);
        // As above: the tuple owns what the entry points into. The buffers are uniquely ours until they come back.
        let entry =
            opcode::Readv::new(types::Fd(op.file.as_raw_fd()), vectors.0.as_ptr(), vectors.0.len() as u32)
                .offset(op.offset + done as u64)
                .build();
        let (result, (back, _)) = submit((Box::new(op), vectors), entry).await;
        op = *back;
        match result {
            Ok(0) => return Err(short_read()),
            Ok(bytes) => done += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    drop(op.guard);
    Ok(op.buffers)
}
