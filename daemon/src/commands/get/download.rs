//! One content into one file: asked for from where the last run, or the last cut, has left off.

use std::path::PathBuf;
use std::time::Duration;

use darter_engine::ContentId;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{sleep, timeout};

use super::part::{Part, Source, digest_of, part_path};
use super::progress::Progress;
use super::session::{SILENCE, Session, Trying};
use crate::commands::CommandError;
use crate::objects::Place;
use crate::origin::content_range::{ContentRange, number};
use crate::origin::innermost;

/// Tries in a row that bring nothing.
const TRIES_MAX: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest that a server's `Retry-After` is waited for.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What is wanted, and where.
#[derive(Clone, Debug)]
pub(super) struct Download {
    pub(super) place: Place,
    /// The digest that the bytes must have.
    pub(super) id: Option<ContentId>,
    /// The length that they must have.
    pub(super) length_bytes: Option<u64>,
    pub(super) path: PathBuf,
}

/// What has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) id: ContentId,
    pub(super) length_bytes: u64,
    pub(super) resumed_from_bytes: u64,
    pub(super) already_there: bool,
}

/// Brings the content into its file.
pub(super) async fn download(
    session: &Session,
    wanted: &Download,
    progress: &Progress,
) -> Result<Done, CommandError> {
    if let Some(done) = already_there(wanted).await {
        progress.expect(done.length_bytes);
        progress.found(done.length_bytes);
        return Ok(done);
    }
    let source = wanted.id.map_or_else(|| Source::url(&wanted.place.name()), Source::digest);
    let (path, named) = (wanted.path.clone(), source.clone());
    let mut part = blocking(move || Part::open(&path, &named)).await??;
    let mut length_bytes = wanted.length_bytes;
    if length_bytes.is_some_and(|length| part.bytes() > length) {
        part.restart(source.clone())?;
    }
    let mut resumed_from_bytes = part.bytes();
    progress.found(part.bytes());
    if let Some(length) = length_bytes {
        progress.expect(length);
    }
    let mut tries = 0;
    loop {
        let whole = length_bytes == Some(part.bytes());
        if !whole {
            let before = part.bytes();
            let tried = try_once(session, wanted, &source, &mut length_bytes, part, progress).await?;
            part = tried.part;
            if part.bytes() < before || tried.restarted {
                resumed_from_bytes = 0;
            }
            if let Some(cut) = tried.cut {
                tries = if part.bytes() > before { 0 } else { tries + 1 };
                if tries >= TRIES_MAX {
                    return Err(CommandError::Failed(match part.bytes() {
                        0 => format!("{cut}; nothing has come of {}", wanted.place.shown()),
                        _ => format!(
                            "{cut}; {} has what has come: the same command goes on from there",
                            part_path(&wanted.path).display()
                        ),
                    }));
                }
                pause(tries, tried.pause).await;
                continue;
            }
        }
        let id = part.id();
        if wanted.id.is_none_or(|wanted| wanted == id) {
            let done = Done { id, length_bytes: part.bytes(), resumed_from_bytes, already_there: false };
            blocking(move || part.finish()).await??;
            return Ok(done);
        }
        if resumed_from_bytes == 0 {
            part.discard();
            return Err(CommandError::WrongBytes(format!(
                "{} has other bytes than its digest says (these have sha256:{id}); nothing of it is kept",
                wanted.place.shown()
            )));
        }
        // What an earlier run has left may be what is wrong, as after a power failure.
        progress.lost(part.bytes());
        part.restart(source.clone())?;
        resumed_from_bytes = 0;
    }
}

/// A file of that digest under the final name.
async fn already_there(wanted: &Download) -> Option<Done> {
    let (path, id) = (wanted.path.clone(), wanted.id?);
    let (found, length_bytes) = blocking(move || digest_of(&path)).await.ok()??;
    (found == id).then_some(Done { id, length_bytes, resumed_from_bytes: 0, already_there: true })
}

