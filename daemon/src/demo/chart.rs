//! The report as text: two aligned tables, each row with a bar of its time.

use std::fmt::Write;
use std::time::Duration;

use super::registry::Tally;
use super::report::{Report, StepReport};
use super::units;

/// Length of the longest bar, in characters.
const BAR_CHARS: usize = 20;

/// An eighth to a whole of a bar's character.
const EIGHTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// The whole chart, ending in a newline.
pub(super) fn render(report: &Report) -> String {
    let Report { image, boot, .. } = report;
    let mut text = String::new();
    let pull = Table {
        title: format!(
            "Whole pull of {}: {} layers, {}, {} at a time",
            image.source,
            image.layers,
            units::bytes(image.bytes),
            image.parallel
        ),
        head: ["", "time", "rate", "origin"],
        rows: report.steps.iter().map(|step| pull_row(step, image.bytes)).collect(),
    };
    let reads = Table {
        title: format!(
            "Lazy boot: {} reads of a nydus blob of {}, {} in all, {} of thinking",
            boot.reads,
            units::bytes(boot.blob_bytes),
            units::bytes(boot.bytes),
            units::time(boot.thinking)
        ),
        head: ["", "time", "a read, p50 / p99", "origin"],
        rows: report.steps.iter().map(boot_row).collect(),
    };
    pull.render(&mut text);
    text.push('\n');
    reads.render(&mut text);
    text.push('\n');
    text.push_str(&notes(report));
    text
}

fn notes(report: &Report) -> String {
    let Report { origin, boot, restart, .. } = report;
    let bandwidth = origin
        .bandwidth_bytes_per_s
        .map_or("unlimited bandwidth".into(), |rate| units::rate(rate, Duration::from_secs(1)));
    let redirect = if origin.redirect { ", every blob redirected to storage" } else { "" };
    let prefetch = match boot.prefetch {
        true => "in the boot it also fetched the rest of the blob",
        false => "in the boot only the blocks of 64 KiB that are read",
    };
    format!(
        "The registry: {} before each answer, {bandwidth}{redirect}.\n\
         Cold, darter asked it for what it lacked: {prefetch}.\n\
         After the kill -9 darter answered again in {}.\n\
         Every byte was checked: layers by their sha256 as they came in, reads against the blob.\n",
        units::time(origin.latency),
        units::time(*restart),
    )
}

fn pull_row(report: &StepReport, bytes: u64) -> Row {
    let StepReport { step, pull, .. } = report;
    Row {
        cells: [
            step.label().into(),
            units::time(pull.time),
            units::rate(bytes, pull.time),
            asked(pull.origin),
        ],
        time: pull.time,
    }
}

fn boot_row(report: &StepReport) -> Row {
    let StepReport { step, boot, .. } = report;
    Row {
        cells: [
            step.label().into(),
            units::time(boot.time),
            format!("{} / {}", units::time(boot.read_p50), units::time(boot.read_p99)),
            asked(boot.origin),
        ],
        time: boot.time,
    }
}

fn asked(origin: Tally) -> String {
    match origin {
        Tally { requests: 0, .. } => "not asked".into(),
        Tally { requests, body_bytes } => format!("{requests} requests, {}", units::bytes(body_bytes)),
    }
}

