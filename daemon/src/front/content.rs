//! The answer to a GET of a content: a blob or manifest by its digest, or what a URL stands for.
//!
//! No byte goes out before the reader is admitted: see [`access`](crate::access). What a URL stands for is asked
//! about each time; that is its proof too.
//!
//! nydusd falls back on an error *before* the headers only, and hangs or fails on one after them. So a ranged
//! answer of up to 4 MiB starts when all of its bytes are in hand, or from 2.5 s on when its first 64 KiB are and
//! more keeps coming; else it is 503 at 3.5 s, and what has come is kept.
//!
//! An answer that has every byte of its content, be it 200 or 206, ends only when the whole digest is right.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_engine::store::Lent;
use darter_engine::{BLOCK_BYTES, Content, ContentId, Naming, Verification};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use tokio::time::Instant;

use super::Made;
use super::body::{AnswerBody, BodyError};
use super::ending::Came;
use super::possession;
use super::range::{Resolved, Wanted};
use super::reader::{Reader, Sources};
use super::route::Kind;
use super::trouble::Trouble;
use crate::fetch::{FetchError, FetchKey, Patience};
use crate::metrics::Source;
use crate::origin::{Ask, BlobAnswer, OriginError, Target};
use crate::trace::Kind as SpanKind;

/// Longest range that is answered only when it is whole.
pub const COLLECTED_BYTES_MAX: u64 = 4 << 20;
/// From then on a first block is enough to begin, if more keeps coming.
const BEGIN_AFTER: Duration = Duration::from_millis(2500);
/// Until then the answer must have begun. nydusd gives up at 5 s.
const FAIL_AFTER: Duration = Duration::from_millis(3500);
/// What has not brought a block for so long has stopped: a body that begins then would hang nydusd.
const MOVING_WITHIN: Duration = Duration::from_millis(500);
/// How often a range that is being collected looks for buffers that it can give back.
const GIVE_BACK_EVERY: Duration = Duration::from_millis(50);
/// Blocks from the network in hand at which it looks at once: 1 MiB.
const NETWORK_BLOCKS_KEPT: usize = 16;
/// The same for whole contents and long ranges, whose readers are patient.
const LONG_FAIL_AFTER: Duration = Duration::from_secs(30);
/// So much of a long answer is at hand when it begins at once: 1 MiB.
const FIRST_BYTES: u64 = 16 * BLOCK_BYTES as u64;

/// A request for a content, and whose.
#[derive(Debug)]
pub(super) struct ContentRequest {
    pub(super) id: ContentId,
    pub(super) kind: Kind,
    pub(super) target: Target,
    pub(super) wanted: Wanted,
    /// The version of which it is wanted (`If-Range`); of any other, the whole is.
    pub(super) of_version: Option<HeaderValue>,
    /// The rest of the content is to be brought too.
    pub(super) prefetch: bool,
}

impl ContentRequest {
    fn key(&self) -> FetchKey {
        FetchKey { id: self.id, scope: self.target.scope(), naming: self.kind.naming() }
    }

    /// What is wanted of this version (RFC 9110, section 13.1.5). What a digest names has only one.
    fn wanted_of(&self, content: &Content) -> Wanted {
        let is_other = |version: &HeaderValue| version != content.validator();
        match &self.of_version {
            Some(version) if content.naming() == Naming::Url && is_other(version) => Wanted::Whole,
            _ => self.wanted,
        }
    }

    /// What is asked for before the version is known.
    fn wanted_of_any(&self) -> Wanted {
        match &self.of_version {
            Some(_) if self.kind == Kind::Url => Wanted::Whole,
            _ => self.wanted,
        }
    }
}

/// What to do when the store cannot hold the content: the caller passes it through.
#[derive(Debug)]
pub(super) enum Outcome {
    Answer(Made),
    PassThrough,
}

