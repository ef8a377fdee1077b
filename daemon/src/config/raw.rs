//! The file as written: every node of the YAML with its path and line, nothing understood yet.
//!
//! A configuration is small and flat. Whatever is not — long, deep, of many nodes, built of anchors and aliases —
//! is refused while it is read, so that no text, however hostile, costs more than its own length.

use std::collections::BTreeMap;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};

use super::error::{ConfigError, Problem};
use super::layers::Source;

/// Bytes of the longest file that is read.
pub const CONFIG_BYTES_MAX: usize = 1 << 20;
/// Mappings and lists inside each other; our deepest key, `proxy.proxies[].regx`, has four.
const DEPTH_MAX: usize = 8;
/// Keys and values of one file.
const NODES_MAX: usize = 4096;
/// Bytes of one key. With the two bounds above it also bounds the memory that paths take.
const KEY_BYTES_MAX: usize = 128;

/// A configuration file, parsed and unchecked. The default is the empty file.
#[derive(Clone, Debug, Default)]
pub struct RawConfig {
    file: Arc<str>,
    entries: BTreeMap<String, Entry>,
}

/// One node of the file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The path with its indices left out: `proxy.proxies[].regx`.
    pub(super) pattern: String,
    /// The line of the key, or of the item of a list; from 1.
    pub(super) line: usize,
    pub(super) shape: Shape,
}

#[derive(Clone, Debug)]
pub(super) enum Shape {
    /// `key:`, `~` or `null`: as if the key were not there.
    Null,
    Scalar(String),
    /// With the number of its items.
    List(usize),
    Map,
}