struct Table {
    title: String,
    head: [&'static str; 4],
    rows: Vec<Row>,
}

struct Row {
    /// The first is aligned to the left, the others to the right.
    cells: [String; 4],
    /// Drawn as a bar, relative to the table's longest.
    time: Duration,
}

impl Table {
    fn render(&self, text: &mut String) {
        let widths: [usize; 4] = std::array::from_fn(|column| {
            let cells = self.rows.iter().map(|row| row.cells[column].chars().count());
            cells.chain([self.head[column].len()]).max().unwrap_or(0)
        });
        let longest = self.rows.iter().map(|row| row.time).max().unwrap_or_default();
        text.push_str(&self.title);
        text.push('\n');
        line(text, &self.head, &widths, "");
        for row in &self.rows {
            line(text, &row.cells.each_ref().map(String::as_str), &widths, &bar(row.time, longest));
        }
    }
}

fn line(text: &mut String, cells: &[&str; 4], widths: &[usize; 4], bar: &str) {
    let mut line = format!("  {:<width$}", cells[0], width = widths[0]);
    for (cell, width) in cells.iter().zip(widths).skip(1) {
        // Writing to a String does not fail.
        let _ = write!(line, "  {cell:>width$}");
    }
    line.push_str("  ");
    line.push_str(bar);
    text.push_str(line.trim_end());
    text.push('\n');
}

/// A bar of `time` where `longest` is [`BAR_CHARS`] long. Whatever took time has at least an eighth.
fn bar(time: Duration, longest: Duration) -> String {
    if time.is_zero() || longest.is_zero() {
        return String::new();
    }
    let share = time.as_secs_f64() / longest.as_secs_f64();
    let eighths = ((share * (BAR_CHARS * 8) as f64).round() as usize).max(1);
    let mut bar = "█".repeat(eighths / 8);
    bar.extend((eighths % 8).checked_sub(1).map(|rest| EIGHTHS[rest]));
    bar
}

#[cfg(test)]
mod tests {
    use super::super::report::{Boot, BootFacts, ImageFacts, Origin, Pull, Step};
    use super::*;

    fn report() -> Report {
        let steps = Step::ALL.into_iter().zip([(4900, 47), (5000, 80), (250, 0), (300, 0)]);
        Report {
            origin: Origin {
                latency: Duration::from_millis(40),
                bandwidth_bytes_per_s: Some(100_000_000),
                redirect: true,
            },
            image: ImageFacts {
                source: "a generated image".into(),
                layers: 6,
                bytes: 500_000_000,
                parallel: 4,
            },
            boot: BootFacts {
                blob_bytes: 117_773_874,
                reads: 266,
                bytes: 14_755_160,
                thinking: Duration::from_millis(1280),
                prefetch: false,
            },
            restart: Duration::from_millis(21),
            steps: steps
                .map(|(step, (ms, requests))| {
                    let time = Duration::from_millis(ms);
                    let origin = Tally { requests, body_bytes: requests * 1_000_000 };
                    let boot = Boot { time: time / 2, read_p50: time / 300, read_p99: time / 30, origin };
                    StepReport { step, pull: Pull { time, origin }, boot }
                })
                .collect(),
        }
    }

    #[test]
    fn the_chart() {
        let expected = "\
Whole pull of a generated image: 6 layers, 500 MB, 4 at a time
                                 time       rate                origin
  straight from the registry   4.90 s   102 MB/s  47 requests, 47.0 MB  ███████████████████▋
  cold through darter          5.00 s   100 MB/s  80 requests, 80.0 MB  ████████████████████
  local hit                    250 ms  2.00 GB/s             not asked  █
  kill -9, restart, local hit  300 ms  1.67 GB/s             not asked  █▎

";
        let chart = render(&report());
        assert!(chart.starts_with(expected), "{chart}");
    }

    #[test]
    fn it_fits_a_terminal_of_100_columns() {
        let chart = render(&report());
        assert!(chart.lines().all(|line| line.chars().count() <= 100 && line.trim_end() == line), "{chart}");
        assert!(chart.ends_with("blob.\n"), "{chart}");
    }

    #[test]
    fn bars() {
        let check = |ms, longest_ms, expected: &str| {
            assert_eq!(bar(Duration::from_millis(ms), Duration::from_millis(longest_ms)), expected);
        };
        check(100, 100, &"█".repeat(BAR_CHARS));
        check(50, 100, &"█".repeat(BAR_CHARS / 2));
        check(1, 100_000, "▏");
        check(0, 100, "");
        check(0, 0, "");
    }
}