/// Answers with the content's bytes.
pub(super) async fn answer(sources: &Sources, request: &ContentRequest) -> Result<Outcome, Trouble> {
    let started = Instant::now();
    let key = request.key();
    let is_short = match request.wanted {
        Wanted::Span { first, last } => last - first < COLLECTED_BYTES_MAX,
        Wanted::Suffix { bytes } => bytes <= COLLECTED_BYTES_MAX,
        Wanted::Whole | Wanted::From { .. } => false,
    };
    let fail_after = if is_short { FAIL_AFTER } else { LONG_FAIL_AFTER };
    let entering = tokio::time::timeout_at(started + fail_after, enter(sources, request));
    let Entered { content, is_new, has_asked } = match entering.await.map_err(|_| Trouble::Late)? {
        Err(Trouble::Fetch(FetchError::Unkeepable)) => return Ok(Outcome::PassThrough),
        Err(Trouble::Fetch(FetchError::Unsatisfiable { length_bytes })) => {
            return Ok(Outcome::Answer(Made::of(unsatisfiable(length_bytes), Source::Origin)));
        }
        entered => entered?,
    };
    if request.kind == Kind::Manifest && !names_a_manifest(content.media_type()) {
        return Ok(Outcome::PassThrough);
    }
    let length_bytes = content.layout().length_bytes();
    let bytes = match request.wanted_of(&content).resolve(length_bytes) {
        Resolved::Unsatisfiable => {
            return Ok(Outcome::Answer(Made::of(unsatisfiable(length_bytes), Source::Own)));
        }
        Resolved::Whole => None,
        Resolved::Part(bytes) => Some(bytes),
    };
    let head = head(&content, bytes.as_ref());
    let fetching = sources.access.to_fetch_with(&request.target);
    let mut reader = Reader::new(
        sources.clone(),
        content.clone(),
        key,
        fetching.clone(),
        bytes.clone().unwrap_or(0..length_bytes),
    );
    let all = bytes.as_ref().is_none_or(|bytes| *bytes == (0..length_bytes));
    if is_new {
        reader = reader.of_new();
    }
    if all && content.verification() != Verification::Passed {
        reader = reader.gated();
    }
    if request.prefetch && bytes.is_some() && content.held_pieces() < content.layout().piece_count() {
        sources.fetches.prefetch(&content, key, fetching.clone());
    }
    let collect = bytes.as_ref().is_some_and(|bytes| bytes.end - bytes.start <= COLLECTED_BYTES_MAX);
    if collect && !is_whole(&content) {
        sources.fetches.begin_boot(&content, key, &fetching);
    }
    if let Some(run) = bytes.filter(|_| collect).and_then(|bytes| content.layout().covering(&bytes)) {
        sources.fetches.read_lazily(&content, key, run, || fetching);
    }
    let parts = if collect {
        collected(&mut reader, started).await?
    } else {
        let first = tokio::time::timeout_at(started + LONG_FAIL_AFTER, reader.next());
        first.await.map_err(|_| Trouble::Late)??.map(|part| part.bytes).into_iter().collect()
    };
    let source = reader.source();
    let (body, came) = match reader.left_bytes() {
        0 => (AnswerBody::Parts(parts), None),
        _ => {
            let (body, came) = streamed(parts, reader);
            (body, Some(came))
        }
    };
    Ok(Outcome::Answer(Made { answer: head.map(|()| body), source, has_asked, came }))
}

/// An answer all of whose beginning is at hand.
#[derive(Debug)]
pub(super) struct AtHand {
    pub(super) content: Arc<Content>,
    /// These of its bytes, as 206; all of them, as 200.
    pub(super) bytes: Option<Range<u64>>,
    /// What follows the slices that were lent, and where that comes from.
    pub(super) rest: Option<(AnswerBody, Came)>,
}

impl AtHand {
    /// Of the whole answer.
    pub(super) fn body_bytes(&self) -> u64 {
        self.bytes.as_ref().map_or(self.content.layout().length_bytes(), |bytes| bytes.end - bytes.start)
    }
}

