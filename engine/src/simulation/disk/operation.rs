//! Operations of shards, which end when the simulation lets them.

use std::any::Any;
use std::future::poll_fn;
use std::io;
use std::task::Poll;

use bytes::Bytes;

use super::{Disk, SimulatedFile};
use crate::buffer::BlockBuffer;
use crate::device::Device;
use crate::ring::{ReadOp, WriteOp};

/// What the kernel has begun.
pub(super) struct InFlight {
    pub(super) ticket: u64,
    pub(super) file: usize,
    pub(super) offset: u64,
    pub(super) work: Work,
}

pub(super) enum Work {
    Write { bytes: Vec<Bytes>, guard: Box<dyn Any + Send> },
    Read { bytes: usize, buffers: Vec<BlockBuffer>, guard: Box<dyn Any + Send> },
}

pub(super) enum Outcome {
    Wrote(io::Result<()>),
    Read(io::Result<Vec<BlockBuffer>>),
}

/// Whoever waits for an operation. It goes on without.
pub(super) struct Ticket {
    pub(super) disk: Disk,
    pub(super) number: u64,
}

impl Ticket {
    async fn outcome(&self) -> Outcome {
        poll_fn(|_| match self.disk.state().results.remove(&self.number) {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        })
        .await
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let unheard = {
            let mut state = self.disk.state();
            state.waiting.remove(&self.number);
            state.results.remove(&self.number)
        };
        drop(unheard);
    }
}

fn simulated(device: &Device) -> &SimulatedFile {
    match device {
        Device::Simulated(file) => file,
        Device::File(_) => unreachable!("the simulated backend is for simulated files"),
    }
}

/// Begins a write, which ends when the simulation lets it.
pub(crate) async fn write<G: Send + 'static>(op: WriteOp<G>) -> io::Result<()> {
    let file = simulated(&op.file).clone();
    let work = Work::Write { bytes: op.bytes, guard: Box::new(op.guard) };
    match file.disk.submit(file.number, op.offset, work).outcome().await {
        Outcome::Wrote(result) => result,
        Outcome::Read(_) => unreachable!("a write ends as one"),
    }
}

/// Begins a read, which ends when the simulation lets it.
pub(crate) async fn read<G: Send + 'static>(op: ReadOp<G>) -> io::Result<Vec<BlockBuffer>> {
    let file = simulated(&op.file).clone();
    let work = Work::Read { bytes: op.bytes, buffers: op.buffers, guard: Box::new(op.guard) };
    match file.disk.submit(file.number, op.offset, work).outcome().await {
        Outcome::Read(result) => result,
        Outcome::Wrote(_) => unreachable!("a read ends as one"),
    }
}
