//! The `records` file: which of its two places each record goes to, and the one sequential read at start.
//!
//! Used by the keeper's thread only, with blocking calls.

use std::io;

use crate::device::Device;
use crate::format::{
    CONTENT_RECORD_BYTES, ContentRecord, Copy, Geometry, Header, SESSION_OFFSET, SLOT_RECORD_BYTES, Session,
    SlotRecord,
};

/// Records read at a time at start: 1 MiB of each copy of the slot table.
const RECORDS_PER_READ: u32 = 4096;

/// The file with what is known of it in memory: two bits for each record.
#[derive(Debug)]
pub(crate) struct Records {
    device: Device,
    geometry: Geometry,
    store_id: u64,
    sequence: u64,
    newest_slot: Vec<Copy>,
    newest_content: Vec<Copy>,
}

impl Records {
    pub(crate) fn new(device: Device, header: &Header) -> Self {
        let geometry = header.geometry;
        Self {
            device,
            geometry,
            store_id: header.store_id,
            sequence: 0,
            newest_slot: vec![Copy::B; geometry.slots() as usize],
            newest_content: vec![Copy::B; geometry.contents() as usize],
        }
    }

    /// Reads both tables in order. Contents come before slots; each record is the newest valid one of its place,
    /// and places without a valid record are passed over.
    pub(crate) fn load(&mut self, mut content: impl FnMut(ContentRecord), mut slot: impl FnMut(SlotRecord)) {
        let (geometry, store_id) = (self.geometry, self.store_id);
        self.load_table::<CONTENT_RECORD_BYTES, _>(
            geometry.contents(),
            Geometry::content_offset,
            |bytes, index| {
                let record = ContentRecord::decode(bytes, index, store_id)?;
                Some((record.sequence, record))
            },
            |records, copy, record| {
                records.newest_content[record.index as usize] = copy;
                content(record);
            },
        );
        self.load_table::<SLOT_RECORD_BYTES, _>(
            geometry.slots(),
            Geometry::slot_offset,
            |bytes, index| {
                let record = SlotRecord::decode(bytes, index, store_id)?;
                Some((record.sequence, record))
            },
            |records, copy, record| {
                records.newest_slot[record.index as usize] = copy;
                slot(record);
            },
        );
    }

    /// Reads one table's two copies side by side; each is one sequential stream.
    fn load_table<const BYTES: usize, R>(
        &mut self,
        count: u32,
        offset: fn(Geometry, Copy, u32) -> u64,
        decode: impl Fn(&[u8; BYTES], u32) -> Option<(u64, R)>,
        mut found: impl FnMut(&mut Self, Copy, R),
    ) {
        let mut chunks = [Vec::new(), Vec::new()];
        for first in (0..count).step_by(RECORDS_PER_READ as usize) {
            let here = RECORDS_PER_READ.min(count - first);
            for (chunk, copy) in chunks.iter_mut().zip([Copy::A, Copy::B]) {
                chunk.resize(here as usize * BYTES, 0);
                read_what_can_be_read(&self.device, chunk, offset(self.geometry, copy, first));
            }
            for index in 0..here {
                let record = |chunk: &[u8]| {
                    let bytes = chunk[index as usize * BYTES..].first_chunk::<BYTES>()?;
                    decode(bytes, first + index)
                };
                let newest = match (record(&chunks[0]), record(&chunks[1])) {
                    (Some(a), Some(b)) if b.0 > a.0 => Some((Copy::B, b)),
                    (Some(a), _) => Some((Copy::A, a)),
                    (None, b) => b.map(|b| (Copy::B, b)),
                };
                if let Some((copy, (sequence, record))) = newest {
                    self.sequence = self.sequence.max(sequence);
                    found(self, copy, record);
                }
            }
        }
    }

    /// Writes a content's record to the place that does not hold its newest one. Durable after [`Self::sync`].
    pub(crate) fn write_content(&mut self, record: impl FnOnce(u64) -> ContentRecord) -> io::Result<()> {
        let record = record(self.next_sequence());
        let newest = &mut self.newest_content[record.index as usize];
        *newest = newest.other();
        let offset = self.geometry.content_offset(*newest, record.index);
        self.device.write_all_at(&record.encode(self.store_id), offset)
    }

