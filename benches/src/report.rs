//! What was measured, as a table for people and as JSON for programs.

use std::fmt;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use crate::machine::Machine;
use crate::server::Memory;
use crate::workload::Workload;

/// Who was measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    /// `darter serve`.
    Darter,
    /// nginx with a static file.
    Nginx,
}

impl fmt::Display for Side {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Darter => "darter",
            Self::Nginx => "nginx",
        })
    }
}

/// How it was measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Method {
    /// Turns of each side.
    pub(crate) rounds: u32,
    /// Length of a turn.
    #[serde(rename = "turn_s", serialize_with = "seconds")]
    pub(crate) turn: Duration,
    /// Keep-alive connections.
    pub(crate) connections: usize,
    /// Length of the blob.
    pub(crate) blob_bytes: u64,
    /// Of the ranges' offsets; the round's number is added.
    pub(crate) seed: u64,
}

/// One turn of one side.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Round {
    /// Answers per second.
    pub(crate) answers_per_s: f64,
    /// Body bytes per second.
    pub(crate) bytes_per_s: f64,
    /// Half of the answers were whole within this time.
    pub latency_p50_s: f64,
    /// And 99 of 100 within this.
    pub latency_p99_s: f64,
    /// CPU time of the server over elapsed time. Near 1 the server is what limits.
    pub(crate) cpu_part: f64,
}

impl Round {
    fn cpu_s_per_gb(&self) -> f64 {
        self.cpu_part / self.bytes_per_s * 1e9
    }
}

/// All of it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    method: Method,
    results: Vec<Measured>,
    memory: Vec<SideMemory>,
}

#[derive(Debug, Serialize)]
struct Measured {
    workload: Workload,
    darter: Vec<Round>,
    nginx: Vec<Round>,
}

#[derive(Debug, Serialize)]
struct SideMemory {
    side: Side,
    #[serde(flatten)]
    memory: Memory,
}

impl Report {
    /// Nothing is measured yet.
    pub(crate) fn new(machine: Machine, method: Method) -> Self {
        Self { machine, method, results: Vec::new(), memory: Vec::new() }
    }

    /// Adds a turn.
    pub(crate) fn add(&mut self, workload: Workload, side: Side, round: Round) {
        let measured = match self.results.iter_mut().position(|measured| measured.workload == workload) {
            Some(known) => &mut self.results[known],
            None => {
                self.results.push(Measured { workload, darter: Vec::new(), nginx: Vec::new() });
                self.results.last_mut().expect("it was just added")
            }
        };
        match side {
            Side::Darter => measured.darter.push(round),
            Side::Nginx => measured.nginx.push(round),
        }
    }

    /// Memory of a side after all of its turns.
    pub(crate) fn set_memory(&mut self, side: Side, memory: Memory) {
        self.memory.push(SideMemory { side, memory });
    }

    /// Every round, with the medians that the table shows.
    pub(crate) fn json(&self) -> serde_json::Result<String> {
        let mut report = serde_json::to_value(self)?;
        for (shown, measured) in report["results"].as_array_mut().into_iter().flatten().zip(&self.results) {
            shown["median"] = serde_json::json!({
                "darter": Summary::of(&measured.darter),
                "nginx": Summary::of(&measured.nginx),
                "ratio": measured.ratio(),
                "cpu_ratio": measured.cpu_ratio(),
            });
        }
        serde_json::to_string_pretty(&report)
    }