/// One request, as far as it went.
struct Tried {
    part: Part,
    /// The part had to begin anew.
    restarted: bool,
    /// Why that was not the end, unless it was.
    cut: Option<String>,
    /// What the server asks us to wait.
    pause: Option<Duration>,
}

async fn try_once(
    session: &Session,
    wanted: &Download,
    source: &Source,
    length_bytes: &mut Option<u64>,
    mut part: Part,
    progress: &Progress,
) -> Result<Tried, CommandError> {
    if part.bytes() > 0 && !part.source().can_be_joined() {
        progress.lost(part.bytes());
        part.restart(source.clone())?;
    }
    let kept = part.bytes();
    let mut headers = wanted.place.headers().clone();
    if kept > 0 {
        let range = HeaderValue::try_from(format!("bytes={kept}-"));
        headers.insert(header::RANGE, range.map_err(|error| CommandError::Failed(error.to_string()))?);
        if let Some(validator) = part.source().validator().and_then(|text| HeaderValue::try_from(text).ok()) {
            headers.insert(header::IF_RANGE, validator);
        }
    }
    let answer = match session.get(wanted.place.url(), &headers).await {
        Ok(answer) => answer,
        Err(Trying::No(error)) => return Err(error),
        Err(Trying::Again(cut, pause)) => return Ok(Tried { part, restarted: false, cut: Some(cut), pause }),
    };
    let begins = match Begins::read(&answer, kept) {
        Ok(begins) => begins,
        Err(why) => return Err(CommandError::Failed(format!("{} answers {why}", wanted.place.shown()))),
    };
    let mut restarted = false;
    let total = match begins {
        Begins::Whole { length } => {
            progress.lost(kept);
            let validator = wanted.id.is_none().then(|| validator_of(answer.headers())).flatten();
            part.restart(source.with_validator(validator))?;
            restarted = kept > 0;
            length
        }
        Begins::Rest { length } => length,
        Begins::NothingMore => {
            *length_bytes = Some(kept);
            return Ok(Tried { part, restarted, cut: None, pause: None });
        }
        Begins::Elsewhere => {
            progress.lost(kept);
            part.restart(source.clone())?;
            let cut = Some("the content there is shorter than what has come".to_owned());
            return Ok(Tried { part, restarted: true, cut, pause: None });
        }
    };
    if let Some(total) = total {
        if wanted.length_bytes.is_some_and(|wanted| wanted != total) {
            part.discard();
            return Err(CommandError::WrongBytes(format!(
                "{} has {total} bytes and should have {}; nothing of it is kept",
                wanted.place.shown(),
                wanted.length_bytes.unwrap_or_default()
            )));
        }
        if length_bytes.is_none() {
            progress.expect(total);
        }
        *length_bytes = Some(total);
    }
    let (part, cut) = append(answer, part, *length_bytes, progress).await?;
    Ok(Tried { part, restarted, cut, pause: None })
}

/// Appends the body, at most up to `length_bytes`. Why it ended early, if it did.
async fn append(
    answer: Response<Incoming>,
    part: Part,
    length_bytes: Option<u64>,
    progress: &Progress,
) -> Result<(Part, Option<String>), CommandError> {
    let mut left = length_bytes.map(|length| length.saturating_sub(part.bytes()));
    let (writer, appending) = part.append();
    let mut body = answer.into_body();
    let cut = loop {
        let frame = match timeout(SILENCE, body.frame()).await {
            Err(_) => break Some(format!("nothing came for {} s", SILENCE.as_secs())),
            Ok(None) => break left.filter(|left| *left > 0).map(|_| "the body ended early".to_owned()),
            Ok(Some(Err(error))) => break Some(format!("the connection broke: {}", innermost(&error))),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(bytes) = frame.into_data() else { continue };
        let count = bytes.len() as u64;
        if let Some(left) = &mut left {
            let Some(fewer) = left.checked_sub(count) else {
                break Some("more bytes came than were announced".to_owned());
            };
            *left = fewer;
        }
        progress.came(count);
        // A thread that could not write has ended, and says why when it is waited for.
        if writer.send(bytes).await.is_err() {
            break None;
        }
    };
    drop(writer);
    Ok((appending.end().await?, cut))
}

/// Where the body of an answer begins, and how long the whole is, if that is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Begins {
    /// At the first byte.
    Whole { length: Option<u64> },
    /// Where we asked.
    Rest { length: Option<u64> },
    /// We have it all.
    NothingMore,
    /// We have more than there is.
    Elsewhere,
}