/// The answer to a GET of what a digest names, if it can begin at once: the reader is let in, and what [`answer`]
/// would wait for before the headers is in memory. Slices of it are added to `lent`. Else `None`, and nothing has
/// happened.
pub(super) fn at_hand(
    sources: &Sources,
    request: &ContentRequest,
    wanted: Wanted,
    lent: &mut Vec<Lent>,
) -> Option<AtHand> {
    let Sources { store, access, origin, answers, .. } = sources;
    let (id, target) = (&request.id, &request.target);
    let content = store.find(id, target.scope())?;
    let length_bytes = content.layout().length_bytes();
    let bytes = match wanted.resolve(length_bytes) {
        Resolved::Unsatisfiable => return None,
        Resolved::Whole => None,
        Resolved::Part(bytes) => Some(bytes),
    };
    let span = bytes.clone().unwrap_or(0..length_bytes);
    let is_all = span == (0..length_bytes);
    let is_right_kind = request.kind == Kind::Blob
        || request.kind == Kind::Manifest && names_a_manifest(content.media_type());
    let would_prefetch =
        request.prefetch && bytes.is_some() && content.held_pieces() < content.layout().piece_count();
    if content.naming() != Naming::Digest
        || !is_right_kind
        || would_prefetch
        || is_all && content.verification() != Verification::Passed
        || !access.is_vouched_for(target, &content)
        || !access.admits_at_once(origin, target, id)
    {
        return None;
    }
    let is_short = bytes.is_some() && span.end - span.start <= COLLECTED_BYTES_MAX;
    let first = if is_short { span.clone() } else { span.start..span.end.min(span.start + FIRST_BYTES) };
    if !store.lend(&content, target.scope(), first.clone(), lent) {
        return None;
    }
    answers.body(Source::Cache, (first.end - first.start) as usize);
    if let Some(run) = content.layout().covering(&span).filter(|_| is_short) {
        let fetching = || access.to_fetch_with(target);
        sources.fetches.read_lazily(&content, request.key(), run, fetching);
    }
    let rest = (first.end < span.end).then(|| {
        let fetching = access.to_fetch_with(target);
        let reader =
            Reader::new(sources.clone(), content.clone(), request.key(), fetching, first.end..span.end);
        streamed(VecDeque::new(), reader)
    });
    Some(AtHand { content, bytes, rest })
}

/// The answer to a HEAD, if what is asked for is known here and this reader may read it; else the registry answers.
pub(super) fn known_head(sources: &Sources, request: &ContentRequest) -> Option<Response<AnswerBody>> {
    let is_by_digest = request.kind.naming() == Naming::Digest;
    let content = sources.store.find(&request.id, request.target.scope()).filter(|_| is_by_digest)?;
    let is_right_kind = request.kind != Kind::Manifest || names_a_manifest(content.media_type());
    let is_granted = is_right_kind
        && sources.access.is_granted(&request.target, &request.id)
        && sources.access.is_vouched_for(&request.target, &content);
    is_granted.then(|| head(&content, None).map(|()| AnswerBody::empty()))
}

/// A content, for a reader that may read it.
struct Entered {
    content: Arc<Content>,
    /// It had to be described.
    is_new: bool,
    /// Somebody had to be asked, about the content or about the reader.
    has_asked: bool,
}

async fn enter(sources: &Sources, request: &ContentRequest) -> Result<Entered, Trouble> {
    let Sources { store, access, origin, fetches, .. } = sources;
    let (id, target) = (&request.id, &request.target);
    let found = match store.find(id, target.scope()) {
        Some(found) if request.kind == Kind::Url => still_current(sources, request, found).await?,
        Some(found) => {
            let has_asked = !access.is_granted(target, id) || !access.is_vouched_for(target, &found);
            access.admit(origin, target, id).await?;
            if !possession::is_shown(sources, target, &found).await? {
                return Err(FetchError::Unkeepable.into());
            }
            return Ok(Entered { content: found, is_new: false, has_asked });
        }
        None => None,
    };
    if let Some(content) = found {
        return Ok(Entered { content, is_new: false, has_asked: true });
    }
    if let Some(verdict) = access.refusal(target, id) {
        return Err(FetchError::Verdict(verdict).into());
    }
    let mut span = target.trace().span("describe", SpanKind::Internal);
    span.set("darter.content", || id.to_string());
    let fetching = access.to_fetch_with(target).within(span.trace());
    let as_anyone = fetching.claim() != target.claim();
    let described = match fetches.describe(request.key(), fetching, request.wanted_of_any()).await {
        // What anyone gets has ended meanwhile; the reader's own credential may still be good.
        Err(FetchError::Verdict(_)) if as_anyone => {
            let target = target.clone().within(span.trace());
            fetches.describe(request.key(), target, request.wanted_of_any()).await
        }
        described => described,
    };
    let content = described.inspect_err(|error| span.fail(error))?;
    drop(span);
    // Described for whoever asked first; that may have been another reader.
    access.admit(origin, target, id).await?;
    Ok(Entered { content, is_new: true, has_asked: true })
}