    /// Writes a slot's record to the place that does not hold its newest one. Durable after [`Self::sync`].
    pub(crate) fn write_slot(&mut self, mut record: SlotRecord) -> io::Result<()> {
        record.sequence = self.next_sequence();
        let newest = &mut self.newest_slot[record.index as usize];
        *newest = newest.other();
        let offset = self.geometry.slot_offset(*newest, record.index);
        self.device.write_all_at(&record.encode(self.store_id), offset)
    }

    /// The newest record of a slot, if there is a valid one.
    pub(crate) fn read_slot(&self, index: u32) -> io::Result<Option<SlotRecord>> {
        let mut bytes = [0; SLOT_RECORD_BYTES];
        let newest = self.newest_slot[index as usize];
        self.device.read_exact_at(&mut bytes, self.geometry.slot_offset(newest, index))?;
        Ok(SlotRecord::decode(&bytes, index, self.store_id))
    }

    /// After an error the page cache is not believed either: a daemon that is started again, with the power still on,
    /// would take for durable what no later sync writes.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.device.sync_data().inspect_err(|_| self.device.forget_cached())
    }

    pub(crate) fn write_session(&self, session: Session) -> io::Result<()> {
        self.device.write_all_at(&session.encode(self.store_id), SESSION_OFFSET)?;
        self.sync()
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }
}

/// Fills the buffer. Where the disk refuses, by pages: a bad one reads as zeros, which are no records.
fn read_what_can_be_read(device: &Device, buffer: &mut [u8], offset: u64) {
    const PAGE_BYTES: usize = 4096;
    if device.read_exact_at(buffer, offset).is_ok() {
        return;
    }
    for (page, at) in buffer.chunks_mut(PAGE_BYTES).zip((offset..).step_by(PAGE_BYTES)) {
        if let Err(error) = device.read_exact_at(page, at) {
            tracing::warn!(at, %error, "a page of records cannot be read; its pieces are fetched again");
            page.fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content_id::ContentId;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    fn record(index: u32, piece: u32) -> SlotRecord {
        SlotRecord {
            index,
            sequence: 0,
            tenure: 1,
            content: 0,
            id: ContentId::of_name("x"),
            piece,
            generation: 1,
            held: true,
            presence: 1,
            crc32: [0; 4],
            blake3: [[0; 32]; 4],
        }
    }

    fn load(file: &File, header: &Header) -> Vec<SlotRecord> {
        let mut slots = vec![];
        Records::new(file.try_clone().unwrap().into(), header).load(|_| {}, |slot| slots.push(slot));
        slots
    }

    #[test]
    fn a_torn_write_costs_only_the_change_that_it_carried() {
        let header =
            Header { geometry: Geometry::for_capacity(16 << 20).unwrap(), store_id: 5, made_at_s: 0 };
        let file = tempfile::tempfile().unwrap();
        file.set_len(header.geometry.records_bytes()).unwrap();
        let mut records = Records::new(file.try_clone().unwrap().into(), &header);
        records.write_slot(record(9, 1)).unwrap();
        records.write_slot(record(9, 2)).unwrap();
        assert_eq!(load(&file, &header)[0].piece, 2);
        let newest = header.geometry.slot_offset(records.newest_slot[9], 9);
        file.write_all_at(&[0xff; 100], newest + 100).unwrap();
        let found = load(&file, &header);
        assert_eq!((found.len(), found[0].piece), (1, 1));
    }

    #[test]
    fn writing_goes_on_after_a_start_without_touching_the_newest_record() {
        let header =
            Header { geometry: Geometry::for_capacity(16 << 20).unwrap(), store_id: 5, made_at_s: 0 };
        let file = tempfile::tempfile().unwrap();
        file.set_len(header.geometry.records_bytes()).unwrap();
        for piece in 1..6 {
            let mut records = Records::new(file.try_clone().unwrap().into(), &header);
            records.load(|_| {}, |_| {});
            records.write_slot(record(9, piece)).unwrap();
            assert_eq!(records.sequence(), u64::from(piece));
            assert_eq!(records.read_slot(9).unwrap().unwrap().piece, piece);
            assert_eq!(load(&file, &header)[0].piece, piece);
        }
    }
}
