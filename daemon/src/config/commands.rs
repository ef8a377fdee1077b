//! What `darter config check` and `darter config show` print. Text only; the binary prints it and sets the exit
//! status.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use super::size::ByteSize;
use super::{ConfigError, Override, Resolved, load};

/// `config check FILE`: that it is right, what it says in short, and warnings.
///
/// # Errors
/// The file cannot be read or is wrong.
pub fn check(file: &Path) -> Result<String, ConfigError> {
    let Resolved { settings, warnings, .. } = load(Some(file), &[])?;
    let capacity = match settings.capacity_bytes {
        Some(bytes) => ByteSize(bytes).to_string(),
        None => "a capacity chosen at start".into(),
    };
    let mut text = format!(
        "{}: ok\n  front {}, admin {}, registry {}\n  {capacity} in {}\n",
        file.display(),
        settings.front,
        settings.admin,
        settings.registry,
        settings.data_dir.display(),
    );
    for warning in warnings {
        text += &format!("warning: {warning}\n");
    }
    Ok(text)
}

/// `config show`: every value and where it comes from, aligned for people or as JSON for programs.
///
/// # Errors
/// The file cannot be read, or it or a flag is wrong.
pub fn show(file: Option<&Path>, overrides: &[Override], json: bool) -> Result<String, ConfigError> {
    let resolved = load(file, overrides)?;
    Ok(if json { as_json(&resolved) } else { as_text(&resolved) })
}

fn as_text(resolved: &Resolved) -> String {
    let width = |of: fn(&super::Effective) -> &str| {
        resolved.effective.iter().map(|row| of(row).chars().count()).max().unwrap_or(0)
    };
    let (keys, values) = (width(|row| &row.key), width(|row| &row.value).min(VALUE_COLUMNS_MAX));
    let mut text = String::new();
    for row in &resolved.effective {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{:keys$}  {:values$}  {}", row.key, row.value, row.source);
    }
    text
}

/// A long value pushes its own source to the right, not everybody's.
const VALUE_COLUMNS_MAX: usize = 40;

fn as_json(resolved: &Resolved) -> String {
    #[derive(Serialize)]
    struct Row<'a> {
        key: &'a str,
        value: &'a str,
        source: String,
    }
    #[derive(Serialize)]
    struct Shown<'a> {
        settings: Vec<Row<'a>>,
        warnings: Vec<String>,
    }
    let row = |row: &'_ super::Effective| row.source.to_string();
    let shown = Shown {
        settings: resolved
            .effective
            .iter()
            .map(|it| Row { key: &it.key, value: &it.value, source: row(it) })
            .collect(),
        warnings: resolved.warnings.iter().map(ToString::to_string).collect(),
    };
    let json =
        serde_json::to_string_pretty(&shown).unwrap_or_else(|_| unreachable!("strings are always JSON"));
    json + "\n"
}
