//! A frame of the peer protocol: its head, then its payload.
//!
//! What is taken for a message is written again and read to the same message, in no more bytes than it came in: a
//! length that was claimed and not sent takes no memory.
#![no_main]

use bytes::Bytes;
use darter_transport::node::{NodeId, Role};
use darter_transport::wire::{Decoded, FrameHead, FrameReader, HEAD_BYTES, Message, OURS, Versions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    frames(input);
    let Some((head, payload)) = input.split_first_chunk::<HEAD_BYTES>() else { return };
    let Ok(head) = FrameHead::decode(*head) else { return };
    let Ok(Decoded::Message(message)) = Message::decode(head, Bytes::copy_from_slice(payload)) else {
        return;
    };
    let frame = message.encode();
    assert!(frame.len() <= HEAD_BYTES + payload.len());
    let again =
        FrameHead::decode(frame[..HEAD_BYTES].try_into().expect("eight bytes")).expect("our own head");
    assert_eq!(again.payload_bytes as usize, frame.len() - HEAD_BYTES);
    assert!(message.may_come_from(Role::Seed));
    match &message {
        Message::Hello(hello) => {
            let theirs = Versions { oldest: hello.version_oldest, newest: hello.version_newest };
            assert_eq!(Versions::of_hello(payload), Some(theirs));
            _ = OURS.agree(NodeId::from_bytes([0; 32]), theirs).map_err(|error| error.to_string());
        }
        Message::Refused(refused) => _ = refused.reaction(),
        Message::Blocks(blocks) => assert!(blocks.places().is_none_or(|places| !places.is_empty())),
        _ => {}
    }
    assert_eq!(Message::decode(again, frame.slice(HEAD_BYTES..)), Ok(Decoded::Message(message)));
});

/// The input as a stream, in parts of lengths that it determines itself: as whole frames, however it is cut.
fn frames(input: &[u8]) {
    let read = |cut: &mut dyn FnMut(usize) -> usize| {
        let (mut reader, mut left, mut frames) = (FrameReader::default(), input, Vec::new());
        while !left.is_empty() {
            let part;
            let bytes = cut(reader.missing_bytes()).clamp(1, left.len().min(reader.missing_bytes()));
            (part, left) = left.split_at(bytes);
            match reader.take(Bytes::copy_from_slice(part)) {
                Ok(frame) => frames.extend(frame),
                Err(_) => break,
            }
        }
        frames
    };
    let mut lengths = input.iter().cycle();
    let cut = read(&mut |_| lengths.next().map_or(1, |length| usize::from(*length)));
    assert_eq!(cut, read(&mut |missing| missing));
}
