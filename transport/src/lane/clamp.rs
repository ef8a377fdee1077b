//! quinn's UDP socket, with batches that the kernel takes, and counts.
//!
//! quinn hands up to ten datagrams to one call (generic segmentation offload), however long they are. A batch above
//! 64 KiB is refused whole: at an MTU above 6500 every batch would be lost, and quinn would fall back to 1200 bytes.
//! So a batch that is too long goes out in parts, and from then on quinn is told of fewer segments.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::quic::MTU_BYTES_MAX;

/// The longest UDP payload on IPv4: 65535 less 20 and 8 bytes of headers.
const BATCH_BYTES_MAX: usize = 65_507;
/// As many as quinn itself would send.
const SEGMENTS_MAX: usize = 10;

/// Packets that came to a socket.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PacketCounts {
    /// All of them.
    pub received: u64,
    /// Those that belong to a connection of another shard, and are lost.
    pub misdirected: u64,
}

#[derive(Debug)]
pub(super) struct ClampedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    shard: u8,
    /// The longest segment that has gone out in a batch.
    segment_bytes: AtomicUsize,
    received: AtomicU64,
    misdirected: AtomicU64,
}

impl ClampedSocket {
    pub(super) fn new(inner: Arc<dyn AsyncUdpSocket>, shard: u8) -> Self {
        let (received, misdirected) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { inner, shard, segment_bytes: AtomicUsize::new(1), received, misdirected }
    }

    pub(super) fn counts(&self) -> PacketCounts {
        PacketCounts {
            received: self.received.load(Ordering::Relaxed),
            misdirected: self.misdirected.load(Ordering::Relaxed),
        }
    }

    fn count(&self, buffer: &[u8], meta: &RecvMeta) {
        let packets = buffer[..meta.len].chunks(meta.stride.max(1));
        // Only in short headers the id is surely one that we issued.
        let elsewhere = |packet: &&[u8]| matches!(packet, [first, shard, ..] if first & 0x80 == 0 && *shard != self.shard);
        self.received.fetch_add(packets.len() as u64, Ordering::Relaxed);
        let misdirected = packets.filter(elsewhere).count();
        if misdirected > 0 {
            self.misdirected.fetch_add(misdirected as u64, Ordering::Relaxed);
        }
    }
}

impl AsyncUdpSocket for ClampedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(segment_bytes) = transmit.segment_size else { return self.inner.try_send(transmit) };
        self.segment_bytes.fetch_max(segment_bytes, Ordering::Relaxed);
        if transmit.contents.len() <= BATCH_BYTES_MAX {
            return self.inner.try_send(transmit);
        }
        // Once per growth of the MTU. When a later part finds the socket full, quinn sends the whole batch again, and
        // the other side drops what it has already.
        let part_bytes = BATCH_BYTES_MAX / segment_bytes * segment_bytes;
        transmit.contents.chunks(part_bytes.max(segment_bytes)).try_for_each(|contents| {
            let segment_size = (contents.len() > segment_bytes).then_some(segment_bytes);
            self.inner.try_send(&Transmit { contents, segment_size, ..*transmit })
        })
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = ready!(self.inner.poll_recv(cx, bufs, meta))?;
        bufs.iter().zip(meta.iter()).take(received).for_each(|(buffer, meta)| self.count(buffer, meta));
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        let fitting = BATCH_BYTES_MAX / self.segment_bytes.load(Ordering::Relaxed);
        self.inner.max_transmit_segments().min(SEGMENTS_MAX).min(fitting.max(1))
    }

    fn max_receive_segments(&self) -> usize {
        // quinn makes room for so many of the longest packets, and 32 times that; the kernel joins at most 64 KiB.
        self.inner.max_receive_segments().min(BATCH_BYTES_MAX.div_ceil(MTU_BYTES_MAX.into()))
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Takes what the kernel would take, and writes it down.
    #[derive(Debug, Default)]
    struct Kernel(Mutex<Vec<(usize, Option<usize>)>>);

    impl AsyncUdpSocket for Kernel {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            unreachable!("nothing waits here")
        }

        fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
            assert!(transmit.contents.len() <= BATCH_BYTES_MAX, "EMSGSIZE");
            self.0.lock().expect("unpoisoned").push((transmit.contents.len(), transmit.segment_size));
            Ok(())
        }

        fn poll_recv(
            &self,
            _cx: &mut Context<'_>,
            _bufs: &mut [IoSliceMut<'_>],
            _meta: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn max_transmit_segments(&self) -> usize {
            64
        }
    }

    #[test]
    fn a_batch_is_no_longer_than_the_kernel_takes() {
        let check = |segment: usize, bytes: usize, sent: &[(usize, Option<usize>)], afterwards: usize| {
            let kernel = Arc::new(Kernel::default());
            let socket = ClampedSocket::new(kernel.clone(), 0);
            assert_eq!(socket.max_transmit_segments(), SEGMENTS_MAX);
            let contents = vec![0; bytes];
            let destination = "127.0.0.1:1".parse().expect("an address");
            let segment_size = (bytes > segment).then_some(segment);
            let batch = Transmit { destination, ecn: None, contents: &contents, segment_size, src_ip: None };
            socket.try_send(&batch).expect("taken");
            assert_eq!(*kernel.0.lock().expect("unpoisoned"), sent);
            assert_eq!(socket.max_transmit_segments(), afterwards, "{segment}");
        };
        check(1472, 14_720, &[(14_720, Some(1472))], 10);
        check(6550, 65_500, &[(65_500, Some(6550))], 10);
        check(6551, 65_510, &[(58_959, Some(6551)), (6551, None)], 9);
        check(8972, 89_720, &[(62_804, Some(8972)), (26_916, Some(8972))], 7);
        check(8972, 80_000, &[(62_804, Some(8972)), (17_196, Some(8972))], 7);
        check(60_000, 120_000, &[(60_000, None), (60_000, None)], 1);
        // A probe of the MTU is alone, and says nothing yet.
        check(8972, 8972, &[(8972, None)], 10);
    }
}