impl Begins {
    fn read(answer: &Response<Incoming>, kept: u64) -> Result<Self, String> {
        Self::of(answer.status(), answer.headers(), kept)
    }

    fn of(status: StatusCode, headers: &HeaderMap, kept: u64) -> Result<Self, String> {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let range = text(header::CONTENT_RANGE).and_then(ContentRange::parse);
        match (status, range) {
            (StatusCode::OK, _) => Ok(Self::Whole { length: text(header::CONTENT_LENGTH).and_then(number) }),
            (StatusCode::PARTIAL_CONTENT, Some(ContentRange::Part { bytes, length_bytes }))
                if bytes.start == kept
                    && kept > 0
                    && length_bytes.is_none_or(|length| length == bytes.end) =>
            {
                Ok(Self::Rest { length: length_bytes })
            }
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(ContentRange::Unsatisfied { length_bytes }))
                if kept > 0 =>
            {
                Ok(if length_bytes == kept { Self::NothingMore } else { Self::Elsewhere })
            }
            _ => Err(format!("{status} to a request for the bytes from {kept} on, with another range")),
        }
    }
}

/// What makes sure that a later part is one of the same bytes (RFC 9110, section 13.1.5).
fn validator_of(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let etag = text(header::ETAG).filter(|etag| etag.starts_with('"'));
    etag.or_else(|| text(header::LAST_MODIFIED)).map(str::to_owned)
}

/// Before the next try: as long as was asked for, or longer each time.
pub(in crate::commands) async fn pause(tries: u32, asked: Option<Duration>) {
    sleep(asked.unwrap_or(FIRST_PAUSE * 2u32.pow(tries.min(8))).min(PAUSE_MAX)).await;
}

/// Runs what blocks on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CommandError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| CommandError::Failed("a thread ended by a panic".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: u16, headers: &[(&'static str, &str)], kept: u64, expected: Option<Begins>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let seen = Begins::of(StatusCode::from_u16(status).unwrap(), &map, kept);
        assert_eq!(seen.ok(), expected, "{status} {headers:?} {kept}");
    }

    #[test]
    fn answers_are_what_was_asked_for_or_the_whole() {
        check(200, &[("content-length", "9")], 0, Some(Begins::Whole { length: Some(9) }));
        check(200, &[], 5, Some(Begins::Whole { length: None }));
        check(206, &[("content-range", "bytes 5-8/9")], 5, Some(Begins::Rest { length: Some(9) }));
        check(206, &[("content-range", "bytes 5-8/*")], 5, Some(Begins::Rest { length: None }));
        check(206, &[("content-range", "bytes 4-8/9")], 5, None);
        check(206, &[("content-range", "bytes 5-7/9")], 5, None);
        check(206, &[("content-range", "bytes 0-8/9")], 0, None);
        check(206, &[], 5, None);
        check(416, &[("content-range", "bytes */5")], 5, Some(Begins::NothingMore));
        check(416, &[("content-range", "bytes */4")], 5, Some(Begins::Elsewhere));
        check(416, &[], 5, None);
        check(416, &[("content-range", "bytes */0")], 0, None);
    }

    #[test]
    fn only_strong_validators_join_parts() {
        let with = |name: &'static str, value: &str| {
            let headers = HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
            validator_of(&headers)
        };
        assert_eq!(with("etag", "\"a\""), Some("\"a\"".into()));
        assert_eq!(with("etag", "W/\"a\""), None);
        assert_eq!(
            with("last-modified", "Tue, 15 Nov 1994 12:45:26 GMT"),
            Some("Tue, 15 Nov 1994 12:45:26 GMT".into())
        );
    }
}
