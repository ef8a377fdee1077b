//! What a release is made with: the bill of materials, the workflows, and that all of it speaks of one version.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use darter_tests::built;
use darter_tests::cli::{Ran, ran};
use darter_tests::need::{Need, need};
use regex::bytes::Regex;
use serde_json::Value;

const CURE: &str = "run tests/tools/release DIRECTORY, and put DIRECTORY/bin into PATH";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn run(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Ran {
    let mut command = Command::new(program);
    command.current_dir(root()).args(args);
    ran(command)
}

/// Crates whose code is in the program, by the places that its panics would name.
fn crates_within(program: &Path) -> BTreeSet<(String, String)> {
    let place = Regex::new(r"registry/src/[^/\x00]+/([A-Za-z0-9_-]+)-(\d+\.\d+\.[0-9A-Za-z.+-]+)/")
        .expect("a pattern");
    let bytes = fs::read(program).expect("the program is built");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("plain text");
    place.captures_iter(&bytes).map(|found| (text(&found[1]), text(&found[2]))).collect()
}

#[test]
fn the_bill_names_what_is_in_the_program() {
    let tools = [
        Need::Tool { name: "cargo-cyclonedx", cure: CURE },
        Need::Program { name: "python3", package: "python3" },
    ];
    if !need("the_bill_names_what_is_in_the_program", &tools) {
        return;
    }
    let bill = || {
        let made = run(root().join("deploy/sbom"), &[]);
        assert_eq!(made.status, 0, "{made:?}");
        made.out
    };
    let text = bill();
    let parsed: Value = serde_json::from_str(&text).expect("JSON");
    assert!(parsed["bomFormat"] == "CycloneDX" && parsed["specVersion"] == "1.5");
    let of_program = &parsed["metadata"]["component"];
    assert!(
        of_program["name"] == "darter" && of_program["version"] == env!("CARGO_PKG_VERSION"),
        "{of_program}"
    );
    let parts = parsed["components"].as_array().expect("components");
    let word =
        |part: &Value, key: &str| part[key].as_str().unwrap_or_else(|| panic!("no {key}: {part}")).to_owned();
    let named: BTreeSet<_> = parts.iter().map(|part| (word(part, "name"), word(part, "version"))).collect();
    for part in parts {
        let is_own = word(part, "name").starts_with("darter-");
        assert!(part["licenses"][0]["expression"].is_string(), "no licence: {part}");
        assert!(is_own || part["hashes"][0]["alg"] == "SHA-256", "no hash: {part}");
        assert!(word(part, "purl").starts_with("pkg:cargo/"), "{part}");
    }
    let within = crates_within(&built("darter"));
    assert!(within.len() > 30, "{within:?}");
    assert!(within.is_subset(&named), "the bill lacks {:?}", within.difference(&named));
    // The client of the tests is in the same workspace, and none of its parts is in the program.
    assert!(!named.iter().any(|(name, _)| name.starts_with("nydus")), "{named:?}");

    assert!(!text.contains(root().canonicalize().expect("it is there").to_str().expect("a plain path")));
    assert_eq!(text, bill(), "two bills differ");
    let dirty = run("git", &["status", "--porcelain", "--untracked-files=all"]).out;
    assert!(!dirty.contains("darter-sbom-"), "something is left behind: {dirty}");
}

fn workflows() -> Vec<PathBuf> {
    let files = fs::read_dir(root().join(".github/workflows")).expect("there are workflows");
    files.map(|file| file.expect("a file").path()).collect()
}

fn check(file: &str) -> Ran {
    run("check-jsonschema", &["--builtin-schema", "vendor.github-workflows", file])
}

fn audit(file: &str) -> Ran {
    run("zizmor", &["--offline", "--no-progress", file])
}

#[test]
fn workflows_are_sound() {
    let tools = ["check-jsonschema", "zizmor"].map(|name| Need::Tool { name, cure: CURE });
    if !need("workflows_are_sound", &tools) {
        return;
    }
    let scratch = tempfile::tempdir().expect("a temporary directory can be made");
    let place = scratch.path().join(".github/workflows");
    fs::create_dir_all(&place).expect("a directory can be made");
    let scripts = Regex::new(r"\b(?:deploy|tests/tools|\.ci)/[a-z-]+\b").expect("a pattern");
    let pin = Regex::new("@[0-9a-f]{40}").expect("a pattern");
    for file in workflows() {
        let path = file.to_str().expect("a plain path");
        for checked in [check(path), audit(path)] {
            assert_eq!(checked.status, 0, "{path}: {checked:?}");
        }
        // What is run stands in scripts of the sources.
        let text = fs::read_to_string(&file).expect("it is there");
        for script in scripts.find_iter(text.as_bytes()) {
            let script = std::str::from_utf8(script.as_bytes()).expect("plain text");
            assert!(root().join(script).exists(), "{path} runs {script}");
        }
        // The checks can fail.
        let broken = |from: &str, to: &str| {
            assert!(text.contains(from), "{path} has no {from:?}");
            let file = place.join("broken.yml");
            fs::write(&file, text.replacen(from, to, 1)).expect("a file can be written");
            file.to_str().expect("a plain path").to_owned()
        };
        assert_ne!(check(&broken("runs-on:", "run-on:")).status, 0, "{path}");
        let unpinned = pin.find(text.as_bytes()).expect("a pin").as_bytes();
        let unpinned = std::str::from_utf8(unpinned).expect("plain text");
        assert_ne!(audit(&broken(unpinned, "@main")).status, 0, "{path}");
    }
}

/// A release has one version and one compiler, wherever they are named.
#[test]
fn all_speak_of_one_version() {
    let read =
        |path: &str| fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let of_cargo = |key: &str| {
        let text = read("Cargo.toml");
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {key}")).trim().trim_matches('"').to_owned()
    };
    let (version, compiler) = (of_cargo("version"), of_cargo("rust-version"));
    assert!(read("deploy/debian/changelog").starts_with(&format!("darter ({version}-")));
    assert!(read("deploy/helm/darter/Chart.yaml").contains(&format!("appVersion: {version}")));
    for file in workflows() {
        let text = fs::read_to_string(&file).expect("it is there");
        let image = format!("image: docker.io/library/rust:{compiler}-bookworm\n");
        assert!(text.contains(&image), "{} has another compiler", file.display());
    }
    assert!(
        read("docs/releasing.md").contains(&format!("Rust {compiler}")),
        "docs/releasing.md has another compiler"
    );
}
