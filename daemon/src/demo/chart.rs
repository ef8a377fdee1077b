//! The report as text: two aligned tables, each row with a bar of its time.

use std::fmt::Write;
use std::time::Duration;

use super::report::{Boot, Cost, Report, StepReport};
use super::units;

/// Length of the longest bar, in characters.
const BAR_CHARS: usize = 12;

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
        rows: report.steps.iter().filter_map(|step| Some(boot_row(step, step.boot.as_ref()?))).collect(),
    };
    pull.render(&mut text);
    text.push('\n');
    reads.render(&mut text);
    text.push('\n');
    text.push_str(&notes(report));
    text
}

fn notes(report: &Report) -> String {
    let Report { origin, boot, restart, peers, .. } = report;
    let bandwidth = origin
        .bandwidth_bytes_per_s
        .map_or("unlimited bandwidth".into(), |rate| units::rate(rate, Duration::from_secs(1)));
    let redirect = if origin.redirect { ", every blob redirected to storage" } else { "" };
    let prefetch = match boot.prefetch {
        true => "in the boot darter also fetched the rest of the blob",
        false => "in the boot darter fetched whole blocks of 64 KiB",
    };
    let killed_at = report.steps.iter().find_map(|step| step.pull.killed_at).unwrap_or_default();
    format!(
        "A cluster of one seed, which goes to the registry for all, and {peers} {}. Cold, the local hits and the\n\
         kill -9 are of the first peer. All at once read what no node has yet.\n\
         The registry: {} before each answer, {bandwidth}{redirect}.\n\
         Of it 1.00x is what one reader reads; {prefetch}.\n\
         After the kill -9 darter answered again in {}.\n\
         The seed was killed when {:.0} % had arrived, and there is no second one: from then on each peer\n\
         goes to the registry for what it and its parents lack.\n\
         Every byte was checked: layers by their sha256 as they came in, reads against the blob.\n",
        if *peers == 1 { "peer" } else { "peers" },
        units::time(origin.latency),
        units::time(*restart),
        killed_at * 100.0,
    )
}

fn pull_row(report: &StepReport, bytes: u64) -> Row {
    let StepReport { step, readers, pull, .. } = report;
    Row {
        cells: [
            step.label().into(),
            units::time(pull.time),
            units::rate(bytes.saturating_mul(*readers as u64), pull.time),
            asked(pull.origin),
        ],
        time: pull.time,
    }
}

fn boot_row(report: &StepReport, boot: &Boot) -> Row {
    Row {
        cells: [
            report.step.label().into(),
            units::time(boot.time),
            format!("{} / {}", units::time(boot.read_p50), units::time(boot.read_p99)),
            asked(boot.origin),
        ],
        time: boot.time,
    }
}

fn asked(Cost { tally, multiple }: Cost) -> String {
    match tally.requests {
        0 => "not asked".into(),
        requests => format!("{requests} requests, {}, {multiple:.2}x", units::bytes(tally.body_bytes)),
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
    use super::super::registry::Tally;
    use super::super::report::{BootFacts, ImageFacts, Origin, Pull, Step};
    use super::*;

    fn report() -> Report {
        let measured = [(4900, 500), (5000, 500), (500, 0), (250, 0), (300, 0), (5200, 500), (6100, 900)];
        let steps = Step::with(3).zip(measured);
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
            peers: 3,
            steps: steps
                .map(|(step, (ms, requests))| {
                    let time = Duration::from_millis(ms);
                    let readers = if step.image() == 0 { 1 } else { 3 };
                    let origin = Cost::new(Tally { requests, body_bytes: requests * 1_000_000 }, 500_000_000);
                    let boot = Boot { time: time / 2, read_p50: time / 300, read_p99: time / 30, origin };
                    let killed_at = (step == Step::SeedKilled).then_some(0.501);
                    let pull = Pull { time, origin, killed_at };
                    StepReport { step, readers, pull, boot: step.boot_blob().map(|_| boot) }
                })
                .collect(),
        }
    }

    #[test]
    fn the_chart() {
        let expected = "\
Whole pull of a generated image: 6 layers, 500 MB, 4 at a time
                                   time       rate                       origin
  straight from the registry     4.90 s   102 MB/s  500 requests, 500 MB, 1.00x  █████████▋
  cold through darter            5.00 s   100 MB/s  500 requests, 500 MB, 1.00x  █████████▉
  remote peer hit                500 ms  1.00 GB/s                    not asked  █
  local hit                      250 ms  2.00 GB/s                    not asked  ▌
  kill -9, restart, local hit    300 ms  1.67 GB/s                    not asked  ▋
  all peers at once              5.20 s   288 MB/s  500 requests, 500 MB, 1.00x  ██████████▎
  all, the seed killed half way  6.10 s   246 MB/s  900 requests, 900 MB, 1.80x  ████████████

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
    fn a_step_without_a_boot_is_in_the_first_table_alone() {
        let chart = render(&report());
        assert_eq!(chart.matches(Step::SeedKilled.label()).count(), 1, "{chart}");
        assert_eq!(chart.matches(Step::AllAtOnce.label()).count(), 2, "{chart}");
        assert!(chart.contains("when 50 % had arrived"), "{chart}");
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
