//! `docs/openapi.yaml` as a value, and what it says of an answer.
//!
//! The schemas need a small part of JSON Schema, and this is all of it: a keyword that is not known here is a failure, so
//! that nothing of the document goes unlooked at. Stricter than the standard in one point: what a schema of an object does
//! not name may not be there, or the document would not have to keep up with the daemon.

use std::fs;
use std::path::Path;

use darter_tests::yaml;
use regex::Regex;
use serde_json::{Map, Value};

/// The document.
pub(crate) struct Document(Value);

impl Document {
    pub(crate) fn read() -> Document {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.yaml");
        let text = fs::read_to_string(file).expect("the document is there");
        let [document] = <[Value; 1]>::try_from(yaml::documents(&text)).expect("one document");
        Document(document)
    }

    /// Every `METHOD /path`.
    pub(crate) fn calls(&self) -> Vec<(String, String)> {
        let mut calls = Vec::new();
        for (path, methods) in object(&self.0["paths"]) {
            let methods = object(methods).keys().filter(|name| *name != "parameters");
            calls.extend(methods.map(|method| (method.to_uppercase(), path.clone())));
        }
        calls
    }

    /// What is wrong with an answer to a call.
    pub(crate) fn check(&self, method: &str, path: &str, status: u16, body: &Value) -> Vec<String> {
        let call = &self.0["paths"][path][method.to_lowercase()];
        let answer = self.followed(&call["responses"][status.to_string()]);
        let content = object(&answer["content"]).values().next();
        let schema = content.map(|content| &content["schema"]);
        let mut wrong = Vec::new();
        match schema {
            Some(schema) => self.look(schema, body, &mut String::new(), &mut wrong),
            None => wrong.push(format!("{method} {path}: {status} is not documented")),
        }
        wrong
    }

    /// The value that it stands for: `$ref` within the document.
    fn followed<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => {
                let pointer = reference.strip_prefix('#').expect("references stay within the document");
                let found = self.0.pointer(pointer);
                self.followed(found.unwrap_or_else(|| panic!("{reference} leads nowhere")))
            }
            None => value,
        }
    }

    fn look(&self, schema: &Value, value: &Value, at: &mut String, wrong: &mut Vec<String>) {
        let schema = self.followed(schema);
        let mut complain = |what: String| wrong.push(format!("{at}: {what}: {value}"));
        let mut inner = Vec::new();
        for (keyword, wanted) in object(schema) {
            match keyword.as_str() {
                "description" | "examples" | "format" | "default" => {}
                "type" => {
                    let types = wanted.as_array().cloned().unwrap_or_else(|| vec![wanted.clone()]);
                    if !types.iter().any(|name| is_a(value, name.as_str().expect("a type is named"))) {
                        complain(format!("is no {wanted}"));
                    }
                }
                "enum" => {
                    if !list(wanted).contains(value) {
                        complain(format!("is none of {wanted}"));
                    }
                }
                "minimum" | "maximum" => {
                    let (bound, number) = (wanted.as_f64().expect("a bound is a number"), value.as_f64());
                    let is_within =
                        |number| if keyword == "minimum" { number >= bound } else { number <= bound };
                    if !number.is_none_or(is_within) {
                        complain(format!("{keyword} {bound}"));
                    }
                }
                "pattern" => {
                    let pattern = Regex::new(wanted.as_str().expect("a text")).expect("a pattern");
                    if !value.as_str().is_none_or(|text| pattern.is_match(text)) {
                        complain(format!("does not match {wanted}"));
                    }
                }
                "maxLength" | "maxItems" => {
                    let length = value.as_str().map(|text| text.chars().count());
                    let length = length.or(value.as_array().map(Vec::len)).unwrap_or(0);
                    if length as u64 > wanted.as_u64().expect("a length") {
                        complain(format!("{keyword} {wanted}"));
                    }
                }
                "required" => {
                    for name in list(wanted).iter().filter(|name| value.get(text(name)).is_none()) {
                        complain(format!("{name} is missing"));
                    }
                }
                "properties" => {
                    for (name, value) in value.as_object().into_iter().flatten() {
                        match wanted.get(name) {
                            Some(schema) => inner.push((schema, value, format!("{at}/{name}"))),
                            None => complain(format!("{name} is not documented")),
                        }
                    }
                }
                "items" => {
                    let items = value.as_array().into_iter().flatten().enumerate();
                    inner.extend(items.map(|(number, item)| (wanted, item, format!("{at}/{number}"))));
                }
                "oneOf" => {
                    let fits = |schema: &&Value| {
                        let mut wrong = Vec::new();
                        self.look(schema, value, &mut at.clone(), &mut wrong);
                        wrong.is_empty()
                    };
                    let fitting = list(wanted).iter().filter(fits).count();
                    if fitting != 1 {
                        complain(format!("fits {fitting} of the alternatives"));
                    }
                }
                other => panic!("{at}: the test does not know the keyword {other}"),
            }
        }
        for (schema, value, mut at) in inner {
            self.look(schema, value, &mut at, wrong);
        }
    }
}

fn is_a(value: &Value, name: &str) -> bool {
    match name {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        other => panic!("there is no type {other}"),
    }
}

fn object(value: &Value) -> &Map<String, Value> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    value.as_object().unwrap_or(&NONE)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}
