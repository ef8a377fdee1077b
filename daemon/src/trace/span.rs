//! Something that takes time, and what it is a part of.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::chance;
use super::context::TraceContext;
use super::tracer::Recorder;

/// Characters of a text that are recorded. What a client sends may have 32 KiB.
const TEXT_CHARS_MAX: usize = 300;

/// What follows from something is a part of it: nothing where that is not recorded.
#[derive(Clone, Default)]
pub(crate) struct Trace(Option<Arc<Place>>);

struct Place {
    recorder: Recorder,
    context: TraceContext,
    /// The span is another process's.
    is_remote: bool,
}

/// Something that is recorded when it ends, which is when it is dropped; or something that is not recorded.
#[derive(Default)]
pub(crate) struct Span(Option<Box<Recording>>);

struct Recording {
    recorder: Recorder,
    since: Instant,
    record: Record,
}

/// A span that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(super) name: Cow<'static, str>,
    pub(super) kind: Kind,
    pub(super) context: TraceContext,
    pub(super) parent: Option<NonZeroU64>,
    pub(super) has_remote_parent: bool,
    pub(super) started: SystemTime,
    pub(super) took: Duration,
    /// Each name once; as many as the code has names.
    pub(super) attributes: Vec<(&'static str, Value)>,
    /// What went wrong.
    pub(super) error: Option<Box<str>>,
}

/// A span's part in an exchange.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// It answers.
    Server,
    /// It asks.
    Client,
    /// Neither.
    Internal,
}

/// Of an attribute.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    /// At most 300 characters.
    Text(Box<str>),
    Number(i64),
    Flag(bool),
}

impl Trace {
    pub(super) fn below(recorder: Recorder, context: TraceContext) -> Self {
        Self(Some(Arc::new(Place { recorder, context, is_remote: true })))
    }

    /// Begins something that is a part of it.
    pub(crate) fn span(&self, name: &'static str, kind: Kind) -> Span {
        let Some(place) = &self.0 else { return Span::default() };
        let context = place.context.child(chance::id());
        let mut span = Span::begun(place.recorder.clone(), name, kind, context);
        if let Some(recording) = &mut span.0 {
            recording.record.parent = Some(place.context.span);
            recording.record.has_remote_parent = place.is_remote;
        }
        span
    }

    /// What others are told of it; `None` where nothing is recorded.
    pub(crate) fn context(&self) -> Option<TraceContext> {
        self.0.as_ref().map(|place| place.context)
    }
}

impl Span {
    /// One without a parent.
    pub(super) fn begun(
        recorder: Recorder,
        name: impl Into<Cow<'static, str>>,
        kind: Kind,
        context: TraceContext,
    ) -> Self {
        let record = Record {
            name: name.into(),
            kind,
            context,
            parent: None,
            has_remote_parent: false,
            started: SystemTime::now(),
            took: Duration::ZERO,
            attributes: Vec::new(),
            error: None,
        };
        Self(Some(Box::new(Recording { recorder, since: Instant::now(), record })))
    }

    /// It has begun before.
    pub(super) fn since(mut self, since: Instant) -> Self {
        if let Some(recording) = &mut self.0 {
            recording.record.started -= since.elapsed();
            recording.since = since;
        }
        self
    }

    /// What follows from it.
    pub(crate) fn trace(&self) -> Trace {
        let place = |recording: &Recording| Place {
            recorder: recording.recorder.clone(),
            context: recording.record.context,
            is_remote: false,
        };
        Trace(self.0.as_deref().map(|recording| Arc::new(place(recording))))
    }

    /// What others are told of it; `None` where it is not recorded.
    pub(crate) fn context(&self) -> Option<TraceContext> {
        self.0.as_ref().map(|recording| recording.record.context)
    }

    /// What is known of it better than when it began.
    pub(crate) fn rename(&mut self, name: impl FnOnce() -> String) {
        if let Some(recording) = &mut self.0 {
            recording.record.name = name().into();
        }
    }

    /// Sets an attribute. The value is made only if it is recorded.
    pub(crate) fn set<V: Into<Value>>(&mut self, name: &'static str, value: impl FnOnce() -> V) {
        let Some(recording) = &mut self.0 else { return };
        let (attributes, value) = (&mut recording.record.attributes, value().into());
        match attributes.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => attributes.push((name, value)),
        }
    }

    /// Adds to an attribute that is a number.
    pub(crate) fn add(&mut self, name: &'static str, more: u64) {
        let Some(recording) = &self.0 else { return };
        let known = recording.record.attributes.iter().find(|(known, _)| *known == name);
        let before = match known {
            Some((_, Value::Number(number))) => *number,
            _ => 0,
        };
        self.set(name, || before.saturating_add(i64::try_from(more).unwrap_or(i64::MAX)));
    }

    /// It has failed, for this reason.
    pub(crate) fn fail(&mut self, why: &dyn fmt::Display) {
        if let Some(recording) = &mut self.0 {
            recording.record.error = Some(cut(&why.to_string()));
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(recording) = self.0.take() {
            let Recording { recorder, since, record } = *recording;
            recorder.take(Record { took: since.elapsed(), ..record });
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(cut(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(cut(&text))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

fn cut(text: &str) -> Box<str> {
    let end = text.char_indices().nth(TEXT_CHARS_MAX).map_or(text.len(), |(at, _)| at);
    text[..end].into()
}

impl fmt::Debug for Trace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Trace({:?})", self.context())
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Span({:?})", self.0.as_ref().map(|recording| &recording.record))
    }
}
