//! Tables, sizes and ages for people; and what strangers wrote, made harmless for a terminal. Pure.

use std::fmt::Write;
use std::time::Duration;

/// `0.4 MiB`, `1536.0 MiB`: one unit, so that a column can be compared by eye.
pub(super) fn mib(bytes: u64) -> String {
    let tenths = (u128::from(bytes) * 10).div_ceil(1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// Of a whole: all of it only if it is all.
pub(super) fn percent(part: u64, whole: u64) -> String {
    let percent = (u128::from(part) * 100).checked_div(u128::from(whole)).unwrap_or(100);
    format!("{percent} %")
}

/// `12 s`, `3 min`, `2 h`, `5 d`.
pub(super) fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7_200 => format!("{} min", seconds / 60),
        seconds @ ..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// How long ago a Unix second was, by this machine's clock.
pub(super) fn ago(then_s: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{} ago", span(now.saturating_sub(Duration::from_secs(then_s))))
}

/// What came over the network, without what a terminal would act upon, and not longer than `chars_max`.
pub(crate) fn plain(text: &str, chars_max: usize) -> String {
    let harmless = |c: char| if c.is_control() { ' ' } else { c };
    let text = text.trim();
    let plain: String = text.chars().take(chars_max).map(harmless).collect();
    let mut plain = plain.trim_end().to_owned();
    if text.chars().nth(chars_max).is_some() {
        plain.push('…');
    }
    plain
}

/// Rows under a head, each column as wide as its widest cell.
#[derive(Debug)]
pub(super) struct Table<const COLUMNS: usize> {
    rows: Vec<[String; COLUMNS]>,
}

/// A longer cell pushes its own row to the right, not everybody's.
const CELL_COLUMNS_MAX: usize = 60;

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub(super) fn new(head: [&str; COLUMNS]) -> Self {
        Self { rows: vec![head.map(str::to_owned)] }
    }

    pub(super) fn row(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells);
    }

    pub(super) fn render(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).min(CELL_COLUMNS_MAX)
        };
        let widths: [usize; COLUMNS] = std::array::from_fn(width);
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                // Writing to a String does not fail.
                let _ = write!(line, "{cell:width$}  ");
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// Names and values, one a line.
pub(super) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in pairs {
        let _ = writeln!(text, "{name:width$}  {value}");
    }
    text
}

/// The digits that are shown of each id: 12, more where two of these ids would look alike. The ids are sorted.
pub(super) fn short_digits<'a>(ids: impl Iterator<Item = &'a str>) -> usize {
    const DIGITS: usize = 12;
    let mut digits = DIGITS;
    let mut before = "";
    for id in ids {
        let alike = before.bytes().zip(id.bytes()).take_while(|(left, right)| left == right).count();
        if before != id {
            digits = digits.max(alike + 1);
        }
        before = id;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |bytes, text: &str| assert_eq!(mib(bytes), text);
        check(0, "0.0 MiB");
        check(1, "0.1 MiB");
        check(1 << 20, "1.0 MiB");
        check(3 << 19, "1.5 MiB");
        check(u64::MAX, "17592186044416.0 MiB");
    }

    #[test]
    fn shares_and_times() {
        assert_eq!(percent(999, 1000), "99 %");
        assert_eq!(percent(0, 0), "100 %");
        assert_eq!(span(Duration::from_secs(119)), "119 s");
        assert_eq!(span(Duration::from_secs(121)), "2 min");
        assert_eq!(span(Duration::from_secs(86_400)), "24 h");
        assert_eq!(span(Duration::from_secs(864_000)), "10 d");
    }

    #[test]
    fn a_terminal_is_not_told_what_to_do() {
        assert_eq!(plain("a\x1b[31mb\r\nc\u{9b}", 80), "a [31mb  c");
        assert_eq!(plain("abcdef", 3), "abc…");
        assert_eq!(plain(" abc\n", 3), "abc");
    }

    #[test]
    fn columns_stand_below_each_other() {
        let mut table = Table::new(["A", "BB"]);
        table.row(["xyz".into(), "1".into()]);
        assert_eq!(table.render(), "A    BB\nxyz  1\n");
        assert_eq!(pairs(&[("a", "1".into()), ("long", "2".into())]), "a     1\nlong  2\n");
    }

    #[test]
    fn ids_are_as_short_as_they_stay_apart() {
        let check = |ids: &[&str], digits| assert_eq!(short_digits(ids.iter().copied()), digits);
        check(&[], 12);
        check(&["00000000000000000", "10000000000000000"], 12);
        check(&["00000000000000000", "00000000000000100"], 15);
        check(&["00000000000000000", "00000000000000000"], 12);
    }
}
