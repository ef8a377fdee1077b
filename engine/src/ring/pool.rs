//! The same operations with preadv and pwritev on tokio's blocking threads.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

use rustix::io::{preadv, pwritev};
use tokio::sync::Semaphore;

use super::{ReadOp, WriteOp, short_read};
use crate::buffer::BlockBuffer;
use crate::device::Device;

/// Blocking threads of one shard: writes stall for 0.6–0.8 ms, so a few suffice.
const THREADS_MAX: usize = 8;
/// Of them that writes may take: a disk that takes nothing would stop reads and the resolver, which wait for it no
/// longer than they need.
const WRITES_MAX: usize = THREADS_MAX / 2;

thread_local! {
    /// The shard's, which is a thread.
    static WRITES: Arc<Semaphore> = Arc::new(Semaphore::new(WRITES_MAX));
}

pub(super) fn run<F: Future>(future: F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(THREADS_MAX)
        .build()?;
    Ok(tokio::task::LocalSet::new().block_on(&runtime, future))
}

pub(super) async fn write<G: Send + 'static>(op: WriteOp<G>) -> io::Result<()> {
    let place = WRITES.with(Arc::clone).acquire_owned().await.map_err(io::Error::other)?;
    blocking(move || {
        // Both are the thread's until the write is done, whether anyone waits for it or not; and all of `op`, of
        // which a closure takes by itself only the fields that it names.
        let _place = place;
        let op = op;
        let mut slices: Vec<IoSlice<'_>> = op.bytes.iter().map(|bytes| IoSlice::new(bytes)).collect();
        let mut rest = slices.as_mut_slice();
        let mut offset = op.offset;
        while !rest.is_empty() {
            let written = retry(|| pwritev(&*op.file, rest, offset))?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            offset += written as u64;
            IoSlice::advance_slices(&mut rest, written);
        }
        Ok(())
    })
    .await
}

pub(super) async fn read<G: Send + 'static>(mut op: ReadOp<G>) -> io::Result<Vec<BlockBuffer>> {
    blocking(move || {
        let read = read_blocking(&op.file, &mut op.buffers, op.bytes, op.offset);
        drop(op.guard);
        read?;
        Ok(op.buffers)
    })
    .await
}

fn read_blocking(file: &Device, buffers: &mut [BlockBuffer], bytes: usize, offset: u64) -> io::Result<()> {
    let mut left = bytes;
    let mut slices: Vec<IoSliceMut<'_>> = Vec::with_capacity(buffers.len());
    for buffer in buffers {
        let slice = buffer.as_mut_slice();
        let part = left.min(slice.len());
        slices.push(IoSliceMut::new(&mut slice[..part]));
        left -= part;
    }
    let mut rest = slices.as_mut_slice();
    let mut offset = offset;
    while rest.iter().any(|slice| !slice.is_empty()) {
        let seen = retry(|| preadv(file, rest, offset))?;
        if seen == 0 {
            return Err(short_read());
        }
        offset += seen as u64;
        IoSliceMut::advance_slices(&mut rest, seen);
    }
    Ok(())
}

fn retry(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(gone) => Err(io::Error::other(gone)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::thread::{self, ThreadId};
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::buffer::BlockPool;

    /// A write ends when it lets this go, which is not before the disk goes on.
    struct Stuck(Arc<AtomicBool>);

    impl Drop for Stuck {
        fn drop(&mut self) {
            while !self.0.load(Ordering::SeqCst) {
                thread::yield_now();
            }
        }
    }

    /// Tells which thread let it go.
    struct Told(mpsc::Sender<ThreadId>);

    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send(thread::current().id());
        }
    }

    #[test]
    fn a_write_that_nobody_waits_for_keeps_its_guard() {
        let file = Arc::new(Device::from(tempfile::tempfile().unwrap()));
        let (tell, told) = mpsc::channel();
        run(async {
            let bytes = vec![Bytes::from(vec![1; 1 << 20])];
            let op = WriteOp { file: file.clone(), offset: 0, bytes, guard: Told(tell) };
            let mut write = Box::pin(write(op));
            tokio::select! { biased; _ = &mut write => panic!("it is not done at once"), () = std::future::ready(()) => {} }
        })
        .unwrap();
        assert_ne!(told.recv().unwrap(), thread::current().id(), "not the one that waited for it");
        assert_eq!(file.length_bytes().unwrap(), 1 << 20);
    }

    #[test]
    fn reads_do_not_wait_behind_writes_that_are_stuck() {
        let file = Arc::new(Device::from(tempfile::tempfile().unwrap()));
        let goes_on = Arc::new(AtomicBool::new(false));
        run(async {
            let writes: Vec<_> = (0..2 * THREADS_MAX as u64)
                .map(|number| {
                    let bytes = vec![Bytes::from(vec![number as u8; 100])];
                    let guard = Stuck(goes_on.clone());
                    let op = WriteOp { file: file.clone(), offset: number * 100, bytes, guard };
                    tokio::task::spawn_local(write(op))
                })
                .collect();
            let written = async {
                while file.length_bytes().unwrap() < 100 * WRITES_MAX as u64 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let reading = async {
                written.await;
                let buffers = vec![BlockPool::new(1).take().await];
                read(ReadOp { file: file.clone(), offset: 0, bytes: 100, buffers, guard: () }).await
            };
            let read = tokio::time::timeout(Duration::from_secs(20), reading).await;
            goes_on.store(true, Ordering::SeqCst);
            assert_eq!(read.expect("a thread is free").unwrap()[0].as_ref()[..100], [0; 100]);
            for write in writes {
                write.await.unwrap().unwrap();
            }
            assert_eq!(file.length_bytes().unwrap(), 200 * THREADS_MAX as u64);
        })
        .unwrap();
    }
}
