//! The `X-Dragonfly-*` headers of a request: lines of the rest of a name, a colon and a value.
//!
//! What is read is within its bounds and keeps nothing that a client must not name; a refusal says which header.
#![no_main]

use darter::front::options::{OptionError, Options};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut headers = HeaderMap::new();
    for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
        let name = HeaderName::from_bytes(format!("x-dragonfly-{name}").as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            headers.append(name, value);
        }
    }
    let ours = ["x-dragonfly-output-path", "x-dragonfly-force-hard-link"];
    let names_our_path = ours.iter().any(|name| headers.contains_key(*name));
    match Options::read(&headers) {
        Ok(options) => {
            assert!(!names_our_path);
            for text in options.tag.iter().chain(&options.application).chain(options.filter.iter().flatten())
            {
                assert!(!text.is_empty() && text.len() <= 1024 && text.trim() == text, "{text:?}");
            }
            // Written out again, the same is read.
            let mut again = HeaderMap::new();
            let texts =
                [("x-dragonfly-tag", &options.tag), ("x-dragonfly-application", &options.application)];
            for (name, text) in texts {
                if let Some(text) = text {
                    again.insert(name, HeaderValue::from_str(text).expect("it came out of a header"));
                }
            }
            let read = Options::read(&again).expect("it was read before");
            assert_eq!((read.tag, read.application), (options.tag, options.application));
        }
        Err(OptionError::OurPath(name)) => assert!(names_our_path && headers.contains_key(name)),
        Err(OptionError::Value { name, value, .. }) => {
            assert!(headers.contains_key(name) && value.chars().count() <= 200);
        }
    }
});
