//! The commands in README and docs: each line of each block of `sh` is run on a machine of a test's own, in the order of its
//! page, and every command line of `darter` anywhere in them, those in the text too, is one that `darter` takes.

mod documents;
mod world;

use std::env;
use std::path::{Path, PathBuf};

use clap::Parser;
use clap::error::ErrorKind;
use darter::cli::Cli;
use documents::{Document, Line, Part, of_darter};
use world::World;

/// What stands for something of the reader's own, and what it might be.
const STAND_FOR: [(&str, &str); 22] = [
    (r"URL\|IMAGE", "alpine"),
    (r"IMAGE\|URL", "alpine"),
    (r"containerd\|docker\|crio\|podman\|nydus", "containerd"),
    ("containerd|docker|crio|podman|nydus", "containerd"),
    ("HOST/IMAGE", "ghcr.io/app"),
    ("@sha256:…", "@sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"),
    ("sha256:…", "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"),
    ("…/blobs", "https://ghcr.io/v2/a/blobs"),
    ("[ID]", "abcdef"),
    ("ID...", "abcdef"),
    ("ID", "abcdef"),
    ("IMAGE", "alpine"),
    ("URL", "https://registry.example.com"),
    ("FILE", "file"),
    ("DIR", "dir"),
    ("CLIENT", "containerd"),
    ("COMMAND", "ls"),
    ("HOST:PORT", "host:1"),
    ("PLACE", "host:1"),
    ("SIZE", "1GiB"),
    ("ADDR", "127.0.0.1:1"),
    ("N", "1"),
];

fn sources() -> PathBuf {
    env::var_os(world::HOME).map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), PathBuf::from)
}

#[test]
fn every_command_runs() {
    let test = "every_command_runs";
    if let Ok(page) = env::var(world::PAGE) {
        let documents = Document::all(&sources());
        let document = documents.iter().find(|document| document.name == page).expect("the page is there");
        World::start_for(document).follow(document);
        return;
    }
    if !world::is_possible(test) {
        return;
    }
    let documents = Document::all(&sources());
    let (mut run, mut not_run, mut wrong) = (0, Vec::new(), Vec::new());
    for document in &documents {
        for part in &document.parts {
            if let Part::Commands { lines, not_run: Some(reason) } = part {
                not_run.push(format!("{}: {} lines: {reason}", lines[0].place, lines.len()));
            }
        }
        let here = document.lines().count();
        if here > 0 {
            wrong.extend((!world::is_right_in_a_world(document, test, &sources())).then_some(&document.name));
        }
        run += here;
    }
    println!("{run} lines were run; not run are {} blocks:\n{}", not_run.len(), not_run.join("\n"));
    assert!(wrong.is_empty(), "commands of {wrong:?} fail, see above");
    assert!(run > 50, "the documents have more commands than {run}");
    assert!(not_run.len() <= 16, "a command that is not run is one that nobody knows to work");
}

#[test]
fn darter_takes_every_command_line() {
    let mut looked_at = 0;
    for document in Document::all(&sources()) {
        let in_blocks = document.parts.iter().flat_map(|part| match part {
            Part::Commands { lines, .. } => lines.as_slice(),
            Part::File { .. } => &[],
        });
        for Line { place, text } in in_blocks.chain(&document.spans) {
            for words in of_darter(text) {
                looked_at += 1;
                if let Some(why) = refused(&words) {
                    panic!("{place}: {text}: {why}");
                }
            }
        }
    }
    assert!(looked_at > 120, "the documents have more command lines than {looked_at}");
}

/// Why `darter` does not take a command line. One that only names a command, such as `darter pin`, it takes.
fn refused(words: &[String]) -> Option<String> {
    let filled = words.iter().map(|word| {
        let word = word.trim_end_matches([',', '.']);
        STAND_FOR.iter().fold(word.to_owned(), |word, (placeholder, value)| match &*word == *placeholder {
            true => (*value).to_owned(),
            false if placeholder.len() > 2 => word.replace(placeholder, value),
            false => word,
        })
    });
    let error = Cli::try_parse_from(filled).err()?;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => None,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => None,
        ErrorKind::MissingRequiredArgument if words.len() <= 3 => None,
        _ => Some(error.to_string()),
    }
}

#[test]
fn a_flag_that_is_not_there_is_found() {
    let check = |line: &str, right: bool| {
        let words = of_darter(line).pop().expect("a command line");
        assert_eq!(refused(&words).is_none(), right, "{line}");
    };
    check("darter pin ID --undo", true);
    check("darter pin", true);
    check("darter config", true);
    check("darter init nydus --registry URL", true);
    check("darter pin ID --undone", false);
    check("darter frobnicate", false);
    check("darter get alpine --retries 3", false);
}
