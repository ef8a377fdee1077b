//! The TCP lane: streams inside one TLS connection, where UDP does not get through.
//!
//! What QUIC does by itself is done here by chunks with a head of twelve bytes. A stream is opened by its first chunk;
//! who connected uses even numbers, who accepted odd ones. A sender sends no more than the receiver has
//! granted, so that one slow stream does not hold up the others; memory is bounded by the windows.
//!
//! Pure: [`ChunkHead`] is the codec and [`Streams`] keeps the books of what may come; the shell moves bytes.

use std::collections::BTreeMap;

use super::fields::Malformed;

/// Bytes of a chunk's head.
pub const CHUNK_HEAD_BYTES: usize = 12;
/// Bytes that follow one head: a block, so that a chunk is as long as a TLS record times four.
pub const CHUNK_BYTES_MAX: u32 = 64 * 1024;
/// Bytes that a stream may be ahead of its reader: what a run of blocks needs with its heads.
pub const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Streams of either side at a time, as on QUIC.
pub const STREAMS_MAX: usize = 32;

/// What a chunk does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChunkKind {
    /// Bytes of the stream follow.
    Data,
    /// Bytes follow, and they are the last of this direction.
    Last,
    /// The stream ends at once; `argument` is a [`super::Code`].
    Reset,
    /// So many bytes more may be sent; `argument` says how many.
    Grant,
}

/// A chunk's head: stream (u32), argument (u32: bytes that follow, a code, or a grant), kind (u8), three zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkHead {
    /// Which stream.
    pub stream: u32,
    /// What.
    pub kind: ChunkKind,
    /// Bytes that follow, a code, or a grant.
    pub argument: u32,
}

impl ChunkHead {
    /// Reads a head.
    ///
    /// # Errors
    /// More bytes follow than may, or it is no head.
    pub fn decode(head: [u8; CHUNK_HEAD_BYTES]) -> Result<Self, Malformed> {
        let [a, b, c, d, e, f, g, h, kind, ..] = head;
        let (stream, argument) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        let kind = match kind {
            0 => ChunkKind::Data,
            1 => ChunkKind::Last,
            2 => ChunkKind::Reset,
            3 => ChunkKind::Grant,
            _ => return Err(Malformed::Value("chunk kind")),
        };
        let head = Self { stream, kind, argument };
        if head.bytes() > CHUNK_BYTES_MAX {
            let (count, max) = (argument as usize, CHUNK_BYTES_MAX as usize);
            return Err(Malformed::TooMany { field: "chunk", count, max });
        }
        Ok(head)
    }

    /// The head as bytes.
    pub fn encode(self) -> [u8; CHUNK_HEAD_BYTES] {
        let mut head = [0; CHUNK_HEAD_BYTES];
        head[..4].copy_from_slice(&self.stream.to_le_bytes());
        head[4..8].copy_from_slice(&self.argument.to_le_bytes());
        head[8] = self.kind as u8;
        head
    }

    /// Bytes that follow the head.
    pub fn bytes(self) -> u32 {
        match self.kind {
            ChunkKind::Data | ChunkKind::Last => self.argument,
            ChunkKind::Reset | ChunkKind::Grant => 0,
        }
    }
}

/// What a chunk that has come means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The other side opens this stream, with this chunk's bytes.
    Opened,
    /// Bytes of a stream that is open.
    Bytes,
    /// The other side has given a stream up.
    Reset(u32),
    /// More may be sent on a stream.
    Granted(u32),
    /// Of a stream that has ended here; its bytes are read and dropped.
    Stale,
}

/// The other side breaks the rules of the lane: the connection is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    /// More than was granted.
    #[error("stream {0} sent more than it was granted")]
    Window(u32),
    /// More streams than may be open.
    #[error("more than {STREAMS_MAX} streams at a time")]
    Streams,
    /// A stream that only this side opens, or one that is opened out of order.
    #[error("stream {0} is not the other side's to open")]
    NotTheirs(u32),
    /// Bytes after the last ones.
    #[error("stream {0} goes on after its end")]
    AfterEnd(u32),
    /// A window cannot be so large.
    #[error("stream {0} is granted more than a window can hold")]
    Grant(u32),
}

#[derive(Debug)]
struct Stream {
    may_receive: u32,
    may_send: u32,
    receives: bool,
    sends: bool,
}

/// The books of one connection's streams.
#[derive(Debug)]
pub struct Streams {
    open: BTreeMap<u32, Stream>,
    next_ours: u32,
    /// The next number that the other side may open.
    next_theirs: u32,
}