/// Asks the registry, with the reader's own credential, whether the URL still stands for the same bytes.
async fn still_current(
    sources: &Sources,
    request: &ContentRequest,
    found: Arc<Content>,
) -> Result<Option<Arc<Content>>, Trouble> {
    let (first_byte, mut patience) = (Ask::Span { first: 0, last: 0 }, Patience::new());
    let answer = loop {
        match sources.origin.blob(&request.target, first_byte, None).await {
            Err(OriginError::Unreachable { .. }) if patience.wait_once().await => {}
            Ok((BlobAnswer::Verdict(verdict), _)) if patience.wait(&verdict).await => {}
            answer => break answer.map_err(FetchError::from)?.0,
        }
    };
    let (is_same, proven) = match answer {
        BlobAnswer::Bytes(stream) => {
            let is_same =
                stream.length_bytes == found.layout().length_bytes() && stream.validator == found.validator();
            (is_same, true)
        }
        BlobAnswer::Unsatisfied { length_bytes } => {
            (length_bytes == 0 && found.layout().length_bytes() == 0, true)
        }
        BlobAnswer::NoLength => (false, true),
        BlobAnswer::Verdict(verdict) => return Err(FetchError::Verdict(Arc::new(verdict)).into()),
    };
    if proven {
        sources.access.prove(&sources.origin, &request.target, Some(&request.id));
    }
    if !is_same {
        tracing::info!(content = %request.id, url = %request.target.url().path(), "changed at its origin; it is fetched anew");
        sources.store.remove(&found);
    }
    Ok(is_same.then_some(found))
}

/// All bytes of a short range, or its beginning when the time has come to answer.
async fn collected(reader: &mut Reader, started: Instant) -> Result<VecDeque<Bytes>, Trouble> {
    let mut collecting =
        Collecting { started, enough: u64::from(BLOCK_BYTES).min(reader.left_bytes()), in_hand: 0 };
    let mut parts = VecDeque::new();
    while reader.left_bytes() > 0 {
        let now = Instant::now();
        match collecting.next(now, reader.arrived_at()) {
            Next::Begin => break,
            Next::Fail => return Err(Trouble::Late),
            Next::WaitUntil(deadline) => {
                let look = deadline.min(now + GIVE_BACK_EVERY);
                let waited = match tokio::time::timeout_at(look, reader.next()).await {
                    Ok(part) => {
                        let Some(part) = part? else { break };
                        collecting.in_hand += part.bytes.len() as u64;
                        parts.push_back(part);
                        false
                    }
                    Err(_) => true,
                };
                if waited || parts.iter().filter(|part| part.from_network).count() > NETWORK_BLOCKS_KEPT {
                    let _ = tokio::time::timeout_at(deadline, reader.give_back(&mut parts)).await;
                }
            }
        }
    }
    Ok(parts.into_iter().map(|part| part.bytes).collect())
}

/// When the answer to a short range begins: pure.
struct Collecting {
    started: Instant,
    /// Bytes without which no answer begins before its end.
    enough: u64,
    in_hand: u64,
}

#[derive(PartialEq, Eq, Debug)]
enum Next {
    WaitUntil(Instant),
    Begin,
    Fail,
}

impl Collecting {
    fn next(&self, now: Instant, arrived_at: Option<Instant>) -> Next {
        let begin_at = self.started + BEGIN_AFTER;
        let fail_at = self.started + FAIL_AFTER;
        let is_moving = arrived_at.is_some_and(|arrived_at| now < arrived_at + MOVING_WITHIN);
        match () {
            () if now >= begin_at && self.in_hand >= self.enough && is_moving => Next::Begin,
            () if now >= fail_at => Next::Fail,
            () if now >= begin_at => Next::WaitUntil(fail_at),
            () => Next::WaitUntil(begin_at),
        }
    }
}

/// A reader of the rest of an answer, which tells where what it has read came from.
struct Telling {
    reader: Reader,
    came: Came,
}

impl Telling {
    async fn next(&mut self) -> Result<Option<Bytes>, Trouble> {
        let part = self.reader.next().await;
        self.came.set(self.reader.source());
        Ok(part?.map(|part| part.bytes))
    }
}

impl Drop for Telling {
    /// Who leaves in the middle may have waited for something that was not in the store.
    fn drop(&mut self) {
        self.came.set(self.reader.source());
    }
}

fn streamed(parts: VecDeque<Bytes>, reader: Reader) -> (AnswerBody, Came) {
    let in_hand: u64 = parts.iter().map(|part| part.len() as u64).sum();
    let left_bytes = Some(in_hand + reader.left_bytes());
    let came = Came::from(reader.source());
    // The answer goes on when its request is no longer the one that is logged about.
    let request = tracing::Span::current();
    let telling = Telling { reader, came: came.clone() };
    let rest = futures_util::stream::try_unfold((telling, request), async |(mut telling, request)| {
        match telling.next().await {
            Ok(part) => Ok(part.map(|part| (part, (telling, request)))),
            Err(trouble) => {
                tracing::warn!(parent: &request, %trouble, "an answer ends before its time");
                Err(BodyError(trouble.to_string()))
            }
        }
    });
    let parts = futures_util::stream::iter(parts).map(Ok).chain(rest).boxed_local();
    (AnswerBody::Stream { parts, left_bytes }, came)
}

