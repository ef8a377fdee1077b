//! Streams on one ordered connection: what TCP lacks and QUIC has.
//!
//! Pure: parts come in, parts go out; `tcp` moves them. On the wire a part is nine bytes — its kind, a stream (u32,
//! little-endian) and a value (u32) — and, of two kinds, `value` bytes behind them:
//!
//! | kind | part | stream | value |
//! |---|---|---|---|
//! | 0 | data, 1 byte to 64 KiB | which | its length |
//! | 1 | the sender is done | which | 0 |
//! | 2 | the sender gives up | which | why |
//! | 3 | the receiver wants no more; the sender answers with 1 or 2, if it has not sent one | which | why |
//! | 4 | so much more may be sent | which, or 0 for all together | charge |
//! | 5 | still here | 0 | 0 |
//! | 6 | the connection is closed | why | length of a reason of at most 256 bytes |
//!
//! Streams of the side that dialled have odd numbers, of the other even ones. The first part of a number opens it, and
//! with it all lower ones that are not open yet, for they were opened before. A stream is over when both directions have
//! had a part 1 or 2.
//!
//! **Credit.** A sender may be ahead of its receiver by [`STREAM_WINDOW_BYTES`] on a stream and by
//! [`CONNECTION_WINDOW_BYTES`] on all of them. Data is charged with its length and [`PART_CHARGE`], so that a flood of
//! small parts costs its sender what it costs the receiver. Whoever goes beyond, opens more than [`STREAMS_MAX`], or
//! sends what is not in the table, is cut off.

use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;

use bytes::Bytes;

use super::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES, STREAMS_MAX};

/// Bytes in front of each part.
pub(super) const HEAD_BYTES: usize = 9;
/// The most data in a part; others get their turn after it.
pub(super) const DATA_BYTES_MAX: u32 = 64 << 10;
/// What a part of data is charged beside its length.
const PART_CHARGE: u32 = 64;
const REASON_BYTES_MAX: u32 = 256;
/// What one direction of a stream may have waiting to be sent; a writer waits behind it.
const OUT_BYTES_MAX: usize = 256 << 10;

/// A rule of the lane was broken by the other side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    /// One more than allowed.
    #[error("it opened more than {STREAMS_MAX} streams at a time")]
    TooManyStreams,
    /// More data than it had credit for.
    #[error("it sent more than the receiver had allowed")]
    BeyondCredit,
    /// More data in a part than there may be, or none.
    #[error("it sent a part of {0} bytes, where 1 to {DATA_BYTES_MAX} may be")]
    PartLength(u32),
    /// No such kind.
    #[error("it sent a part of the unknown kind {0}")]
    Kind(u8),
    /// A stream that cannot be.
    #[error("it sent a part of stream {0}, which is not open")]
    Stream(u32),
    /// Credit beyond any window.
    #[error("it gave credit that was never used")]
    Credit,
}

/// Why a stream cannot be used; `tcp` makes an error of the lane of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MuxError {
    /// The other side gave it up.
    Reset(u32),
    /// The other side wants no more of it.
    Stopped(u32),
    /// This side has ended it.
    Ended,
}

/// The first nine bytes of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Head {
    Data { stream: u32, bytes: u32 },
    Fin { stream: u32 },
    Reset { stream: u32, code: u32 },
    Stop { stream: u32, code: u32 },
    Credit { stream: u32, charge: u32 },
    Here,
    Close { code: u32, reason_bytes: u32 },
}

impl Head {
    pub(super) fn decode(head: [u8; HEAD_BYTES]) -> Result<Self, Violation> {
        let [kind, a, b, c, d, e, f, g, h] = head;
        let (stream, value) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        match kind {
            0 if (1..=DATA_BYTES_MAX).contains(&value) => Ok(Self::Data { stream, bytes: value }),
            0 => Err(Violation::PartLength(value)),
            1 => Ok(Self::Fin { stream }),
            2 => Ok(Self::Reset { stream, code: value }),
            3 => Ok(Self::Stop { stream, code: value }),
            4 => Ok(Self::Credit { stream, charge: value }),
            5 => Ok(Self::Here),
            6 if value <= REASON_BYTES_MAX => Ok(Self::Close { code: stream, reason_bytes: value }),
            6 => Err(Violation::PartLength(value)),
            other => Err(Violation::Kind(other)),
        }
    }