/// Parses a file; `file` is its name for messages.
///
/// # Errors
/// The first place where the text is not plain YAML within the bounds above.
pub fn parse(file: &str, bytes: &[u8]) -> Result<RawConfig, ConfigError> {
    let file: Arc<str> = file.into();
    let problem = |line, text: String| Problem {
        source: Source::File { name: file.clone(), line },
        key: String::new(),
        text,
    };
    if bytes.len() > CONFIG_BYTES_MAX {
        return Err(problem(1, format!("the file is longer than {CONFIG_BYTES_MAX} bytes")).into());
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        problem(line, "the text is not UTF-8".into())
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader {
        file: file.clone(),
        lines: 1 + text.replace("\r\n", "\n").matches(['\n', '\r']).count(),
        events: Parser::new_from_str(text),
        entries: BTreeMap::new(),
    };
    reader.document()?;
    Ok(RawConfig { file, entries: reader.entries })
}

impl RawConfig {
    pub(super) fn entry(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    pub(super) fn list_len(&self, path: &str) -> usize {
        match self.entry(path) {
            Some(Entry { shape: Shape::List(len), .. }) => *len,
            _ => 0,
        }
    }

    pub(super) fn source(&self, line: usize) -> Source {
        Source::File { name: self.file.clone(), line }
    }
}

/// Where the reader is.
#[derive(Default)]
struct Place {
    path: String,
    pattern: String,
    depth: usize,
}

impl Place {
    fn key(&self, name: &str) -> Self {
        let below = |path: &str| if path.is_empty() { name.into() } else { format!("{path}.{name}") };
        Self { path: below(&self.path), pattern: below(&self.pattern), depth: self.depth + 1 }
    }

    fn item(&self, index: usize) -> Self {
        Self {
            path: format!("{}[{index}]", self.path),
            pattern: format!("{}[]", self.pattern),
            depth: self.depth + 1,
        }
    }
}

struct Reader<'a> {
    file: Arc<str>,
    lines: usize,
    events: Parser<'a, StrInput<'a>>,
    entries: BTreeMap<String, Entry>,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<(), Problem> {
        let root = Place::default();
        loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(_) | Event::Nothing, _) => {}
                (Event::StreamEnd, _) => return Ok(()),
                (event @ Event::MappingStart(..), line) => {
                    self.node(&root, event, line)?;
                    break;
                }
                (Event::Scalar(text, ScalarStyle::Plain, 0, None), _) if is_null(&text) => break,
                (_, line) => return Err(self.problem(&root, line, "expected `key: value` lines".into())),
            }
        }
        loop {
            match self.next()? {
                (Event::DocumentEnd | Event::Nothing, _) => {}
                (Event::StreamEnd, _) => return Ok(()),
                (_, line) => {
                    return Err(self.problem(&root, line, "a second document; only one is read".into()));
                }
            }
        }
    }

    /// Takes in one node whose first event has been read. Recursion ends at `DEPTH_MAX`.
    fn node(&mut self, at: &Place, event: Event<'a>, line: usize) -> Result<(), Problem> {
        if at.depth > DEPTH_MAX {
            return Err(self.problem(at, line, format!("nested more than {DEPTH_MAX} deep")));
        }
        if self.entries.len() >= NODES_MAX {
            return Err(self.problem(at, line, format!("the file has more than {NODES_MAX} values")));
        }
        match event {
            Event::Scalar(text, style, 0, None) => {
                let null = style == ScalarStyle::Plain && is_null(&text);
                let shape = if null { Shape::Null } else { Shape::Scalar(text.into_owned()) };
                self.add(at, line, shape);
            }
            Event::SequenceStart(0, None) => {
                self.add(at, line, Shape::List(0));
                let len = self.list(at)?;
                self.add(at, line, Shape::List(len));
            }
            Event::MappingStart(0, None) => {
                if at.depth > 0 {
                    self.add(at, line, Shape::Map);
                }
                self.map(at)?;
            }
            _ => {
                let text = "anchors, aliases and tags are not read; write the value out".into();
                return Err(self.problem(at, line, text));
            }
        }
        Ok(())
    }

    fn list(&mut self, at: &Place) -> Result<usize, Problem> {
        for index in 0.. {
            let (event, line) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(index);
            }
            self.node(&at.item(index), event, line)?;
        }
        unreachable!("a list has fewer items than there are integers")
    }

    fn map(&mut self, at: &Place) -> Result<(), Problem> {
        loop {
            let (key, line) = match self.next()? {
                (Event::MappingEnd, _) => return Ok(()),
                (Event::Scalar(key, _, 0, None), line) => (key, line),
                (_, line) => return Err(self.problem(at, line, "a key is a plain word".into())),
            };
            if key.len() > KEY_BYTES_MAX {
                return Err(self.problem(at, line, format!("a key longer than {KEY_BYTES_MAX} bytes")));
            }
            // Paths stay unambiguous: a dot in a path is always a step down.
            if key.contains(['.', '[', ']']) {
                let text = format!("the key {key:?} has `.` or `[]` in it; nest mappings instead");
                return Err(self.problem(at, line, text));
            }
            let place = at.key(&key);
            if let Some(first) = self.entries.get(&place.path) {
                let text = format!("given twice, first in line {}; leave one", first.line);
                return Err(self.problem(&place, line, text));
            }
            let (event, _) = self.next()?;
            self.node(&place, event, line)?;
        }
    }

    fn add(&mut self, at: &Place, line: usize, shape: Shape) {
        self.entries.insert(at.path.clone(), Entry { pattern: at.pattern.clone(), line, shape });
    }

    fn next(&mut self) -> Result<(Event<'a>, usize), Problem> {
        match self.events.next_event() {
            Some(Ok((event, Span { start, .. }))) => Ok((event, start.line())),
            Some(Err(error)) => {
                let text = format!("not YAML: {}", error.info());
                // Where the last line has no line break, the end counts as one line further.
                let line = error.marker().line().min(self.lines);
                Err(self.problem(&Place::default(), line, text))
            }
            None => Ok((Event::StreamEnd, 1)),
        }
    }

    fn problem(&self, at: &Place, line: usize, text: String) -> Problem {
        Problem { source: Source::File { name: self.file.clone(), line }, key: at.path.clone(), text }
    }
}

