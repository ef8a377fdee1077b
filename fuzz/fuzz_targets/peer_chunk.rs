//! The TCP lane: a byte that says who connected, then heads of chunks, as another node may send them.
//!
//! The books stay bounded, and what this side may send never exceeds a window.
#![no_main]

use darter_transport::wire::Code;
use darter_transport::wire::multiplex::{CHUNK_BYTES_MAX, CHUNK_HEAD_BYTES, ChunkHead, STREAMS_MAX, Streams};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((first, chunks)) = input.split_first() else { return };
    let mut streams = Streams::new(first & 1 != 0);
    if first & 2 != 0 {
        _ = streams.open();
    }
    for chunk in chunks.chunks_exact(CHUNK_HEAD_BYTES) {
        let Ok(head) = ChunkHead::decode(chunk.try_into().expect("twelve bytes")) else { return };
        assert!(head.bytes() <= CHUNK_BYTES_MAX);
        if streams.received(head).is_err() {
            return;
        }
        assert!(streams.open_streams() <= 2 * STREAMS_MAX);
        // The last three bytes of a head mean nothing: here they say what this side does meanwhile.
        let may = streams.may_send(head.stream);
        match chunk[9] & 3 {
            0 => _ = streams.consumed(head.stream, head.argument),
            1 => {
                let sent = streams.send(head.stream, may, chunk[10] & 1 != 0);
                assert!(sent.is_none_or(|sent| sent.bytes() == may && may <= CHUNK_BYTES_MAX));
            }
            2 => _ = streams.reset(head.stream, Code::Busy),
            _ => _ = streams.open(),
        }
    }
});
