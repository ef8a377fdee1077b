//! Answers that begin at once: what nydusd asks hundreds of times on one connection.
//!
//! A connection remembers what it was asked last. The same head again, to the byte but for the value of `Range`, is
//! about the same content, with the same claim: so it is neither parsed nor routed a second time. Everything that may
//! change meanwhile is looked at each time: the policy, whether the content is there and whose, the proof, the blocks.

use std::fmt;
use std::io::{IoSlice, Write as _};
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use bytes::Buf;
use darter_engine::store::Lent;
use http::{Method, StatusCode};

use super::body::AnswerBody;
use super::content::{self, AtHand, ContentRequest};
use super::ending::Ending;
use super::head::PlainGet;
use super::range::Wanted;
use super::{Begins, Fronts};
use crate::metrics::Source;

/// The longest head that a connection remembers: what clients that mean well send.
const REMEMBERED_BYTES_MAX: usize = 4 << 10;

/// Answers one connection's requests from what is at hand.
#[derive(Debug)]
pub(super) struct Responder {
    fronts: Rc<Fronts>,
    asked: Option<Box<Asked>>,
    date: Date,
}

/// What was asked last.
#[derive(Debug)]
struct Asked {
    /// Of [`Fronts::changes`].
    change: u64,
    content: ContentRequest,
    head: HeadButRange,
}

/// A head but for the value of `Range`.
#[derive(Debug)]
struct HeadButRange {
    /// All of it if there is no `Range`.
    before: Box<[u8]>,
    after: Box<[u8]>,
}

/// An answer to be sent. Its buffers are used again.
#[derive(Default)]
pub(super) struct Answer {
    pub(super) head: Vec<u8>,
    pub(super) lent: Vec<Lent>,
    pub(super) rest: Option<AnswerBody>,
    pub(super) ending: Option<Ending>,
}

impl Responder {
    pub(super) fn new(fronts: Rc<Fronts>) -> Self {
        Self { fronts, asked: None, date: Date::default() }
    }

    /// Makes the answer to the request at the beginning of the bytes, and says how long its head is. `None` if that
    /// is none to be answered at once: nothing has happened then, and somebody else answers.
    pub(super) fn answer(&mut self, bytes: &[u8], answer: &mut Answer) -> Option<usize> {
        let started = Instant::now();
        let front = self.fronts.now();
        let change = self.fronts.changes();
        let last = self.asked.take().filter(|asked| asked.change == change);
        let again = last.and_then(|asked| Some((asked.head.again(bytes)?, asked)));
        let ((head_bytes, wanted), asked) = match again {
            Some(again) => again,
            None => {
                let get = PlainGet::read(bytes)?;
                let content = front.content_of(&get)?;
                let asked = Box::new(Asked { change, content, head: HeadButRange::of(&get, bytes) });
                let range = get.range.map(|range| &bytes[range]);
                let wanted = Wanted::parse(range.and_then(|value| std::str::from_utf8(value).ok()));
                ((get.head_bytes, wanted), asked)
            }
        };
        let found = content::at_hand(&front.sources, &asked.content, wanted, &mut answer.lent);
        if let Some(found) = found {
            let status = self.date.write_head(&found, &mut answer.head);
            let target = &asked.content.target;
            let begins = Begins {
                method: &Method::GET,
                path: target.url().path(),
                registry: Some(target.registry()),
                started,
                source: Source::Cache,
                status,
                has_asked: false,
                body_bytes: Some(found.body_bytes()),
                trouble: None,
                id: None,
                span: front.tracer.request_without_context(started),
            };
            let (rest, came) = found.rest.unzip();
            answer.rest = rest;
            answer.ending = Some(front.begin(begins, came));
            self.remember(asked, head_bytes);
            return Some(head_bytes);
        }
        self.remember(asked, head_bytes);
        None
    }

    fn remember(&mut self, asked: Box<Asked>, head_bytes: usize) {
        self.asked = (head_bytes <= REMEMBERED_BYTES_MAX).then_some(asked);
    }
}

impl HeadButRange {
    fn of(get: &PlainGet, bytes: &[u8]) -> Self {
        let head = &bytes[..get.head_bytes];
        let range = get.range.clone().unwrap_or(head.len()..head.len());
        Self { before: head[..range.start].into(), after: head[range.end..].into() }
    }

    /// If the bytes begin with the same head but for the range: its length, and what is wanted.
    fn again(&self, bytes: &[u8]) -> Option<(usize, Wanted)> {
        let rest = bytes.strip_prefix(&self.before[..])?;
        if self.after.is_empty() {
            return Some((self.before.len(), Wanted::Whole));
        }
        let is_of_value = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'=' | b'-');
        let value_bytes = rest.iter().take_while(|byte| is_of_value(byte)).count();
        let (value, rest) = rest.split_at(value_bytes);
        rest.starts_with(&self.after).then_some(())?;
        let wanted = Wanted::parse(Some(std::str::from_utf8(value).ok()?));
        Some((self.before.len() + value_bytes + self.after.len(), wanted))
    }
}

impl Answer {
    /// Gives everything back but the room.
    pub(super) fn clear(&mut self) {
        self.head.clear();
        self.lent.clear();
        self.rest = None;
        self.ending = None;
    }

    /// What is to be sent before the rest.
    pub(super) fn unsent(&self) -> Unsent<'_> {
        let body_bytes: usize = self.lent.iter().map(|lent| lent.as_ref().len()).sum();
        Unsent { head: &self.head, lent: &self.lent, skipped: 0, left_bytes: self.head.len() + body_bytes }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({:?}, {:?})", self.lent, self.rest)
    }
}

