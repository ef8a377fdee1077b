//! The records of a store that is full, written into one that is empty: by the engine's own format, so that a start
//! reads what it would read after years.
//!
//! All contents are whole, proved and of one length, and every byte of them is zero, which is what preallocated slabs
//! read as.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, ensure};
use darter_engine::format::{
    CONTENT_RECORD_BYTES, ContentRecord, Copy, Geometry, HEADER_BYTES, Header, SLOT_RECORD_BYTES, SlotRecord,
};
use darter_engine::{BLOCK_BYTES, ContentId, Naming, PIECE_BYTES, RegistryScope};

/// Length of each content: a large layer.
pub(crate) const CONTENT_BYTES: u64 = 256 << 20;
const PIECES: u32 = (CONTENT_BYTES / PIECE_BYTES as u64) as u32;
const MADE_AT_S: u64 = 1_790_000_000;

/// Fills the store in `data_dir`, which no daemon has open. The names of its contents.
pub(crate) fn fill(data_dir: &Path, registry: &str) -> anyhow::Result<Vec<ContentId>> {
    let path = data_dir.join("store/records");
    let records = File::options().read(true).write(true).open(&path);
    let records = records.with_context(|| format!("cannot open {}", path.display()))?;
    let mut page = [0; HEADER_BYTES];
    records.read_exact_at(&mut page, 0)?;
    let header = Header::decode(&page).ok().context("the store has no header")?;
    let geometry = header.geometry;
    let count = geometry.slots() / PIECES;
    ensure!(count <= geometry.contents(), "more contents than records");
    let ids: Vec<ContentId> =
        (0..count).map(|number| ContentId::of_name(&format!("content {number}"))).collect();

    let mut contents = Vec::with_capacity(ids.len() * CONTENT_RECORD_BYTES);
    for (index, id) in (0..).zip(&ids) {
        contents.extend_from_slice(&content(index, *id, registry).encode(header.store_id));
    }
    records.write_all_at(&contents, geometry.content_offset(Copy::A, 0))?;
    let mut slots = Vec::with_capacity(PIECES as usize * SLOT_RECORD_BYTES);
    for (content, id) in (0..).zip(&ids) {
        slots.clear();
        for piece in 0..PIECES {
            slots.extend_from_slice(&slot(content, *id, piece).encode(header.store_id));
        }
        records.write_all_at(&slots, slot_offset(geometry, content))?;
    }
    records.sync_data()?;
    Ok(ids)
}

fn slot_offset(geometry: Geometry, content: u32) -> u64 {
    geometry.slot_offset(Copy::A, content * PIECES)
}

fn content(index: u32, id: ContentId, registry: &str) -> ContentRecord {
    ContentRecord {
        index,
        sequence: u64::from(index) + 1,
        tenure: u64::from(index) + 1,
        id,
        length_bytes: CONTENT_BYTES,
        live: true,
        verified: true,
        pinned: false,
        naming: Naming::Digest,
        created_at_s: MADE_AT_S,
        used_at_s: MADE_AT_S,
        expires_at_s: 0,
        passed_at_s: MADE_AT_S,
        scope: RegistryScope::of_origin(registry),
        registry: registry.to_owned(),
        media_type: "application/octet-stream".into(),
        validator: String::new(),
    }
}

fn slot(content: u32, id: ContentId, piece: u32) -> SlotRecord {
    let zeros = [0; BLOCK_BYTES as usize];
    let index = content * PIECES + piece;
    SlotRecord {
        index,
        sequence: u64::from(index) + 1_000_000,
        tenure: u64::from(content) + 1,
        content,
        id,
        piece,
        generation: 1,
        held: true,
        presence: 0b1111,
        crc32: [crc32fast::hash(&zeros); 4],
        blake3: [blake3::hash(&zeros).into(); 4],
    }
}