fn head(content: &Content, bytes: Option<&Range<u64>>) -> Response<()> {
    let mut answer = Response::new(());
    let mut headers = HeaderMap::with_capacity(10);
    each_field(content, bytes, |name, value| _ = headers.insert(name, text(value.to_string())));
    if bytes.is_some() {
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    *answer.headers_mut() = headers;
    answer
}

/// The fields of the head of an answer with these bytes of a content, or with all.
pub(super) fn each_field(
    content: &Content,
    bytes: Option<&Range<u64>>,
    mut put: impl FnMut(HeaderName, fmt::Arguments<'_>),
) {
    let length_bytes = content.layout().length_bytes();
    let is_value = |text: &str| text.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte));
    let media_type = Some(content.media_type()).filter(|text| !text.is_empty() && is_value(text));
    put(header::CONTENT_TYPE, format_args!("{}", media_type.unwrap_or("application/octet-stream")));
    put(header::ACCEPT_RANGES, format_args!("bytes"));
    match (content.naming(), content.validator()) {
        (Naming::Digest, _) => {
            put(HeaderName::from_static("docker-content-digest"), format_args!("sha256:{}", content.id()));
        }
        (Naming::Url, tag) if tag.starts_with('"') => put(header::ETAG, format_args!("{tag}")),
        (Naming::Url, date) => put(header::LAST_MODIFIED, format_args!("{date}")),
    }
    put(HeaderName::from_static("x-dragonfly-task-id"), format_args!("{}", content.id()));
    let finished = is_whole(content);
    put(HeaderName::from_static("x-dragonfly-task-download-finished"), format_args!("{finished}"));
    if let Some(Range { start, end }) = bytes {
        put(header::CONTENT_RANGE, format_args!("bytes {start}-{}/{length_bytes}", end - 1));
    }
    let body_bytes = bytes.map_or(length_bytes, |bytes| bytes.end - bytes.start);
    put(header::CONTENT_LENGTH, format_args!("{body_bytes}"));
}

/// Whether all of it is here.
fn is_whole(content: &Content) -> bool {
    let all_pieces = content.held_pieces() == content.layout().piece_count();
    all_pieces && matches!(content.verification(), Verification::Passed | Verification::Unprovable)
}

/// A registry calls the bytes of a manifest that was first asked for as a blob just octets.
fn names_a_manifest(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    essence.ends_with("json") || essence.ends_with("prettyjws")
}

fn unsatisfiable(length_bytes: u64) -> Response<AnswerBody> {
    let mut answer = Response::new(AnswerBody::empty());
    *answer.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    answer.headers_mut().insert(header::CONTENT_RANGE, text(format!("bytes */{length_bytes}")));
    answer
}

/// Digits, hexadecimal digits and ASCII words: always a valid header value.
fn text(value: String) -> HeaderValue {
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_range_begins_early_only_while_bytes_keep_coming() {
        let started = Instant::now();
        let at = |ms| started + Duration::from_millis(ms);
        let check = |in_hand, now, arrived_ms: Option<u64>, expected| {
            let collecting = Collecting { started, enough: 65_536, in_hand };
            assert_eq!(collecting.next(at(now), arrived_ms.map(at)), expected, "{in_hand} at {now} ms");
        };
        check(65_536, 0, None, Next::WaitUntil(at(2500)));
        check(65_536, 2499, Some(2499), Next::WaitUntil(at(2500)));
        check(65_536, 2500, Some(2400), Next::Begin);
        check(65_536, 3200, Some(3200), Next::Begin);
        // The first block was in the store, and the registry hangs.
        check(65_536, 2500, None, Next::WaitUntil(at(3500)));
        check(65_536, 3500, None, Next::Fail);
        // The registry sent 70 KB and then nothing.
        check(65_536, 2500, Some(10), Next::WaitUntil(at(3500)));
        check(65_536, 3500, Some(10), Next::Fail);
        check(65_535, 2600, Some(2600), Next::WaitUntil(at(3500)));
    }
}