impl Streams {
    /// `connected`: this side has opened the connection.
    pub fn new(connected: bool) -> Self {
        let (next_ours, next_theirs) = if connected { (0, 1) } else { (1, 0) };
        Self { open: BTreeMap::new(), next_ours, next_theirs }
    }

    /// A new stream of this side; `None` while as many are open as may be.
    pub fn open(&mut self) -> Option<u32> {
        if self.of_parity(self.next_ours) >= STREAMS_MAX {
            return None;
        }
        let stream = self.next_ours;
        self.next_ours = stream.checked_add(2)?;
        self.open.insert(stream, Stream::new());
        Some(stream)
    }

    /// How many streams are open.
    pub fn open_streams(&self) -> usize {
        self.open.len()
    }

    fn of_parity(&self, number: u32) -> usize {
        self.open.keys().filter(|open| *open % 2 == number % 2).count()
    }

    /// A chunk has come.
    ///
    /// # Errors
    /// The other side breaks the rules.
    pub fn received(&mut self, head: ChunkHead) -> Result<Event, Violation> {
        let number = head.stream;
        let theirs = number % 2 == self.next_theirs % 2;
        let mut event = Event::Bytes;
        if !self.open.contains_key(&number) {
            let known = if theirs { number < self.next_theirs } else { number < self.next_ours };
            if known {
                return Ok(Event::Stale);
            }
            if number != self.next_theirs || !matches!(head.kind, ChunkKind::Data | ChunkKind::Last) {
                return Err(Violation::NotTheirs(number));
            }
            if self.of_parity(number) >= STREAMS_MAX {
                return Err(Violation::Streams);
            }
            self.next_theirs = number.checked_add(2).ok_or(Violation::NotTheirs(number))?;
            self.open.insert(number, Stream::new());
            event = Event::Opened;
        }
        let Some(stream) = self.open.get_mut(&number) else { return Ok(Event::Stale) };
        match head.kind {
            ChunkKind::Data | ChunkKind::Last => {
                if !stream.receives {
                    return Err(Violation::AfterEnd(number));
                }
                stream.may_receive =
                    stream.may_receive.checked_sub(head.bytes()).ok_or(Violation::Window(number))?;
                stream.receives = head.kind == ChunkKind::Data;
            }
            ChunkKind::Reset => {
                self.open.remove(&number);
                return Ok(Event::Reset(head.argument));
            }
            ChunkKind::Grant => {
                let granted = stream.may_send.checked_add(head.argument);
                stream.may_send = granted
                    .filter(|window| *window <= STREAM_WINDOW_BYTES)
                    .ok_or(Violation::Grant(number))?;
                event = Event::Granted(stream.may_send);
            }
        }
        self.forget_if_over(number);
        Ok(event)
    }

    /// How many bytes may be sent on a stream now, at most a chunk; 0 if it is not open for sending.
    pub fn may_send(&self, stream: u32) -> u32 {
        let sending = self.open.get(&stream).filter(|stream| stream.sends);
        sending.map_or(0, |stream| stream.may_send.min(CHUNK_BYTES_MAX))
    }

    /// Bytes are sent; with `last` none follow. The head to send before them, or `None` if so many may not be sent.
    pub fn send(&mut self, number: u32, bytes: u32, last: bool) -> Option<ChunkHead> {
        let stream = self.open.get_mut(&number).filter(|stream| stream.sends)?;
        if bytes > CHUNK_BYTES_MAX {
            return None;
        }
        stream.may_send = stream.may_send.checked_sub(bytes)?;
        stream.sends = !last;
        self.forget_if_over(number);
        let kind = if last { ChunkKind::Last } else { ChunkKind::Data };
        Some(ChunkHead { stream: number, kind, argument: bytes })
    }

    /// A reader has taken bytes of a stream: the grant to send, if the other side still sends.
    pub fn consumed(&mut self, number: u32, bytes: u32) -> Option<ChunkHead> {
        let stream = self.open.get_mut(&number).filter(|stream| stream.receives)?;
        // A reader cannot take more than has come.
        let argument = bytes.min(STREAM_WINDOW_BYTES - stream.may_receive);
        stream.may_receive += argument;
        (argument > 0).then_some(ChunkHead { stream: number, kind: ChunkKind::Grant, argument })
    }

    /// This side gives a stream up.
    pub fn reset(&mut self, number: u32, code: super::Code) -> Option<ChunkHead> {
        self.open.remove(&number)?;
        Some(ChunkHead { stream: number, kind: ChunkKind::Reset, argument: code.number().into() })
    }

    fn forget_if_over(&mut self, number: u32) {
        if self.open.get(&number).is_some_and(|stream| !stream.receives && !stream.sends) {
            self.open.remove(&number);
        }
    }
}

