//! The body of an answer: a part of a blob, read, shaped, damaged and counted chunk by chunk.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};

use super::ledger::Entry;
use super::service::Service;
use super::{Blob, Faults};

/// What is read and sent at once. Small enough for even shaping at a few MB/s, large enough for GB/s.
const CHUNK_BYTES: u64 = 64 << 10;

/// How long a cut waits, so that the bytes before it leave: hyper drops what it has buffered when a body
/// fails, and flushes while the body is pending.
const CUT_DELAY: Duration = Duration::from_millis(20);

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body in memory, counted at once.
pub(super) fn full(bytes: Bytes, entry: &Entry) -> Body {
    entry.sent(bytes.len() as u64);
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

pub(super) fn empty() -> Body {
    Full::default().map_err(|never| match never {}).boxed_unsync()
}

/// `range` of `blob`, with the faults that concern bodies.
pub(super) fn part(
    service: Arc<Service>,
    blob: Blob,
    range: Range<u64>,
    faults: Faults,
    entry: Entry,
) -> Body {
    let sending = Sending { service, blob, sent: 0, range, faults, entry };
    StreamBody::new(stream::try_unfold(sending, async |mut sending| {
        let chunk = sending.next().await?;
        Ok(chunk.map(|chunk| (Frame::data(chunk), sending)))
    }))
    .boxed_unsync()
}

struct Sending {
    service: Arc<Service>,
    blob: Blob,
    /// What is left of it.
    range: Range<u64>,
    sent: u64,
    faults: Faults,
    entry: Entry,
}

impl Sending {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut size = CHUNK_BYTES.min(self.range.end - self.range.start);
        if size == 0 {
            return Ok(None);
        }
        if let Some(limit) = self.faults.stall_after {
            size = size.min(limit.saturating_sub(self.sent));
            if size == 0 {
                return std::future::pending().await;
            }
        }
        if let Some(limit) = self.faults.cut_body_after {
            size = size.min(limit.saturating_sub(self.sent));
            if size == 0 {
                tokio::time::sleep(CUT_DELAY).await;
                return Err(io::Error::other("the body is cut here"));
            }
        }
        let chunk = self.read(size)?;
        self.service.paced(size).await;
        self.range.start += size;
        self.sent += size;
        self.entry.sent(size);
        Ok(Some(chunk))
    }

    /// Reads on the registry's only thread: its files are in the page cache of whoever put them there, and a
    /// slow registry is no harm here.
    fn read(&self, size: u64) -> io::Result<Bytes> {
        let mut chunk = vec![0; size as usize];
        self.blob.read_exact_at(&mut chunk, self.range.start)?;
        if let Some(index) = self.faults.flip_byte_at.and_then(|offset| offset.checked_sub(self.range.start))
            && let Some(byte) = chunk.get_mut(index as usize)
        {
            *byte = !*byte;
        }
        Ok(chunk.into())
    }
}