    pub(super) fn encode(self) -> [u8; HEAD_BYTES] {
        let (kind, stream, value) = match self {
            Self::Data { stream, bytes } => (0, stream, bytes),
            Self::Fin { stream } => (1, stream, 0),
            Self::Reset { stream, code } => (2, stream, code),
            Self::Stop { stream, code } => (3, stream, code),
            Self::Credit { stream, charge } => (4, stream, charge),
            Self::Here => (5, 0, 0),
            Self::Close { code, reason_bytes } => (6, code, reason_bytes),
        };
        let ([a, b, c, d], [e, f, g, h]) = (u32::to_le_bytes(stream), u32::to_le_bytes(value));
        [kind, a, b, c, d, e, f, g, h]
    }

    /// Bytes that follow the head.
    pub(super) fn payload_bytes(self) -> usize {
        match self {
            Self::Data { bytes, .. } | Self::Close { reason_bytes: bytes, .. } => bytes as usize,
            _ => 0,
        }
    }
}

/// One side's state of all its streams.
#[derive(Debug)]
pub struct Mux {
    dialler: bool,
    next_ours: u32,
    next_theirs: u32,
    open_ours: u32,
    open_theirs: u32,
    streams: BTreeMap<u32, Stream>,
    arrived: VecDeque<u32>,
    /// What we may still send, all streams together.
    credit: u32,
    /// What they may still send.
    allowance: u32,
    /// What was taken from us and is not credited again.
    taken: u32,
    here: bool,
    closing: Option<(u32, Bytes)>,
    /// The stream that had its turn last.
    turn: u32,
}

#[derive(Debug)]
struct Stream {
    out: VecDeque<Bytes>,
    out_bytes: usize,
    out_end: OutEnd,
    credit: u32,
    writer: Option<Waker>,
    sender_gone: bool,

    incoming: VecDeque<Bytes>,
    in_end: InEnd,
    allowance: u32,
    taken: u32,
    stop: Option<u32>,
    /// Nobody wants what still comes in.
    unwanted: bool,
    reader: Option<Waker>,
    receiver_gone: bool,

