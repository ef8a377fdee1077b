//! What a check comes to, and how all of them are told. Pure.

use std::fmt::Write;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// A daemon runs, but worse than it could, or not for long.
    Warning,
    /// A daemon does not start, or does not do what it is there for.
    Failed,
}

/// One check and what it has seen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Finding {
    /// Which check, in a word or two.
    pub(super) check: String,
    pub(super) level: Level,
    /// In plain words.
    pub(super) seen: String,
    /// What to do, unless all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: impl Into<String>, seen: impl Into<String>) -> Self {
        Self { check: check.into(), level: Level::Ok, seen: seen.into(), advice: None }
    }

    pub(super) fn warning(
        check: impl Into<String>,
        seen: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        let (check, seen, advice) = (check.into(), seen.into(), Some(advice.into()));
        Self { check, level: Level::Warning, seen, advice }
    }

    pub(super) fn failed(
        check: impl Into<String>,
        seen: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { level: Level::Failed, ..Self::warning(check, seen, advice) }
    }
}

/// All findings, in groups.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    groups: Vec<Group>,
    ok: usize,
    warnings: usize,
    failed: usize,
}

#[derive(Clone, Debug, Serialize)]
struct Group {
    name: &'static str,
    findings: Vec<Finding>,
}

impl Report {
    pub(super) fn add(&mut self, name: &'static str, findings: Vec<Finding>) {
        let count = |level| findings.iter().filter(|finding| finding.level == level).count();
        self.ok += count(Level::Ok);
        self.warnings += count(Level::Warning);
        self.failed += count(Level::Failed);
        if !findings.is_empty() {
            self.groups.push(Group { name, findings });
        }
    }

    /// Those that failed, as `group/check`.
    pub(super) fn failed(&self) -> Vec<String> {
        let of_group = |group: &Group| {
            let failed = group.findings.iter().filter(|finding| finding.level == Level::Failed);
            failed.map(|finding| format!("{}/{}", group.name, finding.check)).collect::<Vec<_>>()
        };
        self.groups.iter().flat_map(of_group).collect()
    }

    /// A line for each finding, one below it that says what to do, and the sum.
    pub(super) fn text(&self) -> String {
        const LEVEL_COLUMNS: usize = 7;
        let checks = self.groups.iter().flat_map(|group| &group.findings);
        let width = checks.map(|finding| finding.check.chars().count()).max().unwrap_or(0);
        let indent = 2 + LEVEL_COLUMNS + 2 + width + 2;
        let mut text = String::new();
        for Group { name, findings } in &self.groups {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{name}");
            for Finding { check, level, seen, advice } in findings {
                let level = match level {
                    Level::Ok => "ok",
                    Level::Warning => "warning",
                    Level::Failed => "FAILED",
                };
                let _ = writeln!(text, "  {level:LEVEL_COLUMNS$}  {check:width$}  {}", one_line(seen));
                if let Some(advice) = advice {
                    let _ = writeln!(text, "{:indent$}{}", "", one_line(advice));
                }
            }
        }
        let Self { ok, warnings, failed, .. } = self;
        let all = ok + warnings + failed;
        let _ = writeln!(text, "{all} checks: {ok} ok, {warnings} to think about, {failed} failed");
        text
    }
}

/// What the system or a stranger wrote may have more than one line, or control a terminal.
fn one_line(text: &str) -> String {
    crate::commands::text::plain(text, 600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_counted_and_told() {
        let mut report = Report::default();
        report.add("kernel", vec![Finding::ok("version", "Linux 6.1")]);
        report.add("nothing", Vec::new());
        report.add(
            "store",
            vec![
                Finding::failed("space", "1 MiB\nfree", "free\u{1b}[31m some"),
                Finding::warning("file system", "nfs", "a local disk is better"),
            ],
        );
        let expected = "kernel\n  ok       version      Linux 6.1\nstore\n  FAILED   space        1 MiB free\n                        free [31m some\n  warning  file system  nfs\n                        a local disk is better\n3 checks: 1 ok, 1 to think about, 1 failed\n";
        assert_eq!(report.text(), expected);
        assert_eq!(report.failed(), ["store/space"]);
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!((&json["failed"], &json["warnings"], &json["ok"]), (&1.into(), &1.into(), &1.into()));
        assert_eq!(json["groups"][1]["findings"][0]["level"], "failed");
        assert_eq!(json["groups"][0]["findings"][0].get("advice"), None);
    }
}
