//! Which objects of a directory are wanted: `--include` and `--exclude`. Pure.
//!
//! A pattern is one of a shell: `*` and `?` stay within a part of the name, `**` does not, `[a-z]` is one of several. One
//! without `/` is looked for in each part of the name, one with `/` begins at the top; what is below a directory that fits
//! fits too.

use regex::{Regex, RegexBuilder};

/// Bytes of one pattern.
const PATTERN_BYTES_MAX: usize = 4096;
/// What a pattern may become.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// All patterns of a command.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters {
    include: Vec<Regex>,
    exclude: Vec<Regex>,
}

impl Filters {
    /// Reads the patterns.
    ///
    /// # Errors
    /// The one that makes no sense, and why.
    pub(crate) fn new(include: &[String], exclude: &[String]) -> Result<Self, String> {
        let all = |patterns: &[String]| -> Result<Vec<_>, String> {
            patterns.iter().map(|pattern| compile(pattern)).collect()
        };
        Ok(Self { include: all(include)?, exclude: all(exclude)? })
    }

    /// Whether an object is wanted, by its name below the directory.
    pub(crate) fn take(&self, name: &str) -> bool {
        let fits = |patterns: &[Regex]| patterns.iter().any(|pattern| pattern.is_match(name));
        (self.include.is_empty() || fits(&self.include)) && !fits(&self.exclude)
    }
}

fn compile(pattern: &str) -> Result<Regex, String> {
    let wrong = |why: &str| format!("the pattern {pattern:?} {why}");
    if pattern.is_empty() || pattern.len() > PATTERN_BYTES_MAX {
        return Err(wrong("is empty, or too long"));
    }
    let trimmed = pattern.strip_suffix('/').unwrap_or(pattern);
    let anchored = trimmed.contains('/');
    let trimmed = trimmed.strip_prefix('/').unwrap_or(trimmed);
    let body = expression_of(trimmed).map_err(wrong)?;
    let begin = if anchored { "^" } else { "(?:^|/)" };
    RegexBuilder::new(&format!("{begin}{body}(?:/|$)"))
        .size_limit(COMPILED_BYTES_MAX)
        .dot_matches_new_line(true)
        .build()
        .map_err(|_| wrong("is none that can be used"))
}

/// A pattern as a regular expression.
fn expression_of(pattern: &str) -> Result<String, &'static str> {
    let mut expression = String::new();
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("**/") {
            expression += "(?:.*/)?";
            rest = after;
        } else if let Some(after) = rest.strip_prefix("**") {
            expression += ".*";
            rest = after;
        } else if let Some(inside) = rest.strip_prefix('[') {
            let end = inside.char_indices().skip(1).find(|(_, c)| *c == ']').map(|(at, _)| at);
            let end = end.ok_or("has a [ without its ]")?;
            let (not, class) = match inside[..end].strip_prefix(['!', '^']) {
                Some(class) => ("^/", class),
                None => ("", &inside[..end]),
            };
            if class.is_empty() {
                return Err("has brackets with nothing in them");
            }
            let escaped: String = class
                .chars()
                .map(|c| {
                    if c == '-' || c.is_alphanumeric() {
                        c.to_string()
                    } else {
                        regex::escape(&c.to_string())
                    }
                })
                .collect();
            expression += &format!("[{not}{escaped}]");
            rest = &inside[end + 1..];
        } else {
            match first {
                '*' => expression += "[^/]*",
                '?' => expression += "[^/]",
                '\\' => {
                    let literal = rest[1..].chars().next().ok_or("ends with \\")?;
                    expression += &regex::escape(&literal.to_string());
                    rest = &rest[1..];
                    rest = &rest[literal.len_utf8()..];
                    continue;
                }
                _ => expression += &regex::escape(&first.to_string()),
            }
            rest = &rest[first.len_utf8()..];
        }
    }
    Ok(expression)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(pattern: &str, fitting: &[&str], others: &[&str]) {
        let filters = Filters::new(&[pattern.to_owned()], &[]).unwrap();
        for name in fitting {
            assert!(filters.take(name), "{pattern} fits {name}");
        }
        for name in others {
            assert!(!filters.take(name), "{pattern} does not fit {name}");
        }
    }

    #[test]
    fn patterns_are_those_of_a_shell() {
        check("*.bin", &["a.bin", "d/a.bin", "x.bin/inside"], &["a.bin2", "a.txt", "bin"]);
        check("/*.bin", &["a.bin"], &["d/a.bin"]);
        check("d/*.bin", &["d/a.bin"], &["a.bin", "d/e/a.bin", "x/d/a.bin"]);
        check("d/**/*.bin", &["d/a.bin", "d/e/f/a.bin"], &["e/a.bin"]);
        check("**/x", &["x", "a/b/x"], &["a/xx"]);
        check("logs/", &["logs/a", "d/logs/a"], &["logsx/a"]);
        check("d/logs/", &["d/logs/a"], &["logs/a"]);
        check("?.txt", &["a.txt", "ä.txt"], &["ab.txt", ".txt"]);
        check("[a-c]1", &["a1", "c1"], &["d1", "-1"]);
        check("[!a]1", &["b1"], &["a1", "x/"]);
        check("[]]", &["]"], &["a"]);
        check("a.b", &["a.b"], &["axb"]);
        check("\\*", &["*"], &["a"]);
        check("a+(b)", &["a+(b)"], &["aab"]);
    }

    #[test]
    fn what_is_excluded_is_not_included() {
        let filters =
            Filters::new(&["*.bin".into(), "*.txt".into()], &["tmp/".into(), "b.*".into()]).unwrap();
        let taken: Vec<_> = ["a.bin", "a.txt", "a.md", "tmp/a.bin", "d/tmp/a.bin", "b.bin"]
            .into_iter()
            .filter(|name| filters.take(name))
            .collect();
        assert_eq!(taken, ["a.bin", "a.txt"]);
        assert!(Filters::default().take("anything"));
    }

    #[test]
    fn a_pattern_that_makes_no_sense_is_named() {
        for pattern in ["", "[a", "[", "a\\", "[!]"] {
            let error = Filters::new(&[], &[pattern.to_owned()]).unwrap_err();
            assert!(error.contains(&format!("{pattern:?}")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_pattern_is_read_or_refused(pattern in "\\PC{0,20}", name in "\\PC{0,20}") {
            if let Ok(filters) = Filters::new(&[pattern], &[]) {
                let _ = filters.take(&name);
            }
        }

        #[test]
        fn a_name_without_signs_fits_itself(name in "[a-z./+()$^|{}-]{1,20}") {
            let filters = Filters::new(&[format!("/{name}")], &[]);
            if !name.starts_with('/') && !name.ends_with('/') {
                prop_assert!(filters.unwrap().take(&name));
            }
        }
    }
}