    /// Somebody here has taken it up. Before that it is not over: who opens and gives up streams faster than they are
    /// taken up comes to the end of what he may open.
    accepted: bool,
    /// Counted among those that are open.
    counted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum OutEnd {
    Open,
    /// Behind what is still to be sent.
    Fin,
    Reset(u32),
    /// Part 1 or 2 has gone out; with the code, where the other side wanted no more.
    Sent(Option<u32>),
    /// The other side wants no more; a reset is to be sent.
    Stopped(u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum InEnd {
    Open,
    Fin,
    Reset(u32),
}

/// What came of a part.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Effects {
    /// A stream can be accepted.
    pub(super) arrived: bool,
    /// One more stream can be opened.
    pub(super) may_open: bool,
    /// There is something to send.
    pub(super) work: bool,
}

impl Mux {
    /// A side of a new connection.
    #[must_use]
    pub fn new(dialler: bool) -> Self {
        let (next_ours, next_theirs) = if dialler { (1, 2) } else { (2, 1) };
        Self {
            dialler,
            next_ours,
            next_theirs,
            open_ours: 0,
            open_theirs: 0,
            streams: BTreeMap::new(),
            arrived: VecDeque::new(),
            credit: CONNECTION_WINDOW_BYTES,
            allowance: CONNECTION_WINDOW_BYTES,
            taken: 0,
            here: false,
            closing: None,
            turn: 0,
        }
    }

    /// Opens a stream; `None` while as many are open as may be, and when the numbers are used up.
    pub fn open(&mut self) -> Option<u32> {
        if self.open_ours == STREAMS_MAX {
            return None;
        }
        let stream = self.next_ours;
        self.next_ours = stream.checked_add(2)?;
        self.open_ours += 1;
        self.streams.insert(stream, Stream { accepted: true, ..Stream::new() });
        Some(stream)
    }

    /// The next stream that the other side has opened.
    pub fn accept(&mut self) -> Option<u32> {
        let stream = self.arrived.pop_front()?;
        if let Some(entry) = self.streams.get_mut(&stream) {
            entry.accepted = true;
        }
        Some(stream)
    }

    /// Takes what fits of `data`, and leaves the rest in it.
    ///
    /// # Errors
    /// The direction is at its end.
    pub fn write(&mut self, stream: u32, data: &mut Bytes) -> Result<bool, MuxError> {
        let entry = self.streams.get_mut(&stream).ok_or(MuxError::Ended)?;
        match entry.out_end {
            OutEnd::Open => {}
            OutEnd::Stopped(code) | OutEnd::Sent(Some(code)) => return Err(MuxError::Stopped(code)),
            _ => return Err(MuxError::Ended),
        }
        let fits = (OUT_BYTES_MAX - entry.out_bytes).min(data.len());
        if fits > 0 {
            entry.out.push_back(data.split_to(fits));
            entry.out_bytes += fits;
        }
        Ok(data.is_empty())
    }

    /// Whether all that was written has gone out, and the end behind it.
    ///
    /// # Errors
    /// It was given up, or the other side wants no more.
    pub(super) fn is_drained(&self, stream: u32) -> Result<bool, MuxError> {
        match self.streams.get(&stream).map_or(OutEnd::Sent(None), |entry| entry.out_end) {
            OutEnd::Open | OutEnd::Fin => Ok(false),
            OutEnd::Sent(None) => Ok(true),
            OutEnd::Stopped(code) | OutEnd::Sent(Some(code)) => Err(MuxError::Stopped(code)),
            OutEnd::Reset(_) => Err(MuxError::Ended),
        }
    }

    /// Leaves a waker for when there is room again, or all has gone out.
    pub(super) fn wake_writer(&mut self, stream: u32, waker: Waker) {
        if let Some(entry) = self.streams.get_mut(&stream) {
            entry.writer = Some(waker);
        }
    }

    /// Ends this side's direction: with all that was written, or at once where there is a code.
    pub fn end(&mut self, stream: u32, code: Option<u32>) {
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        match (entry.out_end, code) {
            (OutEnd::Open, None) => entry.out_end = OutEnd::Fin,
            (OutEnd::Open | OutEnd::Fin, Some(code)) => entry.reset(OutEnd::Reset(code)),
            _ => {}
        }
    }

    /// At most `bytes_max` of what has come in; `Ok(None)` at the end, `Err(None)` when nothing is there yet.
    ///
    /// # Errors
    /// The other side gave it up, or nothing is there yet.
    pub fn read(&mut self, stream: u32, bytes_max: usize) -> Result<Option<Bytes>, Option<MuxError>> {
        let entry = self.streams.get_mut(&stream).ok_or(Some(MuxError::Ended))?;
        if let InEnd::Reset(code) = entry.in_end {
            return Err(Some(MuxError::Reset(code)));
        }
        let Some(front) = entry.incoming.front_mut() else {
            return if entry.in_end == InEnd::Fin { Ok(None) } else { Err(None) };
        };
        // The charge of a part is given back with its last byte.
        let (part, charge) = if front.len() > bytes_max {
            (front.split_to(bytes_max), bytes_max as u32)
        } else {
            let whole = entry.incoming.pop_front().unwrap_or_default();
            let charge = whole.len() as u32 + PART_CHARGE;
            (whole, charge)
        };
        entry.taken += charge;
        self.taken += charge;
        Ok(Some(part))
    }

    /// Leaves a waker for when something has come.
    pub(super) fn wake_reader(&mut self, stream: u32, waker: Waker) {
        if let Some(entry) = self.streams.get_mut(&stream) {
            entry.reader = Some(waker);
        }
    }

    /// Wants no more of the other side's direction.
    pub fn stop(&mut self, stream: u32, code: u32) {
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        if entry.in_end == InEnd::Open && !entry.unwanted {
            entry.stop = Some(code);
        }
        entry.unwanted = true;
        self.taken += entry.discard();
    }

    /// Nobody holds the sending half any more.
    pub(super) fn sender_gone(&mut self, stream: u32) -> Effects {
        if let Some(entry) = self.streams.get_mut(&stream) {
            // What was finished goes out, held or not.
            if entry.out_end == OutEnd::Open {
                entry.reset(OutEnd::Reset(0));
            }
            entry.sender_gone = true;
        }
        self.settle(stream)
    }

    /// Nobody holds the receiving half any more.
    pub(super) fn receiver_gone(&mut self, stream: u32) -> Effects {
        self.stop(stream, 0);
        if let Some(entry) = self.streams.get_mut(&stream) {
            entry.receiver_gone = true;
        }
        self.settle(stream)
    }

    /// Says that this side is there, with the next parts.
    pub(super) fn say_here(&mut self) {
        self.here = true;
    }

    /// Closes the connection with the next part; what was written before and has not gone out is lost.
    pub(super) fn close(&mut self, code: u32, reason: &str) {
        let end =
            (0..=reason.len().min(REASON_BYTES_MAX as usize)).rev().find(|at| reason.is_char_boundary(*at));
        let reason = Bytes::copy_from_slice(&reason.as_bytes()[..end.unwrap_or(0)]);
        self.closing.get_or_insert((code, reason));
    }

    /// The next part to send.
    pub(super) fn next(&mut self) -> Option<(Head, Bytes)> {
        if let Some((code, reason)) = &self.closing {
            return Some((Head::Close { code: *code, reason_bytes: reason.len() as u32 }, reason.clone()));
        }
        if std::mem::take(&mut self.here) {
            return Some((Head::Here, Bytes::new()));
        }
        if self.taken >= CONNECTION_WINDOW_BYTES / 4 {
            let charge = std::mem::take(&mut self.taken);
            self.allowance += charge;
            return Some((Head::Credit { stream: 0, charge }, Bytes::new()));
        }
        // In turn, beginning behind the one that was last.
        let after = self.streams.range(self.turn.saturating_add(1)..).map(|(stream, _)| *stream);
        let before = self.streams.range(..=self.turn).map(|(stream, _)| *stream);
        let order: Vec<u32> = after.chain(before).collect();
        for stream in order {
            let entry = self.streams.get_mut(&stream)?;
            if let Some(part) = entry.next(stream, &mut self.credit) {
                self.turn = stream;
                self.settle(stream);
                return Some(part);
            }
        }
        None
    }

    /// Takes a part that came in. The shell handles [`Head::Close`].
    pub(super) fn receive(&mut self, head: Head, payload: Bytes) -> Result<Effects, Violation> {
        let mut effects = Effects::default();
        let stream = match head {
            Head::Here | Head::Close { .. } => return Ok(effects),
            Head::Credit { stream: 0, charge } => {
                self.credit = credited(self.credit, charge, CONNECTION_WINDOW_BYTES)?;
                effects.work = true;
                return Ok(effects);
            }
            Head::Data { stream, .. }
            | Head::Fin { stream }
            | Head::Reset { stream, .. }
            | Head::Stop { stream, .. }
            | Head::Credit { stream, .. } => stream,
        };
        let ours = stream % 2 == u32::from(self.dialler);
        while !ours && stream != 0 && self.next_theirs <= stream {
            if self.open_theirs == STREAMS_MAX {
                return Err(Violation::TooManyStreams);
            }
            self.open_theirs += 1;
            self.streams.insert(self.next_theirs, Stream::new());
            self.arrived.push_back(self.next_theirs);
            self.next_theirs = self.next_theirs.checked_add(2).ok_or(Violation::Stream(stream))?;
            effects.arrived = true;
        }
        if stream == 0 || ours && stream >= self.next_ours {
            return Err(Violation::Stream(stream));
        }
        if let Head::Data { bytes, .. } = head {
            let charge = bytes + PART_CHARGE;
            self.allowance = self.allowance.checked_sub(charge).ok_or(Violation::BeyondCredit)?;
            let Some(entry) = self.streams.get_mut(&stream) else {
                // It was stopped and is over here; what was under way is charged and taken.
                self.taken += charge;
                effects.work = true;
                return Ok(effects);
            };
            if entry.in_end != InEnd::Open {
                return Err(Violation::Stream(stream));
            }
            entry.allowance = entry.allowance.checked_sub(charge).ok_or(Violation::BeyondCredit)?;
            if entry.unwanted {
                self.taken += charge;
                entry.taken += charge;
            } else {
                entry.incoming.push_back(payload);
                entry.reader.take().into_iter().for_each(Waker::wake);
            }
            effects.work = true;
            return Ok(effects);
        }
        // What comes for a stream that is over crossed its end on the way.
        let Some(entry) = self.streams.get_mut(&stream) else { return Ok(effects) };
        match head {
            Head::Fin { .. } | Head::Reset { .. } if entry.in_end != InEnd::Open => {
                return Err(Violation::Stream(stream));
            }
            Head::Fin { .. } => entry.in_end = InEnd::Fin,
            Head::Reset { code, .. } => {
                entry.in_end = InEnd::Reset(code);
                self.taken += entry.discard();
            }
            Head::Stop { code, .. } => match entry.out_end {
                OutEnd::Open | OutEnd::Fin => entry.reset(OutEnd::Stopped(code)),
                OutEnd::Sent(None) => entry.out_end = OutEnd::Sent(Some(code)),
                OutEnd::Reset(_) | OutEnd::Sent(Some(_)) | OutEnd::Stopped(_) => {}
            },
            Head::Credit { charge, .. } => {
                entry.credit = credited(entry.credit, charge, STREAM_WINDOW_BYTES)?;
            }
            Head::Data { .. } | Head::Here | Head::Close { .. } => {}
        }
        entry.reader.take().into_iter().chain(entry.writer.take()).for_each(Waker::wake);
        let settled = self.settle(stream);
        Ok(Effects { arrived: effects.arrived, may_open: settled.may_open, work: true })
    }

    /// Takes whole parts from the front of `bytes`, as they would come from a socket; for fuzzing.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn receive_bytes(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while let Some((head, behind)) = bytes.split_first_chunk::<HEAD_BYTES>() {
            let head = Head::decode(*head)?;
            let Some((payload, rest)) = behind.split_at_checked(head.payload_bytes()) else { return Ok(()) };
            self.receive(head, Bytes::copy_from_slice(payload))?;
            bytes = rest;
        }
        Ok(())
    }