    /// Markdown, as it stands in docs/performance.md.
    pub(crate) fn table(&self) -> String {
        let method = &self.method;
        let mut text = format!(
            "{}\n{} connections, {} rounds of {} s each in turn, blob of {} MiB\n\n",
            self.machine,
            method.connections,
            method.rounds,
            method.turn.as_secs_f64(),
            method.blob_bytes >> 20
        );
        text += "| requests | server | answers/s (min–max) | GB/s | p50 / p99 ms | CPU | CPU s/GB |\n";
        text += "|---|---|---|---|---|---|---|\n";
        for measured in &self.results {
            for (side, rounds) in [(Side::Darter, &measured.darter), (Side::Nginx, &measured.nginx)] {
                let it = Summary::of(rounds);
                // Writing to a String does not fail.
                let _ = writeln!(
                    text,
                    "| {} | {side} | {} ({}–{}) | {:.2} | {:.2} / {:.2} | {:.0} % | {:.3} |",
                    measured.workload,
                    rate(it.answers_per_s),
                    rate(it.answers_per_s_min),
                    rate(it.answers_per_s_max),
                    it.bytes_per_s / 1e9,
                    it.latency_p50_s * 1e3,
                    it.latency_p99_s * 1e3,
                    it.cpu_part * 1e2,
                    it.cpu_s_per_gb,
                );
            }
            let _ = writeln!(
                text,
                "| | darter / nginx | **{:.2}** | | | | {:.2} |",
                measured.ratio(),
                measured.cpu_ratio()
            );
        }
        text += "\n| memory after all of it | own | mapped files |\n|---|---|---|\n";
        for SideMemory { side, memory } in &self.memory {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            let _ = writeln!(
                text,
                "| {side} | {:.1} MiB | {:.1} MiB |",
                mib(memory.anonymous_bytes),
                mib(memory.file_bytes)
            );
        }
        text
    }
}

impl Measured {
    /// Median of Darter's answers per second over nginx's: above 1 Darter is faster.
    fn ratio(&self) -> f64 {
        Summary::of(&self.darter).answers_per_s / Summary::of(&self.nginx).answers_per_s
    }

    /// The same of CPU seconds per gigabyte: below 1 Darter is cheaper.
    fn cpu_ratio(&self) -> f64 {
        Summary::of(&self.darter).cpu_s_per_gb / Summary::of(&self.nginx).cpu_s_per_gb
    }
}

/// Medians over the rounds of one side.
#[derive(Clone, Copy, Debug, Serialize)]
struct Summary {
    answers_per_s: f64,
    answers_per_s_min: f64,
    answers_per_s_max: f64,
    bytes_per_s: f64,
    latency_p50_s: f64,
    latency_p99_s: f64,
    cpu_part: f64,
    cpu_s_per_gb: f64,
}

impl Summary {
    fn of(rounds: &[Round]) -> Self {
        let sorted = |of: fn(&Round) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let median = |of| {
            let values = sorted(of);
            let middle = values.len() / 2;
            match values.len() % 2 {
                0 if values.is_empty() => f64::NAN,
                0 => f64::midpoint(values[middle - 1], values[middle]),
                _ => values[middle],
            }
        };
        let answers = sorted(|round| round.answers_per_s);
        Self {
            answers_per_s: median(|round| round.answers_per_s),
            answers_per_s_min: answers.first().copied().unwrap_or(f64::NAN),
            answers_per_s_max: answers.last().copied().unwrap_or(f64::NAN),
            bytes_per_s: median(|round| round.bytes_per_s),
            latency_p50_s: median(|round| round.latency_p50_s),
            latency_p99_s: median(|round| round.latency_p99_s),
            cpu_part: median(|round| round.cpu_part),
            cpu_s_per_gb: median(Round::cpu_s_per_gb),
        }
    }
}

/// Three digits that mean something.
fn rate(per_s: f64) -> String {
    if per_s >= 100.0 { format!("{per_s:.0}") } else { format!("{per_s:.1}") }
}

fn seconds<S: serde::Serializer>(time: &Duration, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_f64(time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_round_counts() {
        let round = |answers_per_s| Round {
            answers_per_s,
            bytes_per_s: 2e9,
            latency_p50_s: 0.0,
            latency_p99_s: 0.0,
            cpu_part: 0.5,
        };
        let summary = Summary::of(&[round(3.0), round(1.0), round(2.0)]);
        assert_eq!((summary.answers_per_s, summary.answers_per_s_min), (2.0, 1.0));
        assert_eq!((summary.answers_per_s_max, summary.cpu_s_per_gb), (3.0, 0.25));
        assert_eq!(Summary::of(&[round(3.0), round(1.0)]).answers_per_s, 2.0);
    }
}
