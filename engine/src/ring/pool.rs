//! The same operations with preadv and pwritev on tokio's blocking threads.

use std::io::{self, IoSlice, IoSliceMut};

use rustix::io::{preadv, pwritev};

use super::{ReadOp, WriteOp, short_read};
use crate::buffer::BlockBuffer;
use crate::device::Device;

/// Blocking threads of one shard: writes stall for 0.6–0.8 ms, so a few suffice.
const THREADS_MAX: usize = 8;

pub(super) fn run<F: Future>(future: F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(THREADS_MAX)
        .build()?;
    Ok(tokio::task::LocalSet::new().block_on(&runtime, future))
}

pub(super) async fn write<G: Send + 'static>(op: WriteOp<G>) -> io::Result<()> {
    blocking(move || {
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

pub(super) async fn read(mut op: ReadOp) -> io::Result<Vec<BlockBuffer>> {
    blocking(move || {
        read_blocking(&op.file, &mut op.buffers, op.bytes, op.offset)?;
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