/// The null of YAML's core schema, <https://yaml.org/spec/1.2.2/#1032-tag-resolution>.
fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Entries as `path@line=shape`, or the message.
    fn check(text: &str, expected: &str) {
        let seen = match parse("f", text.as_bytes()) {
            Ok(raw) => {
                let entry = |(path, entry): (&str, &Entry)| match &entry.shape {
                    Shape::Null => format!("{path}@{} null", entry.line),
                    Shape::Scalar(text) => format!("{path}@{} {text:?}", entry.line),
                    Shape::List(len) => format!("{path}@{} list of {len}", entry.line),
                    Shape::Map => format!("{path}@{} map", entry.line),
                };
                raw.entries().map(entry).collect::<Vec<_>>().join(", ")
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(seen, expected, "{text:?}");
    }

    #[test]
    fn nodes_keep_their_paths_and_lines() {
        check("", "");
        check("# nothing\n---\n", "");
        check("\u{feff}a: 1", r#"a@1 "1""#);
        check("a:\n  b: 'x'\n", r#"a@1 map, a.b@2 "x""#);
        check("a:\n  - b: 1\n  - c", r#"a@1 list of 2, a[0]@2 map, a[0].b@2 "1", a[1]@3 "c""#);
        check("a: {b: [x, '']}", r#"a@1 map, a.b@1 list of 2, a.b[0]@1 "x", a.b[1]@1 """#);
        check("a:\nb: ~\nc: 'null'\n", r#"a@1 null, b@2 null, c@3 "null""#);
        check("a: []", "a@1 list of 0");
    }

    #[test]
    fn what_is_not_plain_is_refused() {
        check("- a", "f:1: expected `key: value` lines");
        check("a", "f:1: expected `key: value` lines");
        check("a: 1\nb: 2\na: 3", "f:3: a: given twice, first in line 1; leave one");
        check("a: 1\n---\nb: 2", "f:2: a second document; only one is read");
        check("a: &x 1", "f:1: a: anchors, aliases and tags are not read; write the value out");
        check("a: !!str 1", "f:1: a: anchors, aliases and tags are not read; write the value out");
        check("a: 1\nb: *x", "f:2: not YAML: while parsing node, found unknown anchor");
        check("a.b: 1", r#"f:1: the key "a.b" has `.` or `[]` in it; nest mappings instead"#);
        check("? [a]\n: 1", "f:1: a key is a plain word");
        check("a: [[[[[[[[[1]]]]]]]]]", "f:1: a[0][0][0][0][0][0][0][0]: nested more than 8 deep");
        check("a: [1", "f:1: not YAML: while parsing a flow sequence, expected ',' or ']'");
        check("a: 1\r\nb: [1", "f:2: not YAML: while parsing a flow sequence, expected ',' or ']'");
        check("a: [1\n", "f:2: not YAML: while parsing a flow sequence, expected ',' or ']'");
    }

    #[test]
    fn bounds_hold() {
        let refused = |bytes: &[u8], expected: &str| {
            let message = parse("f", bytes).expect_err(expected).to_string();
            assert!(message.contains(expected), "{message}");
        };
        refused(&vec![b'#'; CONFIG_BYTES_MAX + 1], "longer than 1048576 bytes");
        refused(b"a: 1\nb: \xff", "f:2: the text is not UTF-8");
        refused(format!("a: [{}]", "1, ".repeat(NODES_MAX)).as_bytes(), "more than 4096 values");
        refused(format!("{}: 1", "k".repeat(KEY_BYTES_MAX + 1)).as_bytes(), "a key longer than 128 bytes");
        refused("[".repeat(CONFIG_BYTES_MAX).as_bytes(), "recursion limit exceeded");
        refused(format!("a: {}", "{a: ".repeat(100_000)).as_bytes(), "nested more than 8 deep");
        let stairs: String = (0..50).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        refused(stairs.as_bytes(), "nested more than 8 deep");
        let bomb = (0..20).fold("a: &a [x]\n".to_owned(), |text, level| {
            format!("{text}b{level}: &b{level} [*a, *a, *a, *a]\n")
        });
        refused(bomb.as_bytes(), "anchors, aliases and tags are not read");
    }

    /// Tokens that make a YAML scanner look ahead, go back or nest. All take 3 s together in a debug build; a
    /// quadratic step would take hours.
    #[test]
    fn a_repeated_fragment_costs_no_more_than_its_length() {
        let fragments = "- |? |[|{|[a,|a: |a:\n |'|\"|\n|#|>\n|&a |*a |!a |%a\n|---\n|...\n|\t|a |a\n|a: b\n|: |,|\u{feff}|''|\\";
        for fragment in fragments.split('|').chain(["|\n", "|"]) {
            for head in ["", "a: ", "a: [", "a:\n  "] {
                let text =
                    head.to_owned() + &fragment.repeat((CONFIG_BYTES_MAX - head.len()) / fragment.len());
                let _ = parse("f", text.as_bytes());
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>) {
            let _ = parse("f", &bytes);
        }

        #[test]
        fn any_text_made_of_yaml_is_parsed_or_refused(text in r#"([a-c:,\[\]{}&*!|>'"%@?#~. \n\t-]|: |- |\n  |---|\.\.\.){0,80}"#) {
            let _ = parse("f", text.as_bytes());
        }
    }
}
