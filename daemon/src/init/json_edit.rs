//! Puts something into the text of a JSON document and leaves the rest as it was written: order, indentation, line
//! ends. Pure.
//!
//! The text is parsed first; what was put in is parsed again and compared with what was meant. So the scanner below
//! may take it that the text is JSON, and a mistake of its own is an error and no damaged file.

use std::ops::Range;

use serde_json::Value;

/// Why there is no new text.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum EditError {
    /// As it is it cannot be read.
    #[error("it is no JSON ({0})")]
    NotJson(String),
    /// There is something else in the place.
    #[error("{0}")]
    Other(String),
}

/// The document with a member more, the first of the object at `path`, which has none of that name.
pub(super) fn with_member(text: &str, path: &[&str], name: &str, value: &Value) -> Result<String, EditError> {
    let mut meant = parsed(text)?;
    let object = at(&mut meant, path).and_then(Value::as_object_mut);
    let object = object.ok_or_else(|| EditError::Other(format!("it has no object {}", path.join("."))))?;
    if object.insert(name.to_owned(), value.clone()).is_some() {
        return Err(EditError::Other(format!("it has {name} already")));
    }
    let place = find(text, path).ok_or_else(lost)?;
    let name = Value::from(name);
    let edited = insert(text, place, |indent| format!("{name}: {}", pretty(value, indent)));
    checked(edited, &meant)
}

/// The document with an item more, the first of the array at `path`.
pub(super) fn with_first(text: &str, path: &[&str], value: &Value) -> Result<String, EditError> {
    let mut meant = parsed(text)?;
    let array = at(&mut meant, path).and_then(Value::as_array_mut);
    array.ok_or_else(|| EditError::Other(format!("{} is no list", path.join("."))))?.insert(0, value.clone());
    let place = find(text, path).ok_or_else(lost)?;
    checked(insert(text, place, |indent| pretty(value, indent)), &meant)
}

/// The document as values.
pub(super) fn parsed(text: &str) -> Result<Value, EditError> {
    serde_json::from_str(text).map_err(|error| EditError::NotJson(error.to_string()))
}

fn checked(edited: String, meant: &Value) -> Result<String, EditError> {
    if serde_json::from_str::<Value>(&edited).is_ok_and(|value| value == *meant) {
        Ok(edited)
    } else {
        Err(lost())
    }
}

fn lost() -> EditError {
    EditError::Other("its text is written in a way that cannot be edited here".to_owned())
}

fn at<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |value, name| value.get_mut(*name))
}

/// Behind the opening bracket at the start of `place`, indented as what comes next there.
fn insert(text: &str, place: Range<usize>, item: impl Fn(&str) -> String) -> String {
    let inside = place.start + 1;
    let rest = &text[inside..place.end];
    let gap = &rest[..rest.len() - rest.trim_start().len()];
    let is_empty = rest[gap.len()..].len() == 1;
    let (head, tail) = (&text[..inside], &text[inside..]);
    if is_empty {
        // As deep as the line that the bracket is on, and two columns.
        let line = head.rsplit('\n').next().unwrap_or_default();
        let outer = &line[..line.len() - line.trim_start().len()];
        let indent = format!("{outer}  ");
        let (open, tail) = (&text[place.start..inside], &tail[gap.len()..]);
        return match open {
            "[" => format!("{head}{}{tail}", item(&indent)),
            _ => format!("{head}\n{indent}{}\n{outer}{tail}", item(&indent)),
        };
    }
    let indent = gap.rsplit_once('\n').map(|(_, indent)| indent);
    match indent {
        Some(indent) => format!("{head}{gap}{},{tail}", item(indent)),
        None => format!("{head}{gap}{}, {}", item(""), &tail[gap.len()..]),
    }
}

/// Over several lines where it has parts, each but the first indented so far.
fn pretty(value: &Value, indent: &str) -> String {
    let text = match value {
        Value::Array(items) if items.len() <= 1 => value.to_string(),
        _ => serde_json::to_string_pretty(value).unwrap_or_default(),
    };
    text.replace('\n', &format!("\n{indent}"))
}

/// Where the value at a path stands, brackets and all; of members with one name the last, as parsers take it.
fn find(text: &str, path: &[&str]) -> Option<Range<usize>> {
    let mut scanner = Scanner { text, at: 0 };
    let mut place = scanner.value(path.first().copied())?;
    for (depth, _) in path.iter().enumerate() {
        let mut inner = Scanner { text, at: place.found?.start };
        place = inner.value(path.get(depth + 1).copied())?;
    }
    Some(place.whole)
}

