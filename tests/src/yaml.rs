//! YAML as values, as much of it as configurations, manifests and descriptions have: no anchors, aliases or tags.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// The documents of a text. One that is empty is left out.
///
/// # Panics
/// When it is no YAML, has a key twice, or what is named above.
pub fn documents(text: &str) -> Vec<Value> {
    let mut events =
        Parser::new_from_str(text).map(|event| event.unwrap_or_else(|error| panic!("{error}: {text}")).0);
    let mut documents = Vec::new();
    while let Some(event) = events.next() {
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {}
            first => documents.push(value(first, &mut events)),
        }
    }
    documents.retain(|document| !document.is_null());
    documents
}

/// The node of YAML that begins with this event.
fn value<'a>(first: Event<'a>, rest: &mut impl Iterator<Item = Event<'a>>) -> Value {
    match first {
        Event::Scalar(text, ScalarStyle::Plain, ..) => plain(&text),
        Event::Scalar(text, ..) => Value::String(text.into_owned()),
        Event::SequenceStart(..) => {
            let mut items = Vec::new();
            loop {
                match rest.next().expect("the list ends") {
                    Event::SequenceEnd => return Value::Array(items),
                    item => items.push(value(item, rest)),
                }
            }
        }
        Event::MappingStart(..) => {
            let mut fields = Map::new();
            loop {
                match rest.next().expect("the mapping ends") {
                    Event::MappingEnd => return Value::Object(fields),
                    Event::Scalar(key, ..) => {
                        let inner = value(rest.next().expect("a key has a value"), rest);
                        assert!(fields.insert(key.to_string(), inner).is_none(), "{key} is there twice");
                    }
                    other => panic!("{other:?} is no key"),
                }
            }
        }
        other => panic!("the document has {other:?}"),
    }
}

fn plain(text: &str) -> Value {
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" | "~" | "" => Value::Null,
        _ => text.parse::<i64>().map_or_else(|_| Value::String(text.to_owned()), Value::from),
    }
}
