//! The documents, and the commands in them.
//!
//! Commands stand in blocks of `sh`, and each line of such a block is one. A comment `<!-- not run: REASON -->` above a block,
//! which nobody sees who reads the page, keeps it from being run. A block of another kind whose first line is a comment with an
//! absolute path is the file of that path.

use std::fs;
use std::path::Path;

use regex::Regex;

const NOT_RUN: &str = "<!-- not run";
/// With which a line outside of such blocks would be a command that nobody tries.
const BEGINNINGS: [&str; 7] = ["darter ", "./", "$ ", "curl ", "cargo ", "systemctl ", "ssh "];

/// One page.
#[derive(Debug)]
pub(crate) struct Document {
    /// Below the top of the sources: `docs/commands.md`.
    pub(crate) name: String,
    pub(crate) parts: Vec<Part>,
    /// What stands in the text between single backquotes.
    pub(crate) spans: Vec<Line>,
}

/// What a page tells its reader to do, or to write.
#[derive(Debug)]
pub(crate) enum Part {
    Commands { lines: Vec<Line>, not_run: Option<String> },
    File { path: String, text: String },
}

/// Of a page.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// `docs/commands.md:17`.
    pub(crate) place: String,
    pub(crate) text: String,
}

impl Document {
    /// All pages that have commands for people, of the sources below `top`.
    pub(crate) fn all(top: &Path) -> Vec<Document> {
        let in_docs = fs::read_dir(top.join("docs")).expect("there are documents");
        let in_docs = in_docs.map(|entry| entry.expect("a directory can be read").file_name());
        let mut names: Vec<_> = in_docs
            .filter_map(|name| {
                name.to_str().filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}"))
            })
            .chain(["README.md", "CONTRIBUTING.md"].map(str::to_owned))
            .collect();
        names.sort();
        names.into_iter().map(|name| Document::read(top, name)).collect()
    }

    /// Those that are run.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &Line> {
        self.parts.iter().flat_map(|part| match part {
            Part::Commands { lines, not_run: None } => lines.as_slice(),
            _ => &[],
        })
    }

    fn read(top: &Path, name: String) -> Document {
        let text = fs::read_to_string(top.join(&name)).expect("the page can be read");
        let mut document = Document { name, parts: Vec::new(), spans: Vec::new() };
        document.parse(&text).unwrap_or_else(|wrong| panic!("{wrong}"));
        document
    }

    fn parse(&mut self, text: &str) -> Result<(), String> {
        let span = Regex::new("`([^`]+)`").expect("a right pattern");
        let mut lines = (1..).zip(text.lines());
        let mut marked: Option<String> = None;
        while let Some((number, line)) = lines.next() {
            let place = format!("{}:{number}", self.name);
            if let Some(kind) = line.trim_start().strip_prefix("```") {
                let block: Vec<_> =
                    lines.by_ref().take_while(|(_, line)| !line.trim_start().starts_with("```")).collect();
                self.block(&place, kind, &block, marked.take())?;
                continue;
            }
            if let Some(rest) = line.trim().strip_prefix(NOT_RUN) {
                let reason = rest.strip_prefix(':').and_then(|rest| rest.strip_suffix("-->")).map(str::trim);
                let reason = reason.filter(|reason| reason.len() >= 10);
                marked = Some(
                    reason.ok_or(format!("{place}: `{NOT_RUN}: REASON -->` without a reason"))?.to_owned(),
                );
                continue;
            }
            if marked.is_some() {
                return Err(format!("{place}: what is marked as not run is no block of sh"));
            }
            let indented = line.strip_prefix("    ").unwrap_or_default();
            if BEGINNINGS.iter().any(|beginning| indented.starts_with(beginning)) {
                return Err(format!("{place}: a command stands in a block of sh, where it is run: {line}"));
            }
            let spans = span
                .captures_iter(line)
                .map(|found| Line { place: place.clone(), text: found[1].to_owned() });
            self.spans.extend(spans);
        }
        Ok(())
    }

    fn block(
        &mut self,
        place: &str,
        kind: &str,
        block: &[(usize, &str)],
        not_run: Option<String>,
    ) -> Result<(), String> {
        match kind.trim() {
            "sh" => {
                let lines = block.iter().filter(|(_, text)| !text.trim().is_empty());
                let line = |(number, text): &(usize, &str)| Line {
                    place: format!("{}:{number}", self.name),
                    text: text.trim().to_owned(),
                };
                let lines = lines.map(line).collect();
                self.parts.push(Part::Commands { lines, not_run });
            }
            "bash" | "shell" | "console" => return Err(format!("{place}: commands stand in blocks of sh")),
            _ if not_run.is_some() => {
                return Err(format!("{place}: what is marked as not run is no block of sh"));
            }
            _ => {
                if let Some(path) = block.first().and_then(|(_, first)| first.strip_prefix("# /")) {
                    let text = block.iter().map(|(_, line)| format!("{line}\n")).collect();
                    self.parts.push(Part::File { path: format!("/{path}"), text });
                }
            }
        }
        Ok(())
    }
}

/// The command lines of `darter` within a line of a shell, as words.
pub(crate) fn of_darter(line: &str) -> Vec<Vec<String>> {
    let line = line.split(" #").next().unwrap_or_default();
    // A bar without spaces stands between alternatives.
    let parts =
        line.split([';', '(', ')']).flat_map(|part| part.split("&&")).flat_map(|part| part.split(" | "));
    parts
        .filter_map(|part| {
            let mut words = part.split_whitespace().skip_while(|word| word.contains('='));
            let program = words.next()?;
            let is_darter = ["darter", "darter-new"].contains(&program.rsplit('/').next()?);
            is_darter.then(|| std::iter::once("darter").chain(words).map(str::to_owned).collect())
        })
        .collect()
}

#[test]
fn blocks_marks_and_files_are_told_apart() {
    let parsed = |text: &str| {
        let mut document = Document { name: "d".into(), parts: Vec::new(), spans: Vec::new() };
        document.parse(text).map(|()| format!("{:?}", document.parts))
    };
    assert!(parsed("```sh\ndarter ls   # all\n```").unwrap().contains("d:2"));
    assert!(
        parsed("<!-- not run: it takes a cluster -->\n```sh\nx\n```").unwrap().contains("it takes a cluster")
    );
    assert!(parsed("```yaml\n# /etc/darter/darter.yaml\nverbose: true\n```").unwrap().contains("File"));
    assert_eq!(parsed("```json\n{}\n```").unwrap(), "[]");
    for wrong in [
        "<!-- not run -->\n```sh\nx\n```",
        "<!-- not run: -->\n```sh\nx\n```",
        "<!-- not run: it takes a cluster -->\n\ntext",
        "<!-- not run: it takes a cluster -->\n```json\n{}\n```",
        "text\n\n    darter ls\n",
        "```bash\nls\n```",
    ] {
        assert!(parsed(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn command_lines_are_taken_out_of_a_line() {
    let words = |line: &str| of_darter(line).iter().map(|words| words.join(" ")).collect::<Vec<_>>();
    assert_eq!(words("darter ls   # darter rm"), ["darter ls"]);
    assert_eq!(words("darter pin ID; darter rm ID | head"), ["darter pin ID", "darter rm ID"]);
    assert_eq!(words("X=1 ./darter-new doctor"), ["darter doctor"]);
    assert_eq!(words("curl http://darter/ls"), Vec::<String>::new());
}
