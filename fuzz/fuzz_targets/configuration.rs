//! The configuration file, from bytes to settings.
//!
//! Every problem names a line of the file. A right file can be said again in flags: each value that it sets, as
//! `config show` prints it, is taken as a flag and comes to the same.
#![no_main]

use std::cell::RefCell;
use std::collections::BTreeSet;

use darter::config::{
    ConfigError, Effective, Override, RawConfig, Resolved, Source, Surroundings, parse, resolve,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let surroundings = Surroundings::default();
    let resolved = parse("darter.yaml", bytes).and_then(|raw| resolve(&raw, &[], &surroundings));
    match resolved {
        Ok(resolved) => {
            let said: Vec<_> = resolved.effective.iter().filter(|value| has_flag_form(value)).collect();
            let flags: Vec<_> = said.iter().map(|value| flag(value)).collect();
            let again =
                resolve(&RawConfig::default(), &flags, &surroundings).expect("a value that was right");
            for value in said {
                assert_eq!(shown(&again, &value.key), Some(value.value.as_str()), "{}", value.key);
            }
        }
        Err(ConfigError::Invalid(problems)) => {
            let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
            let lines = 1 + text.matches(['\n', '\r']).count();
            assert!(!problems.is_empty());
            for problem in problems {
                let Source::File { line, .. } = problem.source else {
                    panic!("{problem} is not of the file")
                };
                assert!((1..=lines).contains(&line), "{problem} in a file of {lines} lines");
                assert!(!problem.text.is_empty());
            }
        }
        Err(ConfigError::Unreadable { .. }) => panic!("no file was read"),
    }
});

/// Rules are the one thing that no flag can say.
fn has_flag_form(value: &Effective) -> bool {
    matches!(value.source, Source::File { .. }) && !value.key.starts_with("proxy.proxies")
}

fn flag(value: &Effective) -> Override {
    let key = match value.key.split_once('[') {
        Some((list, _)) => format!("{list}[]"),
        None => value.key.clone(),
    };
    Override { key: kept(key), flag: "--flag", text: value.value.clone() }
}

fn shown<'a>(resolved: &'a Resolved, key: &str) -> Option<&'a str> {
    resolved.effective.iter().find(|value| value.key == key).map(|value| value.value.as_str())
}

/// The names of keys, which a flag has for ever. They are few, whatever the input.
fn kept(key: String) -> &'static str {
    thread_local! {
        static KEYS: RefCell<BTreeSet<&'static str>> = const { RefCell::new(BTreeSet::new()) };
    }
    KEYS.with_borrow_mut(|keys| {
        if let Some(kept) = keys.get(key.as_str()) {
            return *kept;
        }
        let kept: &'static str = key.leak();
        keys.insert(kept);
        kept
    })
}