    /// What has come in and was not read.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.streams.values().flat_map(|entry| &entry.incoming).map(Bytes::len).sum()
    }

    /// The connection is over: wakes all who wait.
    pub(super) fn wake_all(&mut self) {
        for entry in self.streams.values_mut() {
            entry.reader.take().into_iter().chain(entry.writer.take()).for_each(Waker::wake);
        }
    }

    /// Stops counting a stream that is over, and forgets one that nobody holds.
    fn settle(&mut self, stream: u32) -> Effects {
        let mut effects = Effects { work: true, ..Effects::default() };
        let Some(entry) = self.streams.get_mut(&stream) else { return effects };
        let over = matches!(entry.out_end, OutEnd::Sent(_)) && entry.in_end != InEnd::Open;
        if over && entry.counted {
            entry.counted = false;
            if stream % 2 == u32::from(self.dialler) {
                self.open_ours -= 1;
                effects.may_open = true;
            } else {
                self.open_theirs -= 1;
            }
        }
        if over && entry.sender_gone && entry.receiver_gone {
            self.streams.remove(&stream);
        }
        effects
    }
}

impl Stream {
    fn new() -> Self {
        Self {
            out: VecDeque::new(),
            out_bytes: 0,
            out_end: OutEnd::Open,
            credit: STREAM_WINDOW_BYTES,
            writer: None,
            sender_gone: false,
            incoming: VecDeque::new(),
            in_end: InEnd::Open,
            allowance: STREAM_WINDOW_BYTES,
            taken: 0,
            stop: None,
            unwanted: false,
            reader: None,
            receiver_gone: false,
            accepted: false,
            counted: true,
        }
    }