/// A value, and the last of its members that has the wanted name.
struct Place {
    whole: Range<usize>,
    found: Option<Range<usize>>,
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl Scanner<'_> {
    fn value(&mut self, wanted: Option<&str>) -> Option<Place> {
        self.space();
        let start = self.at;
        let mut found = None;
        match self.peek()? {
            '{' | '[' => {
                let is_object = self.peek() == Some('{');
                self.at += 1;
                loop {
                    self.space();
                    match self.peek()? {
                        '}' | ']' => break,
                        ',' => self.at += 1,
                        _ => {
                            let mut name = None;
                            if is_object {
                                name = Some(self.string()?);
                                self.space();
                                self.at += 1;
                            }
                            // The document was parsed, which bounds its depth.
                            let member = self.value(None)?.whole;
                            if is_object && name.as_deref() == wanted {
                                found = Some(member);
                            }
                        }
                    }
                }
                self.at += 1;
            }
            '"' => {
                self.string()?;
            }
            _ => {
                let rest = self.rest();
                let end = rest.find(|c: char| c == ',' || c == '}' || c == ']' || c.is_whitespace());
                self.at += end.unwrap_or(rest.len()).max(1);
            }
        }
        Some(Place { whole: start..self.at, found })
    }

    fn string(&mut self) -> Option<String> {
        let start = self.at;
        let mut is_escaped = true;
        for (offset, c) in self.rest().char_indices() {
            if c == '"' && !is_escaped {
                self.at = start + offset + 1;
                return serde_json::from_str(&self.text[start..self.at]).ok();
            }
            // The first quote opens.
            is_escaped = !is_escaped && c == '\\';
        }
        None
    }

    fn space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Nothing where a text that is no JSON has led astray.
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn members_are_put_in_as_the_rest_is_written() {
        let check = |text: &str, path: &[&str], expected: &str| {
            let edited = with_member(text, path, "new", &json!(["x"]));
            assert_eq!(edited.as_deref(), Ok(expected), "{text}");
        };
        check("{}", &[], "{\n  \"new\": [\"x\"]\n}");
        check("{ }\n", &[], "{\n  \"new\": [\"x\"]\n}\n");
        check("{\"a\":1}", &[], "{\"new\": [\"x\"], \"a\":1}");
        check("{\n\t\"a\": {\"b\": 1}\n}\n", &[], "{\n\t\"new\": [\"x\"],\n\t\"a\": {\"b\": 1}\n}\n");
        check("{\n    \"a\": {\n    }\n}", &["a"], "{\n    \"a\": {\n      \"new\": [\"x\"]\n    }\n}");
        check(
            "{\"a\": 0, \"}\\\"{\": [], \"a\": {\"b\": \"\\\\\"}}",
            &["a"],
            "{\"a\": 0, \"}\\\"{\": [], \"a\": {\"new\": [\"x\"], \"b\": \"\\\\\"}}",
        );
    }

    #[test]
    fn items_are_put_first() {
        let check = |text: &str, expected: &str| {
            assert_eq!(with_first(text, &["l"], &json!("x")).as_deref(), Ok(expected), "{text}");
        };
        check("{\"l\":[]}", "{\"l\":[\"x\"]}");
        check("{\"l\":[ ]}", "{\"l\":[\"x\"]}");
        check("{\"l\":[\"y\"]}", "{\"l\":[\"x\", \"y\"]}");
        check("{\"l\": [\n    \"y\"\n  ]}", "{\"l\": [\n    \"x\",\n    \"y\"\n  ]}");
    }

    #[test]
    fn what_cannot_be_edited_is_refused() {
        let member = |text: &str, path: &[&str]| with_member(text, path, "a", &json!(1));
        assert!(matches!(member("{", &[]), Err(EditError::NotJson(_))));
        assert!(matches!(member("// no\n{}", &[]), Err(EditError::NotJson(_))));
        assert_eq!(member("{\"a\": 0}", &[]), Err(EditError::Other("it has a already".into())));
        assert!(matches!(member("[]", &[]), Err(EditError::Other(_))));
        assert!(matches!(member("{}", &["b"]), Err(EditError::Other(_))));
        assert!(matches!(with_first("{\"l\": {}}", &["l"], &json!(1)), Err(EditError::Other(_))));
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::hash_map("[a-c\"\\\\{}]{0,3}", inner, 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_document_takes_a_member(mut value in values(), inner in values(), is_pretty in any::<bool>()) {
            if !value.is_object() {
                value = json!({ "held": value });
            }
            value["deep"] = json!({ "deeper": inner });
            let text = if is_pretty { format!("{value:#}") } else { value.to_string() };
            // The result is compared with what was meant before it is given out.
            with_member(&text, &[], "quite new", &json!({"a": [1, 2]})).expect("an edit");
            with_member(&text, &["deep"], "quite new", &json!(1)).expect("an edit");
        }

        #[test]
        fn any_text_is_refused_or_edited(text in "[{}\\[\\]\",:\\\\a0 \n]{0,40}") {
            let _ = with_member(&text, &[], "x", &json!(1));
            let _ = find(&text, &["a", "b"]);
        }
    }
}
