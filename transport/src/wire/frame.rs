//! The eight bytes in front of each message.

use bytes::{BufMut, Bytes, BytesMut};

use super::fields::Malformed;

/// Bytes of a frame's head.
pub const HEAD_BYTES: usize = 8;
/// The longest message, without its head.
pub const MESSAGE_BYTES_MAX: u32 = 96 * 1024;

/// Bit of the flags: who does not know the kind passes the message over.
const MAY_BE_PASSED_OVER: u16 = 1;

/// What the head says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHead {
    /// Bytes of the payload that follows.
    pub payload_bytes: u32,
    /// Which message it is.
    pub kind: u16,
    /// Whether a node that does not know the kind may pass it over. Else it refuses the stream.
    pub may_be_passed_over: bool,
}

impl FrameHead {
    /// Reads a head.
    ///
    /// # Errors
    /// The message is longer than any may be.
    pub fn decode(head: [u8; HEAD_BYTES]) -> Result<Self, Malformed> {
        let [a, b, c, d, e, f, g, h] = head;
        let payload_bytes = u32::from_le_bytes([a, b, c, d]);
        if payload_bytes > MESSAGE_BYTES_MAX {
            let (count, max) = (payload_bytes as usize, MESSAGE_BYTES_MAX as usize);
            return Err(Malformed::TooMany { field: "payload", count, max });
        }
        let flags = u16::from_le_bytes([g, h]);
        let may_be_passed_over = flags & MAY_BE_PASSED_OVER != 0;
        Ok(Self { payload_bytes, kind: u16::from_le_bytes([e, f]), may_be_passed_over })
    }

    /// The head as bytes. Flags that have no meaning yet are zero.
    pub fn encode(self) -> [u8; HEAD_BYTES] {
        let ([a, b, c, d], [e, f]) = (self.payload_bytes.to_le_bytes(), self.kind.to_le_bytes());
        let [g, h] = (if self.may_be_passed_over { MAY_BE_PASSED_OVER } else { 0 }).to_le_bytes();
        [a, b, c, d, e, f, g, h]
    }
}

/// Frames out of parts of any cut. Holds no more than has come, however long the frame claims to be.
#[derive(Debug, Default)]
pub struct FrameReader {
    head: Option<FrameHead>,
    gathered: BytesMut,
}

impl FrameReader {
    /// How many bytes to read next, at most; never 0. What lies behind them is not of this frame.
    #[must_use]
    pub fn missing_bytes(&self) -> usize {
        self.wanted_bytes() - self.gathered.len()
    }

    /// Whether nothing of the next frame has come.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.head.is_none() && self.gathered.is_empty()
    }

    /// Takes the next part, of at most [`missing_bytes`](Self::missing_bytes), and gives the frame if it is whole with it.
    ///
    /// # Errors
    /// The head is none: nothing behind it can be read.
    pub fn take(&mut self, part: Bytes) -> Result<Option<(FrameHead, Bytes)>, Malformed> {
        let Some(whole) = self.gather(part) else { return Ok(None) };
        let head = match self.head {
            Some(head) => head,
            None => {
                let head = FrameHead::decode(whole[..].try_into().map_err(|_| Malformed::Short("head"))?)?;
                if head.payload_bytes > 0 {
                    self.head = Some(head);
                    return Ok(None);
                }
                return Ok(Some((head, Bytes::new())));
            }
        };
        self.head = None;
        Ok(Some((head, whole)))
    }

    fn wanted_bytes(&self) -> usize {
        self.head.map_or(HEAD_BYTES, |head| head.payload_bytes as usize)
    }

    /// All that is wanted, if it is there; without a copy if it came in one part.
    fn gather(&mut self, part: Bytes) -> Option<Bytes> {
        if self.gathered.is_empty() && part.len() == self.wanted_bytes() {
            return Some(part);
        }
        self.gathered.extend_from_slice(&part);
        (self.gathered.len() >= self.wanted_bytes()).then(|| std::mem::take(&mut self.gathered).freeze())
    }
}

/// Writes a frame: the head, and what `payload` writes.
pub(crate) fn framed(kind: u16, may_be_passed_over: bool, payload: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut frame = BytesMut::with_capacity(128);
    frame.put_bytes(0, HEAD_BYTES);
    payload(&mut frame);
    let payload_bytes = (frame.len() - HEAD_BYTES) as u32;
    assert!(payload_bytes <= MESSAGE_BYTES_MAX, "the limits of the fields keep message {kind} short");
    frame[..HEAD_BYTES].copy_from_slice(&FrameHead { payload_bytes, kind, may_be_passed_over }.encode());
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_head_survives(payload_bytes in 0..=MESSAGE_BYTES_MAX, kind: u16, may_be_passed_over: bool) {
            let head = FrameHead { payload_bytes, kind, may_be_passed_over };
            prop_assert_eq!(FrameHead::decode(head.encode()), Ok(head));
        }
    }

    proptest! {
        /// However a stream is cut, the frames come out of it, and what is held is no more than has come.
        #[test]
        fn frames_come_out_of_any_cut(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
            cuts in prop::collection::vec(1..9_usize, 1..8),
        ) {
            let frames: Vec<u8> = payloads
                .iter()
                .flat_map(|payload| framed(9, false, |to| to.put_slice(payload)))
                .collect();
            let (mut reader, mut left, mut found) = (FrameReader::default(), &frames[..], Vec::new());
            for cut in cuts.iter().cycle() {
                if left.is_empty() {
                    break;
                }
                let (part, rest) = left.split_at((*cut).min(left.len()).min(reader.missing_bytes()));
                found.extend(reader.take(Bytes::copy_from_slice(part)).unwrap());
                prop_assert!(reader.gathered.len() < HEAD_BYTES + 40);
                left = rest;
            }
            prop_assert!(reader.is_between_frames());
            prop_assert_eq!(found.into_iter().map(|(_, payload)| payload.to_vec()).collect::<Vec<_>>(), payloads);
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_by_its_head() {
        let mut head = FrameHead { payload_bytes: 0, kind: 1, may_be_passed_over: false }.encode();
        head[..4].copy_from_slice(&(MESSAGE_BYTES_MAX + 1).to_le_bytes());
        assert!(matches!(FrameHead::decode(head), Err(Malformed::TooMany { field: "payload", .. })));
    }

    #[test]
    fn flags_of_later_versions_are_not_read() {
        let head = FrameHead { payload_bytes: 5, kind: 9, may_be_passed_over: true };
        let mut bytes = head.encode();
        bytes[7] = 0xff;
        assert_eq!(FrameHead::decode(bytes), Ok(head));
    }
}
