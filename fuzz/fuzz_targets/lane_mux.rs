//! The streams of the TCP lane, as a member of the cluster that breaks their rules would send them.
//!
//! Between two pieces of its bytes this side does something of its own. What is held stays within the window.
#![no_main]

use bytes::Bytes;
use darter_transport::lane::{CONNECTION_WINDOW_BYTES, Mux};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: Vec<(u8, u8, Vec<u8>)>| {
    let mut mux = Mux::new(false);
    for (action, stream, bytes) in input {
        let stream = u32::from(stream);
        match action % 7 {
            0 => _ = mux.open(),
            1 => _ = mux.accept(),
            2 => _ = mux.write(stream, &mut Bytes::from(bytes.clone())),
            3 => mux.end(stream, (action > 127).then_some(1)),
            4 => _ = mux.read(stream, bytes.len().max(1)),
            5 => mux.stop(stream, 1),
            _ => {}
        }
        if mux.receive_bytes(&bytes).is_err() {
            return;
        }
        assert!(mux.held_bytes() <= CONNECTION_WINDOW_BYTES as usize);
    }
});