    /// Ends the sending direction without what is left to send.
    fn reset(&mut self, end: OutEnd) {
        self.out.clear();
        self.out_bytes = 0;
        self.out_end = end;
    }

    /// Throws away what has come in; returns its charge.
    fn discard(&mut self) -> u32 {
        let charge = self.incoming.drain(..).map(|part| part.len() as u32 + PART_CHARGE).sum();
        self.taken += charge;
        charge
    }

    fn next(&mut self, stream: u32, connection_credit: &mut u32) -> Option<(Head, Bytes)> {
        let empty = Bytes::new();
        if self.in_end == InEnd::Open {
            if let Some(code) = self.stop.take() {
                return Some((Head::Stop { stream, code }, empty));
            }
            if self.taken >= STREAM_WINDOW_BYTES / 4 {
                let charge = std::mem::take(&mut self.taken);
                self.allowance += charge;
                return Some((Head::Credit { stream, charge }, empty));
            }
        }
        match self.out_end {
            OutEnd::Reset(code) => {
                self.out_end = OutEnd::Sent(None);
                return Some((Head::Reset { stream, code }, empty));
            }
            OutEnd::Stopped(_) if !self.accepted => return None,
            OutEnd::Stopped(code) => {
                self.out_end = OutEnd::Sent(Some(code));
                return Some((Head::Reset { stream, code }, empty));
            }
            OutEnd::Fin if self.out.is_empty() => {
                self.out_end = OutEnd::Sent(None);
                self.writer.take().into_iter().for_each(Waker::wake);
                return Some((Head::Fin { stream }, empty));
            }
            OutEnd::Open | OutEnd::Fin | OutEnd::Sent(_) => {}
        }
        let front = self.out.front_mut()?;
        let credit = self.credit.min(*connection_credit).saturating_sub(PART_CHARGE);
        let bytes = credit.min(DATA_BYTES_MAX).min(u32::try_from(front.len()).unwrap_or(u32::MAX));
        if bytes == 0 {
            return None;
        }
        let part = front.split_to(bytes as usize);
        if front.is_empty() {
            self.out.pop_front();
        }
        self.out_bytes -= part.len();
        self.credit -= bytes + PART_CHARGE;
        *connection_credit -= bytes + PART_CHARGE;
        self.writer.take().into_iter().for_each(Waker::wake);
        Some((Head::Data { stream, bytes }, part))
    }
}

fn credited(credit: u32, charge: u32, window: u32) -> Result<u32, Violation> {
    credit.checked_add(charge).filter(|credit| *credit <= window).ok_or(Violation::Credit)
}

#[cfg(test)]
mod tests;