impl Stream {
    fn new() -> Self {
        Self { may_receive: STREAM_WINDOW_BYTES, may_send: STREAM_WINDOW_BYTES, receives: true, sends: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Code;
    use proptest::prelude::*;

    fn data(stream: u32, argument: u32) -> ChunkHead {
        ChunkHead { stream, kind: ChunkKind::Data, argument }
    }

    proptest! {
        #[test]
        fn a_head_is_written_as_it_was_read(bytes: [u8; CHUNK_HEAD_BYTES]) {
            if let Ok(head) = ChunkHead::decode(bytes) {
                prop_assert!(head.bytes() <= CHUNK_BYTES_MAX);
                prop_assert_eq!(head.encode()[..9].to_vec(), bytes[..9].to_vec());
            }
        }

        /// Two sides that keep the rules never find the other one breaking them, whatever they do.
        #[test]
        fn two_sides_understand_each_other(
            steps in prop::collection::vec((any::<bool>(), 0..4u8, 0..40usize, 0..=CHUNK_BYTES_MAX), 1..200),
        ) {
            let mut sides = [Streams::new(true), Streams::new(false)];
            for (side, step, which, bytes) in steps {
                let (one, other) = sides.split_at_mut(1);
                let (near, far) = if side { (&mut one[0], &mut other[0]) } else { (&mut other[0], &mut one[0]) };
                let number = near.open.keys().nth(which).copied();
                let head = match (step, number) {
                    (0, _) => near.open().and_then(|stream| near.send(stream, bytes, false)),
                    (1, Some(number)) => near.send(number, bytes.min(near.may_send(number)), bytes % 7 == 0),
                    (2, Some(number)) => near.consumed(number, bytes),
                    (_, Some(number)) => near.reset(number, Code::Busy),
                    (_, None) => None,
                };
                if let Some(head) = head {
                    let understood = ChunkHead::decode(head.encode()).expect("a side writes right heads");
                    prop_assert!(far.received(understood).is_ok());
                }
                prop_assert!(near.open.len() <= 2 * STREAMS_MAX && far.open.len() <= 2 * STREAMS_MAX);
            }
        }
    }

    #[test]
    fn who_sends_more_than_was_granted_is_found_out() {
        let mut streams = Streams::new(true);
        assert_eq!(streams.received(data(1, CHUNK_BYTES_MAX)), Ok(Event::Opened));
        for _ in 1..STREAM_WINDOW_BYTES / CHUNK_BYTES_MAX {
            assert_eq!(streams.received(data(1, CHUNK_BYTES_MAX)), Ok(Event::Bytes));
        }
        assert_eq!(streams.received(data(1, 1)), Err(Violation::Window(1)));
        assert_eq!(streams.consumed(1, u32::MAX).map(|head| head.argument), Some(STREAM_WINDOW_BYTES));
        assert_eq!(streams.received(data(1, 1)), Ok(Event::Bytes));
    }

    #[test]
    fn thousands_of_streams_are_refused() {
        let mut streams = Streams::new(true);
        for number in 0..STREAMS_MAX as u32 {
            assert_eq!(streams.received(data(number * 2 + 1, 0)), Ok(Event::Opened));
        }
        assert_eq!(streams.received(data(STREAMS_MAX as u32 * 2 + 1, 0)), Err(Violation::Streams));
    }

    #[test]
    fn a_stream_of_the_wrong_side_or_out_of_order_is_refused() {
        let mut streams = Streams::new(true);
        assert_eq!(streams.received(data(0, 0)), Err(Violation::NotTheirs(0)));
        assert_eq!(streams.received(data(5, 0)), Err(Violation::NotTheirs(5)));
        let grant = ChunkHead { stream: 1, kind: ChunkKind::Grant, argument: 1 };
        assert_eq!(streams.received(grant), Err(Violation::NotTheirs(1)));
    }

    #[test]
    fn what_comes_for_a_stream_that_was_given_up_is_dropped() {
        let mut streams = Streams::new(true);
        let stream = streams.open().unwrap();
        assert!(streams.reset(stream, Code::Busy).is_some());
        assert_eq!(streams.received(data(stream, 10)), Ok(Event::Stale));
    }

    #[test]
    fn a_grant_beyond_the_window_ends_the_connection() {
        let mut streams = Streams::new(true);
        let stream = streams.open().unwrap();
        let grant = ChunkHead { stream, kind: ChunkKind::Grant, argument: u32::MAX };
        assert_eq!(streams.received(grant), Err(Violation::Grant(stream)));
    }
}
