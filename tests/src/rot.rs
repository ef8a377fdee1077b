//! Bytes that change where they lie on a disk.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use crate::{BLOCK_BYTES, Blob, Daemon};

/// What tells one block from another.
const BEGINNING_BYTES: usize = 64;

/// Flips a byte of each block of `blob` in the slabs of a daemon, which may be running. How many there were.
///
/// # Panics
/// When a slab cannot be changed.
pub fn rot(daemon: &Daemon, blob: &Blob) -> usize {
    let starts = (0..blob.len()).step_by(BLOCK_BYTES as usize);
    let beginning = |start| blob.bytes(start..blob.len().min(start + BEGINNING_BYTES as u64));
    let blocks: HashSet<Vec<u8>> = starts.map(beginning).collect();
    let files = fs::read_dir(daemon.data_dir().join("store")).expect("the store is there");
    let paths = files.map(|file| file.expect("the store can be listed").path());
    let slabs = paths
        .filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"slab-")));
    let mut rotten = 0;
    for slab in slabs {
        let slab = File::options().read(true).write(true).open(slab).expect("the slab is there");
        for at in (0..slab.metadata().expect("a slab has a length").len()).step_by(BLOCK_BYTES as usize) {
            let mut found = [0; BEGINNING_BYTES];
            slab.read_exact_at(&mut found, at).expect("the slab can be read");
            if blocks.contains(&found[..]) {
                slab.write_all_at(&[!found[7]], at + 7).expect("the slab can be written");
                rotten += 1;
            }
        }
        slab.sync_all().expect("the slab can be synced");
    }
    rotten
}