/// Head and slices of an answer that are not sent yet.
pub(super) struct Unsent<'a> {
    head: &'a [u8],
    lent: &'a [Lent],
    /// Of the first slice, that are sent.
    skipped: usize,
    left_bytes: usize,
}

impl Buf for Unsent<'_> {
    fn remaining(&self) -> usize {
        self.left_bytes
    }

    fn chunk(&self) -> &[u8] {
        match self.lent {
            [first, ..] if self.head.is_empty() => &first.as_ref()[self.skipped..],
            _ => self.head,
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let head = (!self.head.is_empty()).then_some(self.head);
        let skips = std::iter::once(self.skipped).chain(std::iter::repeat(0));
        let lent = self.lent.iter().zip(skips).map(|(lent, skipped)| &lent.as_ref()[skipped..]);
        slices
            .iter_mut()
            .zip(head.into_iter().chain(lent))
            .map(|(slice, part)| *slice = IoSlice::new(part))
            .count()
    }

    fn advance(&mut self, bytes: usize) {
        assert!(bytes <= self.left_bytes, "{bytes} of {} bytes", self.left_bytes);
        self.left_bytes -= bytes;
        let of_head = bytes.min(self.head.len());
        self.head = &self.head[of_head..];
        self.skipped += bytes - of_head;
        while let [first, rest @ ..] = self.lent
            && self.skipped >= first.as_ref().len()
        {
            self.skipped -= first.as_ref().len();
            self.lent = rest;
        }
    }
}

/// `Date` of answers, written once in a second.
#[derive(Debug, Default)]
struct Date {
    unix_s: u64,
    text: String,
}

impl Date {
    fn write_head(&mut self, found: &AtHand, head: &mut Vec<u8>) -> StatusCode {
        let status = if found.bytes.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        let now = SystemTime::now();
        let unix_s = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_secs());
        if unix_s != self.unix_s || self.text.is_empty() {
            *self = Self { unix_s, text: httpdate::fmt_http_date(now) };
        }
        head.clear();
        let reason = status.canonical_reason().unwrap_or_default();
        // Writing into memory does not fail.
        let _ = write!(head, "HTTP/1.1 {} {reason}\r\n", status.as_str());
        content::each_field(&found.content, found.bytes.as_ref(), |name, value| {
            let _ = write!(head, "{name}: {value}\r\n");
        });
        let _ = write!(head, "date: {}\r\n\r\n", self.text);
        status
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A second head is the same as a first one only if reading it says so too.
    fn check(first: &[u8], second: &[u8], is_same: bool) {
        let get = PlainGet::read(first).expect("a plain GET");
        let again = HeadButRange::of(&get, first).again(second);
        assert_eq!(again.is_some(), is_same, "{:?}", String::from_utf8_lossy(second));
        agree(&get, second, again);
    }

    fn agree(first: &PlainGet, second: &[u8], again: Option<(usize, Wanted)>) {
        let Some((head_bytes, wanted)) = again else { return };
        let mut read = PlainGet::read(second).expect("a plain GET too");
        let range = read.range.take().map(|range| std::str::from_utf8(&second[range]).unwrap());
        assert_eq!((read.head_bytes, Wanted::parse(range)), (head_bytes, wanted));
        let mut first = first.clone();
        first.headers.remove(http::header::RANGE);
        read.headers.remove(http::header::RANGE);
        assert_eq!((read.uri, read.headers), (first.uri, first.headers));
    }

    #[test]
    fn the_same_head_with_another_range_is_known_again() {
        let first = b"GET /a HTTP/1.1\r\nRange: bytes=0-1\r\nHost: x\r\n\r\n";
        check(first, b"GET /a HTTP/1.1\r\nRange: bytes=1000-\r\nHost: x\r\n\r\nGET /b", true);
        check(first, b"GET /a HTTP/1.1\r\nRange: bytes=-5\r\nHost: x\r\n\r\n", true);
        check(first, b"GET /a HTTP/1.1\r\nRange: bytes=0-1\r\nHost: y\r\n\r\n", false);
        check(first, b"GET /b HTTP/1.1\r\nRange: bytes=0-1\r\nHost: x\r\n\r\n", false);
        check(first, b"GET /a HTTP/1.1\r\nRange: bytes=0-1\r\nHost: x\r\nA: b\r\n\r\n", false);
        check(first, b"GET /a HTTP/1.1\r\nRange: bytes=0-1\r\nHost: x\r\n", false);
        check(first, b"GET /a HTTP/1.1\r\nRange: bytes=0-1\r\nX: y\r\nHost: x\r\n\r\n", false);
        let whole = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
        check(whole, &whole[..], true);
        check(whole, b"GET /a HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1\r\n\r\n", false);
    }

    proptest! {
        #[test]
        fn what_is_known_again_reads_the_same(value in "[ -~\r\n\t]{0,30}|bytes=[0-9]{0,3}-[0-9]{0,3}", rest: Vec<u8>) {
            let first = b"GET /a HTTP/1.1\r\nRange: bytes=0-1\r\nHost: x\r\n\r\n";
            let get = PlainGet::read(first).unwrap();
            let head = format!("GET /a HTTP/1.1\r\nRange: {value}\r\nHost: x\r\n\r\n");
            let second = [head.as_bytes(), &rest].concat();
            agree(&get, &second, HeadButRange::of(&get, first).again(&second));
        }
    }
}
